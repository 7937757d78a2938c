//! What a Service may ask for.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use naru_model::validation::{FieldErrors, Path};
use serde_json::{Value, json};
use std::{collections::BTreeSet, net::IpAddr};

use super::{
    NONE, has_cluster_ip, is_externally_accessible, is_headless, is_load_balancer, needs_health_check,
};
use crate::registry::podspec::{OrEmpty, check, protocol};

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const MAX_CLIENT_IP_TIMEOUT_SECONDS: i32 = 86_400;
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
pub(super) const TOPOLOGY_HINTS: &str = "service.kubernetes.io/topology-aware-hints";
pub(super) const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";

pub(super) fn validate(service: &Service, errors: &mut FieldErrors) {
    let empty = ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&empty);
    topology_annotations(service, errors);
    let path = Path::new("spec");
    let ports_path = path.child("ports");
    let kind = spec.type_.or_empty();
    if spec.ports.or_empty().is_empty() && !is_headless(spec) && kind != "ExternalName" {
        errors.required(&ports_path, "");
    }
    match kind {
        "LoadBalancer" | "NodePort" if is_headless(spec) => {
            let detail = format!("may not be set to 'None' for {kind} services");
            errors.invalid(&path.child("clusterIPs").index(0), NONE, &detail);
        }
        "ExternalName" => external_name(spec, &path, errors),
        _ => {}
    }
    let mut names = BTreeSet::new();
    let needs_name = spec.ports.or_empty().len() > 1;
    for (index, port) in spec.ports.or_empty().iter().enumerate() {
        service_port(port, needs_name, &mut names, &ports_path.index(index), errors);
    }
    check::labels(spec.selector.as_ref(), &path.child("selector"), errors);
    session_affinity(spec, &path, errors);
    if kind != "ExternalName" {
        cluster_ips(spec, &path, errors);
        families(spec, &path, errors);
    }
    external_ips(spec, &path.child("externalIPs"), errors);
    check::required_one_of(kind, TYPES, &path.child("type"), errors);
    repeated_ports(spec, &ports_path, errors);
    load_balancer(service, spec, &path, errors);
    traffic_policies(spec, &path, errors);
}

fn topology_annotations(service: &Service, errors: &mut FieldErrors) {
    let annotation =
        |key: &str| service.metadata.annotations.as_ref().and_then(|annotations| annotations.get(key));
    if let (Some(mode), Some(hints)) = (annotation(TOPOLOGY_MODE), annotation(TOPOLOGY_HINTS))
        && mode != hints
    {
        let path = Path::new("metadata").child("annotations").key(TOPOLOGY_MODE);
        let detail = format!("must match annotations[{TOPOLOGY_HINTS}] when both are specified");
        errors.invalid(&path, mode.as_str(), &detail);
    }
}

fn external_name(spec: &ServiceSpec, path: &Path, errors: &mut FieldErrors) {
    for (name, is_set) in [
        ("clusterIPs", !spec.cluster_ips.or_empty().is_empty()),
        ("ipFamilies", !spec.ip_families.or_empty().is_empty()),
        ("ipFamilyPolicy", spec.ip_family_policy.is_some()),
    ] {
        if is_set {
            errors.forbidden(&path.child(name), "may not be set for ExternalName services");
        }
    }
    let name = spec.external_name.or_empty();
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() {
        errors.required(&path.child("externalName"), "");
    } else {
        check::subdomain(name, &path.child("externalName"), errors);
    }
}

fn service_port<'a>(
    port: &'a ServicePort,
    needs_name: bool,
    names: &mut BTreeSet<&'a str>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let name = port.name.or_empty();
    if !name.is_empty() {
        check::dns_label(name, &path.child("name"), errors);
        if !names.insert(name) {
            errors.duplicate(&path.child("name"), name);
        }
    } else if needs_name {
        errors.required(&path.child("name"), "");
    }
    check::port(port.port, &path.child("port"), errors);
    protocol(port.protocol.or_empty(), &path.child("protocol"), errors);
    if let Some(target) = &port.target_port {
        check::port_number_or_name(target, &path.child("targetPort"), errors);
    }
    if let Some(app) = &port.app_protocol {
        check::qualified_name(app, &path.child("appProtocol"), errors);
    }
}

