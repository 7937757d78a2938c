//! A runtime and a cluster in memory, for tests.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Mutex,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use jiff::Timestamp;
use k8s_cri::v1 as cri;
use k8s_openapi::{
    ByteString,
    api::{
        core::v1::{ConfigMap, Event, Secret},
        node::v1::RuntimeClass,
    },
};
use serde_json::Value;
use tokio::sync::mpsc;

use super::{
    cluster::{Cluster, ClusterError, ClusterImage, ClusterResult},
    identity::PodIdentity,
    runtime::{Runtime, RuntimeError, RuntimeResult},
};
use crate::dataplane;

pub use tempfile::TempDir;

/// A cluster that remembers what it was told.
#[derive(Default)]
pub struct FakeCluster {
    config_maps: Mutex<HashMap<(String, String), ConfigMap>>,
    secrets: Mutex<HashMap<(String, String), Secret>>,
    pub images: Mutex<HashMap<String, ClusterImage>>,
    pub events: Mutex<Vec<Event>>,
    /// All statuses written, in order.
    pub statuses: Mutex<Vec<Value>>,
    pub deleted: Mutex<Vec<PodIdentity>>,
    pub fetches: AtomicUsize,
}

impl FakeCluster {
    pub fn add_config_map(&self, namespace: &str, name: &str, data: &[(&str, &str)]) {
        let data = data.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let config_map = ConfigMap { data: Some(data), ..Default::default() };
        self.config_maps.lock().unwrap().insert((namespace.into(), name.into()), config_map);
    }

    pub fn add_secret(&self, namespace: &str, name: &str, data: &[(&str, &str)]) {
        let pair = |(key, value): &(&str, &str)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec()));
        let secret = Secret { data: Some(data.iter().map(pair).collect()), ..Default::default() };
        self.secrets.lock().unwrap().insert((namespace.into(), name.into()), secret);
    }

    /// `reason: message` of every event so far.
    pub fn told(&self) -> Vec<String> {
        let events = self.events.lock().unwrap();
        let line = |event: &Event| {
            format!("{}: {}", event.reason.as_deref().unwrap(), event.message.as_deref().unwrap())
        };
        events.iter().map(line).collect()
    }

    pub fn last_status(&self) -> Value {
        self.statuses.lock().unwrap().last().cloned().unwrap_or_default()
    }
}

#[async_trait]
impl Cluster for FakeCluster {
    async fn patch_pod_status(&self, _: &PodIdentity, patch: &Value) -> ClusterResult<()> {
        self.statuses.lock().unwrap().push(patch["status"].clone());
        Ok(())
    }

    async fn finish_pod_deletion(&self, pod: &PodIdentity) -> ClusterResult<()> {
        self.deleted.lock().unwrap().push(pod.clone());
        Ok(())
    }

    async fn config_map(&self, namespace: &str, name: &str) -> ClusterResult<ConfigMap> {
        self.fetches.fetch_add(1, Ordering::Relaxed);
        let found = self.config_maps.lock().unwrap().get(&(namespace.to_owned(), name.to_owned())).cloned();
        found.ok_or_else(|| ClusterError::NotFound(format!("configmaps {name:?} not found")))
    }

    async fn secret(&self, namespace: &str, name: &str) -> ClusterResult<Secret> {
        let found = self.secrets.lock().unwrap().get(&(namespace.to_owned(), name.to_owned())).cloned();
        found.ok_or_else(|| ClusterError::NotFound(format!("secrets {name:?} not found")))
    }

    async fn runtime_class(&self, name: &str) -> ClusterResult<RuntimeClass> {
        Err(ClusterError::NotFound(format!("runtimeclasses.node.k8s.io {name:?} not found")))
    }

    /// A token that says which one it is, as old as this process.
    async fn account_token(
        &self,
        pod: &PodIdentity,
        account: &str,
        audience: Option<&str>,
        _seconds: i64,
    ) -> ClusterResult<String> {
        let number = self.fetches.fetch_add(1, Ordering::Relaxed);
        let claims = serde_json::json!({
            "iat": Timestamp::now().as_second(),
            "sub": format!("{}/{account}", pod.namespace),
            "aud": audience,
            "number": number,
        });
        Ok(format!("e30.{}.e30", BASE64URL.encode(claims.to_string())))
    }

    async fn create_event(&self, event: &Event) -> ClusterResult<()> {
        self.events.lock().unwrap().push(event.clone());
        Ok(())
    }

