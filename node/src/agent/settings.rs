//! What an agent needs to know to start.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

/// One node agent. Several may run in one process, each with its own data directory and runtime socket.
pub struct AgentSettings {
    pub api: kube::Config,
    pub node_name: String,
    /// Reported as `InternalIP`, in this order; node ports are served here.
    pub node_addresses: Vec<String>,
    /// Where node ports are served, too, without the Node object naming them; best effort.
    pub more_node_port_addresses: Vec<String>,
    /// Pods' volumes and logs live below.
    pub data_dir: PathBuf,
    /// The runtime's CRI socket. It need not exist yet.
    pub runtime_socket: PathBuf,
    /// Where the node API (logs, stats) listens; port 0 picks a free one, which the Node object then names.
    pub listen: SocketAddr,
    /// Extra labels of the Node.
    pub labels: BTreeMap<String, String>,
    /// `spec.podCIDR` to ask for when the agent creates the Node; without it the control plane assigns one.
    pub pod_cidr: Option<String>,
    pub max_pods: u32,
    pub cluster_domain: String,
    /// Capacity to report instead of the machine's: several nodes on one machine share it.
    pub cpu_millis: Option<u64>,
    pub memory_bytes: Option<u64>,
    /// Whether other nodes run on this machine: then this one has used what its pods have, and not all of the machine.
    pub is_machine_shared: bool,
    /// How often the node's Lease is renewed; it lasts four times as long.
    pub heartbeat: Duration,
}

impl AgentSettings {
    /// Kubernetes' defaults around what has no default.
    pub fn new(
        api: kube::Config,
        node_name: impl Into<String>,
        data_dir: PathBuf,
        runtime_socket: PathBuf,
    ) -> Self {
        Self {
            api,
            node_name: node_name.into(),
            node_addresses: vec!["127.0.0.1".into()],
            more_node_port_addresses: Vec::new(),
            data_dir,
            runtime_socket,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            labels: BTreeMap::new(),
            pod_cidr: None,
            max_pods: 10_000,
            cluster_domain: "cluster.local".into(),
            cpu_millis: None,
            memory_bytes: None,
            is_machine_shared: false,
            heartbeat: Duration::from_secs(10),
        }
    }
}

/// Why an agent cannot run at all.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("the API server's address or credentials cannot be used")]
    ApiAccess(#[source] kube::Error),
    #[error("data directory {path} is not writable")]
    DataDir { path: PathBuf, source: std::io::Error },
    #[error("the node API cannot listen on {address}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("runtime socket {path} cannot be used")]
    RuntimeSocket { path: PathBuf, source: tonic::transport::Error },
    #[error("the node API's TLS identity cannot be made: {0}")]
    Tls(String),
}
