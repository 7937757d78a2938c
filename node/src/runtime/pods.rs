//! The pods of this process: sandboxes, their containers, and what CRI asks of them.
//!
//! Invariant: an address belongs to one sandbox from its start to its removal; a container's record says how it
//! ended before anybody is told that it did. State lives here alone: when the process ends, so do its containers.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use k8s_cri::v1::{
    self as cri, ContainerConfig, ContainerEventResponse, ContainerEventType, ContainerMetadata,
    LinuxContainerResources, PodSandboxConfig, PodSandboxMetadata,
};
use naru_model::pod::RUNTIME_HANDLERS;
use naru_oci_fallback::ImageStore;
use naru_wasi_shim::Engine;

use super::{
    backend::{Prepared, Surroundings},
    container::{Container, NewContainer, now},
    error::PodError,
    events::Events,
    locals::Locals,
    log::LogFile,
    messages,
    outgoing::Outgoing,
    pod_network::PodNet,
    sandbox::{Sandbox, is_host_network},
};
use crate::network::Network;

/// How long containers that are ended from here, and not by kubelet with its grace period, may take.
const FORCED: Duration = Duration::ZERO;

pub(super) struct Pods {
    pub engine: Engine,
    pub images: ImageStore,
    pub network: Network,
    pub events: Events,
    pub locals: Arc<Locals>,
    outgoing: Arc<Outgoing>,
    /// Where containers have folders of their own.
    folder: PathBuf,
    /// Guards look-ups and changes of the maps, never held over `.await`.
    tables: Mutex<Tables>,
}

#[derive(Default)]
struct Tables {
    sandboxes: HashMap<String, Arc<Sandbox>>,
    containers: HashMap<String, Arc<Container>>,
    /// Containers by sandbox, in order of their creation.
    members: HashMap<String, Vec<String>>,
    /// Sandboxes and containers by name and attempt: kubelet never makes the same one twice, unless it lost an answer.
    names: BTreeMap<String, String>,
}

impl Pods {
    pub(super) fn new(engine: Engine, images: ImageStore, network: Network, folder: PathBuf) -> Self {
        let locals = Arc::new(Locals::new(network.clone()));
        let outgoing = Arc::new(Outgoing::new(Arc::clone(&locals)));
        Self {
            engine,
            images,
            network,
            events: Events::default(),
            locals,
            outgoing,
            folder,
            tables: Mutex::default(),
        }
    }

    pub(super) fn run_sandbox(&self, config: PodSandboxConfig, handler: String) -> Result<String, PodError> {
        if !handler.is_empty() && !RUNTIME_HANDLERS.contains(&handler.as_str()) {
            return Err(PodError::NoHandler(handler));
        }
        let metadata = config.metadata.as_ref().ok_or(PodError::Missing("the sandbox has no metadata"))?;
        let id = new_id();
        let name = self.reserve("pod sandbox name", sandbox_name(metadata), &id)?;
        let address = self.sandbox_address(&config)?;
        let sandbox = Sandbox::new(id.clone(), config, handler, address, &self.network, &self.outgoing);
        if let Err(message) = sandbox.open_host_ports() {
            sandbox.close_host_ports();
            sandbox.own_address.inspect(|address| self.network.release(*address));
            return Err(PodError::Start(message));
        }
        self.tables().sandboxes.insert(id.clone(), Arc::new(sandbox));
        name.keep();
        self.tell(&id, &id, ContainerEventType::ContainerCreatedEvent);
        self.tell(&id, &id, ContainerEventType::ContainerStartedEvent);
        Ok(id)
    }

    /// Ends all of its containers. What is gone already is stopped.
    pub(super) async fn stop_sandbox(&self, id: &str) -> Result<(), PodError> {
        let Ok(sandbox) = self.sandbox(id) else { return Ok(()) };
        let was_ready = sandbox.stop();
        if was_ready {
            sandbox.close_host_ports();
        }
        let stops = self.members(&sandbox.id).into_iter().map(|container| end(container, FORCED));
        futures::future::join_all(stops).await;
        if was_ready {
            self.tell(&sandbox.id, &sandbox.id, ContainerEventType::ContainerStoppedEvent);
        }
        Ok(())
    }

