//! A configuration laid over an object: merged as an apply merges, but nobody owns anything afterwards.

use serde_json::Value;

use super::{
    ObjectType,
    schema::{ListKind, Node, TypeId},
};

/// Why a configuration cannot be laid over an object, in Kubernetes' words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OverlayError {
    #[error("failed to convert patch object to typed object: {0}")]
    Misfit(String),
    /// The paths of what would be replaced as a whole, where whoever wrote the configuration may have meant a part.
    #[error("invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {}", .0.join(", "))]
    Atomic(Vec<String>),
}

impl ObjectType {
    /// `live` with all that `config` says.
    pub fn overlay(&self, live: Value, config: &Value) -> Result<Value, OverlayError> {
        self.validate(config).map_err(OverlayError::Misfit)?;
        let mut atomics = Vec::new();
        self.find_atomics(self.root, config, "", &mut atomics);
        if atomics.is_empty() { Ok(self.merge(live, config)) } else { Err(OverlayError::Atomic(atomics)) }
    }

    fn find_atomics(&self, kind: TypeId, value: &Value, path: &str, found: &mut Vec<String>) {
        let is_atomic = match (self.node(kind), value) {
            (Node::Map(map), Value::Object(_)) => map.is_atomic,
            (Node::List(list), Value::Array(_)) => matches!(list.kind, ListKind::Atomic),
            (Node::Atomic, Value::Object(_) | Value::Array(_)) | (Node::Deduced, Value::Array(_)) => true,
            _ => false,
        };
        if is_atomic {
            found.push(path.to_owned());
        }
        match (self.node(kind), value) {
            (Node::Map(map), Value::Object(members)) => {
                for (name, member) in members {
                    // What is under a key of a map is the key's owner's own.
                    if let Some(field) = map.field(name) {
                        self.find_atomics(field.kind, member, &format!("{path}.{name}"), found);
                    }
                }
            }
            (Node::List(list), Value::Array(items)) => {
                for (index, item) in items.iter().enumerate() {
                    self.find_atomics(list.element, item, &format!("{path}[{index}]"), found);
                }
            }
            _ => (),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> ObjectType {
        ObjectType::builtin("io.k8s.api.core.v1.Pod")
    }

    #[test]
    fn what_a_configuration_names_is_merged() {
        let live = json!({
            "metadata": { "name": "web", "labels": { "app": "web" } },
            "spec": { "containers": [{ "name": "app", "image": "a" }] },
        });
        let config = json!({
            "metadata": { "labels": { "team": "blue" } },
            "spec": { "containers": [{ "name": "proxy", "image": "p" }] },
        });
        let merged = pod().overlay(live, &config).expect("it fits");
        assert_eq!(merged["metadata"]["labels"], json!({ "app": "web", "team": "blue" }));
        let names: Vec<_> = merged["spec"]["containers"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|container| container["name"].clone())
            .collect();
        assert_eq!(names, ["app", "proxy"]);
    }

    #[test]
    fn what_would_be_replaced_as_a_whole_is_refused() {
        let config = json!({
            "spec": {
                "nodeSelector": { "disk": "ssd" },
                "containers": [{ "name": "app", "args": ["-v"] }],
            },
        });
        let error = pod().overlay(json!({}), &config).expect_err("atomic");
        assert_eq!(
            error.to_string(),
            "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: \
             .spec.containers[0].args, .spec.nodeSelector"
        );
        let error =
            pod().overlay(json!({}), &json!({ "spec": { "hostnam": "x" } })).expect_err("no such field");
        assert_eq!(
            error.to_string(),
            "failed to convert patch object to typed object: .spec.hostnam: field not declared in schema"
        );
    }
}
