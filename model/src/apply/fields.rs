//! Sets of fields, in the form of `FieldsV1`: a trie whose edges are named `f:NAME`, `k:{KEYS}`, `v:VALUE` or
//! `i:INDEX`.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt,
};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, MapAccess, Visitor},
    ser::SerializeMap,
};
use serde_json::{Map, Value};

/// One step into an object, spelled as in `FieldsV1`; keys and values are canonical JSON, so that equal steps are
/// equal text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Element(Box<str>);

/// A set of fields. A field in it says nothing of the fields below it: those are members of their own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields {
    /// Whether the field that leads here is in the set.
    pub(super) is_member: bool,
    pub(super) below: BTreeMap<Element, Fields>,
}

impl Element {
    pub fn field(name: &str) -> Self {
        Self([FIELD, name].concat().into())
    }

    /// An item of a list, by the fields that tell it apart.
    pub fn key(fields: Map<String, Value>) -> Self {
        Self(format!("{KEY}{}", Value::Object(fields)).into())
    }

    /// An item of a set.
    pub fn value(value: &Value) -> Self {
        Self(format!("{VALUE}{value}").into())
    }

    /// The name, if this is a field.
    pub fn name(&self) -> Option<&str> {
        self.0.strip_prefix(FIELD)
    }

    pub fn is_key(&self) -> bool {
        self.0.starts_with(KEY)
    }

    fn parse(text: &str) -> Option<Self> {
        let canonical = match text.get(..2)? {
            FIELD => return Some(Self(text.into())),
            KEY => {
                let keys: Map<String, Value> = serde_json::from_str(&text[2..]).ok()?;
                return Some(Self::key(keys));
            }
            VALUE => return Some(Self::value(&serde_json::from_str(&text[2..]).ok()?)),
            INDEX => format!("{INDEX}{}", text[2..].parse::<i64>().ok()?),
            _ => return None,
        };
        Some(Self(canonical.into()))
    }
}

const FIELD: &str = "f:";
const KEY: &str = "k:";
const VALUE: &str = "v:";
const INDEX: &str = "i:";
/// The member itself, where there are others below it.
const SELF: &str = ".";

/// As messages show it: `.name`, `[name="web"]`, `[="value"]`, `[0]`.
impl fmt::Display for Element {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, text) = self.0.split_at(2);
        match kind {
            FIELD => write!(formatter, ".{text}"),
            VALUE => write!(formatter, "[={text}]"),
            KEY => {
                let keys: Map<String, Value> = serde_json::from_str(text).unwrap_or_default();
                let keys: Vec<_> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
                write!(formatter, "[{}]", keys.join(","))
            }
            _ => write!(formatter, "[{text}]"),
        }
    }
}

