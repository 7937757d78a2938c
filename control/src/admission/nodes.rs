//! A node's agent writes what concerns its own node only (NodeRestriction).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Pod};
use naru_model::Object;

use super::refused;
use crate::{
    ApiError,
    registry::{AnyObject, Call, Part},
};

const MIRROR: &str = "kubernetes.io/config.mirror";
const RESTRICTED: &str = "node-restriction.kubernetes.io";
/// The labels of Kubernetes' own domains that an agent may set.
const AGENTS_LABELS: &[&str] = &[
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];
const AGENTS_DOMAINS: &[&str] = &["kubelet.kubernetes.io", "node.kubernetes.io"];

pub(super) fn admit_create(call: &Call<'_>, object: &dyn AnyObject) -> Result<(), ApiError> {
    let Some(node) = call.user.node() else { return Ok(()) };
    let refuse = |message: String| Err(refused(call, object.name(), message));
    if let Some(pod) = object.get::<Pod>() {
        return check_mirror_pod(node, pod).or_else(refuse);
    }
    match call.served.qualified.as_str() {
        "nodes" if object.name() != node => {
            refuse(format!("node {node:?} is not allowed to modify node {:?}", object.name()))
        }
        "nodes" => {
            let labels = forbidden_labels(object.meta().labels.as_ref(), None);
            if labels.is_empty() {
                return Ok(());
            }
            refuse(format!("node {node:?} is not allowed to set the following labels: {labels}"))
        }
        "leases.coordination.k8s.io" if object.name() != node => {
            refuse("can only access node lease with the same name as the requesting node".into())
        }
        "csinodes.storage.k8s.io" if object.name() != node => {
            refuse("can only access CSINode with the same name as the requesting node".into())
        }
        _ => Ok(()),
    }
}

pub(super) fn admit_update(
    call: &Call<'_>,
    part: Part,
    new: &dyn AnyObject,
    old: &dyn AnyObject,
) -> Result<(), ApiError> {
    let Some(node) = call.user.node() else { return Ok(()) };
    let refuse = |message: String| Err(refused(call, call.name, message));
    if let Some(pod) = old.get::<Pod>() {
        return match part {
            Part::Status if node_of(pod) != node => refuse(format!(
                "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
            )),
            Part::Status if new.meta().labels != old.meta().labels => {
                refuse(format!("node {node:?} cannot update labels through pod status"))
            }
            Part::Status => Ok(()),
            _ => refuse(format!(
                "unexpected operation \"UPDATE\", node {node:?} can only create and delete mirror pods"
            )),
        };
    }
    let (Some(new), Some(old)) = (new.get::<Node>(), old.get::<Node>()) else { return Ok(()) };
    if call.name != node {
        return refuse(format!("node {node:?} is not allowed to modify node {:?}", call.name));
    }
    let taints = |node: &Node| node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    if taints(new) != taints(old) {
        return refuse(format!("node {node:?} is not allowed to modify taints"));
    }
    let labels = forbidden_labels(new.metadata.labels.as_ref(), old.metadata.labels.as_ref());
    if labels.is_empty() {
        return Ok(());
    }
    refuse(format!("is not allowed to modify labels: {labels}"))
}

pub(super) fn admit_delete(call: &Call<'_>, object: &dyn AnyObject) -> Result<(), ApiError> {
    let Some(node) = call.user.node() else { return Ok(()) };
    match object.get::<Pod>() {
        Some(pod) if node_of(pod) != node => {
            let message = format!("node {node:?} can only delete pods with spec.nodeName set to itself");
            Err(refused(call, call.name, message))
        }
        _ => Ok(()),
    }
}

fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

