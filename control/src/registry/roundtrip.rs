//! Every kind keeps every field of its type: an object with all fields that its schema knows goes in, and comes out.

use serde_json::{Map, Value};

use super::{Kinds, Served};
use crate::{api::openapi, protobuf};

/// Fields that a client may write and never reads.
const WRITE_ONLY: &[&str] = &["Secret.stringData"];
const TIME: &str = "2026-01-02T03:04:05";

/// A value for `schema` with every field set; `None` where it would contain itself.
fn fill(schema: &Value, definitions: &Value, within: &mut Vec<String>) -> Option<Value> {
    let reference = schema.get("$ref").or_else(|| schema.pointer("/allOf/0/$ref")).and_then(Value::as_str);
    if let Some(name) = reference.and_then(|reference| reference.rsplit('/').next()) {
        if within.iter().any(|outer| outer == name) {
            return None;
        }
        within.push(name.to_owned());
        let filled = fill(&definitions[name], definitions, within);
        within.pop();
        return filled;
    }
    let text = |name: &str| schema.get(name).and_then(Value::as_str).unwrap_or_default();
    Some(match (text("type"), text("format")) {
        ("boolean", _) => true.into(),
        ("integer" | "number", _) | (_, "int-or-string") => 1.into(),
        ("string", "date-time") => format!("{TIME}Z").into(),
        // What `stringData` puts under the same key.
        ("string", "byte") => "MQ==".into(),
        ("string", _) => "1".into(),
        ("array", _) => fill(&schema["items"], definitions, within).into_iter().collect(),
        _ => object(schema, definitions, within).into(),
    })
}

fn object(schema: &Value, definitions: &Value, within: &mut Vec<String>) -> Map<String, Value> {
    let properties = schema.get("properties").and_then(Value::as_object);
    let has = |name: &str| properties.is_some_and(|properties| properties.contains_key(name));
    // An object inside another says of itself what it is.
    let is_object = has("apiVersion") && has("kind") && has("metadata");
    let mut filled = Map::new();
    for (name, property) in properties.into_iter().flatten() {
        if is_object && (name == "apiVersion" || name == "kind") {
            continue;
        }
        if let Some(value) = fill(property, definitions, within) {
            filled.insert(name.clone(), value);
        }
    }
    if let Some(values) = schema.get("additionalProperties").filter(|values| values.is_object())
        && let Some(value) = fill(values, definitions, within)
    {
        filled.insert("1".into(), value);
    }
    filled
}

/// The places where `after` does not have what `before` has.
fn lost(before: &Value, after: &Value, path: &str, places: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(map), Value::Object(_)) => {
            for (name, value) in map {
                lost(value, &after[name.as_str()], &format!("{path}.{name}"), places);
            }
        }
        (Value::Array(items), Value::Array(others)) if items.len() <= others.len() => {
            items.iter().zip(others).for_each(|(item, other)| lost(item, other, path, places));
        }
        (Value::String(text), Value::String(other)) if text.starts_with(TIME) && other.starts_with(TIME) => {}
        _ if before == after || WRITE_ONLY.contains(&path) => {}
        _ => places.push(format!("{path}: {before} became {after}")),
    }
}

/// What of a full object of the kind is lost.
fn check(served: &Served, definitions: &Value) -> Vec<String> {
    let schema = &definitions[&served.type_name];
    assert!(schema["properties"].is_object(), "{} has no schema", served.type_name);
    let before = fill(schema, definitions, &mut vec![served.type_name.clone()]).expect("an object");
    let mut unknown = Vec::new();
    let mut note = |path: String| unknown.push(path);
    let stored = match served.conversion {
        None => Ok(before.clone()),
        Some(conversion) => (conversion.to_stored)(before.clone(), &mut note),
    };
    let mut object = stored
        .and_then(|stored| served.kind.decode_value(stored, &mut note))
        .unwrap_or_else(|error| panic!("{}: {error} in {before}", served.qualified));
    assert_eq!(unknown, [] as [String; 0], "{}", served.qualified);
    served.kind.default(&mut *object);
    let after: Value = serde_json::from_slice(&object.to_json().expect("JSON")).expect("JSON");
    let after = served.conversion.map_or(after.clone(), |conversion| (conversion.to_served)(after));
    let mut places = Vec::new();
    lost(&before, &after, served.info.kind, &mut places);
    places.iter().map(|place| format!("{}: {place}", served.api_version)).collect()
}

#[test]
fn no_kind_loses_a_field() {
    let kinds = Kinds::builtin();
    let document = openapi::v2_document(kinds.all());
    let lost: Vec<String> =
        kinds.all().iter().flat_map(|served| check(served, &document["definitions"])).collect();
    assert_eq!(lost, [] as [String; 0]);
}

#[test]
fn every_kind_is_known_in_protobuf() {
    let kinds = Kinds::builtin();
    for served in kinds.all() {
        let known = protobuf::go_field(&served.api_version, served.info.kind, &["metadata", "name"]);
        let holder = known.map(|(holder, _)| holder);
        assert_eq!(holder, Some("ObjectMeta"), "{} in {}", served.info.kind, served.api_version);
    }
}
