//! What an update of a Service keeps without being told, and what a change of its type takes away.
//!
//! Clients send back what they know. What the cluster chose for them (addresses, node ports) stays, as long as the
//! new type has a use for it.

use k8s_openapi::api::core::v1::{ServicePort, ServiceSpec};
use std::collections::BTreeSet;

use super::{has_cluster_ip, has_node_ports, is_externally_accessible, is_load_balancer, needs_health_check};
use crate::registry::podspec::OrEmpty;

/// `clusterIP` is the first of `clusterIPs`. Old clients set only the one, new ones only the other.
pub(super) fn one_address_in_both_fields(new: &mut ServiceSpec, old: Option<&ServiceSpec>) {
    let (one, all) = (new.cluster_ip.or_empty().to_owned(), new.cluster_ips.or_empty().to_vec());
    let Some(old) = old else {
        if !one.is_empty() && all.is_empty() {
            new.cluster_ips = Some(vec![one]);
        }
        return;
    };
    let (old_one, old_all) = (old.cluster_ip.or_empty(), old.cluster_ips.or_empty());
    if one == old_one {
        // Only the list was touched: it may have been cleared, or shortened to its first address.
        if all.is_empty() && !old_all.is_empty() && !one.is_empty() {
            new.cluster_ips = None;
        }
    } else if one.is_empty() {
        if all == old_all {
            new.cluster_ips = None;
        }
    } else if all.is_empty() {
        new.cluster_ips = Some(vec![one]);
    } else if all == old_all {
        // The old field says what is wanted; the new one was carried along unread.
        let rest = if one == super::NONE { &[][..] } else { &all[1..] };
        new.cluster_ips = Some(std::iter::once(one).chain(rest.iter().cloned()).collect());
    }
}

/// Fills in what was allocated before and the client left out.
pub(super) fn carry_over(new: &mut ServiceSpec, old: &ServiceSpec) {
    if has_cluster_ip(old) && has_cluster_ip(new) {
        if new.cluster_ip.or_empty().is_empty() {
            new.cluster_ip.clone_from(&old.cluster_ip);
        }
        if new.cluster_ips.or_empty().is_empty() && new.cluster_ip == old.cluster_ip {
            new.cluster_ips.clone_from(&old.cluster_ips);
        }
        if new.ip_families.is_none() {
            new.ip_families.clone_from(&old.ip_families);
        }
        if new.ip_family_policy.is_none() {
            new.ip_family_policy.clone_from(&old.ip_family_policy);
        }
    }
    if has_node_ports(old) && has_node_ports(new) {
        let before: BTreeSet<i32> = node_ports(old).collect();
        let mut taken: BTreeSet<i32> = node_ports(new).filter(|port| before.contains(port)).collect();
        for port in new.ports.iter_mut().flatten().filter(|port| port.node_port.is_none()) {
            let same = old.ports.or_empty().iter().find(|old| old.name.or_empty() == port.name.or_empty());
            let known = same.and_then(|old: &ServicePort| old.node_port);
            port.node_port = known.filter(|known| taken.insert(*known));
        }
    }
    if needs_health_check(old) && needs_health_check(new) && new.health_check_node_port.is_none() {
        new.health_check_node_port = old.health_check_node_port;
    }
}

fn node_ports(spec: &ServiceSpec) -> impl Iterator<Item = i32> {
    spec.ports.or_empty().iter().filter_map(|port| port.node_port)
}

/// Drops fields that the old type had and the new one has not, unless the client changed them on purpose.
pub(super) fn drop_what_the_type_lacks(new: &mut ServiceSpec, old: &ServiceSpec) {
    if has_cluster_ip(old) && !has_cluster_ip(new) {
        if new.cluster_ip == old.cluster_ip && new.cluster_ips == old.cluster_ips {
            (new.cluster_ip, new.cluster_ips) = (None, None);
        }
        if new.ip_families == old.ip_families {
            new.ip_families = None;
        }
        if new.ip_family_policy == old.ip_family_policy {
            new.ip_family_policy = None;
        }
    }
    let same_node_ports = node_ports(new).collect::<BTreeSet<_>>() == node_ports(old).collect();
    if has_node_ports(old) && !has_node_ports(new) && same_node_ports {
        for port in new.ports.iter_mut().flatten() {
            port.node_port = None;
        }
    }
    if needs_health_check(old)
        && !needs_health_check(new)
        && new.health_check_node_port == old.health_check_node_port
    {
        new.health_check_node_port = None;
    }
    if is_load_balancer(old) && !is_load_balancer(new) {
        if new.allocate_load_balancer_node_ports == old.allocate_load_balancer_node_ports {
            new.allocate_load_balancer_node_ports = None;
        }
        if new.load_balancer_class == old.load_balancer_class {
            new.load_balancer_class = None;
        }
    }
    if is_externally_accessible(old)
        && !is_externally_accessible(new)
        && new.external_traffic_policy == old.external_traffic_policy
    {
        new.external_traffic_policy = None;
    }
}
