//! Which sockets the data plane has open, and how that follows what it knows.
//!
//! Service addresses are shared by all nodes of a machine (`SO_REUSEPORT`: the kernel spreads connections over
//! them); node ports belong to one node. A service without endpoints has no listener, so that the kernel refuses.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use socket2::{Domain, Socket, Type};
use tokio::{
    net::{TcpListener, UdpSocket},
    task::JoinHandle,
};

use super::{
    Network,
    table::{Listen, Protocol, Table},
    tcp, udp,
};

/// As large as the kernel allows; it caps the number itself.
const BACKLOG: i32 = 4096;

#[derive(Debug, Default)]
pub(super) struct Listeners {
    running: HashMap<Listen, JoinHandle<()>>,
}

/// A listener that should exist, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Wanted {
    listen: Listen,
    /// Other nodes of this machine listen there as well.
    is_shared: bool,
    /// Nobody is told when it is taken.
    is_best_effort: bool,
}

pub(super) fn wanted(table: &Table) -> HashSet<Wanted> {
    let services =
        table.service_listens().map(|listen| Wanted { listen, is_shared: true, is_best_effort: false });
    let mut wanted: HashSet<_> = services.collect();
    let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
    for (port, protocol) in table.node_ports() {
        let nodes = table.settings.node_addresses.iter().filter(|address| **address != localhost);
        for (address, is_best_effort) in nodes.map(|address| (*address, false)).chain([(localhost, true)]) {
            let listen = Listen { address: SocketAddr::new(address, port), protocol };
            wanted.insert(Wanted { listen, is_shared: false, is_best_effort });
        }
    }
    wanted
}

impl Listeners {
    /// Opens what is wanted, closes what is not, and says what could not be opened.
    pub(super) fn reconcile(&mut self, network: &Network, wanted: HashSet<Wanted>) -> Vec<String> {
        let listens: HashSet<_> = wanted.iter().map(|wanted| wanted.listen).collect();
        self.running.retain(|listen, task| {
            let stays = listens.contains(listen) && !task.is_finished();
            if !stays {
                task.abort();
            }
            stays
        });
        let mut errors = Vec::new();
        for wanted in wanted {
            if self.running.contains_key(&wanted.listen) {
                continue;
            }
            match open(network, wanted) {
                Ok(task) => _ = self.running.insert(wanted.listen, task),
                Err(error) => {
                    let Listen { address, protocol } = wanted.listen;
                    let message = format!("cannot listen on {address} ({protocol:?}): {error}");
                    if wanted.is_best_effort {
                        tracing::debug!("{message}");
                    } else {
                        tracing::warn!("{message}");
                        errors.push(message);
                    }
                }
            }
        }
        errors.sort();
        errors
    }

    pub(super) fn close(&mut self) {
        for (_, task) in self.running.drain() {
            task.abort();
        }
    }
}

fn open(network: &Network, wanted: Wanted) -> io::Result<JoinHandle<()>> {
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
    Ok(match protocol {
        Protocol::Tcp => {
            socket.listen(BACKLOG)?;
            tokio::spawn(tcp::accept(network, TcpListener::from_std(socket.into())?, listen))
        }
        Protocol::Udp => tokio::spawn(udp::serve(network, UdpSocket::from_std(socket.into())?, listen)),
    })
}
