//! The kinds of networking.k8s.io.

mod ingress;
mod ingress_class;
mod ip_address;
mod network_policy;
mod service_cidr;

#[cfg(test)]
mod tests;

pub use service_cidr::DEFAULT as DEFAULT_SERVICE_CIDR;

use super::Kinds;

/// Adds all of them.
pub(super) fn add(kinds: &mut Kinds) {
    kinds.add(ingress::Ingresses);
    kinds.add(ingress_class::IngressClasses);
    kinds.add(ip_address::IpAddresses);
    kinds.add(network_policy::NetworkPolicies);
    kinds.add(service_cidr::ServiceCidrs);
}