    async fn patch_event(&self, _: &str, _: &str, _: &Value) -> ClusterResult<()> {
        Ok(())
    }

    async fn resolve_image(&self, name: &str) -> ClusterResult<Option<ClusterImage>> {
        self.fetches.fetch_add(1, Ordering::Relaxed);
        Ok(self.images.lock().unwrap().get(name).cloned())
    }

    async fn image_blob(&self, _: &str) -> ClusterResult<BoxStream<'static, Result<Bytes, String>>> {
        Ok(futures::stream::iter([Ok(Bytes::from_static(b"\0asm"))]).boxed())
    }
}

/// A runtime whose containers run until a test ends them.
#[derive(Default)]
pub struct FakeRuntime {
    state: Mutex<RuntimeState>,
    clock: AtomicI64,
}

#[derive(Default)]
struct RuntimeState {
    sandboxes: BTreeMap<String, cri::PodSandboxStatus>,
    containers: BTreeMap<String, (String, cri::ContainerStatus)>,
    images: HashMap<String, cri::Image>,
    failing_pulls: HashMap<String, String>,
    failing_starts: HashMap<String, String>,
    failing_resizes: Option<String>,
    calls: Vec<String>,
    next: usize,
}

impl FakeRuntime {
    pub fn with_image(name: &str) -> Self {
        let runtime = Self::default();
        runtime.add_image(name, "sha256:0001");
        runtime
    }

    pub fn add_image(&self, name: &str, id: &str) {
        let image = cri::Image { id: id.into(), size: 4, ..Default::default() };
        self.state.lock().unwrap().images.insert(name.into(), image);
    }

    pub fn fail_pull(&self, image: &str, reason: &str) {
        self.state.lock().unwrap().failing_pulls.insert(image.into(), reason.into());
    }

    pub fn fail_start(&self, container: &str, reason: &str) {
        self.state.lock().unwrap().failing_starts.insert(container.into(), reason.into());
    }

    /// Has all changes of sizes fail for a reason, or no more.
    pub fn fail_resizes(&self, reason: Option<&str>) {
        self.state.lock().unwrap().failing_resizes = reason.map(str::to_owned);
    }

    /// What it was asked to do, beyond questions: `start web`, `stop web 30`, `pull x`.
    pub fn calls(&self) -> Vec<String> {
        self.state.lock().unwrap().calls.clone()
    }

    pub fn count(&self, call: &str) -> usize {
        self.calls().iter().filter(|known| *known == call).count()
    }

    /// The newest run of a container.
    pub fn running(&self, name: &str) -> Option<String> {
        let state = self.state.lock().unwrap();
        let is_it = |status: &cri::ContainerStatus| {
            status.metadata.as_ref().unwrap().name == name
                && status.state == cri::ContainerState::ContainerRunning as i32
        };
        state.containers.values().find(|(_, status)| is_it(status)).map(|(_, status)| status.id.clone())
    }

    /// Ends the running container of that name.
    pub fn exit(&self, name: &str, exit_code: i32) {
        let id = self.running(name).expect("it runs");
        self.end(&id, exit_code);
    }

    fn end(&self, id: &str, exit_code: i32) {
        let now = self.tick();
        let mut state = self.state.lock().unwrap();
        let (_, status) = state.containers.get_mut(id).unwrap();
        if status.state == cri::ContainerState::ContainerRunning as i32 {
            status.state = cri::ContainerState::ContainerExited as i32;
            status.finished_at = now;
            status.exit_code = exit_code;
        }
    }

    /// Real time, and never the same twice.
    fn tick(&self) -> i64 {
        let now = Timestamp::now().as_nanosecond() as i64;
        self.clock
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(now.max(last + 1)))
            .unwrap();
        self.clock.load(Ordering::Relaxed)
    }

    fn call(&self, call: String) {
        self.state.lock().unwrap().calls.push(call);
    }

    fn name_of(&self, id: &str) -> String {
        let state = self.state.lock().unwrap();
        state.containers.get(id).map(|(_, status)| status.metadata.clone().unwrap().name).unwrap_or_default()
    }
}

fn not_found(what: &str) -> RuntimeError {
    RuntimeError::new(tonic::Code::NotFound, format!("{what} not found"))
}

#[async_trait]
impl Runtime for FakeRuntime {
    async fn version(&self) -> RuntimeResult<cri::VersionResponse> {
        Ok(cri::VersionResponse {
            runtime_name: "naru".into(),
            runtime_version: "0".into(),
            ..Default::default()
        })
    }

