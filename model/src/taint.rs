//! Which taints a toleration accepts.

use k8s_openapi::api::core::v1::{Taint, Toleration};

/// Whether the toleration accepts the taint: in effect, key and value, where an empty effect or key means any.
///
/// Operators that compare numbers (`Gt`, `Lt`) are an alpha feature that Kubernetes 1.37 has off, and accept nothing.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let accepts = |wanted: &Option<String>, found: &str| {
        wanted.as_deref().is_none_or(|wanted| wanted.is_empty() || wanted == found)
    };
    accepts(&toleration.effect, &taint.effect)
        && accepts(&toleration.key, &taint.key)
        && match toleration.operator.as_deref().unwrap_or_default() {
            "" | "Equal" => {
                toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
            }
            "Exists" => true,
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_toleration_accepts_what_it_names_and_all_of_what_it_leaves_open() {
        let taint: Taint =
            serde_json::from_value(json!({"key": "k", "value": "7", "effect": "NoExecute"})).unwrap();
        let check = |toleration: Value, expected: bool| {
            let toleration: Toleration = serde_json::from_value(toleration).unwrap();
            assert_eq!(tolerates(&toleration, &taint), expected, "{toleration:?}");
        };
        check(json!({"key": "k", "value": "7"}), true);
        check(json!({"key": "k", "operator": "Equal", "value": "7", "effect": "NoExecute"}), true);
        check(json!({"key": "k", "value": "8"}), false);
        check(json!({"key": "k", "operator": "Exists"}), true);
        check(json!({"operator": "Exists"}), true);
        check(json!({"key": "other", "operator": "Exists"}), false);
        check(json!({"operator": "Exists", "effect": "NoSchedule"}), false);
        check(json!({"key": "k", "operator": "Gt", "value": "1"}), false);
        check(json!({"key": "k", "operator": "Lt", "value": "9"}), false);
    }
}
