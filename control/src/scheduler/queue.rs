//! Pods that wait for a node.
//!
//! A pod is *active* (its turn comes by rank, then by age), *backing off* (after a failed attempt, 1 s doubling to
//! 10 s), *unschedulable* (no node fits; waits until something changes), *gated* (`spec.schedulingGates`), or *in
//! flight* (a node was chosen, the bind is under way). Times are given by the caller.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
    sync::Arc,
    time::Duration,
};

use ahash::{AHashMap, AHashSet};

use super::{PodInfo, PodKey, framework::QueueSort, is_gated};

/// Time since the scheduler's start.
pub type Moment = Duration;

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);
/// Unschedulable pods are tried again after this time even if nothing seems to have changed.
const RETRY_UNSCHEDULABLE: Duration = Duration::from_mins(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The ticket tells the heap's item from older ones of the same pod.
    Active(u64),
    BackingOff(u64),
    Unschedulable,
    InFlight,
    Gated,
}

struct Waiting {
    pod: Arc<PodInfo>,
    place: Place,
    attempts: u32,
    /// When the last attempt ended.
    tried: Moment,
    /// Grows with each pod that is added: the order of equals.
    order: u64,
}

/// An item of the active heap; the greatest is next.
#[derive(PartialEq, Eq)]
struct Turn {
    rank: i64,
    order: Reverse<u64>,
    ticket: u64,
    key: PodKey,
}

impl Ord for Turn {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.rank, self.order, self.ticket).cmp(&(other.rank, other.order, other.ticket))
    }
}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[derive(Default)]
pub struct Queue {
    pods: AHashMap<PodKey, Waiting>,
    /// Heaps may hold items of pods that have moved on; their tickets tell.
    active: BinaryHeap<Turn>,
    backoff: BinaryHeap<Reverse<(Moment, u64, PodKey)>>,
    unschedulable: AHashSet<PodKey>,
    /// The last number given out, for tickets and orders.
    number: u64,
}

impl Queue {
    pub fn len(&self) -> usize {
        self.pods.len()
    }

    pub fn keys(&self) -> impl Iterator<Item = &PodKey> {
        self.pods.keys()
    }

    pub fn get(&self, key: &str) -> Option<&Arc<PodInfo>> {
        self.pods.get(key).map(|waiting| &waiting.pod)
    }

    /// The pods for which no node was found.
    pub fn unschedulable(&self) -> impl Iterator<Item = &Arc<PodInfo>> {
        self.unschedulable.iter().filter_map(|key| self.get(key))
    }

    pub fn has_unschedulable(&self) -> bool {
        !self.unschedulable.is_empty()
    }

    /// Takes in a new pod, or a new state of one that waits. A change of its spec is a reason to try again.
    pub fn put(&mut self, pod: Arc<PodInfo>, sort: &dyn QueueSort, now: Moment) {
        let key = pod.key.clone();
        if self.pods.get(&key).is_some_and(|waiting| waiting.pod.uid() != pod.uid()) {
            self.remove(&key);
        }
        let gated = is_gated(&pod.pod);
        let Some(waiting) = self.pods.get_mut(&key) else {
            self.number += 1;
            let order = self.number;
            self.pods
                .insert(key.clone(), Waiting { pod, place: Place::Gated, attempts: 0, tried: now, order });
            if !gated {
                self.activate(&key, sort);
            }
            return;
        };
        let is_changed = waiting.pod.pod.spec != pod.pod.spec;
        waiting.pod = pod;
        match waiting.place {
            Place::InFlight => (),
            _ if gated => {
                waiting.place = Place::Gated;
                self.unschedulable.remove(&key);
            }
            Place::Gated => self.activate(&key, sort),
            Place::Unschedulable if is_changed => self.retry(&key, sort, now),
            Place::Active(_) if is_changed => self.activate(&key, sort),
            _ => (),
        }
    }

    pub fn remove(&mut self, key: &str) -> bool {
        self.unschedulable.remove(key);
        self.pods.remove(key).is_some()
    }

    /// The pod whose turn it is; it is then in flight.
    pub fn pop(&mut self, sort: &dyn QueueSort, now: Moment) -> Option<Arc<PodInfo>> {
        self.end_backoffs(sort, now);
        while let Some(turn) = self.active.pop() {
            let Some(waiting) = self.pods.get_mut(&turn.key) else { continue };
            if waiting.place == Place::Active(turn.ticket) {
                waiting.place = Place::InFlight;
                waiting.attempts += 1;
                return Some(waiting.pod.clone());
            }
        }
        None
    }

