//! The data plane: addresses, names and connections of the pods of a node.
//!
//! A [`Network`] is told by the agent what services and endpoints there are ([`Network::follow`]) and goes on with
//! the last state that it was given. It listens on service addresses and node ports and hands each connection to
//! an endpoint: by a function call when the endpoint is a container of this process ([`Network::serve_locally`]),
//! else over TCP or UDP. It gives out pod addresses, resolves names as cluster DNS would, and decides what a pod
//! may reach. Invariant: a batch of updates is seen whole or not at all, and an open connection outlives them all.
//! Not here: Kubernetes credentials, network namespaces, a DNS server on a socket.

mod addresses; // Pod addresses.
mod feed; // Updates from the agent.
mod frontend; // One service port and its endpoints.
mod listeners; // Which sockets are open.
mod resolver; // Cluster names.
mod table; // What is known.
mod tcp; // Connections.
mod udp; // Datagrams.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError, RwLock, atomic::AtomicU64},
};

use futures::future::BoxFuture;
use tokio::net::TcpStream;

pub use addresses::AddressError;
pub use frontend::Frontend;
pub use resolver::DnsView;
pub use table::{HostPort, Listen, Protocol};

use addresses::AddressPool;
use listeners::Listeners;
use resolver::Answer;
use table::{Change, Settings, Table};

/// A container of this process that takes connections without a TCP hop.
pub trait ServesConnections: Send + Sync + 'static {
    fn serve(&self, stream: TcpStream) -> BoxFuture<'static, ()>;
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    #[error("no such name: {0}")]
    NoSuchName(String),
    #[error("{name}: {reason}")]
    Failed { name: String, reason: String },
}

/// Where a connection of a pod really goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    To(SocketAddr),
    /// A service without an endpoint that could take it.
    NoEndpoint,
    /// Not for pods.
    Denied,
}

/// The data plane of one node. Clones share it.
#[derive(Clone, Default)]
pub struct Network {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    table: RwLock<Table>,
    /// Containers of this process by the address they serve on.
    local: RwLock<HashMap<SocketAddr, Arc<dyn ServesConnections>>>,
    /// Locked while sockets are opened and closed, never over `.await`.
    listeners: Mutex<Listeners>,
    pods: Mutex<AddressPool>,
    /// The number of the newest stream of updates; older ones are ignored.
    feed: AtomicU64,
}

impl Network {
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes pod addresses from this range from now on.
    pub fn set_pod_cidr(&self, cidr: &str) -> Result<(), AddressError> {
        self.pods().set_range(cidr)
    }

    pub fn has_pod_cidr(&self) -> bool {
        self.pods().has_range()
    }

    /// An address for a pod, until it is released.
    pub fn allocate(&self) -> Result<Ipv4Addr, AddressError> {
        self.pods().allocate()
    }

    pub fn release(&self, address: Ipv4Addr) {
        self.pods().release(address);
    }

    /// The address of pods that share the node's.
    pub fn node_address(&self) -> Option<IpAddr> {
        self.table().settings.node_addresses.first().copied()
    }

    pub fn cluster_domain(&self) -> String {
        self.table().settings.cluster_domain.clone()
    }

    /// From now on connections to `address` are a function call.
    pub fn serve_locally(&self, address: SocketAddr, container: Arc<dyn ServesConnections>) {
        self.shared.local.write().unwrap_or_else(PoisonError::into_inner).insert(address, container);
    }

    /// New connections to `address` go over TCP again, or are refused there.
    pub fn stop_serving_locally(&self, address: SocketAddr) {
        self.shared.local.write().unwrap_or_else(PoisonError::into_inner).remove(&address);
    }

    pub fn local(&self, address: SocketAddr) -> Option<Arc<dyn ServesConnections>> {
        self.shared.local.read().unwrap_or_else(PoisonError::into_inner).get(&address).cloned()
    }

    pub fn frontend(&self, listen: Listen) -> Option<Arc<Frontend>> {
        self.table().frontend(listen)
    }

    /// The addresses of a name for a pod: the cluster's names first, then the host's.
    pub async fn resolve(&self, view: &DnsView, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let answer = resolver::resolve(&self.table(), view, name);
        match answer {
            Answer::Addresses(addresses) => Ok(addresses),
            Answer::NoSuchName => Err(ResolveError::NoSuchName(name.to_owned())),
            Answer::Ask(outside) => ask_host(name, &outside).await,
        }
    }

