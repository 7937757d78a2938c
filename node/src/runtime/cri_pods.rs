//! CRI's RuntimeService: unpacks requests, asks [`Pods`], packs answers.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::{Stream, StreamExt};
use k8s_cri::v1::{self as cri, runtime_service_server::RuntimeService};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{
    error::PodError,
    messages,
    pods::{self, Pods},
};

const NO_URL: &str =
    "the runtime serves no HTTP for this: call Stream of naru.dataplane.v1.DataPlane on this socket";
const NO_PORT_FORWARD: &str =
    "the runtime does not forward ports: connect to the pod's address from the node";
const NO_CHECKPOINT: &str = "WebAssembly containers cannot be checkpointed";

type Answer<T> = Result<Response<T>, Status>;

pub(super) struct CriPods {
    pub pods: Arc<Pods>,
    /// Ends the streams that would otherwise keep the server from ending.
    pub closing: CancellationToken,
}

#[tonic::async_trait]
impl RuntimeService for CriPods {
    async fn version(&self, _: Request<cri::VersionRequest>) -> Answer<cri::VersionResponse> {
        answer(cri::VersionResponse {
            version: "0.1.0".to_owned(),
            runtime_name: "naru".to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
            runtime_api_version: "v1".to_owned(),
        })
    }

    async fn status(&self, _: Request<cri::StatusRequest>) -> Answer<cri::StatusResponse> {
        let has_network = self.pods.network.has_pod_cidr();
        let condition = |r#type: &str, status, reason: &str, message: &str| cri::RuntimeCondition {
            r#type: r#type.to_owned(),
            status,
            reason: reason.to_owned(),
            message: message.to_owned(),
        };
        let network = if has_network {
            condition("NetworkReady", true, "", "")
        } else {
            condition("NetworkReady", false, "NetworkPluginNotReady", "the node has no pod CIDR yet")
        };
        answer(cri::StatusResponse {
            status: Some(cri::RuntimeStatus {
                conditions: vec![condition("RuntimeReady", true, "", ""), network],
            }),
            runtime_handlers: vec![cri::RuntimeHandler::default()],
            ..cri::StatusResponse::default()
        })
    }

    async fn update_runtime_config(
        &self,
        request: Request<cri::UpdateRuntimeConfigRequest>,
    ) -> Answer<cri::UpdateRuntimeConfigResponse> {
        let config = request.into_inner().runtime_config.and_then(|config| config.network_config);
        // Without a range kubelet says that there is none yet.
        if let Some(cidr) = config.map(|config| config.pod_cidr).filter(|cidr| !cidr.is_empty()) {
            self.pods.network.set_pod_cidr(&cidr).map_err(PodError::from)?;
        }
        answer(cri::UpdateRuntimeConfigResponse {})
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<cri::RunPodSandboxRequest>,
    ) -> Answer<cri::RunPodSandboxResponse> {
        let request = request.into_inner();
        let config = request.config.ok_or(PodError::Missing("the request has no sandbox config"))?;
        let pod_sandbox_id = self.pods.run_sandbox(config, request.runtime_handler)?;
        answer(cri::RunPodSandboxResponse { pod_sandbox_id })
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<cri::StopPodSandboxRequest>,
    ) -> Answer<cri::StopPodSandboxResponse> {
        self.pods.stop_sandbox(&request.into_inner().pod_sandbox_id).await?;
        answer(cri::StopPodSandboxResponse {})
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<cri::RemovePodSandboxRequest>,
    ) -> Answer<cri::RemovePodSandboxResponse> {
        self.pods.remove_sandbox(&request.into_inner().pod_sandbox_id).await?;
        answer(cri::RemovePodSandboxResponse {})
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<cri::PodSandboxStatusRequest>,
    ) -> Answer<cri::PodSandboxStatusResponse> {
        let sandbox = self.pods.sandbox(&request.into_inner().pod_sandbox_id)?;
        answer(cri::PodSandboxStatusResponse {
            status: Some(messages::sandbox_status(&sandbox)),
            containers_statuses: pods::statuses(&self.pods, &sandbox),
            timestamp: super::container::now(),
            ..cri::PodSandboxStatusResponse::default()
        })
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<cri::ListPodSandboxRequest>,
    ) -> Answer<cri::ListPodSandboxResponse> {
        let filter = request.into_inner().filter;
        let sandboxes = self.pods.sandboxes();
        let items = sandboxes.iter().filter(|sandbox| messages::matches_sandbox(sandbox, filter.as_ref()));
        answer(cri::ListPodSandboxResponse {
            items: items.map(|sandbox| messages::sandbox(sandbox)).collect(),
        })
    }

    async fn create_container(
        &self,
        request: Request<cri::CreateContainerRequest>,
    ) -> Answer<cri::CreateContainerResponse> {
        let request = request.into_inner();
        let config = request.config.ok_or(PodError::Missing("the request has no container config"))?;
        let container_id = self.pods.create_container(&request.pod_sandbox_id, config).await?;
        answer(cri::CreateContainerResponse { container_id })
    }

    async fn start_container(
        &self,
        request: Request<cri::StartContainerRequest>,
    ) -> Answer<cri::StartContainerResponse> {
        self.pods.start_container(&request.into_inner().container_id).await?;
        answer(cri::StartContainerResponse {})
    }

    async fn stop_container(
        &self,
        request: Request<cri::StopContainerRequest>,
    ) -> Answer<cri::StopContainerResponse> {
        let request = request.into_inner();
        let grace = Duration::from_secs(u64::try_from(request.timeout).unwrap_or_default());
        self.pods.stop_container(&request.container_id, grace).await?;
        answer(cri::StopContainerResponse {})
    }

    async fn remove_container(
        &self,
        request: Request<cri::RemoveContainerRequest>,
    ) -> Answer<cri::RemoveContainerResponse> {
        self.pods.remove_container(&request.into_inner().container_id).await?;
        answer(cri::RemoveContainerResponse {})
    }

    async fn list_containers(
        &self,
        request: Request<cri::ListContainersRequest>,
    ) -> Answer<cri::ListContainersResponse> {
        let filter = request.into_inner().filter;
        let containers = self.pods.containers();
        let found =
            containers.iter().filter(|container| messages::matches_container(container, filter.as_ref()));
        answer(cri::ListContainersResponse {
            containers: found.map(|found| messages::container(found)).collect(),
        })
    }

    async fn container_status(
        &self,
        request: Request<cri::ContainerStatusRequest>,
    ) -> Answer<cri::ContainerStatusResponse> {
        let container = self.pods.container(&request.into_inner().container_id)?;
        let status = Some(messages::container_status(&container));
        answer(cri::ContainerStatusResponse { status, ..cri::ContainerStatusResponse::default() })
    }

    async fn update_container_resources(
        &self,
        request: Request<cri::UpdateContainerResourcesRequest>,
    ) -> Answer<cri::UpdateContainerResourcesResponse> {
        let request = request.into_inner();
        self.pods.update_resources(&request.container_id, request.linux.unwrap_or_default())?;
        answer(cri::UpdateContainerResourcesResponse {})
    }

    async fn reopen_container_log(
        &self,
        request: Request<cri::ReopenContainerLogRequest>,
    ) -> Answer<cri::ReopenContainerLogResponse> {
        self.pods.reopen_log(&request.into_inner().container_id)?;
        answer(cri::ReopenContainerLogResponse {})
    }

    async fn exec_sync(&self, request: Request<cri::ExecSyncRequest>) -> Answer<cri::ExecSyncResponse> {
        answer(self.pods.exec_sync(request.into_inner()).await?)
    }

    async fn exec(&self, request: Request<cri::ExecRequest>) -> Answer<cri::ExecResponse> {
        self.pods.container(&request.into_inner().container_id)?;
        Err(PodError::Unimplemented(NO_URL).into())
    }

    async fn attach(&self, request: Request<cri::AttachRequest>) -> Answer<cri::AttachResponse> {
        self.pods.container(&request.into_inner().container_id)?;
        Err(PodError::Unimplemented(NO_URL).into())
    }

    async fn port_forward(
        &self,
        request: Request<cri::PortForwardRequest>,
    ) -> Answer<cri::PortForwardResponse> {
        self.pods.sandbox(&request.into_inner().pod_sandbox_id)?;
        Err(PodError::Unimplemented(NO_PORT_FORWARD).into())
    }

    async fn container_stats(
        &self,
        request: Request<cri::ContainerStatsRequest>,
    ) -> Answer<cri::ContainerStatsResponse> {
        let container = self.pods.container(&request.into_inner().container_id)?;
        answer(cri::ContainerStatsResponse { stats: Some(messages::container_stats(&container)) })
    }

    async fn list_container_stats(
        &self,
        request: Request<cri::ListContainerStatsRequest>,
    ) -> Answer<cri::ListContainerStatsResponse> {
        let filter = request.into_inner().filter.map(|filter| cri::ContainerFilter {
            id: filter.id,
            pod_sandbox_id: filter.pod_sandbox_id,
            label_selector: filter.label_selector,
            state: None,
        });
        let containers = self.pods.containers();
        let running = containers.iter().filter(|container| container.running().is_some());
        let found = running.filter(|container| messages::matches_container(container, filter.as_ref()));
        answer(cri::ListContainerStatsResponse {
            stats: found.map(|container| messages::container_stats(container)).collect(),
        })
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<cri::PodSandboxStatsRequest>,
    ) -> Answer<cri::PodSandboxStatsResponse> {
        let sandbox = self.pods.sandbox(&request.into_inner().pod_sandbox_id)?;
        answer(cri::PodSandboxStatsResponse { stats: Some(self.sandbox_stats(&sandbox)) })
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<cri::ListPodSandboxStatsRequest>,
    ) -> Answer<cri::ListPodSandboxStatsResponse> {
        let filter = request.into_inner().filter.map(|filter| cri::PodSandboxFilter {
            id: filter.id,
            label_selector: filter.label_selector,
            state: None,
        });
        let sandboxes = self.pods.sandboxes();
        let found = sandboxes.iter().filter(|sandbox| messages::matches_sandbox(sandbox, filter.as_ref()));
        answer(cri::ListPodSandboxStatsResponse {
            stats: found.map(|sandbox| self.sandbox_stats(sandbox)).collect(),
        })
    }

    async fn checkpoint_container(
        &self,
        _: Request<cri::CheckpointContainerRequest>,
    ) -> Answer<cri::CheckpointContainerResponse> {
        Err(PodError::Unimplemented(NO_CHECKPOINT).into())
    }

    type GetContainerEventsStream =
        Pin<Box<dyn Stream<Item = Result<cri::ContainerEventResponse, Status>> + Send>>;

    async fn get_container_events(
        &self,
        _: Request<cri::GetEventsRequest>,
    ) -> Answer<Self::GetContainerEventsStream> {
        let events = ReceiverStream::new(self.pods.events.subscribe());
        answer(Box::pin(events.take_until(self.closing.clone().cancelled_owned())))
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<cri::ListMetricDescriptorsRequest>,
    ) -> Answer<cri::ListMetricDescriptorsResponse> {
        answer(cri::ListMetricDescriptorsResponse::default())
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<cri::ListPodSandboxMetricsRequest>,
    ) -> Answer<cri::ListPodSandboxMetricsResponse> {
        answer(cri::ListPodSandboxMetricsResponse::default())
    }

    async fn runtime_config(
        &self,
        _: Request<cri::RuntimeConfigRequest>,
    ) -> Answer<cri::RuntimeConfigResponse> {
        answer(cri::RuntimeConfigResponse {
            linux: Some(cri::LinuxRuntimeConfiguration { cgroup_driver: cri::CgroupDriver::Cgroupfs.into() }),
        })
    }
}

impl CriPods {
    fn sandbox_stats(&self, sandbox: &super::sandbox::Sandbox) -> cri::PodSandboxStats {
        let members = self.pods.members(&sandbox.id);
        let running = members.iter().filter(|container| container.running().is_some());
        messages::sandbox_stats(
            sandbox,
            running.map(|container| messages::container_stats(container)).collect(),
        )
    }
}

fn answer<T>(message: T) -> Answer<T> {
    Ok(Response::new(message))
}
