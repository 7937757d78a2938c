//! SPDY/3.1, as far as Kubernetes' clients in Go use it: streams that the client opens, pings, and no flow control
//! (their library has none, so that waiting for a window would be waiting for ever).
//!
//! No crate speaks it any more. This is the server's side only.

#[cfg(test)]
pub mod client;
mod frame; // Frames, as bytes.
mod headers; // Their compressed headers.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Weak},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

use self::{
    frame::{Control, Frame, HEADER_BYTES},
    headers::{Compressor, Decompressor},
};
use super::channel::{self, Outgoing, Queue, Stream};

/// Streams that may be open at once.
const MAX_STREAMS: usize = 1024;
/// A control frame that is larger is no honest one.
const MAX_CONTROL: usize = 64 << 10;
/// Data is handed on in pieces, however large its frame is.
const PIECE: usize = 32 << 10;

/// Speaks SPDY until the client goes or something is queued that closes the connection. What the client opens is
/// accepted and given to `streams`.
pub async fn serve(
    reader: impl AsyncRead + Unpin,
    writer: impl AsyncWrite + Unpin,
    streams: mpsc::Sender<Stream>,
    (queue, outgoing): (Queue, mpsc::Receiver<Outgoing>),
) {
    let read = read(BufReader::with_capacity(PIECE, reader), streams, queue);
    let ended = tokio::select! {
        ended = read => ended,
        ended = write(writer, outgoing) => ended,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a SPDY connection broke off");
    }
}

/// The streams that are open, as the reader needs them.
#[derive(Default)]
struct Open(HashMap<u32, OpenStream>);

struct OpenStream {
    /// None once the client ended its side.
    input: Option<mpsc::Sender<Bytes>>,
    /// Gone when nobody serves the stream any more.
    is_reset: Weak<CancellationToken>,
}

async fn read(
    mut reader: impl AsyncRead + Unpin,
    streams: mpsc::Sender<Stream>,
    queue: Queue,
) -> io::Result<()> {
    let mut open = Open::default();
    let mut decompressor = Decompressor::new();
    let mut last = 0;
    loop {
        let mut header = [0; HEADER_BYTES];
        match reader.read_exact(&mut header).await {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
        match Frame::parse(header)? {
            Frame::Data { stream, is_last, length } => {
                open.data(&mut reader, stream, length).await?;
                if is_last && let Some(stream) = open.0.get_mut(&stream) {
                    stream.input = None;
                }
            }
            Frame::Control { kind, is_last, length } => {
                if length > MAX_CONTROL {
                    return Err(frame::invalid(format!("a control frame of {length} bytes")));
                }
                let mut payload = vec![0; length];
                reader.read_exact(&mut payload).await?;
                match Control::parse(kind, &payload)? {
                    Control::SynStream { stream, block } => {
                        let headers = headers::parse(&decompressor.decompress(block)?)?;
                        // The client's streams have odd numbers, each larger than the last.
                        if stream % 2 == 0 || stream <= last {
                            return Err(frame::invalid(format!("stream {stream} after stream {last}")));
                        }
                        last = stream;
                        if !open.begin((stream, is_last), headers, &queue, &streams).await {
                            return Ok(());
                        }
                    }
                    Control::Headers { block } => drop(decompressor.decompress(block)?),
                    Control::Reset { stream } => {
                        let reset = open.0.remove(&stream).and_then(|stream| stream.is_reset.upgrade());
                        reset.inspect(|is_reset| is_reset.cancel());
                    }
                    // Answers to pings of ours would be even; we send none.
                    Control::Ping { id } if id % 2 == 1 => {
                        if queue.push(Outgoing::Pong { id }).await.is_err() {
                            return Ok(());
                        }
                    }
                    Control::Ping { .. } | Control::Other => {}
                }
            }
        }
    }
}

impl Open {
    /// Hands on the data of one frame. What comes for a stream that is not open is read and dropped.
    async fn data(
        &mut self,
        reader: &mut (impl AsyncRead + Unpin),
        stream: u32,
        mut length: usize,
    ) -> io::Result<()> {
        let input = self.0.get(&stream).and_then(|stream| stream.input.as_ref());
        while length > 0 {
            let mut piece = vec![0; length.min(PIECE)];
            reader.read_exact(&mut piece).await?;
            length -= piece.len();
            if let Some(input) = input {
                let _ = input.send(piece.into()).await; // Nobody may want it any more.
            }
        }
        Ok(())
    }

    /// False when nobody takes streams any more.
    async fn begin(
        &mut self,
        (stream, is_last): (u32, bool),
        headers: Vec<(String, String)>,
        queue: &Queue,
        streams: &mpsc::Sender<Stream>,
    ) -> bool {
        if self.0.len() >= MAX_STREAMS {
            self.0.retain(|_, stream| stream.is_reset.strong_count() > 0);
        }
        if self.0.len() >= MAX_STREAMS {
            return queue.push(Outgoing::Reset { channel: stream }).await.is_ok();
        }
        let (sender, input) = channel::input();
        let is_reset = Arc::new(CancellationToken::new());
        let opened = OpenStream { input: (!is_last).then_some(sender), is_reset: Arc::downgrade(&is_reset) };
        self.0.insert(stream, opened);
        queue.push(Outgoing::Accept { channel: stream }).await.is_ok()
            && streams.send(Stream { headers, input, output: queue.channel(stream), is_reset }).await.is_ok()
    }
}

async fn write(
    mut writer: impl AsyncWrite + Unpin,
    mut outgoing: mpsc::Receiver<Outgoing>,
) -> io::Result<()> {
    let mut compressor = Compressor::new();
    while let Some(next) = outgoing.recv().await {
        match next {
            Outgoing::Data { channel, bytes } => {
                for piece in bytes.chunks(PIECE) {
                    writer.write_all(&frame::data_header(channel, false, piece.len())).await?;
                    writer.write_all(piece).await?;
                }
            }
            Outgoing::End { channel } => writer.write_all(&frame::data_header(channel, true, 0)).await?,
            Outgoing::Accept { channel } => {
                let block = compressor.compress(&headers::NONE)?;
                writer.write_all(&frame::syn_reply(channel, &block)).await?;
            }
            Outgoing::Reset { channel } => writer.write_all(&frame::reset(channel)).await?,
            Outgoing::Pong { id } => writer.write_all(&frame::ping(id)).await?,
            Outgoing::Close => {
                writer.write_all(&frame::go_away()).await?;
                break;
            }
        }
        writer.flush().await?;
    }
    writer.flush().await?;
    writer.shutdown().await
}
