//! `naru up`: a whole cluster on this machine, in the foreground.
//!
//! The control plane and the agents are tasks of this process, each node's runtime is a child. Runtimes start first and
//! come up beside the control plane, which is most of what makes a start quick.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::Node;
use kube::config::{KubeConfigOptions, Kubeconfig};
use naru_control::store::{Revision, Scope, Store};
use naru_node::agent::{self, AgentError, AgentSettings};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    args::{GuestArgs, UpArgs},
    children::{Runtime, RuntimeSpec},
    cluster, manifests,
    server::Member,
    signals,
};

/// How long nodes may take to become Ready.
const READY_DEADLINE: Duration = Duration::from_mins(1);
/// How long a runtime may take to end its containers.
const RUNTIME_GRACE: Duration = Duration::from_secs(10);

pub async fn run(args: UpArgs) -> anyhow::Result<()> {
    let shutdown = signals::shutdown_token()?;
    let data_dir = args.data_dir.clone().map_or_else(cluster::default_data_dir, Ok)?;
    std::fs::create_dir_all(&data_dir)
        .with_context(|| format!("cannot use the data directory {}", data_dir.display()))?;
    let _lock = lock(&data_dir)?;
    let mut running = Running::default();
    let outcome = tokio::select! {
        outcome = running.start_and_serve(&args, &data_dir, &shutdown) => outcome,
        () = shutdown.cancelled() => Ok(()),
    };
    running.stop().await;
    outcome
}

