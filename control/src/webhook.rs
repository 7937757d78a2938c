//! HTTPS calls that the API server makes to webhooks: reviews go out as JSON, answers come back as JSON.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Service;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::store::{Key, Store};

/// What an answer may be long.
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// Where a webhook is and whom to believe there.
pub struct Webhook {
    uri: Uri,
    /// Namespace and name, where it is a service of this cluster.
    service: Option<(String, String)>,
    tls: TlsConnector,
    timeout: Duration,
    store: Store,
}

/// How a webhook is named in an object's spec.
#[derive(Debug, Clone, Default)]
pub struct Place<'a> {
    pub url: Option<&'a str>,
    pub service: Option<ServicePlace<'a>>,
    /// PEM.
    pub authority: &'a [u8],
}

#[derive(Debug, Clone, Default)]
pub struct ServicePlace<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
    pub path: &'a str,
    pub port: u16,
}

impl Webhook {
    /// # Errors
    /// What is wrong with the place, in words.
    pub fn new(place: &Place<'_>, timeout: Duration, store: Store) -> Result<Self, String> {
        let text = match (&place.url, &place.service) {
            (Some(url), _) => (*url).to_owned(),
            (None, Some(service)) => {
                let (name, namespace, port) = (service.name, service.namespace, service.port);
                format!("https://{name}.{namespace}.svc:{port}/{}", service.path.trim_start_matches('/'))
            }
            (None, None) => return Err("neither a URL nor a service is given".into()),
        };
        let uri: Uri = text.parse().map_err(|error| format!("{text:?} is no URL: {error}"))?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(place.authority) {
            let certificate = certificate.map_err(|error| format!("the CA bundle is not PEM: {error}"))?;
            roots.add(certificate).map_err(|error| format!("the CA bundle holds no certificate: {error}"))?;
        }
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            uri,
            service: place.service.as_ref().map(|service| (service.namespace.into(), service.name.into())),
            tls: TlsConnector::from(Arc::new(config)),
            timeout,
            store,
        })
    }

    /// Sends `review` and answers what comes back.
    ///
    /// # Errors
    /// `Post "https://…": …`, as Kubernetes words it.
    pub async fn call(&self, review: &Value) -> Result<Value, String> {
        let called = tokio::time::timeout(self.timeout, self.exchange(review)).await;
        let result = called.unwrap_or_else(|_| Err("context deadline exceeded".into()));
        result.map_err(|problem| {
            format!("Post \"{}?timeout={}s\": {problem}", self.uri, self.timeout.as_secs())
        })
    }

    async fn exchange(&self, review: &Value) -> Result<Value, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let host = self.uri.host().ok_or("no Host in request URL")?;
        let port = self.uri.port_u16().unwrap_or(443);
        let stream = match &self.service {
            Some((namespace, name)) => {
                TcpStream::connect((self.address(namespace, name)?.as_str(), port)).await
            }
            None => TcpStream::connect((host.trim_matches(['[', ']']), port)).await,
        };
        let stream = stream.map_err(|error| text(&error))?;
        let name =
            ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(|error| text(&error))?;
        let stream = self.tls.connect(name, stream).await.map_err(|error| text(&error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| text(&error))?;
        // Ends with `sender`, or with the timeout that drops both.
        let connection = tokio::spawn(connection);
        let path = self.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::HOST, format!("{host}:{port}"))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .body(Full::new(Bytes::from(review.to_string())))
            .map_err(|error| text(&error))?;
        let response = sender.send_request(request).await.map_err(|error| text(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        connection.abort();
        if !status.is_success() {
            return Err(format!("the server answered {status}"));
        }
        serde_json::from_slice(&body).map_err(|error| text(&error))
    }

    /// The service's own address.
    fn address(&self, namespace: &str, name: &str) -> Result<String, String> {
        let entry = self.store.snapshot().get(&Key::new("services", namespace, name));
        let service = entry.and_then(|entry| entry.typed::<Service>().ok());
        let service = service.ok_or_else(|| format!("service \"{name}\" not found"))?;
        let address = service.spec.as_ref().and_then(|spec| spec.cluster_ip.clone());
        address
            .filter(|address| !matches!(address.as_str(), "" | "None"))
            .ok_or_else(|| format!("service \"{name}\" has no cluster IP"))
    }
}
