//! The network of one pod, as the shim asks for it.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use http::{Request, Response};
use naru_wasi_shim::{HttpBody, NetworkError, PodNetwork};

use super::outgoing::Outgoing;
use crate::network::{DnsView, Network, ResolveError, Route};

pub(super) struct PodNet {
    pub network: Network,
    pub address: IpAddr,
    pub view: DnsView,
    pub outgoing: Arc<Outgoing>,
}

impl PodNet {
    /// Where a connection to `address` goes; `failed` are endpoints that just refused.
    pub(super) fn route(
        &self,
        address: SocketAddr,
        failed: &[SocketAddr],
    ) -> Result<SocketAddr, NetworkError> {
        match self.network.route(self.address, address, failed) {
            Route::To(endpoint) => Ok(endpoint),
            Route::NoEndpoint => Err(NetworkError::Refused(format!("{address} has no ready endpoint"))),
            Route::Denied => Err(NetworkError::Denied(address)),
        }
    }
}

#[async_trait::async_trait]
impl PodNetwork for PodNet {
    fn address(&self) -> IpAddr {
        self.address
    }

    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, NetworkError> {
        self.network.resolve(&self.view, name).await.map_err(|error| match error {
            ResolveError::NoSuchName(name) => NetworkError::NoSuchName(name),
            ResolveError::Failed { .. } => NetworkError::Other(error.to_string()),
        })
    }

    async fn connect(&self, address: SocketAddr) -> Result<SocketAddr, NetworkError> {
        self.route(address, &[])
    }

    async fn send(&self, request: Request<HttpBody>) -> Result<Response<HttpBody>, NetworkError> {
        self.outgoing.send(self, request).await
    }
}