    async fn conditions(&self) -> RuntimeResult<Vec<cri::RuntimeCondition>> {
        Ok(Vec::new())
    }

    async fn set_pod_cidr(&self, _: &str) -> RuntimeResult<()> {
        Ok(())
    }

    async fn run_sandbox(&self, config: cri::PodSandboxConfig, _: &str) -> RuntimeResult<String> {
        let created_at = self.tick();
        let mut state = self.state.lock().unwrap();
        state.next += 1;
        let id = format!("s{}", state.next);
        let network =
            cri::PodSandboxNetworkStatus { ip: format!("127.5.0.{}", state.next), ..Default::default() };
        let status = cri::PodSandboxStatus {
            id: id.clone(),
            metadata: config.metadata,
            state: cri::PodSandboxState::SandboxReady as i32,
            created_at,
            network: Some(network),
            labels: config.labels,
            annotations: config.annotations,
            ..Default::default()
        };
        state.sandboxes.insert(id.clone(), status);
        state.calls.push("sandbox".into());
        Ok(id)
    }

    async fn stop_sandbox(&self, id: &str) -> RuntimeResult<()> {
        self.call("stop sandbox".into());
        let ids: Vec<_> = {
            let mut state = self.state.lock().unwrap();
            if let Some(sandbox) = state.sandboxes.get_mut(id) {
                sandbox.state = cri::PodSandboxState::SandboxNotready as i32;
            }
            let inside = state.containers.iter().filter(|(_, (sandbox, _))| sandbox == id);
            inside.map(|(id, _)| id.clone()).collect()
        };
        for id in ids {
            self.end(&id, 137);
        }
        Ok(())
    }

    async fn remove_sandbox(&self, id: &str) -> RuntimeResult<()> {
        let mut state = self.state.lock().unwrap();
        state.calls.push("remove sandbox".into());
        state.sandboxes.remove(id);
        state.containers.retain(|_, (sandbox, _)| sandbox != id);
        Ok(())
    }

    async fn sandbox_status(&self, id: &str) -> RuntimeResult<cri::PodSandboxStatusResponse> {
        let timestamp = self.tick();
        let state = self.state.lock().unwrap();
        let status = state.sandboxes.get(id).cloned().ok_or_else(|| not_found(id))?;
        let inside = state.containers.values().filter(|(sandbox, _)| sandbox == id);
        let containers_statuses = inside.map(|(_, status)| status.clone()).collect();
        Ok(cri::PodSandboxStatusResponse {
            status: Some(status),
            containers_statuses,
            timestamp,
            ..Default::default()
        })
    }

    async fn list_sandboxes(&self, _: Option<&str>) -> RuntimeResult<Vec<cri::PodSandbox>> {
        let state = self.state.lock().unwrap();
        let listed = state.sandboxes.values().map(|status| cri::PodSandbox {
            id: status.id.clone(),
            labels: status.labels.clone(),
            state: status.state,
            ..Default::default()
        });
        Ok(listed.collect())
    }

    async fn create_container(&self, request: cri::CreateContainerRequest) -> RuntimeResult<String> {
        let created_at = self.tick();
        let config = request.config.unwrap();
        let mut state = self.state.lock().unwrap();
        state.next += 1;
        let id = format!("c{}", state.next);
        let status = cri::ContainerStatus {
            id: id.clone(),
            metadata: config.metadata.clone(),
            state: cri::ContainerState::ContainerCreated as i32,
            created_at,
            image: config.image,
            labels: config.labels,
            annotations: config.annotations,
            log_path: config.log_path,
            resources: Some(cri::ContainerResources {
                linux: config.linux.and_then(|linux| linux.resources),
                ..Default::default()
            }),
            ..Default::default()
        };
        state.calls.push(format!("create {}", config.metadata.unwrap().name));
        state.containers.insert(id.clone(), (request.pod_sandbox_id, status));
        Ok(id)
    }

    async fn start_container(&self, id: &str) -> RuntimeResult<()> {
        let name = self.name_of(id);
        let now = self.tick();
        let mut state = self.state.lock().unwrap();
        state.calls.push(format!("start {name}"));
        let failure = state.failing_starts.get(&name).cloned();
        let (_, status) = state.containers.get_mut(id).ok_or_else(|| not_found(id))?;
        if let Some(reason) = failure {
            status.state = cri::ContainerState::ContainerExited as i32;
            (status.finished_at, status.exit_code, status.reason) = (now, 128, "StartError".into());
            return Err(RuntimeError::new(tonic::Code::Unknown, reason));
        }
        status.state = cri::ContainerState::ContainerRunning as i32;
        status.started_at = now;
        Ok(())
    }

