//! From JSON to protobuf.
//!
//! JSON decides what is sent: a field that is absent there is absent here, which every reader takes for its zero.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value};

use super::{
    MAGIC,
    types::{Field, Kind, Message, SCHEMA, Shape, message, types},
};

/// Whether objects of a kind can be sent as protobuf.
pub fn has_message(api_version: &str, kind: &str) -> bool {
    message(api_version, kind).is_some()
}

/// An object, or a list of them, in Kubernetes' envelope. `None` for kinds without a message.
pub fn object(json: &[u8]) -> Option<Vec<u8>> {
    let Ok(Value::Object(object)) = serde_json::from_slice(json) else { return None };
    let text = |key| object.get(key).and_then(Value::as_str);
    let (api_version, kind) = (text("apiVersion")?, text("kind")?);
    if let Some((_, message)) = message(api_version, kind) {
        return Some(envelope(api_version, kind, |out| put_fields(out, message, &object)));
    }
    let mut list = List::new(api_version, kind.strip_suffix("List")?, object.get("metadata")?)?;
    for item in object.get("items")?.as_array()? {
        list.push_value(item.as_object()?);
    }
    Some(list.finish())
}

/// A list that is encoded object by object.
pub struct List {
    api_version: String,
    kind: String,
    message: &'static Message,
    raw: Vec<u8>,
}

impl List {
    /// A list of objects of `kind`. `None` for kinds without a message.
    pub fn new(api_version: &str, kind: &str, metadata: &Value) -> Option<Self> {
        let (_, message) = message(api_version, kind)?;
        let mut raw = Vec::new();
        if let Some(metadata) = metadata.as_object() {
            put_nested(&mut raw, 1, |out| put_fields(out, &types()["meta/v1.ListMeta"], metadata));
        }
        Some(Self { api_version: api_version.to_owned(), kind: format!("{kind}List"), message, raw })
    }

    /// Appends an object; what is no JSON object is left out.
    pub fn push(&mut self, json: &[u8]) {
        if let Ok(object) = serde_json::from_slice(json) {
            self.push_value(&object);
        }
    }

    fn push_value(&mut self, object: &Map<String, Value>) {
        put_nested(&mut self.raw, 2, |out| put_fields(out, self.message, object));
    }

    /// The list in its envelope.
    pub fn finish(self) -> Vec<u8> {
        envelope(&self.api_version, &self.kind, |out| out.extend_from_slice(&self.raw))
    }
}

/// An event of a watch, led by its length: `metav1.WatchEvent`, with the enveloped object in it.
pub fn watch_frame(kind: &str, object: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 4];
    put_bytes(&mut frame, 1, kind.as_bytes());
    put_nested(&mut frame, 2, |out| put_bytes(out, 1, object));
    let length = u32::try_from(frame.len() - 4).unwrap_or(u32::MAX);
    frame[..4].copy_from_slice(&length.to_be_bytes());
    frame
}

fn envelope(api_version: &str, kind: &str, put: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    put_nested(&mut out, 1, |out| {
        put_bytes(out, 1, api_version.as_bytes());
        put_bytes(out, 2, kind.as_bytes());
    });
    put_nested(&mut out, 2, put);
    out
}

fn put_fields(out: &mut Vec<u8>, message: &Message, object: &Map<String, Value>) {
    for (number, field) in message {
        match field.name {
            Some(name) => {
                if let Some(value) = object.get(name).filter(|value| !value.is_null()) {
                    put_field(out, *number, field, value);
                }
            }
            // Its fields stand among the parent's in JSON.
            None => {
                if let Kind::Message(inner) = field.kind {
                    put_nested(out, *number, |out| put_fields(out, &types()[inner], object));
                }
            }
        }
    }
}

fn put_field(out: &mut Vec<u8>, number: u32, field: &Field, value: &Value) {
    match (field.shape, value) {
        (Shape::One, value) => put_value(out, number, field.kind, value),
        (Shape::List, Value::Array(items)) => {
            for item in items {
                put_value(out, number, field.kind, item);
            }
        }
        (Shape::Map, Value::Object(entries)) => {
            for (key, value) in entries {
                put_nested(out, number, |out| {
                    put_bytes(out, 1, key.as_bytes());
                    put_value(out, 2, field.kind, value);
                });
            }
        }
        _ => (),
    }
}

