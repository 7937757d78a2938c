//! The leanest HTTPS client there is: one connection, one request at a time. For benchmarks, where the load generator
//! shares two cores with what it measures.

use std::{path::Path, sync::Arc};

use base64::Engine as _;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// How to reach a cluster, from its kubeconfig.
#[derive(Clone)]
pub struct Target {
    authority: String,
    tls: TlsConnector,
    /// Whom the kubeconfig's user impersonates.
    impersonated: Option<String>,
}

impl Target {
    pub fn from_kubeconfig(path: &Path) -> Self {
        let kubeconfig = kube::config::Kubeconfig::read_from(path).expect("a kubeconfig");
        let cluster = kubeconfig.clusters[0].cluster.clone().expect("a cluster");
        let user = kubeconfig.auth_infos[0].auth_info.clone().expect("a user");
        let pem = |text: Option<String>| {
            base64::engine::general_purpose::STANDARD.decode(text.expect("embedded data")).expect("base64")
        };
        let mut roots = rustls::RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(&pem(cluster.certificate_authority_data)).expect("a CA");
        roots.add(ca).expect("a usable CA");
        let certificates: Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(&pem(user.client_certificate_data)).collect();
        let key: secrecy::SecretString = user.client_key_data.expect("a key");
        let key = pem(Some(secrecy::ExposeSecret::expose_secret(&key).to_owned()));
        let config =
            rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .expect("TLS versions")
                .with_root_certificates(roots)
                .with_client_auth_cert(
                    certificates.expect("certificates"),
                    PrivateKeyDer::from_pem_slice(&key).expect("key"),
                )
                .expect("a client identity");
        let server = cluster.server.expect("a server");
        let authority = server.trim_start_matches("https://").trim_end_matches('/').to_owned();
        Self { authority, tls: TlsConnector::from(Arc::new(config)), impersonated: None }
    }

    /// Requests are made as `user`.
    pub fn acting_as(self, user: &str) -> Self {
        Self { impersonated: Some(user.to_owned()), ..self }
    }

    /// `127.0.0.1:6443`.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// A connection on which nothing has been said yet, for one of the protocols `alpn`.
    pub async fn tls(&self, alpn: &[&[u8]]) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(&self.authority).await.expect("the API server listens");
        stream.set_nodelay(true).expect("nodelay");
        let host = self.authority.rsplit_once(':').expect("a port").0.to_owned();
        let name = ServerName::try_from(host).expect("a host");
        let alpn = alpn.iter().map(|name| name.to_vec()).collect();
        self.tls.with_alpn(alpn).connect(name, stream).await.expect("TLS")
    }

    pub async fn connect(&self) -> Connection {
        let stream = self.tls(&[b"http/1.1"]).await;
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP/1.1");
        tokio::spawn(connection);
        Connection { sender, authority: self.authority.clone(), impersonated: self.impersonated.clone() }
    }
}

/// One keep-alive connection.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    authority: String,
    impersonated: Option<String>,
}

impl Connection {
    pub async fn send(
        &mut self,
        method: &str,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> Response<Incoming> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.authority)
            .header("content-type", content_type);
        if let Some(user) = &self.impersonated {
            request = request.header("impersonate-user", user);
        }
        let request = request.body(Full::new(body)).expect("a request");
        self.sender.ready().await.expect("the connection stands");
        self.sender.send_request(request).await.expect("an answer")
    }

    /// Sends, reads the whole answer, and answers its status and body.
    pub async fn read(&mut self, method: &str, path: &str, content_type: &str, body: Bytes) -> (u16, Bytes) {
        let response = self.send(method, path, content_type, body).await;
        let status = response.status().as_u16();
        (status, response.into_body().collect().await.expect("a body").to_bytes())
    }
}
