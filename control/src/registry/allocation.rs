//! Service addresses and node ports: who may have which.
//!
//! What a Service holds is guarded by entries of their own ([`Claim`]): an `IPAddress` per address, an internal
//! entry per node port, written in the Service's transaction with the precondition that nobody has them.
//! **Invariant:** so two Services cannot hold the same, however many writers race and whatever crashes.
//! The choice made here is only a guess from a snapshot; a clash repeats it with a newer one.

use std::{collections::BTreeSet, net::Ipv4Addr};

use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use naru_model::validation::{FieldErrors, Path};
use serde_json::{Value, json};

use crate::{
    settings::ClusterSettings,
    store::{Key, Snapshot},
};

/// The resource under which `IPAddress` objects are stored.
pub const IP_ADDRESSES: &str = "ipaddresses.networking.k8s.io";
/// The internal resource under which node ports are claimed; it is not served.
pub const NODE_PORTS: &str = "~nodeports";

/// An entry that guards something an object holds alone.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    pub resource: &'static str,
    pub name: String,
    /// Objects with `metadata` are given a uid and a creation time when they are written.
    pub value: Value,
}

impl Claim {
    pub fn key(&self) -> Key {
        Key::new(self.resource, "", &self.name)
    }
}

/// What can be allocated, and what is taken as far as this moment's view knows.
pub struct Pools<'a> {
    pub settings: &'a ClusterSettings,
    pub view: &'a Snapshot,
    /// Where a search starts, so that racing writers do not all want the same.
    pub seed: u64,
}

impl Pools<'_> {
    fn is_taken(&self, resource: &str, name: &str) -> bool {
        self.view.get(&Key::new(resource, "", name)).is_some()
    }

    /// A free service address. The low part of the range is left for explicit requests while there is room above.
    fn free_address(&self) -> Option<Ipv4Addr> {
        let cidr = self.settings.service_cidr;
        let last = cidr.size() - 1;
        let reserved = (cidr.size() / 16).clamp(16, 256).min(last);
        self.search(reserved..last)
            .chain(self.search(1..reserved))
            .map(|offset| cidr.nth(offset as u32))
            .find(|address| !self.is_taken(IP_ADDRESSES, &address.to_string()))
    }

    fn free_node_port(&self, own: &BTreeSet<i32>) -> Option<i32> {
        let range = &self.settings.node_ports;
        self.search(*range.start() as u64..*range.end() as u64 + 1)
            .map(|port| port as i32)
            .find(|port| !own.contains(port) && !self.is_taken(NODE_PORTS, &port.to_string()))
    }

    /// Every number of `range` once, from a random start on.
    fn search(&self, range: std::ops::Range<u64>) -> impl Iterator<Item = u64> + use<> {
        let length = range.end.saturating_sub(range.start);
        let start = if length == 0 { 0 } else { self.seed % length };
        (0..length).map(move |step| range.start + (start + step) % length)
    }
}

fn has_addresses(spec: &ServiceSpec) -> bool {
    spec.type_.as_deref() != Some("ExternalName")
}

fn wants_node_ports(spec: &ServiceSpec) -> bool {
    match spec.type_.as_deref() {
        Some("NodePort") => true,
        Some("LoadBalancer") => spec.allocate_load_balancer_node_ports != Some(false),
        _ => false,
    }
}

fn may_have_node_ports(spec: &ServiceSpec) -> bool {
    matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer"))
}

