//! How commands and answers look as bytes, in the log and between members: fixed little-endian numbers, and texts
//! with their length before them. Objects stay the JSON that they are.

use std::sync::Arc;

use bytes::Bytes;

use super::{Command, Reply};
use crate::store::{
    Change, Draft, Entry, Fingerprint, Key, Op, Precondition, Revision,
    cache::Refusal,
    seal::{SealError, Sealer},
};

/// The bytes do not say what they should.
#[derive(Debug, Clone, Default, PartialEq, Eq, thiserror::Error)]
#[error("malformed record")]
pub struct Malformed {
    /// Where the reason is that a value cannot be decrypted.
    pub sealed: Option<SealError>,
}

impl From<SealError> for Malformed {
    fn from(error: SealError) -> Self {
        Self { sealed: Some(error) }
    }
}

/// Appends values to a buffer.
#[derive(Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }
    pub fn u32(&mut self, value: usize) {
        // Nothing that is stored comes near 4 GiB: requests are limited to a few megabytes.
        self.0.extend_from_slice(&(value as u32).to_le_bytes());
    }
    pub fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    pub fn bytes(&mut self, value: &[u8]) {
        self.u32(value.len());
        self.0.extend_from_slice(value);
    }
}

/// Takes values from a buffer; texts share it.
pub struct Reader {
    bytes: Bytes,
    at: usize,
}

impl Reader {
    pub fn new(bytes: Bytes) -> Self {
        Self { bytes, at: 0 }
    }
    fn take(&mut self, len: usize) -> Result<&[u8], Malformed> {
        let end = self.at.checked_add(len).ok_or_else(Malformed::default)?;
        let taken = self.bytes.get(self.at..end).ok_or_else(Malformed::default)?;
        self.at = end;
        Ok(taken)
    }
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.take(1)?[0])
    }
    pub fn u32(&mut self) -> Result<usize, Malformed> {
        let bytes = self.take(4)?.try_into().map_err(|_| Malformed::default())?;
        Ok(u32::from_le_bytes(bytes) as usize)
    }
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        let bytes = self.take(8)?.try_into().map_err(|_| Malformed::default())?;
        Ok(u64::from_le_bytes(bytes))
    }
    pub fn bytes(&mut self) -> Result<Bytes, Malformed> {
        let len = self.u32()?;
        let start = self.at;
        self.take(len)?;
        Ok(self.bytes.slice(start..start + len))
    }
    fn text(&mut self) -> Result<Arc<str>, Malformed> {
        let bytes = self.bytes()?;
        std::str::from_utf8(&bytes).map(Arc::from).map_err(|_| Malformed::default())
    }
    /// Whether `text` is anywhere in the buffer.
    pub fn contains(&self, text: &[u8]) -> bool {
        memchr::memmem::find(&self.bytes, text).is_some()
    }
    /// How many bytes were taken.
    pub fn position(&self) -> usize {
        self.at
    }
    /// A reader of the next `len` bytes alone.
    pub fn nested(&mut self, len: usize) -> Result<Self, Malformed> {
        let start = self.at;
        self.take(len)?;
        Ok(Self::new(self.bytes.slice(start..start + len)))
    }
}

/// `sealer` is given where the bytes go to disk.
pub fn write_command(writer: &mut Writer, command: &Command, sealer: Option<&Sealer>) {
    writer.u32(command.transactions().len());
    for ops in command.transactions() {
        writer.u32(ops.len());
        for op in ops {
            write_op(writer, op, sealer);
        }
    }
}

/// The opposite, with the same `sealer`.
pub fn read_command(reader: &mut Reader, sealer: Option<&Sealer>) -> Result<Command, Malformed> {
    let transactions = (0..reader.u32()?)
        .map(|_| (0..reader.u32()?).map(|_| read_op(reader, sealer)).collect())
        .collect::<Result<Vec<_>, Malformed>>()?;
    Ok(Command::new(transactions))
}

