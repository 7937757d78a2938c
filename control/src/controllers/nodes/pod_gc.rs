//! Removes pods that no kubelet will ever finish: those of nodes that are gone, and those that never had one.

use k8s_openapi::{
    api::core::v1::{Node, Pod},
    jiff::{SignedDuration, Timestamp},
};
use naru_model::{
    Object,
    pod::{is_terminal, node_name},
};
use serde_json::json;

use super::{eviction::disruption, ready_status};
use crate::{
    client::Delete,
    controllers::{
        common::{is_deleting, until},
        framework::{Action, Cache, Change, ClusterView, Controller, Plan, Write, brief, decoded, key_of},
    },
    store::Key,
};

const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// A node that was deleted may be registering itself again.
const QUARANTINE: SignedDuration = SignedDuration::from_secs(40);

/// Collects pods that are lost. A key is a pod.
pub struct PodGc;

impl Controller for PodGc {
    fn name(&self) -> &'static str {
        "pod-garbage-collector"
    }

    fn concerns(&self, change: &Change<'_>, cache: &Cache, look: &mut dyn FnMut(Key)) {
        if change.is::<Node>() {
            let is_out_of_service =
                decoded::<Node>(change.entry).is_some_and(|node| is_out_of_service(&node));
            if change.is_deleted || is_out_of_service {
                cache.pods_on_node(change.entry.key.name()).for_each(|pod| look(pod.key.clone()));
            }
        } else if change.is::<Pod>() && !change.is_deleted {
            let Some(pod) = brief(change.entry) else { return };
            let is_on_no_node =
                pod.node_name.as_ref().is_some_and(|node| cache.entry(&key_of::<Node>("", node)).is_none());
            if is_on_no_node || change.entry.meta.deletion_timestamp.is_some() {
                look(change.entry.key.clone());
            }
        }
    }

    fn reconcile(&self, key: &Key, view: &ClusterView<'_>) -> Plan {
        let mut plan = Plan::nothing();
        let Some(pod) = view.cache.get::<Pod>(key.namespace(), key.name()) else { return plan };
        let Some(name) = node_name(&pod) else {
            if is_deleting(&*pod) && has_grace(&pod) {
                remove(&pod, None, &mut plan);
            }
            return plan;
        };
        match view.cache.get::<Node>("", name) {
            Some(node) => {
                if is_deleting(&*pod)
                    && has_grace(&pod)
                    && is_out_of_service(&node)
                    && ready_status(&node) != "True"
                {
                    remove(&pod, None, &mut plan);
                }
            }
            None => {
                let missing_since = view.cache.missing_since(name).max(bound_since(&pod)).unwrap_or(view.now);
                let deadline = missing_since + QUARANTINE;
                if deadline > view.now {
                    plan.look_again(until(deadline, view.now));
                } else if !is_deleting(&*pod) || has_grace(&pod) {
                    let reason =
                        disruption(&pod, "DeletionByPodGC", "PodGC: node no longer exists", view.now);
                    remove(&pod, Some(reason), &mut plan);
                }
            }
        }
        plan
    }
}

/// When the pod got its node, which may be there later than the pod.
fn bound_since(pod: &Pod) -> Option<Timestamp> {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let mut bound =
        conditions.filter(|condition| condition.type_ == "PodScheduled" && condition.status == "True");
    let bound = bound.find_map(|condition| condition.last_transition_time.as_ref());
    bound.or(pod.metadata.creation_timestamp.as_ref()).map(|time| time.0)
}

/// Whether somebody is still waited for; a pod without grace waits for its finalizers only.
fn has_grace(pod: &Pod) -> bool {
    pod.metadata.deletion_grace_period_seconds != Some(0)
}

fn remove(pod: &Pod, reason: Option<Write>, plan: &mut Plan) {
    plan.then(reason);
    let key = key_of::<Pod>(pod.namespace(), pod.name());
    if !is_terminal(pod) {
        let patch = json!({"metadata": {"uid": pod.uid()}, "status": {"phase": "Failed"}});
        plan.then([Write::strategic_status_patch(key.clone(), patch)]);
    }
    let options = Delete { uid: Some(pod.uid().into()), grace_period_seconds: Some(0), ..Delete::default() };
    plan.then([Action::Delete { key, options }.into()]);
}

fn is_out_of_service(node: &Node) -> bool {
    let mut taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.any(|taint| taint.key == OUT_OF_SERVICE)
}