/// Keeps what a Service was given when an update does not mention it, and drops what its new type cannot have.
pub fn carry_over(new: &mut Service, old: &Service) {
    let (Some(new), Some(old)) = (new.spec.as_mut(), old.spec.as_ref()) else { return };
    if has_addresses(new) && has_addresses(old) {
        if new.cluster_ip.as_deref().unwrap_or_default().is_empty() && new.cluster_ips.is_none() {
            new.cluster_ip.clone_from(&old.cluster_ip);
            new.cluster_ips.clone_from(&old.cluster_ips);
        }
        if new.ip_families.is_none() {
            new.ip_families.clone_from(&old.ip_families);
        }
        if new.ip_family_policy.is_none() {
            new.ip_family_policy.clone_from(&old.ip_family_policy);
        }
    } else if !has_addresses(new) && has_addresses(old) && new.cluster_ip == old.cluster_ip {
        (new.cluster_ip, new.cluster_ips, new.ip_families, new.ip_family_policy) = (None, None, None, None);
    }
    let old_ports = old.ports.as_deref().unwrap_or_default();
    let (keeps, may_keep) = (wants_node_ports(new) && may_have_node_ports(old), may_have_node_ports(new));
    for port in new.ports.iter_mut().flatten() {
        let same =
            old_ports.iter().find(|before| before.port == port.port && before.protocol == port.protocol);
        let Some(before) = same else { continue };
        if keeps && port.node_port.unwrap_or(0) == 0 {
            port.node_port = before.node_port;
        } else if !may_keep && port.node_port == before.node_port {
            port.node_port = None;
        }
    }
    if may_have_node_ports(new) && new.health_check_node_port.is_none() && wants_health_check_port(new) {
        new.health_check_node_port = old.health_check_node_port;
    }
    if !wants_health_check_port(new) && new.health_check_node_port == old.health_check_node_port {
        new.health_check_node_port = None;
    }
}

fn wants_health_check_port(spec: &ServiceSpec) -> bool {
    spec.type_.as_deref() == Some("LoadBalancer") && spec.external_traffic_policy.as_deref() == Some("Local")
}

/// Gives a Service its address and node ports, or says why it cannot have those that it asks for.
pub fn allocate(new: &mut Service, old: Option<&Service>, pools: &Pools<'_>, errors: &mut FieldErrors) {
    if let Some(old) = old {
        carry_over(new, old);
    }
    let held = old.map(held).unwrap_or_default();
    let Some(spec) = new.spec.as_mut() else { return };
    let path = Path::new("spec");
    if has_addresses(spec) {
        allocate_address(spec, &held, pools, &path, errors);
    }
    allocate_node_ports(spec, &held, pools, &path, errors);
}

fn allocate_address(
    spec: &mut ServiceSpec,
    held: &Held,
    pools: &Pools<'_>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    spec.ip_families.get_or_insert_with(|| vec!["IPv4".into()]);
    spec.ip_family_policy.get_or_insert_with(|| "SingleStack".into());
    let asked = spec
        .cluster_ip
        .clone()
        .filter(|address| !address.is_empty())
        .or_else(|| spec.cluster_ips.as_ref().and_then(|addresses| addresses.first().cloned()));
    let address = match asked {
        Some(address) if address == "None" || held.addresses.contains(&address) => address,
        Some(address) => {
            let refusal = refuse_address(&address, pools);
            if let Some(refusal) = refusal {
                let detail = format!("failed to allocate IP {address}: {refusal}");
                errors.invalid(&path.child("clusterIPs"), json!([address]), &detail);
            }
            address
        }
        None => match pools.free_address() {
            Some(address) => address.to_string(),
            None => {
                let detail = "failed to allocate a serviceIP: range is full";
                errors.invalid(&path.child("clusterIPs"), Value::Null, detail);
                return;
            }
        },
    };
    spec.cluster_ips = Some(vec![address.clone()]);
    spec.cluster_ip = Some(address);
}

fn refuse_address(address: &str, pools: &Pools<'_>) -> Option<String> {
    let cidr = pools.settings.service_cidr;
    let Ok(parsed) = address.parse::<Ipv4Addr>() else {
        return Some("the provided network does not match the current range".into());
    };
    if !cidr.contains(parsed) || parsed == cidr.nth(0) || parsed == cidr.nth((cidr.size() - 1) as u32) {
        return Some(format!(
            "the provided IP ({address}) is not in the valid range. The range of valid IPs is {cidr}"
        ));
    }
    pools.is_taken(IP_ADDRESSES, address).then(|| "provided IP is already allocated".into())
}

