//! Which pods a set that shrinks loses first.

use std::{cmp::Ordering, collections::HashMap, sync::Arc};

use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use naru_model::{
    Object,
    pod::{deletion_cost, is_ready, node_name, phase},
};

use crate::controllers::common::ready_since;

/// What is compared, most important first.
struct Candidate<'a> {
    pod: &'a Arc<Pod>,
    is_assigned: bool,
    phase: u8,
    is_ready: bool,
    cost: i32,
    /// Active pods of the same owner on the pod's node.
    doubled_up: usize,
    ready_age: Option<u32>,
    restarts: i32,
    age: Option<u32>,
}

/// The `count` pods that are missed least.
///
/// Unassigned before assigned, pending before running, not ready before ready, cheap before dear, on crowded
/// nodes before on lonely ones, ready for a short before ready for a long time, restarting often before seldom,
/// young before old. Ages are compared by magnitude (the power of two), so that among pods of about the same age
/// chance decides, here by uid, and not always the newest zone loses.
pub fn least_useful(
    pods: &[Arc<Pod>],
    neighbours: &[Arc<Pod>],
    count: usize,
    now: Timestamp,
) -> Vec<Arc<Pod>> {
    if count >= pods.len() {
        return pods.to_vec();
    }
    let mut per_node = HashMap::<&str, usize>::new();
    for pod in neighbours {
        *per_node.entry(node(pod)).or_default() += 1;
    }
    let rank = |pod| rank(pod, per_node.get(node(pod)).copied().unwrap_or_default(), now);
    let mut candidates = pods.iter().map(rank).collect::<Vec<_>>();
    candidates.sort_by(compare);
    candidates.into_iter().take(count).map(|candidate| candidate.pod.clone()).collect()
}

fn rank(pod: &Arc<Pod>, doubled_up: usize, now: Timestamp) -> Candidate<'_> {
    Candidate {
        pod,
        is_assigned: !node(pod).is_empty(),
        phase: match phase(pod) {
            "Pending" => 0,
            "Unknown" => 1,
            _ => 2,
        },
        is_ready: is_ready(pod),
        cost: deletion_cost(pod),
        doubled_up,
        ready_age: ready_since(pod).and_then(|since| magnitude(since, now)),
        restarts: restarts(pod),
        age: pod.metadata.creation_timestamp.as_ref().and_then(|created| magnitude(created.0, now)),
    }
}

fn compare(left: &Candidate<'_>, right: &Candidate<'_>) -> Ordering {
    (left.is_assigned.cmp(&right.is_assigned))
        .then(left.phase.cmp(&right.phase))
        .then(left.is_ready.cmp(&right.is_ready))
        .then(left.cost.cmp(&right.cost))
        .then(right.doubled_up.cmp(&left.doubled_up))
        .then(left.ready_age.cmp(&right.ready_age))
        .then(right.restarts.cmp(&left.restarts))
        .then(left.age.cmp(&right.age))
        .then_with(|| left.pod.uid().cmp(right.pod.uid()))
}

fn node(pod: &Pod) -> &str {
    node_name(pod).unwrap_or_default()
}

/// The logarithm of the time since; `None`, the youngest, for the future.
fn magnitude(since: Timestamp, now: Timestamp) -> Option<u32> {
    let nanoseconds = u128::try_from(now.duration_since(since).as_nanos()).ok()?;
    nanoseconds.checked_ilog2()
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|status| status.restart_count).max().unwrap_or(0)
}
