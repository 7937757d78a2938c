//! The wasi:http containers of this process, by the addresses they serve on.
//!
//! Where a request or a connection is for one of them, it is a function call. A container is here from its start
//! until it is asked to stop, so that what comes later goes elsewhere while it drains.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
};

use futures::future::BoxFuture;
use naru_wasi_shim::Container;
use tokio::net::TcpStream;

use crate::network::{Network, ServesConnections};

pub(super) struct Locals {
    network: Network,
    containers: RwLock<HashMap<SocketAddr, Container>>,
}

impl Locals {
    pub(super) fn new(network: Network) -> Self {
        Self { network, containers: RwLock::default() }
    }

    pub(super) fn add(&self, address: SocketAddr, container: &Container) {
        self.containers.write().unwrap_or_else(PoisonError::into_inner).insert(address, container.clone());
        self.network.serve_locally(address, Arc::new(Served(container.clone())));
    }

    pub(super) fn remove(&self, address: SocketAddr) {
        self.network.stop_serving_locally(address);
        self.containers.write().unwrap_or_else(PoisonError::into_inner).remove(&address);
    }

    pub(super) fn get(&self, address: SocketAddr) -> Option<Container> {
        self.containers.read().unwrap_or_else(PoisonError::into_inner).get(&address).cloned()
    }
}

struct Served(Container);

impl ServesConnections for Served {
    fn serve(&self, stream: TcpStream) -> BoxFuture<'static, ()> {
        let container = self.0.clone();
        Box::pin(async move { container.serve_connection(stream).await })
    }
}
