//! The agents of nodes, as the API server reaches them.
//!
//! An agent knows us by our client certificate. Its own is self-signed and not verified, as with a kubelet that
//! was not given one by the cluster.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body_util::Empty;
use hyper::body::Incoming;
use k8s_openapi::api::core::v1::{Node, PodSpec};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio_util::sync::CancellationToken;

use super::upstream::{Upstream, unverified_tls};
use crate::{
    ApiError,
    auth::pki::Identity,
    store::{Key, Store},
};

const KUBELET_PORT: i32 = 10250;

/// Speaks to node agents, and in TLS that is not verified to whom else that is asked for.
#[derive(Clone)]
pub struct NodeClient {
    agents: Arc<ClientConfig>,
    others: Arc<ClientConfig>,
}

impl NodeClient {
    /// A client that shows `identity` to agents.
    pub fn new(identity: &Identity) -> Result<Self, String> {
        Ok(Self { agents: unverified_tls(Some(identity))?, others: unverified_tls(None)? })
    }

    /// The agent of `node`.
    pub fn agent(&self, store: &Store, node: &str) -> Result<Upstream, ApiError> {
        let (address, port) = agent_of(store, node)?;
        let name = ServerName::IpAddress(address.into());
        Ok(Upstream { host: address.to_string(), port, tls: Some((self.agents.clone(), name)) })
    }

    /// A server of which nothing is known but its address.
    pub fn other(&self, host: &str, port: u16, is_tls: bool) -> Upstream {
        let name = host.parse::<IpAddr>().map(|address| ServerName::IpAddress(address.into()));
        let name = name.ok().or_else(|| ServerName::try_from(host.to_owned()).ok());
        let tls = name.filter(|_| is_tls).map(|name| (self.others.clone(), name));
        Upstream { host: host.into(), port, tls }
    }

    /// `GET path` of the agent of `node`.
    pub async fn get(
        &self,
        store: &Store,
        node: &str,
        path: &str,
        shutdown: &CancellationToken,
    ) -> Result<Response<Incoming>, ApiError> {
        let request = Request::builder().method(Method::GET).uri(path).body(Empty::<Bytes>::new());
        let request = request.map_err(|error| ApiError::Internal(error.to_string()))?;
        send(&self.agent(store, node)?, request, shutdown).await
    }
}

/// Sends a request to an agent; no answer is an error of ours, as in Kubernetes.
pub async fn send<B>(
    agent: &Upstream,
    mut request: Request<B>,
    shutdown: &CancellationToken,
) -> Result<Response<Incoming>, ApiError>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if let Ok(host) = agent.address().parse() {
        request.headers_mut().insert(header::HOST, host);
    }
    let url = format!("https://{}{}", agent.address(), request.uri());
    let answer = agent.send(request, shutdown).await;
    answer.map_err(|error| ApiError::Internal(format!("Get {url:?}: {error}")))
}

/// Where the agent of `node` listens.
fn agent_of(store: &Store, node: &str) -> Result<(IpAddr, u16), ApiError> {
    let not_found = || ApiError::NotFound { resource: "nodes".into(), name: node.into() };
    let entry = store.snapshot().get(&Key::new("nodes", "", node)).ok_or_else(not_found)?;
    let object: Arc<Node> = entry.typed().map_err(|error| ApiError::Internal(error.to_string()))?;
    let status = object.status.clone().unwrap_or_default();
    let address = status
        .addresses
        .iter()
        .flatten()
        .find(|address| address.type_ == "InternalIP")
        .and_then(|address| address.address.parse().ok())
        .ok_or_else(|| {
            ApiError::Internal(format!("no preferred addresses found; known addresses: [] (node {node})"))
        })?;
    let port = status
        .daemon_endpoints
        .and_then(|endpoints| endpoints.kubelet_endpoint)
        .map(|endpoint| endpoint.port);
    let port = u16::try_from(port.unwrap_or(KUBELET_PORT)).map_err(|_| {
        ApiError::Internal(format!("node {node} says that its agent listens on a port that does not exist"))
    })?;
    let address = SocketAddr::new(address, port);
    Ok((address.ip(), address.port()))
}

/// The container that is meant; a pod with several needs a name. Init containers are offered where `with_init`.
pub fn container(pod: &str, spec: &PodSpec, asked: &str, with_init: bool) -> Result<String, ApiError> {
    let containers: Vec<&str> = spec.containers.iter().map(|container| container.name.as_str()).collect();
    let init: Vec<&str> =
        spec.init_containers.iter().flatten().map(|container| container.name.as_str()).collect();
    if asked.is_empty() {
        return match (containers.as_slice(), init.is_empty() || !with_init) {
            ([one], true) => Ok((*one).into()),
            _ => {
                let mut text = format!(
                    "a container name must be specified for pod {pod}, choose one of: [{}]",
                    containers.join(" ")
                );
                if !init.is_empty() {
                    text.extend([" or one of the init containers: [", &init.join(" "), "]"]);
                }
                Err(ApiError::BadRequest(text))
            }
        };
    }
    let ephemeral = spec.ephemeral_containers.iter().flatten().any(|container| container.name == asked);
    if containers.contains(&asked) || init.contains(&asked) || ephemeral {
        return Ok(asked.into());
    }
    Err(ApiError::BadRequest(format!("container {asked} is not valid for pod {pod}")))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Container;

    use super::*;

    fn spec(names: &[&str]) -> PodSpec {
        let containers =
            names.iter().map(|name| Container { name: (*name).into(), ..Container::default() }).collect();
        PodSpec { containers, ..PodSpec::default() }
    }

    #[test]
    fn a_pod_of_several_containers_needs_a_name() {
        let choose = |names: &[&str], asked| {
            container("web", &spec(names), asked, true).map_err(|error| error.to_string())
        };
        assert_eq!(choose(&["a"], ""), Ok("a".into()));
        assert_eq!(
            choose(&["a", "b"], ""),
            Err("a container name must be specified for pod web, choose one of: [a b]".into())
        );
        assert_eq!(choose(&["a", "b"], "b"), Ok("b".into()));
        assert_eq!(choose(&["a"], "c"), Err("container c is not valid for pod web".into()));
    }
}
