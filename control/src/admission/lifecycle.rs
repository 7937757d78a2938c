//! Nothing is created in a namespace that does not exist or is on its way out.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::StatusCause;

use crate::{
    ApiError,
    registry::{AnyObject, Call},
    store::{Key, Store},
};

pub(super) fn admit(store: &Store, call: &Call<'_>, object: &dyn AnyObject) -> Result<(), ApiError> {
    if !call.served.info.namespaced {
        return Ok(());
    }
    let name = call.namespace;
    let namespace = store.snapshot().get(&Key::new("namespaces", "", name));
    match namespace {
        None => Err(ApiError::NotFound { resource: "namespaces".into(), name: name.into() }),
        Some(namespace) if namespace.meta.deletion_timestamp.is_some() => Err(ApiError::Refused {
            resource: call.served.qualified.clone(),
            name: object.name().into(),
            message: format!(
                "unable to create new content in namespace {name} because it is being terminated"
            ),
            causes: vec![StatusCause {
                reason: Some("NamespaceTerminating".into()),
                message: Some(format!("namespace {name} is being terminated")),
                field: Some("metadata.namespace".into()),
            }],
        }),
        Some(_) => Ok(()),
    }
}
