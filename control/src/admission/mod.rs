//! What is added to, or refused of, a write beyond the rules of its kind.
//!
//! Built in: namespaces must exist and live (`lifecycle`), roles give no more than their writer holds (`rbac`), agents
//! write what is their node's (`nodes`), certificates are asked for, approved and signed by who may (`certificates`),
//! pods get their account and its token (`service_account`), a priority (`priority`) and default tolerations (`pods`).

mod certificates;
mod lifecycle;
mod nodes;
mod pods;
mod priority;
mod rbac;
mod service_account;

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use crate::{
    ApiError,
    auth::Authorizer,
    registry::{AnyObject, Call, Part},
    store::Store,
};

/// The chain that every write passes after defaulting and before validation.
pub struct Admission {
    authorizer: Arc<Authorizer>,
}

impl Admission {
    pub fn new(authorizer: Arc<Authorizer>) -> Self {
        Self { authorizer }
    }

    pub async fn admit_create(
        &self,
        store: &Store,
        call: &Call<'_>,
        object: &mut dyn AnyObject,
    ) -> Result<(), ApiError> {
        lifecycle::admit(store, call, object)?;
        rbac::admit(store, &self.authorizer, call, object, None)?;
        nodes::admit_create(call, object)?;
        certificates::admit_create(call, object)?;
        certificates::admit_bundle(&self.authorizer, call, object)?;
        priority::of_class(store, call, object)?;
        if let Some(pod) = object.get_mut::<Pod>() {
            service_account::admit(store, call, pod).await?;
            pods::admit_create(store, call, pod)?;
        }
        Ok(())
    }

    pub fn admit_update(
        &self,
        store: &Store,
        call: &Call<'_>,
        part: Part,
        new: &mut dyn AnyObject,
        old: &dyn AnyObject,
    ) -> Result<(), ApiError> {
        nodes::admit_update(call, part, new, old)?;
        certificates::admit_update(&self.authorizer, call, part, new, old)?;
        if !matches!(part, Part::Whole | Part::Scale) {
            return Ok(());
        }
        certificates::admit_bundle(&self.authorizer, call, new)?;
        rbac::admit(store, &self.authorizer, call, new, Some(old))?;
        priority::of_class(store, call, new)?;
        if let Some(pod) = new.get_mut::<Pod>() {
            pods::add_default_tolerations(pod);
        }
        Ok(())
    }

    pub fn admit_delete(&self, call: &Call<'_>, object: &dyn AnyObject) -> Result<(), ApiError> {
        nodes::admit_delete(call, object)
    }
}

/// `pods "web" is forbidden: MESSAGE`
fn refused(call: &Call<'_>, name: &str, message: String) -> ApiError {
    let resource = call.served.qualified.clone();
    ApiError::Refused { resource, name: name.into(), message, causes: Vec::new() }
}
