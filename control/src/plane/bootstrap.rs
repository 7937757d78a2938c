//! The objects that every cluster has from its first moment.

mod roles;

use std::net::SocketAddr;

use k8s_openapi::{
    api::{
        core::v1::{
            ConfigMap, EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Namespace, Service,
            ServicePort, ServiceSpec,
        },
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort as SlicePort, EndpointSlice},
        networking::v1::{ServiceCIDR, ServiceCIDRSpec, ServiceCIDRStatus},
        scheduling::v1::PriorityClass,
    },
    apimachinery::pkg::{
        apis::meta::v1::{Condition, ObjectMeta, Time},
        util::intstr::IntOrString,
    },
    jiff::Timestamp,
};
use naru_model::Object;

use crate::{
    ApiClient, ApiError, ClusterSettings,
    registry::{flowcontrol, networking::DEFAULT_SERVICE_CIDR, priorityclass::SYSTEM_CLASSES},
    store::Key,
};

/// Whose certificates other API servers shall believe, PEM: those of clients, and those of whoever speaks for users.
#[derive(Clone, Copy)]
pub(super) struct Authorities<'a> {
    pub clients: &'a str,
    pub proxy: &'a str,
}

/// Makes what is missing and mends what moved (the API's own address), so that first start and restart are one path.
pub(super) async fn write(
    client: &ApiClient,
    settings: &ClusterSettings,
    address: SocketAddr,
    authorities: Authorities<'_>,
) -> Result<(), ApiError> {
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        let namespace = Namespace { metadata: metadata("", name), ..Namespace::default() };
        create_if_absent(client, "namespaces", &namespace).await?;
    }
    create_if_absent(client, "servicecidrs.networking.k8s.io", &service_cidr(settings)).await?;
    create_all(
        client,
        "prioritylevelconfigurations.flowcontrol.apiserver.k8s.io",
        flowcontrol::priority_levels(),
    )
    .await?;
    create_all(client, "flowschemas.flowcontrol.apiserver.k8s.io", flowcontrol::flow_schemas()).await?;
    for (name, value, description) in SYSTEM_CLASSES {
        let class = PriorityClass {
            metadata: metadata("", name),
            value: Some(value),
            description: Some(description.into()),
            ..PriorityClass::default()
        };
        create_if_absent(client, "priorityclasses.scheduling.k8s.io", &class).await?;
    }
    create_if_absent(client, "services", &kubernetes_service(settings)).await?;
    create_or_update(client, "endpoints", &kubernetes_endpoints(address)).await?;
    create_or_update(client, "endpointslices.discovery.k8s.io", &kubernetes_slice(address)).await?;
    create_or_update(client, "configmaps", &client_authority(authorities)).await?;
    roles::reconcile(client).await
}

async fn create_if_absent<T: Object>(client: &ApiClient, resource: &str, object: &T) -> Result<(), ApiError> {
    let key = Key::new(resource, object.namespace(), object.name());
    if client.store().snapshot().get(&key).is_some() {
        return Ok(());
    }
    match client.create(object).await {
        Err(ApiError::AlreadyExists { .. }) => Ok(()),
        other => other.map(|_| ()),
    }
}

/// At the same time, so that one commit holds them all.
async fn create_all<T: Object>(
    client: &ApiClient,
    resource: &str,
    objects: impl Iterator<Item = T>,
) -> Result<(), ApiError> {
    let writes = objects.map(|object| async move { create_if_absent(client, resource, &object).await });
    futures::future::try_join_all(writes).await.map(|_| ())
}

async fn create_or_update<T: Object>(client: &ApiClient, resource: &str, object: &T) -> Result<(), ApiError> {
    let key = Key::new(resource, object.namespace(), object.name());
    let Some(entry) = client.store().snapshot().get(&key) else {
        return create_if_absent(client, resource, object).await;
    };
    let mut object = object.clone();
    object.metadata_mut().resource_version = Some(entry.revision.0.to_string());
    match client.update(&object).await {
        // Another member has just written the same.
        Err(ApiError::Conflict { .. }) => Ok(()),
        other => other.map(|_| ()),
    }
}

