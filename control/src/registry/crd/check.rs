//! Validation of definitions. Paths and texts are those of Kubernetes, which words them for its internal type: what all
//! versions agree on is reported once, at the top of the spec.

use std::collections::HashSet;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceColumnDefinition, CustomResourceConversion, CustomResourceDefinition,
    CustomResourceDefinitionNames, CustomResourceDefinitionVersion, CustomResourceSubresources,
    JSONSchemaProps, SelectableField,
};
use naru_model::validation::{FieldErrors, Path, meta::immutable_field, names};
use serde_json::json;

use super::{check_schema, is_true, jsonpath::JsonPath};
use crate::registry::podspec::OrEmpty as _;

const COLUMN_TYPES: [&str; 5] = ["integer", "number", "string", "boolean", "date"];
const COLUMN_FORMATS: [&str; 11] =
    ["int32", "int64", "float", "double", "byte", "date", "date-time", "password", "", "name", "duration"];
const MAX_SELECTABLE: usize = 8;
const APPROVAL: &str = "api-approved.kubernetes.io";

/// Everything about a definition but its metadata.
pub fn definition(definition: &CustomResourceDefinition, errors: &mut FieldErrors) {
    let (spec, path) = (&definition.spec, Path::new("spec"));
    let name = definition.metadata.name.or_empty();
    if name != format!("{}.{}", spec.names.plural, spec.group) {
        let detail = r#"must be spec.names.plural+"."+spec.group"#;
        errors.invalid(&Path::new("metadata").child("name"), name, detail);
    }
    approval(definition, errors);
    let place = path.child("group");
    if spec.group.is_empty() {
        errors.required(&place, "");
    } else if let problems @ [_, ..] = names::dns1123_subdomain(&spec.group).as_slice() {
        errors.invalid(&place, spec.group.as_str(), &problems.join(","));
    } else if !spec.group.contains('.') {
        errors.invalid(&place, spec.group.as_str(), "should be a domain with at least one dot");
    }
    match spec.scope.as_str() {
        "" => errors.required(&path.child("scope"), ""),
        "Cluster" | "Namespaced" => (),
        other => errors.not_supported(&path.child("scope"), other, &["Cluster", "Namespaced"]),
    }
    if spec.preserve_unknown_fields == Some(true) {
        let detail = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.invalid(&path.child("preserveUnknownFields"), true, detail);
    }
    versions(&spec.versions, &path, errors);
    required_names(&spec.names, &path.child("names"), errors);
    well_formed_names(&spec.names, &path.child("names"), errors);
    if let Some(of) = &spec.conversion {
        conversion(of, &path.child("conversion"), errors);
    }
}

/// Groups of the Kubernetes project are used by those who agreed with it.
fn approval(definition: &CustomResourceDefinition, errors: &mut FieldErrors) {
    let group = &definition.spec.group;
    let is_protected = ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|domain| group.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')));
    let annotations = definition.metadata.annotations.as_ref();
    let approval = annotations.and_then(|annotations| annotations.get(APPROVAL)).map_or("", String::as_str);
    if !is_protected || approval.starts_with("unapproved") || approval.starts_with("https://") {
        return;
    }
    let path = Path::new("metadata").child("annotations").key(APPROVAL);
    if approval.is_empty() {
        let detail = format!(
            "protected groups must have approval annotation {APPROVAL:?}, see https://github.com/kubernetes/enhancements/pull/1111"
        );
        errors.required(&path, &detail);
    } else {
        let detail = format!(
            "protected groups must have approval annotation {APPROVAL:?} with either a URL or a reason starting with \"unapproved\", see https://github.com/kubernetes/enhancements/pull/1111"
        );
        errors.invalid(&path, approval, &detail);
    }
}

