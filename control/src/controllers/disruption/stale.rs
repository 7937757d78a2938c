//! Takes back that a pod is about to be disrupted, where nothing came of it.
//!
//! Who evicts says so in the pod's condition `DisruptionTarget` first, and deletes then. If it fails in between, the
//! condition would go on telling Jobs and users about something that did not happen.

use k8s_openapi::{
    api::core::v1::{Pod, PodCondition},
    jiff::{SignedDuration, Timestamp},
};
use naru_model::{condition, pod::is_terminal};

use super::NAME;
use crate::{
    controllers::{
        common::{is_deleting, until},
        framework::{Cache, Change, ClusterView, Controller, Plan, Write, brief},
    },
    store::Key,
};

const CONDITION: &str = "DisruptionTarget";
/// How long a pod may be about to go.
const TIMEOUT: SignedDuration = SignedDuration::from_mins(2);

/// Clears stale conditions. A key is a pod.
pub struct StaleTargets;

impl Controller for StaleTargets {
    fn name(&self) -> &'static str {
        NAME
    }

    fn concerns(&self, change: &Change<'_>, _cache: &Cache, look: &mut dyn FnMut(Key)) {
        if !change.is_deleted
            && change.is::<Pod>()
            && brief(change.entry).is_some_and(|pod| pod.is_disruption_target)
        {
            look(change.entry.key.clone());
        }
    }

    fn reconcile(&self, key: &Key, view: &ClusterView<'_>) -> Plan {
        let mut plan = Plan::nothing();
        let Some(pod) = view.cache.get::<Pod>(key.namespace(), key.name()) else { return plan };
        let Some(since) = target_since(&pod) else { return plan };
        let end = since.saturating_add(TIMEOUT).unwrap_or(Timestamp::MAX);
        if end > view.now {
            plan.look_again(until(end, view.now));
            return plan;
        }
        let mut pod = (*pod).clone();
        let conditions = &mut pod.status.get_or_insert_default().conditions;
        condition::set(conditions, condition::pod(CONDITION, false, None, None), view.now);
        plan.then([Write::update_status(pod)]);
        plan
    }
}

/// Since when the pod has been about to be disrupted, where somebody else than its kubelet said so: the kubelet takes
/// its time.
fn target_since(pod: &Pod) -> Option<Timestamp> {
    let is_stale = |condition: &&PodCondition| {
        condition.status == "True" && condition.reason.as_deref() != Some("TerminationByKubelet")
    };
    let found = condition::find(pod.status.as_ref()?.conditions.as_ref(), CONDITION).filter(is_stale)?;
    if is_deleting(pod) || is_terminal(pod) {
        return None;
    }
    Some(found.last_transition_time.as_ref().map_or(Timestamp::MIN, |time| time.0))
}
