//! The scheduler's picture of the cluster: what the watches said, and what it has decided since.
//!
//! A pod is *assumed* on its node from the moment of decision until the watch confirms it or the bind fails, so that
//! the next pod can be placed without waiting for the API. **Invariant:** each pod counts on one node at most.

use std::sync::Arc;

use ahash::AHashMap;
use k8s_openapi::api::core::v1::Node;
use naru_model::Object;

use super::{Footprint, NodeInfo, PodKey, node_info};

/// Where a pod counts.
struct Placed {
    node: Arc<str>,
    is_assumed: bool,
}

#[derive(Default)]
pub struct Cache {
    /// In no particular order; a search goes round and round it.
    nodes: Vec<NodeInfo>,
    index: AHashMap<Arc<str>, usize>,
    pods: AHashMap<PodKey, Placed>,
}

impl Cache {
    /// All nodes, those that are only named by pods included.
    pub fn nodes(&self) -> &[NodeInfo] {
        &self.nodes
    }

    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.index.get(name).map(|at| &self.nodes[*at])
    }

    /// Takes in a node; answers whether it may now accept what it refused before.
    pub fn set_node(&mut self, node: Arc<Node>) -> bool {
        let info = self.node_mut(node.name());
        let is_relevant = info.node.as_deref().is_none_or(|old| node_info::is_relevant_change(old, &node));
        if is_relevant {
            info.set_node(node);
        } else {
            info.node = Some(node);
        }
        is_relevant
    }

    pub fn remove_node(&mut self, name: &str) {
        if let Some(at) = self.index.get(name) {
            self.nodes[*at].node = None;
            self.drop_if_unused(name);
        }
    }

    /// Takes in a pod that is bound, whether it was assumed, is new, or has changed.
    pub fn set_pod(&mut self, pod: Arc<Footprint>, node: &str) {
        self.remove_pod(&pod.key);
        self.place(pod, node, false);
    }

    /// Counts a pod on the node that was chosen for it.
    pub fn assume(&mut self, pod: Arc<Footprint>, node: &str) {
        self.remove_pod(&pod.key);
        self.place(pod, node, true);
    }

    /// Takes an assumption back; answers the node if there was one. What the watch has confirmed stays.
    pub fn forget(&mut self, key: &str, uid: &str) -> Option<Arc<str>> {
        let is_assumed = self.pods.get(key)?.is_assumed;
        if is_assumed && self.pod(key)?.uid() == uid { self.remove_pod(key) } else { None }
    }

    /// The pod is gone or will never run again; answers the node that it leaves.
    pub fn remove_pod(&mut self, key: &str) -> Option<Arc<str>> {
        let placed = self.pods.remove(key)?;
        self.node_mut(&placed.node).remove_pod(key);
        self.drop_if_unused(&placed.node);
        Some(placed.node)
    }

    /// The pod as it counts now, if it does.
    pub fn pod(&self, key: &str) -> Option<&Arc<Footprint>> {
        let placed = self.pods.get(key)?;
        self.node(&placed.node)?.pods.get(key)
    }

    /// Whether the pod is known to be bound to the node.
    pub fn is_confirmed_on(&self, key: &str, node: &str) -> bool {
        self.pods.get(key).is_some_and(|placed| !placed.is_assumed && &*placed.node == node)
    }

    /// The keys of all pods that count, assumed ones excepted.
    pub fn confirmed_pods(&self) -> impl Iterator<Item = &PodKey> {
        self.pods.iter().filter(|(_, placed)| !placed.is_assumed).map(|(key, _)| key)
    }

    fn place(&mut self, pod: Arc<Footprint>, node: &str, is_assumed: bool) {
        let info = self.node_mut(node);
        let (key, node) = (pod.key.clone(), info.name.clone());
        info.add_pod(pod);
        self.pods.insert(key, Placed { node, is_assumed });
    }

    /// The node's place; made for a name that pods know but no watch has shown.
    fn node_mut(&mut self, name: &str) -> &mut NodeInfo {
        if let Some(at) = self.index.get(name) {
            return &mut self.nodes[*at];
        }
        let info = NodeInfo::new(name);
        self.index.insert(info.name.clone(), self.nodes.len());
        self.nodes.push(info);
        self.nodes.last_mut().expect("it was pushed just now")
    }

    fn drop_if_unused(&mut self, name: &str) {
        let Some(at) = self.index.get(name).copied() else { return };
        if self.nodes[at].node.is_some() || !self.nodes[at].pods.is_empty() {
            return;
        }
        self.index.remove(name);
        self.nodes.swap_remove(at);
        if let Some(moved) = self.nodes.get(at) {
            self.index.insert(moved.name.clone(), at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, uid: &str) -> Arc<Footprint> {
        let value = json!({"metadata": {"name": name, "namespace": "d", "uid": uid}, "spec": {"containers":
            [{"name": "a", "resources": {"requests": {"cpu": "1"}}}]}});
        Arc::new(Footprint::of(&serde_json::from_value(value).expect("a pod")))
    }

    fn node(name: &str) -> Arc<Node> {
        let value =
            json!({"metadata": {"name": name}, "status": {"allocatable": {"cpu": "4", "pods": "10"}}});
        Arc::new(serde_json::from_value(value).expect("a node"))
    }

    fn used(cache: &Cache, name: &str) -> i64 {
        cache.node(name).map_or(-1, |node| node.requested.milli_cpu)
    }

    #[test]
    fn an_assumed_pod_counts_until_it_is_forgotten() {
        let mut cache = Cache::default();
        cache.set_node(node("a"));
        cache.assume(pod("p", "1"), "a");
        assert_eq!(used(&cache, "a"), 1000);
        assert_eq!(cache.forget("d/p", "other"), None);
        assert_eq!(cache.forget("d/p", "1").as_deref(), Some("a"));
        assert_eq!(used(&cache, "a"), 0);
    }

    #[test]
    fn a_confirmed_pod_is_not_forgotten_and_counts_once() {
        let mut cache = Cache::default();
        cache.assume(pod("p", "1"), "a");
        cache.set_pod(pod("p", "1"), "b");
        assert_eq!((used(&cache, "a"), used(&cache, "b")), (-1, 1000));
        assert_eq!(cache.forget("d/p", "1"), None);
        assert!(cache.is_confirmed_on("d/p", "b") && !cache.is_confirmed_on("d/p", "a"));
    }

    #[test]
    fn nodes_come_and_go_in_any_order_with_their_pods() {
        let mut cache = Cache::default();
        cache.set_pod(pod("p", "1"), "a");
        assert!(cache.node("a").is_some_and(|info| info.node.is_none()));
        assert!(cache.set_node(node("a")));
        assert!(!cache.set_node(node("a")), "the same again changes nothing");
        cache.set_node(node("b"));
        cache.remove_node("a");
        assert_eq!(used(&cache, "a"), 1000);
        cache.remove_pod("d/p");
        assert_eq!((cache.nodes().len(), used(&cache, "b")), (1, 0));
        assert!(cache.node("a").is_none());
    }
}
