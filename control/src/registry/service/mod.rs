//! Services.
//!
//! Addresses and node ports are chosen by the allocator after validation; what stands here says what a client may
//! ask for, and what an update keeps ([`carry_over`]). The cluster is single-stack IPv4.

use k8s_openapi::{
    api::core::v1::{ClientIPConfig, Service, ServiceSpec, ServiceStatus, SessionAffinityConfig},
    apimachinery::pkg::util::intstr::IntOrString,
    jiff::Timestamp,
};
use naru_model::{
    ResourceInfo,
    resource::ALL_VERBS,
    validation::{FieldErrors, Path, names},
};
use serde_json::Value;

use super::{
    Column, Kind,
    allocation::{self, Claim, Pools},
    kind::{Context, age},
    podspec::OrEmpty,
    text,
};

mod carry_over;
mod validation;
mod warnings;

#[cfg(test)]
mod tests;

pub struct Services;

static RESOURCE: ResourceInfo = ResourceInfo {
    group: "",
    version: "v1",
    kind: "Service",
    plural: "services",
    singular: "service",
    short_names: &["svc"],
    categories: &["all"],
    namespaced: true,
    subresources: &["proxy", "status"],
    verbs: ALL_VERBS,
};

const CLIENT_IP_TIMEOUT_SECONDS: i32 = 10_800;
const NONE: &str = "None";

const COLUMNS: &[Column] = &[
    text::NAME,
    text::column(
        "Type",
        "string",
        0,
        "type determines how the Service is exposed. Defaults to ClusterIP. Valid options are ExternalName, ClusterIP, NodePort, and LoadBalancer. \"ClusterIP\" allocates a cluster-internal IP address for load-balancing to endpoints. Endpoints are determined by the selector or if that is not specified, by manual construction of an Endpoints object or EndpointSlice objects. If clusterIP is \"None\", no virtual IP is allocated and the endpoints are published as a set of endpoints rather than a virtual IP. \"NodePort\" builds on ClusterIP and allocates a port on every node which routes to the same endpoints as the clusterIP. \"LoadBalancer\" builds on NodePort and creates an external load-balancer (if supported in the current cloud) which routes to the same endpoints as the clusterIP. \"ExternalName\" aliases this service to the specified externalName. Several other fields do not apply to ExternalName services. More info: https://kubernetes.io/docs/concepts/services-networking/service/#publishing-services-service-types",
    ),
    text::column(
        "Cluster-IP",
        "string",
        0,
        "clusterIP is the IP address of the service and is usually assigned randomly. If an address is specified manually, is in-range (as per system configuration), and is not in use, it will be allocated to the service; otherwise creation of the service will fail. More info: https://kubernetes.io/docs/concepts/services-networking/service/#virtual-ips-and-service-proxies",
    ),
    text::column(
        "External-IP",
        "string",
        0,
        "externalIPs is a list of IP addresses for which nodes in the cluster will also accept traffic for this service.  These IPs are not managed by Kubernetes.  The user is responsible for ensuring that traffic arrives at a node with this IP.  A common example is external load-balancers that are not part of the Kubernetes system.",
    ),
    text::column(
        "Port(s)",
        "string",
        0,
        "The list of ports that are exposed by this service. More info: https://kubernetes.io/docs/concepts/services-networking/service/#virtual-ips-and-service-proxies",
    ),
    text::AGE,
    text::column(
        "Selector",
        "string",
        1,
        "Route service traffic to pods with label keys and values matching this selector. If empty or not present, the service is assumed to have an external process managing its endpoints, which Kubernetes will not modify. Only applies to types ClusterIP, NodePort, and LoadBalancer. Ignored if type is ExternalName. More info: https://kubernetes.io/docs/concepts/services-networking/service/",
    ),
];

impl Kind for Services {
    type Object = Service;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn answers_deleted(&self) -> bool {
        true
    }

    fn default(&self, service: &mut Service) {
        default_spec(service.spec.get_or_insert_default());
        let is_balanced = service.spec.as_ref().is_some_and(is_load_balancer);
        let balancer = service.status.as_mut().and_then(|status| status.load_balancer.as_mut());
        for ingress in balancer.into_iter().flat_map(|balancer| balancer.ingress.iter_mut().flatten()) {
            if is_balanced && !ingress.ip.or_empty().is_empty() {
                ingress.ip_mode.get_or_insert_with(|| "VIP".into());
            }
        }
    }

