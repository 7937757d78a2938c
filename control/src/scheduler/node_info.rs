//! A node, and the sum of what the pods on it take, kept up to date pod by pod.

use std::{collections::BTreeMap, sync::Arc};

use ahash::AHashMap;
use k8s_openapi::api::core::v1::{Node, Taint};
use naru_model::quantity::Quantity;

use super::{Amounts, Footprint, HostPort, PodKey};

/// What the rules look at.
#[derive(Debug, Default)]
pub struct NodeInfo {
    pub name: Arc<str>,
    /// Absent while pods name the node but it has not been seen, or is gone already.
    pub node: Option<Arc<Node>>,
    /// Copies of what every search reads: following `node` there would cost a cache miss each.
    pub is_unschedulable: bool,
    pub taints: Vec<Taint>,
    pub allocatable: Amounts,
    pub allowed_pods: i64,
    pub requested: Amounts,
    /// As `requested`, with defaults for containers without requests; see [`Footprint::scored_cpu`].
    pub scored_cpu: i64,
    pub scored_memory: i64,
    pub host_ports: Vec<HostPort>,
    pub pods: AHashMap<PodKey, Arc<Footprint>>,
    /// How many pods of each workload run here.
    workloads: AHashMap<Arc<str>, u32>,
}

impl NodeInfo {
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    pub fn set_node(&mut self, node: Arc<Node>) {
        let status = node.status.as_ref();
        let allocatable = status.and_then(|status| status.allocatable.as_ref());
        let quantities = allocatable
            .into_iter()
            .flatten()
            .map(|(name, quantity)| (name.as_str(), Quantity::try_from(quantity).unwrap_or_default()));
        self.allowed_pods =
            quantities.clone().find(|(name, _)| *name == "pods").map_or(0, |(_, quantity)| quantity.value());
        self.allocatable = Amounts::of(quantities);
        let spec = node.spec.as_ref();
        self.is_unschedulable = spec.and_then(|spec| spec.unschedulable).unwrap_or(false);
        self.taints = spec.and_then(|spec| spec.taints.clone()).unwrap_or_default();
        self.node = Some(node);
    }

    pub fn add_pod(&mut self, pod: Arc<Footprint>) {
        self.requested.add(&pod.requests);
        self.scored_cpu += pod.scored_cpu;
        self.scored_memory += pod.scored_memory;
        self.host_ports.extend(pod.host_ports.iter().cloned());
        if let Some(workload) = &pod.workload {
            *self.workloads.entry(workload.clone()).or_default() += 1;
        }
        self.pods.insert(pod.key.clone(), pod);
    }

    pub fn remove_pod(&mut self, key: &str) -> Option<Arc<Footprint>> {
        let pod = self.pods.remove(key)?;
        self.requested.subtract(&pod.requests);
        self.scored_cpu -= pod.scored_cpu;
        self.scored_memory -= pod.scored_memory;
        for port in &pod.host_ports {
            if let Some(at) = self.host_ports.iter().position(|taken| taken == port) {
                self.host_ports.swap_remove(at);
            }
        }
        if let Some(workload) = &pod.workload
            && let Some(count) = self.workloads.get_mut(workload)
        {
            *count -= 1;
            if *count == 0 {
                self.workloads.remove(workload);
            }
        }
        Some(pod)
    }

    /// How many pods of the workload are here, those on their way included.
    pub fn pods_of(&self, workload: &str) -> u32 {
        self.workloads.get(workload).copied().unwrap_or(0)
    }

    pub fn labels(&self) -> Option<&BTreeMap<String, String>> {
        self.node.as_ref()?.metadata.labels.as_ref()
    }
}

/// Whether anything that a rule looks at differs: heartbeats and conditions do not matter.
pub fn is_relevant_change(old: &Node, new: &Node) -> bool {
    let allocatable = |node: &Node| node.status.as_ref().and_then(|status| status.allocatable.clone());
    old.spec != new.spec || old.metadata.labels != new.metadata.labels || allocatable(old) != allocatable(new)
}
