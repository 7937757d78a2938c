//! Pods.
//!
//! A pod's spec is nearly frozen once it is created ([`update`]); its status belongs to the node agent
//! ([`status`]). Deletion is graceful: the agent is given the time the pod asks for.

use k8s_openapi::{
    api::core::v1::{Pod, PodAffinityTerm, PodCondition, PodSpec, PodStatus},
    apimachinery::pkg::apis::meta::v1::{LabelSelectorRequirement, Time},
    jiff::Timestamp,
};
use naru_model::{
    PodBrief, ResourceInfo,
    resource::ALL_VERBS,
    validation::{FieldErrors, Path, names},
};
use serde_json::Value;
use std::collections::BTreeMap;

use super::{
    Column, Kind,
    kind::Context,
    podspec::{self, Home, OrEmpty, defaults, resources, warnings},
};
use crate::store::Entry;

mod columns;
mod parts;
mod status;
mod update;

#[cfg(test)]
mod tests;

pub struct Pods;

static RESOURCE: ResourceInfo = ResourceInfo {
    group: "",
    version: "v1",
    kind: "Pod",
    plural: "pods",
    singular: "pod",
    short_names: &["po"],
    categories: &["all"],
    namespaced: true,
    subresources: &[
        "attach",
        "binding",
        parts::EPHEMERAL_CONTAINERS,
        "eviction",
        "exec",
        "log",
        "portforward",
        "proxy",
        parts::RESIZE,
        "status",
    ],
    verbs: ALL_VERBS,
};

impl Kind for Pods {
    type Object = Pod;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn answers_deleted(&self) -> bool {
        true
    }

    fn default(&self, pod: &mut Pod) {
        let spec = pod.spec.get_or_insert_default();
        defaults::default_spec(spec);
        defaults::default_pod(spec);
        if let Some(status) = &mut pod.status {
            status::one_address_in_both_fields(status);
        }
    }

    fn prepare_create(&self, pod: &mut Pod, context: &Context<'_>) {
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        let spec = pod.spec.get_or_insert_default();
        match_label_keys(spec, &labels);
        let is_gated = !spec.scheduling_gates.or_empty().is_empty();
        pod.status = Some(PodStatus {
            phase: Some("Pending".into()),
            qos_class: Some(resources::qos_class(spec).into()),
            conditions: is_gated.then(|| vec![gated_condition(context.now)]),
            ..PodStatus::default()
        });
    }

    fn prepare_update(&self, new: &mut Pod, old: &Pod, _context: &Context<'_>) {
        new.status.clone_from(&old.status);
    }

    fn prepare_status_update(&self, new: &mut Pod, old: &Pod, _context: &Context<'_>) {
        new.spec.clone_from(&old.spec);
        new.metadata.deletion_timestamp.clone_from(&old.metadata.deletion_timestamp);
        new.metadata.owner_references.clone_from(&old.metadata.owner_references);
        status::keep_what_old_clients_drop(new.status.get_or_insert_default(), old.status.as_ref());
    }

    fn validate(&self, pod: &Pod, errors: &mut FieldErrors) {
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let path = Path::new("metadata").child("annotations");
        podspec::pod_annotations(&pod.metadata, spec, &path, errors);
        let name = pod.metadata.name.or_empty();
        podspec::validate_spec(spec, Home::Pod { name }, &Path::new("spec"), errors);
    }

    fn validate_create(&self, pod: &Pod, errors: &mut FieldErrors) {
        validate_create(pod, errors);
    }

    fn validate_update(&self, new: &Pod, old: &Pod, errors: &mut FieldErrors) {
        update::validate(new, old, errors);
    }

    fn validate_status_update(&self, new: &Pod, old: &Pod, errors: &mut FieldErrors) {
        status::validate(new, old, errors);
    }

    fn prepare_part_update(&self, part: &str, new: &mut Pod, old: &Pod) {
        parts::prepare(part, new, old);
    }

    fn validate_part_update(&self, part: &str, new: &Pod, old: &Pod, errors: &mut FieldErrors) {
        parts::validate(part, new, old, errors);
    }

    fn is_spec_changed(&self, new: &Pod, old: &Pod) -> bool {
        new.spec != old.spec
    }

    fn warnings(&self, pod: &Pod) -> Vec<String> {
        let name = pod.metadata.name.or_empty();
        let problems = names::dns1123_label(name);
        let mut texts = Vec::new();
        if !problems.is_empty() && !name.is_empty() {
            texts.push(format!(
                "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS \
                 label is recommended: [{}]",
                problems.join(" ")
            ));
        }
        if let Some(spec) = &pod.spec {
            texts.extend(warnings::warnings(&pod.metadata, spec, &Path::default()));
        }
        texts
    }

