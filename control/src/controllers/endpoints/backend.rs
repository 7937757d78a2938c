//! The pods behind a Service, as both forms of endpoints need them.

use k8s_openapi::{
    api::core::v1::{Node, ObjectReference, Pod, Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};
use naru_model::{Object, PodBrief};

use crate::{
    controllers::framework::{Cache, Change, Member, key_of},
    store::Key,
};

/// A port of the Service on one pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BackendPort {
    /// "" for the only, unnamed port.
    pub name: String,
    pub port: i32,
    pub protocol: String,
    pub app_protocol: Option<String>,
}

/// One pod behind a Service, by one address.
#[derive(Debug, Clone)]
pub struct Backend {
    pub address: String,
    /// Takes new connections.
    pub is_ready: bool,
    /// Answers, though it may be on its way out.
    pub is_serving: bool,
    pub is_terminating: bool,
    pub hostname: Option<String>,
    pub node_name: Option<String>,
    pub zone: Option<String>,
    pub target: ObjectReference,
    pub ports: Vec<BackendPort>,
}

/// Whether endpoints for the Service are made here: it selects pods.
pub fn selects_pods(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| {
        spec.type_.as_deref() != Some("ExternalName")
            && spec.selector.as_ref().is_some_and(|selector| !selector.is_empty())
    })
}

pub fn is_headless(spec: &ServiceSpec) -> bool {
    spec.cluster_ip.as_deref() == Some("None")
}

/// The pods of the Service that have an address of the family, in the order of their names.
pub fn backends(service: &Service, spec: &ServiceSpec, is_ipv6: bool, cache: &Cache) -> Vec<Backend> {
    let Some(selector) = &spec.selector else { return Vec::new() };
    let pods = cache.pods_with_labels(service.namespace(), selector);
    pods.filter(|pod| !pod.brief.is_terminal)
        .filter_map(|pod| backend(service, spec, &pod, is_ipv6, cache))
        .collect()
}

/// Names the Services that a changed pod stands behind, or stood.
pub fn concerned_services(change: &Change<'_>, cache: &Cache, look: &mut dyn FnMut(Key)) {
    if !change.is::<Pod>() {
        return;
    }
    for service in cache.list::<Service>(Some(change.entry.key.namespace())) {
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        let Some(selector) = selector.filter(|selector| !selector.is_empty()) else { continue };
        let is_selected = |labels: &std::collections::BTreeMap<String, String>| {
            selector.iter().all(|(label, value)| labels.get(label) == Some(value))
        };
        if change.states().any(|pod| is_selected(&pod.meta.labels)) {
            look(key_of::<Service>(service.namespace(), service.name()));
        }
    }
}

fn backend(
    service: &Service,
    spec: &ServiceSpec,
    pod: &Member,
    is_ipv6: bool,
    cache: &Cache,
) -> Option<Backend> {
    let (brief, meta) = (&*pod.brief, &*pod.entry.meta);
    let address = brief.addresses.iter().find(|address| address.contains(':') == is_ipv6)?;
    let (is_serving, is_terminating) = (brief.is_ready, pod.is_deleting());
    let publishes_all = spec.publish_not_ready_addresses == Some(true);
    let host = brief.host.as_ref().filter(|host| &*host.subdomain == service.name());
    let node_name = brief.node_name.as_deref().map(ToOwned::to_owned);
    let node = node_name.as_deref().and_then(|node| cache.get::<Node>("", node));
    let zone =
        node.and_then(|node| node.metadata.labels.as_ref()?.get("topology.kubernetes.io/zone").cloned());
    Some(Backend {
        address: address.to_string(),
        is_ready: publishes_all || (is_serving && !is_terminating),
        is_serving,
        is_terminating,
        hostname: host.map(|host| host.hostname.to_string()).filter(|hostname| !hostname.is_empty()),
        node_name,
        zone,
        target: ObjectReference {
            kind: Some("Pod".into()),
            namespace: Some(meta.namespace.clone()),
            name: Some(meta.name.clone()),
            uid: Some(meta.uid.clone()),
            ..Default::default()
        },
        ports: spec.ports.iter().flatten().filter_map(|port| backend_port(port, brief)).collect(),
    })
}

/// The port on this pod; none where the pod has no port of the target's name.
fn backend_port(port: &ServicePort, pod: &PodBrief) -> Option<BackendPort> {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let number = match &port.target_port {
        Some(IntOrString::Int(number)) if *number != 0 => *number,
        Some(IntOrString::String(name)) if !name.is_empty() => pod.named_port(name, protocol)?,
        _ => port.port,
    };
    Some(BackendPort {
        name: port.name.clone().unwrap_or_default(),
        port: number,
        protocol: protocol.into(),
        app_protocol: port.app_protocol.clone(),
    })
}
