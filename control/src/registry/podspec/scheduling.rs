//! Where a pod may run: tolerations, spread constraints, gates.

use k8s_openapi::api::core::v1::{PodSchedulingGate, Toleration, TopologySpreadConstraint};
use naru_model::validation::{FieldErrors, Path};
use std::collections::BTreeSet;

use super::{Check, OrEmpty, affinity, check};

const TAINT_EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

pub(in crate::registry) fn tolerations(tolerations: &[Toleration], path: &Path, errors: &mut FieldErrors) {
    for (index, toleration) in tolerations.iter().enumerate() {
        let path = path.index(index);
        let (key, value) = (toleration.key.or_empty(), toleration.value.or_empty());
        let (operator, effect) = (toleration.operator.or_empty(), toleration.effect.or_empty());
        if !key.is_empty() {
            check::label_name(key, &path.child("key"), errors);
        } else if operator != "Exists" {
            errors.invalid(
                &path.child("operator"),
                operator,
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            );
        }
        if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.invalid(&path.child("effect"), effect, detail);
        }
        toleration_value(operator, value, &path.child("operator"), errors);
        if !effect.is_empty() {
            check::one_of(effect, TAINT_EFFECTS, &path.child("effect"), errors);
        }
    }
}

fn toleration_value(operator: &str, value: &str, path: &Path, errors: &mut FieldErrors) {
    match operator {
        "" | "Equal" => {
            let messages = check::label_value_messages(value);
            if !messages.is_empty() {
                errors.invalid(path, value, &messages.join(";"));
            }
        }
        "Exists" if !value.is_empty() => {
            errors.invalid(path, value, "value must be empty when `operator` is 'Exists'");
        }
        "Exists" => {}
        _ => errors.not_supported(path, operator, &["Equal", "Exists"]),
    }
}

/// The effect of a node's taint: must be one of the three.
pub(in crate::registry) fn taint_effect(effect: &str, path: &Path, errors: &mut FieldErrors) {
    check::required_one_of(effect, TAINT_EFFECTS, path, errors);
}

pub(super) fn gates(gates: &[PodSchedulingGate], path: &Path, errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for (index, gate) in gates.iter().enumerate() {
        check::qualified_name(&gate.name, &path.index(index), errors);
        if !seen.insert(gate.name.as_str()) {
            errors.duplicate(&path.index(index), gate.name.as_str());
        }
    }
}

impl Check<'_> {
    pub(super) fn spread_constraints(&self, path: &Path, errors: &mut FieldErrors) {
        let constraints = self.spec.topology_spread_constraints.or_empty();
        for (index, constraint) in constraints.iter().enumerate() {
            let path = path.index(index);
            if constraint.max_skew <= 0 {
                errors.invalid(&path.child("maxSkew"), constraint.max_skew, check::MUST_BE_POSITIVE);
            }
            if constraint.topology_key.is_empty() {
                errors.required(&path.child("topologyKey"), "can not be empty");
            }
            let (key, action) = (&constraint.topology_key, &constraint.when_unsatisfiable);
            let supported = &["DoNotSchedule", "ScheduleAnyway"];
            check::one_of(action, supported, &path.child("whenUnsatisfiable"), errors);
            let repeats = constraints[index + 1..]
                .iter()
                .any(|other| other.topology_key == *key && other.when_unsatisfiable == *action);
            if repeats {
                errors.duplicate(
                    &path.child("{topologyKey, whenUnsatisfiable}"),
                    format!("{{{key}, {action}}}"),
                );
            }
            self.spread_details(constraint, &path, errors);
        }
    }

    fn spread_details(&self, constraint: &TopologySpreadConstraint, path: &Path, errors: &mut FieldErrors) {
        if let Some(domains) = constraint.min_domains {
            let path = path.child("minDomains");
            if domains <= 0 {
                errors.invalid(&path, domains, check::MUST_BE_POSITIVE);
            }
            let action = &constraint.when_unsatisfiable;
            if action != "DoNotSchedule" {
                let detail =
                    format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
                errors.invalid(&path, domains, &detail);
            }
        }
        for (name, policy) in [
            ("nodeAffinityPolicy", &constraint.node_affinity_policy),
            ("nodeTaintsPolicy", &constraint.node_taints_policy),
        ] {
            if let Some(policy) = policy {
                check::one_of(policy, &["Honor", "Ignore"], &path.child(name), errors);
            }
        }
        let keys_path = path.child("matchLabelKeys");
        let keys = constraint.match_label_keys.or_empty();
        affinity::label_keys(keys, constraint.label_selector.as_ref(), &keys_path, errors);
        affinity::repeated_keys(keys, constraint.label_selector.as_ref(), self.is_pod(), &keys_path, errors);
        check::label_selector(constraint.label_selector.as_ref(), &path.child("labelSelector"), errors);
    }
}
