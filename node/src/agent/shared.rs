//! What all workers of one agent share, and how the agent is put together.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use tokio::{
    sync::{Notify, Semaphore},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{
    cluster::{self, Cluster, KubeCluster},
    dataplane_feed::DataPlaneFeed,
    events::Events,
    identity::Directories,
    image_puller::ImagePuller,
    log_rotation, memory_dir,
    node_api::NodeApi,
    node_status::{NodeStatus, machine_allocatable},
    node_usage::NodeUsage,
    objects::Objects,
    pod_manager::{PodManager, Workers},
    pod_status::NodeFacts,
    resources::Allocatable,
    runtime::Runtime,
    runtime_grpc::GrpcRuntime,
    services::Services,
    settings::{AgentError, AgentSettings},
    status_writer::StatusWriter,
};

/// Starts that talk to the runtime at the same time: enough to keep it busy, few enough that early ones finish early.
const CONCURRENT_STARTS: usize = 64;

pub struct Shared {
    pub node_name: String,
    pub cluster_domain: String,
    pub runtime: Arc<dyn Runtime>,
    /// There is a new connection to the runtime: it may be another process, which knows nothing yet.
    pub runtime_connected: Notify,
    pub cluster: Arc<dyn Cluster>,
    pub events: Events,
    pub puller: ImagePuller,
    pub objects: Arc<Objects>,
    pub services: Arc<Services>,
    pub statuses: Arc<StatusWriter>,
    pub directories: Directories,
    pub facts: NodeFacts,
    pub allocatable: Allocatable,
    pub usage: NodeUsage,
    /// Held while the size of a pod is agreed to, never over an await: two pods are not given the same room.
    pub resizing: Mutex<()>,
    pub start_permits: Semaphore,
    /// Of all pods here.
    pub workers: Workers,
}

/// What distinguishes one agent from another, for the workers.
pub struct NodeIdentity {
    pub node_name: String,
    pub node_addresses: Vec<String>,
    pub cluster_domain: String,
    pub directories: Directories,
    pub allocatable: Allocatable,
    pub is_machine_shared: bool,
}

impl Shared {
    pub fn new(
        node: NodeIdentity,
        runtime: Arc<dyn Runtime>,
        cluster: Arc<dyn Cluster>,
        shutdown: &CancellationToken,
    ) -> Self {
        let events = Events::start(cluster.clone(), &node.node_name, shutdown.clone());
        let objects = Arc::new(Objects::new(cluster.clone()));
        let puller = ImagePuller::new(runtime.clone(), cluster.clone(), objects.clone(), events.clone());
        Self {
            node_name: node.node_name,
            cluster_domain: node.cluster_domain,
            runtime,
            runtime_connected: Notify::new(),
            statuses: Arc::new(StatusWriter::new(cluster.clone())),
            cluster,
            events,
            puller,
            objects,
            services: Arc::new(Services::default()),
            directories: node.directories,
            // A pod reports one host address per family; the others are where node ports are served.
            facts: NodeFacts {
                host_ips: node.node_addresses.into_iter().take(1).collect(),
                runtime_name: "naru".into(),
            },
            allocatable: node.allocatable,
            usage: NodeUsage::new(node.is_machine_shared),
            resizing: Mutex::default(),
            start_permits: Semaphore::new(CONCURRENT_STARTS),
            workers: Workers::default(),
        }
    }
}

/// See [`super::run`].
pub async fn run(settings: AgentSettings, shutdown: CancellationToken) -> Result<(), AgentError> {
    let stop = shutdown.child_token();
    // Whatever ends this function ends everything that it started.
    let _stop_on_return = stop.clone().drop_guard();
    make_directories(&settings.data_dir)?;
    let client = cluster::connect(&settings.api)?;
    let runtime: Arc<dyn Runtime> = Arc::new(GrpcRuntime::new(&settings.runtime_socket)?);
    let node = NodeIdentity {
        node_name: settings.node_name.clone(),
        node_addresses: settings.node_addresses.clone(),
        cluster_domain: settings.cluster_domain.clone(),
        directories: Directories::new(&settings.data_dir).with_texts_in(memory_dir::open(&settings.data_dir)),
        allocatable: machine_allocatable(&settings),
        is_machine_shared: settings.is_machine_shared,
    };
    let kube_cluster = Arc::new(KubeCluster::new(client.clone()));
    let shared = Arc::new(Shared::new(node, runtime, kube_cluster, &stop));
    let workers = shared.workers.clone();
    let api = NodeApi::bind(&settings, shared.clone(), workers.clone()).await?;
    let status = NodeStatus::new(&settings, client.clone(), shared.clone(), api.port());
    let node_port_addresses =
        [settings.node_addresses.clone(), settings.more_node_port_addresses.clone()].concat();
    let feed = DataPlaneFeed::new(shared.clone(), node_port_addresses);
    let manager = PodManager::new(shared.clone(), workers.clone());

    let mut tasks = JoinSet::new();
    tasks.spawn(shared.statuses.clone().run(stop.clone()));
    tasks.spawn(api.run(stop.clone()));
    tasks.spawn(status.run(stop.clone()));
    tasks.spawn(feed.run(client.clone(), stop.clone()));
    tasks.spawn(log_rotation::run(shared.clone(), workers, stop.clone()));
    tasks.spawn(manager.run(client, stop.clone()));
    shutdown.cancelled().await;
    while tasks.join_next().await.is_some() {}
    Ok(())
}

fn make_directories(data_dir: &Path) -> Result<(), AgentError> {
    let directories = Directories::new(data_dir);
    for directory in [directories.pods(), directories.logs()] {
        std::fs::create_dir_all(&directory)
            .map_err(|source| AgentError::DataDir { path: data_dir.to_owned(), source })?;
    }
    Ok(())
}
