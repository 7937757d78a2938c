//! The streams of one connection, without the protocol that carries them.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Pieces that wait to be sent on a connection, and on each of its streams to be read: a slow reader slows the writer.
const QUEUE: usize = 16;

/// What a connection has to send.
#[derive(Debug)]
pub enum Outgoing {
    Data {
        channel: u32,
        bytes: Bytes,
    },
    /// Nothing more comes on this channel.
    End {
        channel: u32,
    },
    /// A stream that the client opened is taken.
    Accept {
        channel: u32,
    },
    /// A stream ends here, in both directions.
    Reset {
        channel: u32,
    },
    Pong {
        id: u32,
    },
    /// Everything before this, then the end of the connection.
    Close,
}

/// The connection is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client is gone")]
pub struct Gone;

/// Where the streams of one connection put what shall be sent.
#[derive(Debug, Clone)]
pub struct Queue(mpsc::Sender<Outgoing>);

impl Queue {
    pub fn new() -> (Self, mpsc::Receiver<Outgoing>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Self(sender), receiver)
    }

    pub async fn push(&self, outgoing: Outgoing) -> Result<(), Gone> {
        self.0.send(outgoing).await.map_err(|_| Gone)
    }

    pub fn channel(&self, channel: u32) -> Output {
        Output { channel, queue: self.clone() }
    }
}

/// One stream's way to the client.
#[derive(Debug, Clone)]
pub struct Output {
    channel: u32,
    queue: Queue,
}

impl Output {
    pub async fn send(&self, bytes: impl Into<Bytes>) -> Result<(), Gone> {
        self.queue.push(Outgoing::Data { channel: self.channel, bytes: bytes.into() }).await
    }

    pub async fn end(&self) -> Result<(), Gone> {
        self.queue.push(Outgoing::End { channel: self.channel }).await
    }

    pub async fn reset(&self) -> Result<(), Gone> {
        self.queue.push(Outgoing::Reset { channel: self.channel }).await
    }
}

/// What the client sends on one stream; ends with the stream.
pub type Input = mpsc::Receiver<Bytes>;

pub fn input() -> (mpsc::Sender<Bytes>, Input) {
    mpsc::channel(QUEUE)
}

/// A stream that the client opened.
#[derive(Debug)]
pub struct Stream {
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub input: Input,
    pub output: Output,
    /// The client wants nothing more of it, in either direction.
    pub is_reset: Arc<CancellationToken>,
}

impl Stream {
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }
}
