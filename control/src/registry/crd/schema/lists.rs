//! That lists which are sets or maps hold nothing twice.

use std::collections::HashSet;

use naru_model::validation::{FieldErrors, Path};
use serde_json::{Map, Value};

use super::{ListKind, Schema};

impl Schema {
    /// Reports the members of sets and maps that are there already.
    pub fn check_lists(&self, value: &Value, path: &Path, errors: &mut FieldErrors) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    let Some(schema) = self.child(key) else { continue };
                    let place =
                        if self.properties.contains_key(key) { path.child(key) } else { path.key(key) };
                    schema.check_lists(value, &place, errors);
                }
            }
            Value::Array(items) => {
                self.check_unique(items, path, errors);
                for (index, item) in items.iter().enumerate() {
                    if let Some(schema) = &self.items {
                        schema.check_lists(item, &path.index(index), errors);
                    }
                }
            }
            _ => (),
        }
    }

    fn check_unique(&self, items: &[Value], path: &Path, errors: &mut FieldErrors) {
        let mut seen = HashSet::new();
        for (index, item) in items.iter().enumerate() {
            let identity = match &self.list_kind {
                ListKind::Atomic => return,
                ListKind::Set => item.clone(),
                ListKind::Map(keys) => {
                    let Value::Object(map) = item else { continue };
                    let present = keys.iter().filter_map(|key| Some((key.clone(), map.get(key)?.clone())));
                    Value::Object(present.collect::<Map<_, _>>())
                }
            };
            if !seen.insert(identity.to_string()) {
                errors.duplicate(&path.index(index), identity);
            }
        }
    }
}
