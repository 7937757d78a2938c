//! That a schema is structural: every value's type is known without trying alternatives.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use naru_model::validation::{FieldErrors, Path};
use serde_json::Value;

use super::schema::{Schema, pattern};
use crate::registry::podspec::OrEmpty as _;

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];

/// Where a schema stands, which decides how a missing type is worded.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Root,
    Field,
    Item,
}

/// Checks the schema of a version.
pub fn root(schema: &JSONSchemaProps, path: &Path, errors: &mut FieldErrors) {
    let before = errors.0.len();
    node(schema, Place::Root, path, errors);
    if let Some(metadata) = schema.properties.as_ref().and_then(|properties| properties.get("metadata")) {
        metadata_of(metadata, &path.child("properties").key("metadata"), errors);
    }
    if errors.0.len() == before {
        match Schema::build(schema) {
            Ok(compiled) => {
                defaults(schema, &compiled, path, errors);
                super::check_rules::check(&compiled, path, errors);
            }
            Err(problem) => errors.invalid(path, "", &format!("error building validator: {problem}")),
        }
    }
}

fn metadata_of(metadata: &JSONSchemaProps, path: &Path, errors: &mut FieldErrors) {
    let names = metadata.properties.iter().flatten().map(|(name, _)| name.as_str());
    let others = names.filter(|name| !matches!(*name, "name" | "generateName"));
    if others.count() > 0 || metadata.required.is_some() || metadata.additional_properties.is_some() {
        errors.forbidden(
            path,
            "must not specify anything other than name and generateName, but metadata is implicitly specified",
        );
    }
}

fn node(schema: &JSONSchemaProps, place: Place, path: &Path, errors: &mut FieldErrors) {
    let is = |flag: Option<bool>| flag == Some(true);
    let kind = schema.type_.or_empty();
    let is_int_or_string = is(schema.x_kubernetes_int_or_string);
    let preserves = is(schema.x_kubernetes_preserve_unknown_fields);
    let type_path = path.child("type");
    match (kind, place) {
        ("", Place::Root) => errors.required(&type_path, "must not be empty at the root"),
        ("", _) if is_int_or_string || preserves => (),
        ("", Place::Field) => errors.required(&type_path, "must not be empty for specified object fields"),
        ("", Place::Item) => errors.required(&type_path, "must not be empty for specified array items"),
        (kind, Place::Root) if kind != "object" => {
            errors.invalid(&type_path, kind, "must be object at the root");
        }
        (kind, _) if !TYPES.contains(&kind) => errors.not_supported(&type_path, kind, &TYPES),
        _ if is_int_or_string => {
            errors.forbidden(&type_path, "must be empty if x-kubernetes-int-or-string is true");
        }
        _ => (),
    }
    if schema.x_kubernetes_preserve_unknown_fields == Some(false) {
        let detail = "must be true or undefined";
        errors.invalid(&path.child("x-kubernetes-preserve-unknown-fields"), false, detail);
    }
    if is(schema.x_kubernetes_embedded_resource) {
        if kind != "object" {
            errors.invalid(&type_path, kind, "must be object if x-kubernetes-embedded-resource is true");
        }
        if !preserves && schema.properties.as_ref().is_none_or(std::collections::BTreeMap::is_empty) {
            let detail = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
            errors.required(&path.child("properties"), detail);
        }
    }
    unsupported(schema, path, errors);
    lists(schema, kind, path, errors);
    value_rules(schema, path, errors);
    let in_fields = schema.properties.iter().flatten();
    let has_fields = in_fields.clone().count() > 0;
    match &schema.additional_properties {
        Some(JSONSchemaPropsOrBool::Bool(true)) | None => (),
        Some(_) if has_fields => {
            let detail = "additionalProperties and properties are mutual exclusive";
            errors.forbidden(&path.child("additionalProperties"), detail);
        }
        Some(JSONSchemaPropsOrBool::Bool(false)) => {
            errors.forbidden(
                &path.child("additionalProperties"),
                "additionalProperties cannot be set to false",
            );
        }
        Some(JSONSchemaPropsOrBool::Schema(of)) => {
            if place == Place::Root {
                let detail = "additionalProperties cannot be set at the root";
                errors.forbidden(&path.child("additionalProperties"), detail);
            }
            node(of, Place::Field, &path.child("additionalProperties"), errors);
        }
    }
    for (name, field) in in_fields {
        node(field, Place::Field, &path.child("properties").key(name), errors);
    }
    match &schema.items {
        None if kind == "array" => errors.required(&path.child("items"), "must be specified"),
        None => (),
        Some(JSONSchemaPropsOrArray::Schema(items)) => node(items, Place::Item, &path.child("items"), errors),
        Some(JSONSchemaPropsOrArray::Schemas(_)) => {
            errors.forbidden(&path.child("items"), "items must be a schema object and not an array");
        }
    }
    for (name, list) in [("allOf", &schema.all_of), ("anyOf", &schema.any_of), ("oneOf", &schema.one_of)] {
        for (index, nested) in list.iter().flatten().enumerate() {
            alternative(nested, is_int_or_string, Some(schema), &path.child(name).index(index), errors);
        }
    }
    if let Some(not) = &schema.not {
        alternative(not, false, Some(schema), &path.child("not"), errors);
    }
}

