//! HTTP requests that guests send: a function call where the endpoint is a container of this process, else TCP.

use std::{
    error::Error as _,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use http::{
    HeaderValue, Request, Response, Uri, Version, header,
    uri::{Authority, Scheme},
};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use naru_wasi_shim::{HttpBody, NetworkError, PodNetwork};

use super::{locals::Locals, pod_network::PodNet};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A pooled connection that is not used so long is closed, so that endpoints can end.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_IDLE: usize = 32;
/// So many other endpoints are tried when one refuses.
const MAX_RETRIES: usize = 4;

/// The pools of connections that all pods of the node share. A connection belongs to an endpoint's address, or for
/// TLS to a name and an endpoint's address; which one a pod may use is decided before, request by request.
pub(super) struct Outgoing {
    locals: Arc<Locals>,
    plain: Client<HttpConnector, HttpBody>,
    tls_settings: OnceLock<Result<rustls::ClientConfig, String>>,
}

impl Outgoing {
    pub(super) fn new(locals: Arc<Locals>) -> Self {
        Self { locals, plain: pool().build(connector()), tls_settings: OnceLock::new() }
    }

    pub(super) async fn send(
        &self,
        pod: &PodNet,
        mut request: Request<HttpBody>,
    ) -> Result<Response<HttpBody>, NetworkError> {
        let is_tls = request.uri().scheme() == Some(&Scheme::HTTPS);
        let authority = authority(&request)?;
        if !request.headers().contains_key(header::HOST)
            && let Ok(host) = HeaderValue::from_str(authority.as_str())
        {
            request.headers_mut().insert(header::HOST, host);
        }
        let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let (mut failed, mut refusal) = (Vec::new(), None);
        loop {
            let endpoint = match self.endpoint(pod, authority.host(), port, &failed).await {
                Ok(endpoint) => endpoint,
                Err(error) => return Err(refusal.unwrap_or(error)),
            };
            // A request without a body can be sent again to another endpoint when nobody took it.
            let again =
                (request.body().is_end_stream() && failed.len() < MAX_RETRIES).then(|| copy_of(&request));
            let answer = if is_tls {
                self.send_tls(&authority, endpoint, request).await
            } else {
                self.send_plain(endpoint, request).await
            };
            match (answer, again) {
                (Err(error @ NetworkError::Refused(_)), Some(again)) => {
                    tracing::debug!(%endpoint, %error, "an endpoint refuses a request");
                    failed.push(endpoint);
                    (request, refusal) = (again, Some(error));
                }
                (answer, _) => return answer,
            }
        }
    }

    async fn send_plain(
        &self,
        endpoint: SocketAddr,
        mut request: Request<HttpBody>,
    ) -> Result<Response<HttpBody>, NetworkError> {
        if let Some(container) = self.locals.get(endpoint) {
            return container.handle(request).await;
        }
        *request.version_mut() = Version::HTTP_11;
        *request.uri_mut() = rebase(request.uri(), Scheme::HTTP, &endpoint.to_string())?;
        finish(endpoint, self.plain.request(request).await)
    }

    /// The first address of the name that leads anywhere decides.
    async fn endpoint(
        &self,
        pod: &PodNet,
        host: &str,
        port: u16,
        failed: &[SocketAddr],
    ) -> Result<SocketAddr, NetworkError> {
        let mut refusal = None;
        for address in pod.resolve(host).await? {
            match pod.route(SocketAddr::new(address, port), failed) {
                Ok(endpoint) if failed.contains(&endpoint) => {}
                Ok(endpoint) => return Ok(endpoint),
                Err(error) => _ = refusal.get_or_insert(error),
            }
        }
        Err(refusal.unwrap_or_else(|| NetworkError::NoSuchName(host.to_owned())))
    }

    /// Each request has a connection of its own: the pool of the client knows names, not endpoints, and the same
    /// name means another service in another namespace.
    async fn send_tls(
        &self,
        authority: &Authority,
        endpoint: SocketAddr,
        mut request: Request<HttpBody>,
    ) -> Result<Response<HttpBody>, NetworkError> {
        let settings = self.tls_settings.get_or_init(tls_settings).clone().map_err(NetworkError::Other)?;
        let name =
            rustls_pki_types::ServerName::try_from(authority.host().trim_matches(['[', ']']).to_owned())
                .map_err(|error| NetworkError::Other(format!("{}: {error}", authority.host())))?;
        let connector: HttpsConnector<HttpConnector> = HttpsConnectorBuilder::new()
            .with_tls_config(settings)
            .https_only()
            .with_server_name_resolver(hyper_rustls::FixedServerNameResolver::new(name))
            .enable_http1()
            .wrap_connector(connector());
        *request.version_mut() = Version::HTTP_11;
        *request.uri_mut() = rebase(request.uri(), Scheme::HTTPS, &endpoint.to_string())?;
        let client: Client<_, HttpBody> = pool().pool_max_idle_per_host(0).build(connector);
        finish(endpoint, client.request(request).await)
    }
}

/// The same request once more; its body is known to be empty.
fn copy_of(request: &Request<HttpBody>) -> Request<HttpBody> {
    let body = http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync();
    let mut copy = Request::new(body);
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    copy.headers_mut().clone_from(request.headers());
    copy
}

fn authority(request: &Request<HttpBody>) -> Result<Authority, NetworkError> {
    if let Some(authority) = request.uri().authority() {
        return Ok(authority.clone());
    }
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    host.and_then(|host| host.parse().ok())
        .ok_or_else(|| NetworkError::Other("the request names no authority to send it to".to_owned()))
}

fn rebase(uri: &Uri, scheme: Scheme, authority: &str) -> Result<Uri, NetworkError> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    Uri::builder()
        .scheme(scheme)
        .authority(authority)
        .path_and_query(path)
        .build()
        .map_err(|error| NetworkError::Other(error.to_string()))
}

fn finish(
    endpoint: SocketAddr,
    result: Result<Response<hyper::body::Incoming>, hyper_util::client::legacy::Error>,
) -> Result<Response<HttpBody>, NetworkError> {
    match result {
        Ok(response) => Ok(response.map(|body| {
            body.map_err(|error| NetworkError::Other(format!("the answer was cut off: {error}")))
                .boxed_unsync()
        })),
        Err(error) if error.is_connect() => {
            Err(NetworkError::Refused(format!("{endpoint}: {}", reason(&error))))
        }
        Err(error) => Err(NetworkError::Other(format!("{endpoint}: {}", reason(&error)))),
    }
}

/// The innermost cause: the outer ones only repeat that a request failed.
fn reason(error: &hyper_util::client::legacy::Error) -> String {
    let mut reason = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        reason = error.to_string();
        source = error.source();
    }
    reason
}

fn pool() -> hyper_util::client::legacy::Builder {
    let mut builder = Client::builder(TokioExecutor::new());
    builder
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_timer(TokioTimer::new())
        .pool_max_idle_per_host(MAX_IDLE)
        .set_host(false);
    builder
}

fn connector() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.enforce_http(false);
    connector
}

/// The host's trusted authorities, read once.
fn tls_settings() -> Result<rustls::ClientConfig, String> {
    use hyper_rustls::ConfigBuilderExt;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = builder.with_native_roots().map_err(|error| format!("no trusted authorities: {error}"))?;
    Ok(builder.with_no_client_auth())
}
