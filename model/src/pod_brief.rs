//! The few things of a pod on which decisions about many pods rest.

use k8s_openapi::{
    api::core::v1::Pod,
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::{SignedDuration, Timestamp},
};
use serde::{Deserialize, de::IgnoredAny};

/// What controllers look at in every pod of a set, whenever one of them changes. It takes 64 bytes and its node's name,
/// where a decoded pod takes about 15 kB, and decodes from the pod's JSON in a fraction of the time.
///
/// Labels, owners and the deletion timestamp are not here: they are in the metadata of every stored object.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(from = "Wire")]
pub struct PodBrief {
    /// `spec.nodeName`, if it is scheduled.
    pub node_name: Option<Box<str>>,
    /// As [`is_terminal`](crate::pod::is_terminal).
    pub is_terminal: bool,
    /// As [`is_ready`](crate::pod::is_ready).
    pub is_ready: bool,
    /// Since when its Ready condition has been as it is.
    pub ready_changed: Option<Timestamp>,
    /// As [`is_resizing`](crate::pod::is_resizing).
    pub is_resizing: bool,
    /// Whether something is about to disrupt it, or was.
    pub is_disruption_target: bool,
}

impl PodBrief {
    /// How long until the pod has been ready for `min_ready_seconds`: zero is now, `None` is never without a change.
    pub fn available_in(&self, min_ready_seconds: i32, now: Timestamp) -> Option<std::time::Duration> {
        if !self.is_ready {
            return None;
        }
        if min_ready_seconds <= 0 {
            return Some(std::time::Duration::ZERO);
        }
        let ready_for = now.duration_since(self.ready_changed?);
        let wanted = SignedDuration::from_secs(min_ready_seconds.into());
        Some(std::time::Duration::try_from(wanted - ready_for).unwrap_or_default())
    }
}

impl From<&Pod> for PodBrief {
    fn from(pod: &Pod) -> Self {
        use crate::{condition, pod as of};
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        let ready = condition::find(conditions, READY);
        Self {
            node_name: of::node_name(pod).map(Into::into),
            is_terminal: of::is_terminal(pod),
            is_ready: of::is_ready(pod),
            ready_changed: ready.and_then(|ready| ready.last_transition_time.as_ref()).map(|time| time.0),
            is_resizing: of::is_resizing(pod),
            is_disruption_target: condition::is_true(conditions, DISRUPTION_TARGET),
        }
    }
}

const READY: &str = "Ready";
const DISRUPTION_TARGET: &str = "DisruptionTarget";

/// The wire's form: everything may be absent or null, and most is skipped.
#[derive(Deserialize)]
struct Wire {
    spec: Option<Spec>,
    status: Option<Status>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    node_name: Option<Box<str>>,
}

#[derive(Deserialize)]
struct Status {
    phase: Option<Phase>,
    conditions: Option<Vec<Condition>>,
}

#[derive(Deserialize)]
enum Phase {
    Succeeded,
    Failed,
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    #[serde(rename = "type")]
    kind: ConditionKind,
    status: ConditionStatus,
    last_transition_time: Option<Time>,
    #[serde(rename = "message")]
    _message: Option<IgnoredAny>,
}

#[derive(Deserialize, PartialEq, Clone, Copy)]
enum ConditionKind {
    Ready,
    DisruptionTarget,
    PodResizePending,
    PodResizeInProgress,
    #[serde(other)]
    Other,
}

#[derive(Deserialize, PartialEq, Clone, Copy)]
enum ConditionStatus {
    True,
    #[serde(other)]
    Other,
}

impl From<Wire> for PodBrief {
    fn from(wire: Wire) -> Self {
        let (phase, conditions) =
            wire.status.map_or((None, None), |status| (status.phase, status.conditions));
        let conditions = conditions.unwrap_or_default();
        let find = |kind| conditions.iter().find(|condition| condition.kind == kind);
        let is_true = |condition: Option<&Condition>| {
            condition.is_some_and(|condition| condition.status == ConditionStatus::True)
        };
        let ready = find(ConditionKind::Ready);
        Self {
            node_name: wire.spec.and_then(|spec| spec.node_name).filter(|name| !name.is_empty()),
            is_terminal: matches!(phase, Some(Phase::Succeeded | Phase::Failed)),
            is_ready: is_true(ready),
            ready_changed: ready.and_then(|ready| ready.last_transition_time.as_ref()).map(|time| time.0),
            is_resizing: find(ConditionKind::PodResizePending)
                .or_else(|| find(ConditionKind::PodResizeInProgress))
                .is_some(),
            is_disruption_target: is_true(find(ConditionKind::DisruptionTarget)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn both(pod: &Value) -> (PodBrief, PodBrief) {
        let whole: Pod = serde_json::from_value(pod.clone()).expect("a pod");
        let brief = serde_json::from_slice(&serde_json::to_vec(pod).expect("JSON")).expect("a brief");
        (brief, PodBrief::from(&whole))
    }

    #[test]
    fn a_brief_says_of_the_json_what_would_be_said_of_the_pod() {
        let condition =
            |kind: &str, status: &str| json!({ "type": kind, "status": status, "message": "a \"b\"" });
        let mut ready = condition("Ready", "True");
        ready["lastTransitionTime"] = "2026-01-02T03:04:05Z".into();
        for pod in [
            json!({ "metadata": { "name": "bare" } }),
            json!({ "spec": null, "status": null }),
            json!({ "spec": { "nodeName": "", "containers": [] }, "status": { "phase": "Unheard" } }),
            json!({ "spec": { "nodeName": "n1", "containers": [] }, "status": { "phase": "Failed", "conditions": null } }),
            json!({ "status": { "phase": "Succeeded", "conditions": [] } }),
            json!({ "status": { "phase": "Running", "conditions": [condition("Other", "True"), ready] } }),
            json!({ "status": { "conditions": [condition("Ready", "False"), condition("DisruptionTarget", "True")] } }),
            json!({ "status": { "conditions": [condition("DisruptionTarget", "Unknown"), condition("PodResizePending", "True")] } }),
            json!({ "status": { "conditions": [condition("PodResizeInProgress", "False")] } }),
        ] {
            let (brief, whole) = both(&pod);
            assert_eq!(brief, whole, "{pod}");
        }
    }

    #[test]
    fn a_pod_is_available_when_it_was_ready_for_long_enough() {
        let ready =
            json!({ "type": "Ready", "status": "True", "lastTransitionTime": "2026-01-02T03:04:05Z" });
        let (brief, _) = both(&json!({ "status": { "conditions": [ready] } }));
        let now = "2026-01-02T03:04:15Z".parse().expect("a time");
        let seconds = |wanted| brief.available_in(wanted, now).map(|wait| wait.as_secs());
        assert_eq!((seconds(0), seconds(10), seconds(25)), (Some(0), Some(0), Some(15)));
        let (unready, _) = both(&json!({ "status": { "conditions": [] } }));
        assert_eq!(unready.available_in(0, now), None);
    }
}