fn put_value(out: &mut Vec<u8>, number: u32, kind: Kind, value: &Value) {
    match (kind, value) {
        (Kind::Text, Value::String(text)) => put_bytes(out, number, text.as_bytes()),
        (Kind::Integer, Value::Number(value)) => put_integer(out, number, value.as_i64().unwrap_or_default()),
        (Kind::Boolean, Value::Bool(flag)) => put_integer(out, number, i64::from(*flag)),
        (Kind::Double, Value::Number(value)) => {
            put_varint(out, u64::from(number) << 3 | 1);
            out.extend_from_slice(&value.as_f64().unwrap_or_default().to_le_bytes());
        }
        (Kind::Base64, Value::String(text)) => {
            put_bytes(out, number, &BASE64.decode(text).unwrap_or_default());
        }
        (Kind::Time | Kind::MicroTime, Value::String(text)) => put_nested(out, number, |out| {
            let time: Timestamp = text.parse().unwrap_or_default();
            put_integer(out, 1, time.as_second());
            put_integer(out, 2, i64::from(time.subsec_nanosecond()));
        }),
        (Kind::Duration, Value::String(text)) => put_nested(out, number, |out| {
            let duration = crate::cel::parse_duration(text).unwrap_or_default();
            put_integer(out, 1, i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX));
        }),
        (Kind::Quantity, Value::String(text)) => {
            put_nested(out, number, |out| put_bytes(out, 1, text.as_bytes()));
        }
        // A quantity may be written as a number.
        (Kind::Quantity, Value::Number(value)) => {
            put_nested(out, number, |out| put_bytes(out, 1, value.to_string().as_bytes()));
        }
        (Kind::IntOrString, Value::Number(value)) => put_nested(out, number, |out| {
            put_integer(out, 1, 0);
            put_integer(out, 2, value.as_i64().unwrap_or_default());
        }),
        (Kind::IntOrString, Value::String(text)) => put_nested(out, number, |out| {
            put_integer(out, 1, 1);
            put_bytes(out, 3, text.as_bytes());
        }),
        (Kind::Raw, value) => {
            put_nested(out, number, |out| put_bytes(out, 1, value.to_string().as_bytes()));
        }
        (Kind::Texts, Value::Array(texts)) => put_nested(out, number, |out| {
            for text in texts.iter().filter_map(Value::as_str) {
                put_bytes(out, 1, text.as_bytes());
            }
        }),
        (Kind::Message(name), Value::Object(object)) => put_object(out, number, name, object),
        (Kind::SchemaOrBool | Kind::SchemaOrList | Kind::SchemaOrTexts, value) => {
            put_nested(out, number, |out| put_schema_or(out, kind, value));
        }
        // Stored objects have the types of their fields; nothing else comes here.
        _ => (),
    }
}

fn put_object(out: &mut Vec<u8>, number: u32, name: &str, object: &Map<String, Value>) {
    put_nested(out, number, |out| put_fields(out, &types()[name], object));
}

