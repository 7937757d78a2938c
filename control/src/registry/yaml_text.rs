//! YAML bodies: what they say, and which keys they set twice, which the JSON that is made of them no longer shows.

use std::fmt;

use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_yaml::{Deserializer, Error};

/// So much text is read again to tell the lines of repeated keys; where the text is longer, the line of one is told.
const MAX_REREAD_BYTES: usize = 4 << 20;
/// So many repeated keys are told.
const MAX_REPEATED: usize = 100;

/// What a YAML text says.
#[derive(Debug)]
pub struct Document {
    /// Of a key that is set twice, the last value.
    pub value: Value,
    /// `line 3: key "a" already set in map`, as Kubernetes' decoder says it; the line is the later value's.
    pub repeated: Vec<String>,
}

/// Reads one document.
///
/// # Errors
/// Where `text` is not YAML, is more than one document, or has values that JSON does not.
pub fn read(text: &[u8]) -> Result<Document, Error> {
    let mut walk = Walk::default();
    let value = Node(&mut walk).deserialize(Deserializer::from_slice(text))?;
    let told = (MAX_REREAD_BYTES / text.len().max(1)).clamp(1, MAX_REPEATED);
    let repeated = walk.repeated.iter().take(told).map(|(entry, key)| match line(text, *entry) {
        Some(line) => format!("line {line}: key {key:?} already set in map"),
        None => format!("key {key:?} already set in map"),
    });
    Ok(Document { value, repeated: repeated.collect() })
}

/// The line on which the value of the `entry`th entry of all maps begins. The parser tells places only with errors, so
/// it is made to fail there.
fn line(text: &[u8], entry: usize) -> Option<usize> {
    let mut walk = Walk { stop_at: Some(entry), ..Walk::default() };
    let error = Node(&mut walk).deserialize(Deserializer::from_slice(text)).err()?;
    Some(error.location()?.line())
}

/// How far a text was read.
#[derive(Debug, Default)]
struct Walk {
    /// The entries of maps that were begun, in the order of the text.
    entries: usize,
    /// The entry whose value is refused.
    stop_at: Option<usize>,
    /// Keys that their maps had already, with the numbers of their entries.
    repeated: Vec<(usize, String)>,
}

/// A value anywhere in the text.
struct Node<'a>(&'a mut Walk);

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any valid JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_some<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Node(&mut *self.0))? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let entry = self.0.entries;
            self.0.entries += 1;
            if self.0.stop_at == Some(entry) {
                entries.next_value_seed(Stop)?;
            }
            let value = entries.next_value_seed(Node(&mut *self.0))?;
            if map.contains_key(&key) && self.0.repeated.len() < MAX_REPEATED {
                self.0.repeated.push((entry, key.clone()));
            }
            map.insert(key, value);
        }
        Ok(map.into())
    }
}

/// Refuses every value, so that the parser says where it is.
struct Stop;

impl<'de> DeserializeSeed<'de> for Stop {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for Stop {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("nothing")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_that_are_set_twice_are_told_with_their_lines_and_the_last_value_counts() {
        let text = "a: 1\nlist:\n- b: x\n  b: y\n- {c: 1, c: 2}\na:\n  d: [true, null, 1.5]\n\"a\": \"2\"\n";
        let read = read(text.as_bytes()).expect("YAML");
        assert_eq!(read.value, json!({ "a": "2", "list": [{ "b": "y" }, { "c": 2 }] }));
        assert_eq!(
            read.repeated,
            [
                "line 4: key \"b\" already set in map",
                "line 5: key \"c\" already set in map",
                "line 7: key \"a\" already set in map",
                "line 8: key \"a\" already set in map",
            ]
        );
        assert!(super::read(b"a: 1\nb: {a: 1}\n").expect("YAML").repeated.is_empty());
    }

    #[test]
    fn what_is_read_is_what_the_library_reads() {
        let example = "a: &x [1, -2, 1.5, .inf, ~, yes, true, 2026-01-01]\n1: *x\n? k\n: |\n  text\n";
        crate::fuzz::run(|fuzz| {
            let text = fuzz.text(example);
            let expected = serde_yaml::from_str::<Value>(&text).ok();
            assert_eq!(read(text.as_bytes()).ok().map(|read| read.value), expected, "{text}");
        });
    }

    #[test]
    fn a_long_text_of_repeated_keys_is_not_read_for_ever() {
        let text = "a: 1\n".repeat(500_000);
        assert_eq!(read(text.as_bytes()).expect("YAML").repeated, ["line 2: key \"a\" already set in map"]);
    }
}