    /// No node fits the pod that was popped.
    pub fn set_unschedulable(&mut self, key: &str, now: Moment) {
        if let Some(waiting) = self.pods.get_mut(key).filter(|waiting| waiting.place == Place::InFlight) {
            waiting.place = Place::Unschedulable;
            waiting.tried = now;
            self.unschedulable.insert(waiting.pod.key.clone());
        }
    }

    /// The attempt failed for another reason than the cluster's state: tried again after the backoff.
    pub fn back_off(&mut self, key: &str, now: Moment) {
        if let Some(waiting) = self.pods.get_mut(key).filter(|waiting| waiting.place == Place::InFlight) {
            waiting.tried = now;
            let until = now + backoff(waiting.attempts);
            self.wait_until(key, until);
        }
    }

    /// An unschedulable pod is tried again, after its backoff.
    pub fn retry(&mut self, key: &str, sort: &dyn QueueSort, now: Moment) {
        let Some(waiting) = self.pods.get(key).filter(|waiting| waiting.place == Place::Unschedulable) else {
            return;
        };
        let until = waiting.tried + backoff(waiting.attempts);
        self.unschedulable.remove(key);
        if until > now { self.wait_until(key, until) } else { self.activate(key, sort) }
    }

    /// An unschedulable pod is tried again at once, because a node is known to fit it.
    pub fn retry_now(&mut self, key: &str, sort: &dyn QueueSort) {
        if self.unschedulable.remove(key) {
            self.activate(key, sort);
        }
    }

    /// Tries pods again that have been unschedulable for long, in case a change was missed.
    pub fn retry_old(&mut self, sort: &dyn QueueSort, now: Moment) {
        let is_old = |key: &&PodKey| self.pods[*key].tried + RETRY_UNSCHEDULABLE <= now;
        let old: Vec<PodKey> = self.unschedulable.iter().filter(is_old).cloned().collect();
        for key in old {
            self.retry_now(&key, sort);
        }
    }

    /// When [`Queue::pop`] may answer differently without anything being put in.
    pub fn next_change(&mut self) -> Option<Moment> {
        while let Some(Reverse((until, ticket, key))) = self.backoff.peek() {
            if self.pods.get(key).is_some_and(|waiting| waiting.place == Place::BackingOff(*ticket)) {
                return Some(*until);
            }
            self.backoff.pop();
        }
        None
    }

    fn end_backoffs(&mut self, sort: &dyn QueueSort, now: Moment) {
        while self.next_change().is_some_and(|until| until <= now) {
            let Some(Reverse((_, _, key))) = self.backoff.pop() else { return };
            self.activate(&key, sort);
        }
    }

    fn activate(&mut self, key: &str, sort: &dyn QueueSort) {
        let Some(waiting) = self.pods.get_mut(key) else { return };
        self.number += 1;
        waiting.place = Place::Active(self.number);
        let (rank, order) = (sort.rank(&waiting.pod), Reverse(waiting.order));
        self.active.push(Turn { rank, order, ticket: self.number, key: waiting.pod.key.clone() });
    }

    fn wait_until(&mut self, key: &str, until: Moment) {
        let Some(waiting) = self.pods.get_mut(key) else { return };
        self.number += 1;
        waiting.place = Place::BackingOff(self.number);
        self.backoff.push(Reverse((until, self.number, waiting.pod.key.clone())));
    }
}

