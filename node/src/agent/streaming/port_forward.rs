//! Port-forward: bytes between a client's streams and a port of a pod.
//!
//! Each forwarded connection is two streams: the data, and an error stream on which the client learns why it ended,
//! if it did not end well.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{
    channel::{self, Input, Output, Queue, Stream},
    negotiation::Known,
    spdy, websocket,
};

/// SPDY, alone or in a WebSocket, as kubectl has it; WebSockets with channels, as most client libraries do.
pub const PROTOCOLS: Known = Known {
    websocket: &[SPDY_IN_WEBSOCKET, "v4.channel.k8s.io", "portforward.k8s.io"],
    spdy: &["portforward.k8s.io"],
};
pub const SPDY_IN_WEBSOCKET: &str = "SPDY/3.1+portforward.k8s.io";

const CONNECT_PATIENCE: Duration = Duration::from_secs(30);
const PIECE: usize = 32 << 10;

/// The pod whose ports are forwarded.
#[derive(Debug, Clone)]
pub struct Target {
    pub address: IpAddr,
    /// `name_namespace`, as the kubelet calls pods.
    pub pod: String,
    pub uid: String,
}

impl Target {
    async fn connect(&self, port: u16) -> Result<TcpStream, String> {
        let Self { address, pod, uid } = self;
        let connected = tokio::time::timeout(CONNECT_PATIENCE, TcpStream::connect((*address, port))).await;
        let cause = match connected {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                "connect: connection refused".into()
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "i/o timeout".into(),
        };
        Err(format!(
            "error forwarding port {port} to pod {pod}, uid {uid}: dial tcp4 {address}:{port}: {cause}"
        ))
    }
}

/// Serves a client that opens a pair of streams per connection, until it goes.
pub async fn over_spdy(reader: impl AsyncRead + Unpin, writer: impl AsyncWrite + Unpin, target: Target) {
    let (queue, outgoing) = Queue::new();
    let (sender, mut streams) = mpsc::channel(8);
    let pairing = async {
        let mut waiting = HashMap::new();
        let mut connections = JoinSet::new();
        while let Some(stream) = streams.recv().await {
            while connections.try_join_next().is_some() {}
            if let Some(connection) = pair(&mut waiting, stream).await {
                connections.spawn(connection.serve(target.clone()));
            }
        }
    };
    // With the client its connections go, too.
    tokio::select! {
        () = spdy::serve(reader, writer, sender, (queue, outgoing)) => {}
        () = pairing => {}
    }
}

/// Streams whose other half has not come yet, by the client's request id.
type Waiting = HashMap<String, Stream>;
/// More halves than this are no honest client's.
const MAX_WAITING: usize = 256;

async fn pair(waiting: &mut Waiting, stream: Stream) -> Option<Connection> {
    let port = stream.header("port").parse().ok().filter(|port| *port != 0);
    let is_known = matches!(stream.header("streamtype"), "data" | "error");
    let id = stream.header("requestid").to_owned();
    let Some(port) = port.filter(|_: &u16| is_known && !id.is_empty()) else {
        let _ = stream.output.reset().await; // The client may be gone, which the connection learns by itself.
        return None;
    };
    match waiting.remove(&id) {
        Some(other) if other.header("streamtype") != stream.header("streamtype") => {
            let (data, error) =
                if stream.header("streamtype") == "data" { (stream, other) } else { (other, stream) };
            let Stream { input, output, is_reset, .. } = data;
            Some(Connection { port, input, data: output, error: error.output, is_reset })
        }
        _ if waiting.len() >= MAX_WAITING => {
            let _ = stream.output.reset().await;
            None
        }
        _ => {
            waiting.insert(id, stream);
            None
        }
    }
}

/// Serves a client that named its ports when it connected: one connection each.
pub async fn over_websocket<S: AsyncRead + AsyncWrite + Unpin>(
    connection: S,
    ports: Vec<u16>,
    target: Target,
) {
    let socket = websocket::accept(connection).await;
    let (queue, outgoing) = Queue::new();
    let mut inputs = Vec::new();
    let mut connections = JoinSet::new();
    for (index, port) in (0..).zip(ports) {
        let (sender, input) = channel::input();
        inputs.extend([Some(sender), None]);
        let (data, error) = (queue.channel(2 * index), queue.channel(2 * index + 1));
        let target = target.clone();
        connections.spawn(async move {
            // By the port's number the client knows which is which.
            let number = Bytes::copy_from_slice(&port.to_le_bytes());
            if data.send(number.clone()).await.is_ok() && error.send(number).await.is_ok() {
                let is_reset = Arc::new(CancellationToken::new());
                Connection { port, input, data, error, is_reset }.serve(target).await;
            }
        });
    }
    drop(queue);
    websocket::channels(socket, inputs, false, outgoing).await;
}

/// One connection that is forwarded.
struct Connection {
    port: u16,
    input: Input,
    data: Output,
    error: Output,
    is_reset: Arc<CancellationToken>,
}

impl Connection {
    async fn serve(self, target: Target) {
        let Self { port, input, data, error, is_reset } = self;
        let forwarded = is_reset.run_until_cancelled(async {
            let stream = target.connect(port).await?;
            let (reader, writer) = stream.into_split();
            // When the pod has said everything there is no more to ask it.
            tokio::select! {
                () = from_pod(reader, &data) => {}
                () = async { to_pod(input, writer).await; std::future::pending().await } => {}
            }
            Ok::<_, String>(())
        });
        let failure = forwarded.await.and_then(Result::err);
        // Whether the client is still there makes no difference any more.
        if let Some(message) = failure {
            let _ = error.send(message).await;
        }
        let _ = data.end().await;
        let _ = error.end().await;
    }
}

async fn from_pod(mut reader: OwnedReadHalf, data: &Output) {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(PIECE);
        match reader.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) if data.send(buffer.split().freeze()).await.is_err() => return,
            Ok(_) => {}
        }
    }
}

/// The end of the input is passed on, too: many servers answer only then.
async fn to_pod(mut input: Input, mut writer: OwnedWriteHalf) {
    while let Some(bytes) = input.recv().await {
        if writer.write_all(&bytes).await.is_err() {
            return;
        }
    }
    let _ = writer.shutdown().await; // The other side may have closed already.
}
