//! NetworkPolicies: who may talk to which pods.

use k8s_openapi::{
    api::networking::v1::{IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec},
    apimachinery::pkg::util::intstr::IntOrString,
    jiff::Timestamp,
};
use naru_model::{
    ResourceInfo, selector,
    validation::{FieldErrors, Path, network::parse_cidr},
};
use serde_json::{Value, json};

use crate::registry::{
    Column, Kind,
    kind::age,
    podspec::{OrEmpty, check},
    text,
};

pub struct NetworkPolicies;

static RESOURCE: ResourceInfo = ResourceInfo {
    group: "networking.k8s.io",
    ..text::core_resource("NetworkPolicy", "networkpolicies", "networkpolicy", &["netpol"])
};

const COLUMNS: &[Column] = &[
    text::NAME,
    text::column(
        "Pod-Selector",
        "string",
        0,
        "podSelector selects the pods to which this NetworkPolicy object applies. The array of rules is applied to any pods selected by this field. An empty selector matches all pods in the policy's namespace. Multiple network policies can select the same set of pods. In this case, the ingress rules for each are combined additively. This field is optional. If it is not specified, it defaults to an empty selector.",
    ),
    text::AGE,
];

impl Kind for NetworkPolicies {
    type Object = NetworkPolicy;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn default(&self, policy: &mut NetworkPolicy) {
        let spec = policy.spec.get_or_insert_default();
        spec.pod_selector.get_or_insert_default();
        if spec.policy_types.or_empty().is_empty() {
            let has_egress = !spec.egress.or_empty().is_empty();
            let types: &[&str] = if has_egress { &["Ingress", "Egress"] } else { &["Ingress"] };
            spec.policy_types = Some(types.iter().map(ToString::to_string).collect());
        }
        let incoming = spec.ingress.iter_mut().flatten().flat_map(|rule| rule.ports.iter_mut().flatten());
        let outgoing = spec.egress.iter_mut().flatten().flat_map(|rule| rule.ports.iter_mut().flatten());
        for port in incoming.chain(outgoing) {
            port.protocol.get_or_insert_with(|| "TCP".into());
        }
    }

    fn validate(&self, policy: &NetworkPolicy, errors: &mut FieldErrors) {
        let empty = NetworkPolicySpec::default();
        validate_spec(policy.spec.as_ref().unwrap_or(&empty), &Path::new("spec"), errors);
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, policy: &NetworkPolicy, now: Timestamp) -> Vec<Value> {
        let selected = policy.spec.as_ref().and_then(|spec| spec.pod_selector.as_ref());
        vec![
            policy.metadata.name.or_empty().into(),
            selector::format_api(selected).into(),
            age(policy.metadata.creation_timestamp.as_ref(), now).into(),
        ]
    }
}

fn validate_spec(spec: &NetworkPolicySpec, path: &Path, errors: &mut FieldErrors) {
    check::label_selector(spec.pod_selector.as_ref(), &path.child("podSelector"), errors);
    for (index, rule) in spec.ingress.or_empty().iter().enumerate() {
        let path = path.child("ingress").index(index);
        validate_ports(rule.ports.or_empty(), &path.child("ports"), errors);
        validate_peers(rule.from.or_empty(), &path.child("from"), errors);
    }
    for (index, rule) in spec.egress.or_empty().iter().enumerate() {
        let path = path.child("egress").index(index);
        validate_ports(rule.ports.or_empty(), &path.child("ports"), errors);
        validate_peers(rule.to.or_empty(), &path.child("to"), errors);
    }
    let (types, path) = (spec.policy_types.or_empty(), path.child("policyTypes"));
    if types.len() > 2 {
        return errors.invalid(&path, json!(types), "may not specify more than two policyTypes");
    }
    for (index, kind) in types.iter().enumerate() {
        check::one_of(kind, &["Egress", "Ingress"], &path.index(index), errors);
    }
}

fn validate_ports(ports: &[NetworkPolicyPort], path: &Path, errors: &mut FieldErrors) {
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        if let Some(protocol) = &port.protocol {
            check::one_of(protocol, &["SCTP", "TCP", "UDP"], &path.child("protocol"), errors);
        }
        validate_port_range(port, &path, errors);
    }
}

fn validate_port_range(port: &NetworkPolicyPort, path: &Path, errors: &mut FieldErrors) {
    let end_path = path.child("endPort");
    match (&port.port, port.end_port) {
        (None, Some(end)) => {
            errors.invalid(&end_path, end, "may not be specified when `port` is not specified");
        }
        (Some(IntOrString::String(_)), Some(end)) => {
            errors.invalid(&end_path, end, "may not be specified when `port` is non-numeric");
        }
        _ => (),
    }
    let Some(first) = &port.port else { return };
    check::port_number_or_name(first, &path.child("port"), errors);
    if let (IntOrString::Int(first), Some(end)) = (first, port.end_port) {
        if end < *first {
            errors.invalid(&end_path, end, "must be greater than or equal to `port`");
        }
        check::port(end, &end_path, errors);
    }
}

fn validate_peers(peers: &[NetworkPolicyPeer], path: &Path, errors: &mut FieldErrors) {
    for (index, peer) in peers.iter().enumerate() {
        let path = path.index(index);
        check::label_selector(peer.pod_selector.as_ref(), &path.child("podSelector"), errors);
        check::label_selector(peer.namespace_selector.as_ref(), &path.child("namespaceSelector"), errors);
        if let Some(block) = &peer.ip_block {
            validate_block(block, &path.child("ipBlock"), errors);
        }
        let selects = peer.pod_selector.is_some() || peer.namespace_selector.is_some();
        match (selects, &peer.ip_block) {
            (false, None) => errors.required(&path, "must specify a peer"),
            (true, Some(_)) => errors.forbidden(&path, "may not specify both ipBlock and another peer"),
            _ => (),
        }
    }
}

fn validate_block(block: &IPBlock, path: &Path, errors: &mut FieldErrors) {
    if block.cidr.is_empty() {
        return errors.required(&path.child("cidr"), "");
    }
    check::cidr(&block.cidr, &path.child("cidr"), errors);
    for (index, except) in block.except.or_empty().iter().enumerate() {
        let path = path.child("except").index(index);
        check::cidr(except, &path, errors);
        if let (Some(whole), Some(part)) = (parse_cidr(&block.cidr), parse_cidr(except))
            && !is_strict_subset(part, whole)
        {
            errors.invalid(&path, except.as_str(), "must be a strict subset of `cidr`");
        }
    }
}

type Network = (std::net::IpAddr, u32);

fn is_strict_subset(part: Network, whole: Network) -> bool {
    use std::net::IpAddr::{V4, V6};
    let differs = match (part.0, whole.0) {
        (V4(part), V4(of)) => u128::from(u32::from(part) ^ u32::from(of)).checked_shr(32 - whole.1),
        (V6(part), V6(of)) => (u128::from(part) ^ u128::from(of)).checked_shr(128 - whole.1),
        _ => Some(1),
    };
    part.1 > whole.1 && differs.unwrap_or(0) == 0
}
