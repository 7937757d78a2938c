//! Standard streams that lead to somebody who reads and writes them, instead of to the log: for programs that are run
//! by hand.
//!
//! A guest that writes faster than its output is read waits; what it wrote before its end can still be read after it.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use wasmtime_wasi::{
    cli::{AsyncStdinStream, IsTerminal, StdinStream, StdoutStream},
    p2::{InputStream, OutputStream, Pollable, StreamResult},
};

/// What may wait to be read, each way.
const CAPACITY: usize = 64 << 10;

/// One output stream of one guest. Clones are the same stream.
#[derive(Clone, Default)]
pub struct PipeWriter(Arc<Mutex<Shared>>);

/// The other end of a [`PipeWriter`].
pub struct PipeReader(Arc<Mutex<Shared>>);

#[derive(Default)]
struct Shared {
    waiting: BytesMut,
    reader: Option<Waker>,
    writers: Vec<Waker>,
}

impl PipeWriter {
    pub fn reader(&self) -> PipeReader {
        PipeReader(self.0.clone())
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, bytes: &[u8]) {
        let mut shared = self.shared();
        shared.waiting.extend_from_slice(bytes);
        shared.reader.take().inspect(Waker::wake_by_ref);
    }

    fn room(&self) -> usize {
        CAPACITY.saturating_sub(self.shared().waiting.len())
    }

    fn poll_room(&self, context: &mut Context<'_>) -> Poll<usize> {
        let mut shared = self.shared();
        match CAPACITY.saturating_sub(shared.waiting.len()) {
            0 => {
                shared.writers.push(context.waker().clone());
                Poll::Pending
            }
            room => Poll::Ready(room),
        }
    }
}

impl PipeReader {
    /// What was written, as soon as there is something. Never ends by itself: a guest's end is told elsewhere.
    pub async fn read(&mut self) -> Bytes {
        std::future::poll_fn(|context| {
            let bytes = self.take();
            if bytes.is_empty() {
                self.shared().reader = Some(context.waker().clone());
                // Written between the two looks: look again.
                return if self.shared().waiting.is_empty() {
                    Poll::Pending
                } else {
                    Poll::Ready(self.take())
                };
            }
            Poll::Ready(bytes)
        })
        .await
    }

    /// What was written and not read yet.
    pub fn take(&mut self) -> Bytes {
        let mut shared = self.shared();
        shared.writers.drain(..).for_each(Waker::wake);
        shared.waiting.split().freeze()
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl IsTerminal for PipeWriter {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for PipeWriter {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }
}

#[async_trait::async_trait]
impl Pollable for PipeWriter {
    async fn ready(&mut self) {
        std::future::poll_fn(|context| self.poll_room(context)).await;
    }
}

impl OutputStream for PipeWriter {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.put(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(self.room())
    }
}

impl AsyncWrite for PipeWriter {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_room(context).map(|room| {
            let accepted = bytes.len().min(room);
            self.put(&bytes[..accepted]);
            Ok(accepted)
        })
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Standard input that somebody writes to. Clones are the same stream.
#[derive(Clone)]
pub struct Stdin(Arc<AsyncStdinStream>);

impl Stdin {
    /// The stream, and where to write what the guest reads; it ends when that is dropped.
    pub fn new() -> (Self, DuplexStream) {
        let (writer, reader) = tokio::io::duplex(CAPACITY);
        (Self(Arc::new(AsyncStdinStream::new(reader))), writer)
    }
}

impl IsTerminal for Stdin {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdinStream for Stdin {
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        self.0.async_stream()
    }

    fn p2_stream(&self) -> Box<dyn InputStream> {
        self.0.p2_stream()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn what_was_written_is_read_and_makes_room() {
        let mut writer = PipeWriter::default();
        let mut reader = writer.reader();
        assert!(reader.read().now_or_never().is_none());
        writer.write_all(b"ab").await.unwrap();
        writer.write_all(b"c").await.unwrap();
        assert_eq!(reader.read().await, "abc");
        writer.write_all(&vec![0; CAPACITY]).await.unwrap();
        assert!(writer.ready().now_or_never().is_none());
        assert_eq!(writer.check_write().unwrap(), 0);
        let mut other = writer.clone();
        let waits = tokio::spawn(async move { other.write_all(b"d").await });
        tokio::task::yield_now().await;
        assert_eq!(reader.take().len(), CAPACITY);
        tokio::time::timeout(Duration::from_secs(10), waits).await.expect("in time").unwrap().unwrap();
        drop(writer);
        assert_eq!(reader.take(), "d");
    }
}
