//! The kinds of admissionregistration.k8s.io: who is asked before something is written.
//!
//! Expressions are compiled to see whether they can be, with all that they may speak of (`admission::expressions`).

mod bindings;
mod matching;
mod mutating_policy;
pub mod policy;
mod validating_policy;
mod webhooks;

#[cfg(test)]
mod tests;

use naru_model::validation::{FieldErrors, Path};

use super::{Kinds, podspec::check};
use crate::{admission::expressions::Environment, cel::Type};

const FAILURE_POLICIES: &[&str] = &["Fail", "Ignore"];
const REINVOCATION_POLICIES: &[&str] = &["IfNeeded", "Never"];

/// Adds all of them.
pub(super) fn add(kinds: &mut Kinds) {
    kinds.add(webhooks::MutatingWebhooks);
    kinds.add(webhooks::ValidatingWebhooks);
    kinds.add(mutating_policy::MutatingPolicies);
    kinds.add(validating_policy::ValidatingPolicies);
    kinds.add(bindings::MutatingBindings);
    kinds.add(bindings::ValidatingBindings);
}

/// An expression must say something, and evaluate to one of `wanted`; without any, to anything.
fn validate_expression(
    text: &str,
    (environment, wanted): (&Environment, &[Type]),
    path: &Path,
    detail: &str,
    errors: &mut FieldErrors,
) {
    if text.trim().is_empty() {
        errors.required(path, detail);
    } else if let Err(problem) = environment.check(text, wanted) {
        errors.invalid(path, text, &problem);
    }
}

/// An optional choice that defaulting has made where the client did not.
fn required_choice(value: Option<&str>, supported: &[&str], path: &Path, errors: &mut FieldErrors) {
    match value {
        None => errors.required(path, ""),
        Some(value) => check::one_of(value, supported, path, errors),
    }
}

/// Names with this ending are kept for configuration that no client writes.
fn suffix_warning(name: &str) -> Option<String> {
    const SUFFIX: &str = ".static.k8s.io";
    name.ends_with(SUFFIX).then(|| {
        format!(
            "metadata.name: names ending with {SUFFIX:?} will be reserved for static manifest-based configurations \
             when the ManifestBasedAdmissionControlConfig feature gate is enabled"
        )
    })
}