fn unsupported(schema: &JSONSchemaProps, path: &Path, errors: &mut FieldErrors) {
    for (field, is_set) in [
        ("$ref", schema.ref_path.is_some()),
        ("definitions", schema.definitions.is_some()),
        ("dependencies", schema.dependencies.is_some()),
        ("patternProperties", schema.pattern_properties.is_some()),
        ("additionalItems", schema.additional_items.is_some()),
        ("id", schema.id.is_some()),
    ] {
        if is_set {
            errors.forbidden(&path.child(field), &format!("{field} is not supported"));
        }
    }
    if schema.unique_items == Some(true) {
        let detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.forbidden(&path.child("uniqueItems"), detail);
    }
}

fn lists(schema: &JSONSchemaProps, kind: &str, path: &Path, errors: &mut FieldErrors) {
    let items = match &schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => Some(&**items),
        _ => None,
    };
    let keys = schema.x_kubernetes_list_map_keys.as_deref().unwrap_or_default();
    let (list_path, keys_path) =
        (path.child("x-kubernetes-list-type"), path.child("x-kubernetes-list-map-keys"));
    let list_type = schema.x_kubernetes_list_type.as_deref();
    if let Some(list_type) = list_type {
        if kind != "array" {
            errors.invalid(&path.child("type"), kind, "must be array if x-kubernetes-list-type is specified");
        }
        if !matches!(list_type, "atomic" | "set" | "map") {
            errors.not_supported(&list_path, list_type, &["atomic", "map", "set"]);
        }
    }
    if !keys.is_empty() && list_type != Some("map") {
        let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
        errors.invalid(&list_path, list_type.unwrap_or_default(), detail);
    }
    if let Some(map_type) = schema.x_kubernetes_map_type.as_deref() {
        if kind != "object" {
            errors.invalid(&path.child("type"), kind, "must be object if x-kubernetes-map-type is specified");
        }
        if !matches!(map_type, "atomic" | "granular") {
            errors.not_supported(&path.child("x-kubernetes-map-type"), map_type, &["atomic", "granular"]);
        }
    }
    match (list_type, items) {
        (Some("set"), Some(items)) => {
            if items.nullable == Some(true) {
                errors.forbidden(
                    &path.child("items").child("nullable"),
                    "cannot be nullable when x-kubernetes-list-type is set",
                );
            }
            let is_whole = match items.type_.or_empty() {
                "object" => items.x_kubernetes_map_type.as_deref() == Some("atomic"),
                "array" => matches!(items.x_kubernetes_list_type.as_deref(), None | Some("atomic")),
                _ => true,
            };
            if !is_whole {
                let place = path.child("items").child("x-kubernetes-map-type");
                errors.invalid(
                    &place,
                    items.x_kubernetes_map_type.or_empty(),
                    "must be atomic as item of a list with x-kubernetes-list-type=set",
                );
            }
        }
        (Some("map"), Some(items)) => {
            if keys.is_empty() {
                errors.required(&keys_path, "must not be empty if x-kubernetes-list-type is map");
            }
            if items.type_.or_empty() != "object" {
                let place = path.child("items").child("type");
                errors.invalid(
                    &place,
                    items.type_.or_empty(),
                    "must be object if parent array's x-kubernetes-list-type is map",
                );
            }
            for (index, key) in keys.iter().enumerate() {
                let property = items.properties.as_ref().and_then(|properties| properties.get(key));
                let Some(property) = property else {
                    let detail = "entries must all be names of item properties";
                    errors.invalid(&keys_path.index(index), key.as_str(), detail);
                    continue;
                };
                if matches!(property.type_.or_empty(), "array" | "object") {
                    let detail = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                    let place = path.child("items").child("properties").key(key).child("type");
                    errors.invalid(&place, property.type_.or_empty(), detail);
                }
                if property.default.is_none()
                    && !items.required.iter().flatten().any(|required| required == key)
                {
                    let detail = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
                    errors
                        .required(&path.child("items").child("properties").key(key).child("default"), detail);
                }
                if keys[..index].contains(key) {
                    errors.duplicate(&keys_path.index(index), key.as_str());
                }
            }
        }
        _ => (),
    }
}

