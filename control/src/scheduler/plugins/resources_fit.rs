//! A pod's requests must fit into what is left of the node; emptier nodes are better.

use crate::scheduler::{
    NodeInfo, PodInfo,
    framework::{Filter, NodeFilter, NodeScore, Reason, Scale, Score, Verdict},
};

pub struct ResourcesFit;

impl Filter for ResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn prepare<'a>(&self, pod: &'a PodInfo) -> Option<NodeFilter<'a>> {
        if pod.requests.is_zero() {
            return Some(Box::new(|node| Verdict::fits_if(has_room_for_one_more(node), "Too many pods")));
        }
        Some(Box::new(|node| {
            let mut reasons = Vec::new(); // Allocates nothing while it is empty.
            if !has_room_for_one_more(node) {
                reasons.push("Too many pods".into());
            }
            missing(pod, node, &mut reasons);
            if reasons.is_empty() { Verdict::Fits } else { Verdict::Refused(reasons) }
        }))
    }
}

fn has_room_for_one_more(node: &NodeInfo) -> bool {
    (node.pods.len() as i64) < node.allowed_pods
}

/// Names each resource of which too little is left.
fn missing(pod: &PodInfo, node: &NodeInfo, reasons: &mut Vec<Reason>) {
    let lacks = |wanted: i64, allocatable: i64, used: i64| wanted > 0 && wanted > allocatable - used;
    let (wanted, allocatable, used) = (&pod.requests, &node.allocatable, &node.requested);
    if lacks(wanted.milli_cpu, allocatable.milli_cpu, used.milli_cpu) {
        reasons.push("Insufficient cpu".into());
    }
    if lacks(wanted.memory, allocatable.memory, used.memory) {
        reasons.push("Insufficient memory".into());
    }
    if lacks(wanted.ephemeral_storage, allocatable.ephemeral_storage, used.ephemeral_storage) {
        reasons.push("Insufficient ephemeral-storage".into());
    }
    for (name, amount) in &wanted.extended {
        if lacks(*amount, allocatable.extended(name), used.extended(name)) {
            reasons.push(format!("Insufficient {name}").into());
        }
    }
}

/// Points are the share of cpu and memory that stays free, on average.
impl Score for ResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn weight(&self) -> i64 {
        1
    }

    fn scale(&self) -> Scale {
        Scale::Percent
    }

    fn prepare<'a>(&self, pod: &'a PodInfo) -> Option<NodeScore<'a>> {
        Some(Box::new(|node| {
            let cpu = free_share(node.allocatable.milli_cpu, node.scored_cpu + pod.scored_cpu);
            let memory = free_share(node.allocatable.memory, node.scored_memory + pod.scored_memory);
            match (cpu, memory) {
                (Some(cpu), Some(memory)) => i64::midpoint(cpu, memory),
                (Some(only), None) | (None, Some(only)) => only,
                (None, None) => 0,
            }
        }))
    }
}

/// Per cent; `None` if the node has none of it at all.
fn free_share(allocatable: i64, used: i64) -> Option<i64> {
    (allocatable > 0).then(|| (allocatable - used).max(0).saturating_mul(100) / allocatable)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{node, pod, points, verdict};
    use super::*;
    use serde_json::{Value, json};

    fn sized() -> NodeInfo {
        node(json!({"metadata": {"name": "n"}, "status": {"allocatable":
            {"cpu": "2", "memory": "4Gi", "pods": "2", "ephemeral-storage": "10Gi", "example.com/gpu": "1"}}}))
    }

    fn requesting(requests: Value) -> std::sync::Arc<PodInfo> {
        pod(json!({"containers": [{"name": "a", "resources": {"requests": requests}}]}))
    }

    #[test]
    fn each_missing_resource_is_named() {
        let empty = sized();
        for (requests, expected) in [
            (json!({}), ""),
            (json!({"cpu": "2", "memory": "4Gi", "ephemeral-storage": "10Gi", "example.com/gpu": "1"}), ""),
            (json!({"cpu": "2001m"}), "Insufficient cpu"),
            (json!({"cpu": "3", "memory": "5Gi"}), "Insufficient cpu; Insufficient memory"),
            (json!({"ephemeral-storage": "11Gi"}), "Insufficient ephemeral-storage"),
            (json!({"example.com/gpu": "2"}), "Insufficient example.com/gpu"),
            (json!({"example.com/tpu": "1"}), "Insufficient example.com/tpu"),
        ] {
            assert_eq!(verdict(&ResourcesFit, &requesting(requests.clone()), &empty), expected, "{requests}");
        }
    }

    #[test]
    fn what_pods_take_is_no_longer_there() {
        let mut used = sized();
        used.add_pod(requesting(json!({"cpu": "1500m"})).footprint.clone());
        assert_eq!(verdict(&ResourcesFit, &requesting(json!({"cpu": "500m"})), &used), "");
        assert_eq!(verdict(&ResourcesFit, &requesting(json!({"cpu": "501m"})), &used), "Insufficient cpu");
        used.remove_pod("default/p");
        assert_eq!(verdict(&ResourcesFit, &requesting(json!({"cpu": "2"})), &used), "");
    }

    #[test]
    fn the_number_of_pods_is_limited() {
        let full =
            node(json!({"metadata": {"name": "n"}, "status": {"allocatable": {"cpu": "1", "pods": "0"}}}));
        assert_eq!(verdict(&ResourcesFit, &requesting(json!({})), &full), "Too many pods");
        assert_eq!(
            verdict(&ResourcesFit, &requesting(json!({"cpu": "2"})), &full),
            "Too many pods; Insufficient cpu"
        );
    }

    #[test]
    fn emptier_nodes_have_more_points() {
        let mut used = sized();
        let pod = requesting(json!({"cpu": "500m", "memory": "1Gi"}));
        assert_eq!(points(&ResourcesFit, &pod, &used), 75);
        used.add_pod(requesting(json!({"cpu": "1", "memory": "2Gi"})).footprint.clone());
        assert_eq!(points(&ResourcesFit, &pod, &used), 25);
    }
}
