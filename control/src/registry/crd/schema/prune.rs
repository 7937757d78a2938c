//! Removes what the schema does not know.

use serde_json::{Map, Value};

use super::{Additional, Schema, join};

/// What every object has, whatever its schema says.
const TYPE_FIELDS: [&str; 3] = ["apiVersion", "kind", "metadata"];

impl Schema {
    /// Prunes a whole object, telling `unknown` the path of each field that went.
    pub fn prune(&self, object: &mut Map<String, Value>, unknown: &mut dyn FnMut(String)) {
        self.prune_map(object, "", true, unknown);
    }

    fn prune_map(
        &self,
        map: &mut Map<String, Value>,
        path: &str,
        is_resource: bool,
        unknown: &mut dyn FnMut(String),
    ) {
        let mut gone = Vec::new();
        for (key, value) in map.iter_mut() {
            if is_resource && TYPE_FIELDS.contains(&key.as_str()) {
                continue;
            }
            match self.child(key) {
                Some(schema) => schema.prune_value(value, &join(path, key), unknown),
                None if self.preserves_unknown || matches!(self.additional, Additional::Any) => (),
                None => gone.push(key.clone()),
            }
        }
        for key in gone {
            map.remove(&key);
            unknown(join(path, &key));
        }
    }

    /// The same for a value within an object, at `path`.
    pub fn prune_value(&self, value: &mut Value, path: &str, unknown: &mut dyn FnMut(String)) {
        match value {
            Value::Object(map) => {
                if self.is_embedded
                    && let Some(metadata) = map.get_mut("metadata")
                {
                    prune_metadata(metadata, &join(path, "metadata"), unknown);
                }
                self.prune_map(map, path, self.is_embedded, unknown);
            }
            Value::Array(items) => {
                // Without a schema of its own an item is known only where everything is.
                let none = Self { preserves_unknown: self.preserves_unknown, ..Self::default() };
                let schema = self.items.as_deref().unwrap_or(&none);
                for (index, item) in items.iter_mut().enumerate() {
                    schema.prune_value(item, &format!("{path}[{index}]"), unknown);
                }
            }
            _ => (),
        }
    }
}

/// The metadata of an object within an object.
fn prune_metadata(metadata: &mut Value, path: &str, unknown: &mut dyn FnMut(String)) {
    const KNOWN: [&str; 15] = [
        "annotations",
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "finalizers",
        "generateName",
        "generation",
        "labels",
        "managedFields",
        "name",
        "namespace",
        "ownerReferences",
        "resourceVersion",
        "selfLink",
        "uid",
    ];
    if let Value::Object(map) = metadata {
        map.retain(|key, _| {
            let is_known = KNOWN.contains(&key.as_str());
            if !is_known {
                unknown(join(path, key));
            }
            is_known
        });
    }
}
