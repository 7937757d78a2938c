//! The rules of `metav1.Condition`, for every status that has a list of them.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::{FieldErrors, Path, names};

const MAX_REASON: usize = 1024;
const MAX_MESSAGE: usize = 32 * 1024;

/// A list of conditions, of which each type may be there once.
pub fn conditions(path: &Path, conditions: &[Condition], errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for (index, condition) in conditions.iter().enumerate() {
        let path = path.index(index);
        if !seen.insert(condition.type_.as_str()) {
            errors.duplicate(&path.child("type"), condition.type_.as_str());
        }
        validate(&path, condition, errors);
    }
}

fn validate(path: &Path, condition: &Condition, errors: &mut FieldErrors) {
    errors.problems(&path.child("type"), &condition.type_, names::qualified_name(&condition.type_));
    let states = ["False", "True", "Unknown"];
    if !states.contains(&condition.status.as_str()) {
        errors.not_supported(&path.child("status"), condition.status.as_str(), &states);
    }
    if let Some(generation) = condition.observed_generation.filter(|generation| *generation < 0) {
        let detail = "must be greater than or equal to zero";
        errors.invalid(&path.child("observedGeneration"), generation, detail);
    }
    let (reason, at) = (condition.reason.as_str(), path.child("reason"));
    if reason.is_empty() {
        errors.required(&at, "must be set");
    } else if !is_reason(reason) {
        errors.invalid(
            &at,
            reason,
            "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric \
             characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or \
             'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is \
             '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')",
        );
    }
    if reason.len() > MAX_REASON {
        errors.too_long(&at, MAX_REASON);
    }
    if condition.message.len() > MAX_MESSAGE {
        errors.too_long(&path.child("message"), MAX_MESSAGE);
    }
}

fn is_reason(text: &str) -> bool {
    let is_word = |byte: u8| byte == b'_' || byte.is_ascii_alphanumeric();
    let bytes = text.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes.last().is_some_and(|byte| is_word(*byte))
        && bytes.iter().all(|byte| is_word(*byte) || b",:".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_distinct_and_reasons_are_words() {
        let condition = |kind: &str, reason: &str| Condition {
            type_: kind.into(),
            status: "True".into(),
            reason: reason.into(),
            message: String::new(),
            last_transition_time: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
                k8s_openapi::jiff::Timestamp::UNIX_EPOCH,
            ),
            observed_generation: Some(-1),
        };
        let mut errors = FieldErrors::default();
        conditions(&Path::new("c"), &[condition("A", "Good:One"), condition("A", "1st")], &mut errors);
        let fields: Vec<_> = errors.0.iter().map(|error| error.field.as_str()).collect();
        let generation = |index: usize| format!("c[{index}].observedGeneration");
        assert_eq!(fields, [&*generation(0), "c[1].type", &*generation(1), "c[1].reason"]);
    }
}
