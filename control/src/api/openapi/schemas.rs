//! The schemas of the served types and of all that they are made of.

use std::sync::Arc;

use k8s_openapi::{
    api::{authentication, autoscaling, core, policy},
    apimachinery::pkg::apis::meta::v1::{DeleteOptions, Status},
};
use naru_model::{
    apply::{self, Extension},
    patch::merge_keys,
};
use schemars::{SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::{Dialect, roots};
use crate::registry::Served;

/// By type name, as in `components.schemas` (v3) or `definitions` (v2).
pub(super) fn of(served: &[Arc<Served>], dialect: Dialect) -> Map<String, Value> {
    let mut generator = generator(dialect);
    let mut schemas = Map::new();
    generator.subschema_for::<DeleteOptions>();
    generator.subschema_for::<Status>();
    roots::add_group_version_types(&mut generator);
    for resource in served {
        add_types(resource, &mut generator);
        if resource.info.verbs.contains(&"list") {
            add_list(resource, dialect, &mut schemas);
        }
    }
    generator.subschema_for::<k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta>();
    finish(generator, &mut schemas, dialect);
    for resource in served {
        if let Some(schema) = schemas.get_mut(&resource.type_name) {
            let info = resource.info;
            schema["x-kubernetes-group-version-kind"] =
                json!([{ "group": info.group, "version": info.version, "kind": info.kind }]);
        }
    }
    schemas
}

/// The schemas of what the paths that belong to no group version answer.
pub(super) fn of_roots(dialect: Dialect) -> Map<String, Value> {
    let mut generator = generator(dialect);
    let mut schemas = Map::new();
    roots::add_types(&mut generator);
    finish(generator, &mut schemas, dialect);
    schemas
}

fn generator(dialect: Dialect) -> SchemaGenerator {
    let mut settings = SchemaSettings::openapi3();
    settings.definitions_path = match dialect {
        Dialect::V2 => "/definitions".into(),
        Dialect::V3 => "/components/schemas".into(),
    };
    settings.into_generator()
}

/// Adds the generator's schemas, and says in all of them what the types themselves do not.
fn finish(mut generator: SchemaGenerator, schemas: &mut Map<String, Value>, dialect: Dialect) {
    schemas.append(&mut generator.take_definitions(true));
    for (type_name, schema) in schemas {
        add_merge_facts(type_name, schema);
        correct_required(type_name, schema);
        open_any_value(type_name, schema);
        say_scalar(type_name, schema, dialect);
        match dialect {
            Dialect::V2 => unwrap_references(schema),
            Dialect::V3 => wrap_references(schema),
        }
    }
}

/// The type of a resource and those of its subresources.
fn add_types(resource: &Served, generator: &mut SchemaGenerator) {
    match resource.conversion {
        None => resource.kind.add_schema(generator),
        Some(conversion) => (conversion.add_schema)(generator),
    }
    for subresource in resource.info.subresources {
        match *subresource {
            "scale" => drop(generator.subschema_for::<autoscaling::v1::Scale>()),
            "eviction" => drop(generator.subschema_for::<policy::v1::Eviction>()),
            "binding" => drop(generator.subschema_for::<core::v1::Binding>()),
            "token" => drop(generator.subschema_for::<authentication::v1::TokenRequest>()),
            _ => {}
        }
    }
}

/// `DeploymentList`: the types have no schema of their own for it.
fn add_list(resource: &Served, dialect: Dialect, schemas: &mut Map<String, Value>) {
    let info = resource.info;
    let reference = |type_name: &str| json!({ "$ref": dialect.reference(type_name) });
    let schema = json!({
        "description": format!("{} is a list of {}.", resource.list_kind, info.plural),
        "type": "object",
        "properties": {
            "apiVersion": { "type": "string", "description": "The versioned schema of this representation." },
            "kind": { "type": "string", "description": "The REST resource that this object represents." },
            "metadata": reference("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta"),
            "items": { "type": "array", "description": "The objects.", "items": reference(&resource.type_name) },
        },
        "required": ["items"],
        "x-kubernetes-group-version-kind":
            [{ "group": info.group, "version": info.version, "kind": resource.list_kind }],
    });
    schemas.insert(list_type(resource), schema);
}

/// The type name of a resource's list.
pub(super) fn list_type(resource: &Served) -> String {
    format!("{}List", resource.type_name)
}

/// Says of each field how a strategic merge patch and server-side apply merge it.
fn add_merge_facts(type_name: &str, schema: &mut Value) {
    for Extension { field, name, value } in apply::extensions(type_name) {
        let place = match field {
            "" => Some(&mut *schema),
            field => schema.get_mut("properties").and_then(|properties| properties.get_mut(field)),
        };
        if let Some(place) = place {
            place[name] = value;
        }
    }
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else { return };
    for (field, property) in properties {
        let Some(facts) = merge_keys::of(type_name, field) else { continue };
        property["x-kubernetes-patch-strategy"] = facts.strategy.as_str().into();
        if let Some(key) = facts.key {
            property["x-kubernetes-patch-merge-key"] = key.into();
        }
    }
}

/// Types of `core/v1` that name an object, and may leave the name empty.
const MAY_BE_UNNAMED: &[&str] = &[
    "ConfigMapEnvSource",
    "ConfigMapKeySelector",
    "ConfigMapProjection",
    "ConfigMapVolumeSource",
    "LocalObjectReference",
    "SecretEnvSource",
    "SecretKeySelector",
    "SecretProjection",
];

/// The Rust types always have metadata and names; Kubernetes requires them of few, and generated clients go by that.
fn correct_required(type_name: &str, schema: &mut Value) {
    let Some(schema) = schema.as_object_mut() else { return };
    let mut required = match schema.remove("required") {
        Some(Value::Array(required)) => required,
        _ => Vec::new(),
    };
    match type_name.strip_prefix("io.k8s.api.core.v1.") {
        Some("Event") => (),
        Some(name) if MAY_BE_UNNAMED.contains(&name) => required.retain(|field| field != "name"),
        _ => required.retain(|field| field != "metadata"),
    }
    if type_name == "io.k8s.api.events.v1.Event" {
        required.push("eventTime".into());
    }
    if !required.is_empty() {
        schema.insert("required".into(), required.into());
    }
}

/// Types of definitions' schemas that take values of several types: Kubernetes' documents say of these nothing but what
/// they are for, and kubectl checks values against what is said.
const ANY_VALUE: &[&str] =
    &["JSON", "JSONSchemaPropsOrArray", "JSONSchemaPropsOrBool", "JSONSchemaPropsOrStringArray"];

fn open_any_value(type_name: &str, schema: &mut Value) {
    let name = type_name.strip_prefix("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.");
    if let (Some(schema), true) = (schema.as_object_mut(), name.is_some_and(|name| ANY_VALUE.contains(&name)))
    {
        schema.retain(|key, _| key == "description");
    }
}

/// Types that are written as a number or as text. Version 2 of OpenAPI has no words for that: there they are strings,
/// by which clients made from its documents and `kubectl explain` go.
fn say_scalar(type_name: &str, schema: &mut Value, dialect: Dialect) {
    let (format, types) = match type_name {
        "io.k8s.apimachinery.pkg.util.intstr.IntOrString" => (Some("int-or-string"), ["integer", "string"]),
        "io.k8s.apimachinery.pkg.api.resource.Quantity" => (None, ["string", "number"]),
        _ => return,
    };
    let Some(schema) = schema.as_object_mut() else { return };
    schema.retain(|key, _| key == "description");
    match dialect {
        Dialect::V2 => schema.insert("type".into(), "string".into()),
        Dialect::V3 => schema.insert("oneOf".into(), types.map(|name| json!({ "type": name })).into()),
    };
    if let Some(format) = format {
        schema.insert("format".into(), format.into());
    }
}

/// In OpenAPI v2 a reference has its description beside it, and readers such as kubectl's know no `allOf`.
fn unwrap_references(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if let Some(parts) = map.get("allOf").and_then(Value::as_array)
                && let [part] = &parts[..]
                && let Some(reference) = part.get("$ref").cloned()
            {
                map.remove("allOf");
                map.insert("$ref".into(), reference);
            }
            map.values_mut().for_each(unwrap_references);
        }
        Value::Array(items) => items.iter_mut().for_each(unwrap_references),
        _ => {}
    }
}

/// A reference may have no siblings in OpenAPI 3.0: one with a description goes into an `allOf`.
fn wrap_references(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if map.len() > 1
                && let Some(reference) = map.remove("$ref")
            {
                map.insert("allOf".into(), json!([{ "$ref": reference }]));
            }
            map.values_mut().for_each(wrap_references);
        }
        Value::Array(items) => items.iter_mut().for_each(wrap_references),
        _ => {}
    }
}
