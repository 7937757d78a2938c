//! What node agents need: the reads that they live on, their own Node and Lease, the pods that they run, events.

use super::{Attributes, User};

pub fn is_allowed(user: &User, attributes: &Attributes<'_>) -> bool {
    let Some(node) = user.node() else { return false };
    let reads = matches!(attributes.verb, "get" | "list" | "watch");
    let is_own = attributes.name.is_empty() || attributes.name == node;
    match (attributes.group, attributes.resource) {
        ("", "nodes") => reads || is_own,
        ("coordination.k8s.io", "leases") => attributes.namespace == "kube-node-lease" && is_own,
        ("", "pods") => reads || matches!(attributes.verb, "delete" | "update" | "patch" | "create"),
        ("" | "events.k8s.io", "events") => matches!(attributes.verb, "create" | "update" | "patch"),
        ("", "services" | "endpoints" | "configmaps" | "secrets" | "serviceaccounts" | "namespaces")
        | ("discovery.k8s.io", "endpointslices")
        | ("node.k8s.io", "runtimeclasses")
        | ("networking.k8s.io", _) => reads,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may(user: &User, verb: &str, resource: &str, namespace: &str, name: &str) -> bool {
        let group = if resource == "leases" { "coordination.k8s.io" } else { "" };
        is_allowed(user, &Attributes { verb, group, resource, namespace, name, ..Attributes::default() })
    }

    #[test]
    fn a_node_writes_its_own_node_and_lease_only() {
        let node = User::new("system:node:amber", vec!["system:nodes".into()]);
        assert!(may(&node, "patch", "nodes", "", "amber"));
        assert!(!may(&node, "patch", "nodes", "", "birch"));
        assert!(may(&node, "update", "leases", "kube-node-lease", "amber"));
        assert!(!may(&node, "update", "leases", "default", "amber"));
        assert!(!may(&node, "delete", "secrets", "default", "key"));
    }
}
