//! Finds a node for every pod that has none.
//!
//! One pod at a time, in order of priority: every rule that has a say ([`framework`], one file each in `plugins/`)
//! filters the nodes, those left are scored, the best is chosen, and the pod is assumed there at once, so that the
//! next decision need not wait for the bind, of which many are under way at any time. A pod that fits nowhere is told
//! why, and is looked at again when a node changes so that it would fit.
//!
//! **Invariant:** decisions are pure ([`core`]); only the driver writes, and only through the API.
//! Not here: preemption, volumes, the constraints of `topologySpreadConstraints` and pod affinity; a pod that has any
//! of these is placed by the other rules.

mod amounts; // Resources as integers.
mod cache; // The cluster as it is and as it was decided to be.
mod choose; // Filter, score, pick.
pub mod core; // Decides; knows no clock and no task.
mod driver; // Watches, binds, waits.
pub mod framework; // What a rule is.
mod node_info;
pub mod plugins; // The rules.
mod pod_info;
mod queue; // Pods that wait.
mod report; // Events and conditions.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Event, Pod};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{ApiClient, ApiError, client::Patch, store::Store};

pub use amounts::Amounts;
pub use node_info::NodeInfo;
pub use pod_info::{Footprint, HostPort, PodInfo, PodKey, SCHEDULER_NAME};
use pod_info::{is_gated, is_ours, key_of};

/// Starts the scheduler; it ends soon after `shutdown`, with the binds under way finished.
pub fn spawn(client: ApiClient, shutdown: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(driver::run(Arc::new(client), rand::random(), shutdown))
}

/// Why a bind did not succeed.
#[derive(Debug)]
enum BindFailure {
    Refused(String),
    /// It may still take effect.
    Unknown(String),
}

/// What the scheduler reads and writes: the API in earnest, a store alone in tests.
#[async_trait]
trait Cluster: Send + Sync + 'static {
    fn store(&self) -> &Store;
    async fn bind(&self, pod: &PodInfo, node: &str) -> Result<(), BindFailure>;
    async fn patch_pod_status(&self, pod: &PodInfo, patch: serde_json::Value) -> Result<(), ApiError>;
    async fn create_event(&self, event: &Event) -> Result<(), ApiError>;
    async fn patch_event(
        &self,
        namespace: &str,
        name: &str,
        patch: serde_json::Value,
    ) -> Result<(), ApiError>;
}

#[async_trait]
impl Cluster for ApiClient {
    fn store(&self) -> &Store {
        ApiClient::store(self)
    }

    async fn bind(&self, pod: &PodInfo, node: &str) -> Result<(), BindFailure> {
        let bound = ApiClient::bind(self, pod.namespace(), pod.name(), pod.uid(), node).await;
        bound.map_err(|error| match error {
            ApiError::OutcomeUnknown => BindFailure::Unknown(error.to_string()),
            error => BindFailure::Refused(error.to_string()),
        })
    }

    async fn patch_pod_status(&self, pod: &PodInfo, patch: serde_json::Value) -> Result<(), ApiError> {
        self.patch::<Pod>(pod.namespace(), pod.name(), "status", Patch::Strategic(patch)).await.map(drop)
    }

    async fn create_event(&self, event: &Event) -> Result<(), ApiError> {
        self.create(event).await.map(drop)
    }

    async fn patch_event(
        &self,
        namespace: &str,
        name: &str,
        patch: serde_json::Value,
    ) -> Result<(), ApiError> {
        self.patch::<Event>(namespace, name, "", Patch::Merge(patch)).await.map(drop)
    }
}
