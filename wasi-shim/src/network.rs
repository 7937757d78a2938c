//! What a guest can reach: the runtime implements this for a pod, the shim asks it before every socket call.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;

/// A streaming body. Its error is text for the guest's log.
pub type HttpBody = UnsyncBoxBody<Bytes, NetworkError>;

#[derive(Debug, Clone, thiserror::Error)]
pub enum NetworkError {
    #[error("no such name: {0}")]
    NoSuchName(String),
    #[error("the pod may not connect to {0}")]
    Denied(SocketAddr),
    #[error("connection refused: {0}")]
    Refused(String),
    #[error("timed out: {0}")]
    TimedOut(String),
    #[error("{0}")]
    Other(String),
}

/// The network of one pod, as its guests see it.
#[async_trait::async_trait]
pub trait PodNetwork: Send + Sync + 'static {
    /// The pod's address: listeners and outgoing connections are bound to it; `0.0.0.0` and `localhost` mean it.
    fn address(&self) -> IpAddr;
    /// Name lookup with the pod's search domains.
    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, NetworkError>;
    /// Whether a guest may open a connection or send a datagram to `address`, and to where it really goes
    /// (a service address may become an endpoint's).
    async fn connect(&self, address: SocketAddr) -> Result<SocketAddr, NetworkError>;
    /// Sends an outgoing HTTP request: to a wasm endpoint on this node as a function call, else over TCP.
    async fn send(&self, request: Request<HttpBody>) -> Result<Response<HttpBody>, NetworkError>;
}
