//! WebSockets: with channels in their messages, or as plain bytes for another protocol inside.

use std::{io, pin::Pin, time::Duration};

use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt, stream::SplitSink};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self, Message,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};
use tokio_util::io::{CopyToBytes, SinkWriter, StreamReader};

use super::channel::Outgoing;

const MAX_MESSAGE: usize = 16 << 20;
/// How long a client may take to say goodbye, so that nothing that was sent to it is lost.
const GOODBYE: Duration = Duration::from_secs(2);
/// In protocol v5: the channel whose number follows ends.
const CLOSE_CHANNEL: u8 = 255;

pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(connection: S) -> WebSocketStream<S> {
    let config =
        WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
    WebSocketStream::from_raw_socket(connection, Role::Server, Some(config)).await
}

/// Carries channels until the client goes, or until all that would send are gone; then says goodbye.
///
/// `inputs` are by number; what comes for another channel is dropped. `has_close` is whether clients can end a channel.
pub async fn channels<S: AsyncRead + AsyncWrite + Unpin>(
    socket: WebSocketStream<S>,
    mut inputs: Vec<Option<mpsc::Sender<Bytes>>>,
    has_close: bool,
    outgoing: mpsc::Receiver<Outgoing>,
) {
    let (sink, mut messages) = socket.split();
    let mut reading = std::pin::pin!(async {
        while let Some(Ok(message)) = messages.next().await {
            let Some(bytes) = payload(message).filter(|bytes| !bytes.is_empty()) else { continue };
            let channel = bytes[0];
            if has_close && channel == CLOSE_CHANNEL {
                if let Some(input) = bytes.get(1).and_then(|ended| inputs.get_mut(usize::from(*ended))) {
                    *input = None;
                }
                continue;
            }
            // An input that nobody reads any more is no reason to end the others.
            if let Some(Some(input)) = inputs.get(usize::from(channel))
                && bytes.len() > 1
            {
                let _ = input.send(bytes.slice(1..)).await;
            }
        }
    });
    let all_sent = tokio::select! {
        () = &mut reading => false,
        () = write(sink, outgoing) => true,
    };
    if all_sent {
        let _ = tokio::time::timeout(GOODBYE, reading).await;
    }
}

async fn write<S: AsyncRead + AsyncWrite + Unpin>(
    mut sink: SplitSink<WebSocketStream<S>, Message>,
    mut outgoing: mpsc::Receiver<Outgoing>,
) {
    while let Some(outgoing) = outgoing.recv().await {
        let (channel, bytes) = match outgoing {
            Outgoing::Data { channel, bytes } => (channel as u8, bytes),
            Outgoing::Close => break,
            // The protocol has no words for the end of one channel.
            _ => continue,
        };
        let mut message = BytesMut::with_capacity(bytes.len() + 1);
        message.extend_from_slice(&[channel]);
        message.extend_from_slice(&bytes);
        if sink.send(Message::Binary(message.freeze())).await.is_err() {
            return;
        }
    }
    // A close without the code for success counts as a failure. The client may be gone already.
    let farewell = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    let _ = sink.send(Message::Close(Some(farewell))).await;
}

fn payload(message: Message) -> Option<Bytes> {
    match message {
        Message::Binary(bytes) => Some(bytes),
        Message::Text(text) => Some(text.into()),
        _ => None,
    }
}

/// The messages as one stream of bytes, each way: SPDY in a WebSocket.
pub fn bytes<S>(socket: WebSocketStream<S>) -> (impl AsyncRead + Send + Unpin, impl AsyncWrite + Send + Unpin)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sink, messages) = socket.split();
    let pieces = messages.filter_map(|message| {
        std::future::ready(match message {
            Ok(message) => payload(message).map(Ok),
            Err(error) => Some(Err(broken(error))),
        })
    });
    let sink = sink
        .sink_map_err(broken)
        .with(|bytes: Bytes| std::future::ready(Ok::<_, io::Error>(Message::Binary(bytes))));
    let reader: Pin<Box<dyn AsyncRead + Send>> = Box::pin(StreamReader::new(pieces));
    let writer: Pin<Box<dyn AsyncWrite + Send>> = Box::pin(SinkWriter::new(CopyToBytes::new(sink)));
    (reader, writer)
}

fn broken(error: tungstenite::Error) -> io::Error {
    match error {
        tungstenite::Error::Io(error) => error,
        other => io::Error::other(other),
    }
}
