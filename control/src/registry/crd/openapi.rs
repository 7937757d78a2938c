//! A custom resource's schema as the OpenAPI documents show it.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps;
use serde_json::{Map, Value, json};

/// What version 2 of OpenAPI has no word for.
const NOT_IN_V2: [&str; 5] = ["anyOf", "allOf", "oneOf", "not", "nullable"];

/// The definition of one version's objects.
pub fn document(props: &JSONSchemaProps, is_v2: bool) -> Value {
    let mut schema = serde_json::to_value(props).unwrap_or_else(|_| json!({}));
    if is_v2 {
        simplify(&mut schema);
    }
    let properties = schema["properties"].take();
    let mut properties: Map<String, Value> = match properties {
        Value::Object(properties) => properties,
        _ => Map::new(),
    };
    let root = if is_v2 { "#/definitions" } else { "#/components/schemas" };
    properties.insert("apiVersion".into(), json!({ "type": "string", "description": API_VERSION }));
    properties.insert("kind".into(), json!({ "type": "string", "description": KIND }));
    let metadata = format!("{root}/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
    properties.insert("metadata".into(), json!({ "$ref": metadata, "description": METADATA }));
    schema["properties"] = Value::Object(properties);
    schema
}

const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const METADATA: &str = "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

fn simplify(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    let is_nullable = map.get("nullable") == Some(&Value::Bool(true));
    for key in NOT_IN_V2 {
        map.remove(key);
    }
    // Clients that check by type would refuse what the server takes.
    if is_nullable {
        for key in ["type", "items", "properties"] {
            map.remove(key);
        }
    }
    if map.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true)) {
        map.remove("items");
        map.remove("properties");
    }
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        properties.values_mut().for_each(simplify);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(schema) = map.get_mut(key) {
            simplify(schema);
        }
    }
}
