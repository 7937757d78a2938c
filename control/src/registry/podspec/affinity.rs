//! Affinity: to nodes by their labels, to and from other pods by theirs.

use k8s_openapi::api::core::v1::{
    Affinity, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm,
    WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use naru_model::validation::{FieldErrors, Path};

use super::{Check, OrEmpty, check};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

impl Check<'_> {
    pub(super) fn affinity(&self, affinity: &Affinity, path: &Path, errors: &mut FieldErrors) {
        if let Some(nodes) = &affinity.node_affinity {
            node_affinity(nodes, &path.child("nodeAffinity"), errors);
        }
        if let Some(pods) = &affinity.pod_affinity {
            let path = path.child("podAffinity");
            let required = pods.required_during_scheduling_ignored_during_execution.or_empty();
            self.pod_terms(required, &path.child(REQUIRED), errors);
            let preferred = pods.preferred_during_scheduling_ignored_during_execution.or_empty();
            self.weighted_pod_terms(preferred, &path.child(PREFERRED), errors);
        }
        if let Some(pods) = &affinity.pod_anti_affinity {
            let path = path.child("podAntiAffinity");
            let required = pods.required_during_scheduling_ignored_during_execution.or_empty();
            self.pod_terms(required, &path.child(REQUIRED), errors);
            let preferred = pods.preferred_during_scheduling_ignored_during_execution.or_empty();
            self.weighted_pod_terms(preferred, &path.child(PREFERRED), errors);
        }
    }

    fn pod_terms(&self, terms: &[PodAffinityTerm], path: &Path, errors: &mut FieldErrors) {
        for (index, term) in terms.iter().enumerate() {
            self.pod_term(term, &path.index(index), errors);
        }
    }

    fn weighted_pod_terms(&self, terms: &[WeightedPodAffinityTerm], path: &Path, errors: &mut FieldErrors) {
        for (index, term) in terms.iter().enumerate() {
            weight(term.weight, &path.index(index), errors);
            self.pod_term(&term.pod_affinity_term, &path.index(index).child("podAffinityTerm"), errors);
        }
    }

    fn pod_term(&self, term: &PodAffinityTerm, path: &Path, errors: &mut FieldErrors) {
        let selector = term.label_selector.as_ref();
        check::label_selector(selector, &path.child("labelSelector"), errors);
        check::label_selector(term.namespace_selector.as_ref(), &path.child("namespaceSelector"), errors);
        for name in term.namespaces.or_empty() {
            check::dns_label(name, &path.child("namespace"), errors);
        }
        let (matching, mismatching) = (term.match_label_keys.or_empty(), term.mismatch_label_keys.or_empty());
        label_keys(matching, selector, &path.child("matchLabelKeys"), errors);
        label_keys(mismatching, selector, &path.child("mismatchLabelKeys"), errors);
        repeated_keys(matching, selector, self.is_pod(), path, errors);
        for (index, key) in matching.iter().enumerate().filter(|(_, key)| mismatching.contains(key)) {
            let detail = "exists in both matchLabelKeys and mismatchLabelKeys";
            errors.invalid(&path.child("matchLabelKeys").index(index), key.as_str(), detail);
        }
        if term.topology_key.is_empty() {
            errors.required(&path.child("topologyKey"), "can not be empty");
        }
        check::label_name(&term.topology_key, &path.child("topologyKey"), errors);
    }
}

fn weight(weight: i32, path: &Path, errors: &mut FieldErrors) {
    if !(1..=100).contains(&weight) {
        errors.invalid(&path.child("weight"), weight, "must be in the range 1-100");
    }
}

/// `matchLabelKeys` name labels of the pod itself; they only make sense beside a selector.
pub(super) fn label_keys(
    keys: &[String],
    selector: Option<&LabelSelector>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    if keys.is_empty() {
        return;
    }
    if selector.is_none() {
        return errors.forbidden(path, "must not be specified when labelSelector is not set");
    }
    for (index, key) in keys.iter().enumerate() {
        check::label_name(key, &path.index(index), errors);
    }
}