fn check_mirror_pod(node: &str, pod: &Pod) -> Result<(), String> {
    let is_mirror = pod.metadata.annotations.as_ref().is_some_and(|of| of.contains_key(MIRROR));
    if !is_mirror {
        return Err(format!(
            "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
        ));
    }
    if node_of(pod) != node {
        return Err(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
    let is_own = |owner: &k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference| {
        (&*owner.api_version, &*owner.kind, &*owner.name) == ("v1", "Node", node)
    };
    if owners.len() != 1 || !owners.iter().all(is_own) {
        return Err(format!("node {node:?} can only create pods with an owner reference set to itself"));
    }
    let spec = pod.spec.clone().unwrap_or_default();
    if spec.service_account_name.is_some_and(|account| !account.is_empty()) {
        return Err(format!("node {node:?} can not create pods that reference a service account"));
    }
    for volume in spec.volumes.iter().flatten() {
        if volume.secret.is_some() || volume.config_map.is_some() || volume.persistent_volume_claim.is_some()
        {
            return Err(format!(
                "node {node:?} can not create pods that reference other objects ({})",
                pod.name()
            ));
        }
    }
    Ok(())
}

/// The changed labels that are not an agent's to set, joined by commas.
fn forbidden_labels(
    new: Option<&BTreeMap<String, String>>,
    old: Option<&BTreeMap<String, String>>,
) -> String {
    let empty = BTreeMap::new();
    let (new, old) = (new.unwrap_or(&empty), old.unwrap_or(&empty));
    let mut changed: Vec<&str> = new
        .keys()
        .chain(old.keys())
        .filter(|key| new.get(*key) != old.get(*key))
        .map(String::as_str)
        .collect();
    changed.sort_unstable();
    changed.dedup();
    changed.retain(|key| is_forbidden(key));
    changed.join(", ")
}

fn is_forbidden(label: &str) -> bool {
    let Some((domain, _)) = label.split_once('/') else { return false };
    let is_of =
        |parent: &str| domain.strip_suffix(parent).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    let is_agents = AGENTS_LABELS.contains(&label) || AGENTS_DOMAINS.iter().any(|domain| is_of(domain));
    is_of(RESTRICTED) || ((is_of("kubernetes.io") || is_of("k8s.io")) && !is_agents)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn labels_that_steer_workloads_are_not_an_agents_to_set() {
        let cases = [
            ("shop.example/rack", false),
            ("rack", false),
            ("kubernetes.io/hostname", false),
            ("node.kubernetes.io/anything", false),
            ("topology.kubernetes.io/zone", false),
            ("node-restriction.kubernetes.io/tenant", true),
            ("a.node-restriction.kubernetes.io/tenant", true),
            ("node-role.kubernetes.io/control-plane", true),
            ("x.k8s.io/y", true),
        ];
        for (label, expected) in cases {
            assert_eq!(is_forbidden(label), expected, "{label}");
        }
    }

    #[test]
    fn an_agent_creates_mirrors_of_its_own_pods_only() {
        let check = |pod: Value| {
            let mut mirror = json!({
                "metadata": {
                    "annotations": { MIRROR: "x" },
                    "ownerReferences": [{ "apiVersion": "v1", "kind": "Node", "name": "amber", "uid": "1" }],
                },
                "spec": { "nodeName": "amber", "containers": [] },
            });
            json_patch::merge(&mut mirror, &pod);
            let pod: Pod = serde_json::from_value(mirror).expect("a pod");
            check_mirror_pod("amber", &pod).err().unwrap_or_default()
        };
        assert_eq!(check(json!({})), "");
        let refused = [
            (json!({ "metadata": { "annotations": null } }), "pod does not have"),
            (
                json!({ "spec": { "nodeName": "birch" } }),
                "node \"amber\" can only create pods with spec.nodeName",
            ),
            (
                json!({ "metadata": { "ownerReferences": null } }),
                "node \"amber\" can only create pods with an owner",
            ),
            (
                json!({ "spec": { "serviceAccountName": "a" } }),
                "node \"amber\" can not create pods that reference a",
            ),
            (
                json!({ "spec": { "volumes": [{ "name": "v", "secret": { "secretName": "s" } }] } }),
                "node \"amber\" can not create pods that reference other",
            ),
        ];
        for (pod, expected) in refused {
            let told = check(pod.clone());
            assert!(told.starts_with(expected), "{pod}: {told}");
        }
    }
}
