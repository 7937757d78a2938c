//! Nodes. An agent registers its own, with status; afterwards the status has an endpoint of its own.

use k8s_openapi::{
    api::core::v1::{Node, NodeSpec, NodeStatus, Taint},
    jiff::Timestamp,
};
use naru_model::{
    ResourceInfo,
    quantity::Quantity,
    validation::{FieldErrors, Path, network::parse_cidr},
};
use serde_json::{Value, json};
use std::collections::BTreeSet;

use super::{
    Column, Kind,
    kind::{Context, age},
    podspec::{OrEmpty, check, resources, taint_effect},
    text,
};

pub struct Nodes;

const ROLE_PREFIX: &str = "node-role.kubernetes.io/";
const OLD_ROLE: &str = "kubernetes.io/role";

static RESOURCE: ResourceInfo = ResourceInfo {
    namespaced: false,
    subresources: &["proxy", "status"],
    ..text::core_resource("Node", "nodes", "node", &["no"])
};

const COLUMNS: &[Column] = &[
    text::NAME,
    text::column("Status", "string", 0, "The status of the node"),
    text::column("Roles", "string", 0, "The roles of the node"),
    text::AGE,
    text::column("Version", "string", 0, "Kubelet Version reported by the node."),
    text::column("Internal-IP", "string", 1, ADDRESSES),
    text::column("External-IP", "string", 1, ADDRESSES),
    text::column(
        "OS-Image",
        "string",
        1,
        "OS Image reported by the node from /etc/os-release (e.g. Debian GNU/Linux 7 (wheezy)).",
    ),
    text::column(
        "Kernel-Version",
        "string",
        1,
        "Kernel Version reported by the node from 'uname -r' (e.g. 3.16.0-0.bpo.4-amd64).",
    ),
    text::column(
        "Container-Runtime",
        "string",
        1,
        "ContainerRuntime Version reported by the node through runtime remote API (e.g. containerd://1.4.2).",
    ),
];
const ADDRESSES: &str = "List of addresses reachable to the node. Queried from cloud provider, if available. More info: https://kubernetes.io/docs/reference/node/node-status/#addresses Note: This field is declared as mergeable, but the merge key is not sufficiently unique, which can cause data corruption when it is merged. Callers should instead use a full-replacement patch. See https://pr.k8s.io/79391 for an example. Consumers should assume that addresses can change during the lifetime of a Node. However, there are some exceptions where this may not be possible, such as Pods that inherit a Node's address in its own status or consumers of the downward API (status.hostIP).";

impl Kind for Nodes {
    type Object = Node;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn has_generation(&self) -> bool {
        false
    }

    fn default(&self, node: &mut Node) {
        let spec = node.spec.get_or_insert_default();
        one_range_in_both_fields(spec);
        spec.unschedulable.take_if(|on| !*on);
        spec.taints.take_if(|taints| taints.is_empty());
        let Some(status) = &mut node.status else { return };
        for list in [status.capacity.as_mut(), status.allocatable.as_mut()].into_iter().flatten() {
            list.values_mut().for_each(resources::canonicalize);
        }
        if status.allocatable.is_none() {
            status.allocatable.clone_from(&status.capacity);
        }
    }

    fn prepare_update(&self, new: &mut Node, old: &Node, _context: &Context<'_>) {
        new.status.clone_from(&old.status);
    }

    fn prepare_status_update(&self, new: &mut Node, old: &Node, _context: &Context<'_>) {
        new.spec.clone_from(&old.spec);
    }

    fn validate(&self, node: &Node, errors: &mut FieldErrors) {
        let empty = NodeSpec::default();
        let spec = node.spec.as_ref().unwrap_or(&empty);
        // Kubernetes reports taints below the metadata.
        taints(spec.taints.or_empty(), &Path::new("metadata").child("taints"), errors);
        status(node.status.as_ref(), errors);
        pod_ranges(spec.pod_cidrs.or_empty(), &Path::new("spec").child("podCIDRs"), errors);
    }

    fn validate_update(&self, new: &Node, old: &Node, errors: &mut FieldErrors) {
        let empty = NodeSpec::default();
        let (new, old) = (new.spec.as_ref().unwrap_or(&empty), old.spec.as_ref().unwrap_or(&empty));
        let path = Path::new("spec");
        let before = old.pod_cidrs.or_empty();
        if !before.is_empty() && before != new.pod_cidrs.or_empty() {
            let detail = "node updates may not change podCIDR except from \"\" to valid";
            errors.forbidden(&path.child("podCIDRs"), detail);
        }
        let before = old.provider_id.or_empty();
        if !before.is_empty() && before != new.provider_id.or_empty() {
            let detail = "node updates may not change providerID except from \"\" to valid";
            errors.forbidden(&path.child("providerID"), detail);
        }
    }

