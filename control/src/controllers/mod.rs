//! The controllers: each makes one part of the cluster match what its objects ask for.
//!
//! They are functions of cached state that answer a plan ([`framework`]); a worker carries the plan out as any
//! client would, under the controller's own user. One folder per controller.
//!
//! **Deliberately absent:** state of their own. What a controller knows, it reads from the cache on every look,
//! so that a restart, a failover and a retry are the same thing.

mod common;
mod deployment;
mod endpoints;
mod framework;
mod replica_set;
#[cfg(test)]
mod testing;

use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::ApiClient;
use framework::{Controller, Hub, Runner, RunnerSettings, Typed};

/// What the controllers need to know beside the objects.
#[derive(Debug, Clone)]
pub struct ControllerSettings {}

/// Starts every controller. They stop at `shutdown`; joining the handles waits for that.
pub fn spawn(
    client: ApiClient,
    settings: ControllerSettings,
    shutdown: CancellationToken,
) -> Vec<JoinHandle<()>> {
    let resources = client.resources().iter().map(naru_model::ResourceInfo::qualified).collect();
    let mut hub = Hub::new(client.store().clone(), resources);
    let runner = |controller| Runner::new(&mut hub, controller, &client, RunnerSettings::default());
    let runners = controllers(&settings).into_iter().map(runner).collect::<Vec<_>>();
    let hub = Arc::new(hub);
    let run = |runner: Runner| tokio::spawn(runner.run(hub.clone(), shutdown.clone()));
    let mut handles = runners.into_iter().map(run).collect::<Vec<_>>();
    let shutdown = shutdown.clone();
    handles.push(tokio::spawn(async move { hub.run(shutdown).await }));
    handles
}

fn controllers(_settings: &ControllerSettings) -> Vec<Arc<dyn Controller>> {
    vec![
        Arc::new(Typed(replica_set::ReplicaSets)),
        Arc::new(Typed(deployment::Deployments)),
        Arc::new(Typed(endpoints::EndpointSlices)),
        Arc::new(endpoints::LegacyEndpoints),
    ]
}
