//! Connections to services: each goes to one endpoint for its whole life.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::net::{TcpListener, TcpStream};

use super::{Listen, Network};

/// An endpoint that does not answer so long is passed over.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// So many endpoints are tried for one connection.
const MAX_TRIES: usize = 5;
/// Out of file descriptors or memory, accepting rests so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Accepts for as long as the service has endpoints; its connections outlive it.
pub(super) async fn accept(network: Network, listener: Arc<TcpListener>, listen: Listen) {
    loop {
        match listener.accept().await {
            Ok((stream, client)) => {
                tokio::spawn(serve(network.clone(), stream, client, listen));
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!(address = %listen.address, %error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

pub(super) async fn serve(network: Network, stream: TcpStream, client: SocketAddr, listen: Listen) {
    let Some(frontend) = network.frontend(listen) else { return refuse(&stream) };
    let _ = stream.set_nodelay(true);
    let mut failed = Vec::new();
    while failed.len() < MAX_TRIES {
        let Some(endpoint) = frontend.choose(client.ip(), &failed) else { break };
        if let Some(container) = network.local(endpoint) {
            return container.serve(stream).await;
        }
        match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(endpoint)).await {
            Ok(Ok(upstream)) => return splice(stream, upstream).await,
            Ok(Err(error)) => tracing::debug!(%endpoint, %error, "an endpoint refuses"),
            Err(_) => tracing::debug!(%endpoint, "an endpoint does not answer"),
        }
        failed.push(endpoint);
    }
    refuse(&stream);
}

async fn splice(mut client: TcpStream, mut upstream: TcpStream) {
    let _ = upstream.set_nodelay(true);
    if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut upstream).await {
        tracing::trace!(%error, "a connection was cut");
        // Both sides learn that it was cut, not ended.
        refuse(&client);
        refuse(&upstream);
    }
}

/// Closes with a reset: the nearest to a refusal that an accepted connection can get.
fn refuse(stream: &TcpStream) {
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}