impl Fields {
    /// A set of these fields, given as names joined by dots: `metadata.labels`.
    pub fn of_paths<'a>(paths: impl IntoIterator<Item = &'a str>) -> Self {
        let mut fields = Self::default();
        for path in paths {
            let mut at = &mut fields;
            for name in path.split('.') {
                at = at.below.entry(Element::field(name)).or_default();
            }
            at.is_member = true;
        }
        fields
    }

    pub fn is_empty(&self) -> bool {
        !self.is_member && self.below.is_empty()
    }

    pub fn has(&self, path: &[Element]) -> bool {
        let end = path.iter().try_fold(self, |fields, element| fields.below.get(element));
        end.is_some_and(|fields| fields.is_member)
    }

    /// Puts a subset below `element`, if there is anything in it.
    pub(super) fn put(&mut self, element: Element, below: Self) {
        if !below.is_empty() {
            self.below.insert(element, below);
        }
    }

    /// The same for an element that is still needed.
    pub(super) fn put_named(&mut self, element: &Element, below: Self) {
        if !below.is_empty() {
            self.below.insert(element.clone(), below);
        }
    }

    /// Adds all that is in `other`.
    pub fn add(&mut self, other: Self) {
        self.is_member |= other.is_member;
        for (element, fields) in other.below {
            match self.below.entry(element) {
                Entry::Occupied(mut known) => known.get_mut().add(fields),
                Entry::Vacant(place) => drop(place.insert(fields)),
            }
        }
    }

    /// Takes out what is in `other`.
    pub fn subtract(&mut self, other: &Self) {
        self.is_member &= !other.is_member;
        self.retain_below(other, |fields, other| fields.subtract(other));
    }

    /// Takes out what is in `other`, and all that is below it.
    pub fn subtract_whole(&mut self, other: &Self) {
        self.retain_below(other, |fields, other| {
            if other.is_member {
                *fields = Self::default();
            } else {
                fields.subtract_whole(other);
            }
        });
    }

    fn retain_below(&mut self, other: &Self, subtract: impl Fn(&mut Self, &Self)) {
        if other.below.is_empty() {
            return;
        }
        self.below.retain(|element, fields| {
            if let Some(other) = other.below.get(element) {
                subtract(fields, other);
            }
            !fields.is_empty()
        });
    }

    pub fn intersection(&self, other: &Self) -> Self {
        let mut common = Self { is_member: self.is_member && other.is_member, ..Self::default() };
        for (element, fields) in &self.below {
            if let Some(other) = other.below.get(element) {
                common.put(element.clone(), fields.intersection(other));
            }
        }
        common
    }

    /// Every member, as the steps that lead to it.
    pub fn paths(&self) -> Vec<Vec<Element>> {
        fn collect(fields: &Fields, path: &mut Vec<Element>, found: &mut Vec<Vec<Element>>) {
            for (element, below) in &fields.below {
                path.push(element.clone());
                if below.is_member {
                    found.push(path.clone());
                }
                collect(below, path, found);
                path.pop();
            }
        }
        let mut found = Vec::new();
        collect(self, &mut Vec::new(), &mut found);
        found
    }
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if self.is_member && !self.below.is_empty() {
            map.serialize_entry(SELF, &Self::default())?;
        }
        for (Element(element), fields) in &self.below {
            map.serialize_entry(element, fields)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a set of fields")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Fields::default();
                while let Some((name, mut below)) = map.next_entry::<String, Fields>()? {
                    if name == SELF {
                        fields.is_member = true;
                        continue;
                    }
                    let element = Element::parse(&name)
                        .ok_or_else(|| A::Error::custom(format!("not a path element: {name}")))?;
                    below.is_member |= below.below.is_empty();
                    fields.below.insert(element, below);
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(FieldsVisitor)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(value: Value) -> Fields {
        serde_json::from_value(value).expect("a set of fields")
    }

    #[test]
    fn a_set_is_written_as_it_was_read() {
        let value = json!({
            "f:metadata": { "f:finalizers": { ".": {}, "v:\"a/b\"": {} } },
            "f:spec": { "f:ports": { "k:{\"port\":80,\"protocol\":\"TCP\"}": { ".": {}, "f:port": {} } } },
        });
        assert_eq!(serde_json::to_value(fields(value.clone())).expect("writes"), value);
        let other_order = json!({ "k:{ \"protocol\": \"TCP\", \"port\": 80 }": {} });
        assert_eq!(fields(other_order), fields(json!({ "k:{\"port\":80,\"protocol\":\"TCP\"}": {} })));
        for broken in
            [json!({ "x:a": {} }), json!({ "f": {} }), json!({ "k:1": {} }), json!({ "i:a": {} }), json!(1)]
        {
            assert!(serde_json::from_value::<Fields>(broken.clone()).is_err(), "{broken}");
        }
    }

    #[test]
    fn members_print_as_paths() {
        let set = fields(json!({ "f:spec": { "f:ports": {
            "k:{\"port\":80,\"protocol\":\"TCP\"}": { ".": {}, "f:port": {} },
        } }, "f:list": { "v:\"a\"": {}, "i:3": {} } }));
        let paths: Vec<String> =
            set.paths().iter().map(|path| path.iter().map(ToString::to_string).collect()).collect();
        let ports = r#".spec.ports[port=80,protocol="TCP"]"#;
        assert_eq!(paths, [".list[3]", ".list[=\"a\"]", ports, &format!("{ports}.port")]);
    }

    #[test]
    fn a_member_goes_alone_or_with_all_below_it() {
        let all = fields(json!({ "f:a": { ".": {}, "f:b": {} }, "f:c": {} }));
        let mut some = all.clone();
        some.subtract(&Fields::of_paths(["a"]));
        assert_eq!(some, fields(json!({ "f:a": { "f:b": {} }, "f:c": {} })));
        let mut some = all.clone();
        some.subtract_whole(&Fields::of_paths(["a"]));
        assert_eq!(some, Fields::of_paths(["c"]));
        assert_eq!(all.intersection(&Fields::of_paths(["a", "c.d"])), Fields::of_paths(["a"]));
    }
}
