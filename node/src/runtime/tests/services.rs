//! Services, as hosts and pods reach them through the runtime.

use std::net::IpAddr;

use http::Request;
use http_body_util::{BodyExt, Empty};
use naru_wasi_shim::{Engine, EngineSettings, HttpBody, NetworkError, PodNetwork};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    guests,
    node::{Node, get, range, service_address},
};
use crate::{
    dataplane::{
        Endpoint, EndpointPort, EndpointSlice, Reset, Service, ServiceKey, ServicePort, SliceKey, Synced,
        UpdateRequest, update_request::Update,
    },
    network::Network,
    runtime::pods::Pods,
};

/// A service `shop/back` on this address, port 80, with these endpoints on port 8080.
fn updates(address: &str, endpoints: &[String]) -> Vec<UpdateRequest> {
    let key = Some(ServiceKey { namespace: "shop".to_owned(), name: "back".to_owned() });
    let updates = [
        Update::Reset(Reset { node_name: "amber".to_owned(), ..Reset::default() }),
        Update::UpsertService(Service {
            key: key.clone(),
            r#type: "ClusterIP".to_owned(),
            cluster_ips: vec![address.to_owned()],
            ports: vec![ServicePort { port: 80, ..ServicePort::default() }],
            ..Service::default()
        }),
        Update::UpsertSlice(EndpointSlice {
            key: Some(SliceKey { namespace: "shop".to_owned(), name: "back-1".to_owned() }),
            service: key,
            ports: vec![EndpointPort { port: 8080, ..EndpointPort::default() }],
            endpoints: endpoints
                .iter()
                .map(|address| Endpoint {
                    addresses: vec![address.clone()],
                    ready: true,
                    ..Endpoint::default()
                })
                .collect(),
        }),
        Update::Synced(Synced { id: 1 }),
    ];
    updates.into_iter().map(|update| UpdateRequest { update: Some(update) }).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_spreads_requests_over_wasm_containers_also_after_the_agent_is_gone() {
    let node = Node::start().await;
    node.import("one", &guests::answers(201)).await;
    node.import("two", &guests::answers(202)).await;
    let (one, first) = node.run("one", "one").await;
    let (two, _) = node.run("two", "two").await;
    let endpoints = [node.address(&one).await, node.address(&two).await];
    let service = service_address(&node.cidr);
    let (sender, receiver) = tokio::sync::mpsc::channel(8);
    let mut answers =
        node.data_plane.clone().update(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    for update in updates(&service, &endpoints) {
        sender.send(update).await.unwrap();
    }
    let answer = answers.message().await.unwrap().unwrap();
    assert_eq!((answer.synced, answer.errors), (1, Vec::new()));
    drop((sender, answers));

    let address = format!("{service}:80");
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(get(&address).await.unwrap());
    }
    seen.sort_unstable();
    assert_eq!(seen, [201, 201, 202, 202]);
    // A container that ended is passed over before anybody says so.
    node.stop_container(&first, 5).await;
    for _ in 0..4 {
        assert_eq!(get(&address).await.unwrap(), 202);
    }
    node.stop().await;
}

/// Pods in this process, without a socket in front.
async fn pods(dir: &tempfile::TempDir, cidr: &str) -> std::sync::Arc<Pods> {
    let engine = Engine::new(EngineSettings {
        cache_dir: dir.path().join("modules"),
        max_instances: Some(16),
        harden: false,
    })
    .unwrap();
    let images = naru_oci_fallback::ImageStore::open(&dir.path().join("images")).unwrap();
    for (name, status) in [("one", 201), ("two", 202)] {
        let mut incoming = images.receive().unwrap();
        incoming.write(&guests::answers(status)).unwrap();
        incoming.finish(name, None).unwrap();
    }
    let network = Network::new();
    network.set_pod_cidr(cidr).unwrap();
    std::sync::Arc::new(Pods::new(engine, images, network, dir.path().join("containers")))
}

async fn run(
    pods: &std::sync::Arc<Pods>,
    name: &str,
    image: &str,
) -> std::sync::Arc<crate::runtime::sandbox::Sandbox> {
    use k8s_cri::v1 as cri;
    let config = cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: name.to_owned(),
            namespace: "shop".to_owned(),
            ..cri::PodSandboxMetadata::default()
        }),
        ..cri::PodSandboxConfig::default()
    };
    let sandbox = pods.run_sandbox(config, String::new()).unwrap();
    let container = cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: "main".to_owned(), attempt: 0 }),
        image: Some(cri::ImageSpec { image: image.to_owned(), ..cri::ImageSpec::default() }),
        ..cri::ContainerConfig::default()
    };
    let container = pods.create_container(&sandbox, container).await.unwrap();
    pods.start_container(&container).await.unwrap();
    pods.sandbox(&sandbox).unwrap()
}

async fn send(network: &impl PodNetwork, uri: &str) -> Result<u16, NetworkError> {
    let body: HttpBody = Empty::new().map_err(|never| match never {}).boxed_unsync();
    let response = network.send(Request::get(uri).body(body).unwrap()).await?;
    Ok(response.status().as_u16())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_s_request_finds_services_by_name_here_and_elsewhere() {
    let (cidr, dir) = (range(), tempfile::tempdir().unwrap());
    let pods = pods(&dir, &cidr).await;
    let (one, two) = (run(&pods, "one", "one").await, run(&pods, "two", "two").await);
    let service = service_address(&cidr);
    let (sender, mut answers) = tokio::sync::mpsc::channel(8);
    let endpoints = [one.network.address.to_string()];
    let stream = futures::stream::iter(updates(&service, &endpoints).into_iter().map(Ok));
    pods.network.follow(stream, sender).await;
    assert!(answers.recv().await.unwrap().unwrap().errors.is_empty());

    // One endpoint, of this process: a function call, under each of its names.
    for uri in ["http://back/", "http://back.shop:80/x", "http://back.shop.svc.cluster.local/"] {
        assert_eq!(send(&*two.network, uri).await.unwrap(), 201, "{uri}");
    }
    assert_eq!(send(&*two.network, &format!("http://{service}/")).await.unwrap(), 201);
    assert_eq!(send(&*two.network, "http://localhost:8080/").await.unwrap(), 202);
    assert_eq!(two.network.resolve("back").await.unwrap(), [service.parse::<IpAddr>().unwrap()]);
    // As if it ran on another node: over TCP.
    pods.locals.remove(format!("{}:8080", one.network.address).parse().unwrap());
    assert_eq!(send(&*two.network, "http://back/").await.unwrap(), 201);

    // An endpoint that refuses is passed over, also before anybody says that it is gone.
    let gone = service_address(&range());
    let stream = futures::stream::iter(updates(&service, &[endpoints[0].clone(), gone]).into_iter().map(Ok));
    let (sender, _answers) = tokio::sync::mpsc::channel(8);
    pods.network.follow(stream, sender).await;
    for _ in 0..4 {
        assert_eq!(send(&*two.network, "http://back/").await.unwrap(), 201);
    }

    let error = send(&*two.network, "http://nothing.shop.svc.cluster.local/").await.unwrap_err();
    assert!(matches!(error, NetworkError::NoSuchName(_)), "{error}");
    // The host's own services are not for pods.
    let host = tokio::net::TcpListener::bind("127.0.0.2:0").await.unwrap().local_addr().unwrap();
    let error = send(&*two.network, &format!("http://{host}/")).await.unwrap_err();
    assert!(matches!(error, NetworkError::Denied(_)), "{error}");
    pods.shut_down(std::time::Duration::ZERO).await;
}
