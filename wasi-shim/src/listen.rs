//! The TCP side of a wasi:http container: its listeners and the connections they accept, HTTP/1.1 and h2c.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use http::Request;
use http_body_util::BodyExt;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket},
};

use crate::{HttpBody, NetworkError, container::Core, serve};

const BACKLOG: u32 = 1024;

/// After an error of accept itself (no more file descriptors).
const PAUSE: Duration = Duration::from_millis(50);

/// A listener on the pod's address.
pub fn bind(address: IpAddr, port: u16) -> Result<TcpListener, String> {
    let address = SocketAddr::new(address, port);
    try_bind(address).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => format!("cannot listen on {address}: the port is already in use"),
        _ => format!("cannot listen on {address}: {error}"),
    })
}

fn try_bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Accepts until the container stops.
pub async fn accept(core: Arc<Core>, listener: TcpListener) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = core.stopping.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let _ = stream.set_nodelay(true);
                tokio::spawn(serve_connection(core.clone(), stream));
            }
            Err(error) => {
                tracing::warn!(container = core.name, %error, "cannot accept a connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Serves one connection to its end, to the end of its current requests when the container stops, or until it is
/// killed.
pub async fn serve_connection<IO>(core: Arc<Core>, io: IO)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let _busy = core.begin();
    let service = service_fn(|request: Request<Incoming>| {
        let core = core.clone();
        async move { Ok::<_, Infallible>(serve::serve(&core, request.map(received)).await) }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
    tokio::select! {
        biased;
        result = connection.as_mut() => return report(&core, result),
        () = core.stopping.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        biased;
        result = connection.as_mut() => report(&core, result),
        () = core.killed.cancelled() => {}
    }
}

fn report(core: &Core, result: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(error) = result {
        // The client went away, or spoke no HTTP.
        tracing::debug!(container = core.name, %error, "a connection failed");
    }
}

fn received(body: Incoming) -> HttpBody {
    body.map_err(|error| NetworkError::Other(error.to_string())).boxed_unsync()
}