/// One cluster per data directory: the lock goes with the process.
fn lock(data_dir: &Path) -> anyhow::Result<std::fs::File> {
    let path = data_dir.join("lock");
    let file = std::fs::File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(|| format!("cannot write {}", path.display()))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => bail!(
            "the data directory {} is in use by another naru; stop it, or choose another with --data-dir",
            data_dir.display()
        ),
        Err(error) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// Everything that was started, so that all of it is stopped, however far the start came.
#[derive(Default)]
struct Running {
    member: Option<Member>,
    /// With the names of their nodes.
    runtimes: Vec<(String, Runtime)>,
    agents: JoinSet<Result<(), AgentError>>,
    /// The agents' data directories.
    agent_dirs: Vec<PathBuf>,
    agents_stop: CancellationToken,
}

impl Running {
    /// Starts all parts, says when they are ready, and waits for one to fail or for the end.
    async fn start_and_serve(
        &mut self,
        args: &UpArgs,
        data_dir: &Path,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<()> {
        let nodes: Vec<NodePlan> =
            (0..args.nodes).map(|index| NodePlan::new(data_dir, args.nodes, index)).collect();
        for node in &nodes {
            std::fs::create_dir_all(&node.data_dir)
                .with_context(|| format!("cannot use the data directory {}", node.data_dir.display()))?;
            self.runtimes.push((node.name.clone(), Runtime::start(node.runtime(args.guests))?));
        }
        let authentication = args.authentication.clone().into();
        let api = args.api.clone();
        let member = Member::start(data_dir, args.listen, args.nodes, None, authentication, api).await?;
        let member = self.member.insert(member);
        // What an earlier life of the cluster said of its nodes does not count.
        let before = member.plane.client().store().snapshot().revision();
        let ranges = member.claim.block.pod_cidrs(args.nodes);
        for ((index, node), range) in (0u32..).zip(&nodes).zip(ranges) {
            let config = node_config(&member.plane.node_kubeconfig(&node.name)?).await?;
            let mut settings =
                AgentSettings::new(config, node.name.clone(), node.data_dir.clone(), node.socket());
            let address = member.claim.block.node_address(index).context("more nodes than addresses")?;
            settings.node_addresses = vec![address.to_string()];
            settings.listen = (address, 0).into();
            settings.pod_cidr = Some(range);
            settings.is_machine_shared = nodes.len() > 1;
            if index == 0 {
                // People look for node ports on the address that they know.
                settings.more_node_port_addresses.push("127.0.0.1".into());
            }
            let (_, runtime) = &mut self.runtimes[index as usize];
            runtime.wait_for_socket().await.with_context(|| format!("see {}", node.log().display()))?;
            self.agent_dirs.push(node.data_dir.clone());
            self.agents.spawn(agent::run(settings, self.agents_stop.clone()));
        }
        let ready = wait_until_ready(member.plane.client().store(), before, nodes.len());
        tokio::time::timeout(READY_DEADLINE, ready)
            .await
            .with_context(|| format!("not every node is Ready within {READY_DEADLINE:?}; -v says more"))?;
        let client = cluster::client(Some(&member.kubeconfig)).await?;
        for manifest in &args.manifests {
            manifests::apply(&client, manifest).await?;
        }
        println!(
            "naru is ready: {} serves {}; KUBECONFIG={}",
            member.plane.url(),
            count(nodes.len()),
            member.kubeconfig.display()
        );
        self.watch_over(shutdown).await
    }

    /// Waits for the end. Runtimes are kept running; an agent that ends by itself is a failure.
    async fn watch_over(&mut self, shutdown: &CancellationToken) -> anyhow::Result<()> {
        let runtimes = self.runtimes.iter_mut().map(|(node, runtime)| runtime.keep_running(node));
        tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            Some(ended) = self.agents.join_next() => match ended {
                Ok(Ok(())) => bail!("a node agent ended by itself"),
                Ok(Err(error)) => Err(error).context("a node agent cannot go on"),
                Err(error) => Err(error).context("a node agent failed"),
            },
            _ = futures::future::join_all(runtimes) => unreachable!("they are kept running until dropped"),
        }
    }

    /// Agents first, so that they report nothing about what follows; then runtimes; the control plane last.
    async fn stop(&mut self) {
        self.agents_stop.cancel();
        while self.agents.join_next().await.is_some() {}
        let runtimes = self.runtimes.iter_mut().map(|(_, runtime)| runtime.stop(RUNTIME_GRACE));
        futures::future::join_all(runtimes).await;
        // No container is left to read them.
        self.agent_dirs.iter().for_each(|data_dir| agent::remove_volumes_in_memory(data_dir));
        if let Some(member) = self.member.take() {
            member.plane.shutdown().await;
        }
    }
}

fn count(nodes: usize) -> String {
    if nodes == 1 { "1 node".into() } else { format!("{nodes} nodes") }
}

/// One node of the cluster and where its things are.
struct NodePlan {
    name: String,
    data_dir: PathBuf,
}

impl NodePlan {
    /// `naru`, or `naru-1` to `naru-N` where there are several.
    fn new(data_dir: &Path, nodes: u32, index: u32) -> Self {
        let name = if nodes == 1 { "naru".to_owned() } else { format!("naru-{}", index + 1) };
        Self { data_dir: data_dir.join("nodes").join(&name), name }
    }

    fn socket(&self) -> PathBuf {
        self.data_dir.join("runtime.sock")
    }

    fn log(&self) -> PathBuf {
        self.data_dir.join("runtime.log")
    }

    fn runtime(&self, guests: GuestArgs) -> RuntimeSpec {
        RuntimeSpec {
            socket: self.socket(),
            data_dir: self.data_dir.join("runtime"),
            exit_with_parent: true,
            harden_guests: guests.harden_guests,
            log: Some(self.log()),
        }
    }
}

async fn node_config(kubeconfig: &str) -> anyhow::Result<kube::Config> {
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig).context("the node's kubeconfig")?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    config.context("the node's kubeconfig cannot be used")
}

/// Waits until so many nodes have said after revision `before` that they are Ready.
async fn wait_until_ready(store: &Store, before: Revision, nodes: usize) {
    let scope = Scope::all("nodes");
    loop {
        let snapshot = store.snapshot();
        let fresh = snapshot.range(&scope, None).filter(|entry| entry.revision > before);
        let ready =
            fresh.filter_map(|entry| entry.typed::<Node>().ok()).filter(|node| is_ready(node)).count();
        if ready >= nodes {
            return;
        }
        let Ok(mut watch) = store.watch(scope.clone(), snapshot.revision()) else { continue };
        let _ = watch.next().await;
    }
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|of| of.type_ == "Ready" && of.status == "True"))
}
