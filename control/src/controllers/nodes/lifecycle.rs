//! Whether nodes are alive, in their conditions and taints.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    api::core::v1::{Node, NodeCondition, Pod, Taint},
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use naru_model::{Object, pod::is_ready};
use serde_json::json;

use super::{condition, ready_status};
use crate::controllers::{
    common::{is_deleting, reference, until},
    framework::{Cache, ClusterView, Note, Plan, Reconciler, Report, Write, decoded, key_of},
};

pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions that, when true, keep new pods away.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];
const MONITOR_PERIOD: Duration = Duration::from_secs(5);
const WATCHED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
/// How long a new node may take to say its first word.
const STARTUP_GRACE: Duration = Duration::from_mins(1);

/// Tells living nodes from silent ones. A Lease that is renewed is no reason to look: it only moves a deadline,
/// which the look that waits for the deadline sees.
pub struct NodeLifecycle {
    /// How long a node may be silent.
    pub grace: Duration,
}

impl Reconciler for NodeLifecycle {
    type Object = Node;

    fn name(&self) -> &'static str {
        "node-controller"
    }

    fn reconcile(&self, node: &Node, view: &ClusterView<'_>) -> Plan {
        let mut plan = Plan::nothing();
        if is_deleting(node) {
            return plan;
        }
        let grace =
            if condition(node, "Ready").is_some() { self.grace } else { STARTUP_GRACE.max(self.grace) };
        let heard = view.cache.heartbeat(node.name()).unwrap_or(view.now);
        let deadline = heard + k8s_openapi::jiff::SignedDuration::try_from(grace).unwrap_or_default();
        if view.now < deadline {
            plan.look_again(until(deadline, view.now));
        } else if let Some(write) = give_up(node, view.now) {
            // Taints follow from conditions: the next look, on the written ones.
            plan.then([write]);
            return plan;
        }
        if ready_status(node) != "True" {
            plan.look_again(MONITOR_PERIOD); // Its taints also depend on how the other nodes are.
        }
        if ready_status(node) == "Unknown" {
            plan.then(
                pods(node, view.cache).filter(|pod| is_ready(pod)).map(|pod| mark_not_ready(&pod, view.now)),
            );
        }
        plan.then(taint(node, view));
        plan
    }
}

/// The node's conditions become Unknown, those that are not yet.
fn give_up(node: &Node, now: Timestamp) -> Option<Write> {
    let mut node = node.clone();
    let created = node.metadata.creation_timestamp.clone();
    let was_ready = ready_status(&node) == "True";
    let conditions = node.status.get_or_insert_default().conditions.get_or_insert_default();
    let mut is_changed = false;
    for kind in WATCHED {
        match conditions.iter_mut().find(|condition| condition.type_ == kind) {
            Some(condition) if condition.status == "Unknown" => continue,
            Some(condition) => {
                condition.status = "Unknown".into();
                condition.reason = Some("NodeStatusUnknown".into());
                condition.message = Some("Kubelet stopped posting node status.".into());
                condition.last_transition_time = Some(Time(now));
            }
            None => conditions.push(NodeCondition {
                type_: kind.into(),
                status: "Unknown".into(),
                reason: Some("NodeStatusNeverUpdated".into()),
                message: Some("Kubelet never posted node status.".into()),
                last_heartbeat_time: created.clone(),
                last_transition_time: Some(Time(now)),
            }),
        }
        is_changed = true;
    }
    let note = Note::normal("NodeNotReady", format!("Node {} status is now: NodeNotReady", node.name()));
    let report = Report { about: reference(&node), success: was_ready.then_some(note), failure: None };
    is_changed.then(|| Write::update_status(node).reported(report))
}

fn taint(node: &Node, view: &ClusterView<'_>) -> Option<Write> {
    let existing = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let wanted = wanted_taints(node, view.cache);
    let (ours, mut taints): (Vec<_>, Vec<_>) = existing.iter().cloned().partition(is_ours);
    for (key, effect) in wanted {
        let known = ours.iter().find(|taint| taint.key == key && taint.effect == effect).cloned();
        taints.push(known.unwrap_or_else(|| Taint {
            key: key.into(),
            effect: effect.into(),
            value: None,
            time_added: Some(Time(view.now)),
        }));
    }
    let is_same = taints.len() == existing.len() && taints.iter().all(|taint| existing.contains(taint));
    if is_same {
        return None;
    }
    // The list is replaced as a whole, so nobody may have changed it in between.
    let metadata = json!({"uid": node.uid(), "resourceVersion": node.metadata.resource_version});
    let patch = json!({"metadata": metadata, "spec": {"taints": taints}});
    Some(Write::merge_patch(key_of::<Node>("", node.name()), "", patch))
}

fn wanted_taints(node: &Node, cache: &Cache) -> Vec<(&'static str, &'static str)> {
    let mut taints = Vec::new();
    let ready = ready_status(node);
    let key = match ready {
        "True" => None,
        "Unknown" => Some(UNREACHABLE),
        _ => Some(NOT_READY),
    };
    if let Some(key) = key {
        taints.push((key, "NoSchedule"));
        // When no node is ready, the network or the control plane is at fault, and evicting all helps nobody.
        if !ready.is_empty() && !cache.is_every_node_lost() {
            taints.push((key, "NoExecute"));
        }
    }
    for (kind, key) in PRESSURES {
        if condition(node, kind).is_some_and(|condition| condition.status == "True") {
            taints.push((key, "NoSchedule"));
        }
    }
    if node.spec.as_ref().is_some_and(|spec| spec.unschedulable == Some(true)) {
        taints.push((UNSCHEDULABLE, "NoSchedule"));
    }
    taints
}

fn is_ours(taint: &Taint) -> bool {
    let key = taint.key.as_str();
    let is_state = key == NOT_READY || key == UNREACHABLE;
    let is_other = key == UNSCHEDULABLE || PRESSURES.iter().any(|(_, pressure)| *pressure == key);
    is_state || (is_other && taint.effect == "NoSchedule")
}

fn pods<'a>(node: &'a Node, cache: &'a Cache) -> impl Iterator<Item = Arc<Pod>> + 'a {
    cache.pods_on_node(node.name()).filter_map(decoded::<Pod>)
}

/// Only for silent nodes: a kubelet that is there speaks for its pods itself.
fn mark_not_ready(pod: &Pod, now: Timestamp) -> Write {
    let condition = json!({"type": "Ready", "status": "False", "lastTransitionTime": Time(now)});
    let patch = json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [condition]}});
    let key = key_of::<Pod>(pod.namespace(), pod.name());
    Write::strategic_status_patch(key, patch).reported(Report {
        about: reference(pod),
        success: Some(Note::warning("NodeNotReady", "Node is not ready")),
        failure: None,
    })
}
