//! Types, as far as they are known before a value is.

use std::{collections::BTreeMap, fmt, sync::Arc};

/// The type of an expression.
#[derive(Debug, Clone, PartialEq)]
pub enum Type {
    /// Only known when there is a value.
    Dyn,
    /// What is in an empty list or map: it gives way to any other.
    Open,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Timestamp,
    Duration,
    List(Box<Self>),
    Map(Box<Self>, Box<Self>),
    Optional(Box<Self>),
    /// The type of types.
    Type,
    Object(Arc<ObjectType>),
    /// What a patch is made of: `Object`, `Object.spec`, …, or `JSONPatch`.
    Message(Arc<str>),
    /// One of Kubernetes' own.
    Special(&'static str),
}

/// A map whose keys are known.
#[derive(Debug, PartialEq)]
pub struct ObjectType {
    pub name: String,
    pub fields: BTreeMap<String, Type>,
}

impl Type {
    pub fn list(item: Self) -> Self {
        Self::List(Box::new(item))
    }

    pub fn map(key: Self, value: Self) -> Self {
        Self::Map(Box::new(key), Box::new(value))
    }

    pub fn optional(value: Self) -> Self {
        Self::Optional(Box::new(value))
    }

    /// Whether a value of this type may be one of the other.
    pub fn fits(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Dyn | Self::Open, _) | (_, Self::Dyn | Self::Open) => true,
            (Self::List(one), Self::List(other)) | (Self::Optional(one), Self::Optional(other)) => {
                one.fits(other)
            }
            (Self::Map(key, value), Self::Map(other_key, other_value)) => {
                key.fits(other_key) && value.fits(other_value)
            }
            (Self::Object(_), Self::Map(key, _)) | (Self::Map(key, _), Self::Object(_)) => {
                key.fits(&Self::String)
            }
            // Anything that is a message or a wrapper may be null.
            (
                Self::Null,
                Self::Object(_)
                | Self::Message(_)
                | Self::Timestamp
                | Self::Duration
                | Self::Optional(_)
                | Self::Special(_),
            )
            | (
                Self::Object(_)
                | Self::Message(_)
                | Self::Timestamp
                | Self::Duration
                | Self::Optional(_)
                | Self::Special(_),
                Self::Null,
            ) => true,
            _ => self == other,
        }
    }

    /// The type of which both are.
    pub fn join(self, other: Self) -> Self {
        match (self, other) {
            (Self::Open, other) | (other, Self::Open) => other,
            (Self::List(one), Self::List(other)) => Self::list(one.join(*other)),
            (Self::Map(key, value), Self::Map(other_key, other_value)) => {
                Self::map(key.join(*other_key), value.join(*other_value))
            }
            (one, other) if one == other => one,
            _ => Self::Dyn,
        }
    }

    /// The same where nothing is left to give way.
    pub fn settled(self) -> Self {
        match self {
            Self::Open => Self::Dyn,
            Self::List(item) => Self::list(item.settled()),
            Self::Map(key, value) => Self::map(key.settled(), value.settled()),
            Self::Optional(inner) => Self::optional(inner.settled()),
            other => other,
        }
    }

    pub fn is_number(&self) -> bool {
        matches!(self, Self::Int | Self::Uint | Self::Double)
    }
}

impl fmt::Display for Type {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Dyn | Self::Open => "dyn",
            Self::Null => "null",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Uint => "uint",
            Self::Double => "double",
            Self::String => "string",
            Self::Bytes => "bytes",
            Self::Timestamp => "timestamp",
            Self::Duration => "duration",
            Self::Type => "type",
            Self::List(item) => return write!(formatter, "list({item})"),
            Self::Map(key, value) => return write!(formatter, "map({key}, {value})"),
            Self::Optional(value) => return write!(formatter, "optional_type({value})"),
            Self::Object(object) => &object.name,
            Self::Message(name) => name,
            Self::Special(name) => name,
        };
        formatter.write_str(name)
    }
}
