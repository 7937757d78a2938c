//! A host port is taken by one pod of a node only.

use crate::scheduler::{
    PodInfo,
    framework::{Filter, NodeFilter, Verdict},
};

pub struct NodePorts;

impl Filter for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn prepare<'a>(&self, pod: &'a PodInfo) -> Option<NodeFilter<'a>> {
        if pod.host_ports.is_empty() {
            return None;
        }
        Some(Box::new(|node| {
            let is_taken = pod
                .host_ports
                .iter()
                .any(|wanted| node.host_ports.iter().any(|taken| wanted.conflicts_with(taken)));
            Verdict::fits_if(!is_taken, "node(s) didn't have free ports for the requested pod ports")
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{node, pod, verdict};
    use super::*;
    use serde_json::{Value, json};

    fn with_port(port: Value) -> std::sync::Arc<PodInfo> {
        pod(json!({"containers": [{"name": "a", "ports": [port]}]}))
    }

    #[test]
    fn ports_conflict_by_address_protocol_and_number() {
        let mut busy = node(json!({"metadata": {"name": "n"}}));
        busy.add_pod(
            with_port(json!({"containerPort": 80, "hostPort": 8080, "hostIP": "127.0.0.1"}))
                .footprint
                .clone(),
        );
        for (port, fits) in [
            (json!({"containerPort": 80}), true),
            (json!({"containerPort": 80, "hostPort": 8081}), true),
            (json!({"containerPort": 80, "hostPort": 8080}), false),
            (json!({"containerPort": 80, "hostPort": 8080, "hostIP": "127.0.0.1"}), false),
            (json!({"containerPort": 80, "hostPort": 8080, "hostIP": "10.0.0.1"}), true),
            (json!({"containerPort": 80, "hostPort": 8080, "protocol": "UDP"}), true),
        ] {
            assert_eq!(verdict(&NodePorts, &with_port(port.clone()), &busy).is_empty(), fits, "{port}");
        }
        busy.remove_pod("default/p");
        assert_eq!(
            verdict(&NodePorts, &with_port(json!({"containerPort": 80, "hostPort": 8080})), &busy),
            ""
        );
    }
}