/// A key is either matched by `matchLabelKeys` or by the selector. A pod's selector already holds the expression
/// that was made from its `matchLabelKeys`, so there only a second mention is one too many.
pub(super) fn repeated_keys(
    keys: &[String],
    selector: Option<&LabelSelector>,
    is_pod: bool,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let Some(selector) = selector else { return };
    for (index, key) in keys.iter().enumerate() {
        let by_label = selector.match_labels.iter().flatten().filter(|(other, _)| *other == key).count();
        let by_expression = selector.match_expressions.or_empty().iter().filter(|it| it.key == *key).count();
        if by_label + by_expression > usize::from(is_pod) {
            errors.invalid(
                &path.index(index),
                key.as_str(),
                "exists in both matchLabelKeys and labelSelector",
            );
        }
    }
}

fn node_affinity(affinity: &NodeAffinity, path: &Path, errors: &mut FieldErrors) {
    if let Some(selector) = &affinity.required_during_scheduling_ignored_during_execution {
        node_selector(selector, &path.child(REQUIRED), errors);
    }
    let preferred = affinity.preferred_during_scheduling_ignored_during_execution.or_empty();
    for (index, term) in preferred.iter().enumerate() {
        let path = path.child(PREFERRED).index(index);
        weight(term.weight, &path, errors);
        node_term(&term.preference, false, &path.child("preference"), errors);
    }
}

pub(in crate::registry) fn node_selector(selector: &NodeSelector, path: &Path, errors: &mut FieldErrors) {
    let path = path.child("nodeSelectorTerms");
    if selector.node_selector_terms.is_empty() {
        return errors.required(&path, "must have at least one node selector term");
    }
    for (index, term) in selector.node_selector_terms.iter().enumerate() {
        node_term(term, true, &path.index(index), errors);
    }
}

/// Values that no label can have make a required term useless, a preferred one only weak: it is let through.
fn node_term(term: &NodeSelectorTerm, is_required: bool, path: &Path, errors: &mut FieldErrors) {
    for (index, requirement) in term.match_expressions.or_empty().iter().enumerate() {
        node_requirement(requirement, is_required, &path.child("matchExpressions").index(index), errors);
    }
    for (index, requirement) in term.match_fields.or_empty().iter().enumerate() {
        node_field_requirement(requirement, &path.child("matchFields").index(index), errors);
    }
}

fn node_requirement(
    requirement: &NodeSelectorRequirement,
    check_values: bool,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let values = requirement.values.or_empty();
    let values_path = path.child("values");
    match requirement.operator.as_str() {
        "In" | "NotIn" if values.is_empty() => {
            errors.required(&values_path, "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            errors.forbidden(
                &values_path,
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            );
        }
        "Gt" | "Lt" if values.len() != 1 => {
            errors.required(&values_path, "must be specified single value when `operator` is 'Lt' or 'Gt'");
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        operator => errors.invalid(&path.child("operator"), operator, "not a valid selector operator"),
    }
    check::label_name(&requirement.key, &path.child("key"), errors);
    if check_values {
        for (index, value) in values.iter().enumerate() {
            check::label_value(value, &values_path.index(index), errors);
        }
    }
}

fn node_field_requirement(requirement: &NodeSelectorRequirement, path: &Path, errors: &mut FieldErrors) {
    let values = requirement.values.or_empty();
    let values_path = path.child("values");
    match requirement.operator.as_str() {
        "In" | "NotIn" if values.len() == 1 => {}
        "In" | "NotIn" => errors.required(
            &values_path,
            "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
        ),
        operator => errors.invalid(&path.child("operator"), operator, "not a valid selector operator"),
    }
    if requirement.key != "metadata.name" {
        let detail = "not a valid field selector key";
        return errors.invalid(&path.child("key"), requirement.key.as_str(), detail);
    }
    for (index, value) in values.iter().enumerate() {
        check::subdomain(value, &values_path.index(index), errors);
    }
}