fn session_affinity(spec: &ServiceSpec, path: &Path, errors: &mut FieldErrors) {
    let affinity = spec.session_affinity.or_empty();
    check::required_one_of(affinity, &["ClientIP", NONE], &path.child("sessionAffinity"), errors);
    let path = path.child("sessionAffinityConfig");
    match affinity {
        NONE if spec.session_affinity_config.is_some() => {
            errors.forbidden(&path, "must not be set when session affinity is None");
        }
        "ClientIP" => {
            let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
            let Some(timeout) = config.and_then(|config| config.timeout_seconds) else {
                return errors.required(&path, "when session affinity type is ClientIP");
            };
            if !(1..=MAX_CLIENT_IP_TIMEOUT_SECONDS).contains(&timeout) {
                let detail = format!("must be greater than 0 and less than {MAX_CLIENT_IP_TIMEOUT_SECONDS}");
                errors.invalid(&path.child("clientIP").child("timeoutSeconds"), timeout, &detail);
            }
        }
        _ => {}
    }
}

fn cluster_ips(spec: &ServiceSpec, path: &Path, errors: &mut FieldErrors) {
    let path = path.child("clusterIPs");
    let (one, all) = (spec.cluster_ip.or_empty(), spec.cluster_ips.or_empty());
    match (one.is_empty(), all.first()) {
        (false, None) => errors.required(&path, ""),
        (false, Some(first)) if first != one => {
            errors.invalid(&path, all, "first value must match `clusterIP`");
        }
        (true, Some(_)) => errors.invalid(&path, all, "must be empty when `clusterIP` is not specified"),
        _ => {}
    }
    let before = errors.0.len();
    if all.len() > 1 && all[0] == NONE {
        errors.invalid(&path, all, "'None' must be the first and only value");
    }
    for (index, address) in all.iter().enumerate().filter(|(index, address)| *index > 0 || *address != NONE) {
        check::ip(address, &path.index(index), errors);
    }
    if errors.0.len() > before {
        return;
    }
    if all.len() > 2 {
        errors.invalid(&path, all, "may only hold up to 2 values");
    }
    let is_v6: Vec<bool> =
        all.iter().filter_map(|it| it.parse().ok()).map(|it: IpAddr| it.is_ipv6()).collect();
    if all.len() > 1 && !(is_v6.contains(&true) && is_v6.contains(&false)) {
        errors.invalid(&path, all, "may specify no more than one IP for each IP family");
    }
    let families = spec.ip_families.or_empty().iter();
    for (index, ((address, is_v6), family)) in all.iter().zip(is_v6).zip(families).enumerate() {
        let expected = match (family.as_str(), is_v6) {
            ("IPv4", true) => "IPv4",
            ("IPv6", false) => "IPv6",
            _ => continue,
        };
        let detail = format!("expected an {expected} value as indicated by `ipFamilies[{index}]`");
        errors.invalid(&path.index(index), address.as_str(), &detail);
    }
}

fn families(spec: &ServiceSpec, path: &Path, errors: &mut FieldErrors) {
    // Endpoints of a headless service without selector are made by hand: the cluster's own families don't matter.
    let is_free = is_headless(spec) && spec.selector.iter().flatten().next().is_none();
    let families_path = path.child("ipFamilies");
    let mut seen = BTreeSet::new();
    for (index, family) in spec.ip_families.or_empty().iter().enumerate() {
        let path = families_path.index(index);
        check::one_of(family, &["IPv4", "IPv6"], &path, errors);
        if !seen.insert(family) {
            errors.duplicate(&path, family.as_str());
        } else if family == "IPv6" && !is_free {
            errors.invalid(&path, family.as_str(), "not configured on this cluster");
        }
    }
    let policy_path = path.child("ipFamilyPolicy");
    match spec.ip_family_policy.as_deref() {
        Some("RequireDualStack") if !is_free => {
            let detail = "this cluster is not configured for dual-stack services";
            errors.invalid(&policy_path, "RequireDualStack", detail);
        }
        Some(policy) => {
            let supported = &["PreferDualStack", "RequireDualStack", "SingleStack"];
            check::one_of(policy, supported, &policy_path, errors);
        }
        None => {}
    }
}

