//! `naru server`: a control-plane member on its own.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use naru_control::{
    ClusterSettings, ControlPlane, PlaneSettings,
    auth::{AuthenticationSettings, pki::write_file},
};
use naru_model::loopback::Block;

use crate::{
    args::{ApiArgs, ServerArgs},
    cluster,
    loopback::{self, Claim},
    signals,
};

/// How many ranges for pods a cluster keeps ready when its nodes come and go by themselves.
const NODE_RANGES: u32 = 12;

pub async fn run(args: ServerArgs) -> anyhow::Result<()> {
    let shutdown = signals::shutdown_token()?;
    let data_dir = args.data_dir.map_or_else(cluster::default_data_dir, Ok)?;
    let grace = args.node_monitor_grace_period.map(Duration::from_secs);
    let authentication = args.authentication.into();
    let member = Member::start(&data_dir, args.listen, NODE_RANGES, grace, authentication, args.api).await?;
    println!("naru server is ready; KUBECONFIG={}", member.kubeconfig.display());
    shutdown.cancelled().await;
    member.plane.shutdown().await;
    Ok(())
}

/// A control-plane member of this process, with the addresses that it claimed.
pub struct Member {
    pub plane: ControlPlane,
    pub kubeconfig: PathBuf,
    pub claim: Claim,
}

impl Member {
    /// Starts a member in `data_dir` and writes its kubeconfig there. `grace` is how long a node may be silent, where
    /// that is not to be the default.
    pub async fn start(
        data_dir: &Path,
        listen: std::net::SocketAddr,
        nodes: u32,
        grace: Option<Duration>,
        authentication: AuthenticationSettings,
        api: ApiArgs,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(data_dir)
            .with_context(|| format!("cannot use the data directory {}", data_dir.display()))?;
        let claim = loopback::claim(data_dir)?;
        let settings = PlaneSettings {
            data_dir: data_dir.join("server"),
            listen,
            cluster: cluster_settings(claim.block)?,
            authentication,
            pod_cidrs: claim.block.pod_pool(),
            node_cidr_prefix: Block::node_cidr_prefix(nodes),
            max_requests_inflight: api
                .max_requests_inflight
                .saturating_add(api.max_mutating_requests_inflight)
                .max(1),
            request_timeout: api.request_timeout,
            encryption: api.encryption_provider_config.clone(),
            audit: api.audit(),
            node_monitor_grace_period: grace,
        };
        let plane = ControlPlane::start(settings).await?;
        let kubeconfig = data_dir.join("kubeconfig");
        write_file(&kubeconfig, &plane.admin_kubeconfig(), 0o600)?;
        Ok(Self { plane, kubeconfig, claim })
    }
}

fn cluster_settings(block: Block) -> anyhow::Result<ClusterSettings> {
    let service_cidr = block.service_cidr().parse().map_err(anyhow::Error::msg)?;
    Ok(ClusterSettings { service_cidr, ..ClusterSettings::default() })
}
