//! The node's HTTPS server, as the kubelet's: logs, streams, pods, stats, metrics.
//!
//! The serving certificate is self-signed, as a kubelet's is by default. Clients prove who they are with a certificate
//! of the cluster's CA; only members of `system:masters` (the API server's kubelet client is one) get more than
//! `/healthz`.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use percent_encoding::percent_decode_str;
use rustls::{RootCertStore, ServerConfig, crypto::ring, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use x509_parser::prelude::FromDer;

use super::{
    log_rotation::file_of,
    logs::{self, LogOptions},
    node_stats, node_streams,
    pod_manager::Workers,
    settings::{AgentError, AgentSettings},
    shared::Shared,
};

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const MASTERS: &str = "system:masters";

pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

pub struct NodeApi {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    port: u16,
    context: Arc<Context>,
}

struct Context {
    shared: Arc<Shared>,
    workers: Workers,
    /// Ends what connections became that were upgraded.
    streams: CancellationToken,
}

/// Whether the client may see more than `/healthz`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Client {
    Anonymous,
    Known,
    Master,
}

impl NodeApi {
    pub async fn bind(
        settings: &AgentSettings,
        shared: Arc<Shared>,
        workers: Workers,
    ) -> Result<Self, AgentError> {
        let failed = |source| AgentError::Listen { address: settings.listen, source };
        let listener = TcpListener::bind(settings.listen).await.map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        let names = settings.node_addresses.iter().cloned().chain([settings.node_name.clone()]).collect();
        let config = tls_config(names, client_cas(&settings.api)).map_err(AgentError::Tls)?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Ok(Self {
            listener,
            acceptor,
            port,
            context: Arc::new(Context { shared, workers, streams: CancellationToken::new() }),
        })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Serves until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let connections = TaskTracker::new();
        let _streams = self.context.streams.clone().drop_guard();
        while let Some(accepted) = shutdown.run_until_cancelled(self.listener.accept()).await {
            match accepted {
                Ok((stream, peer)) => {
                    let connection = serve(self.acceptor.clone(), stream, peer, self.context.clone());
                    let shutdown = shutdown.clone();
                    connections.spawn(async move { shutdown.run_until_cancelled(connection).await });
                }
                // Out of file descriptors, most likely: let some connections end.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        connections.close();
        connections.wait().await;
    }
}

/// The cluster's CA, which signs client certificates too.
fn client_cas(config: &kube::Config) -> Vec<CertificateDer<'static>> {
    config.root_cert.iter().flatten().map(|der| CertificateDer::from(der.clone())).collect()
}

fn tls_config(names: Vec<String>, cas: Vec<CertificateDer<'static>>) -> Result<ServerConfig, String> {
    let identity = rcgen::generate_simple_self_signed(names).map_err(|error| error.to_string())?;
    let key = PrivateKeyDer::try_from(identity.signing_key.serialize_der())?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(cas);
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = if roots.is_empty() {
        builder.with_no_client_auth() // Nobody can prove anything, so nobody gets more than /healthz.
    } else {
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .allow_unauthenticated()
            .build()
            .map_err(|error| error.to_string())?;
        builder.with_client_cert_verifier(verifier)
    };
    let mut config = builder
        .with_single_cert(vec![identity.cert.der().clone()], key)
        .map_err(|error| error.to_string())?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

async fn serve(
    acceptor: TlsAcceptor,
    stream: tokio::net::TcpStream,
    peer: SocketAddr,
    context: Arc<Context>,
) {
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await;
    let Ok(Ok(stream)) = handshake else {
        tracing::debug!(%peer, "TLS handshake failed");
        return;
    };
    let client = client_of(stream.get_ref().1.peer_certificates());
    let service = hyper::service::service_fn(move |request| {
        let context = context.clone();
        async move { Ok::<_, Infallible>(context.answer(client, &request).await) }
    });
    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    if let Err(error) = server.serve_connection_with_upgrades(TokioIo::new(stream), service).await {
        tracing::debug!(%peer, error, "connection ended");
    }
}

fn client_of(certificates: Option<&[CertificateDer<'_>]>) -> Client {
    let Some(certificate) = certificates.and_then(|chain| chain.first()) else { return Client::Anonymous };
    let Ok((_, parsed)) = x509_parser::certificate::X509Certificate::from_der(certificate) else {
        return Client::Anonymous;
    };
    let is_master =
        parsed.subject().iter_organization().any(|organization| organization.as_str() == Ok(MASTERS));
    if is_master { Client::Master } else { Client::Known }
}

pub(super) fn text(code: StatusCode, message: impl Into<String>) -> Response<Body> {
    let body = Full::new(Bytes::from(message.into())).boxed_unsync();
    Response::builder()
        .status(code)
        .header(header::CONTENT_TYPE, "text/plain; charset=utf-8")
        .body(body)
        .expect("the headers are constants")
}

pub(super) fn json_body(value: &Value) -> Response<Body> {
    let body = Full::new(Bytes::from(value.to_string())).boxed_unsync();
    Response::builder()
        .header(header::CONTENT_TYPE, "application/json")
        .body(body)
        .expect("the headers are constants")
}

impl Context {
    async fn answer(&self, client: Client, request: &Request<Incoming>) -> Response<Body> {
        let path = percent_decode_str(request.uri().path()).decode_utf8_lossy().into_owned();
        let parts: Vec<_> = path.trim_matches('/').split('/').collect();
        if parts == ["healthz"] {
            return text(StatusCode::OK, "ok");
        }
        match client {
            Client::Anonymous => return text(StatusCode::UNAUTHORIZED, "Unauthorized\n"),
            Client::Known => return text(StatusCode::FORBIDDEN, "Forbidden\n"),
            Client::Master => (),
        }
        if let ["portForward", namespace, pod] | ["portForward", namespace, pod, _] = parts.as_slice() {
            let (runtime, shutdown) = (&*self.shared.runtime, self.streams.clone());
            let call = node_streams::Call { workers: &self.workers, runtime, request, shutdown };
            return node_streams::port_forward(call, (*namespace, *pod)).await;
        }
        if let [action @ ("exec" | "attach"), namespace, pod, container]
        | [action @ ("exec" | "attach"), namespace, pod, _, container] = parts.as_slice()
        {
            let (runtime, streams) = (&*self.shared.runtime, self.streams.clone());
            let place = (*namespace, *pod, *container);
            let call = node_streams::Call { workers: &self.workers, runtime, request, shutdown: streams };
            return node_streams::remote_command(call, action, place).await;
        }
        if request.method() != Method::GET {
            return text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed\n");
        }
        match parts.as_slice() {
            ["containerLogs", namespace, pod, container]
            | ["containerLogs", namespace, pod, _, container] => {
                self.container_logs(namespace, pod, container, &node_streams::query(request))
            }
            ["pods"] => self.pods(),
            ["stats", "summary"] => node_stats::summary(&self.shared, &self.workers).await,
            ["metrics"] => node_stats::metrics(&self.workers),
            ["metrics", "resource"] => node_stats::resource(&self.shared, &self.workers).await,
            _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        }
    }

    fn container_logs(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        pairs: &[(String, String)],
    ) -> Response<Body> {
        let borrowed = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let options = match LogOptions::parse(borrowed, Timestamp::now()) {
            Ok(options) => options,
            Err(reason) => return text(StatusCode::BAD_REQUEST, reason),
        };
        let Some(report) = self.workers.find(namespace, pod) else {
            return text(StatusCode::NOT_FOUND, format!("pod {pod:?} does not exist\n"));
        };
        if report.pod.container(container).is_none() {
            return text(
                StatusCode::NOT_FOUND,
                format!("container {container:?} not found in pod {pod:?}\n"),
            );
        }
        let id = match logs::choose_run(&report.status, pod, container, options.previous) {
            Ok(id) => id,
            Err(reason) => return text(StatusCode::BAD_REQUEST, reason),
        };
        let Some(record) = report.observed.container(&id) else {
            return text(
                StatusCode::BAD_REQUEST,
                format!("unable to retrieve container logs for naru://{id}"),
            );
        };
        let directory = self.shared.directories.pod_logs(&report.pod.identity);
        let path = file_of(&directory, &record.log_path);
        let workers = self.workers.clone();
        let uid = report.pod.identity.uid.clone();
        let is_running = move || {
            let report = workers.by_uid(&uid);
            report.is_some_and(|report| {
                report.observed.container(&id).is_some_and(|record| record.is_running())
            })
        };
        let (sender, receiver) = mpsc::channel(4);
        tokio::spawn(async move {
            if let Err(error) = logs::read(path, options, is_running, sender).await {
                tracing::debug!(%error, "reading a log broke off");
            }
        });
        let frames = ReceiverStream::new(receiver).map(|bytes| Ok(Frame::data(bytes)));
        Response::builder()
            .header(header::CONTENT_TYPE, "text/plain")
            .body(StreamBody::new(frames).boxed_unsync())
            .expect("the headers are constants")
    }

    fn pods(&self) -> Response<Body> {
        let as_reported = |report: &Arc<super::inbox::Report>| {
            let pod = Pod { status: Some((*report.status).clone()), ..(**report.pod.pod()).clone() };
            serde_json::to_value(pod).unwrap_or_default()
        };
        let items: Vec<_> = self.workers.reports().iter().map(as_reported).collect();
        json_body(&json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items }))
    }
}

#[cfg(test)]
#[path = "node_api_tests.rs"]
mod tests;