    pub(super) async fn remove_sandbox(&self, id: &str) -> Result<(), PodError> {
        let Ok(sandbox) = self.sandbox(id) else { return Ok(()) };
        self.stop_sandbox(&sandbox.id).await?;
        for container in self.members(&sandbox.id) {
            self.remove_container(&container.id).await?;
        }
        {
            let mut tables = self.tables();
            if tables.sandboxes.remove(&sandbox.id).is_none() {
                return Ok(()); // Somebody else was faster.
            }
            tables.members.remove(&sandbox.id);
            tables.names.remove(&sandbox_name(&sandbox.metadata()));
        }
        if let Some(address) = sandbox.own_address {
            self.network.release(address);
        }
        self.events.send(|| event(&sandbox, &[], &sandbox.id, ContainerEventType::ContainerDeletedEvent));
        Ok(())
    }

    pub(super) async fn create_container(
        &self,
        sandbox_id: &str,
        config: ContainerConfig,
    ) -> Result<String, PodError> {
        let sandbox = self.sandbox(sandbox_id)?;
        if !sandbox.is_ready() {
            return Err(PodError::SandboxNotReady(sandbox.id.clone()));
        }
        let metadata = config.metadata.as_ref().ok_or(PodError::Missing("the container has no metadata"))?;
        let id = new_id();
        let name = self.reserve("container name", container_name(&sandbox, metadata), &id)?;
        let container = self.prepare(&id, &sandbox, config).await?;
        {
            let mut tables = self.tables();
            // It may have been stopped, or removed, while a module was compiled.
            if !sandbox.is_ready() {
                return Err(PodError::SandboxNotReady(sandbox.id.clone()));
            }
            tables.containers.insert(id.clone(), Arc::new(container));
            tables.members.entry(sandbox.id.clone()).or_default().push(id.clone());
        }
        name.keep();
        self.tell(&sandbox.id, &id, ContainerEventType::ContainerCreatedEvent);
        Ok(id)
    }

    pub(super) async fn start_container(self: &Arc<Self>, id: &str) -> Result<(), PodError> {
        let container = self.container(id)?;
        if !container.sandbox.is_ready() {
            return Err(PodError::SandboxNotReady(container.sandbox.id.clone()));
        }
        let prepared = container
            .begin_start()
            .map_err(|state| PodError::NotCreated { id: container.id.clone(), state })?;
        // In a task of its own: a caller that hangs up must not leave it half started.
        let pods = Arc::clone(self);
        let started = tokio::spawn(async move { pods.start(container, prepared).await });
        started.await.unwrap_or_else(|error| Err(PodError::Start(error.to_string())))
    }

