//! Container logs: fetched from the agent of the pod's node, passed on as they come.
//!
//! The agent knows us by our client certificate. Its own is self-signed and not verified, as with a kubelet that
//! was not given one by the cluster.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt;
use http::{HeaderValue, Response, StatusCode, header};
use k8s_openapi::api::core::v1::{Node, Pod, PodSpec};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Client, redirect::Policy};

use super::{
    body::Body,
    handler::{Exchange, json_response},
    query::Query,
};
use crate::{
    ApiError,
    auth::pki::Identity,
    registry::Call,
    store::{Key, Store},
};

const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
const MAX_ERROR_BYTES: usize = 64 << 10;
const KUBELET_PORT: i32 = 10250;

/// Speaks to node agents.
#[derive(Clone)]
pub struct NodeClient(Client);

impl NodeClient {
    /// A client that shows `identity` to agents.
    pub fn new(identity: &Identity) -> Result<Self, String> {
        let _ = rustls::crypto::ring::default_provider().install_default(); // There may be one already.
        let pem = [identity.certificate.as_bytes(), identity.key.as_bytes()].concat();
        let client = reqwest::Identity::from_pem(&pem).and_then(|identity| {
            let builder = Client::builder().no_proxy().redirect(Policy::none()).identity(identity);
            // A log that is followed has no end: only connecting has a deadline.
            let builder = builder.connect_timeout(CONNECT_PATIENCE).pool_max_idle_per_host(0);
            builder.http1_only().tls_danger_accept_invalid_certs(true).build()
        });
        client.map(Self).map_err(|error| error.to_string())
    }

    async fn get(&self, address: IpAddr, port: u16, path: &str) -> Result<reqwest::Response, ApiError> {
        let url = format!("https://{}{path}", SocketAddr::new(address, port));
        let answer = self.0.get(&url).send().await;
        answer.map_err(|error| {
            let causes = std::iter::successors(std::error::Error::source(&error), |cause| cause.source());
            let cause = causes.last().map_or_else(|| error.to_string(), ToString::to_string);
            let what = if error.is_timeout() {
                format!("dial tcp {address}:{port}: i/o timeout")
            } else if error.is_connect() {
                format!("dial tcp {address}:{port}: {cause}")
            } else {
                cause
            };
            ApiError::Internal(format!("Get {url:?}: {what}"))
        })
    }
}

/// Answers `GET …/pods/NAME/log`.
pub async fn answer(exchange: Exchange<'_>, call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let state = exchange.state;
    let entry = state.registry.entry(call)?;
    let pod: Arc<Pod> = entry.typed().map_err(|error| ApiError::Internal(error.to_string()))?;
    let spec = pod.spec.clone().unwrap_or_default();
    check_options(&exchange.query)?;
    let container = container(call.name, &spec, exchange.query.text("container"))?;
    let Some(node) = spec.node_name.as_deref().filter(|node| !node.is_empty()) else {
        // A pod that runs nowhere has said nothing.
        return Ok(text(Body::Full(None)));
    };
    let (address, port) = agent_of(state.registry.store(), node)?;
    let path = log_path(call, &container, &exchange.query);
    let response = state.nodes.get(address, port, &path).await?;
    if !response.status().is_success() {
        return Err(refused(response).await);
    }
    let shutdown = state.shutdown.clone();
    let pieces = response
        .bytes_stream()
        .take_while(|piece| std::future::ready(piece.is_ok()))
        .filter_map(|piece| std::future::ready(piece.ok()))
        .take_until(async move { shutdown.cancelled().await });
    Ok(text(Body::stream(pieces)))
}

fn text(body: Body) -> Response<Body> {
    let mut response = json_response(StatusCode::OK, body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

/// The agent's refusal in the words of the agent.
async fn refused(mut response: reqwest::Response) -> ApiError {
    let status = response.status();
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await
        && body.len() + chunk.len() <= MAX_ERROR_BYTES
    {
        body.extend_from_slice(&chunk);
    }
    let text = String::from_utf8_lossy(&body).trim().to_owned();
    match status.as_u16() {
        400 => ApiError::BadRequest(text),
        403 => ApiError::Forbidden(text),
        404 => ApiError::BadRequest(if text.is_empty() { "the node knows no such log".into() } else { text }),
        _ => ApiError::Internal(text),
    }
}

fn check_options(query: &Query<'_>) -> Result<(), ApiError> {
    let mut errors = naru_model::validation::FieldErrors::default();
    let path = naru_model::validation::Path::new;
    for (name, least) in [("tailLines", 0), ("sinceSeconds", 1), ("limitBytes", 1)] {
        if let Some(value) = query.number(name)?.filter(|value| *value < least) {
            let detail =
                if least == 0 { "must be greater than or equal to 0" } else { "must be greater than 0" };
            errors.invalid(&path(name), value, detail);
        }
    }
    if query.has("sinceSeconds") && query.has("sinceTime") {
        errors.forbidden(&path(""), "at most one of `sinceTime` or `sinceSeconds` may be specified");
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::Invalid { kind: "PodLogOptions".into(), name: String::new(), errors: errors.0 })
}

/// The container that is meant; a pod with several needs a name.
fn container(pod: &str, spec: &PodSpec, asked: &str) -> Result<String, ApiError> {
    let containers: Vec<&str> = spec.containers.iter().map(|container| container.name.as_str()).collect();
    let init: Vec<&str> =
        spec.init_containers.iter().flatten().map(|container| container.name.as_str()).collect();
    if asked.is_empty() {
        return match (containers.as_slice(), init.is_empty()) {
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
    Ok((address, port.unwrap_or(KUBELET_PORT) as u16))
}

fn log_path(call: &Call<'_>, container: &str, query: &Query<'_>) -> String {
    let options = [
        "follow",
        "previous",
        "timestamps",
        "tailLines",
        "sinceSeconds",
        "sinceTime",
        "limitBytes",
        "stream",
    ];
    let options: Vec<String> = options
        .into_iter()
        .filter(|name| query.has(name))
        .map(|name| format!("{name}={}", utf8_percent_encode(query.text(name), NON_ALPHANUMERIC)))
        .collect();
    format!("/containerLogs/{}/{}/{container}?{}", call.namespace, call.name, options.join("&"))
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
        let choose =
            |names: &[&str], asked| container("web", &spec(names), asked).map_err(|error| error.to_string());
        assert_eq!(choose(&["a"], ""), Ok("a".into()));
        assert_eq!(
            choose(&["a", "b"], ""),
            Err("a container name must be specified for pod web, choose one of: [a b]".into())
        );
        assert_eq!(choose(&["a", "b"], "b"), Ok("b".into()));
        assert_eq!(choose(&["a"], "c"), Err("container c is not valid for pod web".into()));
    }
}
