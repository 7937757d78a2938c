//! Objects as they are compared: read once, nothing copied that can be borrowed.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::{Number, Value};

/// JSON, borrowed from its text or from a [`Value`].
#[derive(Debug, Clone, PartialEq)]
pub enum Tree<'a> {
    Null,
    Bool(bool),
    Number(Cow<'a, Number>),
    String(Cow<'a, str>),
    List(Vec<Tree<'a>>),
    /// Ordered by key.
    Map(Vec<(Cow<'a, str>, Tree<'a>)>),
}

/// An object without fields.
pub(super) static EMPTY: Tree<'static> = Tree::Map(Vec::new());
pub(super) static NULL: Tree<'static> = Tree::Null;

impl<'a> Tree<'a> {
    pub fn parse(json: &'a [u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(json)
    }

    pub(super) fn get(&self, name: &str) -> Option<&Tree<'a>> {
        let Self::Map(members) = self else { return None };
        let at = members.binary_search_by(|(key, _)| (**key).cmp(name)).ok()?;
        Some(&members[at].1)
    }

    /// Neither null nor an empty list or map.
    pub(super) fn has_content(&self) -> bool {
        match self {
            Self::Null => false,
            Self::List(items) => !items.is_empty(),
            Self::Map(members) => !members.is_empty(),
            _ => true,
        }
    }

    /// A scalar as JSON.
    pub(super) fn to_value(&self) -> Value {
        match self {
            Self::Bool(value) => (*value).into(),
            Self::Number(value) => Value::Number((**value).clone()),
            Self::String(value) => (&**value).into(),
            Self::Null | Self::List(_) | Self::Map(_) => Value::Null,
        }
    }
}

impl<'a> From<&'a Value> for Tree<'a> {
    fn from(value: &'a Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(*value),
            Value::Number(value) => Self::Number(Cow::Borrowed(value)),
            Value::String(value) => Self::String(value.into()),
            Value::Array(items) => Self::List(items.iter().map(Self::from).collect()),
            Value::Object(map) => {
                Self::Map(map.iter().map(|(name, value)| (name.into(), value.into())).collect())
            }
        }
    }
}

impl<'de> Deserialize<'de> for Tree<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }
    fn visit_unit<E>(self) -> Result<Tree<'de>, E> {
        Ok(Tree::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Tree<'de>, E> {
        Ok(Tree::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Tree<'de>, E> {
        Ok(Tree::Number(Cow::Owned(value.into())))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Tree<'de>, E> {
        Ok(Tree::Number(Cow::Owned(value.into())))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Tree<'de>, E> {
        Ok(Number::from_f64(value).map_or(Tree::Null, |value| Tree::Number(Cow::Owned(value))))
    }
    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Tree<'de>, E> {
        Ok(Tree::String(value.into()))
    }
    fn visit_str<E>(self, value: &str) -> Result<Tree<'de>, E> {
        Ok(Tree::String(value.to_owned().into()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Tree<'de>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Tree::List(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree<'de>, A::Error> {
        let mut members: Vec<(Cow<'de, str>, Tree<'de>)> = Vec::with_capacity(8);
        while let Some((Name(name), value)) = map.next_entry()? {
            members.push((name, value));
        }
        if !members.is_sorted_by(|left, right| left.0 < right.0) {
            members.sort_by(|left, right| left.0.cmp(&right.0));
            members.dedup_by(|left, right| left.0 == right.0);
        }
        Ok(Tree::Map(members))
    }
}

/// A key, borrowed where it has no escapes. (`Cow` itself always deserializes to an owned string.)
struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl<'de> Visitor<'de> for NameVisitor {
            type Value = Name<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a key")
            }
            fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(value.into()))
            }
            fn visit_str<E>(self, value: &str) -> Result<Name<'de>, E> {
                Ok(Name(value.to_owned().into()))
            }
        }
        deserializer.deserialize_str(NameVisitor)
    }
}
