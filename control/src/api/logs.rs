//! Container logs: fetched from the agent of the pod's node, passed on as they come.
//!
//! The agent knows us by our client certificate. Its own is self-signed and not verified, as with a kubelet that
//! was not given one by the cluster.

use std::{net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Node, Pod, PodSpec};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

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
pub struct NodeClient {
    tls: TlsConnector,
}

impl NodeClient {
    /// A client that shows `identity` to agents.
    pub fn new(identity: &Identity) -> Result<Self, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let (certificates, key) = identity.to_rustls()?;
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
            .with_client_auth_cert(certificates, key)
            .map_err(|error| error.to_string())?;
        Ok(Self { tls: TlsConnector::from(Arc::new(config)) })
    }

    async fn get(&self, address: IpAddr, port: u16, path: &str) -> Result<Response<Incoming>, ApiError> {
        let failed =
            |what: String| ApiError::Internal(format!("Get \"https://{address}:{port}{path}\": {what}"));
        let connect = async {
            let stream = TcpStream::connect((address, port)).await?;
            self.tls.connect(ServerName::IpAddress(address.into()), stream).await
        };
        let stream = match timeout(CONNECT_PATIENCE, connect).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(failed(format!("dial tcp {address}:{port}: {error}"))),
            Err(_) => return Err(failed(format!("dial tcp {address}:{port}: i/o timeout"))),
        };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed(error.to_string()))?;
        // Ends with the response's body, which the client's request owns.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to a node agent ended");
            }
        });
        let uri: Uri = path.parse().map_err(|_| ApiError::BadRequest(format!("invalid path {path}")))?;
        let request = Request::get(uri)
            .header(header::HOST, format!("{address}:{port}"))
            .body(Empty::<Bytes>::new())
            .map_err(|error| failed(error.to_string()))?;
        sender.send_request(request).await.map_err(|error| failed(error.to_string()))
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
        .into_body()
        .into_data_stream()
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
async fn refused(response: Response<Incoming>) -> ApiError {
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ERROR_BYTES).collect().await;
    let text =
        body.map(|body| String::from_utf8_lossy(&body.to_bytes()).trim().to_owned()).unwrap_or_default();
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

/// Takes every certificate; signatures are checked all the same.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
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
