//! What a status update of a pod may say.

use k8s_openapi::api::core::v1::{ContainerStatus, ContainerUser, Pod, PodIP, PodSpec, PodStatus};
use naru_model::validation::{FieldErrors, Path, names};
use std::{collections::BTreeSet, net::IpAddr};

use crate::registry::podspec::{self, OrEmpty, check, resources};

/// Clients that don't know newer fields would drop them with every status they write.
pub(super) fn keep_what_old_clients_drop(new: &mut PodStatus, old: Option<&PodStatus>) {
    let Some(old) = old else { return };
    if new.qos_class.or_empty().is_empty() {
        new.qos_class.clone_from(&old.qos_class);
    }
    if new.observed_generation.unwrap_or_default() == 0 {
        new.observed_generation = old.observed_generation;
    }
    let old_conditions = old.conditions.or_empty();
    for condition in new.conditions.iter_mut().flatten() {
        if condition.observed_generation.unwrap_or_default() == 0 {
            let before = old_conditions.iter().find(|before| before.type_ == condition.type_);
            condition.observed_generation = before.and_then(|before| before.observed_generation);
        }
    }
}

/// `podIP` is the first of `podIPs`. Old clients write only the one.
pub(super) fn one_address_in_both_fields(status: &mut PodStatus) {
    let first = status.pod_ip.take().filter(|address| !address.is_empty());
    if status.pod_ips.or_empty().is_empty() {
        status.pod_ips = first.map(|ip| vec![PodIP { ip }]);
    }
    status.pod_ip = status.pod_ips.or_empty().first().map(|address| address.ip.clone());
}

pub(super) fn validate(new: &Pod, old: &Pod, errors: &mut FieldErrors) {
    let metadata = Path::new("metadata");
    podspec::annotation_updates(&new.metadata, &old.metadata, &metadata.child("annotations"), errors);
    let (empty_status, empty_spec) = (PodStatus::default(), PodSpec::default());
    let (new_status, old_status) =
        (new.status.as_ref().unwrap_or(&empty_status), old.status.as_ref().unwrap_or(&empty_status));
    let spec = old.spec.as_ref().unwrap_or(&empty_spec);
    for (index, condition) in new_status.conditions.or_empty().iter().enumerate() {
        if !matches!(condition.type_.as_str(), "PodScheduled" | "Ready" | "Initialized") {
            // Kubernetes looks at these with the path of the metadata, and a capital T.
            let path = metadata.child("conditions").index(index).child("Type");
            check::qualified_name(&condition.type_, &path, errors);
        }
    }
    let path = Path::new("status");
    let nominated = new_status.nominated_node_name.or_empty();
    if nominated != old_status.nominated_node_name.or_empty() && !nominated.is_empty() {
        check::subdomain(nominated, &path.child("nominatedNodeName"), errors);
    }
    let qos = new_status.qos_class.or_empty();
    if qos != old_status.qos_class.or_empty() {
        errors.invalid(&path.child("qosClass"), qos, check::IMMUTABLE);
    }
    transitions(new_status, old_status, spec, &path, errors);
    addresses(new_status, &path, errors);
    for (name, statuses) in container_lists(new_status) {
        users(statuses, spec, &path.child(name), errors);
    }
}

fn container_lists(status: &PodStatus) -> [(&'static str, &[ContainerStatus]); 3] {
    [
        ("containerStatuses", status.container_statuses.or_empty()),
        ("initContainerStatuses", status.init_container_statuses.or_empty()),
        ("ephemeralContainerStatuses", status.ephemeral_container_statuses.or_empty()),
    ]
}

/// A container that ended for good stays ended.
fn transitions(new: &PodStatus, old: &PodStatus, spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    let policy = spec.restart_policy.or_empty();
    let has_own_policy = |name: &str| {
        let containers = spec.containers.iter().chain(spec.init_containers.or_empty());
        containers.filter(|container| container.name == name).any(|container| {
            resources::is_sidecar(container)
                || container.restart_policy.as_deref().is_some_and(|own| own != "Never")
                || !container.restart_policy_rules.or_empty().is_empty()
        })
    };
    for ((name, new), (_, old)) in container_lists(new).into_iter().zip(container_lists(old)) {
        let policy = if name == "ephemeralContainerStatuses" { "Never" } else { policy };
        if policy == "Always" {
            continue;
        }
        for (index, before) in old.iter().enumerate() {
            let ended = before.state.as_ref().and_then(|state| state.terminated.as_ref());
            let Some(ended) = ended else { continue };
            if (ended.exit_code != 0 && policy == "OnFailure") || has_own_policy(&before.name) {
                continue;
            }
            let lives_again = new.iter().any(|now| {
                now.name == before.name && now.state.as_ref().is_none_or(|state| state.terminated.is_none())
            });
            if lives_again {
                let path = path.child(name).index(index).child("state");
                errors.forbidden(&path, "may not be transitioned to non-terminated state");
            }
        }
    }
}

fn addresses(status: &PodStatus, path: &Path, errors: &mut FieldErrors) {
    let pod_ips: Vec<&str> = status.pod_ips.or_empty().iter().map(|address| address.ip.as_str()).collect();
    address_list(&pod_ips, &path.child("podIPs"), errors);
    let host_ips: Vec<&str> = status.host_ips.or_empty().iter().map(|address| address.ip.as_str()).collect();
    let path = path.child("hostIPs");
    if let Some(first) = host_ips.first()
        && status.host_ip.or_empty() != *first
    {
        errors.invalid(&path.index(0).child("ip"), *first, "must be equal to `hostIP`");
    }
    address_list(&host_ips, &path, errors);
}

/// At most one address of each family, each once.
fn address_list(addresses: &[&str], path: &Path, errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for (index, address) in addresses.iter().enumerate() {
        check::ip(address, &path.index(index), errors);
        if !seen.insert(address) {
            errors.duplicate(&path.index(index), serde_json::json!({ "ip": address }));
        }
    }
    let families: Vec<bool> = addresses
        .iter()
        .filter_map(|text| text.parse().ok())
        .map(|address: IpAddr| address.is_ipv4())
        .collect();
    if addresses.len() > 2 || matches!(families[..], [first, second] if first == second) {
        let value: Vec<_> = addresses.iter().map(|ip| serde_json::json!({ "ip": ip })).collect();
        errors.invalid(path, value, "may specify no more than one IP for each IP family");
    }
}

fn users(statuses: &[ContainerStatus], spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    let is_windows = spec.os.as_ref().is_some_and(|os| os.name == "windows");
    for (index, status) in statuses.iter().enumerate() {
        let Some(ContainerUser { linux: Some(user) }) = &status.user else { continue };
        let path = path.index(index).child("linux");
        if is_windows {
            errors.forbidden(&path, "cannot be set for a windows pod");
            continue;
        }
        for (name, id) in [("uid", user.uid), ("gid", user.gid)] {
            for problem in names::user_id(id) {
                errors.invalid(&path.child(name), id, &problem);
            }
        }
    }
}
