//! Fills in what a client left out.

use serde_json::{Map, Value};

use super::{Additional, Schema};

impl Schema {
    /// Fills the defaults into a whole object. A null where none is allowed counts as left out. Idempotent.
    pub fn fill(&self, object: &mut Map<String, Value>) {
        for (key, schema) in &self.properties {
            let is_null = object.get(key).is_some_and(|value| value.is_null() && !schema.nullable);
            if is_null {
                object.remove(key);
            }
            if let Some(default) = &schema.default
                && !object.contains_key(key)
            {
                object.insert(key.clone(), default.clone());
            }
            if let Some(value) = object.get_mut(key) {
                schema.fill_value(value);
            }
        }
        if let Additional::Schema(schema) = &self.additional {
            object.retain(|key, value| {
                if self.properties.contains_key(key) {
                    return true;
                }
                if value.is_null() && !schema.nullable {
                    match &schema.default {
                        Some(default) => value.clone_from(default),
                        None => return false,
                    }
                }
                schema.fill_value(value);
                true
            });
        }
    }

    /// The same for a value of any type.
    pub fn fill_value(&self, value: &mut Value) {
        match value {
            Value::Object(map) => self.fill(map),
            Value::Array(items) => {
                let Some(schema) = &self.items else { return };
                for item in items {
                    if item.is_null()
                        && !schema.nullable
                        && let Some(default) = &schema.default
                    {
                        item.clone_from(default);
                    }
                    schema.fill_value(item);
                }
            }
            _ => (),
        }
    }
}
