//! A pod that names a node goes there only.
//!
//! Pods with `spec.nodeName` are never queued, being bound already; the rule also serves those who ask whether a
//! given pod may stay where it is.

use crate::scheduler::{
    PodInfo,
    framework::{Filter, NodeFilter, Verdict},
};

pub struct NodeName;

impl Filter for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn prepare<'a>(&self, pod: &'a PodInfo) -> Option<NodeFilter<'a>> {
        let wanted = naru_model::pod::node_name(&pod.pod)?;
        Some(Box::new(move |node| {
            Verdict::fits_if(&*node.name == wanted, "node(s) didn't match the requested node name")
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{node, pod, verdict};
    use super::*;
    use serde_json::json;

    #[test]
    fn only_the_named_node_fits() {
        let named = pod(json!({"containers": [], "nodeName": "a"}));
        assert_eq!(verdict(&NodeName, &named, &node(json!({"metadata": {"name": "a"}}))), "");
        let other = node(json!({"metadata": {"name": "b"}}));
        assert_eq!(verdict(&NodeName, &named, &other), "node(s) didn't match the requested node name");
        assert_eq!(verdict(&NodeName, &pod(json!({"containers": []})), &other), "");
    }
}
