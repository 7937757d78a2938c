//! Port-forward as clients speak it, in memory up to the pod's port.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::TcpListener,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};

use super::{
    port_forward::{self, Target},
    spdy::client::{Client, Received},
    websocket,
};

const PATIENCE: Duration = Duration::from_secs(10);

fn target() -> Target {
    Target { address: [127, 0, 0, 1].into(), pod: "web_default".into(), uid: "u".into() }
}

/// A server that answers, once its client has said everything, with what that was.
async fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut said = Vec::new();
            stream.read_to_end(&mut said).await.unwrap();
            stream.write_all(&said).await.unwrap();
        }
    });
    port
}

/// A port that nobody listens on.
async fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

fn spdy_client() -> Client<DuplexStream> {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let (reader, writer) = tokio::io::split(theirs);
    tokio::spawn(port_forward::over_spdy(reader, writer, target()));
    Client::new(ours)
}

#[tokio::test]
async fn spdy_forwards_connections_one_beside_the_other() {
    let port = echo().await.to_string();
    let mut client = spdy_client();
    for request in ["0", "1"] {
        let stream = |kind| [("streamtype", kind), ("port", port.as_str()), ("requestid", request)];
        let error = client.open(&stream("error"), true).await;
        let data = client.open(&stream("data"), false).await;
        client.send(data, b"hello ", false).await;
        client.send(data, request.as_bytes(), true).await;
        assert_eq!(client.received(data).await, Received::Ended(format!("hello {request}").into()));
        assert_eq!(client.received(error).await, Received::Ended(Vec::new()));
    }
    assert!(client.ping(3).await);
}

#[tokio::test]
async fn spdy_says_on_the_error_stream_that_nobody_listens() {
    let port = closed_port().await.to_string();
    let mut client = spdy_client();
    let stream = |kind| [("streamtype", kind), ("port", port.as_str()), ("requestid", "7")];
    let error = client.open(&stream("error"), true).await;
    client.open(&stream("data"), false).await;
    let Received::Ended(message) = client.received(error).await else { panic!("reset") };
    let message = String::from_utf8(message).unwrap();
    let expected =
        format!("error forwarding port {port} to pod web_default, uid u: dial tcp4 127.0.0.1:{port}");
    assert!(message.starts_with(&expected), "{message}");
}

#[tokio::test]
async fn spdy_streams_that_say_nothing_usable_are_reset() {
    let mut client = spdy_client();
    for headers in [
        [("streamtype", "data"), ("port", "0"), ("requestid", "1")],
        [("streamtype", "other"), ("port", "80"), ("requestid", "1")],
        [("streamtype", "data"), ("port", "80"), ("requestid", "")],
    ] {
        let stream = client.open(&headers, false).await;
        assert_eq!(client.received(stream).await, Received::Reset);
    }
}

#[tokio::test]
async fn a_websocket_has_two_channels_per_port() {
    let (good, bad) = (echo_per_line().await, closed_port().await);
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    tokio::spawn(port_forward::over_websocket(theirs, vec![good, bad], target()));
    let mut socket = WebSocketStream::from_raw_socket(ours, Role::Client, None).await;
    socket.send(Message::binary(b"\0hello\n".to_vec())).await.unwrap();
    let mut channels = vec![Vec::new(); 4];
    while channels[0].len() < 2 + 6 || channels[3].len() < 3 {
        let message = tokio::time::timeout(PATIENCE, socket.next()).await.expect("in time").unwrap().unwrap();
        let bytes = message.into_data();
        channels[usize::from(bytes[0])].extend_from_slice(&bytes[1..]);
    }
    assert_eq!(channels[0], [&good.to_le_bytes()[..], b"hello\n"].concat());
    assert_eq!(channels[1], good.to_le_bytes());
    assert_eq!(channels[2], bad.to_le_bytes());
    assert!(String::from_utf8_lossy(&channels[3][2..]).contains("connection refused"));
}

async fn echo_per_line() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (mut reader, mut writer) = stream.split();
        tokio::io::copy(&mut reader, &mut writer).await.unwrap();
    });
    port
}

#[tokio::test]
async fn a_websocket_carries_bytes_for_another_protocol() {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let (mut reader, mut writer) = websocket::bytes(websocket::accept(theirs).await);
    let mut socket = WebSocketStream::from_raw_socket(ours, Role::Client, None).await;
    for piece in ["a", "bc"] {
        socket.send(Message::binary(piece.as_bytes().to_vec())).await.unwrap();
    }
    let mut read = [0; 3];
    reader.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"abc");
    writer.write_all(b"defg").await.unwrap();
    writer.flush().await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap().into_data(), "defg");
}
