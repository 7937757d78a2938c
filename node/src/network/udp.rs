//! Datagrams to services: a client keeps its endpoint while it talks.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{net::UdpSocket, task::JoinHandle};

use super::{Listen, Network};

/// A session without a datagram in either direction ends after one to two of these.
const IDLE: Duration = Duration::from_secs(30);
/// Clients per port; datagrams of more are dropped until a session ends.
const MAX_SESSIONS: usize = 4096;
const MAX_DATAGRAM: usize = 65_535;

struct Session {
    upstream: Arc<UdpSocket>,
    endpoint: SocketAddr,
    was_used: Arc<AtomicBool>,
    answers: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.answers.abort();
    }
}

pub(super) async fn serve(network: Network, socket: UdpSocket, listen: Listen) {
    let socket = Arc::new(socket);
    let mut sessions: HashMap<SocketAddr, Session> = HashMap::new();
    let mut datagram = vec![0; MAX_DATAGRAM];
    loop {
        let (length, client) = match socket.recv_from(&mut datagram).await {
            Ok(received) => received,
            Err(error) => {
                // What an earlier answer met on its way; there is nobody to tell.
                tracing::trace!(%error, "a datagram was lost");
                continue;
            }
        };
        let Some(frontend) = network.frontend(listen) else { continue };
        let is_alive =
            |session: &Session| !session.answers.is_finished() && frontend.has_endpoint(session.endpoint);
        if !sessions.get(&client).is_some_and(is_alive) {
            sessions.remove(&client);
            if sessions.len() >= MAX_SESSIONS {
                sessions.retain(|_, session| is_alive(session));
            }
            if sessions.len() >= MAX_SESSIONS {
                continue;
            }
            let Some(endpoint) = frontend.choose(client.ip(), &[]) else { continue };
            match open(&socket, client, endpoint).await {
                Ok(session) => _ = sessions.insert(client, session),
                Err(error) => {
                    tracing::debug!(%endpoint, %error, "cannot open a session");
                    continue;
                }
            }
        }
        if let Some(session) = sessions.get(&client) {
            session.was_used.store(true, Ordering::Relaxed);
            let _ = session.upstream.send(&datagram[..length]).await;
        }
    }
}

async fn open(socket: &Arc<UdpSocket>, client: SocketAddr, endpoint: SocketAddr) -> io::Result<Session> {
    let any: IpAddr =
        if endpoint.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let upstream = Arc::new(UdpSocket::bind((any, 0)).await?);
    upstream.connect(endpoint).await?;
    let was_used = Arc::new(AtomicBool::new(true));
    let answers =
        tokio::spawn(answer(Arc::clone(socket), client, Arc::clone(&upstream), Arc::clone(&was_used)));
    Ok(Session { upstream, endpoint, was_used, answers })
}

async fn answer(
    socket: Arc<UdpSocket>,
    client: SocketAddr,
    upstream: Arc<UdpSocket>,
    was_used: Arc<AtomicBool>,
) {
    let mut datagram = vec![0; MAX_DATAGRAM];
    loop {
        match tokio::time::timeout(IDLE, upstream.recv(&mut datagram)).await {
            Ok(Ok(length)) => {
                was_used.store(true, Ordering::Relaxed);
                let _ = socket.send_to(&datagram[..length], client).await;
            }
            // Nobody listens at the endpoint; the next datagram may find another.
            Ok(Err(_)) => return,
            Err(_) if was_used.swap(false, Ordering::Relaxed) => {}
            Err(_) => return,
        }
    }
}
