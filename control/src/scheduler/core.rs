//! What the scheduler knows and decides, without clocks, tasks or writes: the driver tells it what happened and
//! carries out what it answers, a simulation and the tests do the same.

use std::sync::Arc;

use ahash::{AHashMap, AHashSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use naru_model::{PodBrief, pod};

use super::{
    Footprint, PodInfo, PodKey,
    cache::Cache,
    choose::{Search, fits},
    framework::Profile,
    is_ours, key_of,
    queue::{Moment, Queue},
};
use crate::store::Meta;

/// If more nodes than this have changed at once, waiting pods are tried without checking first whether it helps.
const MANY_NODES: usize = 64;

/// A decision about one pod.
#[derive(Debug)]
pub enum Decision {
    /// The pod is assumed on this node; the bind is to be carried out and reported with [`Core::bound`].
    Bind { pod: Arc<PodInfo>, node: Arc<str> },
    /// No node fits, for the reasons given.
    Unschedulable { pod: Arc<PodInfo>, message: String },
}

/// How a bind ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BindResult {
    Done,
    /// It did not happen.
    Failed,
    /// It may still happen: the pod keeps its place on the node until it is tried again.
    Unknown,
}

pub struct Core {
    profile: Profile,
    cache: Cache,
    queue: Queue,
    search: Search,
    /// Nodes that may now fit what they refused before.
    changed_nodes: AHashSet<Arc<str>>,
}

impl Core {
    /// `seed` decides among equal nodes.
    pub fn new(profile: Profile, seed: u64) -> Self {
        Self {
            profile,
            cache: Cache::default(),
            queue: Queue::default(),
            search: Search::new(seed),
            changed_nodes: AHashSet::default(),
        }
    }

    /// How many pods wait, those in flight included.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Whether the pod is known, and unbound or not confirmed yet.
    pub fn is_waiting(&self, key: &str) -> bool {
        self.queue.get(key).is_some()
    }

    pub fn node_added_or_changed(&mut self, node: Arc<Node>) {
        let name = node.metadata.name.as_deref().unwrap_or_default().into();
        if self.cache.set_node(node) {
            self.changed_nodes.insert(name);
        }
    }

    pub fn node_removed(&mut self, name: &str) {
        self.cache.remove_node(name);
    }

    /// Takes in the state of a pod that is bound and as large as it was known to be, and so need not be decoded. Answers
    /// whether it is one, as nearly all are.
    pub fn take_known(&mut self, meta: &Meta, brief: &PodBrief) -> bool {
        let Some(node) = brief.node_name.as_deref().filter(|_| !brief.is_terminal && !brief.is_resizing)
        else {
            return false;
        };
        let key = PodKey::from(format!("{}/{}", meta.namespace, meta.name));
        let known = self.cache.pod(&key).filter(|known| known.is_at(&meta.uid, meta.generation));
        let Some(known) = known.cloned() else { return false };
        self.queue.remove(&key);
        if !self.cache.is_confirmed_on(&key, node) {
            self.cache.set_pod(known, node);
        }
        true
    }

    pub fn pod_added_or_changed(&mut self, pod: &Arc<Pod>, now: Moment) {
        let key = key_of(pod);
        if pod::is_terminal(pod) {
            return self.pod_removed(&key);
        }
        if let Some(node) = pod::node_name(pod) {
            self.take_bound(pod, &key, node);
        } else if is_ours(pod) {
            if self.queue.get(&key).is_none() {
                if self.cache.pod(&key).is_some_and(|known| known.uid() == pod_uid(pod)) {
                    return; // News from before the bind, of which we know already.
                }
                self.vacate(&key); // Another pod of this name was here before.
            }
            self.queue.put(Arc::new(PodInfo::new(pod.clone())), &*self.profile.queue_sort, now);
        } else {
            self.pod_removed(&key);
        }
    }

    /// The pod is gone, or will never run again.
    pub fn pod_removed(&mut self, key: &str) {
        self.queue.remove(key);
        self.vacate(key);
    }