fn allocate_node_ports(
    spec: &mut ServiceSpec,
    held: &Held,
    pools: &Pools<'_>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    if !may_have_node_ports(spec) {
        return;
    }
    let wanted = wants_node_ports(spec);
    let wants_health = wants_health_check_port(spec) && spec.health_check_node_port.unwrap_or(0) == 0;
    let mut own: BTreeSet<i32> = spec
        .ports
        .iter()
        .flatten()
        .filter_map(|port| port.node_port)
        .chain(spec.health_check_node_port)
        .collect();
    // Explicit requests first, so that a choice of ours never takes what another port of the object asks for.
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        let Some(asked) = port.node_port.filter(|port| *port != 0 && !held.node_ports.contains(port)) else {
            continue;
        };
        if let Some(refusal) = refuse_node_port(asked, pools) {
            errors.invalid(&path.child("ports").index(index).child("nodePort"), asked, &refusal);
        }
    }
    for (index, port) in spec.ports.iter_mut().flatten().enumerate() {
        if !wanted || port.node_port.unwrap_or(0) != 0 {
            continue;
        }
        match pools.free_node_port(&own) {
            Some(free) => {
                own.insert(free);
                port.node_port = Some(free);
            }
            None => errors.invalid(
                &path.child("ports").index(index).child("nodePort"),
                0,
                "failed to allocate a nodePort: range is full",
            ),
        }
    }
    if wants_health {
        spec.health_check_node_port = pools.free_node_port(&own);
    }
}

fn refuse_node_port(port: i32, pools: &Pools<'_>) -> Option<String> {
    let range = &pools.settings.node_ports;
    if !range.contains(&port) {
        let (start, end) = (range.start(), range.end());
        return Some(format!(
            "provided port is not in the valid range. The range of valid ports is {start}-{end}"
        ));
    }
    pools.is_taken(NODE_PORTS, &port.to_string()).then(|| "provided port is already allocated".into())
}

#[derive(Default)]
struct Held {
    addresses: BTreeSet<String>,
    node_ports: BTreeSet<i32>,
}

/// What a Service has right now.
fn held(service: &Service) -> Held {
    let Some(spec) = &service.spec else { return Held::default() };
    let addresses = if has_addresses(spec) {
        let all = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
        all.filter(|address| !address.is_empty() && *address != "None").cloned().collect()
    } else {
        BTreeSet::new()
    };
    let node_ports = if may_have_node_ports(spec) {
        let ports = spec.ports.iter().flatten().filter_map(|port| port.node_port);
        ports.chain(spec.health_check_node_port).filter(|port| *port != 0).collect()
    } else {
        BTreeSet::new()
    };
    Held { addresses, node_ports }
}

/// The entries that guard what `service` holds.
pub fn claims(service: &Service) -> Vec<Claim> {
    let held = held(service);
    if held.addresses.is_empty() && held.node_ports.is_empty() {
        return Vec::new();
    }
    let (namespace, name) = (
        service.metadata.namespace.as_deref().unwrap_or_default(),
        service.metadata.name.as_deref().unwrap_or_default(),
    );
    let addresses = held.addresses.into_iter().map(|address| Claim {
        resource: IP_ADDRESSES,
        value: json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "IPAddress",
            "metadata": {
                "name": address,
                "labels": {
                    "ipaddress.kubernetes.io/ip-family": "IPv4",
                    "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
                },
            },
            "spec": { "parentRef": { "resource": "services", "namespace": namespace, "name": name } },
        }),
        name: address,
    });
    let node_ports = held.node_ports.into_iter().map(|port| Claim {
        resource: NODE_PORTS,
        name: port.to_string(),
        value: json!({ "service": format!("{namespace}/{name}") }),
    });
    addresses.chain(node_ports).collect()
}