fn backoff(attempts: u32) -> Duration {
    FIRST_BACKOFF.saturating_mul(1 << attempts.saturating_sub(1).min(4)).min(LONGEST_BACKOFF)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    struct ByPriority;

    impl QueueSort for ByPriority {
        fn rank(&self, pod: &PodInfo) -> i64 {
            pod.priority.into()
        }
    }

    fn pod_with(name: &str, spec: Value) -> Arc<PodInfo> {
        let mut spec = spec;
        spec["containers"] = json!([]);
        let value = json!({"metadata": {"name": name, "namespace": "d", "uid": "1"}, "spec": spec});
        Arc::new(PodInfo::new(Arc::new(serde_json::from_value(value).expect("a pod"))))
    }

    fn pod(name: &str, priority: i32) -> Arc<PodInfo> {
        pod_with(name, json!({"priority": priority}))
    }

    fn seconds(seconds: u64) -> Moment {
        Duration::from_secs(seconds)
    }

    fn put(queue: &mut Queue, pod: Arc<PodInfo>) {
        queue.put(pod, &ByPriority, seconds(0));
    }

    fn pop(queue: &mut Queue, now: u64) -> String {
        queue.pop(&ByPriority, seconds(now)).map_or_else(String::new, |pod| pod.name().into())
    }

    #[test]
    fn priority_goes_first_then_age() {
        let mut queue = Queue::default();
        for (name, priority) in [("a", 0), ("b", 5), ("c", 0), ("d", 5), ("e", -1)] {
            put(&mut queue, pod(name, priority));
        }
        let order: Vec<_> = (0..6).map(|_| pop(&mut queue, 0)).collect();
        assert_eq!(order, ["b", "d", "a", "c", "e", ""]);
    }

    #[test]
    fn a_failed_bind_is_tried_again_later_and_later() {
        let mut queue = Queue::default();
        put(&mut queue, pod("a", 0));
        let mut now = 0;
        for delay in [1, 2, 4, 8, 10, 10] {
            assert_eq!(pop(&mut queue, now), "a");
            queue.back_off("d/a", seconds(now));
            assert_eq!(queue.next_change(), Some(seconds(now + delay)));
            assert_eq!(pop(&mut queue, now + delay - 1), "");
            now += delay;
        }
    }

    #[test]
    fn unschedulable_pods_wait_for_a_reason() {
        let mut queue = Queue::default();
        put(&mut queue, pod("a", 0));
        assert_eq!(pop(&mut queue, 0), "a");
        queue.set_unschedulable("d/a", seconds(0));
        assert_eq!((pop(&mut queue, 100).as_str(), queue.next_change()), ("", None));
        queue.retry("d/a", &ByPriority, seconds(0));
        assert_eq!((pop(&mut queue, 0).as_str(), pop(&mut queue, 1).as_str()), ("", "a"));
        queue.set_unschedulable("d/a", seconds(1));
        queue.retry_now("d/a", &ByPriority);
        assert_eq!(pop(&mut queue, 1), "a");
        queue.set_unschedulable("d/a", seconds(1));
        queue.retry_old(&ByPriority, seconds(300));
        assert_eq!(pop(&mut queue, 300), "");
        queue.retry_old(&ByPriority, seconds(301));
        assert_eq!(pop(&mut queue, 301), "a");
    }

    #[test]
    fn a_changed_spec_is_a_reason_and_a_changed_status_none() {
        let mut queue = Queue::default();
        put(&mut queue, pod("a", 0));
        pop(&mut queue, 0);
        queue.set_unschedulable("d/a", seconds(0));
        queue.put(pod("a", 0), &ByPriority, seconds(50));
        assert_eq!(pop(&mut queue, 50), "");
        queue.put(pod("a", 1), &ByPriority, seconds(50));
        assert_eq!(pop(&mut queue, 50), "a");
    }

    #[test]
    fn gated_pods_wait_until_the_last_gate_opens() {
        let mut queue = Queue::default();
        put(&mut queue, pod_with("a", json!({"schedulingGates": [{"name": "x"}]})));
        assert_eq!(pop(&mut queue, 0), "");
        put(&mut queue, pod("a", 0));
        assert_eq!(pop(&mut queue, 0), "a");
    }

    #[test]
    fn a_pod_in_flight_is_not_popped_twice() {
        let mut queue = Queue::default();
        put(&mut queue, pod("a", 0));
        put(&mut queue, pod("a", 3));
        assert_eq!((pop(&mut queue, 0).as_str(), pop(&mut queue, 0).as_str()), ("a", ""));
        put(&mut queue, pod("a", 4));
        assert_eq!(pop(&mut queue, 0), "");
    }

    #[test]
    fn a_pod_of_the_same_name_is_another_pod() {
        let mut queue = Queue::default();
        put(&mut queue, pod("a", 0));
        pop(&mut queue, 0);
        queue.set_unschedulable("d/a", seconds(0));
        let value = json!({"metadata": {"name": "a", "namespace": "d", "uid": "2"}, "spec": {"containers": [], "priority": 0}});
        put(&mut queue, Arc::new(PodInfo::new(Arc::new(serde_json::from_value(value).expect("a pod")))));
        assert_eq!(pop(&mut queue, 0), "a");
        assert!(queue.remove("d/a") && queue.len() == 0);
    }
}
