//! That a new state is one that may be written: under its name, after the old state, and by who means that state.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use naru_model::validation::{self, FieldError, FieldErrors};
use serde_json::Value;

use super::{AnyObject, Call, Part, Preparation};
use crate::{ApiError, store::Entry};

pub(super) fn validate_name(call: &Call<'_>, meta: &ObjectMeta, errors: &mut FieldErrors) {
    let prefix = meta.generate_name.as_deref().unwrap_or_default();
    if !prefix.is_empty() {
        validate_prefix(call, prefix, errors);
    }
    match meta.name.as_deref().unwrap_or_default() {
        "" => errors
            .required(&validation::Path::new("metadata").child("name"), "name or generateName is required"),
        name => call.served.kind.validate_name(name, errors),
    }
}

/// That names may begin with `prefix`: it is a name itself where a letter stands for the dash at its end.
fn validate_prefix(call: &Call<'_>, prefix: &str, errors: &mut FieldErrors) {
    let mut found = FieldErrors::default();
    let stem = prefix.strip_suffix('-').filter(|stem| !stem.is_empty());
    let name = stem.map_or(prefix.to_owned(), |stem| format!("{stem}a"));
    call.served.kind.validate_name(&name, &mut found);
    let (shown, meant) = (Value::from(name).to_string(), Value::from(prefix).to_string());
    errors.0.extend(found.0.into_iter().map(|error| FieldError {
        field: "metadata.generateName".into(),
        message: error.message.replacen(&shown, &meant, 1),
        ..error
    }));
}

/// Finalizers without a domain that belong to Kubernetes itself.
const STANDARD_FINALIZERS: &[&str] = &["kubernetes", "orphan", "foregroundDeletion"];

/// Whether others may have a finalizer of the same name.
fn is_ambiguous(finalizer: &str) -> bool {
    !finalizer.contains('/') && !STANDARD_FINALIZERS.contains(&finalizer)
}

/// That finalizers say whose they are. Kubernetes asks it of all kinds but those of its API machinery.
pub(super) fn validate_finalizers(call: &Call<'_>, meta: &ObjectMeta, errors: &mut FieldErrors) {
    const EXEMPT: &[&str] =
        &["apiextensions.k8s.io", "apiregistration.k8s.io", "admissionregistration.k8s.io"];
    if call.served.kind.is_custom() || EXEMPT.contains(&call.served.info.group) {
        return;
    }
    let path = validation::Path::new("metadata").child("finalizers");
    for (index, finalizer) in meta.finalizers.iter().flatten().enumerate() {
        if is_ambiguous(finalizer) {
            let rule = "name is neither a standard finalizer name nor is it fully qualified";
            errors.invalid(&path.index(index), finalizer.as_str(), rule);
        }
    }
}

/// What Kubernetes only recommends for new finalizers of custom resources.
pub(super) fn finalizer_warnings<'a>(
    call: &Call<'_>,
    new: &'a ObjectMeta,
    old: Option<&'a ObjectMeta>,
) -> impl Iterator<Item = String> {
    let had = move |finalizer: &String| {
        old.is_some_and(|old| old.finalizers.iter().flatten().any(|other| other == finalizer))
    };
    let finalizers = new.finalizers.iter().flatten().filter(|_| call.served.kind.is_custom());
    finalizers.filter(move |finalizer| is_ambiguous(finalizer) && !had(finalizer)).map(|finalizer| {
        format!(
            "metadata.finalizers: {finalizer:?}: prefer a domain-qualified finalizer name including a path (/) to avoid \
             accidental conflicts with other finalizer writers"
        )
    })
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
            validate_finalizers(call, object.meta(), &mut errors);
            kind.validate(object, &mut errors);
            kind.validate_update(object, old, &mut errors);
            call.served.validate_version(object, Some(old), &mut errors);
        }
        Part::Status | Part::Approval => {
            validation::meta::object_meta_update(object.meta(), old.meta(), &mut errors);
            validate_finalizers(call, object.meta(), &mut errors);
            kind.validate_status_update(object, old, &mut errors);
        }
        Part::Spec(name) => {
            kind.validate(object, &mut errors);
            kind.validate_part_update(name, object, old, &mut errors);
        }
        Part::Finalize => kind.validate(object, &mut errors),
    }
    call.check(call.name, errors)
}

/// That an object has the name in the URL.
pub fn check_name(call: &Call<'_>, name: &str) -> Result<(), ApiError> {
    if name == call.name {
        return Ok(());
    }
    Err(ApiError::BadRequest(if name.is_empty() {
        format!(
            "the name of the object ({} based on URL) was undeterminable: name must be provided",
            call.name
        )
    } else {
        format!("the name of the object ({name}) does not match the name on the URL ({})", call.name)
    }))
}

/// That the new state is one of the object in the URL, and of the state that the client means.
pub(super) fn check_identity(call: &Call<'_>, entry: &Entry, meta: &ObjectMeta) -> Result<(), ApiError> {
    check_name(call, meta.name.as_deref().unwrap_or_default())?;
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    if !namespace.is_empty() && namespace != call.namespace && call.served.info.namespaced {
        return Err(ApiError::BadRequest(format!(
            "the namespace of the object ({namespace}) does not match the namespace on the request ({})",
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
            // Kubernetes names the resource here where it otherwise names the kind.
            let kind = call.served.qualified.clone();
            Err(ApiError::Invalid { kind, name: call.name.into(), errors: errors.0 })
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
