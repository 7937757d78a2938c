//! That a new state is one that may be written: under its name, after the old state, and by who means that state.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use naru_model::validation::{self, FieldErrors};
use serde_json::Value;

use super::{AnyObject, Call, Part, Preparation};
use crate::{ApiError, store::Entry};

pub(super) fn validate_name(call: &Call<'_>, meta: &ObjectMeta, errors: &mut FieldErrors) {
    match meta.name.as_deref().unwrap_or_default() {
        "" => errors
            .required(&validation::Path::new("metadata").child("name"), "name or generateName is required"),
        name => call.served.kind.validate_name(name, errors),
    }
}

/// That the new state of a part is one that may follow the old one.
pub(super) fn check_update(
    preparation: &Preparation<'_>,
    object: &dyn AnyObject,
    old: &dyn AnyObject,
) -> Result<(), ApiError> {
    let call = preparation.call;
    let kind = &call.served.kind;
    let mut errors = FieldErrors::default();
    match preparation.part() {
        Part::Whole | Part::Scale => {
            validation::meta::object_meta_update(object.meta(), old.meta(), &mut errors);
            kind.validate(object, &mut errors);
            kind.validate_update(object, old, &mut errors);
        }
        Part::Status | Part::Approval => {
            validation::meta::object_meta_update(object.meta(), old.meta(), &mut errors);
            kind.validate_status_update(object, old, &mut errors);
        }
        Part::Spec(name) => {
            kind.validate(object, &mut errors);
            kind.validate_part_update(name, object, old, &mut errors);
        }
        Part::Finalize => (),
    }
    call.check(call.name, errors)
}

/// That the new state is one of the object in the URL, and of the state that the client means.
pub(super) fn check_identity(call: &Call<'_>, entry: &Entry, meta: &ObjectMeta) -> Result<(), ApiError> {
    let name = meta.name.as_deref().unwrap_or_default();
    if name != call.name {
        return Err(ApiError::BadRequest(if name.is_empty() {
            "name must be provided".into()
        } else {
            format!("the name of the object ({name}) does not match the name on the URL ({})", call.name)
        }));
    }
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    if !namespace.is_empty() && namespace != call.namespace && call.served.info.namespaced {
        return Err(ApiError::BadRequest(format!(
            "the namespace of the object ({namespace}) does not match the namespace on the URL ({})",
            call.namespace
        )));
    }
    let uid = meta.uid.as_deref().unwrap_or_default();
    if !uid.is_empty() && uid != entry.meta.uid {
        return Err(call.conflict(format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            entry.meta.uid
        )));
    }
    match meta.resource_version.as_deref().unwrap_or_default() {
        "" | "0" if call.served.kind.requires_resource_version() => {
            let mut errors = FieldErrors::default();
            let path = validation::Path::new("metadata").child("resourceVersion");
            errors.invalid(&path, Value::from(0), "must be specified for an update");
            Err(call.invalid(call.name, errors))
        }
        "" | "0" => Ok(()),
        version => match version.parse::<u64>() {
            Err(_) => {
                let mut errors = FieldErrors::default();
                let path = validation::Path::new("metadata").child("resourceVersion");
                errors.invalid(&path, version, "must be an unsigned integer");
                Err(call.invalid(call.name, errors))
            }
            Ok(version) if version == entry.revision.0 => Ok(()),
            Ok(_) => Err(call.modified()),
        },
    }
}