    /// Makes the picture that of a fresh list; what is in flight stays in flight.
    pub fn resync(&mut self, nodes: Vec<Arc<Node>>, pods: &[Arc<Pod>], now: Moment) {
        let names: AHashSet<&str> = nodes.iter().filter_map(|node| node.metadata.name.as_deref()).collect();
        let known = self.cache.nodes().iter().map(|node| node.name.clone());
        for gone in known.filter(|name| !names.contains(&**name)).collect::<Vec<_>>() {
            self.cache.remove_node(&gone);
        }
        let listed: AHashMap<PodKey, &Arc<Pod>> = pods.iter().map(|pod| (key_of(pod), pod)).collect();
        let known = self.queue.keys().chain(self.cache.confirmed_pods());
        for gone in known.filter(|key| !listed.contains_key(*key)).cloned().collect::<Vec<_>>() {
            self.pod_removed(&gone);
        }
        for node in nodes {
            self.node_added_or_changed(node);
        }
        for pod in pods {
            self.pod_added_or_changed(pod, now);
        }
    }

    /// Decides about the next pod; `None` if none can be decided now.
    pub fn next(&mut self, now: Moment) -> Option<Decision> {
        self.wake();
        let pod = self.queue.pop(&*self.profile.queue_sort, now)?;
        self.cache.forget(&pod.key, pod.uid()); // Left over from a bind of unknown outcome.
        match self.search.choose(&pod, self.cache.nodes(), &self.profile) {
            Ok(at) => {
                let node = self.cache.nodes()[at].name.clone();
                self.cache.assume(pod.footprint.clone(), &node);
                for rule in &self.profile.reserves {
                    rule.reserve(&pod, &node);
                }
                Some(Decision::Bind { pod, node })
            }
            Err(misfit) => {
                self.queue.set_unschedulable(&pod.key, now);
                Some(Decision::Unschedulable { pod, message: misfit.message() })
            }
        }
    }

    /// Takes in how a bind ended; the watch may have told of it already, or of the pod's end.
    pub fn bound(&mut self, pod: &PodInfo, node: &str, result: BindResult, now: Moment) {
        match result {
            BindResult::Done => {
                if self.queue.get(&pod.key).is_some_and(|waiting| waiting.uid() == pod.uid()) {
                    self.queue.remove(&pod.key);
                }
            }
            BindResult::Failed => {
                for rule in &self.profile.reserves {
                    rule.unreserve(pod, node);
                }
                self.changed_nodes.extend(self.cache.forget(&pod.key, pod.uid()));
                self.queue.back_off(&pod.key, now);
            }
            BindResult::Unknown => self.queue.back_off(&pod.key, now),
        }
    }

    /// When [`Core::next`] may answer differently without anything happening.
    pub fn next_change(&mut self) -> Option<Moment> {
        self.queue.next_change()
    }

    /// To be called now and then: tries pods again that have been unschedulable for minutes.
    pub fn retry_old(&mut self, now: Moment) {
        self.queue.retry_old(&*self.profile.queue_sort, now);
    }

    fn take_bound(&mut self, pod: &Arc<Pod>, key: &PodKey, node: &str) {
        self.queue.remove(key);
        let before = self.cache.pod(key).cloned();
        if self.cache.is_confirmed_on(key, node) && before.as_ref().is_some_and(|known| known.is_of(pod)) {
            // Only its status or metadata changed, which happens often, and matters only while it is resized.
            return;
        }
        let footprint = Arc::new(Footprint::of(pod));
        if before.is_some_and(|before| before.requests != footprint.requests) {
            self.changed_nodes.insert(node.into());
        }
        self.cache.set_pod(footprint, node);
    }

    fn vacate(&mut self, key: &str) {
        self.changed_nodes.extend(self.cache.remove_pod(key));
    }

    /// Makes those unschedulable pods active that one of the changed nodes fits.
    fn wake(&mut self) {
        if self.changed_nodes.is_empty() {
            return;
        }
        let changed = std::mem::take(&mut self.changed_nodes);
        if !self.queue.has_unschedulable() {
            return;
        }
        let nodes: Vec<_> = changed.iter().filter_map(|name| self.cache.node(name)).collect();
        let is_hopeful = |pod: &&Arc<PodInfo>| {
            nodes.len() > MANY_NODES || nodes.iter().any(|node| fits(pod, node, &self.profile))
        };
        let hopeful: Vec<_> =
            self.queue.unschedulable().filter(is_hopeful).map(|pod| pod.key.clone()).collect();
        for key in hopeful {
            self.queue.retry_now(&key, &*self.profile.queue_sort);
        }
    }
}

fn pod_uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests;
