//! Requests that somebody else answers: a node's agent, a pod, an extension API server.
//!
//! Each goes out on a connection of its own, so that nothing of one client is left for the next, and an upgraded
//! connection can become a tunnel. **Invariant:** bytes pass through; nothing here reads what they mean.

use std::{error::Error as StdError, io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response, StatusCode, header, request::Parts};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    upgrade::OnUpgrade,
};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::body::Body;
use crate::{ApiError, auth::pki::Identity, dialing};

const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// What is copied at once in a tunnel, each way.
const TUNNEL_BUFFER: usize = 32 << 10;

/// A server that a request is passed on to.
#[derive(Clone)]
pub struct Upstream {
    /// An address or a name, without brackets.
    pub host: String,
    pub port: u16,
    /// How TLS is spoken and whose certificate is expected; plain HTTP without.
    pub tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

/// Why a server gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    #[error("dial tcp {0}: i/o timeout")]
    TimedOut(String),
    #[error("{}", dialing::problem(.0, .1))]
    Unreachable(String, io::Error),
    #[error("{}", root(.0))]
    Failed(hyper::Error),
}

fn root(error: &hyper::Error) -> String {
    let mut cause: &dyn StdError = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

impl Upstream {
    /// Sends a request whose URI is only a path; the connection ends with the answer, or with `shutdown`.
    pub async fn send<B>(
        &self,
        request: Request<B>,
        shutdown: &CancellationToken,
    ) -> Result<Response<Incoming>, UpstreamError>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn StdError + Send + Sync>>,
    {
        let address = self.address();
        let connected = tokio::time::timeout(CONNECT_PATIENCE, self.connect(shutdown)).await;
        let mut sender = connected.map_err(|_| UpstreamError::TimedOut(address))??;
        sender.send_request(request).await.map_err(UpstreamError::Failed)
    }

    /// `10.0.0.1:80`
    pub fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    async fn connect<B>(&self, shutdown: &CancellationToken) -> Result<SendRequest<B>, UpstreamError>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn StdError + Send + Sync>>,
    {
        let unreachable = |error| UpstreamError::Unreachable(self.address(), error);
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(unreachable)?;
        let _ = stream.set_nodelay(true); // Only slower without.
        match &self.tls {
            None => http_over(stream, shutdown).await,
            Some((config, name)) => {
                let connector = TlsConnector::from(config.clone());
                let stream = connector.connect(name.clone(), stream).await.map_err(unreachable)?;
                http_over(stream, shutdown).await
            }
        }
    }
}

/// Speaks HTTP/1.1, the only version in which a connection can be upgraded.
async fn http_over<S, B>(stream: S, shutdown: &CancellationToken) -> Result<SendRequest<B>, UpstreamError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(UpstreamError::Failed)?;
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        if let Some(Err(error)) = shutdown.run_until_cancelled(connection.with_upgrades()).await {
            tracing::debug!(%error, "a connection to another server ended early");
        }
    });
    Ok(sender)
}

/// The client's side of a connection that it wants to use for another protocol, which `Upgrade` names.
pub fn upgrade_of(parts: &Parts) -> Option<OnUpgrade> {
    if !is_upgrade(&parts.headers) {
        return None;
    }
    parts.extensions.get::<OnUpgrade>().cloned()
}

pub fn is_upgrade(headers: &HeaderMap) -> bool {
    let connection = headers.get_all(header::CONNECTION).into_iter().filter_map(|value| value.to_str().ok());
    let asks = connection
        .flat_map(|value| value.split(','))
        .any(|option| option.trim().eq_ignore_ascii_case("upgrade"));
    asks && headers.contains_key(header::UPGRADE)
}

/// Joins two upgraded connections, until either ends or `shutdown`. Answers what the client is told.
pub fn tunnel(
    client: OnUpgrade,
    mut answer: Response<Incoming>,
    shutdown: CancellationToken,
) -> Response<Body> {
    let mut response = Response::new(Body::Full(None));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = answer.headers().clone();
    tokio::spawn(async move {
        let joined = async {
            let (client, server) = tokio::try_join!(client, hyper::upgrade::on(&mut answer))?;
            let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
            // One side that resets is how many clients end.
            let copied = tokio::io::copy_bidirectional_with_sizes(
                &mut client,
                &mut server,
                TUNNEL_BUFFER,
                TUNNEL_BUFFER,
            );
            if let Err(error) = copied.await {
                tracing::debug!(%error, "a tunnel broke off");
            }
            Ok::<_, hyper::Error>(())
        };
        if let Some(Err(error)) = shutdown.run_until_cancelled(joined).await {
            tracing::debug!(%error, "a connection was not upgraded");
        }
    });
    response
}

