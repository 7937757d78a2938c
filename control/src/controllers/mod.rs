//! The controllers: each makes one part of the cluster match what its objects ask for.
//!
//! They are functions of cached state that answer a plan ([`framework`]); a worker carries the plan out as any
//! client would, under the controller's own user. One folder per controller.
//!
//! **Deliberately absent:** state of their own. What a controller knows, it reads from the cache on every look,
//! so that a restart, a failover and a retry are the same thing.

mod accounts;
mod certificates;
mod cluster_roles;
mod common;
mod definitions;
mod deployment;
mod disruption;
mod endpoints;
mod event_ttl;
mod framework;
mod garbage;
mod namespace;
mod nodes;
mod policy_status;
mod quota;
mod replica_set;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod token_secrets;
mod volume_protection;

use std::{sync::Arc, time::Duration};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    ApiClient,
    auth::{Authorizer, TokenIssuer, signing::Authority},
    registry::Registry,
};
pub use namespace::{Found, OtherServers};

use framework::{Controller, Hub, Runner, RunnerSettings, Typed};

/// What the controllers need to know beside the objects.
#[derive(Clone)]
pub struct ControllerSettings {
    /// Ranges (`127.5.0.0/16`) that nodes' pod ranges are cut from; empty where somebody else assigns them.
    pub pod_cidrs: Vec<String>,
    /// Prefix length of one node's pod range.
    pub node_cidr_prefix: u8,
    /// How long a node may be silent before it counts as lost.
    pub node_monitor_grace_period: Duration,
    /// The cluster's CA in PEM, for `kube-root-ca.crt`.
    pub root_ca: String,
    /// Makes the tokens of Secrets; without one they stay empty.
    pub token_issuer: Option<Arc<TokenIssuer>>,
    /// Signs certificates, and knows whose requests need no approval; without them requests wait.
    pub certificates: Option<(Arc<Authority>, Arc<Authorizer>)>,
    /// What else serves objects in namespaces; without it only what is stored here counts.
    pub other_servers: Option<Arc<dyn OtherServers>>,
}

impl Default for ControllerSettings {
    fn default() -> Self {
        Self {
            pod_cidrs: Vec::new(),
            node_cidr_prefix: 24,
            node_monitor_grace_period: Duration::from_secs(50),
            root_ca: String::new(),
            token_issuer: None,
            certificates: None,
            other_servers: None,
        }
    }
}

/// Starts every controller. They stop at `shutdown`; joining the handles waits for that.
pub fn spawn(
    client: ApiClient,
    settings: ControllerSettings,
    shutdown: CancellationToken,
) -> Vec<JoinHandle<()>> {
    let mut hub = Hub::new(client.registry().clone());
    let runner = |controller| Runner::new(&mut hub, controller, &client, RunnerSettings::default());
    let runners =
        controllers(settings, client.registry().clone()).into_iter().map(runner).collect::<Vec<_>>();
    let hub = Arc::new(hub);
    let run = |runner: Runner| tokio::spawn(runner.run(hub.clone(), shutdown.clone()));
    let mut handles = runners.into_iter().map(run).collect::<Vec<_>>();
    handles.push(tokio::spawn(async move { hub.run(shutdown).await }));
    handles
}

/// `registry` knows which types there are for policies to be checked against, and which of them have a scale.
fn controllers(settings: ControllerSettings, registry: Registry) -> Vec<Arc<dyn Controller>> {
    let mut controllers: Vec<Arc<dyn Controller>> = vec![
        Arc::new(Typed(replica_set::ReplicaSets)),
        Arc::new(Typed(deployment::Deployments)),
        Arc::new(Typed(endpoints::EndpointSlices)),
        Arc::new(endpoints::LegacyEndpoints),
        Arc::new(accounts::ServiceAccounts),
        Arc::new(accounts::RootCa { certificate: settings.root_ca.clone() }),
        Arc::new(Typed(nodes::NodeLifecycle { grace: settings.node_monitor_grace_period })),
        Arc::new(nodes::TaintEviction),
        Arc::new(nodes::PodGc),
        Arc::new(garbage::GarbageCollector),
        Arc::new(Typed(namespace::Namespaces::new(settings.other_servers))),
        Arc::new(event_ttl::EventTtl),
        Arc::new(cluster_roles::ClusterRoleAggregation),
        Arc::new(Typed(definitions::Definitions)),
        Arc::new(Typed(policy_status::PolicyStatus { registry: registry.clone() })),
        Arc::new(Typed(disruption::Budgets { registry })),
        Arc::new(disruption::StaleTargets),
        Arc::new(Typed(quota::ResourceQuotas)),
        Arc::new(Typed(volume_protection::Claims)),
        Arc::new(Typed(volume_protection::Volumes)),
    ];
    if let Some((authority, authorizer)) = settings.certificates {
        controllers.push(Arc::new(certificates::Certificates { authority, authorizer }));
    }
    if let Some(issuer) = settings.token_issuer {
        controllers.push(Arc::new(token_secrets::TokenSecrets { issuer, root_ca: settings.root_ca }));
    }
    if !settings.pod_cidrs.is_empty() {
        let (pool, node_prefix) = (settings.pod_cidrs, settings.node_cidr_prefix);
        controllers.push(Arc::new(nodes::NodeIpam { pool, node_prefix }));
    }
    controllers
}
