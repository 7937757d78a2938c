//! One HTTP request at a time, for probes and hooks: a fresh connection, a deadline, errors in Go's words.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::services::join_host_port;

/// Of an answer's body, this much is read: for messages, and to let the server finish.
const BODY_LIMIT: usize = 10 << 10;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpTarget {
    pub is_https: bool,
    pub host: String,
    pub port: u16,
    /// With a leading slash.
    pub path: String,
    pub headers: Vec<(String, String)>,
}

impl HttpTarget {
    pub fn url(&self) -> String {
        let scheme = if self.is_https { "https" } else { "http" };
        format!("{scheme}://{}{}", join_host_port(&self.host, self.port.into()), self.path)
    }

    /// Status code and the beginning of the body.
    pub async fn get(&self, timeout: Duration, user_agent: &str) -> Result<(u16, String), String> {
        let answer = tokio::time::timeout(timeout, self.exchange(user_agent)).await;
        let result = answer.unwrap_or_else(|_| {
            Err("context deadline exceeded (Client.Timeout exceeded while awaiting headers)".into())
        });
        result.map_err(|reason| format!("Get {:?}: {reason}", self.url()))
    }

    async fn exchange(&self, user_agent: &str) -> Result<(u16, String), String> {
        let stream = connect(&self.host, self.port).await?;
        let response = if self.is_https {
            let name = ServerName::try_from(self.host.clone()).map_err(|error| error.to_string())?;
            let connector = TlsConnector::from(Arc::new(trusting_config()));
            let stream = connector.connect(name, stream).await.map_err(|error| error.to_string())?;
            send(self.request(user_agent)?, stream).await?
        } else {
            send(self.request(user_agent)?, stream).await?
        };
        let code = response.status().as_u16();
        // A body that breaks off doesn't change what the status code said.
        let body = Limited::new(response.into_body(), BODY_LIMIT).collect().await;
        let text =
            body.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned()).unwrap_or_default();
        Ok((code, text))
    }

    fn request(&self, user_agent: &str) -> Result<Request<Empty<Bytes>>, String> {
        let is_set = |name: &str| self.headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
        let mut request = Request::get(&self.path);
        if !is_set("host") {
            request = request.header(header::HOST, join_host_port(&self.host, self.port.into()));
        }
        if !is_set("user-agent") {
            request = request.header(header::USER_AGENT, user_agent);
        }
        if !is_set("accept") {
            request = request.header(header::ACCEPT, "*/*");
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request = request.header(header::CONNECTION, "close");
        request.body(Empty::new()).map_err(|error| error.to_string())
    }
}

/// Opens a TCP connection, failing as Go does: `dial tcp 127.5.0.2:80: connect: connection refused`.
pub async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    let address = join_host_port(host, port.into());
    TcpStream::connect(&address).await.map_err(|error| {
        let reason = match error.kind() {
            std::io::ErrorKind::ConnectionRefused => "connect: connection refused".into(),
            std::io::ErrorKind::HostUnreachable => "connect: no route to host".into(),
            std::io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".into(),
            std::io::ErrorKind::TimedOut => "i/o timeout".into(),
            _ => error.to_string(),
        };
        format!("dial tcp {address}: {reason}")
    })
}

async fn send<IO>(request: Request<Empty<Bytes>>, io: IO) -> Result<Response<Incoming>, String>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(io)).await.map_err(|error| error.to_string())?;
    // Ends with the exchange: the request says `connection: close`, and dropping the sender closes it too.
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(|error| {
        if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
            "EOF".into()
        } else {
            super::cluster::with_sources(&error)
        }
    })
}

/// Probes don't verify certificates: they ask whether the container serves, not who it is.
pub fn trusting_config() -> ClientConfig {
    let provider = Arc::new(ring::default_provider());
    ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("ring supports the default versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustAnyone(provider)))
        .with_no_client_auth()
}

#[derive(Debug)]
struct TrustAnyone(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustAnyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
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