fn versions(versions: &[CustomResourceDefinitionVersion], path: &Path, errors: &mut FieldErrors) {
    let place = path.child("versions");
    let mut seen = HashSet::new();
    for (index, version) in versions.iter().enumerate() {
        let place = place.index(index);
        if let problems @ [_, ..] = names::dns1035_label(&version.name).as_slice() {
            errors.invalid(&place.child("name"), version.name.as_str(), &problems.join(","));
        }
        if let Some(warning) = version.deprecation_warning.as_deref() {
            let place = place.child("deprecationWarning");
            if version.deprecated != Some(true) {
                errors.invalid(&place, warning, "can only be set for deprecated versions");
            } else if warning.is_empty() {
                errors.invalid(&place, warning, "must not be an empty string");
            } else if warning.len() > 256 {
                errors.too_long(&place, 256);
            }
        }
        seen.insert(version.name.as_str());
    }
    if seen.len() < versions.len() {
        errors.invalid(&place, json!(versions), "must contain unique version names");
    }
    if versions.iter().filter(|version| version.storage).count() != 1 {
        errors.invalid(&place, json!(versions), "must have exactly one version marked as storage version");
    }
    each(
        versions,
        path,
        ["validation", "schema"],
        |version| &version.schema,
        |schema, place| {
            let place = place.child("openAPIV3Schema");
            match schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref()) {
                Some(schema) => check_schema::root(schema, &place, errors),
                None => errors.required(&place, "schemas are required"),
            }
        },
    );
    each(
        versions,
        path,
        ["subresources"; 2],
        |version| &version.subresources,
        |of, place| {
            if let Some(of) = of {
                subresources(of, &place, errors);
            }
        },
    );
    each(
        versions,
        path,
        ["additionalPrinterColumns"; 2],
        |version| &version.additional_printer_columns,
        |of, place| {
            columns(of.as_deref().unwrap_or_default(), &place, errors);
        },
    );
    selectable_of_each(versions, path, errors);
}

/// Fields are selected in the schema of their own version, also where all versions name the same ones.
fn selectable_of_each(versions: &[CustomResourceDefinitionVersion], path: &Path, errors: &mut FieldErrors) {
    let Some((first, others)) = versions.split_first() else { return };
    let are_same = others.iter().all(|other| other.selectable_fields == first.selectable_fields);
    for (index, version) in versions.iter().enumerate() {
        let place = if are_same { path.clone() } else { path.child("versions").index(index) };
        let fields = version.selectable_fields.as_deref().unwrap_or_default();
        let schema = version.schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref());
        let before = errors.0.len();
        selectable(fields, schema, &place.child("selectableFields"), errors);
        if are_same && errors.0.len() > before {
            return; // What is wrong at the top is said once.
        }
    }
}