    fn prepare_create(&self, service: &mut Service, _context: &Context<'_>) {
        service.status =
            Some(ServiceStatus { load_balancer: Some(Default::default()), ..Default::default() });
        let spec = service.spec.get_or_insert_default();
        carry_over::one_address_in_both_fields(spec, None);
        default_families(spec);
    }

    fn prepare_update(&self, new: &mut Service, old: &Service, _context: &Context<'_>) {
        new.status.clone_from(&old.status);
        let empty = ServiceSpec::default();
        let old = old.spec.as_ref().unwrap_or(&empty);
        let new = new.spec.get_or_insert_default();
        carry_over::one_address_in_both_fields(new, Some(old));
        carry_over::carry_over(new, old);
        carry_over::drop_what_the_type_lacks(new, old);
        default_families(new);
    }

    fn prepare_status_update(&self, new: &mut Service, old: &Service, _context: &Context<'_>) {
        new.spec.clone_from(&old.spec);
    }

    /// A Service's name is one label of its DNS name.
    fn validate_name(&self, name: &str, errors: &mut FieldErrors) {
        errors.problems(&Path::new("metadata").child("name"), name, names::dns1123_label(name));
    }

    fn has_generation(&self) -> bool {
        false
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }

    fn allocates(&self) -> bool {
        true
    }

    fn allocate(
        &self,
        new: &mut Service,
        old: Option<&Service>,
        pools: &Pools<'_>,
        errors: &mut FieldErrors,
    ) {
        allocation::allocate(new, old, pools, errors);
    }

    fn claims(&self, service: &Service) -> Vec<Claim> {
        allocation::claims(service)
    }

    fn validate(&self, service: &Service, errors: &mut FieldErrors) {
        validation::validate(service, errors);
    }

    fn validate_update(&self, new: &Service, old: &Service, errors: &mut FieldErrors) {
        validation::validate_update(new, old, errors);
    }

    fn validate_status_update(&self, new: &Service, _old: &Service, errors: &mut FieldErrors) {
        validation::validate_status(new, errors);
    }

    fn warnings(&self, service: &Service) -> Vec<String> {
        warnings::warnings(service)
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, service: &Service, now: Timestamp) -> Vec<Value> {
        let empty = ServiceSpec::default();
        let spec = service.spec.as_ref().unwrap_or(&empty);
        let cluster_ip = spec.cluster_ips.or_empty().first().map_or("", String::as_str);
        vec![
            service.metadata.name.or_empty().into(),
            spec.type_.or_empty().into(),
            text::or_none(cluster_ip).into(),
            external_addresses(service, spec).into(),
            ports(spec).into(),
            age(service.metadata.creation_timestamp.as_ref(), now).into(),
            text::labels(spec.selector.as_ref()).into(),
        ]
    }

    fn field_names(&self) -> &'static [&'static str] {
        &["spec.clusterIP", "spec.type"]
    }

    fn field(&self, service: &Service, name: &str) -> String {
        let spec = service.spec.as_ref();
        let value = match name {
            "spec.clusterIP" => spec.and_then(|spec| spec.cluster_ip.as_deref()),
            "spec.type" => spec.and_then(|spec| spec.type_.as_deref()),
            _ => None,
        };
        value.unwrap_or_default().into()
    }
}

fn is_load_balancer(spec: &ServiceSpec) -> bool {
    spec.type_.as_deref() == Some("LoadBalancer")
}

fn is_headless(spec: &ServiceSpec) -> bool {
    matches!(spec.cluster_ips.or_empty(), [only] if only == NONE) || spec.cluster_ip.as_deref() == Some(NONE)
}

fn has_cluster_ip(spec: &ServiceSpec) -> bool {
    matches!(spec.type_.or_empty(), "" | "ClusterIP" | "NodePort" | "LoadBalancer")
}

fn has_node_ports(spec: &ServiceSpec) -> bool {
    match spec.type_.or_empty() {
        "NodePort" => true,
        "LoadBalancer" => spec.allocate_load_balancer_node_ports != Some(false),
        _ => false,
    }
}

/// Whether clients outside the cluster can reach it, so that it matters which node takes their traffic.
fn is_externally_accessible(spec: &ServiceSpec) -> bool {
    matches!(spec.type_.or_empty(), "LoadBalancer" | "NodePort")
        || (spec.type_.or_empty() == "ClusterIP" && !spec.external_ips.or_empty().is_empty())
}

