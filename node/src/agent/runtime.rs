//! The runtime as the agent sees it: CRI v1 and our data plane service behind one trait, real or fake.

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use k8s_cri::v1 as cri;
use tokio::sync::mpsc;

use crate::dataplane;

/// What the runtime answered instead of doing what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RuntimeError {
    pub code: tonic::Code,
    pub message: String,
}

impl RuntimeError {
    pub fn new(code: tonic::Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The sandbox, container or image is gone: for whoever wanted it gone, success.
    pub fn is_not_found(&self) -> bool {
        self.code == tonic::Code::NotFound
    }
}

impl From<tonic::Status> for RuntimeError {
    fn from(status: tonic::Status) -> Self {
        Self { code: status.code(), message: status.message().to_owned() }
    }
}

pub type RuntimeResult<T> = Result<T, RuntimeError>;

/// CRI v1 as far as the agent needs it. Stopping and removing what is not there succeeds.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    async fn version(&self) -> RuntimeResult<cri::VersionResponse>;
    async fn conditions(&self) -> RuntimeResult<Vec<cri::RuntimeCondition>>;
    async fn set_pod_cidr(&self, cidr: &str) -> RuntimeResult<()>;

    async fn run_sandbox(&self, config: cri::PodSandboxConfig, handler: &str) -> RuntimeResult<String>;
    async fn stop_sandbox(&self, id: &str) -> RuntimeResult<()>;
    async fn remove_sandbox(&self, id: &str) -> RuntimeResult<()>;
    async fn sandbox_status(&self, id: &str) -> RuntimeResult<cri::PodSandboxStatusResponse>;
    async fn list_sandboxes(&self, pod_uid: Option<&str>) -> RuntimeResult<Vec<cri::PodSandbox>>;

    async fn create_container(&self, request: cri::CreateContainerRequest) -> RuntimeResult<String>;
    async fn start_container(&self, id: &str) -> RuntimeResult<()>;
    /// Returns when the container has ended, at the latest `grace_seconds` later.
    async fn stop_container(&self, id: &str, grace_seconds: i64) -> RuntimeResult<()>;
    async fn remove_container(&self, id: &str) -> RuntimeResult<()>;
    async fn container_status(&self, id: &str) -> RuntimeResult<cri::ContainerStatus>;
    async fn list_containers(&self, pod_uid: Option<&str>) -> RuntimeResult<Vec<cri::Container>>;
    async fn container_stats(&self) -> RuntimeResult<Vec<cri::ContainerStats>>;
    /// What is 0 stays as it is.
    async fn update_resources(&self, id: &str, resources: cri::LinuxContainerResources) -> RuntimeResult<()>;
    async fn reopen_log(&self, id: &str) -> RuntimeResult<()>;
    async fn exec(
        &self,
        id: &str,
        command: Vec<String>,
        timeout_seconds: i64,
    ) -> RuntimeResult<cri::ExecSyncResponse>;
    /// A program of a container and its standard streams; `requests` begin with what to run or join.
    async fn stream(
        &self,
        requests: mpsc::Receiver<dataplane::StreamRequest>,
    ) -> RuntimeResult<BoxStream<'static, RuntimeResult<dataplane::StreamResponse>>>;
    /// Everything that happens to containers from now on; ends when the connection does.
    async fn events(&self) -> RuntimeResult<BoxStream<'static, RuntimeResult<cri::ContainerEventResponse>>>;

    async fn image_status(&self, image: &str) -> RuntimeResult<Option<cri::Image>>;
    async fn list_images(&self) -> RuntimeResult<Vec<cri::Image>>;
    async fn pull_image(&self, image: &str, auth: Option<cri::AuthConfig>) -> RuntimeResult<String>;
    async fn import_image(
        &self,
        name: &str,
        digest: &str,
        content: BoxStream<'static, Result<Bytes, String>>,
    ) -> RuntimeResult<String>;

    async fn update_data_plane(
        &self,
        updates: mpsc::Receiver<dataplane::UpdateRequest>,
    ) -> RuntimeResult<BoxStream<'static, RuntimeResult<dataplane::UpdateResponse>>>;
}