    /// Returns when it ended. A container that does not run is stopped already.
    pub(super) async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), PodError> {
        let container = self.container(id)?;
        // In a task of its own: a caller that hangs up must not take the grace period's end with it.
        let stopped = tokio::spawn(end(container, grace));
        stopped.await.map_err(|error| PodError::Start(error.to_string()))
    }

    /// Ends it if it still runs. What is gone already is removed.
    pub(super) async fn remove_container(&self, id: &str) -> Result<(), PodError> {
        let Ok(container) = self.container(id) else { return Ok(()) };
        end(Arc::clone(&container), FORCED).await;
        let sandbox = &container.sandbox;
        {
            let mut tables = self.tables();
            if tables.containers.remove(&container.id).is_none() {
                return Ok(());
            }
            if let Some(members) = tables.members.get_mut(&sandbox.id) {
                members.retain(|member| *member != container.id);
            }
            tables.names.remove(&container_name(sandbox, &container.metadata));
        }
        self.tell(&sandbox.id, &container.id, ContainerEventType::ContainerDeletedEvent);
        Ok(())
    }

    pub(super) fn update_resources(
        &self,
        id: &str,
        resources: LinuxContainerResources,
    ) -> Result<(), PodError> {
        self.container(id)?.update_resources(&resources).map_err(PodError::Resources)
    }

    pub(super) fn reopen_log(&self, id: &str) -> Result<(), PodError> {
        let container = self.container(id)?;
        if container.running().is_none() {
            return Err(PodError::NotRunning(container.id.clone()));
        }
        container.log.reopen().map_err(|source| log_error(&container.log, source))
    }

    pub(super) fn sandboxes(&self) -> Vec<Arc<Sandbox>> {
        self.tables().sandboxes.values().cloned().collect()
    }

    pub(super) fn containers(&self) -> Vec<Arc<Container>> {
        self.tables().containers.values().cloned().collect()
    }

    /// The containers of a sandbox, in order of their creation.
    pub(super) fn members(&self, sandbox: &str) -> Vec<Arc<Container>> {
        let tables = self.tables();
        let ids = tables.members.get(sandbox).into_iter().flatten();
        ids.filter_map(|id| tables.containers.get(id).cloned()).collect()
    }

    /// By its id or the beginning of it, if no other begins so.
    pub(super) fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>, PodError> {
        find(&self.tables().sandboxes, id).ok_or_else(|| PodError::NoSandbox(id.to_owned()))
    }

    pub(super) fn container(&self, id: &str) -> Result<Arc<Container>, PodError> {
        find(&self.tables().containers, id).ok_or_else(|| PodError::NoContainer(id.to_owned()))
    }

    /// Ends everything, when the process ends.
    pub(super) async fn shut_down(&self, grace: Duration) {
        self.network.close();
        let ends = self.containers().into_iter().map(|container| end(container, grace));
        futures::future::join_all(ends).await;
    }

    async fn prepare(
        &self,
        id: &str,
        sandbox: &Arc<Sandbox>,
        mut config: ContainerConfig,
    ) -> Result<Container, PodError> {
        let name = config.image.as_ref().map(|image| image.image.clone()).unwrap_or_default();
        let image = self.images.get(&name).ok_or(PodError::NoImage(name))?;
        let log = Arc::new(log(&sandbox.config.log_directory, &config.log_path)?);
        let network: Arc<PodNet> = Arc::clone(&sandbox.network);
        let around = Surroundings {
            engine: &self.engine,
            images: &self.images,
            locals: &self.locals,
            network,
            log: Arc::clone(&log),
            sandbox: &sandbox.config,
            folder: self.folder.join(id),
        };
        let prepared = Prepared::new(&image, &mut config, around).await?;
        let new = NewContainer {
            id: id.to_owned(),
            sandbox: Arc::clone(sandbox),
            config,
            image_ref: messages::image_ref(&image),
            image_id: image.digest,
            log,
        };
        Ok(Container::new(new, prepared))
    }

    async fn start(self: Arc<Self>, container: Arc<Container>, prepared: Prepared) -> Result<(), PodError> {
        let running = match prepared.start(container.resources().as_ref()).await {
            Ok(running) => running,
            Err(message) => {
                container.failed_to_start(message.clone());
                return Err(PodError::Start(message));
            }
        };
        container.runs(running.clone());
        self.tell(&container.sandbox.id, &container.id, ContainerEventType::ContainerStartedEvent);
        if !container.sandbox.is_ready() {
            // The sandbox was stopped at this moment, and may not have seen this container.
            tokio::spawn(end(Arc::clone(&container), FORCED));
        }
        tokio::spawn(async move {
            let status = running.wait().await;
            drop(running);
            container.ended(status);
            self.tell(&container.sandbox.id, &container.id, ContainerEventType::ContainerStoppedEvent);
        });
        Ok(())
    }

    fn sandbox_address(&self, config: &PodSandboxConfig) -> Result<IpAddr, PodError> {
        if is_host_network(config) {
            let own = self.network.node_address();
            return own.ok_or(PodError::Missing("the node has no address yet for pods with hostNetwork"));
        }
        Ok(self.network.allocate()?.into())
    }

    fn reserve(&self, what: &'static str, name: String, id: &str) -> Result<Reservation<'_>, PodError> {
        let mut tables = self.tables();
        if let Some(holder) = tables.names.get(&name) {
            return Err(PodError::Reserved { what, name, id: holder.clone() });
        }
        tables.names.insert(name.clone(), id.to_owned());
        Ok(Reservation { pods: self, name: Some(name) })
    }

    /// Tells the listeners what happened to a container, or to the sandbox itself.
    fn tell(&self, sandbox: &str, subject: &str, what: ContainerEventType) {
        self.events.send(|| match self.sandbox(sandbox) {
            Ok(sandbox) => event(&sandbox, &self.members(&sandbox.id), subject, what),
            // Removed meanwhile; the listener learns of that by the next event.
            Err(_) => ContainerEventResponse {
                container_id: subject.to_owned(),
                container_event_type: what.into(),
                created_at: now(),
                ..ContainerEventResponse::default()
            },
        });
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A name that is free again unless it is kept: also when the caller hangs up in the middle of a call.
struct Reservation<'a> {
    pods: &'a Pods,
    name: Option<String>,
}

impl Reservation<'_> {
    fn keep(mut self) {
        self.name = None;
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            self.pods.tables().names.remove(name);
        }
    }
}

