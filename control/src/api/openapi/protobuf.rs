//! The v2 document in the protobuf form of gnostic's `openapi.v2`, the only one in which kubectl asks for it.
//!
//! Definitions are carried whole; paths are not, as no client reads them from this form.

use prost::Message;
use serde_json::Value;

/// Encodes a v2 document.
pub fn encode(document: &Value) -> Vec<u8> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let definitions = document["definitions"].as_object().into_iter().flatten().map(named_schema).collect();
    let document = Document {
        swagger: "2.0".into(),
        info: Some(Info {
            title: text(&document["info"]["title"]),
            version: text(&document["info"]["version"]),
        }),
        paths: Some(Paths {}),
        definitions: Some(NamedSchemas { additional_properties: definitions }),
    };
    document.encode_to_vec()
}

fn named_schema((name, value): (&String, &Value)) -> NamedSchema {
    NamedSchema { name: name.clone(), value: Some(schema(value)) }
}

fn schema(value: &Value) -> Schema {
    let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let list = |key: &str| value[key].as_array().into_iter().flatten();
    let strings = |key: &str| list(key).filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>();
    let types = match &value["type"] {
        Value::String(one) => vec![one.clone()],
        _ => strings("type"),
    };
    let additional_properties = match &value["additionalProperties"] {
        Value::Object(_) => {
            Some(AdditionalProperties { schema: Some(Box::new(schema(&value["additionalProperties"]))) })
        }
        _ => None,
    };
    let items = value.get("items").map(|items| Items { schema: vec![schema(items)] });
    let properties = value["properties"]
        .as_object()
        .map(|all| NamedSchemas { additional_properties: all.iter().map(named_schema).collect() });
    let extensions = value.as_object().into_iter().flatten().filter(|(key, _)| key.starts_with("x-"));
    Schema {
        reference: text("$ref"),
        format: text("format"),
        description: text("description"),
        required: strings("required"),
        additional_properties,
        types: (!types.is_empty()).then_some(Types { value: types }),
        items,
        all_of: list("allOf").map(schema).collect(),
        properties,
        // Every JSON text is a YAML text.
        vendor_extension: extensions
            .map(|(key, value)| NamedAny { name: key.clone(), value: Some(Any { yaml: value.to_string() }) })
            .collect(),
    }
}

#[derive(Clone, PartialEq, Message)]
struct Document {
    #[prost(string, tag = "1")]
    swagger: String,
    #[prost(message, optional, tag = "2")]
    info: Option<Info>,
    #[prost(message, optional, tag = "8")]
    paths: Option<Paths>,
    #[prost(message, optional, tag = "9")]
    definitions: Option<NamedSchemas>,
}

#[derive(Clone, PartialEq, Message)]
struct Info {
    #[prost(string, tag = "1")]
    title: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
struct Paths {}

#[derive(Clone, PartialEq, Message)]
struct NamedSchemas {
    #[prost(message, repeated, tag = "1")]
    additional_properties: Vec<NamedSchema>,
}

#[derive(Clone, PartialEq, Message)]
struct NamedSchema {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Schema>,
}

#[derive(Clone, PartialEq, Message)]
struct Schema {
    #[prost(string, tag = "1")]
    reference: String,
    #[prost(string, tag = "2")]
    format: String,
    #[prost(string, tag = "4")]
    description: String,
    #[prost(string, repeated, tag = "19")]
    required: Vec<String>,
    #[prost(message, optional, tag = "21")]
    additional_properties: Option<AdditionalProperties>,
    #[prost(message, optional, tag = "22")]
    types: Option<Types>,
    #[prost(message, optional, tag = "23")]
    items: Option<Items>,
    #[prost(message, repeated, tag = "24")]
    all_of: Vec<Schema>,
    #[prost(message, optional, tag = "25")]
    properties: Option<NamedSchemas>,
    #[prost(message, repeated, tag = "31")]
    vendor_extension: Vec<NamedAny>,
}

#[derive(Clone, PartialEq, Message)]
struct AdditionalProperties {
    #[prost(message, optional, boxed, tag = "1")]
    schema: Option<Box<Schema>>,
}

#[derive(Clone, PartialEq, Message)]
struct Types {
    #[prost(string, repeated, tag = "1")]
    value: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Items {
    #[prost(message, repeated, tag = "1")]
    schema: Vec<Schema>,
}

#[derive(Clone, PartialEq, Message)]
struct NamedAny {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Any>,
}

#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "2")]
    yaml: String,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_definition_arrives_whole() {
        let document = json!({
            "info": { "title": "Kubernetes", "version": "v1" },
            "definitions": { "a.B": {
                "type": "object",
                "properties": { "c": { "type": "array", "items": { "$ref": "#/definitions/a.C" } } },
                "additionalProperties": { "type": "string" },
                "required": ["c"],
                "x-kubernetes-group-version-kind": [{ "group": "", "version": "v1", "kind": "B" }],
            } },
        });
        let decoded = Document::decode(encode(&document).as_slice()).expect("what was encoded decodes");
        let definitions = decoded.definitions.expect("definitions");
        let [NamedSchema { name, value: Some(schema) }] = definitions.additional_properties.as_slice() else {
            panic!("one definition");
        };
        assert_eq!(name, "a.B");
        assert_eq!(schema.required, ["c"]);
        assert_eq!(schema.vendor_extension[0].name, "x-kubernetes-group-version-kind");
        let properties = schema.properties.as_ref().expect("properties");
        let items = properties.additional_properties[0].value.as_ref().and_then(|of| of.items.as_ref());
        assert_eq!(items.map(|items| items.schema[0].reference.as_str()), Some("#/definitions/a.C"));
    }
}