    /// Where a connection of the pod at `own` to `address` goes: a service's address becomes an endpoint's.
    pub fn route(&self, own: IpAddr, address: SocketAddr, failed: &[SocketAddr]) -> Route {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        let listen = |protocol| Listen { address, protocol };
        let table = self.table();
        let frontend =
            table.frontend(listen(Protocol::Tcp)).or_else(|| table.frontend(listen(Protocol::Udp)));
        // A node port on 127.0.0.1 is for the host's users; for a pod that is its own address.
        if let Some(frontend) = frontend.filter(|_| !is_localhost(address.ip())) {
            drop(table);
            return frontend.choose(own, failed).map_or(Route::NoEndpoint, Route::To);
        }
        drop(table);
        if address.ip() == own || is_localhost(address.ip()) || address.ip().is_unspecified() {
            return Route::To(SocketAddr::new(own, address.port()));
        }
        if self.may_reach(address.ip()) { Route::To(address) } else { Route::Denied }
    }

    /// Leads a port of the host to a pod.
    ///
    /// # Errors
    /// The port is taken, by another pod or another program.
    pub fn open_host_port(&self, host: HostPort, target: SocketAddr) -> Result<(), String> {
        let wanted = {
            let mut table = self.shared.table.write().unwrap_or_else(PoisonError::into_inner);
            if table.has_host_port(host) {
                return Err(format!("host port {} is taken by another pod", host.port));
            }
            table.set_host_port(host, target);
            listeners::for_host_port(&table, host)
        };
        let failed =
            self.listen().into_iter().find(|(listen, _)| wanted.iter().any(|own| own.listen == *listen));
        let Some((_, message)) = failed else { return Ok(()) };
        self.close_host_port(host, target);
        Err(message)
    }

    pub fn close_host_port(&self, host: HostPort, target: SocketAddr) {
        self.shared.table.write().unwrap_or_else(PoisonError::into_inner).remove_host_port(host, target);
        self.listen();
    }

    /// Closes all listeners; open connections go on.
    pub fn close(&self) {
        self.listeners().close(self);
    }

    /// Pods reach each other, services and nodes, and what is outside the machine; of the loopback addresses, which
    /// the host's own services trust, nothing but the cluster's block.
    fn may_reach(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) if address.is_loopback() => {
                let block = |address: Ipv4Addr| u32::from(address) >> 18;
                let own = self
                    .pods()
                    .sample()
                    .filter(|own| own.is_loopback() && block(*own) != block(Ipv4Addr::LOCALHOST));
                own.is_some_and(|own| block(own) == block(address))
            }
            IpAddr::V6(address) => !address.is_loopback(),
            IpAddr::V4(_) => true,
        }
    }

    /// Applies a batch and opens and closes listeners; returns which ports could not be taken.
    fn commit(&self, settings: Option<Settings>, changes: Vec<Change>) -> Vec<String> {
        {
            let mut table = self.shared.table.write().unwrap_or_else(PoisonError::into_inner);
            match settings {
                Some(settings) => table.replace(settings, changes),
                None => table.apply(changes),
            }
        }
        self.listen().into_iter().map(|(_, message)| message).collect()
    }

    fn listen(&self) -> Vec<(Listen, String)> {
        // Under the listeners' lock, so that of two reconciliations the later one sees the later table.
        let mut listeners = self.listeners();
        let wanted = listeners::wanted(&self.table());
        listeners.reconcile(self, wanted)
    }

    fn table(&self) -> std::sync::RwLockReadGuard<'_, Table> {
        self.shared.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn pods(&self) -> std::sync::MutexGuard<'_, AddressPool> {
        self.shared.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listeners(&self) -> std::sync::MutexGuard<'_, Listeners> {
        self.shared.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn ask_host(name: &str, outside: &str) -> Result<Vec<IpAddr>, ResolveError> {
    let found = tokio::net::lookup_host((outside, 0)).await;
    let mut addresses: Vec<_> = match found {
        Ok(found) => found.map(|address| address.ip()).collect(),
        Err(error) => {
            // The resolver library has no error kind for "no such name"; all else is rare and tells itself.
            tracing::debug!(name, %error, "the host does not resolve a name");
            return Err(ResolveError::NoSuchName(name.to_owned()));
        }
    };
    addresses.dedup();
    if addresses.is_empty() { Err(ResolveError::NoSuchName(name.to_owned())) } else { Ok(addresses) }
}

fn is_localhost(address: IpAddr) -> bool {
    address == IpAddr::V4(Ipv4Addr::LOCALHOST) || address == IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)
}

#[cfg(test)]
mod tests;