    fn columns(&self) -> &'static [Column] {
        columns::COLUMNS
    }

    fn row(&self, pod: &Pod, now: Timestamp) -> Vec<Value> {
        columns::row(pod, now)
    }

    fn field_names(&self) -> &'static [&'static str] {
        &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ]
    }

    fn quick_field(&self, entry: &Entry, name: &str) -> Option<String> {
        let brief = entry.brief::<PodBrief>().ok().filter(|_| name == "spec.nodeName")?;
        Some(brief.node_name.as_deref().unwrap_or_default().into())
    }

    fn field(&self, pod: &Pod, name: &str) -> String {
        let text = |value: Option<&String>| value.cloned().unwrap_or_default();
        let (spec, status) = (pod.spec.as_ref(), pod.status.as_ref());
        match name {
            "spec.nodeName" => text(spec.and_then(|spec| spec.node_name.as_ref())),
            "spec.restartPolicy" => text(spec.and_then(|spec| spec.restart_policy.as_ref())),
            "spec.schedulerName" => text(spec.and_then(|spec| spec.scheduler_name.as_ref())),
            "spec.serviceAccountName" => text(spec.and_then(|spec| spec.service_account_name.as_ref())),
            "spec.hostNetwork" => (spec.and_then(|spec| spec.host_network) == Some(true)).to_string(),
            "status.phase" => text(status.and_then(|status| status.phase.as_ref())),
            "status.podIP" | "status.podIPs" => text(status.and_then(|status| status.pod_ip.as_ref())),
            "status.nominatedNodeName" => text(status.and_then(|status| status.nominated_node_name.as_ref())),
            _ => String::new(),
        }
    }

    fn grace_period_seconds(&self, pod: &Pod, requested: Option<i64>) -> Option<i64> {
        let spec = pod.spec.as_ref();
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let is_scheduled = spec.is_some_and(|spec| !spec.node_name.or_empty().is_empty());
        // Nobody would confirm the end of a pod that no node has, or wait for one that is over.
        if !is_scheduled || matches!(phase, Some("Failed" | "Succeeded")) {
            return Some(0);
        }
        let seconds = requested.or(spec.and_then(|spec| spec.termination_grace_period_seconds)).unwrap_or(0);
        Some(if seconds < 0 { 1 } else { seconds })
    }
}

fn validate_create(pod: &Pod, errors: &mut FieldErrors) {
    let Some(spec) = &pod.spec else { return };
    let path = Path::new("spec");
    if !spec.ephemeral_containers.or_empty().is_empty() {
        errors.forbidden(&path.child("ephemeralContainers"), "cannot be set on create");
    }
    if !spec.node_name.or_empty().is_empty() && !spec.scheduling_gates.or_empty().is_empty() {
        let detail = "cannot be set until all schedulingGates have been cleared";
        errors.forbidden(&path.child("nodeName"), detail);
    }
    podspec::match_profiles(&pod.metadata, spec, &path, errors);
}

fn gated_condition(now: Timestamp) -> PodCondition {
    PodCondition {
        type_: "PodScheduled".into(),
        status: "False".into(),
        reason: Some("SchedulingGated".into()),
        message: Some("Scheduling is blocked due to non-empty scheduling gates".into()),
        last_transition_time: Some(Time(now)),
        ..PodCondition::default()
    }
}

/// Turns `matchLabelKeys` into what they mean for this pod: expressions over the values of its own labels.
fn match_label_keys(spec: &mut PodSpec, labels: &BTreeMap<String, String>) {
    if let Some(affinity) = &mut spec.affinity {
        let near = affinity.pod_affinity.iter_mut().map(|pods| {
            (
                &mut pods.required_during_scheduling_ignored_during_execution,
                &mut pods.preferred_during_scheduling_ignored_during_execution,
            )
        });
        let apart = affinity.pod_anti_affinity.iter_mut().map(|pods| {
            (
                &mut pods.required_during_scheduling_ignored_during_execution,
                &mut pods.preferred_during_scheduling_ignored_during_execution,
            )
        });
        for (required, preferred) in near.chain(apart) {
            let preferred = preferred.iter_mut().flatten().map(|term| &mut term.pod_affinity_term);
            required.iter_mut().flatten().chain(preferred).for_each(|term| match_term_keys(term, labels));
        }
    }
    for constraint in spec.topology_spread_constraints.iter_mut().flatten() {
        let keys = constraint.match_label_keys.or_empty();
        if let Some(selector) = &mut constraint.label_selector {
            selector.match_expressions = with_keys(selector.match_expressions.take(), keys, "In", labels);
        }
    }
}

fn match_term_keys(term: &mut PodAffinityTerm, labels: &BTreeMap<String, String>) {
    let Some(selector) = &mut term.label_selector else { return };
    let expressions = selector.match_expressions.take();
    let expressions = with_keys(expressions, term.match_label_keys.or_empty(), "In", labels);
    selector.match_expressions = with_keys(expressions, term.mismatch_label_keys.or_empty(), "NotIn", labels);
}

fn with_keys(
    expressions: Option<Vec<LabelSelectorRequirement>>,
    keys: &[String],
    operator: &str,
    labels: &BTreeMap<String, String>,
) -> Option<Vec<LabelSelectorRequirement>> {
    let mut expressions = expressions.unwrap_or_default();
    for (key, value) in keys.iter().filter_map(|key| Some((key, labels.get(key)?))) {
        expressions.push(LabelSelectorRequirement {
            key: key.clone(),
            operator: operator.into(),
            values: Some(vec![value.clone()]),
        });
    }
    Some(expressions).filter(|expressions| !expressions.is_empty())
}
