//! The rules, one file each, and the profile that Kubernetes' default scheduler has of them.

mod balanced_allocation; // cpu and memory fill up evenly.
mod even_spread; // A workload's pods go to different nodes.
mod node_affinity; // nodeSelector and nodeAffinity.
mod node_name; // spec.nodeName was asked for.
mod node_ports; // Host ports are taken once.
mod node_unschedulable; // Cordoned nodes.
mod priority_sort; // Higher priority first.
mod resources_fit; // Requests fit; emptier nodes first.
mod taint_toleration; // Taints and tolerations.

use super::framework::Profile;

/// What `default-scheduler` does. Cheap and selective filters come first.
pub fn default_profile() -> Profile {
    Profile {
        queue_sort: Box::new(priority_sort::PrioritySort),
        filters: vec![
            Box::new(node_unschedulable::NodeUnschedulable),
            Box::new(node_name::NodeName),
            Box::new(taint_toleration::TaintToleration),
            Box::new(node_affinity::NodeAffinity),
            Box::new(node_ports::NodePorts),
            Box::new(resources_fit::ResourcesFit),
        ],
        scores: vec![
            Box::new(taint_toleration::TaintToleration),
            Box::new(node_affinity::NodeAffinity),
            Box::new(resources_fit::ResourcesFit),
            Box::new(balanced_allocation::BalancedAllocation),
            Box::new(even_spread::EvenSpread),
        ],
        reserves: Vec::new(),
    }
}

/// What the tests of the rules share.
#[cfg(test)]
pub(super) mod testing {
    use std::sync::Arc;

    use serde_json::Value;

    use super::super::{
        NodeInfo, PodInfo,
        framework::{Filter, Score, Verdict},
    };

    pub fn pod(spec: Value) -> Arc<PodInfo> {
        let value =
            serde_json::json!({"metadata": {"name": "p", "namespace": "default", "uid": "u"}, "spec": spec});
        Arc::new(PodInfo::new(Arc::new(serde_json::from_value(value).expect("a pod"))))
    }

    pub fn node(value: Value) -> NodeInfo {
        let node: k8s_openapi::api::core::v1::Node = serde_json::from_value(value).expect("a node");
        let mut info = NodeInfo::new(node.metadata.name.as_deref().unwrap_or_default());
        info.set_node(Arc::new(node));
        info
    }

    /// The reasons of a refusal joined, "" if the node fits.
    pub fn verdict(filter: &dyn Filter, pod: &PodInfo, node: &NodeInfo) -> String {
        match filter.prepare(pod).map_or(Verdict::Fits, |check| check(node)) {
            Verdict::Fits => String::new(),
            Verdict::Refused(reasons) => reasons.join("; "),
        }
    }

    /// Raw points, 0 where the rule is silent.
    pub fn points(score: &dyn Score, pod: &PodInfo, node: &NodeInfo) -> i64 {
        score.prepare(pod).map_or(0, |score| score(node))
    }
}
