//! Deletes pods from nodes with `NoExecute` taints, once they no longer tolerate them.

use std::sync::Arc;

use k8s_openapi::{
    api::core::v1::{Node, Pod, Taint},
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::{SignedDuration, Timestamp},
};
use naru_model::{Object, pod::node_name, taint::tolerates};
use serde_json::json;

use crate::{
    controllers::{
        common::{is_deleting, reference, until},
        framework::{
            Cache, Change, ClusterView, Controller, Note, Plan, Report, Write, brief, decoded, key_of,
        },
    },
    store::{Entry, Key},
};

/// Evicts by taint. A key is a pod.
pub struct TaintEviction;

impl Controller for TaintEviction {
    fn name(&self) -> &'static str {
        "taint-eviction-controller"
    }

    fn concerns(&self, change: &Change<'_>, cache: &Cache, look: &mut dyn FnMut(Key)) {
        if change.is_deleted {
            return;
        }
        if change.is::<Node>() {
            let taints = |entry: &Arc<Entry>| decoded::<Node>(entry).map(|node| no_execute(&node));
            let now = taints(change.entry).unwrap_or_default();
            if now != change.previous.and_then(taints).unwrap_or_default() {
                cache.pods_on_node(change.entry.key.name()).for_each(|pod| look(pod.key.clone()));
            }
        } else if change.is::<Pod>() {
            // Nearly always there are no taints, and nothing to look at.
            let node = brief(change.entry).and_then(|pod| cache.get::<Node>("", pod.node_name.as_deref()?));
            if node.is_some_and(|node| !no_execute(&node).is_empty()) {
                look(change.entry.key.clone());
            }
        }
    }

    fn reconcile(&self, key: &Key, view: &ClusterView<'_>) -> Plan {
        let mut plan = Plan::nothing();
        let Some(pod) = view.cache.get::<Pod>(key.namespace(), key.name()) else { return plan };
        let Some(node) = node_name(&pod).and_then(|node| view.cache.get::<Node>("", node)) else {
            return plan;
        };
        let taints = no_execute(&node);
        if is_deleting(&*pod) {
            return plan;
        }
        match tolerated_until(&taints, &pod) {
            Tolerance::Endless => (),
            Tolerance::Until(end) if end > view.now => plan.look_again(until(end, view.now)),
            Tolerance::Until(_) | Tolerance::None => evict(&pod, view.now, &mut plan),
        }
        plan
    }
}

enum Tolerance {
    None,
    Until(Timestamp),
    Endless,
}

fn evict(pod: &Pod, now: Timestamp, plan: &mut Plan) {
    let name = format!("{}/{}", pod.namespace(), pod.name());
    let message = "Taint manager: deleting due to NoExecute taint";
    plan.then([disruption(pod, "DeletionByTaintManager", message, now)]);
    plan.then([Write::delete(pod).reported(Report {
        about: reference(pod),
        success: Some(Note::normal("TaintManagerEviction", format!("Marking for deletion Pod {name}"))),
        failure: None,
    })]);
}

/// Says in the pod's status why it is about to be deleted.
pub fn disruption(pod: &Pod, reason: &str, message: &str, now: Timestamp) -> Write {
    let condition = json!({
        "type": "DisruptionTarget",
        "status": "True",
        "reason": reason,
        "message": message,
        "lastTransitionTime": Time(now),
    });
    let patch = json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [condition]}});
    Write::strategic_status_patch(key_of::<Pod>(pod.namespace(), pod.name()), patch)
}

fn no_execute(node: &Node) -> Vec<Taint> {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.filter(|taint| taint.effect == "NoExecute").cloned().collect()
}

/// How long all of `taints` are tolerated: the first toleration that matches a taint speaks for it.
fn tolerated_until(taints: &[Taint], pod: &Pod) -> Tolerance {
    let tolerations = || pod.spec.iter().flat_map(|spec| spec.tolerations.iter().flatten());
    let mut end = None::<Timestamp>;
    for taint in taints {
        let Some(toleration) = tolerations().find(|toleration| tolerates(toleration, taint)) else {
            return Tolerance::None;
        };
        if let Some(seconds) = toleration.toleration_seconds {
            let since = taint.time_added.as_ref().map_or(Timestamp::MIN, |time| time.0);
            let this =
                since.saturating_add(SignedDuration::from_secs(seconds.max(0))).unwrap_or(Timestamp::MAX);
            end = Some(end.map_or(this, |end| end.min(this)));
        }
    }
    end.map_or(Tolerance::Endless, Tolerance::Until)
}