fn needs_health_check(spec: &ServiceSpec) -> bool {
    is_load_balancer(spec) && spec.external_traffic_policy.as_deref() == Some("Local")
}

fn default_spec(spec: &mut ServiceSpec) {
    if spec.session_affinity.or_empty().is_empty() {
        spec.session_affinity = Some(NONE.into());
    }
    if spec.session_affinity.as_deref() == Some(NONE) {
        spec.session_affinity_config = None;
    }
    if spec.session_affinity.as_deref() == Some("ClientIP") {
        let timeout = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
        if timeout.and_then(|config| config.timeout_seconds).is_none() {
            let client_ip = ClientIPConfig { timeout_seconds: Some(CLIENT_IP_TIMEOUT_SECONDS) };
            spec.session_affinity_config = Some(SessionAffinityConfig { client_ip: Some(client_ip) });
        }
    }
    if spec.type_.or_empty().is_empty() {
        spec.type_ = Some("ClusterIP".into());
    }
    for port in spec.ports.iter_mut().flatten() {
        if port.protocol.or_empty().is_empty() {
            port.protocol = Some("TCP".into());
        }
        let is_open = match &port.target_port {
            None | Some(IntOrString::Int(0)) => true,
            Some(IntOrString::Int(_)) => false,
            Some(IntOrString::String(name)) => name.is_empty(),
        };
        if is_open {
            port.target_port = Some(IntOrString::Int(port.port));
        }
        port.node_port.take_if(|port| *port == 0);
    }
    spec.health_check_node_port.take_if(|port| *port == 0);
    if is_externally_accessible(spec) && spec.external_traffic_policy.or_empty().is_empty() {
        spec.external_traffic_policy = Some("Cluster".into());
    }
    if has_cluster_ip(spec) && spec.internal_traffic_policy.is_none() {
        spec.internal_traffic_policy = Some("Cluster".into());
    }
    if is_load_balancer(spec) {
        spec.allocate_load_balancer_node_ports.get_or_insert(true);
    }
}

/// The families of a cluster that has IPv4 only. A headless service without selector says nothing about ours: its
/// endpoints are made by hand and may be of both families.
fn default_families(spec: &mut ServiceSpec) {
    if !has_cluster_ip(spec) {
        return;
    }
    let is_free = is_headless(spec) && spec.selector.iter().flatten().next().is_none();
    if spec.ip_family_policy.is_none() {
        let count = spec.ip_families.or_empty().len().max(spec.cluster_ips.or_empty().len());
        let policy = if (is_free && spec.ip_families.is_none()) || count > 1 {
            "RequireDualStack"
        } else {
            "SingleStack"
        };
        spec.ip_family_policy = Some(policy.into());
    }
    if spec.ip_families.or_empty().is_empty() {
        let is_dual = is_free && spec.ip_family_policy.as_deref() != Some("SingleStack");
        let families: &[&str] = if is_dual { &["IPv4", "IPv6"] } else { &["IPv4"] };
        spec.ip_families = Some(families.iter().map(ToString::to_string).collect());
    }
}

fn external_addresses(service: &Service, spec: &ServiceSpec) -> String {
    let own = spec.external_ips.or_empty().join(",");
    match spec.type_.or_empty() {
        "ClusterIP" | "NodePort" => text::or_none(&own).into(),
        "LoadBalancer" => {
            let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
            let ingress = balancer.map(|balancer| balancer.ingress.or_empty()).unwrap_or_default();
            let mut addresses: Vec<&str> = ingress
                .iter()
                .map(|it| if it.ip.or_empty().is_empty() { it.hostname.or_empty() } else { it.ip.or_empty() })
                .filter(|address| !address.is_empty())
                .collect();
            addresses.sort_unstable();
            addresses.dedup();
            addresses.extend(spec.external_ips.or_empty().iter().map(String::as_str));
            if addresses.is_empty() { "<pending>".into() } else { addresses.join(",") }
        }
        "ExternalName" => spec.external_name.or_empty().into(),
        _ => "<unknown>".into(),
    }
}

/// `80/TCP,443:30443/TCP`
fn ports(spec: &ServiceSpec) -> String {
    let ports = spec.ports.or_empty().iter().map(|port| {
        let protocol = port.protocol.or_empty();
        match port.node_port.unwrap_or_default() {
            0 => format!("{}/{protocol}", port.port),
            node_port => format!("{}:{node_port}/{protocol}", port.port),
        }
    });
    text::or_none(&ports.collect::<Vec<_>>().join(",")).into()
}
