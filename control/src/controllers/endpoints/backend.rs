//! The pods behind a Service, as both forms of endpoints need them.

use std::sync::Arc;

use k8s_openapi::{
    api::core::v1::{ContainerPort, Node, ObjectReference, Pod, Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};
use naru_model::{
    Object,
    pod::{is_ready, is_sidecar, is_terminal, node_name},
};

use crate::{
    controllers::{
        common::is_deleting,
        framework::{Cache, Change, key_of},
    },
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
    pods.filter(|pod| !is_terminal(pod))
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
    pod: &Arc<Pod>,
    is_ipv6: bool,
    cache: &Cache,
) -> Option<Backend> {
    let address = address(pod, is_ipv6)?;
    let (is_serving, is_terminating) = (is_ready(pod), is_deleting(&**pod));
    let publishes_all = spec.publish_not_ready_addresses == Some(true);
    let pod_spec = pod.spec.as_ref()?;
    let is_named = pod_spec.subdomain.as_deref() == Some(service.name());
    let node_name = node_name(pod).map(ToOwned::to_owned);
    let node = node_name.as_deref().and_then(|node| cache.get::<Node>("", node));
    let zone =
        node.and_then(|node| node.metadata.labels.as_ref()?.get("topology.kubernetes.io/zone").cloned());
    Some(Backend {
        address,
        is_ready: publishes_all || (is_serving && !is_terminating),
        is_serving,
        is_terminating,
        hostname: pod_spec.hostname.clone().filter(|hostname| is_named && !hostname.is_empty()),
        node_name,
        zone,
        target: ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..Default::default()
        },
        ports: spec.ports.iter().flatten().filter_map(|port| backend_port(port, pod)).collect(),
    })
}

fn address(pod: &Pod, is_ipv6: bool) -> Option<String> {
    let status = pod.status.as_ref()?;
    let addresses = status.pod_ips.iter().flatten().map(|ip| &ip.ip).chain(&status.pod_ip);
    addresses.into_iter().find(|address| !address.is_empty() && address.contains(':') == is_ipv6).cloned()
}

/// The port on this pod; none where the pod has no port of the target's name.
fn backend_port(port: &ServicePort, pod: &Pod) -> Option<BackendPort> {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let number = match &port.target_port {
        Some(IntOrString::Int(number)) if *number != 0 => *number,
        Some(IntOrString::String(name)) if !name.is_empty() => named_port(pod, name, protocol)?,
        _ => port.port,
    };
    Some(BackendPort {
        name: port.name.clone().unwrap_or_default(),
        port: number,
        protocol: protocol.into(),
        app_protocol: port.app_protocol.clone(),
    })
}

fn named_port(pod: &Pod, name: &str, protocol: &str) -> Option<i32> {
    let spec = pod.spec.as_ref()?;
    let sidecars = spec.init_containers.iter().flatten().filter(|container| is_sidecar(container));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    let is_meant = |port: &&ContainerPort| {
        port.name.as_deref() == Some(name) && port.protocol.as_deref().unwrap_or("TCP") == protocol
    };
    ports.into_iter().find(is_meant).map(|port| port.container_port)
}