fn metadata(namespace: &str, name: &str) -> ObjectMeta {
    let namespace = (!namespace.is_empty()).then(|| namespace.to_owned());
    ObjectMeta { name: Some(name.into()), namespace, ..ObjectMeta::default() }
}

/// Metadata in `default` with labels.
fn labelled(name: &str, labels: &[(&str, &str)]) -> ObjectMeta {
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    ObjectMeta { labels: Some(labels), ..metadata("default", name) }
}

fn service_cidr(settings: &ClusterSettings) -> ServiceCIDR {
    let ready = Condition {
        type_: "Ready".into(),
        status: "True".into(),
        message: "Kubernetes Service CIDR is ready".into(),
        last_transition_time: Time(Timestamp::now()),
        reason: String::new(),
        observed_generation: None,
    };
    ServiceCIDR {
        metadata: metadata("", DEFAULT_SERVICE_CIDR),
        spec: Some(ServiceCIDRSpec { cidrs: Some(vec![settings.service_cidr.to_string()]) }),
        status: Some(ServiceCIDRStatus { conditions: Some(vec![ready]) }),
    }
}

fn kubernetes_service(settings: &ClusterSettings) -> Service {
    let address = settings.kubernetes_service().to_string();
    let port = ServicePort {
        name: Some("https".into()),
        port: 443,
        protocol: Some("TCP".into()),
        target_port: Some(IntOrString::Int(6443)),
        ..ServicePort::default()
    };
    let spec = ServiceSpec {
        type_: Some("ClusterIP".into()),
        cluster_ip: Some(address.clone()),
        cluster_ips: Some(vec![address]),
        ports: Some(vec![port]),
        ..ServiceSpec::default()
    };
    let metadata = labelled("kubernetes", &[("component", "apiserver"), ("provider", "kubernetes")]);
    Service { metadata, spec: Some(spec), ..Service::default() }
}

fn kubernetes_endpoints(address: SocketAddr) -> Endpoints {
    let port =
        EndpointPort { name: Some("https".into()), port: address.port().into(), ..EndpointPort::default() };
    let subset = EndpointSubset {
        addresses: Some(vec![EndpointAddress { ip: address.ip().to_string(), ..EndpointAddress::default() }]),
        ports: Some(vec![port]),
        ..EndpointSubset::default()
    };
    let metadata = labelled("kubernetes", &[("endpointslice.kubernetes.io/skip-mirror", "true")]);
    Endpoints { metadata, subsets: Some(vec![subset]) }
}

fn kubernetes_slice(address: SocketAddr) -> EndpointSlice {
    let port = SlicePort {
        name: Some("https".into()),
        port: Some(address.port().into()),
        protocol: Some("TCP".into()),
        ..SlicePort::default()
    };
    let endpoint = Endpoint {
        addresses: vec![address.ip().to_string()],
        conditions: Some(EndpointConditions { ready: Some(true), ..EndpointConditions::default() }),
        ..Endpoint::default()
    };
    EndpointSlice {
        metadata: labelled("kubernetes", &[("kubernetes.io/service-name", "kubernetes")]),
        address_type: if address.is_ipv4() { "IPv4" } else { "IPv6" }.into(),
        endpoints: Some(vec![endpoint]),
        ports: Some(vec![port]),
    }
}

/// Where aggregated servers, and node agents elsewhere, find the authority of client certificates.
fn client_authority(authorities: Authorities<'_>) -> ConfigMap {
    let data = [
        ("client-ca-file", authorities.clients),
        ("requestheader-allowed-names", r#"["front-proxy-client"]"#),
        ("requestheader-client-ca-file", authorities.proxy),
        ("requestheader-extra-headers-prefix", r#"["X-Remote-Extra-"]"#),
        ("requestheader-group-headers", r#"["X-Remote-Group"]"#),
        ("requestheader-uid-headers", r#"["X-Remote-Uid"]"#),
        ("requestheader-username-headers", r#"["X-Remote-User"]"#),
    ];
    let data = data.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    ConfigMap {
        metadata: metadata("kube-system", "extension-apiserver-authentication"),
        data: Some(data),
        ..ConfigMap::default()
    }
}
