//! What we report back.

use k8s_openapi::{
    api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetSpec, ReplicaSetStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};

use crate::controllers::{
    common::nonzero,
    framework::{ClusterView, Member, Plan, Write},
};

const FAILURE: &str = "ReplicaFailure";

/// Adds the status to the plan where it has changed, and a later look where time alone will change it.
pub fn report(
    set: &ReplicaSet,
    spec: &ReplicaSetSpec,
    active: &[Member],
    inactive: &[Member],
    view: &ClusterView<'_>,
    plan: &mut Plan,
) {
    let min_ready_seconds = spec.min_ready_seconds.unwrap_or(0);
    let waits = active.iter().filter_map(|pod| pod.brief.available_in(min_ready_seconds, view.now));
    if let Some(soonest) = waits.filter(|wait| !wait.is_zero()).min() {
        plan.look_again(soonest);
    }
    let old = set.status.clone().unwrap_or_default();
    let new = status(set, spec, active, inactive, view, &old);
    if old == new {
        return;
    }
    let mut set = set.clone();
    set.status = Some(new);
    // First, so that it does not wait for a thousand creations; it says what was observed before them.
    let write = Write::update_status(set);
    match plan.stages.first_mut().filter(|stage| !stage.slow_start) {
        Some(stage) => stage.writes.push(write),
        None => plan.stages.insert(0, crate::controllers::framework::Stage::of(write)),
    }
}

fn status(
    set: &ReplicaSet,
    spec: &ReplicaSetSpec,
    active: &[Member],
    inactive: &[Member],
    view: &ClusterView<'_>,
    old: &ReplicaSetStatus,
) -> ReplicaSetStatus {
    let template_labels =
        spec.template.as_ref().and_then(|template| template.metadata.as_ref()?.labels.as_ref());
    let is_fully_labeled = |pod: &&Member| {
        template_labels.into_iter().flatten().all(|(label, value)| pod.labels().get(label) == Some(value))
    };
    let min_ready_seconds = spec.min_ready_seconds.unwrap_or(0);
    let is_available = |pod: &&Member| {
        pod.brief.available_in(min_ready_seconds, view.now).is_some_and(|wait| wait.is_zero())
    };
    let count = |pods: usize| i32::try_from(pods).unwrap_or(i32::MAX);
    ReplicaSetStatus {
        replicas: count(active.len()),
        fully_labeled_replicas: nonzero(count(active.iter().filter(is_fully_labeled).count())),
        ready_replicas: nonzero(count(active.iter().filter(|pod| pod.brief.is_ready).count())),
        available_replicas: nonzero(count(active.iter().filter(is_available).count())),
        terminating_replicas: Some(count(inactive.iter().filter(|pod| !pod.brief.is_terminal).count())),
        observed_generation: set.metadata.generation,
        conditions: conditions(set, spec, active.len(), view, old),
    }
}

/// The `ReplicaFailure` condition is there while creating or deleting pods fails.
fn conditions(
    set: &ReplicaSet,
    spec: &ReplicaSetSpec,
    active: usize,
    view: &ClusterView<'_>,
    old: &ReplicaSetStatus,
) -> Option<Vec<ReplicaSetCondition>> {
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let has_failed = conditions.iter().any(|condition| condition.type_.as_deref() == Some(FAILURE));
    let failure = view.last_failure.filter(|_| set.metadata.deletion_timestamp.is_none());
    match failure {
        Some(message) if !has_failed => {
            let is_short = i32::try_from(active).unwrap_or(i32::MAX) < spec.replicas.unwrap_or(1);
            conditions.push(ReplicaSetCondition {
                type_: Some(FAILURE.into()),
                status: Some("True".into()),
                reason: Some(if is_short { "FailedCreate" } else { "FailedDelete" }.into()),
                message: Some(message.into()),
                last_transition_time: Some(Time(view.now)),
            });
        }
        Some(_) => (),
        None => conditions.retain(|condition| condition.type_.as_deref() != Some(FAILURE)),
    }
    (!conditions.is_empty()).then_some(conditions)
}