fn write_op(writer: &mut Writer, op: &Op, sealer: Option<&Sealer>) {
    writer.bytes(op.key.as_str().as_bytes());
    match op.precondition {
        Precondition::Any => writer.u8(0),
        Precondition::Absent => writer.u8(1),
        Precondition::Present => writer.u8(2),
        Precondition::At(Revision(revision)) => {
            writer.u8(3);
            writer.u64(revision);
        }
        Precondition::Like(Fingerprint(of)) => {
            writer.u8(4);
            writer.0.extend_from_slice(&of);
        }
    }
    match &op.change {
        Change::Check => writer.u8(0),
        Change::Delete => writer.u8(1),
        Change::Put(draft) => {
            writer.u8(2);
            writer.u32(draft.revision_at as usize);
            match sealer {
                Some(sealer) => writer.bytes(&sealer.seal(&op.key, &draft.json)),
                None => writer.bytes(&draft.json),
            }
        }
    }
}

fn read_op(reader: &mut Reader, sealer: Option<&Sealer>) -> Result<Op, Malformed> {
    let key = Key::from_arc(reader.text()?);
    let precondition = match reader.u8()? {
        0 => Precondition::Any,
        1 => Precondition::Absent,
        2 => Precondition::Present,
        3 => Precondition::At(Revision(reader.u64()?)),
        4 => {
            let of = reader.take(16)?.try_into().map_err(|_| Malformed::default())?;
            Precondition::Like(Fingerprint(of))
        }
        _ => return Err(Malformed::default()),
    };
    let change = match reader.u8()? {
        0 => Change::Check,
        1 => Change::Delete,
        2 => {
            let revision_at = reader.u32()? as u32;
            let stored = reader.bytes()?;
            let opened = sealer.map_or(Ok(None), |sealer| sealer.unseal(&key, &stored));
            let json = opened.map_err(Malformed::from)?.map_or(stored, Bytes::from);
            Change::Put(Draft::stored(revision_at, json).map_err(|_| Malformed::default())?)
        }
        _ => return Err(Malformed::default()),
    };
    Ok(Op { key, precondition, change })
}

pub fn write_entry(writer: &mut Writer, entry: &Entry) {
    writer.bytes(entry.key.as_str().as_bytes());
    writer.u64(entry.revision.0);
    writer.u32(entry.revision_at as usize);
    writer.bytes(&entry.json);
}

pub fn read_entry(reader: &mut Reader) -> Result<Entry, Malformed> {
    let key = Key::from_arc(reader.text()?);
    let (revision, revision_at) = (Revision(reader.u64()?), reader.u32()? as u32);
    // A copy of its own: an entry lives long, and must not keep the whole buffer alive.
    let json = Bytes::copy_from_slice(&reader.bytes()?);
    Entry::stored(key, revision, revision_at, json).map_err(|_| Malformed::default())
}

fn write_optional(writer: &mut Writer, entry: Option<&Entry>) {
    writer.u8(u8::from(entry.is_some()));
    if let Some(entry) = entry {
        write_entry(writer, entry);
    }
}

fn read_optional(reader: &mut Reader) -> Result<Option<Arc<Entry>>, Malformed> {
    match reader.u8()? {
        0 => Ok(None),
        1 => Ok(Some(Arc::new(read_entry(reader)?))),
        _ => Err(Malformed::default()),
    }
}

pub fn write_reply(writer: &mut Writer, reply: &Reply) {
    writer.u32(reply.0.len());
    for outcome in &reply.0 {
        match outcome {
            Ok(answers) => {
                writer.u8(0);
                writer.u32(answers.len());
                for entry in answers {
                    write_optional(writer, entry.as_deref());
                }
            }
            Err(refusal) => {
                writer.u8(1);
                writer.u32(refusal.index);
                write_optional(writer, refusal.current.as_deref());
            }
        }
    }
}

pub fn read_reply(reader: &mut Reader) -> Result<Reply, Malformed> {
    let outcomes = (0..reader.u32()?)
        .map(|_| match reader.u8()? {
            0 => Ok(Ok((0..reader.u32()?).map(|_| read_optional(reader)).collect::<Result<_, _>>()?)),
            1 => Ok(Err(Refusal { index: reader.u32()?, current: read_optional(reader)? })),
            _ => Err(Malformed::default()),
        })
        .collect::<Result<_, Malformed>>()?;
    Ok(Reply(outcomes))
}
