//! What the kinds that make pods from a template have in common.

use k8s_openapi::{
    api::core::v1::PodTemplateSpec,
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};
use naru_model::{
    selector::{Selector, matches_api},
    validation::{FieldErrors, Path, names},
};
use serde_json::Value;

use super::podspec::{self, OrEmpty, check};

/// The selector must be there and select something. Answers whether it makes sense to compare it with a template.
pub fn selector(selector: &LabelSelector, kind: &str, path: &Path, errors: &mut FieldErrors) -> bool {
    if *selector == LabelSelector::default() {
        errors.required(path, "");
        return true;
    }
    check::label_selector(Some(selector), path, errors);
    if selector.match_labels.iter().flatten().next().is_none()
        && selector.match_expressions.or_empty().is_empty()
    {
        let value = serde_json::to_value(selector).unwrap_or_default();
        errors.invalid(path, value, &format!("empty selector is invalid for {kind}"));
    }
    let is_usable = Selector::from_api(Some(selector)).is_ok();
    if !is_usable {
        let value = serde_json::to_value(selector).unwrap_or_default();
        errors.invalid(path, value, "invalid label selector");
    }
    is_usable
}

/// Checks the template itself and that its pods fit the selector and live on when they end.
pub fn template(
    template: &PodTemplateSpec,
    selector: &LabelSelector,
    kind: &str,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let labels = template.metadata.as_ref().and_then(|meta| meta.labels.as_ref());
    if !matches_api(selector, labels) || *selector == LabelSelector::default() {
        let value = labels.map_or(Value::Null, |labels| serde_json::to_value(labels).unwrap_or_default());
        let detail = "`selector` does not match template `labels`";
        errors.invalid(&path.child("metadata").child("labels"), value, detail);
    }
    podspec::validate_template(template, path, errors);
    restarts(template, kind, path, errors);
}

/// Pods that are kept running start again whenever they end.
pub fn restarts(template: &PodTemplateSpec, kind: &str, path: &Path, errors: &mut FieldErrors) {
    let Some(spec) = &template.spec else { return };
    let policy = spec.restart_policy.or_empty();
    if policy != "Always" {
        errors.not_supported(&path.child("spec").child("restartPolicy"), policy, &["Always"]);
    }
    if spec.active_deadline_seconds.is_some() {
        let detail = format!("activeDeadlineSeconds in {kind} is not Supported");
        errors.forbidden(&path.child("spec").child("activeDeadlineSeconds"), &detail);
    }
}

/// Counts in a status: never negative.
pub fn counts(counts: &[(&str, Option<i64>)], path: &Path, errors: &mut FieldErrors) {
    for (name, count) in counts {
        check::not_negative(count.unwrap_or_default(), &path.child(name), errors);
    }
}

/// One count in a status can't exceed another.
pub fn at_most(
    (name, count): (&str, Option<i32>),
    (of_name, of): (&str, i32),
    path: &Path,
    errors: &mut FieldErrors,
) {
    let count = count.unwrap_or_default();
    if count > of {
        errors.invalid(&path.child(name), count, &format!("cannot be greater than {of_name}"));
    }
}

/// The counts that ReplicaSets and ReplicationControllers report.
pub struct ReplicaCounts {
    pub replicas: i32,
    pub fully_labeled: Option<i32>,
    pub ready: Option<i32>,
    pub available: Option<i32>,
    pub terminating: Option<i32>,
    pub observed_generation: Option<i64>,
}

impl ReplicaCounts {
    pub fn validate(&self, errors: &mut FieldErrors) {
        let path = Path::new("status");
        counts(
            &[
                ("replicas", Some(self.replicas.into())),
                ("fullyLabeledReplicas", self.fully_labeled.map(Into::into)),
                ("readyReplicas", self.ready.map(Into::into)),
                ("availableReplicas", self.available.map(Into::into)),
                ("terminatingReplicas", self.terminating.map(Into::into)),
                ("observedGeneration", self.observed_generation),
            ],
            &path,
            errors,
        );
        let all = ("status.replicas", self.replicas);
        at_most(("fullyLabeledReplicas", self.fully_labeled), all, &path, errors);
        at_most(("readyReplicas", self.ready), all, &path, errors);
        at_most(("availableReplicas", self.available), all, &path, errors);
        let ready = ("readyReplicas", self.ready.unwrap_or_default());
        at_most(("availableReplicas", self.available), ready, &path, errors);
    }
}

/// Names that were taken already are counted, never forgotten.
pub fn collisions(new: Option<i32>, old: Option<i32>, errors: &mut FieldErrors) {
    if old.is_some() && new.unwrap_or(-1) < old.unwrap_or_default() {
        let path = Path::new("status").child("collisionCount");
        errors.invalid(&path, new.unwrap_or_default(), "cannot be decremented");
    }
}

/// A number that is not negative, or a percentage.
pub fn positive_or_percent(value: &IntOrString, path: &Path, errors: &mut FieldErrors) {
    match value {
        IntOrString::Int(number) => check::not_negative((*number).into(), path, errors),
        IntOrString::String(text) => errors.problems(path, text, names::percent(text)),
    }
}

pub fn not_more_than_all(value: &IntOrString, path: &Path, errors: &mut FieldErrors) {
    if percentage(value).is_some_and(|percent| percent > 100) {
        errors.invalid(path, json(value), "must not be greater than 100%");
    }
}

pub fn json(value: &IntOrString) -> Value {
    match value {
        IntOrString::Int(number) => (*number).into(),
        IntOrString::String(text) => text.as_str().into(),
    }
}

fn percentage(value: &IntOrString) -> Option<i64> {
    match value {
        IntOrString::Int(_) => None,
        IntOrString::String(text) => text.strip_suffix('%')?.parse().ok(),
    }
}

/// Whether it is zero, as a number or a percentage.
pub fn is_zero(value: &IntOrString) -> bool {
    matches!(value, IntOrString::Int(0)) || percentage(value) == Some(0)
}