/// Headers that concern one connection, not the request: they are never passed on.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// What the other server gets to see of a client's headers: neither who the client is here nor how it is connected.
pub fn passed_on(headers: &HeaderMap) -> HeaderMap {
    let mut passed = headers.clone();
    let connection = headers.get_all(header::CONNECTION).into_iter().filter_map(|value| value.to_str().ok());
    for option in connection.flat_map(|value| value.split(',')) {
        passed.remove(option.trim());
    }
    for name in HOP_BY_HOP {
        passed.remove(name);
    }
    passed.remove(header::AUTHORIZATION);
    let acting: Vec<_> =
        passed.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned().collect();
    for name in acting {
        passed.remove(name);
    }
    if is_upgrade(headers) {
        passed.insert(header::CONNECTION, http::HeaderValue::from_static("Upgrade"));
        if let Some(protocol) = headers.get(header::UPGRADE) {
            passed.insert(header::UPGRADE, protocol.clone());
        }
        without_bearer(&mut passed);
    }
    passed
}

/// Browsers can only send a token as one of the protocols that they offer.
fn without_bearer(headers: &mut HeaderMap) {
    const BEARER: &str = "base64url.bearer.authorization.k8s.io.";
    let offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).into_iter();
    let offered: Vec<&str> = offered
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    if !offered.iter().any(|protocol| protocol.starts_with(BEARER)) {
        return;
    }
    let kept: Vec<&str> = offered.into_iter().filter(|protocol| !protocol.starts_with(BEARER)).collect();
    match http::HeaderValue::from_str(&kept.join(", ")) {
        Ok(value) if !kept.is_empty() => headers.insert(header::SEC_WEBSOCKET_PROTOCOL, value),
        _ => headers.remove(header::SEC_WEBSOCKET_PROTOCOL),
    };
}

/// An answer as the client gets it: passed through, without what concerns our connection to the server.
pub fn pass_back(answer: Response<Incoming>) -> Response<Body> {
    let (mut parts, body) = answer.into_parts();
    for name in HOP_BY_HOP {
        parts.headers.remove(name);
    }
    parts.extensions.clear();
    parts.version = http::Version::HTTP_11;
    Response::from_parts(parts, Body::Passed(body))
}

/// The server's refusal in its own words, as ours.
pub async fn refusal(answer: Response<Incoming>) -> ApiError {
    const MAX_BYTES: usize = 64 << 10;
    let status = answer.status();
    let body = http_body_util::Limited::new(answer.into_body(), MAX_BYTES);
    let body = http_body_util::BodyExt::collect(body).await.map(http_body_util::Collected::to_bytes);
    let text = String::from_utf8_lossy(&body.unwrap_or_default()).trim().to_owned();
    match status.as_u16() {
        400 => ApiError::BadRequest(text),
        403 => ApiError::Forbidden(text),
        404 => {
            ApiError::BadRequest(if text.is_empty() { "the node knows no such thing".into() } else { text })
        }
        _ => ApiError::Internal(text),
    }
}

/// TLS that asks for no proof of who the server is, as Kubernetes speaks it with pods and with agents whose
/// certificates it was not told of. `identity` is what is shown to servers that ask.
///
/// # Errors
/// Where the identity cannot be used for TLS.
pub fn unverified_tls(identity: Option<&Identity>) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Unverified(provider)));
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let (certificates, key) = identity.to_rustls()?;
            builder.with_client_auth_cert(certificates, key).map_err(|error| error.to_string())?
        }
    };
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
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
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), http::HeaderValue::from_static(value)));
        pairs.collect()
    }

    #[test]
    fn credentials_and_what_concerns_the_connection_stay_here() {
        let passed = passed_on(&headers(&[
            ("authorization", "Bearer secret"),
            ("impersonate-user", "jane"),
            ("impersonate-extra-scopes", "x"),
            ("connection", "keep-alive, x-private"),
            ("x-private", "1"),
            ("transfer-encoding", "chunked"),
            ("accept", "text/html"),
        ]));
        assert_eq!(passed, headers(&[("accept", "text/html")]));
    }

    #[test]
    fn an_upgrade_is_passed_on_without_its_token() {
        let passed = passed_on(&headers(&[
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-protocol", "base64url.bearer.authorization.k8s.io.c2VjcmV0, v5.channel.k8s.io"),
        ]));
        assert_eq!(
            passed,
            headers(&[
                ("connection", "Upgrade"),
                ("upgrade", "websocket"),
                ("sec-websocket-protocol", "v5.channel.k8s.io"),
            ])
        );
    }
}