fn external_ips(spec: &ServiceSpec, path: &Path, errors: &mut FieldErrors) {
    for (index, text) in spec.external_ips.or_empty().iter().enumerate() {
        let path = path.index(index);
        let before = errors.0.len();
        check::ip(text, &path, errors);
        if errors.0.len() > before {
            continue;
        }
        let Ok(address) = text.parse::<IpAddr>() else { continue };
        let (is_link_local, is_link_local_group) = match address {
            IpAddr::V4(address) => (address.is_link_local(), address.octets()[..3] == [224, 0, 0]),
            IpAddr::V6(address) => {
                (address.is_unicast_link_local(), address.segments()[0] & 0xff0f == 0xff02)
            }
        };
        if address.is_unspecified() {
            errors.invalid(&path, text.as_str(), &format!("may not be unspecified ({text})"));
        } else if address.is_loopback() {
            errors.invalid(&path, text.as_str(), "may not be in the loopback range (127.0.0.0/8, ::1/128)");
        } else if is_link_local {
            let detail = "may not be in the link-local range (169.254.0.0/16, fe80::/10)";
            errors.invalid(&path, text.as_str(), detail);
        } else if is_link_local_group {
            let detail = "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)";
            errors.invalid(&path, text.as_str(), detail);
        }
    }
}

fn repeated_ports(spec: &ServiceSpec, path: &Path, errors: &mut FieldErrors) {
    let (mut node_ports, mut ports) = (BTreeSet::new(), BTreeSet::new());
    for (index, port) in spec.ports.or_empty().iter().enumerate() {
        let path = path.index(index);
        let protocol = port.protocol.or_empty();
        if let Some(node_port) = port.node_port.filter(|port| *port != 0) {
            if spec.type_.as_deref() == Some("ClusterIP") {
                errors.forbidden(&path.child("nodePort"), "may not be used when `type` is 'ClusterIP'");
            }
            if !node_ports.insert((protocol, node_port)) {
                errors.duplicate(&path.child("nodePort"), node_port);
            }
        }
        if !ports.insert((protocol, port.port)) {
            // All fields of the port, as Kubernetes prints its own type; those that do not count are empty.
            let key = json!({
                "Name": "", "Protocol": protocol, "AppProtocol": null, "Port": port.port, "TargetPort": 0, "NodePort": 0,
            });
            errors.duplicate(&path, key);
        }
    }
}

fn load_balancer(service: &Service, spec: &ServiceSpec, path: &Path, errors: &mut FieldErrors) {
    const ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
    let is_balanced = is_load_balancer(spec);
    let ranges = spec.load_balancer_source_ranges.or_empty();
    let annotation =
        service.metadata.annotations.as_ref().and_then(|annotations| annotations.get(SOURCE_RANGES));
    if !ranges.is_empty() {
        // The capital L is Kubernetes' own.
        let path = path.child("LoadBalancerSourceRanges");
        if !is_balanced {
            errors.forbidden(&path, ONLY);
        }
        for (index, range) in ranges.iter().enumerate() {
            check::cidr(range.trim(), &path.index(index), errors);
        }
    } else if let Some(ranges) = annotation {
        let path = Path::new("metadata").child("annotations").key(SOURCE_RANGES);
        if !is_balanced {
            errors.forbidden(&path, ONLY);
        }
        for range in ranges.split(',').map(str::trim).filter(|_| !ranges.trim().is_empty()) {
            check::cidr(range, &path, errors);
        }
    }
    if spec.allocate_load_balancer_node_ports.is_some() && !is_balanced {
        errors.forbidden(&path.child("allocateLoadBalancerNodePorts"), ONLY);
    }
    if let Some(class) = &spec.load_balancer_class {
        let path = path.child("loadBalancerClass");
        if is_balanced {
            check::qualified_name(class, &path, errors);
        } else {
            errors.forbidden(&path, ONLY);
        }
    }
}

fn traffic_policies(spec: &ServiceSpec, path: &Path, errors: &mut FieldErrors) {
    let policies = &["Cluster", "Local"];
    let external = spec.external_traffic_policy.or_empty();
    let external_path = path.child("externalTrafficPolicy");
    if is_externally_accessible(spec) {
        check::required_one_of(external, policies, &external_path, errors);
    } else if !external.is_empty() {
        errors.invalid(&external_path, external, "may only be set for externally-accessible services");
    }
    if let Some(port) = spec.health_check_node_port.filter(|port| *port != 0) {
        let path = path.child("healthCheckNodePort");
        if needs_health_check(spec) {
            check::port(port, &path, errors);
        } else {
            let detail =
                "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            errors.invalid(&path, port, detail);
        }
    }
    let internal_path = path.child("internalTrafficPolicy");
    match spec.internal_traffic_policy.as_deref() {
        Some(policy) => check::one_of(policy, policies, &internal_path, errors),
        None if has_cluster_ip(spec) => errors.required(&internal_path, ""),
        None => {}
    }
    if let Some(distribution) = &spec.traffic_distribution {
        let supported = &["PreferClose", "PreferSameNode", "PreferSameZone"];
        check::one_of(distribution, supported, &path.child("trafficDistribution"), errors);
    }
}