    async fn stop_container(&self, id: &str, grace_seconds: i64) -> RuntimeResult<()> {
        self.call(format!("stop {} {grace_seconds}", self.name_of(id)));
        self.end(id, 143);
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> RuntimeResult<()> {
        self.call(format!("remove {}", self.name_of(id)));
        self.state.lock().unwrap().containers.remove(id);
        Ok(())
    }

    async fn container_status(&self, id: &str) -> RuntimeResult<cri::ContainerStatus> {
        let state = self.state.lock().unwrap();
        state.containers.get(id).map(|(_, status)| status.clone()).ok_or_else(|| not_found(id))
    }

    async fn list_containers(&self, _: Option<&str>) -> RuntimeResult<Vec<cri::Container>> {
        let state = self.state.lock().unwrap();
        let listed = state.containers.values().map(|(sandbox, status)| cri::Container {
            id: status.id.clone(),
            pod_sandbox_id: sandbox.clone(),
            labels: status.labels.clone(),
            state: status.state,
            ..Default::default()
        });
        Ok(listed.collect())
    }

    async fn container_stats(&self) -> RuntimeResult<Vec<cri::ContainerStats>> {
        Ok(Vec::new())
    }

    async fn update_resources(&self, id: &str, to: cri::LinuxContainerResources) -> RuntimeResult<()> {
        let mut state = self.state.lock().unwrap();
        if let Some(reason) = &state.failing_resizes {
            return Err(RuntimeError::new(tonic::Code::FailedPrecondition, reason.clone()));
        }
        let (_, status) = state.containers.get_mut(id).ok_or_else(|| not_found(id))?;
        status.resources = Some(cri::ContainerResources { linux: Some(to), ..Default::default() });
        Ok(())
    }

    async fn reopen_log(&self, _: &str) -> RuntimeResult<()> {
        Ok(())
    }

    async fn exec(&self, _: &str, _: Vec<String>, _: i64) -> RuntimeResult<cri::ExecSyncResponse> {
        Err(RuntimeError::new(tonic::Code::Unimplemented, "exec is not possible here"))
    }

    async fn stream(
        &self,
        _: mpsc::Receiver<dataplane::StreamRequest>,
    ) -> RuntimeResult<BoxStream<'static, RuntimeResult<dataplane::StreamResponse>>> {
        Err(RuntimeError::new(tonic::Code::Unimplemented, "exec is not possible here"))
    }

    async fn events(&self) -> RuntimeResult<BoxStream<'static, RuntimeResult<cri::ContainerEventResponse>>> {
        Ok(futures::stream::pending().boxed())
    }

    async fn image_status(&self, image: &str) -> RuntimeResult<Option<cri::Image>> {
        Ok(self.state.lock().unwrap().images.get(image).cloned())
    }

    async fn list_images(&self) -> RuntimeResult<Vec<cri::Image>> {
        Ok(self.state.lock().unwrap().images.values().cloned().collect())
    }

    async fn pull_image(&self, image: &str, auth: Option<cri::AuthConfig>) -> RuntimeResult<String> {
        let user = auth.map(|auth| format!(" as {}", auth.username)).unwrap_or_default();
        self.call(format!("pull {image}{user}"));
        if let Some(reason) = self.state.lock().unwrap().failing_pulls.get(image) {
            return Err(RuntimeError::new(tonic::Code::Unknown, reason.clone()));
        }
        self.add_image(image, "sha256:0002");
        Ok("sha256:0002".into())
    }

    async fn import_image(
        &self,
        name: &str,
        digest: &str,
        content: BoxStream<'static, Result<Bytes, String>>,
    ) -> RuntimeResult<String> {
        self.call(format!("import {name} of {} chunks", content.count().await));
        self.add_image(name, digest);
        Ok(digest.into())
    }

    async fn update_data_plane(
        &self,
        _: mpsc::Receiver<dataplane::UpdateRequest>,
    ) -> RuntimeResult<BoxStream<'static, RuntimeResult<dataplane::UpdateResponse>>> {
        Ok(futures::stream::pending().boxed())
    }
}
