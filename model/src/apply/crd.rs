//! The types of custom resources, from their OpenAPI v3 schemas.

use serde_json::Value;

use super::{
    ObjectType,
    schema::{Field, ListKind, ListNode, MapNode, Node, Scalar, Schema, TypeId},
};

const METADATA: &str = "meta.v1.ObjectMeta";

impl ObjectType {
    /// The type of an object with this `openAPIV3Schema`. `x-kubernetes-list-type`, `-list-map-keys`, `-map-type`,
    /// `-int-or-string`, `-preserve-unknown-fields` and `-embedded-resource` say what merges.
    pub fn of_custom_resource(schema: &Value) -> Self {
        let mut types = Schema::default();
        let root = types.add_openapi(schema, true);
        Self { schema: std::sync::Arc::new(types), root }
    }
}

impl Schema {
    fn add_openapi(&mut self, schema: &Value, is_object: bool) -> TypeId {
        let says = |name: &str| schema[name].as_bool() == Some(true);
        let is_object = is_object || says("x-kubernetes-embedded-resource");
        let node = if says("x-kubernetes-int-or-string") {
            Node::Scalar(Scalar::Any)
        } else {
            match schema["type"].as_str() {
                Some("string") => Node::Scalar(Scalar::String),
                Some("integer" | "number") => Node::Scalar(Scalar::Numeric),
                Some("boolean") => Node::Scalar(Scalar::Boolean),
                Some("array") => return self.add_openapi_list(schema),
                _ => return self.add_openapi_map(schema, is_object),
            }
        };
        self.add(node)
    }

    fn add_openapi_list(&mut self, schema: &Value) -> TypeId {
        let element = self.add_openapi(&schema["items"], false);
        let kind = match schema["x-kubernetes-list-type"].as_str() {
            Some("set") => ListKind::Set,
            Some("map") => {
                let keys = schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten();
                let keys: Vec<_> = keys.filter_map(Value::as_str).collect();
                return self.add_list(element, &keys);
            }
            _ => ListKind::Atomic,
        };
        self.add(Node::List(ListNode { element, kind }))
    }

    fn add_openapi_map(&mut self, schema: &Value, is_object: bool) -> TypeId {
        let properties = schema["properties"].as_object();
        let mut map =
            MapNode { is_atomic: schema["x-kubernetes-map-type"] == "atomic", ..MapNode::default() };
        for (name, property) in properties.into_iter().flatten() {
            let is_type_meta = is_object && matches!(name.as_str(), "apiVersion" | "kind" | "metadata");
            if !is_type_meta {
                let kind = self.add_openapi(property, false);
                let default =
                    property.get("default").filter(|default| !default.is_object() && !default.is_array());
                map.fields.push(Field::new(name.clone(), kind).with_default(default.cloned()));
            }
        }
        if is_object {
            for name in ["apiVersion", "kind"] {
                let kind = self.add(Node::Scalar(Scalar::String));
                map.fields.push(Field::new(name, kind));
            }
            let kind = self.import(METADATA);
            map.fields.push(Field::new("metadata", kind).always_there());
        }
        map.fields.sort_unstable_by(|left, right| left.name.cmp(&right.name));
        map.element = match &schema["additionalProperties"] {
            element @ Value::Object(_) => Some(self.add_openapi(element, false)),
            // What may hold anything merges as far as it is maps.
            _ if schema["x-kubernetes-preserve-unknown-fields"] == true
                || map.fields.is_empty()
                || schema["additionalProperties"] == true =>
            {
                Some(self.add(Node::Deduced))
            }
            _ => None,
        };
        self.add(Node::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::apply::{Fields, Tree};

    #[test]
    fn extensions_say_what_merges() {
        let schema = json!({ "type": "object", "properties": {
            "metadata": { "type": "object" },
            "spec": { "type": "object", "properties": {
                "ports": {
                    "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["port", "protocol"],
                    "items": { "type": "object", "properties": {
                        "port": { "type": "integer" }, "protocol": { "type": "string", "default": "TCP" },
                    } },
                },
                "hosts": { "type": "array", "x-kubernetes-list-type": "set", "items": { "type": "string" } },
                "args": { "type": "array", "items": { "type": "string" } },
                "target": { "x-kubernetes-int-or-string": true },
                "whole": { "type": "object", "x-kubernetes-map-type": "atomic", "additionalProperties": { "type": "string" } },
                "anything": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
            } },
        } });
        let object = json!({
            "metadata": { "labels": { "a": "b" } },
            "spec": {
                "ports": [{ "port": 80 }], "hosts": ["x"], "args": ["y"], "target": "z", "whole": { "a": "b" },
                "anything": { "deep": { "down": [1] } },
            },
        });
        let fields = ObjectType::of_custom_resource(&schema).fields_of(&Tree::from(&object));
        let expected: Fields = serde_json::from_value(json!({
            "f:metadata": { "f:labels": { "f:a": {} } },
            "f:spec": {
                "f:ports": { "k:{\"port\":80,\"protocol\":\"TCP\"}": { ".": {}, "f:port": {} } },
                "f:hosts": { "v:\"x\"": {} },
                "f:args": {}, "f:target": {}, "f:whole": {},
                "f:anything": { "f:deep": { ".": {}, "f:down": {} } },
            },
        }))
        .expect("fields");
        assert_eq!(
            serde_json::to_value(fields).expect("json"),
            serde_json::to_value(expected).expect("json")
        );
    }
}