    fn validate_status_update(&self, new: &Node, _old: &Node, errors: &mut FieldErrors) {
        status(new.status.as_ref(), errors);
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, node: &Node, now: Timestamp) -> Vec<Value> {
        let empty = NodeStatus::default();
        let status = node.status.as_ref().unwrap_or(&empty);
        let info = status.node_info.clone().unwrap_or_default();
        let known = |text: String| if text.is_empty() { "<unknown>".into() } else { text };
        vec![
            node.metadata.name.or_empty().into(),
            readiness(node, status).into(),
            roles(node).into(),
            age(node.metadata.creation_timestamp.as_ref(), now).into(),
            info.kubelet_version.into(),
            address(status, "InternalIP").into(),
            address(status, "ExternalIP").into(),
            known(info.os_image).into(),
            known(info.kernel_version).into(),
            known(info.container_runtime_version).into(),
        ]
    }

    fn field_names(&self) -> &'static [&'static str] {
        &["spec.unschedulable"]
    }

    fn field(&self, node: &Node, name: &str) -> String {
        match name {
            "spec.unschedulable" => is_unschedulable(node).to_string(),
            _ => String::new(),
        }
    }
}

fn is_unschedulable(node: &Node) -> bool {
    node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true)
}

/// `podCIDR` is the first of `podCIDRs`.
fn one_range_in_both_fields(spec: &mut NodeSpec) {
    let first = spec.pod_cidr.take().filter(|range| !range.is_empty());
    if spec.pod_cidrs.or_empty().is_empty() {
        spec.pod_cidrs = first.map(|range| vec![range]);
    }
    spec.pod_cidr = spec.pod_cidrs.or_empty().first().cloned();
}

fn taints(taints: &[Taint], path: &Path, errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for (index, taint) in taints.iter().enumerate() {
        let path = path.index(index);
        check::label_name(&taint.key, &path.child("key"), errors);
        let value = taint.value.or_empty();
        let messages = check::label_value_messages(value);
        if !messages.is_empty() {
            errors.invalid(&path.child("value"), value, &messages.join(";"));
        }
        taint_effect(&taint.effect, &path.child("effect"), errors);
        if !seen.insert((&taint.effect, &taint.key)) {
            let value = serde_json::to_value(taint).unwrap_or_default();
            check::duplicate_with(&path, value, "taints must be unique by key and effect pair", errors);
        }
    }
}

fn status(status: Option<&NodeStatus>, errors: &mut FieldErrors) {
    let Some(status) = status else { return };
    let path = Path::new("status");
    for (name, list) in [("capacity", &status.capacity), ("allocatable", &status.allocatable)] {
        for (resource, quantity) in list.iter().flatten() {
            let path = path.child(name).child(resource);
            match Quantity::try_from(quantity) {
                Ok(quantity) if quantity.is_negative() => {
                    errors.invalid(&path, quantity.to_string(), check::NOT_NEGATIVE);
                }
                Ok(_) => {}
                Err(error) => errors.invalid(&path, quantity.0.as_str(), &error.to_string()),
            }
        }
    }
    let mut seen = BTreeSet::new();
    for (index, address) in status.addresses.or_empty().iter().enumerate() {
        if !seen.insert((&address.type_, &address.address)) {
            let value = json!({ "type": address.type_, "address": address.address });
            errors.duplicate(&path.child("addresses").index(index), value);
        }
    }
}

/// At most one range of each family.
fn pod_ranges(ranges: &[String], path: &Path, errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for (index, range) in ranges.iter().enumerate() {
        check::cidr(range, &path.index(index), errors);
        if !seen.insert(range) {
            errors.duplicate(&path.index(index), range.as_str());
        }
    }
    let families: Vec<bool> =
        ranges.iter().filter_map(|range| parse_cidr(range)).map(|(address, _)| address.is_ipv4()).collect();
    if ranges.len() > 2 || matches!(families[..], [first, second] if first == second) {
        errors.invalid(path, ranges, "may specify no more than one CIDR for each IP family");
    }
}

fn readiness(node: &Node, status: &NodeStatus) -> String {
    let ready = status.conditions.or_empty().iter().find(|condition| condition.type_ == "Ready");
    let word = match ready.map(|condition| condition.status.as_str()) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    if is_unschedulable(node) { format!("{word},SchedulingDisabled") } else { word.into() }
}

fn roles(node: &Node) -> String {
    let labels = node.metadata.labels.iter().flatten();
    let roles: BTreeSet<&str> = labels
        .filter_map(|(key, value)| match key.strip_prefix(ROLE_PREFIX) {
            Some(role) => Some(role),
            None if key == OLD_ROLE => Some(value.as_str()),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    text::or_none(&roles.into_iter().collect::<Vec<_>>().join(",")).into()
}

fn address<'a>(status: &'a NodeStatus, kind: &str) -> &'a str {
    let address = status.addresses.or_empty().iter().find(|address| address.type_ == kind);
    address.map_or("<none>", |address| address.address.as_str())
}
