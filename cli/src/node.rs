//! `naru node`: a node agent, with a runtime that outlives it.

use std::{net::IpAddr, path::Path};

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::{Node, Service};
use kube::{Api, Client, config::KubeConfigOptions};
use naru_model::loopback::Block;
use naru_node::agent::{self, AgentSettings};
use tokio::net::UnixStream;

use crate::{
    args::{GuestArgs, NodeArgs},
    children::{Runtime, RuntimeSpec},
    cluster, signals,
};

pub async fn run(args: NodeArgs) -> anyhow::Result<()> {
    let shutdown = signals::shutdown_token()?;
    let name = args.name.map_or_else(host_name, Ok)?;
    let data_dir = match args.data_dir {
        Some(dir) => dir,
        None => cluster::default_data_dir()?.join("nodes").join(&name),
    };
    std::fs::create_dir_all(&data_dir)
        .with_context(|| format!("cannot use the data directory {}", data_dir.display()))?;
    let config = config(&args.kubeconfig).await?;
    let socket = args.runtime_socket.unwrap_or_else(|| data_dir.join("runtime.sock"));
    ensure_runtime(&socket, &data_dir, args.guests).await?;
    let address = match args.address {
        Some(address) => address,
        None => choose_address(&config, &name).await?,
    };
    let mut settings = AgentSettings::new(config, name, data_dir, socket);
    settings.node_addresses = vec![address.to_string()];
    settings.listen = (address, 0).into();
    agent::run(settings, shutdown).await.context("the node agent cannot run")
}

/// The host's name in the form of a node's.
fn host_name() -> anyhow::Result<String> {
    let name = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    let name: String =
        name.chars().filter(|letter| letter.is_ascii_alphanumeric() || "-.".contains(*letter)).collect();
    if name.is_empty() {
        bail!("this host has no name; say --name NAME");
    }
    Ok(name)
}

async fn config(kubeconfig: &Path) -> anyhow::Result<kube::Config> {
    let file = kube::config::Kubeconfig::read_from(kubeconfig)
        .with_context(|| format!("cannot read the kubeconfig {}", kubeconfig.display()))?;
    kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .with_context(|| format!("the kubeconfig {} cannot be used", kubeconfig.display()))
}

/// Takes the runtime that answers on `socket`, else starts one that outlives this agent.
async fn ensure_runtime(socket: &Path, data_dir: &Path, guests: GuestArgs) -> anyhow::Result<()> {
    if UnixStream::connect(socket).await.is_ok() {
        return Ok(());
    }
    let spec = RuntimeSpec {
        socket: socket.to_owned(),
        data_dir: data_dir.join("runtime"),
        exit_with_parent: false,
        harden_guests: guests.harden_guests,
        log: Some(data_dir.join("runtime.log")),
    };
    Runtime::start(spec)?
        .wait_for_socket()
        .await
        .with_context(|| format!("see {}", data_dir.join("runtime.log").display()))
}

/// An address of the cluster's loopback block that no other node has: the node's old one, or one by its name.
async fn choose_address(config: &kube::Config, name: &str) -> anyhow::Result<IpAddr> {
    let client = Client::try_from(config.clone()).context("cannot make a client from the kubeconfig")?;
    let services: Api<Service> = Api::namespaced(client.clone(), "default");
    let kubernetes = services.get("kubernetes").await.context("cannot reach the cluster")?;
    let service_ip = kubernetes.spec.and_then(|spec| spec.cluster_ip).unwrap_or_default();
    let Some(block) = service_ip.parse().ok().and_then(Block::of) else {
        bail!("the cluster does not use loopback addresses ({service_ip}); say --address ADDR");
    };
    let nodes = Api::<Node>::all(client).list(&Default::default()).await.context("cannot list the nodes")?;
    let mut taken = Vec::new();
    for node in nodes {
        let address = internal_address(&node).unwrap_or_default();
        match address.parse::<IpAddr>() {
            Ok(address) if node.metadata.name.as_deref() == Some(name) => return Ok(address),
            Ok(address) => taken.push(address),
            Err(_) => {}
        }
    }
    // Two nodes that start at once most likely have names that lead them to different places.
    let start = name.bytes().fold(5381u32, |hash, byte| hash.wrapping_mul(33) ^ u32::from(byte)) % 10_000;
    (0..10_000)
        .filter_map(|offset| block.node_address((start + offset) % 10_000).map(IpAddr::V4))
        .find(|address| !taken.contains(address))
        .context("no address is free for this node")
}

fn internal_address(node: &Node) -> Option<String> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    addresses.iter().find(|of| of.type_ == "InternalIP").map(|of| of.address.clone())
}
