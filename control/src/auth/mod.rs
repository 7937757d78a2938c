//! Who asks, and whether they may.
//!
//! Users are what their client certificate says (CN and O), or code of the control plane itself. Decisions are made
//! behind [`Authorizer`]; the built-in one knows Kubernetes' fixed identities. Not here yet: RBAC objects, tokens.

pub mod pki;

use std::sync::Arc;

/// An authenticated caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub name: Arc<str>,
    pub groups: Arc<[String]>,
    /// Code of the control plane itself, which no certificate can claim to be.
    is_internal: bool,
}

impl User {
    pub fn new(name: &str, mut groups: Vec<String>) -> Self {
        groups.push("system:authenticated".into());
        Self { name: name.into(), groups: groups.into(), is_internal: false }
    }

    /// A controller, the scheduler, or the server itself.
    pub fn internal(name: &str) -> Self {
        Self { name: name.into(), groups: Arc::new([]), is_internal: true }
    }

    pub fn is_member(&self, group: &str) -> bool {
        self.groups.iter().any(|of| of == group)
    }
}

/// What a request wants to do.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a> {
    pub verb: &'a str,
    pub group: &'a str,
    /// The plural, "" for paths that are not about resources.
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    /// The URL path where `resource` is "".
    pub path: &'a str,
}

/// Decides who may do what.
pub trait Authorizer: Send + Sync {
    fn is_allowed(&self, user: &User, attributes: &Attributes<'_>) -> bool;
}

/// Kubernetes' fixed identities: masters, nodes, and the control plane's own parts.
#[derive(Debug, Default)]
pub struct BuiltIn;

impl Authorizer for BuiltIn {
    fn is_allowed(&self, user: &User, attributes: &Attributes<'_>) -> bool {
        user.is_internal
            || user.is_member("system:masters")
            || (attributes.resource.is_empty() && is_public_to_users(attributes))
            || (user.is_member("system:nodes") && is_nodes_business(user, attributes))
    }
}

/// What every authenticated user may read: discovery, health, version.
fn is_public_to_users(attributes: &Attributes<'_>) -> bool {
    let prefixes = ["/api", "/apis", "/openapi", "/version", "/healthz", "/livez", "/readyz"];
    attributes.verb == "get" && prefixes.iter().any(|prefix| attributes.path.starts_with(prefix))
}

/// What a kubelet needs: all reads it lives on, its own Node and Lease, the pods that it runs, events, images.
fn is_nodes_business(user: &User, attributes: &Attributes<'_>) -> bool {
    let Some(node) = user.name.strip_prefix("system:node:") else { return false };
    let reads = matches!(attributes.verb, "get" | "list" | "watch");
    let is_own = attributes.name.is_empty() || attributes.name == node;
    match (attributes.group, attributes.resource) {
        ("", "") => {
            reads
                && (attributes.path.starts_with("/naru/v1/images")
                    || attributes.path.starts_with("/naru/v1/blobs/"))
        }
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

/// The text of a refusal, as Kubernetes words it.
pub fn refusal(user: &User, attributes: &Attributes<'_>) -> String {
    let Attributes { verb, group, resource, subresource, namespace, name, path } = attributes;
    if resource.is_empty() {
        return format!("forbidden: User \"{}\" cannot {verb} path \"{path}\"", user.name);
    }
    let qualified = if group.is_empty() { (*resource).to_owned() } else { format!("{resource}.{group}") };
    let subject = if name.is_empty() { qualified } else { format!("{qualified} \"{name}\"") };
    let resource =
        if subresource.is_empty() { (*resource).to_owned() } else { format!("{resource}/{subresource}") };
    let place = if namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace \"{namespace}\"")
    };
    format!(
        "{subject} is forbidden: User \"{}\" cannot {verb} resource \"{resource}\" in API group \"{group}\" {place}",
        user.name
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may(user: &User, verb: &str, resource: &str, namespace: &str, name: &str) -> bool {
        let group = if resource == "leases" { "coordination.k8s.io" } else { "" };
        let attributes = Attributes { verb, group, resource, subresource: "", namespace, name, path: "" };
        BuiltIn.is_allowed(user, &attributes)
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

    #[test]
    fn no_certificate_makes_an_internal_user() {
        let user = User::new("system:kube-scheduler", vec![]);
        assert!(!may(&user, "create", "pods", "default", ""));
        assert!(may(&User::internal("system:kube-scheduler"), "create", "pods", "default", ""));
    }

    #[test]
    fn a_refusal_reads_as_in_kubernetes() {
        let attributes = Attributes {
            verb: "list",
            group: "apps",
            resource: "deployments",
            subresource: "",
            namespace: "shop",
            name: "",
            path: "",
        };
        assert_eq!(
            refusal(&User::new("jane", vec![]), &attributes),
            r#"deployments.apps is forbidden: User "jane" cannot list resource "deployments" in API group "apps" in the namespace "shop""#
        );
    }
}
