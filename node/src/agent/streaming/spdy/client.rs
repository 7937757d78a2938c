//! A client, for tests.

use std::collections::HashMap;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{
    frame::{self, Control, Frame, HEADER_BYTES},
    headers::{self, Compressor},
};

/// How a stream ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    Ended(Vec<u8>),
    Reset,
}

pub struct Client<S> {
    connection: S,
    compressor: Compressor,
    next: u32,
    data: HashMap<u32, Vec<u8>>,
    ended: HashMap<u32, bool>,
    pongs: Vec<u32>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub fn new(connection: S) -> Self {
        Self {
            connection,
            compressor: Compressor::new(),
            next: 1,
            data: HashMap::new(),
            ended: HashMap::new(),
            pongs: Vec::new(),
        }
    }

    /// Opens a stream; `is_last` if nothing will be sent on it.
    pub async fn open(&mut self, headers: &[(&str, &str)], is_last: bool) -> u32 {
        let stream = self.next;
        self.next += 2;
        let block = self.compressor.compress(&headers::encode(headers)).unwrap();
        self.connection.write_all(&frame::syn_stream(stream, is_last, &block)).await.unwrap();
        stream
    }

    pub async fn send(&mut self, stream: u32, bytes: &[u8], is_last: bool) {
        self.connection.write_all(&frame::data_header(stream, is_last, bytes.len())).await.unwrap();
        self.connection.write_all(bytes).await.unwrap();
    }

    /// What came on a stream until it ended.
    pub async fn received(&mut self, stream: u32) -> Received {
        loop {
            match self.ended.remove(&stream) {
                Some(true) => return Received::Reset,
                Some(false) => return Received::Ended(self.data.remove(&stream).unwrap_or_default()),
                None => self.read().await,
            }
        }
    }

    pub async fn ping(&mut self, id: u32) -> bool {
        self.connection.write_all(&frame::ping(id)).await.unwrap();
        while self.pongs.is_empty() {
            self.read().await;
        }
        self.pongs == [id]
    }

    async fn read(&mut self) {
        let mut header = [0; HEADER_BYTES];
        self.connection.read_exact(&mut header).await.expect("the server goes on");
        let frame = Frame::parse(header).unwrap();
        let (Frame::Data { length, .. } | Frame::Control { length, .. }) = frame;
        let mut payload = vec![0; length];
        self.connection.read_exact(&mut payload).await.unwrap();
        match frame {
            Frame::Data { stream, is_last, .. } => {
                self.data.entry(stream).or_default().extend(payload);
                if is_last {
                    self.ended.insert(stream, false);
                }
            }
            Frame::Control { kind, .. } => match Control::parse(kind, &payload).unwrap() {
                Control::Reset { stream } => drop(self.ended.insert(stream, true)),
                Control::Ping { id } => self.pongs.push(id),
                _ => {}
            },
        }
    }
}
