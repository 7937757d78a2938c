//! Environment variables and where their values come from.

use k8s_openapi::api::core::v1::{
    EnvFromSource, EnvVar, EnvVarSource, FileKeySelector, ObjectFieldSelector, ResourceFieldSelector,
};
use naru_model::validation::{FieldErrors, Path};

use super::{Check, OrEmpty, check, resources};

/// The pod fields that an environment variable may show.
const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// The pod fields that a file may show.
pub(super) const FILE_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

const RESOURCE_FIELDS: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

impl Check<'_> {
    pub(super) fn env(&self, env: &[EnvVar], path: &Path, errors: &mut FieldErrors) {
        for (index, variable) in env.iter().enumerate() {
            let path = path.index(index);
            if variable.name.is_empty() {
                errors.required(&path.child("name"), "");
            } else {
                check::env_name(&variable.name, &path.child("name"), errors);
            }
            if let Some(source) = &variable.value_from {
                self.env_source(source, variable.value.or_empty(), &path.child("valueFrom"), errors);
            }
        }
    }

    fn env_source(&self, source: &EnvVarSource, value: &str, path: &Path, errors: &mut FieldErrors) {
        let mut count = 0;
        if let Some(reference) = &source.field_ref {
            count += 1;
            field_reference(reference, ENV_FIELDS, &path.child("fieldRef"), errors);
        }
        if let Some(reference) = &source.resource_field_ref {
            count += 1;
            resource_reference(reference, false, &path.child("resourceFieldRef"), errors);
        }
        for (name, reference) in [
            ("configMapKeyRef", source.config_map_key_ref.as_ref().map(|it| (&it.name, &it.key))),
            ("secretKeyRef", source.secret_key_ref.as_ref().map(|it| (&it.name, &it.key))),
        ] {
            let Some((object, key)) = reference else { continue };
            count += 1;
            let path = path.child(name);
            check::subdomain(object, &path.child("name"), errors);
            key_name(key, &path.child("key"), errors);
        }
        if let Some(reference) = &source.file_key_ref {
            count += 1;
            self.file_reference(reference, &path.child("fileKeyRef"), errors);
        }
        if count == 0 {
            let sources = "`fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
            errors.invalid(path, "", &format!("must specify one of: {sources}"));
        } else if !value.is_empty() {
            errors.invalid(path, "", "may not be specified when `value` is not empty");
        } else if count > 1 {
            errors.invalid(path, "", "may not have more than one field specified at a time");
        }
    }

    /// A key in a file of an `emptyDir`, written by an init container.
    fn file_reference(&self, reference: &FileKeySelector, path: &Path, errors: &mut FieldErrors) {
        if reference.key.is_empty() {
            errors.required(&path.child("key"), "");
        } else {
            check::env_name(&reference.key, &path.child("key"), errors);
        }
        let volume_path = path.child("volumeName");
        if reference.volume_name.is_empty() {
            errors.required(&volume_path, "");
        } else if let Some(volume) = self.volumes.get(reference.volume_name.as_str()) {
            if volume.empty_dir.is_none() {
                errors.invalid(
                    &volume_path,
                    reference.volume_name.as_str(),
                    "referenced volume must be of type emptyDir",
                );
            }
        } else {
            check::not_found(&volume_path, &reference.volume_name, errors);
        }
        if reference.path.is_empty() {
            errors.required(&path.child("path"), "");
        } else {
            check::local_unreserved_path(&reference.path, &path.child("path"), errors);
        }
    }
}

pub(super) fn env_from(sources: &[EnvFromSource], path: &Path, errors: &mut FieldErrors) {
    for (index, source) in sources.iter().enumerate() {
        let item = path.index(index);
        let prefix = source.prefix.or_empty();
        if !prefix.is_empty() {
            check::env_name(prefix, &item.child("prefix"), errors);
        }
        let references = [
            ("configMapRef", source.config_map_ref.as_ref().map(|reference| &reference.name)),
            ("secretRef", source.secret_ref.as_ref().map(|reference| &reference.name)),
        ];
        for (field, name) in references {
            let Some(name) = name else { continue };
            let path = item.child(field).child("name");
            if name.is_empty() {
                errors.required(&path, "");
            } else {
                check::subdomain(name, &path, errors);
            }
        }
        match references.iter().filter(|(_, name)| name.is_some()).count() {
            0 => errors.invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => errors.invalid(path, "", "may not have more than one field specified at a time"),
        }
    }
}

fn key_name(key: &str, path: &Path, errors: &mut FieldErrors) {
    if key.is_empty() {
        errors.required(path, "");
    } else {
        check::config_map_key(key, path, errors);
    }
}

/// `fieldRef`: one of `supported`, or one label or annotation by its key.
pub(super) fn field_reference(
    reference: &ObjectFieldSelector,
    supported: &[&str],
    path: &Path,
    errors: &mut FieldErrors,
) {
    let api_version = reference.api_version.or_empty();
    let field = reference.field_path.as_str();
    let field_path = path.child("fieldPath");
    if api_version.is_empty() {
        return errors.required(&path.child("apiVersion"), "");
    }
    if field.is_empty() {
        return errors.required(&field_path, "");
    }
    if api_version != "v1" {
        let detail = format!("error converting fieldPath: unsupported pod version: {api_version}");
        return errors.invalid(&field_path, field, &detail);
    }
    let (base, subscript) = match field.strip_suffix("']").and_then(|field| field.split_once("['")) {
        Some((base, key)) => (base, Some(key)),
        None => (field, None),
    };
    match (base, subscript) {
        ("metadata.annotations", Some(key)) => check::qualified_name(&key.to_lowercase(), path, errors),
        ("metadata.labels", Some(key)) => check::qualified_name(key, path, errors),
        _ if !is_known_field(base) || (subscript.is_some()) => {
            let detail = format!("error converting fieldPath: field label not supported: {field}");
            errors.invalid(&field_path, field, &detail);
        }
        (base, _) if !supported.contains(&base) => errors.not_supported(&field_path, base, supported),
        _ => {}
    }
}

/// The fields that the downward API can name at all; which of them suit depends on the place.
fn is_known_field(field: &str) -> bool {
    ENV_FIELDS.contains(&field)
        || FILE_FIELDS.contains(&field)
        || matches!(field, "spec.restartPolicy" | "spec.schedulerName" | "status.phase" | "spec.host")
}

/// `resourceFieldRef`; in a volume it must say of which container.
pub(super) fn resource_reference(
    reference: &ResourceFieldSelector,
    in_volume: bool,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let resource = reference.resource.as_str();
    let is_huge_page =
        resource.starts_with("limits.hugepages-") || resource.starts_with("requests.hugepages-");
    if in_volume && reference.container_name.or_empty().is_empty() {
        errors.required(&path.child("containerName"), "");
    } else if resource.is_empty() {
        errors.required(&path.child("resource"), "");
    } else if !RESOURCE_FIELDS.contains(&resource) && !is_huge_page {
        errors.not_supported(&path.child("resource"), resource, RESOURCE_FIELDS);
    }
    resources::divisor(resource, reference.divisor.as_ref(), path, errors);
}
