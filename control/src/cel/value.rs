//! Values.

use std::{cmp::Ordering, collections::BTreeMap, fmt, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::Value as Json;

use super::{EvalError, failed, vocabulary::Special};

/// A value; large ones are shared.
#[derive(Debug, Clone)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Arc<str>),
    Bytes(Arc<[u8]>),
    Timestamp(Timestamp),
    Duration(SignedDuration),
    List(Arc<Vec<Self>>),
    Map(Arc<BTreeMap<Key, Self>>),
    Optional(Option<Box<Self>>),
    Type(&'static str),
    Special(Arc<Special>),
}

/// A key of a map. Numbers of all types that are equal are one key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Bool(bool),
    Number(i128),
    String(Arc<str>),
}

impl Key {
    pub fn of(value: &Value) -> Option<Self> {
        Some(match value {
            Value::Bool(flag) => Self::Bool(*flag),
            Value::Int(number) => Self::Number((*number).into()),
            Value::Uint(number) => Self::Number((*number).into()),
            Value::Double(number) if number.fract() == 0.0 => Self::Number(*number as i128),
            Value::String(text) => Self::String(text.clone()),
            _ => return None,
        })
    }

    pub fn text(text: &str) -> Self {
        Self::String(text.into())
    }

    pub fn value(&self) -> Value {
        match self {
            Self::Bool(flag) => Value::Bool(*flag),
            Self::Number(number) => {
                i64::try_from(*number).map_or_else(|_| Value::Uint(*number as u64), Value::Int)
            }
            Self::String(text) => Value::String(text.clone()),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(flag) => write!(formatter, "{flag}"),
            Self::Number(number) => write!(formatter, "{number}"),
            Self::String(text) => formatter.write_str(text),
        }
    }
}

impl Value {
    pub fn text(text: impl Into<Arc<str>>) -> Self {
        Self::String(text.into())
    }

    pub fn list(items: Vec<Self>) -> Self {
        Self::List(Arc::new(items))
    }

    pub fn some(value: Self) -> Self {
        Self::Optional(Some(Box::new(value)))
    }

    /// JSON without a schema: numbers without a fraction are ints.
    pub fn from_json(json: &Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(flag) => Self::Bool(*flag),
            Json::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(number), _) => Self::Int(number),
                (None, Some(number)) => Self::Uint(number),
                (None, None) => Self::Double(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Self::text(text.as_str()),
            Json::Array(items) => Self::list(items.iter().map(Self::from_json).collect()),
            Json::Object(map) => Self::Map(Arc::new(
                map.iter().map(|(key, value)| (Key::text(key), Self::from_json(value))).collect(),
            )),
        }
    }

    /// As JSON.
    ///
    /// # Errors
    /// What has no form in JSON: maps whose keys are no texts, types, Kubernetes' own values.
    pub fn to_json(&self) -> Result<Json, EvalError> {
        Ok(match self {
            Self::Null => Json::Null,
            Self::Bool(flag) => (*flag).into(),
            Self::Int(number) => (*number).into(),
            Self::Uint(number) => (*number).into(),
            Self::Double(number) => (*number).into(),
            Self::String(text) => (&**text).into(),
            Self::Bytes(bytes) => STANDARD.encode(bytes).into(),
            Self::Timestamp(time) => time.to_string().into(),
            Self::Duration(duration) => super::time::format_duration(*duration).into(),
            Self::List(items) => Json::Array(items.iter().map(Self::to_json).collect::<Result<_, _>>()?),
            Self::Map(map) => {
                let entries = map.iter().map(|(key, value)| match key {
                    Key::String(text) => Ok((text.to_string(), value.to_json()?)),
                    other => failed(format!("a map with the key {other} is no JSON")),
                });
                Json::Object(entries.collect::<Result<_, _>>()?)
            }
            Self::Optional(None) => Json::Null,
            Self::Optional(Some(value)) => value.to_json()?,
            Self::Special(special) => match &**special {
                Special::Message(message) => {
                    let fields =
                        message.fields.iter().map(|(name, value)| Ok((name.clone(), value.to_json()?)));
                    Json::Object(fields.collect::<Result<_, _>>()?)
                }
                other => return failed(format!("a value of type '{}' is no JSON", other.type_name())),
            },
            Self::Type(_) => return failed("a type is no JSON"),
        })
    }

    /// The name of its type, as `type(…)` and error texts say it.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::String(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::Timestamp(_) => "google.protobuf.Timestamp",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::List(_) => "list",
            Self::Map(_) => "map",
            Self::Optional(_) => "optional_type",
            Self::Type(_) => "type",
            Self::Special(special) => special.type_name(),
        }
    }

    /// How much there is of it, in the units in which looking at all of it is charged.
    pub fn weight(&self) -> u64 {
        match self {
            Self::String(text) => 1 + text.len() as u64 / 10,
            Self::Bytes(bytes) => 1 + bytes.len() as u64 / 10,
            Self::List(items) => 1 + items.iter().map(Self::weight).sum::<u64>(),
            Self::Map(map) => 1 + map.values().map(Self::weight).sum::<u64>(),
            Self::Optional(Some(value)) => 1 + value.weight(),
            _ => 1,
        }
    }

    fn number(&self) -> Option<Number> {
        Some(match self {
            Self::Int(number) => Number::Whole((*number).into()),
            Self::Uint(number) => Number::Whole((*number).into()),
            Self::Double(number) => Number::Double(*number),
            _ => return None,
        })
    }

    /// The order of two values of the same sort; numbers of all types are compared by amount.
    pub fn compare(&self, other: &Self) -> Option<Ordering> {
        if let (Some(one), Some(other)) = (self.number(), other.number()) {
            return one.compare(other);
        }
        match (self, other) {
            (Self::Bool(one), Self::Bool(other)) => Some(one.cmp(other)),
            (Self::String(one), Self::String(other)) => Some(one.cmp(other)),
            (Self::Bytes(one), Self::Bytes(other)) => Some(one.cmp(other)),
            (Self::Timestamp(one), Self::Timestamp(other)) => Some(one.cmp(other)),
            (Self::Duration(one), Self::Duration(other)) => Some(one.cmp(other)),
            _ => None,
        }
    }
}

