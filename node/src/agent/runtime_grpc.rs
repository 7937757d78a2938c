//! The runtime over its Unix socket. Connects lazily and again after every loss.

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use k8s_cri::v1::{
    self as cri, image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use super::{
    runtime::{Runtime, RuntimeError, RuntimeResult},
    settings::AgentError,
};
use crate::dataplane::{self, data_plane_client::DataPlaneClient};

/// A list of 10,000 pods does not fit gRPC's default of 4 MiB.
const MESSAGE_LIMIT: usize = 128 << 20;
/// `DataPlane.ImportImage` takes at most this much at a time.
const CHUNK_LIMIT: usize = 1 << 20;

pub struct GrpcRuntime {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    data_plane: DataPlaneClient<Channel>,
}

impl GrpcRuntime {
    pub fn new(socket: &Path) -> Result<Self, AgentError> {
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))
            .map_err(|source| AgentError::RuntimeSocket { path: socket.into(), source })?
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(8 << 20);
        let channel = endpoint.connect_lazy();
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MESSAGE_LIMIT),
            images: ImageServiceClient::new(channel.clone()).max_decoding_message_size(MESSAGE_LIMIT),
            data_plane: DataPlaneClient::new(channel),
        })
    }

    fn runtime(&self) -> RuntimeServiceClient<Channel> {
        self.runtime.clone()
    }

    fn images(&self) -> ImageServiceClient<Channel> {
        self.images.clone()
    }
}

fn uid_labels(pod_uid: &str) -> std::collections::HashMap<String, String> {
    [(super::identity::LABEL_POD_UID.to_owned(), pod_uid.to_owned())].into()
}

/// Gone is what the caller wanted.
fn or_gone(result: Result<(), tonic::Status>) -> RuntimeResult<()> {
    match result {
        Err(status) if status.code() == tonic::Code::NotFound => Ok(()),
        other => other.map_err(RuntimeError::from),
    }
}

fn image_spec(image: &str) -> Option<cri::ImageSpec> {
    Some(cri::ImageSpec { image: image.into(), user_specified_image: image.into(), ..Default::default() })
}

#[async_trait]
impl Runtime for GrpcRuntime {
    async fn version(&self) -> RuntimeResult<cri::VersionResponse> {
        let request = cri::VersionRequest { version: "v1".into() };
        Ok(self.runtime().version(request).await?.into_inner())
    }

    async fn conditions(&self) -> RuntimeResult<Vec<cri::RuntimeCondition>> {
        let response = self.runtime().status(cri::StatusRequest { verbose: false }).await?.into_inner();
        Ok(response.status.map(|status| status.conditions).unwrap_or_default())
    }

    async fn set_pod_cidr(&self, cidr: &str) -> RuntimeResult<()> {
        let network_config = Some(cri::NetworkConfig { pod_cidr: cidr.into() });
        let runtime_config = Some(cri::RuntimeConfig { network_config });
        self.runtime().update_runtime_config(cri::UpdateRuntimeConfigRequest { runtime_config }).await?;
        Ok(())
    }

    async fn run_sandbox(&self, config: cri::PodSandboxConfig, handler: &str) -> RuntimeResult<String> {
        let request = cri::RunPodSandboxRequest { config: Some(config), runtime_handler: handler.into() };
        Ok(self.runtime().run_pod_sandbox(request).await?.into_inner().pod_sandbox_id)
    }

    async fn stop_sandbox(&self, id: &str) -> RuntimeResult<()> {
        let request = cri::StopPodSandboxRequest { pod_sandbox_id: id.into() };
        or_gone(self.runtime().stop_pod_sandbox(request).await.map(drop))
    }

