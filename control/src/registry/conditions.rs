//! `metav1.Condition`: the rules that hold for conditions of every kind that has them in this form.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use naru_model::validation::{FieldErrors, Path, names};

const MAX_REASON: usize = 1024;
const MAX_MESSAGE: usize = 32 << 10;

/// Pushes what is wrong with `conditions`, a list with one entry per type.
pub fn validate(conditions: &[Condition], path: &Path, errors: &mut FieldErrors) {
    for (index, condition) in conditions.iter().enumerate() {
        let path = path.index(index);
        let kind = condition.type_.as_str();
        if kind.is_empty() {
            errors.required(&path.child("type"), "");
        } else {
            if conditions[..index].iter().any(|other| other.type_ == kind) {
                errors.duplicate(&path.child("type"), kind);
            }
            errors.problems(&path.child("type"), kind, names::qualified_name(kind));
        }
        let states = ["False", "True", "Unknown"];
        if !states.contains(&condition.status.as_str()) {
            errors.not_supported(&path.child("status"), condition.status.as_str(), &states);
        }
        if condition.observed_generation.is_some_and(|generation| generation < 0) {
            let detail = "must be greater than or equal to zero";
            errors.invalid(&path.child("observedGeneration"), condition.observed_generation, detail);
        }
        let reason = condition.reason.as_str();
        if reason.is_empty() {
            errors.required(&path.child("reason"), "");
        } else if reason.len() > MAX_REASON {
            errors.too_long(&path.child("reason"), MAX_REASON);
        } else if !is_reason(reason) {
            let detail = "a condition reason must start with alphabetic character, optionally followed by a string of \
                          alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. \
                          'my_name', or 'MY_NAME', or 'MyName', or 'ReasonA,ReasonB', or 'ReasonA:ReasonB', regex used \
                          for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')";
            errors.invalid(&path.child("reason"), reason, detail);
        }
        if condition.message.len() > MAX_MESSAGE {
            errors.too_long(&path.child("message"), MAX_MESSAGE);
        }
    }
}

/// `CamelCase`, and what else is a reason.
fn is_reason(text: &str) -> bool {
    let is_word = |character: char| character.is_ascii_alphanumeric() || character == '_';
    text.starts_with(|character: char| character.is_ascii_alphabetic())
        && text.ends_with(is_word)
        && text.chars().all(|character| is_word(character) || matches!(character, ',' | ':'))
}

/// Whether a condition of this type is true.
pub fn is_true(conditions: &[Condition], kind: &str) -> bool {
    conditions.iter().any(|condition| condition.type_ == kind && condition.status == "True")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_condition_has_a_type_a_state_and_a_reason() {
        let list: Vec<Condition> = serde_json::from_value(json!([
            {"type": "Ready", "status": "True", "reason": "AllGood,Really", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"},
            {"type": "Ready", "status": "Perhaps", "reason": "", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"},
            {"type": "a b", "status": "False", "reason": "1", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"},
        ]))
        .expect("conditions");
        let mut errors = FieldErrors::default();
        validate(&list, &Path::new("status").child("conditions"), &mut errors);
        let fields: Vec<&str> = errors.0.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "status.conditions[1].type",
                "status.conditions[1].status",
                "status.conditions[1].reason",
                "status.conditions[2].type",
                "status.conditions[2].reason",
            ]
        );
        assert!(is_true(&list, "Ready") && !is_true(&list, "a b"));
    }
}
