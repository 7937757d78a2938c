//! Endpoints, the older and shorter form of EndpointSlices.
//!
//! Loopback addresses are endpoints here: in the loopback pod network every pod has one.

use k8s_openapi::{
    api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints},
    jiff::Timestamp,
};
use naru_model::{
    ResourceInfo,
    validation::{FieldErrors, Path},
};
use serde_json::Value;

use super::{
    Column, Kind,
    kind::age,
    podspec::{OrEmpty, check, protocol},
    text,
};

pub struct EndpointsKind;

static RESOURCE: ResourceInfo = text::core_resource("Endpoints", "endpoints", "endpoints", &["ep"]);

const COLUMNS: &[Column] = &[
    text::NAME,
    text::column(
        "Endpoints",
        "string",
        0,
        "The set of all endpoints is the union of all subsets. Addresses are placed into subsets according to the IPs they share. A single address with multiple ports, some of which are ready and some of which are not (because they come from different containers) will result in the address being displayed in different subsets for the different ports. No address will appear in both Addresses and NotReadyAddresses in the same subset. Sets of addresses and ports that comprise a service.",
    ),
    text::AGE,
];

impl Kind for EndpointsKind {
    type Object = Endpoints;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn has_generation(&self) -> bool {
        false
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }

    fn default(&self, endpoints: &mut Endpoints) {
        let subsets = endpoints.subsets.iter_mut().flatten();
        for port in subsets.flat_map(|subset| subset.ports.iter_mut().flatten()) {
            if port.protocol.or_empty().is_empty() {
                port.protocol = Some("TCP".into());
            }
        }
    }

    fn validate(&self, endpoints: &Endpoints, errors: &mut FieldErrors) {
        for (index, subset) in endpoints.subsets.or_empty().iter().enumerate() {
            validate_subset(subset, &Path::new("subsets").index(index), errors);
        }
    }

    fn deprecation(&self) -> Option<&str> {
        Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice")
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, endpoints: &Endpoints, now: Timestamp) -> Vec<Value> {
        vec![
            endpoints.metadata.name.or_empty().into(),
            text::or_none(&text::first_three(addresses(endpoints.subsets.or_empty()))).into(),
            age(endpoints.metadata.creation_timestamp.as_ref(), now).into(),
        ]
    }
}

/// `ip:port` for each port, or the address alone where a headless service has no ports.
fn addresses(subsets: &[EndpointSubset]) -> impl Iterator<Item = String> {
    subsets.iter().flat_map(|subset| {
        let hosts = subset.addresses.or_empty();
        let with_port = |port: &EndpointPort| {
            let port = port.port;
            hosts.iter().map(move |host| {
                if host.ip.contains(':') {
                    format!("[{}]:{port}", host.ip)
                } else {
                    format!("{}:{port}", host.ip)
                }
            })
        };
        let ports = subset.ports.or_empty();
        let alone = hosts.iter().filter(|_| ports.is_empty()).map(|host| host.ip.clone());
        alone.chain(ports.iter().flat_map(with_port)).collect::<Vec<_>>()
    })
}

fn validate_subset(subset: &EndpointSubset, path: &Path, errors: &mut FieldErrors) {
    let (ready, not_ready) = (subset.addresses.or_empty(), subset.not_ready_addresses.or_empty());
    if ready.is_empty() && not_ready.is_empty() {
        errors.required(path, "must specify `addresses` or `notReadyAddresses`");
    }
    for (name, addresses) in [("addresses", ready), ("notReadyAddresses", not_ready)] {
        for (index, address) in addresses.iter().enumerate() {
            validate_address(address, &path.child(name).index(index), errors);
        }
    }
    let ports = subset.ports.or_empty();
    for (index, port) in ports.iter().enumerate() {
        let path = path.child("ports").index(index);
        let name = port.name.or_empty();
        if !name.is_empty() {
            check::dns_label(name, &path.child("name"), errors);
        } else if ports.len() > 1 {
            errors.required(&path.child("name"), "");
        }
        check::port(port.port, &path.child("port"), errors);
        protocol(port.protocol.or_empty(), &path.child("protocol"), errors);
        if let Some(app) = &port.app_protocol {
            check::qualified_name(app, &path.child("appProtocol"), errors);
        }
    }
}

fn validate_address(address: &EndpointAddress, path: &Path, errors: &mut FieldErrors) {
    check::ip(&address.ip, &path.child("ip"), errors);
    if !address.hostname.or_empty().is_empty() {
        check::dns_label(address.hostname.or_empty(), &path.child("hostname"), errors);
    }
    if let Some(node) = &address.node_name {
        check::subdomain(node, &path.child("nodeName"), errors);
    }
}