fn sandbox_name(metadata: &PodSandboxMetadata) -> String {
    format!("{}_{}_{}_{}", metadata.name, metadata.namespace, metadata.uid, metadata.attempt)
}

fn container_name(sandbox: &Sandbox, metadata: &ContainerMetadata) -> String {
    format!("{}_{}_{}", sandbox.id, metadata.name, metadata.attempt)
}

/// Returns when the container is not running any more.
async fn end(container: Arc<Container>, grace: Duration) {
    container.wait_started().await;
    if let Some(running) = container.running() {
        running.stop(grace).await;
        container.wait_ended().await;
    }
}

fn event(
    sandbox: &Sandbox,
    members: &[Arc<Container>],
    subject: &str,
    what: ContainerEventType,
) -> ContainerEventResponse {
    ContainerEventResponse {
        container_id: subject.to_owned(),
        container_event_type: what.into(),
        created_at: now(),
        pod_sandbox_status: Some(messages::sandbox_status(sandbox)),
        containers_statuses: members.iter().map(|container| messages::container_status(container)).collect(),
    }
}

fn log(folder: &str, file: &str) -> Result<LogFile, PodError> {
    if folder.is_empty() || file.is_empty() {
        return Ok(LogFile::discard());
    }
    let path = PathBuf::from(folder).join(file);
    LogFile::new(path.clone()).map_err(|source| PodError::Log { path: path.display().to_string(), source })
}

fn log_error(log: &LogFile, source: std::io::Error) -> PodError {
    PodError::Log { path: log.path().display().to_string(), source }
}

fn find<T>(map: &HashMap<String, Arc<T>>, id: &str) -> Option<Arc<T>> {
    if let Some(found) = map.get(id) {
        return Some(Arc::clone(found));
    }
    if id.is_empty() || id.len() >= 64 {
        return None;
    }
    let mut found = map.iter().filter(|(key, _)| key.starts_with(id));
    match (found.next(), found.next()) {
        (Some((_, only)), None) => Some(Arc::clone(only)),
        _ => None,
    }
}

/// 64 hexadecimal digits, as other runtimes have them.
fn new_id() -> String {
    hex::encode(rand::random::<[u8; 32]>())
}

/// The status of a sandbox with its containers, as one look.
pub(super) fn statuses(pods: &Pods, sandbox: &Sandbox) -> Vec<cri::ContainerStatus> {
    pods.members(&sandbox.id).iter().map(|container| messages::container_status(container)).collect()
}
