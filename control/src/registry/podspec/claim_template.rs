//! The claim that a generic ephemeral volume makes for its pod.

use k8s_openapi::api::core::v1::{PersistentVolumeClaimSpec, PersistentVolumeClaimTemplate};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use naru_model::{
    quantity::Quantity,
    validation::{FieldErrors, Path},
};

use super::{OrEmpty, check};

const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

pub(super) fn claim_template(
    template: &PersistentVolumeClaimTemplate,
    path: &Path,
    errors: &mut FieldErrors,
) {
    if let Some(meta) = &template.metadata {
        template_meta(meta, &path.child("metadata"), errors);
    }
    claim_spec(&template.spec, &path.child("spec"), errors);
}

/// Labels and annotations are copied to the claim; everything else of its metadata follows from the pod.
fn template_meta(meta: &ObjectMeta, path: &Path, errors: &mut FieldErrors) {
    check::annotations(meta.annotations.as_ref(), &path.child("annotations"), errors);
    check::labels(meta.labels.as_ref(), &path.child("labels"), errors);
    let rest = ObjectMeta { labels: None, annotations: None, ..meta.clone() };
    let rest = serde_json::to_value(rest).unwrap_or_default();
    for (name, _) in rest.as_object().into_iter().flatten() {
        errors.forbidden(&path.child(name), "cannot be set");
    }
}

/// Checks what a claim asks for.
pub(in crate::registry) fn claim_spec(
    spec: &PersistentVolumeClaimSpec,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let (modes, modes_path) = (spec.access_modes.or_empty(), path.child("accessModes"));
    if modes.is_empty() {
        errors.required(&modes_path, "at least 1 access mode is required");
    }
    check::label_selector(spec.selector.as_ref(), &path.child("selector"), errors);
    access_modes(modes, &modes_path, errors);
    storage_request(spec, &path.child("resources").key("storage"), errors);
    class_name(spec.storage_class_name.or_empty(), &path.child("storageClassName"), errors);
    if let Some(mode) = &spec.volume_mode {
        check::one_of(mode, &["Block", "Filesystem"], &path.child("volumeMode"), errors);
    }
    data_sources(spec, path, errors);
    let class = spec.volume_attributes_class_name.or_empty();
    class_name(class, &path.child("volumeAttributesClassName"), errors);
}

/// Each is known, and the exclusive one stands alone.
pub(in crate::registry) fn access_modes(modes: &[String], path: &Path, errors: &mut FieldErrors) {
    for mode in modes {
        check::one_of(mode, ACCESS_MODES, path, errors);
    }
    let (alone, others): (Vec<_>, Vec<_>) = modes
        .iter()
        .filter(|mode| ACCESS_MODES.contains(&mode.as_str()))
        .partition(|mode| *mode == "ReadWriteOncePod");
    if !alone.is_empty() && !others.is_empty() {
        errors.forbidden(path, "may not use ReadWriteOncePod with other access modes");
    }
}

fn class_name(name: &str, path: &Path, errors: &mut FieldErrors) {
    if !name.is_empty() {
        check::subdomain(name, path, errors);
    }
}

fn storage_request(spec: &PersistentVolumeClaimSpec, path: &Path, errors: &mut FieldErrors) {
    let requests = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let Some(request) = requests.and_then(|requests| requests.get("storage")) else {
        return errors.required(path, "");
    };
    match Quantity::try_from(request) {
        Ok(size) if size <= Quantity::ZERO => errors.invalid(path, size.to_string(), check::MUST_BE_POSITIVE),
        Ok(_) => {}
        Err(error) => errors.invalid(path, request.0.as_str(), &error.to_string()),
    }
}

fn data_sources(spec: &PersistentVolumeClaimSpec, path: &Path, errors: &mut FieldErrors) {
    let source =
        spec.data_source.as_ref().map(|it| (it.api_group.or_empty(), it.kind.as_str(), it.name.as_str()));
    let reference = spec.data_source_ref.as_ref();
    let in_namespace = reference.is_some_and(|reference| !reference.namespace.or_empty().is_empty());
    let reference = reference.map(|it| (it.api_group.or_empty(), it.kind.as_str(), it.name.as_str()));
    for (field, object) in [("dataSource", source), ("dataSourceRef", reference)] {
        let Some((group, kind, name)) = object else { continue };
        let path = path.child(field);
        check::required_text(name, &path.child("name"), errors);
        check::required_text(kind, &path.child("kind"), errors);
        if group.is_empty() && kind != "PersistentVolumeClaim" {
            errors.invalid(
                &path,
                kind,
                "must be 'PersistentVolumeClaim' when referencing the default apiGroup",
            );
        }
        class_name(group, &path.child("apiGroup"), errors);
    }
    if let Some(namespace) = spec.data_source_ref.as_ref().and_then(|it| it.namespace.as_deref())
        && !namespace.is_empty()
    {
        check::dns_label(namespace, &path.child("dataSourceRef").child("namespace"), errors);
    }
    let value = path.child("dataSource").as_str().to_owned();
    if source.is_some() && in_namespace {
        errors.invalid(path, value, "may not be specified when dataSourceRef.namespace is specified");
    } else if source.is_some() && reference.is_some() && source != reference {
        errors.invalid(path, value, "must match dataSourceRef");
    }
}
