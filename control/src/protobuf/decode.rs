//! From protobuf to JSON.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};

use super::{
    MAGIC, ProtobufError,
    types::{Kind, Message, SCHEMA, Shape, message, types},
};

/// Messages nest no deeper than this in any type; a hostile body might.
const MAX_DEPTH: usize = 64;

type Result<T> = std::result::Result<T, ProtobufError>;

/// Decodes Kubernetes' envelope and the object in it.
pub fn to_json(body: &[u8]) -> Result<Value> {
    let envelope = body.strip_prefix(MAGIC).ok_or(ProtobufError::NoMagic)?;
    let (mut api_version, mut kind, mut raw): (String, String, &[u8]) = Default::default();
    for field in Fields(envelope) {
        match field? {
            (1, Wire::Bytes(type_meta)) => {
                for field in Fields(type_meta) {
                    match field? {
                        (1, Wire::Bytes(text)) => api_version = text_of(text)?,
                        (2, Wire::Bytes(text)) => kind = text_of(text)?,
                        _ => (),
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => (),
        }
    }
    let unknown = || ProtobufError::UnknownType { api_version: api_version.clone(), kind: kind.clone() };
    let (_, message) = message(&api_version, &kind).ok_or_else(unknown)?;
    let mut object = Map::new();
    fill(message, raw, &mut object, 0)?;
    object.insert("apiVersion".into(), api_version.into());
    object.insert("kind".into(), kind.into());
    Ok(Value::Object(object))
}

fn fill(message: &Message, bytes: &[u8], object: &mut Map<String, Value>, depth: usize) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(ProtobufError::Malformed);
    }
    for field in Fields(bytes) {
        let (number, wire) = field?;
        // A newer client's fields are unknown, as they would be in JSON.
        let Some(field) = message.get(&number) else { continue };
        let Some(name) = field.name else {
            if let (Kind::Message(inner), Wire::Bytes(bytes)) = (field.kind, wire) {
                fill(&types()[inner], bytes, object, depth + 1)?;
            }
            continue;
        };
        match field.shape {
            Shape::One => {
                let value = value(field.kind, wire, depth)?;
                if !(value.is_null() || field.drops_zero && is_zero(&value)) {
                    object.insert(name.into(), value);
                }
            }
            Shape::List => {
                let value = value(field.kind, wire, depth)?;
                let list = object.entry(name).or_insert_with(|| Value::Array(Vec::new()));
                list.as_array_mut().ok_or(ProtobufError::Malformed)?.push(value);
            }
            Shape::Map => {
                let (key, value) = map_entry(field.kind, wire, depth)?;
                let map = object.entry(name).or_insert_with(|| Value::Object(Map::new()));
                map.as_object_mut().ok_or(ProtobufError::Malformed)?.insert(key, value);
            }
        }
    }
    Ok(())
}

fn map_entry(kind: Kind, wire: Wire<'_>, depth: usize) -> Result<(String, Value)> {
    let Wire::Bytes(entry) = wire else { return Err(ProtobufError::Malformed) };
    let mut key = String::new();
    // A value that is its type's zero may be left out.
    let mut found = match kind {
        Kind::Text | Kind::Base64 => Value::String(String::new()),
        Kind::Message(_) => Value::Object(Map::new()),
        _ => Value::Null,
    };
    for field in Fields(entry) {
        match field? {
            (1, Wire::Bytes(text)) => key = text_of(text)?,
            (2, wire) => found = value(kind, wire, depth)?,
            _ => (),
        }
    }
    Ok((key, found))
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

fn value(kind: Kind, wire: Wire<'_>, depth: usize) -> Result<Value> {
    Ok(match (kind, wire) {
        (Kind::Text, Wire::Bytes(bytes)) => text_of(bytes)?.into(),
        (Kind::Integer, Wire::Varint(number)) => (number as i64).into(),
        (Kind::Boolean, Wire::Varint(number)) => (number != 0).into(),
        (Kind::Double, Wire::Fixed64(bits)) => f64::from_bits(bits).into(),
        (Kind::Base64, Wire::Bytes(bytes)) => BASE64.encode(bytes).into(),
        (Kind::Message(name), Wire::Bytes(bytes)) => object(name, bytes, depth)?,
        (Kind::SchemaOrBool | Kind::SchemaOrList | Kind::SchemaOrTexts, Wire::Bytes(bytes)) => {
            schema_or(kind, bytes, depth)?
        }
        (_, Wire::Bytes(bytes)) => special(kind, bytes)?,
        _ => return Err(ProtobufError::Malformed),
    })
}

fn object(name: &str, bytes: &[u8], depth: usize) -> Result<Value> {
    let mut object = Map::new();
    fill(&types()[name], bytes, &mut object, depth + 1)?;
    Ok(Value::Object(object))
}

/// The unions with a schema in them: JSON writes the part that is there.
fn schema_or(kind: Kind, bytes: &[u8], depth: usize) -> Result<Value> {
    // Of what is neither, JSON says so in a word.
    let mut found = if matches!(kind, Kind::SchemaOrBool) { Value::Bool(false) } else { Value::Null };
    let mut list = Vec::new();
    for field in Fields(bytes) {
        match (kind, field?) {
            (Kind::SchemaOrBool, (1, Wire::Varint(allows))) if !found.is_object() => {
                found = (allows != 0).into();
            }
            (Kind::SchemaOrBool, (2, Wire::Bytes(schema)))
            | (Kind::SchemaOrList | Kind::SchemaOrTexts, (1, Wire::Bytes(schema))) => {
                found = object(SCHEMA, schema, depth + 1)?;
            }
            (Kind::SchemaOrList, (2, Wire::Bytes(schema))) => list.push(object(SCHEMA, schema, depth + 1)?),
            (Kind::SchemaOrTexts, (2, Wire::Bytes(text))) => list.push(text_of(text)?.into()),
            _ => (),
        }
    }
    Ok(if list.is_empty() { found } else { list.into() })
}

/// The messages that JSON writes as something simpler.
fn special(kind: Kind, bytes: &[u8]) -> Result<Value> {
    let mut numbers = [0_i64; 4];
    let mut texts: Vec<&[u8]> = Vec::new();
    for field in Fields(bytes) {
        match field? {
            (number @ 1..=3, Wire::Varint(value)) => numbers[number as usize] = value as i64,
            (_, Wire::Bytes(bytes)) => texts.push(bytes),
            _ => (),
        }
    }
    let first = texts.first().copied().unwrap_or_default();
    Ok(match kind {
        // Go's zero time is the absence of one.
        Kind::Time | Kind::MicroTime if bytes.is_empty() => Value::Null,
        Kind::Time => time(numbers[1], 0)?.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into(),
        Kind::MicroTime => {
            time(numbers[1], numbers[2])?.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string().into()
        }
        Kind::Duration => naru_model::duration::go(SignedDuration::from_nanos(numbers[1])).into(),
        Kind::Quantity => text_of(first)?.into(),
        Kind::IntOrString if numbers[1] == 0 => i64::from(numbers[2] as i32).into(),
        Kind::IntOrString => text_of(first)?.into(),
        Kind::Raw if first.is_empty() => Value::Null,
        Kind::Raw => serde_json::from_slice(first).map_err(|_| ProtobufError::Malformed)?,
        Kind::Texts => {
            texts.into_iter().map(|text| text_of(text).map(Value::from)).collect::<Result<Vec<_>>>()?.into()
        }
        _ => return Err(ProtobufError::Malformed),
    })
}

fn time(seconds: i64, nanoseconds: i64) -> Result<Timestamp> {
    Timestamp::new(seconds, nanoseconds as i32).map_err(|_| ProtobufError::Malformed)
}

fn text_of(bytes: &[u8]) -> Result<String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| ProtobufError::Malformed)
}