fn value_rules(schema: &JSONSchemaProps, path: &Path, errors: &mut FieldErrors) {
    if let Some(text) = schema.pattern.as_deref()
        && let Err(problem) = pattern::compile(text)
    {
        let detail = format!("must be a valid regular expression, but isn't: {problem}");
        errors.invalid(&path.child("pattern"), text, &detail);
    }
    for (field, bound) in [
        ("maxLength", schema.max_length),
        ("minLength", schema.min_length),
        ("maxItems", schema.max_items),
        ("minItems", schema.min_items),
        ("maxProperties", schema.max_properties),
        ("minProperties", schema.min_properties),
    ] {
        if let Some(bound) = bound.filter(|bound| *bound < 0) {
            errors.invalid(&path.child(field), bound, "must be a non-negative integer");
        }
    }
    if let Some(factor) = schema.multiple_of.filter(|factor| *factor <= 0.0) {
        errors.invalid(&path.child("multipleOf"), factor, "must be greater than 0");
    }
}

/// A schema below `allOf`, `anyOf`, `oneOf` or `not`: it may restrict what the schema around it says, and say nothing
/// new.
fn alternative(
    schema: &JSONSchemaProps,
    is_int_or_string: bool,
    around: Option<&JSONSchemaProps>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    const STRUCTURAL: &str = "must be empty to be structural";
    let has_type = schema.type_.is_some();
    for (field, is_set) in [
        ("type", has_type && !is_int_or_string),
        ("default", schema.default.is_some()),
        ("nullable", schema.nullable == Some(true)),
        ("description", schema.description.is_some()),
        ("title", schema.title.is_some()),
        ("additionalProperties", schema.additional_properties.is_some()),
        ("x-kubernetes-preserve-unknown-fields", schema.x_kubernetes_preserve_unknown_fields.is_some()),
        ("x-kubernetes-embedded-resource", schema.x_kubernetes_embedded_resource.is_some()),
        ("x-kubernetes-int-or-string", schema.x_kubernetes_int_or_string.is_some()),
        ("x-kubernetes-list-type", schema.x_kubernetes_list_type.is_some()),
        ("x-kubernetes-validations", schema.x_kubernetes_validations.is_some()),
    ] {
        if is_set {
            errors.forbidden(&path.child(field), STRUCTURAL);
        }
    }
    unsupported(schema, path, errors);
    value_rules(schema, path, errors);
    for (name, field) in schema.properties.iter().flatten() {
        let place = path.child("properties").key(name);
        let outer = around.and_then(|around| around.properties.as_ref()?.get(name));
        let is_free = around.is_some_and(|around| around.additional_properties.is_some());
        if outer.is_none() && !is_free {
            let whole = place.as_str();
            errors.required(&Path::new(&outside(path, name)), &format!("because it is defined in {whole}"));
        }
        let outer_is_either = outer.is_some_and(|outer| outer.x_kubernetes_int_or_string == Some(true));
        alternative(field, outer_is_either, outer, &place, errors);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
        let outer = around.and_then(|around| match &around.items {
            Some(JSONSchemaPropsOrArray::Schema(items)) => Some(&**items),
            _ => None,
        });
        alternative(items, false, outer, &path.child("items"), errors);
    }
    for (name, list) in [("allOf", &schema.all_of), ("anyOf", &schema.any_of), ("oneOf", &schema.one_of)] {
        for (index, nested) in list.iter().flatten().enumerate() {
            alternative(nested, is_int_or_string, around, &path.child(name).index(index), errors);
        }
    }
    if let Some(not) = &schema.not {
        alternative(not, is_int_or_string, around, &path.child("not"), errors);
    }
}

/// The place outside the alternative at `path` where the field `name` would have to be.
fn outside(path: &Path, name: &str) -> String {
    let text = path.as_str();
    let cut = [".allOf[", ".anyOf[", ".oneOf[", ".not"].iter().filter_map(|mark| text.find(mark)).min();
    format!("{}.properties[{name}]", &text[..cut.unwrap_or(text.len())])
}

/// That each default fits its own schema, and has no field that would be pruned.
fn defaults(schema: &JSONSchemaProps, compiled: &Schema, path: &Path, errors: &mut FieldErrors) {
    if let Some(default) = &schema.default {
        let path = path.child("default");
        let mut unknown = Vec::new();
        let mut pruned: Value = default.0.clone();
        compiled.prune_value(&mut pruned, "", &mut |field| unknown.push(field));
        if unknown.is_empty() {
            let mut filled = default.0.clone();
            compiled.fill_value(&mut filled);
            let mut found = FieldErrors::default();
            compiled.check(&filled, path.as_str(), &mut found);
            errors.0.append(&mut found.0);
        } else {
            errors.invalid(&path, default.0.clone(), "must not have unknown fields");
        }
    }
    for (name, field) in schema.properties.iter().flatten() {
        if let Some(compiled) = compiled.properties.get(name) {
            defaults(field, compiled, &path.child("properties").key(name), errors);
        }
    }
    if let (Some(JSONSchemaPropsOrArray::Schema(items)), Some(compiled)) = (&schema.items, &compiled.items) {
        defaults(items, compiled, &path.child("items"), errors);
    }
    if let (Some(JSONSchemaPropsOrBool::Schema(of)), super::schema::Additional::Schema(compiled)) =
        (&schema.additional_properties, &compiled.additional)
    {
        defaults(of, compiled, &path.child("additionalProperties"), errors);
    }
}
