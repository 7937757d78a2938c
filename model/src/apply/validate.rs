//! Whether an applied configuration fits its type, so that what it names can be owned.

use std::{collections::HashSet, fmt};

use serde_json::Value;

use super::{
    ObjectType, Tree,
    compare::element_of,
    schema::{ListKind, ListNode, MapNode, Node, Scalar, TypeId},
};

/// Something in a configuration that does not fit; prints as `.spec.replica: field not declared in schema`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Misfit {
    path: String,
    message: String,
}

impl fmt::Display for Misfit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            return formatter.write_str(&self.message);
        }
        write!(formatter, "{}: {}", self.path, self.message)
    }
}

impl ObjectType {
    /// `Err` tells all that does not fit, in Kubernetes' words.
    pub(super) fn validate(&self, config: &Value) -> Result<(), String> {
        let mut misfits = Vec::new();
        self.validate_at(self.root, config, "", &mut misfits);
        match misfits.as_slice() {
            [] => Ok(()),
            [one] => Err(one.to_string()),
            many => {
                let lines: Vec<_> = many.iter().map(|misfit| format!("\n  {misfit}")).collect();
                Err(format!("errors:{}", lines.concat()))
            }
        }
    }

    fn validate_at(&self, kind: TypeId, value: &Value, path: &str, misfits: &mut Vec<Misfit>) {
        let refuse = |misfits: &mut Vec<Misfit>, message: String| {
            misfits.push(Misfit { path: path.to_owned(), message });
        };
        let deduced = MapNode { element: Some(kind), ..MapNode::default() };
        match (self.node(kind), value) {
            (_, Value::Null) | (Node::Atomic, _) => (),
            (Node::Scalar(scalar), value) => {
                let (is_fit, wanted) = match scalar {
                    Scalar::Numeric => (value.is_number(), "numeric (int or float)"),
                    Scalar::String => (value.is_string(), "string"),
                    Scalar::Boolean => (value.is_boolean(), "boolean"),
                    Scalar::Any => (!value.is_object() && !value.is_array(), "any scalar"),
                };
                if !is_fit {
                    let found =
                        if *scalar == Scalar::Numeric { go_type(value).to_owned() } else { go_text(value) };
                    refuse(misfits, format!("expected {wanted}, got {found}"));
                }
            }
            (Node::Map(map), Value::Object(_)) => self.validate_map(map, value, path, misfits),
            (Node::Map(_), _) => refuse(misfits, format!("expected map, got {}", go_text(value))),
            (Node::Deduced, Value::Object(_)) => self.validate_map(&deduced, value, path, misfits),
            (Node::Deduced, _) => (),
            (Node::List(list), Value::Array(items)) => self.validate_list(list, items, path, misfits),
            (Node::List(_), _) => refuse(misfits, format!("expected list, got {}", go_text(value))),
        }
    }

    fn validate_map(&self, map: &MapNode, value: &Value, path: &str, misfits: &mut Vec<Misfit>) {
        for (name, value) in value.as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            match map.kind_of(name) {
                Some(kind) => self.validate_at(kind, value, &path, misfits),
                None => misfits.push(Misfit { path, message: "field not declared in schema".into() }),
            }
        }
    }

    fn validate_list(&self, list: &ListNode, items: &[Value], path: &str, misfits: &mut Vec<Misfit>) {
        let mut seen = HashSet::new();
        for (index, item) in items.iter().enumerate() {
            if matches!(list.kind, ListKind::Atomic) {
                self.validate_at(list.element, item, &format!("{path}[{index}]"), misfits);
                continue;
            }
            match element_of(list, &Tree::from(item)) {
                Ok(element) => {
                    self.validate_at(list.element, item, &format!("{path}{element}"), misfits);
                    if seen.contains(&element) {
                        let message = format!("duplicate entries for key {element}");
                        misfits.push(Misfit { path: path.to_owned(), message });
                    }
                    seen.insert(element);
                }
                Err(why) => {
                    let message = format!("element {index}: {why}");
                    misfits.push(Misfit { path: path.to_owned(), message });
                    return;
                }
            }
        }
    }
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

fn go_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