/// A field's value as it is on the wire.
#[derive(Debug, Clone, Copy)]
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32,
}

/// The fields of a message, in order.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Wire<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field().ok_or(ProtobufError::Malformed);
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u32, Wire<'a>)> {
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).ok().filter(|number| *number > 0)?;
        let wire = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.take(8)?.try_into().ok()?)),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Wire::Fixed32
            }
            _ => return None,
        };
        Some((number, wire))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (first, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A length-delimited field.
    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![number << 3 | 2, u8::try_from(content.len()).expect("small")];
        bytes.extend_from_slice(content);
        bytes
    }

    fn number(field: u8, value: u8) -> Vec<u8> {
        vec![field << 3, value]
    }

    fn envelope(api_version: &str, kind: &str, object: &[u8]) -> Vec<u8> {
        let type_meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), field(1, &type_meta), field(2, object)].concat()
    }

    #[test]
    fn zero_values_are_dropped_unless_the_field_is_a_pointer() {
        // metadata with a name and the empty fields that Go sends along; spec.replicas is a pointer, minReadySeconds
        // not.
        let metadata = [field(1, b"web"), field(2, b""), number(7, 0), field(8, b"")].concat();
        let spec = [number(1, 0), number(5, 0)].concat();
        let body = envelope("apps/v1", "Deployment", &[field(1, &metadata), field(2, &spec)].concat());
        let expected = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" }, "spec": { "replicas": 0 },
        });
        assert_eq!(to_json(&body), Ok(expected));
    }

    #[test]
    fn inlined_messages_maps_and_special_types_look_as_in_json() {
        let port = [number(1, 1), field(3, b"http")].concat();
        let probe = field(1, &field(2, &field(2, &port)));
        let limits = field(1, &[field(1, b"cpu"), field(2, &field(1, b"100m"))].concat());
        let container = [field(1, b"c"), field(8, &limits), field(10, &probe)].concat();
        let body = envelope("v1", "Pod", &field(2, &field(2, &container)));
        let expected = json!([{
            "name": "c",
            "resources": { "limits": { "cpu": "100m" } },
            "livenessProbe": { "httpGet": { "port": "http" } },
        }]);
        assert_eq!(to_json(&body).expect("a pod")["spec"]["containers"], expected);
        let secret = envelope("v1", "Secret", &field(2, &[field(1, b"key"), field(2, &[0xff, 0])].concat()));
        assert_eq!(to_json(&secret).expect("a secret")["data"], json!({ "key": "/wA=" }));
    }

    #[test]
    fn whatever_is_no_such_message_is_refused() {
        assert_eq!(to_json(b"{}"), Err(ProtobufError::NoMagic));
        let truncated = [MAGIC, &[0x0a, 0x7f]].concat();
        assert_eq!(to_json(&truncated), Err(ProtobufError::Malformed));
        let stranger = envelope("example.com/v1", "Shop", b"");
        assert!(matches!(to_json(&stranger), Err(ProtobufError::UnknownType { .. })));
    }
}
