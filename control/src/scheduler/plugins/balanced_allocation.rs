//! Nodes on which cpu and memory fill up evenly are better: what is left can be used.

use crate::scheduler::{
    PodInfo,
    framework::{NodeScore, Scale, Score},
};

pub struct BalancedAllocation;

/// Points are 100 less the distance of the used shares of cpu and memory from their mean.
impl Score for BalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn weight(&self) -> i64 {
        1
    }

    fn scale(&self) -> Scale {
        Scale::Percent
    }

    fn prepare<'a>(&self, pod: &'a PodInfo) -> Option<NodeScore<'a>> {
        // A pod that requests nothing changes no balance.
        if pod.requests.milli_cpu == 0 && pod.requests.memory == 0 {
            return None;
        }
        Some(Box::new(|node| {
            let cpu =
                used_share(node.allocatable.milli_cpu, node.requested.milli_cpu + pod.requests.milli_cpu);
            let memory = used_share(node.allocatable.memory, node.requested.memory + pod.requests.memory);
            let deviation = (cpu - memory).abs() / 2.0;
            ((1.0 - deviation) * 100.0) as i64
        }))
    }
}

fn used_share(allocatable: i64, used: i64) -> f64 {
    if allocatable <= 0 { 0.0 } else { (used as f64 / allocatable as f64).min(1.0) }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{node, pod, points};
    use super::*;
    use serde_json::json;

    #[test]
    fn even_use_has_the_most_points() {
        let node = node(
            json!({"metadata": {"name": "n"}, "status": {"allocatable": {"cpu": "2", "memory": "4Gi"}}}),
        );
        let requesting = |cpu: &str, memory: &str| {
            pod(
                json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": cpu, "memory": memory}}}]}),
            )
        };
        assert_eq!(points(&BalancedAllocation, &requesting("1", "2Gi"), &node), 100);
        assert_eq!(points(&BalancedAllocation, &requesting("2", "2Gi"), &node), 75);
        assert_eq!(points(&BalancedAllocation, &requesting("2", "0"), &node), 50);
    }
}