/// Looks at a part of each version; at the top where all versions say the same.
fn each<'a, T: PartialEq + 'a>(
    versions: &'a [CustomResourceDefinitionVersion],
    path: &Path,
    [at_top, in_version]: [&str; 2],
    part: impl Fn(&'a CustomResourceDefinitionVersion) -> &'a T,
    mut check: impl FnMut(&'a T, Path),
) {
    let Some((first, others)) = versions.split_first() else { return };
    if others.iter().all(|other| part(other) == part(first)) {
        return check(part(first), path.child(at_top));
    }
    for (index, version) in versions.iter().enumerate() {
        check(part(version), path.child("versions").index(index).child(in_version));
    }
}

fn required_names(of: &CustomResourceDefinitionNames, path: &Path, errors: &mut FieldErrors) {
    for (field, name) in [
        ("plural", of.plural.as_str()),
        ("singular", of.singular.or_empty()),
        ("kind", of.kind.as_str()),
        ("listKind", of.list_kind.or_empty()),
    ] {
        if name.is_empty() {
            errors.required(&path.child(field), "");
        }
    }
}

fn well_formed_names(of: &CustomResourceDefinitionNames, path: &Path, errors: &mut FieldErrors) {
    let mut label = |place: Path, name: &str, is_mixed: bool| {
        let text = if is_mixed { name.to_lowercase() } else { name.to_owned() };
        if let problems @ [_, ..] = names::dns1035_label(&text).as_slice()
            && !name.is_empty()
        {
            let prefix = if is_mixed { "may have mixed case, but should otherwise match: " } else { "" };
            errors.invalid(&place, name, &format!("{prefix}{}", problems.join(",")));
        }
    };
    label(path.child("plural"), &of.plural, false);
    label(path.child("singular"), of.singular.or_empty(), false);
    label(path.child("kind"), &of.kind, true);
    label(path.child("listKind"), of.list_kind.or_empty(), true);
    for (field, list) in [("shortNames", &of.short_names), ("categories", &of.categories)] {
        for (index, name) in list.iter().flatten().enumerate() {
            label(path.child(field).index(index), name, false);
        }
    }
    if !of.kind.is_empty() && of.list_kind.as_ref() == Some(&of.kind) {
        errors.invalid(&path.child("listKind"), of.kind.as_str(), "kind and listKind may not be the same");
    }
}

fn conversion(of: &CustomResourceConversion, path: &Path, errors: &mut FieldErrors) {
    match of.strategy.as_str() {
        "" => errors.required(&path.child("strategy"), ""),
        "None" | "Webhook" => (),
        other => errors.not_supported(&path.child("strategy"), other, &["None", "Webhook"]),
    }
    let client_path = path.child("webhookClientConfig");
    let client = of.webhook.as_ref().and_then(|webhook| webhook.client_config.as_ref());
    if of.strategy != "Webhook" {
        if client.is_some() {
            errors.forbidden(&client_path, "should not be set when strategy is not set to Webhook");
        }
        return;
    }
    match client {
        None => errors.required(&client_path, "required when strategy is set to Webhook"),
        Some(client) => match (&client.url, &client.service) {
            (None, None) | (Some(_), Some(_)) => {
                errors.required(&client_path, "exactly one of url or service is required");
            }
            (Some(url), None) if !url.starts_with("https://") => {
                let detail = "'https' is the only allowed URL scheme; desired format: https://host[/path]";
                errors.invalid(&client_path.child("url"), url.as_str(), detail);
            }
            (Some(_), None) => (),
            (None, Some(service)) => {
                let path = client_path.child("service");
                for (field, value) in [("name", &service.name), ("namespace", &service.namespace)] {
                    if value.is_empty() {
                        errors.required(&path.child(field), &format!("service {field} is required"));
                    }
                }
                if let Some(port) = service.port.filter(|port| !(1..=65535).contains(port)) {
                    let detail = "port is not valid: must be between 1 and 65535, inclusive";
                    errors.invalid(&path.child("port"), port, detail);
                }
            }
        },
    }
    let reviews = of.webhook.as_ref().map(|webhook| webhook.conversion_review_versions.as_slice());
    let path = path.child("conversionReviewVersions");
    match reviews.unwrap_or_default() {
        [] => errors.required(&path, ""),
        versions if !versions.iter().any(|version| version == "v1" || version == "v1beta1") => {
            errors.invalid(&path, json!(versions), "must include at least one of v1, v1beta1");
        }
        _ => (),
    }
}

fn subresources(of: &CustomResourceSubresources, path: &Path, errors: &mut FieldErrors) {
    let Some(scale) = &of.scale else { return };
    let mut under = |field: &str, text: &str, roots: &[&str], detail: &str| {
        let path = path.child(&format!("scale.{field}"));
        if text.is_empty() {
            errors.required(&path, "");
        } else if let Err(problem) = simple_path(text) {
            errors.invalid(&path, text, &problem);
        } else if !roots.iter().any(|root| text.starts_with(root)) {
            errors.invalid(&path, text, detail);
        }
    };
    under("specReplicasPath", &scale.spec_replicas_path, &[".spec."], "should be a json path under .spec");
    under(
        "statusReplicasPath",
        &scale.status_replicas_path,
        &[".status."],
        "should be a json path under .status",
    );
    if let Some(selector) = scale.label_selector_path.as_deref().filter(|text| !text.is_empty()) {
        let detail = "should be a json path under either .status or .spec";
        under("labelSelectorPath", selector, &[".spec.", ".status."], detail);
    }
}

/// That `text` is made of field names alone.
fn simple_path(text: &str) -> Result<(), String> {
    if !text.starts_with('.') {
        return Err("must be a simple json path starting with .".into());
    }
    match JsonPath::parse(text) {
        Ok(path) if path.fields().is_some() => Ok(()),
        _ => Err("must be a json path in the dot notation".into()),
    }
}

fn columns(of: &[CustomResourceColumnDefinition], path: &Path, errors: &mut FieldErrors) {
    for (index, column) in of.iter().enumerate() {
        let path = path.index(index);
        if column.name.is_empty() {
            errors.required(&path.child("name"), "");
        }
        if column.type_.is_empty() {
            errors.required(&path.child("type"), &format!("must be one of {}", COLUMN_TYPES.join(",")));
        } else if !COLUMN_TYPES.contains(&column.type_.as_str()) {
            let detail = format!("must be one of {}", COLUMN_TYPES.join(","));
            errors.invalid(&path.child("type"), column.type_.as_str(), &detail);
        }
        if let Some(format) = column.format.as_deref().filter(|format| !COLUMN_FORMATS.contains(format)) {
            errors.invalid(
                &path.child("format"),
                format,
                &format!("must be one of {}", COLUMN_FORMATS.join(",")),
            );
        }
        let text = column.json_path.as_str();
        let path = path.child("JSONPath");
        if text.is_empty() {
            errors.required(&path, "");
        } else if !text.starts_with('.') {
            errors.invalid(&path, text, "must be a simple json path starting with .");
        } else if let Err(problem) = JsonPath::parse(text) {
            errors.invalid(&path, text, &format!("is an invalid jsonPath: {problem}"));
        }
    }
}

fn selectable(
    fields: &[SelectableField],
    schema: Option<&JSONSchemaProps>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let mut seen = HashSet::new();
    for (index, field) in fields.iter().enumerate() {
        let (path, text) = (path.index(index).child("jsonPath"), field.json_path.as_str());
        if text.is_empty() {
            errors.required(&path, "");
            continue;
        }
        let names = JsonPath::parse(text).ok().filter(|_| text.starts_with('.'));
        let Some(names) = names.as_ref().and_then(JsonPath::fields) else {
            errors.invalid(&path, text, "is an invalid path: must be a simple json path starting with .");
            continue;
        };
        if names.first() == Some(&"metadata") {
            errors.invalid(&path, text, "must not point to fields in metadata");
        } else if let Some(schema) = schema {
            let mut leaf = Some(schema);
            for name in names {
                leaf = leaf.and_then(|schema| schema.properties.as_ref()?.get(name));
            }
            match leaf.map(|schema| schema.type_.or_empty()) {
                None => errors.invalid(&path, text, "is an invalid path: does not refer to a valid field"),
                Some("string" | "boolean" | "integer") => (),
                Some(_) => {
                    let detail = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
                    errors.invalid(&path, text, detail);
                }
            }
        }
        if !seen.insert(text) {
            errors.duplicate(&path, text);
        }
    }
    if fields.len() > MAX_SELECTABLE {
        errors.too_many(path, fields.len(), MAX_SELECTABLE);
    }
}

/// What may not change, and versions that may not go.
pub fn update(new: &CustomResourceDefinition, old: &CustomResourceDefinition, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    if is_true(old, "Established") {
        immutable_field(&path.child("scope"), &new.spec.scope, &old.spec.scope, errors);
        immutable_field(
            &path.child("names").child("kind"),
            &new.spec.names.kind,
            &old.spec.names.kind,
            errors,
        );
    }
    immutable_field(&path.child("group"), &new.spec.group, &old.spec.group, errors);
    let plural = path.child("names").child("plural");
    immutable_field(&plural, &new.spec.names.plural, &old.spec.names.plural, errors);
    stored_versions(new, errors);
}

/// The storage version is among those in which objects may be stored, and all of them stay.
pub fn stored_versions(definition: &CustomResourceDefinition, errors: &mut FieldErrors) {
    let path = Path::new("status").child("storedVersions");
    let stored = definition.status.as_ref().and_then(|status| status.stored_versions.as_deref());
    let stored = stored.unwrap_or_default();
    if stored.is_empty() {
        return errors.invalid(&path, json!(stored), "must have at least one stored version");
    }
    let versions = &definition.spec.versions;
    for version in versions.iter().filter(|version| version.storage && !stored.contains(&version.name)) {
        let detail = format!("must have the storage version {}", version.name);
        errors.invalid(&path, json!(stored), &detail);
    }
    for (index, stored) in stored.iter().enumerate() {
        if !versions.iter().any(|version| version.name == *stored) {
            let detail = format!(
                "missing from spec.versions; {stored} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {stored} and removes {stored} from status.storedVersions"
            );
            errors.invalid(&path.index(index), stored.as_str(), &detail);
        }
    }
}

/// The status of a definition.
pub fn status(definition: &CustomResourceDefinition, errors: &mut FieldErrors) {
    let path = Path::new("status");
    if let Some(names) = definition.status.as_ref().and_then(|status| status.accepted_names.as_ref()) {
        well_formed_names(names, &path.child("acceptedNames"), errors);
    }
    stored_versions(definition, errors);
}
