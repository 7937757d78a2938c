//! A guest's stdout and stderr: whole lines to the container's [`LogWriter`].
//!
//! Guests write in small pieces (stderr in Rust is unbuffered), and many instances of a container write at the same
//! time; lines stay whole because each instance collects its own. A line without an end is passed on when it grows
//! beyond [`MAX_LINE`] or when the instance ends. There is no other buffer: a slow writer slows the guest down.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::{
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamResult},
};

use crate::{LogStream, LogWriter};

/// As the kubelet's runtimes cut lines.
const MAX_LINE: usize = 16 << 10;
/// What a guest may hand over in one call.
const MAX_WRITE: usize = 64 << 10;

/// One stream of one instance. Clones share the unfinished line.
#[derive(Clone)]
pub struct Output(Arc<Lines>);

struct Lines {
    stream: LogStream,
    log: Arc<dyn LogWriter>,
    /// Guards a few lines without `.await`.
    unfinished: Mutex<Vec<u8>>,
}

impl Output {
    pub fn new(log: Arc<dyn LogWriter>, stream: LogStream) -> Self {
        Self(Arc::new(Lines { stream, log, unfinished: Mutex::default() }))
    }

    fn take(&self, bytes: &[u8]) {
        let mut unfinished = self.0.unfinished.lock().unwrap_or_else(PoisonError::into_inner);
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        if whole > 0 {
            if unfinished.is_empty() {
                self.0.log.write(self.0.stream, &bytes[..whole]);
            } else {
                unfinished.extend_from_slice(&bytes[..whole]);
                self.0.log.write(self.0.stream, &unfinished);
                unfinished.clear();
            }
        }
        unfinished.extend_from_slice(&bytes[whole..]);
        if unfinished.len() >= MAX_LINE {
            self.0.log.write(self.0.stream, &unfinished);
            unfinished.clear();
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let unfinished = std::mem::take(self.unfinished.get_mut().unwrap_or_else(PoisonError::into_inner));
        if !unfinished.is_empty() {
            self.log.write(self.stream, &unfinished);
        }
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }
}

#[async_trait::async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.take(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(MAX_WRITE)
    }
}

impl AsyncWrite for Output {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let accepted = bytes.len().min(MAX_WRITE);
        self.take(&bytes[..accepted]);
        Poll::Ready(Ok(accepted))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Written(Mutex<Vec<String>>);

    impl LogWriter for Written {
        fn write(&self, _: LogStream, bytes: &[u8]) {
            self.0.lock().unwrap().push(String::from_utf8_lossy(bytes).into_owned());
        }
    }

    fn check(pieces: &[&str], expected: &[&str]) {
        let written = Arc::new(Written::default());
        let output = Output::new(written.clone(), LogStream::Stdout);
        for piece in pieces {
            output.take(piece.as_bytes());
        }
        drop(output);
        assert_eq!(*written.0.lock().unwrap(), expected);
    }

    #[test]
    fn lines_are_passed_on_whole_and_the_last_one_when_the_instance_ends() {
        check(&["a", "b\n", "c\nd\ne", "f"], &["ab\n", "c\nd\n", "ef"]);
        check(&[""], &[]);
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let half = "x".repeat(MAX_LINE / 2);
        check(&[&half, &half, "y"], &[&"x".repeat(MAX_LINE), "y"]);
    }
}