pub(super) fn validate_update(new: &Service, old: &Service, errors: &mut FieldErrors) {
    let empty = ServiceSpec::default();
    let (new, old) = (new.spec.as_ref().unwrap_or(&empty), old.spec.as_ref().unwrap_or(&empty));
    let path = Path::new("spec");
    if has_cluster_ip(new) && has_cluster_ip(old) {
        if !(is_headless(new) && is_headless(old)) {
            kept_addresses(new, old, &path, errors);
        }
        if !is_headless(new) && !is_headless(old) {
            kept_families(new, old, &path, errors);
        }
    }
    if is_load_balancer(new) && is_load_balancer(old) && new.load_balancer_class != old.load_balancer_class {
        let class = new.load_balancer_class.as_deref().map_or(Value::Null, Into::into);
        errors.invalid(&path.child("loadBalancerClass"), class, "may not change once set");
    }
    if needs_health_check(new)
        && needs_health_check(old)
        && new.health_check_node_port != old.health_check_node_port
    {
        errors.forbidden(&path.child("healthCheckNodePort"), check::IMMUTABLE);
    }
}

/// The first address stays for life, a second one may come and go.
fn kept_addresses(new: &ServiceSpec, old: &ServiceSpec, path: &Path, errors: &mut FieldErrors) {
    let (now, before) = (new.cluster_ips.or_empty(), old.cluster_ips.or_empty());
    let path_of = |index| path.child("clusterIPs").index(index);
    if now.is_empty() && !before.is_empty() {
        return errors.invalid(&path_of(0), now, "primary clusterIP can not be unset");
    }
    if now.len() == before.len() {
        for (index, _) in now.iter().zip(before).enumerate().filter(|(_, (now, before))| now != before) {
            errors.invalid(&path_of(index), now, "may not change once set");
        }
        return;
    }
    if !before.is_empty() && now.first() != before.first() {
        errors.invalid(&path_of(0), now, "may not change once set");
    }
    if before.len() > now.len() && new.ip_family_policy.as_deref() != Some("SingleStack") {
        let detail = "must be set to 'SingleStack' when releasing the secondary clusterIP";
        errors.invalid(&path.child("ipFamilyPolicy"), new.ip_family_policy.or_empty(), detail);
    }
}

fn kept_families(new: &ServiceSpec, old: &ServiceSpec, path: &Path, errors: &mut FieldErrors) {
    let (now, before) = (new.ip_families.or_empty(), old.ip_families.or_empty());
    if now.is_empty() || before.is_empty() {
        return;
    }
    let is_swapped = now.len() == before.len() && now != before;
    if is_swapped || now.first() != before.first() {
        errors.invalid(&path.child("ipFamilies").index(0), now, "may not change once set");
    }
}

pub(super) fn validate_status(service: &Service, errors: &mut FieldErrors) {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.map(|balancer| balancer.ingress.or_empty()).unwrap_or_default();
    let path = Path::new("status").child("loadBalancer").child("ingress");
    if !ingress.is_empty() && !service.spec.as_ref().is_some_and(is_load_balancer) {
        return errors.forbidden(&path, "may only be used when `spec.type` is 'LoadBalancer'");
    }
    for (index, ingress) in ingress.iter().enumerate() {
        let path = path.index(index);
        let (address, mode_path) = (ingress.ip.or_empty(), path.child("ipMode"));
        if !address.is_empty() {
            check::ip(address, &path.child("ip"), errors);
        }
        match (ingress.ip_mode.as_deref(), address.is_empty()) {
            (None, false) => errors.required(&mode_path, "must be specified when `ip` is set"),
            (Some(_), true) => errors.forbidden(&mode_path, "may not be specified when `ip` is not set"),
            (Some(mode), false) => check::one_of(mode, &["Proxy", "VIP"], &mode_path, errors),
            (None, true) => {}
        }
        let host = ingress.hostname.or_empty();
        if !host.is_empty() {
            check::subdomain(host, &path.child("hostname"), errors);
            if host.parse::<IpAddr>().is_ok() {
                let detail = "must be a DNS name, not an IP address";
                errors.invalid(&path.child("hostname"), host, detail);
            }
        }
    }
}
