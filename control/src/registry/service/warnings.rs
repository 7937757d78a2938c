//! What a client is told of a Service that is valid but does not do all that it says.

use std::net::Ipv6Addr;

use k8s_openapi::api::core::v1::Service;

use super::{
    NONE, is_headless,
    validation::{TOPOLOGY_HINTS, TOPOLOGY_MODE},
};
use crate::registry::podspec::OrEmpty;

pub(super) fn warnings(service: &Service) -> Vec<String> {
    let mut texts = Vec::new();
    let Some(spec) = &service.spec else { return texts };
    let has_annotation = |key: &str| {
        service.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(key))
    };
    if has_annotation(TOPOLOGY_HINTS) {
        texts.push(format!("annotation {TOPOLOGY_HINTS} is deprecated, please use {TOPOLOGY_MODE} instead"));
    }
    let is_external_name = spec.type_.as_deref() == Some("ExternalName");
    let is_headless = spec.type_.as_deref() == Some("ClusterIP") && is_headless(spec);
    let (external, balancer) = (spec.external_ips.or_empty(), spec.load_balancer_ip.or_empty());
    for (is_so, text) in [
        (is_headless && !balancer.is_empty(), "spec.loadBalancerIP is ignored for headless services"),
        (is_headless && !external.is_empty(), "spec.externalIPs is ignored for headless services"),
        (
            is_headless && spec.session_affinity.as_deref() != Some(NONE),
            "spec.SessionAffinity is ignored for headless services",
        ),
        (
            !is_headless && !is_external_name && !external.is_empty(),
            "spec.externalIPs is deprecated and may no longer be implemented in some clusters",
        ),
        (
            is_external_name && !external.is_empty(),
            "spec.externalIPs is ignored when spec.type is \"ExternalName\"",
        ),
        (
            !is_external_name && !spec.external_name.or_empty().is_empty(),
            "spec.externalName is ignored when spec.type is not \"ExternalName\"",
        ),
        (
            spec.traffic_distribution.as_deref() == Some("PreferClose"),
            "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"",
        ),
    ] {
        if is_so {
            texts.push(text.into());
        }
    }
    let addresses =
        external.iter().enumerate().map(|(index, text)| (format!("externalIPs[{index}]"), &**text));
    for (field, text) in addresses.chain([("loadBalancerIP".to_owned(), balancer)]) {
        if let Ok(address) = text.parse::<Ipv6Addr>()
            && address.to_string() != text
        {
            texts.push(format!(
                "spec.{field}: IPv6 address \"{text}\" should be in RFC 5952 canonical format (\"{address}\")"
            ));
        }
    }
    texts
}