/// The parts of the unions with a schema in them. A schema allows what it describes.
fn put_schema_or(out: &mut Vec<u8>, kind: Kind, value: &Value) {
    match (kind, value) {
        (Kind::SchemaOrBool, Value::Bool(allows)) => put_integer(out, 1, i64::from(*allows)),
        (Kind::SchemaOrBool, Value::Object(schema)) => {
            put_integer(out, 1, 1);
            put_object(out, 2, SCHEMA, schema);
        }
        (Kind::SchemaOrList | Kind::SchemaOrTexts, Value::Object(schema)) => {
            put_object(out, 1, SCHEMA, schema);
        }
        (Kind::SchemaOrList, Value::Array(schemas)) => {
            for schema in schemas.iter().filter_map(Value::as_object) {
                put_object(out, 2, SCHEMA, schema);
            }
        }
        (Kind::SchemaOrTexts, Value::Array(texts)) => {
            for text in texts.iter().filter_map(Value::as_str) {
                put_bytes(out, 2, text.as_bytes());
            }
        }
        // Stored schemas are well-formed.
        _ => (),
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_integer(out: &mut Vec<u8>, number: u32, value: i64) {
    put_varint(out, u64::from(number) << 3);
    put_varint(out, value as u64);
}

fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_varint(out, u64::from(number) << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// A message in a message. Its length stands before it, and is known after it: most take the one byte that is kept
/// free for it.
fn put_nested(out: &mut Vec<u8>, number: u32, put: impl FnOnce(&mut Vec<u8>)) {
    put_varint(out, u64::from(number) << 3 | 2);
    let at = out.len();
    out.push(0);
    put(out);
    let mut length = Vec::with_capacity(4);
    put_varint(&mut length, (out.len() - at - 1) as u64);
    out.splice(at..=at, length);
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};
    use serde_json::json;

    use super::{super::to_json, *};

    /// A value as the API server stores it.
    fn value(rng: &mut StdRng, kind: Kind, depth: u32) -> Value {
        let text = |rng: &mut StdRng| "ä".repeat(rng.random_range(1..100));
        let seconds = rng.random_range(1..4_000_000_000_i64);
        match kind {
            Kind::Text => text(rng).into(),
            Kind::Integer => [-1, 1, i64::MAX, seconds][rng.random_range(0..4)].into(),
            Kind::Boolean => true.into(),
            Kind::Double => 0.125.into(),
            Kind::Base64 => BASE64.encode(seconds.to_be_bytes()).into(),
            Kind::Time => time(seconds, 0, "%Y-%m-%dT%H:%M:%SZ"),
            Kind::MicroTime => time(seconds, rng.random_range(0..1_000_000), "%Y-%m-%dT%H:%M:%S%.6fZ"),
            Kind::Duration => ["15.012s", "1m0.5s", "250ms", "-2h0m0s"][rng.random_range(0..4)].into(),
            Kind::Quantity => "100m".into(),
            Kind::IntOrString if rng.random() => rng.random_range(-9..99).into(),
            Kind::IntOrString => text(rng).into(),
            Kind::Raw => json!({ "f:spec": { text(rng): [1, null] } }),
            Kind::Texts => json!([text(rng), text(rng)]),
            Kind::SchemaOrBool if rng.random() => rng.random::<bool>().into(),
            Kind::SchemaOrList if rng.random() => json!([schema(rng, depth), schema(rng, depth)]),
            Kind::SchemaOrTexts if rng.random() => json!([text(rng)]),
            Kind::SchemaOrBool | Kind::SchemaOrList | Kind::SchemaOrTexts => schema(rng, depth),
            Kind::Message(name) => Value::Object(sample(rng, &types()[name], depth + 1)),
        }
    }

    fn schema(rng: &mut StdRng, depth: u32) -> Value {
        Value::Object(sample(rng, &types()[SCHEMA], depth + 1))
    }

    fn time(seconds: i64, micros: i32, form: &str) -> Value {
        let time = Timestamp::new(seconds, micros * 1000).expect("in range");
        time.strftime(form).to_string().into()
    }

    /// An object of a message with some of its fields.
    fn sample(rng: &mut StdRng, message: &Message, depth: u32) -> Map<String, Value> {
        let mut object = Map::new();
        for field in message.values() {
            let Some(name) = field.name else {
                let Kind::Message(inner) = field.kind else { continue };
                object.extend(sample(rng, &types()[inner], depth + 1));
                continue;
            };
            if !rng.random_bool(if depth < 3 { 0.8 } else { 1.0 / f64::from(depth * depth) }) {
                continue;
            }
            let value = match field.shape {
                Shape::One => value(rng, field.kind, depth),
                Shape::List => json!([value(rng, field.kind, depth), value(rng, field.kind, depth)]),
                Shape::Map => {
                    json!({ "a": value(rng, field.kind, depth), "": value(rng, field.kind, depth) })
                }
            };
            // An empty object in a field that is no pointer says nothing.
            if !(field.drops_zero && value.as_object().is_some_and(Map::is_empty)) {
                object.insert(name.to_owned(), value);
            }
        }
        object
    }

    #[test]
    fn every_kind_survives_the_way_to_protobuf_and_back() {
        let kinds = crate::registry::Kinds::builtin();
        for seed in 0..20 {
            let mut rng = StdRng::seed_from_u64(seed);
            for served in kinds.all() {
                let (api_version, kind) = (served.api_version.as_str(), served.info.kind);
                let (_, message) =
                    message(api_version, kind).unwrap_or_else(|| panic!("{api_version} {kind}"));
                let mut value = sample(&mut rng, message, 0);
                value.insert("apiVersion".into(), api_version.into());
                value.insert("kind".into(), kind.into());
                let value = Value::Object(value);
                let encoded = object(value.to_string().as_bytes()).expect("a message");
                assert_eq!(to_json(&encoded), Ok(value), "{kind} of seed {seed}");
            }
        }
    }

    #[test]
    fn lists_of_stored_objects_and_of_json_are_the_same_bytes() {
        let item = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "a" }, "data": { "k": "v" } });
        let metadata = json!({ "resourceVersion": "7", "continue": "more", "remainingItemCount": 3 });
        let mut list = List::new("v1", "ConfigMap", &metadata).expect("a kind with a message");
        list.push(item.to_string().as_bytes());
        let whole =
            json!({ "apiVersion": "v1", "kind": "ConfigMapList", "metadata": metadata, "items": [item] });
        let bytes = list.finish();
        assert_eq!(object(whole.to_string().as_bytes()), Some(bytes.clone()));
        assert!(bytes.starts_with(b"k8s\0\x0a\x13\x0a\x02v1\x12\x0dConfigMapList"));
    }

    #[test]
    fn a_frame_is_led_by_its_length() {
        let frame = watch_frame("ADDED", b"k8s\0object");
        assert_eq!(frame[..4], [0, 0, 0, 21]);
        assert_eq!(&frame[4..], b"\x0a\x05ADDED\x12\x0c\x0a\x0ak8s\0object");
    }

    #[test]
    fn what_has_no_message_is_left_alone() {
        assert_eq!(object(br#"{"apiVersion":"example.com/v1","kind":"Shop"}"#), None);
        assert_eq!(object(br#"{"apiVersion":"meta.k8s.io/v1","kind":"Table","rows":[]}"#), None);
        assert_eq!(object(b"[]"), None);
    }
}
