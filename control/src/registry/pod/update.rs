//! What an update may change of a pod: images, a deadline, more tolerations, fewer gates.

use k8s_openapi::api::core::v1::{
    Affinity, Container, NodeAffinity, NodeSelectorTerm, Pod, PodSchedulingGate, PodSpec, Toleration,
};
use naru_model::validation::{FieldErrors, Path};
use serde_json::Value;
use std::collections::BTreeSet;

use crate::registry::podspec::{self, OrEmpty};

const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
    `spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be \
    set to 1 if it was previously negative)";

pub(super) fn validate(new: &Pod, old: &Pod, errors: &mut FieldErrors) {
    let annotations = Path::new("metadata").child("annotations");
    podspec::annotation_updates(&new.metadata, &old.metadata, &annotations, errors);
    let empty = PodSpec::default();
    let (new, old) = (new.spec.as_ref().unwrap_or(&empty), old.spec.as_ref().unwrap_or(&empty));
    let path = Path::new("spec");
    for (name, new, old) in [
        ("containers", new.containers.as_slice(), old.containers.as_slice()),
        ("initContainers", new.init_containers.or_empty(), old.init_containers.or_empty()),
    ] {
        if new.len() != old.len() {
            return errors.forbidden(&path.child(name), "pod updates may not add or remove containers");
        }
    }
    if !deadline(new.active_deadline_seconds, old.active_deadline_seconds, &path, errors) {
        return;
    }
    only_added(new.tolerations.or_empty(), old.tolerations.or_empty(), &path.child("tolerations"), errors);
    only_removed(
        new.scheduling_gates.or_empty(),
        old.scheduling_gates.or_empty(),
        &path.child("schedulingGates"),
        errors,
    );
    if new == old {
        return;
    }
    let mut rest = new.clone();
    restore_updatable(&mut rest, old);
    if !old.scheduling_gates.or_empty().is_empty() {
        restore_gated(&mut rest, old, &path, errors);
    }
    let (rest, old) = (essence(&rest), essence(old));
    if rest != old {
        let mut lines = Vec::new();
        differences("spec", &old, &rest, &mut lines);
        let detail =
            format!("pod updates may not change fields other than {UPDATABLE}\n{}\n", lines.join("\n"));
        errors.forbidden(&path, &detail);
    }
}

/// A deadline may come nearer, never go away. Answers whether the rest is worth checking.
fn deadline(new: Option<i64>, old: Option<i64>, path: &Path, errors: &mut FieldErrors) -> bool {
    let path = path.child("activeDeadlineSeconds");
    match (new, old) {
        (Some(new), _) if !(0..=i64::from(i32::MAX)).contains(&new) => {
            errors.invalid(&path, new, "must be between 0 and 2147483647, inclusive");
            false
        }
        (Some(new), Some(old)) if new > old => {
            errors.invalid(&path, new, "must be less than or equal to previous value");
            false
        }
        (None, Some(_)) => {
            errors.invalid(&path, Value::Null, "must not update from a positive integer to nil value");
            true
        }
        _ => true,
    }
}

fn only_added(new: &[Toleration], old: &[Toleration], path: &Path, errors: &mut FieldErrors) {
    let is_kept = |old: &Toleration| {
        new.iter().any(|new| Toleration { toleration_seconds: new.toleration_seconds, ..old.clone() } == *new)
    };
    if !old.iter().all(is_kept) {
        errors.forbidden(path, "existing toleration can not be modified except its tolerationSeconds");
    }
}

fn only_removed(new: &[PodSchedulingGate], old: &[PodSchedulingGate], path: &Path, errors: &mut FieldErrors) {
    for (index, gate) in new.iter().enumerate().filter(|(_, gate)| !old.contains(gate)) {
        let detail = format!("only deletion is allowed, but found new scheduling gate '{}'", gate.name);
        errors.forbidden(&path.index(index).child("name"), &detail);
    }
}

/// Puts back the old values of all that may change, so that what still differs may not.
fn restore_updatable(rest: &mut PodSpec, old: &PodSpec) {
    restore_images(&mut rest.containers, &old.containers);
    restore_images(rest.init_containers.as_deref_mut().unwrap_or_default(), old.init_containers.or_empty());
    rest.active_deadline_seconds = old.active_deadline_seconds;
    rest.scheduling_gates.clone_from(&old.scheduling_gates);
    rest.tolerations.clone_from(&old.tolerations);
    let was_negative = old.termination_grace_period_seconds.is_some_and(|seconds| seconds < 0);
    if was_negative && rest.termination_grace_period_seconds == Some(1) {
        rest.termination_grace_period_seconds = old.termination_grace_period_seconds;
    }
}

fn restore_images(new: &mut [Container], old: &[Container]) {
    for (new, old) in new.iter_mut().zip(old) {
        new.image.clone_from(&old.image);
    }
}

/// While gates hold a pod back, where it may run can still be narrowed.
fn restore_gated(rest: &mut PodSpec, old: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    let (new_selector, old_selector) =
        (rest.node_selector.clone(), old.node_selector.clone().unwrap_or_default());
    let new_selector = new_selector.unwrap_or_default();
    if old_selector.iter().any(|(key, value)| new_selector.get(key) != Some(value)) {
        let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        errors.invalid(&path.child("nodeSelector"), json(&new_selector), detail);
    }
    rest.node_selector.clone_from(&old.node_selector);
    let of = |spec: &PodSpec| spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.clone());
    let (new_affinity, old_affinity) = (of(rest), of(old));
    if new_affinity != old_affinity {
        narrowed(
            new_affinity.as_ref(),
            old_affinity.as_ref(),
            &path.child("affinity").child("nodeAffinity"),
            errors,
        );
        rest.affinity.get_or_insert_default().node_affinity = old_affinity;
        if old.affinity.is_none() && rest.affinity == Some(Affinity::default()) {
            rest.affinity = None;
        }
    }
}

fn narrowed(new: Option<&NodeAffinity>, old: Option<&NodeAffinity>, path: &Path, errors: &mut FieldErrors) {
    let terms = |affinity: Option<&NodeAffinity>| -> Vec<NodeSelectorTerm> {
        let required =
            affinity.and_then(|it| it.required_during_scheduling_ignored_during_execution.as_ref());
        required.map(|selector| selector.node_selector_terms.clone()).unwrap_or_default()
    };
    let (new, old) = (terms(new), terms(old));
    let path = path.child("requiredDuringSchedulingIgnoredDuringExecution").child("nodeSelectorTerms");
    if !old.is_empty() && new.len() != old.len() {
        let detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        return errors.invalid(&path, json(&new), detail);
    }
    for (index, (new, old)) in new.iter().zip(&old).enumerate() {
        let (was_empty, is_empty) = (is_empty_term(old), is_empty_term(new));
        let grew = new.match_expressions.or_empty().starts_with(old.match_expressions.or_empty())
            && new.match_fields.or_empty().starts_with(old.match_fields.or_empty());
        // An empty term matches nothing: filling it would widen it.
        if !grew || (was_empty && !is_empty) {
            errors.invalid(
                &path.index(index),
                json(new),
                "only additions are allowed (no mutations or deletions)",
            );
        }
    }
}

fn is_empty_term(term: &NodeSelectorTerm) -> bool {
    term.match_expressions.or_empty().is_empty() && term.match_fields.or_empty().is_empty()
}

fn json(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

/// The spec as Kubernetes compares it: a field that is empty is a field that is not there.
pub(super) fn essence(spec: &PodSpec) -> Value {
    let mut value = json(spec);
    prune(&mut value);
    value
}

/// Fields for which Kubernetes knows no difference between unset and false or zero.
const PLAIN_FIELDS: &[&str] = &[
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "hostPort",
    "initialDelaySeconds",
    "readOnly",
    "stdin",
    "stdinOnce",
    "tty",
];

/// Removes what is empty and answers whether the value itself is. Items of lists keep their places.
fn prune(value: &mut Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(_) | Value::Number(_) => false,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => {
            for item in &mut *items {
                prune(item);
            }
            items.is_empty()
        }
        Value::Object(fields) => {
            fields.retain(|name, field| {
                let is_zero = *field == Value::Bool(false) || field.as_i64() == Some(0);
                !(prune(field) || (is_zero && PLAIN_FIELDS.contains(&name.as_str())))
            });
            fields.is_empty()
        }
    }
}

/// One line per field that was removed (`-`) or added (`+`).
pub(super) fn differences(path: &str, old: &Value, new: &Value, lines: &mut Vec<String>) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            let keys: BTreeSet<_> = old.keys().chain(new.keys()).collect();
            for key in keys {
                let null = Value::Null;
                let (old, new) = (old.get(key).unwrap_or(&null), new.get(key).unwrap_or(&null));
                differences(&format!("{path}.{key}"), old, new, lines);
            }
        }
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            for (index, (old, new)) in old.iter().zip(new).enumerate() {
                differences(&format!("{path}[{index}]"), old, new, lines);
            }
        }
        _ if old == new => {}
        _ => {
            for (sign, value) in [("-", old), ("+", new)] {
                if !value.is_null() {
                    lines.push(format!("{sign} {path}: {value}"));
                }
            }
        }
    }
}
