//! A whole store as one stream of bytes: what a member that is far behind gets from the leader.

use std::{
    io::{self, Cursor, SeekFrom},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncSeek, AsyncWrite, ReadBuf};

use super::{
    checkpoint::{Checkpoint, Position},
    codec::{self, Malformed, Reader, Writer},
};
use crate::store::{Revision, Snapshot};

const MAGIC: u64 = u64::from_le_bytes(*b"NaruImg1");

/// The bytes, or the promise to read them from the checkpoint when somebody wants them: a snapshot is asked for on
/// every start and after every checkpoint, but sent hardly ever.
#[derive(Debug)]
pub struct Image {
    source: Option<(Checkpoint, Position)>,
    bytes: Cursor<Vec<u8>>,
}

impl Image {
    /// An empty one, to be written to.
    pub fn empty() -> Self {
        Self { source: None, bytes: Cursor::default() }
    }

    /// What `checkpoint` holds as long as it is at `position`.
    pub fn of(checkpoint: Checkpoint, position: Position) -> Self {
        Self { source: Some((checkpoint, position)), bytes: Cursor::default() }
    }

    pub fn into_bytes(mut self) -> io::Result<Vec<u8>> {
        self.bytes()?;
        Ok(self.bytes.into_inner())
    }

    /// The bytes, read now if they have not been. Blocks for a moment, once per member that lags far behind.
    fn bytes(&mut self) -> io::Result<&mut Cursor<Vec<u8>>> {
        if let Some((checkpoint, position)) = self.source.take() {
            let found = checkpoint.load().map_err(io::Error::other)?;
            let (view, _) = found
                .filter(|(_, found)| *found == position)
                .ok_or_else(|| io::Error::other("a newer snapshot took this one's place"))?;
            self.bytes = Cursor::new(encode(&view));
        }
        Ok(&mut self.bytes)
    }
}

impl AsyncRead for Image {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut().bytes() {
            Ok(bytes) => Pin::new(bytes).poll_read(cx, into),
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl AsyncSeek for Image {
    fn start_seek(self: Pin<&mut Self>, position: SeekFrom) -> io::Result<()> {
        Pin::new(self.get_mut().bytes()?).start_seek(position)
    }
    fn poll_complete(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Pin::new(&mut self.get_mut().bytes).poll_complete(cx)
    }
}

impl AsyncWrite for Image {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().bytes).poll_write(cx, bytes)
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// `view` as bytes, with a checksum at the end.
pub fn encode(view: &Snapshot) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.u64(MAGIC);
    writer.u64(view.revision().0);
    writer.u32(view.entries().count());
    view.entries().for_each(|entry| codec::write_entry(&mut writer, entry));
    let crc = crc32fast::hash(&writer.0);
    writer.u32(crc as usize);
    writer.0
}

/// The opposite of [`encode`].
pub fn decode(bytes: Vec<u8>) -> Result<Snapshot, Malformed> {
    let body = bytes.len().checked_sub(4).ok_or_else(Malformed::default)?;
    let crc = crc32fast::hash(&bytes[..body]);
    let mut reader = Reader::new(Bytes::from(bytes));
    if reader.u64()? != MAGIC {
        return Err(Malformed::default());
    }
    let mut view = Snapshot { revision: Revision(reader.u64()?), ..Snapshot::default() };
    for _ in 0..reader.u32()? {
        view.put(Arc::new(codec::read_entry(&mut reader)?));
    }
    if reader.u32()? == crc as usize && reader.position() == body + 4 {
        Ok(view)
    } else {
        Err(Malformed::default())
    }
}
