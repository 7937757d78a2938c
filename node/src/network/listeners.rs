//! Which sockets the data plane has open, and how that follows what it knows.
//!
//! Service addresses are shared by all nodes of a machine (`SO_REUSEPORT`: the kernel spreads connections over
//! them); node ports belong to one node. A service without endpoints has no listener, so that the kernel refuses.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr},
    sync::Arc,
};

use socket2::{Domain, SockRef, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinHandle,
};

use super::{
    Network,
    table::{HostPort, Listen, Protocol, Table},
    tcp, udp,
};

/// As large as the kernel allows; it caps the number itself.
const BACKLOG: i32 = 4096;

#[derive(Debug, Default)]
pub(super) struct Listeners {
    running: HashMap<Listen, Running>,
}

#[derive(Debug)]
struct Running {
    task: JoinHandle<()>,
    /// Shared with the task, which may outlive its abortion by a moment.
    tcp: Option<Arc<TcpListener>>,
}

/// A listener that should exist, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Wanted {
    pub(super) listen: Listen,
    /// Other nodes of this machine listen there as well.
    is_shared: bool,
    /// Nobody is told when it is taken.
    is_best_effort: bool,
}

pub(super) fn wanted(table: &Table) -> HashSet<Wanted> {
    let services =
        table.service_listens().map(|listen| Wanted { listen, is_shared: true, is_best_effort: false });
    let mut wanted: HashSet<_> = services.collect();
    for (port, protocol) in table.node_ports() {
        wanted.extend(on_node(table, port, protocol));
    }
    for host in table.host_ports() {
        wanted.extend(for_host_port(table, host));
    }
    wanted
}

pub(super) fn for_host_port(table: &Table, host: HostPort) -> Vec<Wanted> {
    let HostPort { ip, port, protocol } = host;
    let Some(ip) = ip else { return on_node(table, port, protocol) };
    let listen = Listen { address: SocketAddr::new(ip, port), protocol };
    vec![Wanted { listen, is_shared: false, is_best_effort: false }]
}

/// On all addresses of the node and, for the convenience of the machine's users, on the host's localhost.
fn on_node(table: &Table, port: u16, protocol: Protocol) -> Vec<Wanted> {
    let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let nodes = table.settings.node_addresses.iter().filter(|address| **address != localhost);
    let addresses = nodes.map(|address| (*address, false)).chain([(localhost, true)]);
    addresses
        .map(|(address, is_best_effort)| {
            let listen = Listen { address: SocketAddr::new(address, port), protocol };
            Wanted { listen, is_shared: false, is_best_effort }
        })
        .collect()
}

impl Listeners {
    /// Opens what is wanted, closes what is not, and says what could not be opened.
    pub(super) fn reconcile(&mut self, network: &Network, wanted: HashSet<Wanted>) -> Vec<(Listen, String)> {
        let listens: HashSet<_> = wanted.iter().map(|wanted| wanted.listen).collect();
        self.running.retain(|listen, running| {
            let stays = listens.contains(listen);
            if !stays {
                running.close(network, *listen);
            }
            stays
        });
        let mut errors = Vec::new();
        for wanted in wanted {
            if self.running.contains_key(&wanted.listen) {
                continue;
            }
            match open(network, wanted) {
                Ok(running) => _ = self.running.insert(wanted.listen, running),
                Err(error) => {
                    let Listen { address, protocol } = wanted.listen;
                    let message = format!("cannot listen on {address} ({protocol:?}): {error}");
                    if wanted.is_best_effort {
                        tracing::debug!("{message}");
                    } else {
                        tracing::warn!("{message}");
                        errors.push((wanted.listen, message));
                    }
                }
            }
        }
        errors.sort_by_key(|(listen, _)| *listen);
        errors
    }

    pub(super) fn close(&mut self, network: &Network) {
        for (listen, running) in self.running.drain() {
            running.close(network, listen);
        }
    }
}

impl Running {
    /// Serves whom the kernel let in already, then gives the port free at once: it may be wanted again, and other
    /// nodes of the machine take over.
    fn close(&self, network: &Network, listen: Listen) {
        self.task.abort();
        let Some(listener) = &self.tcp else { return };
        let socket = SockRef::from(&**listener);
        while let Ok((stream, client)) = socket.accept() {
            let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream.into()));
            if let (Ok(stream), Some(client)) = (stream, client.as_socket()) {
                tokio::spawn(tcp::serve(network.clone(), stream, client, listen));
            }
        }
        let _ = socket.shutdown(Shutdown::Both);
    }
}

fn open(network: &Network, wanted: Wanted) -> io::Result<Running> {
    let Listen { address, protocol } = wanted.listen;
    let kind = if protocol == Protocol::Tcp { Type::STREAM } else { Type::DGRAM };
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    socket.set_nonblocking(true)?;
    if protocol == Protocol::Tcp {
        socket.set_reuse_address(true)?;
    }
    socket.set_reuse_port(wanted.is_shared)?;
    socket.bind(&address.into())?;
    let (network, listen) = (network.clone(), wanted.listen);
    match protocol {
        Protocol::Tcp => {
            socket.listen(BACKLOG)?;
            let listener = Arc::new(TcpListener::from_std(socket.into())?);
            let task = tokio::spawn(tcp::accept(network, Arc::clone(&listener), listen));
            Ok(Running { task, tcp: Some(listener) })
        }
        Protocol::Udp => {
            let task = tokio::spawn(udp::serve(network, UdpSocket::from_std(socket.into())?, listen));
            Ok(Running { task, tcp: None })
        }
    }
}
