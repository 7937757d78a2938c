//! Kubelet's job: keeps the pods that are bound to this node running, and reports what became of them.
//!
//! The agent speaks the public Kubernetes API to the control plane and CRI v1 (plus our data plane service, on the
//! same socket) to the runtime, and nothing else: it can join any conformant cluster, and restarting it touches no
//! workload, because everything it knows is read back from those two.
//!
//! One task per pod (`worker`) turns the pod's spec and what the runtime says into a plan (`decide`, pure) and
//! carries it out. All pods share one watch, one event stream, one image puller, and one writer of statuses.
//!
//! Not here: running containers (the runtime), routing traffic (the data plane), choosing nodes (the scheduler).

mod backoff; // Exponential delays, as values.
mod cluster; // The Kubernetes API as the workers see it.
mod dataplane_feed; // Services and endpoints for the runtime's data plane.
mod decide; // The decision: spec, observation and time in, actions out.
mod environment; // Environment variables, command and arguments.
mod event_correlator; // Which events are worth a write.
mod events; // Events, written in the background.
mod expansion; // $(VAR) in commands and values.
mod field_path; // Downward API: fields and resources of the pod itself.
mod hooks; // postStart and preStop.
mod http_client; // One HTTP request, for probes and hooks.
mod identity; // Names of things: labels, directories, references.
mod image_puller; // Images: cluster store first, then registries; one pull at a time per image.
mod inbox; // News for one pod's worker.
mod json_patch; // The status patch.
mod log_rotation; // Keeps log files within bounds.
mod logs; // CRI log files, as `kubectl logs` wants them.
mod machine_usage; // What the machine has used.
mod memory_dir; // Where volumes with secrets live.
mod node_api; // The node's HTTPS server.
mod node_stats; // What the node and its pods use.
mod node_status; // Registration, heartbeats, conditions.
mod node_streams; // Its connections that become streams.
mod node_usage; // What counts as used by the node.
mod objects; // ConfigMaps and Secrets, briefly cached.
mod observed; // What the runtime says about one pod.
mod pod_manager; // Hands pods, runtime events and refreshes to the workers.
mod pod_status; // What we report about a pod.
mod pod_view; // Facts about a pod's spec.
mod probe; // When a probe's answer counts.
mod prober; // Runs probes.
mod resize; // Other sizes for containers that run.
mod resources; // Quantities and what CRI makes of them.
mod runtime; // The CRI runtime as the workers see it.
mod runtime_grpc; // The same, over a Unix socket.
mod sandbox; // CRI configurations for sandboxes and containers.
mod services; // Services, for environment variables and the data plane.
mod settings;
mod shared; // What all workers of an agent share.
mod status_writer; // Status writes: coalesced and bounded.
mod streaming; // The protocols of exec, attach and port-forward.
mod termination_message; // What a container says of its own end.
mod tokens;
mod volume_writer; // Files that change all at once.
mod volumes; // A pod's volumes, as files of this node.
mod worker; // One pod's task.

#[cfg(test)]
mod fakes; // A runtime and a cluster in memory.

pub use memory_dir::remove as remove_volumes_in_memory;
pub use settings::{AgentError, AgentSettings};

use tokio_util::sync::CancellationToken;

/// Runs a node's agent until `shutdown`; workloads go on running after it returns.
///
/// Registers the node, adopts what the runtime already runs, and follows the API from there. Losses of connection, to
/// the API or to the runtime, are waited out.
///
/// # Errors
/// Only what no waiting can mend: an unusable kubeconfig, data directory or listen address.
pub async fn run(settings: AgentSettings, shutdown: CancellationToken) -> Result<(), AgentError> {
    shared::run(settings, shutdown).await
}