    async fn remove_sandbox(&self, id: &str) -> RuntimeResult<()> {
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: id.into() };
        or_gone(self.runtime().remove_pod_sandbox(request).await.map(drop))
    }

    async fn sandbox_status(&self, id: &str) -> RuntimeResult<cri::PodSandboxStatusResponse> {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: false };
        Ok(self.runtime().pod_sandbox_status(request).await?.into_inner())
    }

    async fn list_sandboxes(&self, pod_uid: Option<&str>) -> RuntimeResult<Vec<cri::PodSandbox>> {
        let filter = pod_uid
            .map(|uid| cri::PodSandboxFilter { label_selector: uid_labels(uid), ..Default::default() });
        Ok(self.runtime().list_pod_sandbox(cri::ListPodSandboxRequest { filter }).await?.into_inner().items)
    }

    async fn create_container(&self, request: cri::CreateContainerRequest) -> RuntimeResult<String> {
        Ok(self.runtime().create_container(request).await?.into_inner().container_id)
    }

    async fn start_container(&self, id: &str) -> RuntimeResult<()> {
        self.runtime().start_container(cri::StartContainerRequest { container_id: id.into() }).await?;
        Ok(())
    }

    async fn stop_container(&self, id: &str, grace_seconds: i64) -> RuntimeResult<()> {
        let request = cri::StopContainerRequest { container_id: id.into(), timeout: grace_seconds };
        or_gone(self.runtime().stop_container(request).await.map(drop))
    }

    async fn remove_container(&self, id: &str) -> RuntimeResult<()> {
        let request = cri::RemoveContainerRequest { container_id: id.into() };
        or_gone(self.runtime().remove_container(request).await.map(drop))
    }

    async fn container_status(&self, id: &str) -> RuntimeResult<cri::ContainerStatus> {
        let request = cri::ContainerStatusRequest { container_id: id.into(), verbose: false };
        let response = self.runtime().container_status(request).await?.into_inner();
        response
            .status
            .ok_or_else(|| RuntimeError::new(tonic::Code::Internal, format!("container {id}: empty status")))
    }

    async fn list_containers(&self, pod_uid: Option<&str>) -> RuntimeResult<Vec<cri::Container>> {
        let filter =
            pod_uid.map(|uid| cri::ContainerFilter { label_selector: uid_labels(uid), ..Default::default() });
        Ok(self
            .runtime()
            .list_containers(cri::ListContainersRequest { filter })
            .await?
            .into_inner()
            .containers)
    }

    async fn container_stats(&self) -> RuntimeResult<Vec<cri::ContainerStats>> {
        let request = cri::ListContainerStatsRequest { filter: None };
        Ok(self.runtime().list_container_stats(request).await?.into_inner().stats)
    }

    async fn update_resources(&self, id: &str, resources: cri::LinuxContainerResources) -> RuntimeResult<()> {
        let request = cri::UpdateContainerResourcesRequest {
            container_id: id.into(),
            linux: Some(resources),
            ..Default::default()
        };
        self.runtime().update_container_resources(request).await?;
        Ok(())
    }

    async fn reopen_log(&self, id: &str) -> RuntimeResult<()> {
        self.runtime()
            .reopen_container_log(cri::ReopenContainerLogRequest { container_id: id.into() })
            .await?;
        Ok(())
    }

    async fn exec(
        &self,
        id: &str,
        command: Vec<String>,
        timeout_seconds: i64,
    ) -> RuntimeResult<cri::ExecSyncResponse> {
        let request =
            cri::ExecSyncRequest { container_id: id.into(), cmd: command, timeout: timeout_seconds };
        Ok(self.runtime().exec_sync(request).await?.into_inner())
    }

    async fn stream(
        &self,
        requests: mpsc::Receiver<dataplane::StreamRequest>,
    ) -> RuntimeResult<BoxStream<'static, RuntimeResult<dataplane::StreamResponse>>> {
        let stream = self.data_plane.clone().stream(ReceiverStream::new(requests)).await?.into_inner();
        Ok(stream.map_err(RuntimeError::from).boxed())
    }

    async fn events(&self) -> RuntimeResult<BoxStream<'static, RuntimeResult<cri::ContainerEventResponse>>> {
        let stream = self.runtime().get_container_events(cri::GetEventsRequest {}).await?.into_inner();
        Ok(stream.map(|event| event.map_err(RuntimeError::from)).boxed())
    }

    async fn image_status(&self, image: &str) -> RuntimeResult<Option<cri::Image>> {
        let request = cri::ImageStatusRequest { image: image_spec(image), verbose: false };
        match self.images().image_status(request).await {
            Err(status) if status.code() == tonic::Code::NotFound => Ok(None),
            result => Ok(result?.into_inner().image),
        }
    }

    async fn list_images(&self) -> RuntimeResult<Vec<cri::Image>> {
        Ok(self.images().list_images(cri::ListImagesRequest { filter: None }).await?.into_inner().images)
    }

    async fn pull_image(&self, image: &str, auth: Option<cri::AuthConfig>) -> RuntimeResult<String> {
        let request = cri::PullImageRequest { image: image_spec(image), auth, sandbox_config: None };
        Ok(self.images().pull_image(request).await?.into_inner().image_ref)
    }

    async fn import_image(
        &self,
        name: &str,
        digest: &str,
        content: BoxStream<'static, Result<Bytes, String>>,
    ) -> RuntimeResult<String> {
        let failure = Arc::new(std::sync::Mutex::new(None));
        let head =
            dataplane::ImportImageRequest { name: name.into(), digest: digest.into(), chunk: Vec::new() };
        let body = import_chunks(content, failure.clone());
        let messages = futures::stream::once(async move { head }).chain(body);
        let result = self.data_plane.clone().import_image(messages).await;
        // A download that broke off must be told apart from a runtime that refused: its text is the useful one.
        if let Some(reason) = failure.lock().expect("no one panics holding it").take() {
            return Err(RuntimeError::new(tonic::Code::Aborted, reason));
        }
        Ok(result?.into_inner().image_ref)
    }

    async fn update_data_plane(
        &self,
        updates: mpsc::Receiver<dataplane::UpdateRequest>,
    ) -> RuntimeResult<BoxStream<'static, RuntimeResult<dataplane::UpdateResponse>>> {
        let client = self.data_plane.clone();
        open_updates(client, updates).await
    }
}

async fn open_updates(
    mut client: DataPlaneClient<Channel>,
    updates: mpsc::Receiver<dataplane::UpdateRequest>,
) -> RuntimeResult<BoxStream<'static, RuntimeResult<dataplane::UpdateResponse>>> {
    let stream = client.update(ReceiverStream::new(updates)).await?.into_inner();
    Ok(stream.map_err(RuntimeError::from).boxed())
}

/// Cuts the content into messages. A failed download ends the stream early; the digest then doesn't match, so the
/// runtime keeps nothing, and the reason is left in `failure`.
fn import_chunks(
    content: BoxStream<'static, Result<Bytes, String>>,
    failure: Arc<std::sync::Mutex<Option<String>>>,
) -> impl futures::Stream<Item = dataplane::ImportImageRequest> + Send + 'static {
    content
        .take_while(move |chunk| {
            if let Err(reason) = chunk {
                *failure.lock().expect("no one panics holding it") = Some(reason.clone());
            }
            futures::future::ready(chunk.is_ok())
        })
        .flat_map(|chunk| {
            let bytes = chunk.unwrap_or_default();
            let pieces: Vec<_> = bytes
                .chunks(CHUNK_LIMIT)
                .map(|piece| dataplane::ImportImageRequest { chunk: piece.to_vec(), ..Default::default() })
                .collect();
            futures::stream::iter(pieces)
        })
}
