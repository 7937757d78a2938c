//! Starts a container: image, volumes, environment, hook.

use jiff::Timestamp;
use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::Container;

use super::{Worker, actions::Failed};
use crate::agent::{
    backoff::{Backoff, KUBELET},
    decide::{Kill, Start, Waiting},
    environment::{Environment, Sources},
    events::EventKind,
    hooks,
    objects::FRESH,
    pod_view::Role,
    sandbox::{ContainerInput, sandbox_config},
    termination_message, volumes,
};

impl Worker {
    pub(super) async fn start_container(&mut self, start: &Start) -> Result<(), Failed> {
        let Some((container, role)) = self.pod.container(&start.name) else { return Ok(()) };
        let container = container.clone();
        let image_ref = match self.shared.puller.ensure(&self.pod, &container, role).await {
            Ok(image_ref) => image_ref,
            Err(missing) => {
                self.memory.start_errors.insert(start.name.clone(), missing.waiting);
                return Err(Failed { retry_in: Some(missing.retry_in) });
            }
        };
        // Volumes change while a pod runs only by refreshing; after an agent's restart they must be found again.
        let is_fresh = self.volumes_fresh_at.is_some_and(|at| at.elapsed() <= FRESH);
        let has_mounts = container.volume_mounts.as_ref().is_some_and(|mounts| !mounts.is_empty());
        if self.volumes.is_none() || (has_mounts && !is_fresh) {
            self.set_up_volumes(FRESH).await?;
        }
        let input = self.container_input(start, image_ref, &container).await;
        let config =
            input.map_err(|reason| self.start_failed(start, role, "CreateContainerConfigError", &reason))?;
        if let Some(failed_at) = start.failed_at {
            let previous = self.memory.backoff.get(&start.name).copied();
            let next = Backoff::next(previous, KUBELET, failed_at, Timestamp::now());
            self.memory.backoff.insert(start.name.clone(), next);
        }
        let id = self.create_and_start(start, role, config).await?;
        self.memory.start_errors.remove(&start.name);
        let hook = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref());
        let Some(hook) = hook else { return Ok(()) };
        let ip = self.pod_ip();
        let result = hooks::run(hook, &container, &id, &ip, &*self.shared.runtime).await;
        let Err(reason) = result else { return Ok(()) };
        let message = format!("PostStartHook failed: {reason}");
        let target = (start.name.as_str(), role);
        self.shared.events.container(
            &self.pod.identity,
            target,
            EventKind::Warning,
            "FailedPostStartHook",
            message.clone(),
        );
        let kill = Kill {
            id,
            name: start.name.clone(),
            message: "FailedPostStartHook".into(),
            grace_seconds: self.pod.grace_seconds(),
        };
        let _ = self.kill(&kill, true).await; // A container that is still there is seen at the next look.
        Err(self.start_failed(start, role, "PostStartHookError", &message))
    }

    async fn create_and_start(
        &mut self,
        start: &Start,
        role: Role,
        config: cri::ContainerConfig,
    ) -> Result<String, Failed> {
        let shared = self.shared.clone();
        let _permit = shared.start_permits.acquire().await.expect("never closed");
        let attempt = self.observed.ready_sandbox().map_or(0, |sandbox| sandbox.attempt);
        let logs = shared.directories.pod_logs(&self.pod.identity);
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: start.sandbox_id.clone(),
            config: Some(config),
            sandbox_config: Some(sandbox_config(&self.pod, attempt, &logs, &shared.cluster_domain)),
        };
        let told = |reason, message: String| {
            shared.events.container(
                &self.pod.identity,
                (&start.name, role),
                EventKind::Normal,
                reason,
                message,
            );
        };
        self.has_containers = true;
        let created = shared.runtime.create_container(request).await;
        let id = match created {
            Ok(id) => id,
            Err(error) => return Err(self.start_failed(start, role, "CreateContainerError", &error.message)),
        };
        told("Created", format!("Created container: {}", start.name));
        if let Err(error) = shared.runtime.start_container(&id).await {
            return Err(self.start_failed(start, role, "RunContainerError", &error.message));
        }
        told("Started", format!("Started container {}", start.name));
        Ok(id)
    }

    /// Leaves the reason for the status and tells it in an event.
    fn start_failed(&mut self, start: &Start, role: Role, reason: &str, message: &str) -> Failed {
        let waiting = Waiting { reason: reason.into(), message: message.into() };
        self.memory.start_errors.insert(start.name.clone(), waiting);
        let target = (start.name.as_str(), role);
        let message = format!("Error: {message}");
        self.shared.events.container(&self.pod.identity, target, EventKind::Warning, "Failed", message);
        Failed { retry_in: None }
    }

    async fn container_input(
        &self,
        start: &Start,
        image_ref: String,
        container: &Container,
    ) -> Result<cri::ContainerConfig, String> {
        self.shared.services.wait_synced().await;
        let with_links = self.pod.spec().enable_service_links.unwrap_or(true);
        let services = self.shared.services.environment(&self.pod.identity.namespace, with_links);
        let addresses = self.addresses();
        let sources = Sources {
            pod: &self.pod,
            objects: &self.shared.objects,
            services: &services,
            addresses: &addresses,
            allocatable: self.shared.allocatable,
        };
        let environment: Environment = sources.environment(container).await?;
        if !environment.skipped.is_empty() {
            let message = format!(
                "Keys [{}] from the EnvFrom sources were skipped since they are considered invalid environment variable names.",
                environment.skipped.join(", ")
            );
            self.shared.events.pod(
                &self.pod.identity,
                EventKind::Warning,
                "InvalidEnvironmentVariableNames",
                message,
            );
        }
        let paths = self.volumes.clone().unwrap_or_default();
        let restart_count = start.restart_count;
        let mut mounts = volumes::mounts(&self.pod, container, &paths, &environment)?;
        let uid = &self.pod.identity.uid;
        let message = self.shared.directories.termination_message(uid, &container.name, restart_count);
        mounts.push(termination_message::mount(container, &message));
        let environment = &environment;
        Ok(ContainerInput { pod: &self.pod, container, restart_count, image_ref, environment, mounts }
            .config())
    }
}
