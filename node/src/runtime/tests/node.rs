//! A runtime in this process, on a socket of its own, and an agent's clients for it.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use futures::StreamExt;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use k8s_cri::v1::{
    self as cri, image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient,
};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::sync::CancellationToken;
use tonic::{
    Status,
    transport::{Channel, Endpoint, Uri},
};

use crate::{
    dataplane::{ImportImageRequest, data_plane_client::DataPlaneClient},
    runtime::{RuntimeSettings, serve},
};

const DEADLINE: Duration = Duration::from_secs(20);

pub struct Node {
    pub dir: tempfile::TempDir,
    pub pods: RuntimeServiceClient<Channel>,
    pub images: ImageServiceClient<Channel>,
    pub data_plane: DataPlaneClient<Channel>,
    pub cidr: String,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), crate::runtime::RuntimeError>>,
}

impl Node {
    pub async fn start() -> Self {
        let node = Self::start_without_network().await;
        let config =
            cri::RuntimeConfig { network_config: Some(cri::NetworkConfig { pod_cidr: node.cidr.clone() }) };
        let request = cri::UpdateRuntimeConfigRequest { runtime_config: Some(config) };
        node.pods.clone().update_runtime_config(request).await.unwrap();
        node
    }

    pub async fn start_without_network() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(&dir);
        let stop = CancellationToken::new();
        let task = tokio::spawn(serve(settings.clone(), stop.clone().cancelled_owned()));
        let channel = connect(settings.socket).await;
        Self {
            pods: RuntimeServiceClient::new(channel.clone()),
            images: ImageServiceClient::new(channel.clone()),
            data_plane: DataPlaneClient::new(channel),
            cidr: range(),
            dir,
            stop,
            task,
        }
    }

    /// Another agent's view of the same runtime.
    pub async fn connect_again(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(connect(settings(&self.dir).socket).await)
    }

    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }

    pub async fn import(&self, name: &str, wasm: &[u8]) -> String {
        self.try_import(name, wasm, "").await.unwrap()
    }

    pub async fn try_import(&self, name: &str, wasm: &[u8], digest: &str) -> Result<String, Status> {
        let head = ImportImageRequest { name: name.to_owned(), digest: digest.to_owned(), chunk: Vec::new() };
        let chunks = wasm
            .chunks(1000)
            .map(|chunk| ImportImageRequest { chunk: chunk.to_vec(), ..ImportImageRequest::default() });
        let messages: Vec<_> = std::iter::once(head).chain(chunks).collect();
        let answer = self.data_plane.clone().import_image(futures::stream::iter(messages)).await?;
        Ok(answer.into_inner().image_ref)
    }

    pub fn sandbox_config(&self, name: &str) -> cri::PodSandboxConfig {
        cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("uid-of-{name}"),
                namespace: "shop".to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            log_directory: self.dir.path().join("logs").join(name).display().to_string(),
            labels: HashMap::from([("app".to_owned(), name.to_owned())]),
            ..cri::PodSandboxConfig::default()
        }
    }

    pub async fn run_sandbox(&self, name: &str) -> String {
        let request = cri::RunPodSandboxRequest {
            config: Some(self.sandbox_config(name)),
            runtime_handler: "wasmtime-spin-v2".to_owned(),
        };
        self.pods.clone().run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id
    }

    pub async fn create(&self, sandbox: &str, name: &str, image: &str) -> Result<String, Status> {
        self.create_with(sandbox, name, image, |_| {}).await
    }

    pub async fn create_with(
        &self,
        sandbox: &str,
        name: &str,
        image: &str,
        edit: impl FnOnce(&mut cri::ContainerConfig),
    ) -> Result<String, Status> {
        let mut config = cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
            image: Some(cri::ImageSpec { image: image.to_owned(), ..cri::ImageSpec::default() }),
            log_path: format!("{name}/0.log"),
            labels: HashMap::from([("io.kubernetes.container.name".to_owned(), name.to_owned())]),
            annotations: HashMap::from([("io.kubernetes.container.restartCount".to_owned(), "3".to_owned())]),
            ..cri::ContainerConfig::default()
        };
        edit(&mut config);
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: None,
        };
        Ok(self.pods.clone().create_container(request).await?.into_inner().container_id)
    }

    pub async fn start_container(&self, id: &str) -> Result<(), Status> {
        let request = cri::StartContainerRequest { container_id: id.to_owned() };
        self.pods.clone().start_container(request).await.map(|_| ())
    }

    /// A container that was created and started in a pod of its own: the sandbox and the container.
    pub async fn run(&self, name: &str, image: &str) -> (String, String) {
        let sandbox = self.run_sandbox(name).await;
        let container = self.create(&sandbox, "main", image).await.unwrap();
        self.start_container(&container).await.unwrap();
        (sandbox, container)
    }

    pub async fn stop_container(&self, id: &str, timeout: i64) {
        let request = cri::StopContainerRequest { container_id: id.to_owned(), timeout };
        self.pods.clone().stop_container(request).await.unwrap();
    }

    pub async fn stop_sandbox(&self, id: &str) {
        let request = cri::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.pods.clone().stop_pod_sandbox(request).await.unwrap();
    }

    pub async fn remove_sandbox(&self, id: &str) {
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.pods.clone().remove_pod_sandbox(request).await.unwrap();
    }

    pub async fn address(&self, sandbox: &str) -> String {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: sandbox.to_owned(), verbose: false };
        let status =
            self.pods.clone().pod_sandbox_status(request).await.unwrap().into_inner().status.unwrap();
        status.network.unwrap().ip
    }

    pub async fn status(&self, container: &str) -> cri::ContainerStatus {
        let request = cri::ContainerStatusRequest { container_id: container.to_owned(), verbose: false };
        self.pods.clone().container_status(request).await.unwrap().into_inner().status.unwrap()
    }

    pub async fn wait_exited(&self, container: &str) -> cri::ContainerStatus {
        let begin = Instant::now();
        loop {
            let status = self.status(container).await;
            if status.state() == cri::ContainerState::ContainerExited {
                return status;
            }
            assert!(begin.elapsed() < DEADLINE, "the container did not exit: {status:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn list(&self, filter: Option<cri::ContainerFilter>) -> Vec<cri::Container> {
        let request = cri::ListContainersRequest { filter };
        self.pods.clone().list_containers(request).await.unwrap().into_inner().containers
    }

    /// The events until the one that is wanted, this included: each with its subject's kind of event.
    pub async fn events_until(
        events: &mut tonic::Streaming<cri::ContainerEventResponse>,
        subject: &str,
        last: cri::ContainerEventType,
    ) -> Vec<cri::ContainerEventResponse> {
        let mut all = Vec::new();
        loop {
            let next = tokio::time::timeout(DEADLINE, events.next()).await.expect("an event in time");
            let event = next.expect("the stream goes on").unwrap();
            let is_last = event.container_id == subject && event.container_event_type() == last;
            all.push(event);
            if is_last {
                return all;
            }
        }
    }
}

/// The status that a GET on this address is answered with.
pub async fn get(address: &str) -> Result<u16, std::io::Error> {
    let stream = TcpStream::connect(address.parse::<SocketAddr>().unwrap()).await?;
    let handshake =
        hyper::client::conn::http1::handshake::<_, Empty<bytes::Bytes>>(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(std::io::Error::other)?;
    tokio::spawn(connection);
    let request = http::Request::get("/").header("host", address).body(Empty::new()).unwrap();
    let response = sender.send_request(request).await.map_err(std::io::Error::other)?;
    Ok(response.status().as_u16())
}

/// A range of pod addresses (a /27) that no other test has, also in another process. It is outside of every
/// cluster's block, so that tests with whole clusters may run at the same time.
pub fn range() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = (std::process::id() * 37 + NEXT.fetch_add(1, Ordering::Relaxed)) % 4096;
    format!("127.{}.{}.{}/27", 1 + number / 2048, number / 8 % 256, number % 8 * 32)
}

/// An address of the range that no pod gets before 29 others: for a service.
pub fn service_address(range: &str) -> String {
    let address: std::net::Ipv4Addr = range.split('/').next().unwrap().parse().unwrap();
    std::net::Ipv4Addr::from(u32::from(address) + 30).to_string()
}

fn settings(dir: &tempfile::TempDir) -> RuntimeSettings {
    let mut settings = RuntimeSettings::new(dir.path().join("naru.sock"), dir.path().join("data"));
    settings.max_instances = Some(32);
    settings
}

async fn connect(socket: PathBuf) -> Channel {
    let begin = Instant::now();
    while UnixStream::connect(&socket).await.is_err() {
        assert!(begin.elapsed() < DEADLINE, "the runtime did not open its socket");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
    });
    Endpoint::from_static("http://runtime").connect_with_connector(connector).await.unwrap()
}