enum Number {
    Whole(i128),
    Double(f64),
}

impl Number {
    fn compare(self, other: Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Whole(one), Self::Whole(other)) => Some(one.cmp(&other)),
            (Self::Double(one), Self::Double(other)) => one.partial_cmp(&other),
            (Self::Whole(one), Self::Double(other)) => (one as f64).partial_cmp(&other),
            (Self::Double(one), Self::Whole(other)) => one.partial_cmp(&(other as f64)),
        }
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::List(one), Self::List(other)) => Arc::ptr_eq(one, other) || one == other,
            (Self::Map(one), Self::Map(other)) => Arc::ptr_eq(one, other) || one == other,
            (Self::Optional(one), Self::Optional(other)) => one == other,
            (Self::Type(one), Self::Type(other)) => one == other,
            (Self::Special(one), Self::Special(other)) => one == other,
            _ => self.compare(other) == Some(Ordering::Equal),
        }
    }
}

/// As in messages: texts are quoted.
impl fmt::Display for Value {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => formatter.write_str("null"),
            Self::Bool(flag) => write!(formatter, "{flag}"),
            Self::Int(number) => write!(formatter, "{number}"),
            Self::Uint(number) => write!(formatter, "{number}"),
            Self::Double(number) => write!(formatter, "{number}"),
            Self::String(text) => write!(formatter, "{text:?}"),
            Self::Bytes(bytes) => write!(formatter, "{:?}", String::from_utf8_lossy(bytes)),
            Self::Timestamp(time) => write!(formatter, "{time}"),
            Self::Duration(duration) => formatter.write_str(&super::time::format_duration(*duration)),
            Self::List(items) => {
                let items: Vec<String> = items.iter().map(ToString::to_string).collect();
                write!(formatter, "[{}]", items.join(", "))
            }
            Self::Map(map) => {
                let entries: Vec<String> =
                    map.iter().map(|(key, value)| format!("{}: {value}", key.value())).collect();
                write!(formatter, "{{{}}}", entries.join(", "))
            }
            Self::Optional(None) => formatter.write_str("optional.none()"),
            Self::Optional(Some(value)) => write!(formatter, "optional({value})"),
            Self::Type(name) => formatter.write_str(name),
            Self::Special(special) => write!(formatter, "{special}"),
        }
    }
}
