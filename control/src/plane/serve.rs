//! HTTPS: accepts connections, learns from their certificates who they are, and hands requests to the API.
//!
//! Nothing that a client does not do may take for ever: a handshake, the head of a request, a pause between requests,
//! an answer to a ping each have a deadline (bodies have theirs where they are read). What a client does too often is
//! told once a minute.

use std::{net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use http::Request;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use sha2::{Digest as _, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::connections::{Answer, Connection, Connections};
use crate::{
    api::{self, Caller, State},
    auth::{
        User,
        pki::{self, Pki},
    },
    rarely::Rarely,
};

/// A client that has not finished its handshake by then is dropped.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// A client that has not sent the head of its first request by then is dropped.
const HEADER_DEADLINE: Duration = Duration::from_secs(30);
/// A connection that carries no request for so long is closed, as kube-apiserver does; over HTTP/1 also one whose next
/// request's head takes so long.
const IDLE_DEADLINE: Duration = Duration::from_secs(90);
/// How long a connection that was told to go away may take.
const GOAWAY_DEADLINE: Duration = Duration::from_secs(5);
/// What was sent and is not acknowledged by then will not be: the other side is gone.
const PEER_DEADLINE: Duration = Duration::from_mins(1);
/// Silence after which it is asked whether the other side is still there.
const PING_AFTER: Duration = Duration::from_secs(30);
/// How long answers under way may take at shutdown.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);
/// Streams of one HTTP/2 connection.
const MAX_STREAMS: u32 = 1000;

/// TLS as the server speaks it: a client may show a certificate of the cluster's authority, or none.
pub(super) fn acceptor(pki: &Pki) -> Result<TlsAcceptor, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pki.authority().as_bytes()) {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|error| error.to_string())?;
    let (certificates, key) = pki.server.to_rustls()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates, key)
        .map_err(|error| error.to_string())?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// What clients did that they should not, counted for the log.
#[derive(Default)]
struct Troubles {
    handshakes: Rarely,
    crowds: Rarely,
    refusals: Rarely,
}

/// Serves until `shutdown`, then lets answers under way finish.
pub(super) async fn serve(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    state: Arc<State>,
    shutdown: CancellationToken,
) {
    let (connections, troubles, tasks) =
        (Connections::new(), Arc::new(Troubles::default()), TaskTracker::new());
    loop {
        let (stream, address) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, mostly: others must close first.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let (connection, is_crowded) = connections.open();
        if is_crowded && let Some(count) = troubles.crowds.happened() {
            tracing::warn!(
                count,
                "there are as many connections as there may be: idle ones make room, others wait"
            );
        }
        let Some(connection) = connection else { continue };
        let (acceptor, state) = (acceptor.clone(), state.clone());
        let (troubles, shutdown) = (troubles.clone(), shutdown.clone());
        tasks.spawn(async move {
            let Some(stream) = handshake(stream, &acceptor, &troubles).await else { return };
            serve_one(stream, address, connection, state, &troubles, shutdown).await;
        });
    }
    drop(listener);
    tasks.close();
    if tokio::time::timeout(DRAIN_DEADLINE, tasks.wait()).await.is_err() {
        tracing::debug!("some answers were cut off at shutdown");
    }
}

/// Answers the requests of one connection until it ends, is idle for too long, or the server stops.
async fn serve_one(
    stream: TlsStream<TcpStream>,
    address: SocketAddr,
    connection: Arc<Connection>,
    state: Arc<State>,
    troubles: &Troubles,
    shutdown: CancellationToken,
) {
    let caller = Arc::new(Caller { certified: user_of(&stream).map(Arc::new), address: Some(address.ip()) });
    let requests = connection.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (state, caller, active) = (state.clone(), caller.clone(), requests.request());
        async move {
            let response = api::handle(state, caller, request).await;
            Ok::<_, std::convert::Infallible>(response.map(|body| Answer::new(body, active)))
        }
    });
    // What the client said in its handshake is believed, so that it need not say it again in its first bytes.
    let builder = match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => connection_builder().http2_only(),
        _ => connection_builder().http1_only(),
    };
    let mut served = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = &mut served => Some(ended),
        () = shutdown.cancelled() => None,
        () = connection.idle(HEADER_DEADLINE, IDLE_DEADLINE) => {
            if !connection.is_used() {
                // It never said anything, so it is not told anything.
                troubles.refused("it sent no request in time");
                return;
            }
            None
        }
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            served.as_mut().graceful_shutdown();
            let patience = if shutdown.is_cancelled() { DRAIN_DEADLINE } else { GOAWAY_DEADLINE };
            tokio::time::timeout(patience, served).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
        let fault = error.downcast_ref::<hyper::Error>();
        if fault.is_some_and(|fault| fault.is_timeout() || fault.is_parse()) {
            troubles.refused("it broke the protocol, or a deadline");
        }
    }
}

impl Troubles {
    fn refused(&self, reason: &str) {
        if let Some(count) = self.refusals.happened() {
            tracing::warn!(count, reason, "connections were closed, the last one because");
        }
    }
}

fn connection_builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(IDLE_DEADLINE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(Some(PING_AFTER));
    builder
}

async fn handshake(
    stream: TcpStream,
    acceptor: &TlsAcceptor,
    troubles: &Troubles,
) -> Option<TlsStream<TcpStream>> {
    // Small answers must not wait for more to send.
    let _ = stream.set_nodelay(true);
    notice_silence(&stream);
    let reason = match tokio::time::timeout(HANDSHAKE_DEADLINE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => return Some(stream),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it took too long".to_owned(),
    };
    match troubles.handshakes.happened() {
        Some(count) => tracing::warn!(count, reason, "TLS handshakes failed, the last one because"),
        None => tracing::debug!(reason, "a TLS handshake failed"),
    }
    None
}

/// Has the kernel end a connection whose other side is gone without a word.
fn notice_silence(stream: &TcpStream) {
    use rustix::net::sockopt;
    let set = || -> rustix::io::Result<()> {
        sockopt::set_socket_keepalive(stream, true)?;
        sockopt::set_tcp_keepidle(stream, PING_AFTER)?;
        sockopt::set_tcp_keepintvl(stream, Duration::from_secs(10))?;
        sockopt::set_tcp_keepcnt(stream, 3)?;
        sockopt::set_tcp_user_timeout(stream, PEER_DEADLINE.as_millis() as u32)
    };
    if let Err(error) = set() {
        tracing::debug!(%error, "the kernel will not watch over a connection");
    }
}

/// The user that a client's certificate names, and which certificate that was; it was verified in the handshake.
fn user_of(stream: &TlsStream<TcpStream>) -> Option<User> {
    let certificate = stream.get_ref().1.peer_certificates()?.first()?;
    let (name, groups) = pki::subject(certificate)?;
    let credential = format!("X509SHA256={}", hex::encode(Sha256::digest(certificate)));
    let extra = [("authentication.kubernetes.io/credential-id".to_owned(), vec![credential])].into();
    Some(User { extra: Arc::new(extra), ..User::new(&name, groups) })
}
