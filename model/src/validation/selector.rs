//! Labels, and selectors of them, as fields of objects.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use super::{FieldErrors, Path, names};

/// Keys and values of a label map, wherever one stands.
pub fn labels(path: &Path, labels: &BTreeMap<String, String>, errors: &mut FieldErrors) {
    for (key, value) in labels {
        label_name(path, key, errors);
        errors.problems(path, value, names::label_value(value));
    }
}

pub fn label_name(path: &Path, key: &str, errors: &mut FieldErrors) {
    errors.problems(path, key, names::qualified_name(key));
}

pub fn label_selector(path: &Path, selector: &LabelSelector, errors: &mut FieldErrors) {
    if let Some(map) = &selector.match_labels {
        labels(&path.child("matchLabels"), map, errors);
    }
    for (index, requirement) in selector.match_expressions.iter().flatten().enumerate() {
        label_selector_requirement(&path.child("matchExpressions").index(index), requirement, errors);
    }
}

fn label_selector_requirement(path: &Path, requirement: &LabelSelectorRequirement, errors: &mut FieldErrors) {
    let values = requirement.values.as_deref().unwrap_or_default();
    match requirement.operator.as_str() {
        "In" | "NotIn" if values.is_empty() => {
            errors.required(&path.child("values"), "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            errors.forbidden(
                &path.child("values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            );
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => (),
        other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
    }
    label_name(&path.child("key"), &requirement.key, errors);
    for (index, value) in values.iter().enumerate() {
        errors.problems(&path.child("values").index(index), value, names::label_value(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(selector: serde_json::Value, expected: &[&str]) {
        let selector = serde_json::from_value(selector).expect("a selector");
        let mut errors = FieldErrors::default();
        label_selector(&Path::new("spec").child("selector"), &selector, &mut errors);
        let found: Vec<_> = errors.0.iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found}");
        }
    }

    #[test]
    fn good_selectors_pass() {
        check(
            serde_json::json!({"matchLabels": {"a": "b"}, "matchExpressions": [
                {"key": "x", "operator": "In", "values": ["1"]}, {"key": "y", "operator": "Exists"}]}),
            &[],
        );
        check(serde_json::json!({}), &[]);
    }

    #[test]
    fn each_fault_names_its_field() {
        check(
            serde_json::json!({"matchLabels": {"a b": "c d"}, "matchExpressions": [
                {"key": "x", "operator": "In"},
                {"key": "x", "operator": "Exists", "values": ["1"]},
                {"key": "", "operator": "Has", "values": ["-"]}]}),
            &[
                r#"spec.selector.matchLabels: Invalid value: "a b": name part must consist"#,
                r#"spec.selector.matchLabels: Invalid value: "c d": a valid label must be"#,
                "spec.selector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
                "spec.selector.matchExpressions[1].values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                r#"spec.selector.matchExpressions[2].operator: Invalid value: "Has": not a valid selector operator"#,
                r#"spec.selector.matchExpressions[2].key: Invalid value: "": name part must be non-empty"#,
                r#"spec.selector.matchExpressions[2].key: Invalid value: "": name part must consist"#,
                r#"spec.selector.matchExpressions[2].values[0]: Invalid value: "-": a valid label must be"#,
            ],
        );
    }
}
