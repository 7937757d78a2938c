//! Cordoned nodes take no pods but those that tolerate it.

use k8s_openapi::api::core::v1::Taint;

use super::taint_toleration::tolerates;
use crate::scheduler::{
    PodInfo,
    framework::{Filter, NodeFilter, Verdict},
};

pub struct NodeUnschedulable;

impl Filter for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn prepare<'a>(&self, pod: &'a PodInfo) -> Option<NodeFilter<'a>> {
        let cordoned = Taint {
            key: "node.kubernetes.io/unschedulable".into(),
            effect: "NoSchedule".into(),
            ..Taint::default()
        };
        if tolerates(pod.tolerations(), &cordoned) {
            return None;
        }
        Some(Box::new(|node| Verdict::fits_if(!node.is_unschedulable, "node(s) were unschedulable")))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{node, pod, verdict};
    use super::*;
    use serde_json::json;

    #[test]
    fn cordoned_nodes_are_for_those_who_tolerate_it() {
        let cordoned = node(json!({"metadata": {"name": "a"}, "spec": {"unschedulable": true}}));
        let plain = pod(json!({"containers": []}));
        assert_eq!(verdict(&NodeUnschedulable, &plain, &cordoned), "node(s) were unschedulable");
        assert_eq!(verdict(&NodeUnschedulable, &plain, &node(json!({"metadata": {"name": "a"}}))), "");
        let tolerant = pod(json!({"containers": [], "tolerations": [
            {"key": "node.kubernetes.io/unschedulable", "operator": "Exists", "effect": "NoSchedule"}]}));
        assert_eq!(verdict(&NodeUnschedulable, &tolerant, &cordoned), "");
    }
}
