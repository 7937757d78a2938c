//! Raft's log and vote, kept in [`Segments`].
//!
//! A frame is a *start* (the first of each file: the log id before it, and the vote), a vote, or the entries of one
//! append. Cutting off a conflicting tail, and beginning anew after a snapshot, are a new file whose start names an
//! earlier or later log id: frames are never rewritten. Old files go when all they hold is purged.
//!
//! Entries are found by an index in memory; the newest are kept decoded, for they are applied right after they were
//! appended.

use std::{
    collections::VecDeque,
    io,
    ops::{Bound, RangeBounds},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use openraft::{
    AnyError, CommittedLeaderId, Entry, EntryPayload, LogState, Membership, OptionalSend, RaftLogReader,
    StorageError, StorageIOError,
    storage::{LogFlushed, RaftLogStorage},
};
use tokio::sync::Notify;

use super::{
    LogId, Types, Vote,
    codec::{self, Malformed, Reader, Writer},
    segments::{self, Location, SegmentError, Segments},
};
use crate::store::seal::{self, SealError, Sealer};

/// Decoded entries that are kept, and the bytes they may take, beside the newest. It is applied at once; those before
/// it are for members that lag a little.
const RECENT_ENTRIES: usize = 1024;
const RECENT_BYTES: usize = 512 << 10;

const START: u8 = 1;
const VOTE: u8 = 2;
const ENTRIES: u8 = 3;

/// A handle on the log; clones share it.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
}

struct Shared {
    /// Held while writing, so never by async code. Taken before `index`.
    files: Mutex<Segments>,
    /// Held for lookups only.
    index: Mutex<Index>,
    /// Bytes of entries appended since the log was opened, and those it held then.
    written: AtomicU64,
    grown: Notify,
    sealer: Arc<Sealer>,
}

#[derive(Default)]
struct Index {
    vote: Option<Vote>,
    /// The log id before the first entry.
    purged: Option<LogId>,
    slots: VecDeque<Slot>,
    /// The last slots' entries, with their size.
    recent: VecDeque<(Entry<Types>, usize)>,
    recent_bytes: usize,
    /// Per file that is kept: its number, and the index of the first entry it may hold.
    starts: VecDeque<(u64, u64)>,
}

struct Slot {
    id: LogId,
    location: Location,
    /// Found in a file, with something in it that looks encrypted.
    may_be_sealed: bool,
}

impl Log {
    /// Opens the log in `dir`, which exists, or creates it there unless `is_expected`.
    pub fn open(dir: &Path, is_expected: bool, sealer: Arc<Sealer>) -> Result<Self, SegmentError> {
        let mut index = Index::default();
        let mut written = 0;
        let files = Segments::open(dir, |location, payload| {
            written += u64::from(location.len);
            index.replay(location, payload)
        })?;
        let files = match files {
            Some(files) => files,
            None if is_expected => {
                let reason = "it holds no log files".into();
                return Err(SegmentError::Corrupted { path: dir.into(), offset: 0, reason });
            }
            None => {
                let io = |error| SegmentError::Io { path: dir.into(), error };
                let files = Segments::create(dir, &start_frame(None, None)).map_err(io)?;
                index.starts.push_back((files.segment(), 0));
                files
            }
        };
        let shared = Shared {
            files: Mutex::new(files),
            index: Mutex::new(index),
            written: AtomicU64::new(written),
            grown: Notify::new(),
            sealer,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The log ids before the first entry and of the last one.
    pub fn range(&self) -> (Option<LogId>, Option<LogId>) {
        let index = self.shared.index();
        (index.purged, index.last())
    }

    /// Whether all that was written after `applied` can be decrypted: it will have to be.
    pub fn check_sealed(&self, applied: Option<LogId>) -> Result<(), SealError> {
        let locations: Vec<Location> = {
            let index = self.shared.index();
            // With keys, what is in plain may be what cannot be read.
            let is_configured = self.shared.sealer.is_configured();
            let is_in_doubt = |slot: &&Slot| Some(slot.id) > applied && (is_configured || slot.may_be_sealed);
            let ahead = index.slots.iter().filter(is_in_doubt);
            ahead.map(|slot| slot.location).collect()
        };
        let files = self.shared.files.lock().unwrap_or_else(PoisonError::into_inner);
        for location in locations {
            let Some(file) = files.reader(location.segment) else { continue };
            let Ok(body) = segments::read(&file, location) else { continue };
            // Damage of other kinds is found, and told, when the entry is applied.
            if let Err(Malformed { sealed: Some(error) }) =
                read_entry(&mut Reader::new(body.into()), &self.shared.sealer)
            {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Begins a new file. Answers the index of the last entry before it.
    pub async fn roll(&self) -> io::Result<Option<u64>> {
        self.shared
            .clone()
            .write(|files, shared| {
                let last = shared.index().last();
                shared.roll(files, last)?;
                Ok(last.map(|id| id.index))
            })
            .await
    }

    /// Bytes that were ever appended, for measuring growth.
    pub fn written(&self) -> u64 {
        self.shared.written.load(Ordering::Relaxed)
    }

    /// Waits until the log has more than `bytes` by the measure of [`Log::written`].
    pub async fn grown_beyond(&self, bytes: u64) {
        loop {
            let grown = self.shared.grown.notified();
            if self.written() > bytes {
                return;
            }
            grown.await;
        }
    }

    /// Makes sure that `len` bytes can be appended as far as disk space goes.
    pub async fn reserve(&self, len: usize) -> io::Result<()> {
        self.shared
            .clone()
            .write(move |files, shared| {
                if files.is_full() {
                    let last = shared.index().last();
                    shared.roll(files, last)?;
                }
                files.reserve(len).map_err(|error| {
                    io::Error::new(
                        error.kind(),
                        format!("cannot write to {}: {error}", files.path().display()),
                    )
                })
            })
            .await
    }
}

impl Shared {
    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `change` on the files, away from async code.
    async fn write<T: Send + 'static>(
        self: Arc<Self>,
        change: impl FnOnce(&mut Segments, &Self) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let write = move || {
            let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
            change(&mut files, &self)
        };
        tokio::task::spawn_blocking(write).await.map_err(io::Error::other)?
    }

    /// Begins a file whose entries follow `before`.
    fn roll(&self, files: &mut Segments, before: Option<LogId>) -> io::Result<()> {
        let vote = self.index().vote;
        files.roll(&start_frame(before, vote))?;
        self.index().start(files.segment(), before);
        Ok(())
    }

    fn append(&self, files: &mut Segments, entries: Vec<Entry<Types>>) -> io::Result<()> {
        if files.is_full() {
            let last = self.index().last();
            self.roll(files, last)?;
        }
        let mut writer = Writer::default();
        let mut places = Vec::with_capacity(entries.len());
        writer.u8(ENTRIES);
        writer.u32(entries.len());
        for entry in &entries {
            let mut body = Writer::default();
            write_entry(&mut body, entry, &self.sealer)?;
            places.push((writer.0.len() + 4, body.0.len()));
            writer.bytes(&body.0);
        }
        let frame = files.append(&writer.0)?;
        let mut index = self.index();
        for (entry, (at, len)) in entries.into_iter().zip(places) {
            let location =
                Location { segment: frame.segment, offset: frame.offset + at as u64, len: len as u32 };
            index.slots.push_back(Slot { id: entry.log_id, location, may_be_sealed: false });
            index.remember(entry, len);
        }
        drop(index);
        self.written.fetch_add(writer.0.len() as u64, Ordering::Relaxed);
        self.grown.notify_waiters();
        Ok(())
    }
}

impl Index {
    fn last(&self) -> Option<LogId> {
        self.slots.back().map(|slot| slot.id).or(self.purged)
    }

    fn first_index(&self) -> u64 {
        self.purged.map_or(0, |id| id.index + 1)
    }

    /// A file begins, whose entries follow `before`: those after it are void.
    fn start(&mut self, segment: u64, before: Option<LogId>) {
        let next = before.map_or(0, |id| id.index + 1);
        self.starts.push_back((segment, next));
        self.cut(next);
        if self.last() != before {
            // A snapshot replaced what was here.
            self.slots.clear();
            self.forget();
            self.purged = before;
        }
    }

    /// Drops the entries from `index` on.
    fn cut(&mut self, index: u64) {
        while self.slots.back().is_some_and(|slot| slot.id.index >= index) {
            self.slots.pop_back();
        }
        while self.recent.back().is_some_and(|(entry, _)| entry.log_id.index >= index) {
            let (_, size) = self.recent.pop_back().expect("there is a last one");
            self.recent_bytes -= size;
        }
    }

    fn forget(&mut self) {
        self.recent.clear();
        self.recent_bytes = 0;
    }

    fn remember(&mut self, entry: Entry<Types>, size: usize) {
        self.recent.push_back((entry, size));
        self.recent_bytes += size;
        while self.recent.len() > 1
            && (self.recent.len() > RECENT_ENTRIES || self.recent_bytes > RECENT_BYTES)
        {
            let (_, size) = self.recent.pop_front().expect("there are several");
            self.recent_bytes -= size;
        }
    }

    /// Takes in a frame that was found in a file. The text says what is wrong with it.
    fn replay(&mut self, location: Location, payload: &[u8]) -> Result<(), String> {
        let mut reader = Reader::new(Bytes::copy_from_slice(payload));
        self.replay_frame(location, &mut reader).map_err(|error| error.to_string())
    }

    fn replay_frame(&mut self, location: Location, reader: &mut Reader) -> Result<(), Malformed> {
        match reader.u8()? {
            START => {
                let (before, vote) = (read_log_id(reader)?, read_vote(reader)?);
                self.vote = vote;
                self.start(location.segment, before);
            }
            VOTE => self.vote = read_vote(reader)?,
            ENTRIES => {
                for _ in 0..reader.u32()? {
                    let len = reader.u32()?;
                    let offset = location.offset + reader.position() as u64;
                    let mut body = reader.nested(len)?;
                    let may_be_sealed = body.contains(seal::PREFIX);
                    let id = read_entry_id(&mut body)?;
                    if id.index != self.last().map_or(0, |last| last.index + 1) {
                        return Err(Malformed::default());
                    }
                    let location = Location { offset, len: len as u32, ..location };
                    self.slots.push_back(Slot { id, location, may_be_sealed });
                }
            }
            _ => return Err(Malformed::default()),
        }
        Ok(())
    }

    /// Where the entries of `range` are; those that are kept decoded, at once.
    fn find(&self, range: impl RangeBounds<u64>) -> Found {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end + 1,
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        let first = self.first_index();
        let skip = start.saturating_sub(first) as usize;
        let take = end.saturating_sub(first.max(start)) as usize;
        if let Some((oldest, _)) = self.recent.front()
            && start >= oldest.log_id.index
        {
            let skip = (start - oldest.log_id.index) as usize;
            return Found::Decoded(
                self.recent.iter().skip(skip).take(take).map(|(entry, _)| entry.clone()).collect(),
            );
        }
        Found::OnDisk(self.slots.iter().skip(skip).take(take).map(|slot| slot.location).collect())
    }

    /// Drops the entries up to `upto`, and says which is the oldest file that is still needed.
    fn purge(&mut self, upto: LogId) -> Option<u64> {
        while self.slots.front().is_some_and(|slot| slot.id.index <= upto.index) {
            self.slots.pop_front();
        }
        while self.recent.front().is_some_and(|(entry, _)| entry.log_id.index <= upto.index) {
            let (_, size) = self.recent.pop_front().expect("there is a first one");
            self.recent_bytes -= size;
        }
        self.purged = Some(upto);
        // Whatever is newer than `upto` was written to the newest file that begins at or before it, or later.
        let oldest = self.starts.iter().rposition(|(_, next)| *next <= upto.index + 1)?;
        self.starts.drain(..oldest);
        self.starts.front().map(|(segment, _)| *segment)
    }
}

enum Found {
    Decoded(Vec<Entry<Types>>),
    OnDisk(Vec<Location>),
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + std::fmt::Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry<Types>>, StorageError<u64>> {
        let found = self.shared.index().find(range);
        match found {
            Found::Decoded(entries) => Ok(entries),
            Found::OnDisk(locations) if locations.is_empty() => Ok(Vec::new()),
            Found::OnDisk(locations) => self
                .shared
                .clone()
                .write(move |files, shared| {
                    locations.iter().map(|location| read_from(files, *location, &shared.sealer)).collect()
                })
                .await
                .map_err(|error| StorageIOError::read_logs(AnyError::new(&error)).into()),
        }
    }
}

fn read_from(files: &Segments, location: Location, sealer: &Sealer) -> io::Result<Entry<Types>> {
    let file = files.reader(location.segment).ok_or_else(|| io::Error::other("a log file is gone"))?;
    let body = segments::read(&file, location)?;
    read_entry(&mut Reader::new(body.into()), sealer).map_err(io::Error::other)
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError<u64>> {
        let (last_purged_log_id, last_log_id) = self.range();
        Ok(LogState { last_purged_log_id, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError<u64>> {
        let vote = *vote;
        let save = move |files: &mut Segments, shared: &Shared| {
            let mut writer = Writer::default();
            writer.u8(VOTE);
            write_vote(&mut writer, Some(vote));
            files.append(&writer.0)?;
            shared.index().vote = Some(vote);
            Ok(())
        };
        let saved = self.shared.clone().write(save).await;
        saved.map_err(|error| StorageIOError::write_vote(AnyError::new(&error)).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError<u64>> {
        Ok(self.shared.index().vote)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Result<(), StorageError<u64>>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<_> = entries.into_iter().collect();
        let appended = self.shared.clone().write(move |files, shared| shared.append(files, entries)).await;
        match appended {
            Ok(()) => {
                callback.log_io_completed(Ok(()));
                Ok(())
            }
            Err(error) => Err(StorageIOError::write_logs(AnyError::new(&error)).into()),
        }
    }

    async fn truncate(&mut self, from: LogId) -> Result<(), StorageError<u64>> {
        let truncate = move |files: &mut Segments, shared: &Shared| {
            let index = shared.index();
            let kept = from.index.checked_sub(index.first_index() + 1);
            let before =
                kept.and_then(|kept| index.slots.get(kept as usize)).map(|slot| slot.id).or(index.purged);
            drop(index);
            shared.roll(files, before)
        };
        let truncated = self.shared.clone().write(truncate).await;
        truncated.map_err(|error| StorageIOError::write_logs(AnyError::new(&error)).into())
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), StorageError<u64>> {
        let purge = move |files: &mut Segments, shared: &Shared| {
            if shared.index().last().is_none_or(|last| last.index < upto.index) {
                shared.roll(files, Some(upto))?;
            }
            let oldest = shared.index().purge(upto);
            oldest.map_or(Ok(()), |segment| files.remove_before(segment))
        };
        let purged = self.shared.clone().write(purge).await;
        purged.map_err(|error| StorageIOError::write_logs(AnyError::new(&error)).into())
    }
}

fn start_frame(before: Option<LogId>, vote: Option<Vote>) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.u8(START);
    write_log_id(&mut writer, before);
    write_vote(&mut writer, vote);
    writer.0
}

fn write_log_id(writer: &mut Writer, id: Option<LogId>) {
    writer.u8(u8::from(id.is_some()));
    if let Some(id) = id {
        writer.u64(id.leader_id.term);
        writer.u64(id.leader_id.node_id);
        writer.u64(id.index);
    }
}

fn read_log_id(reader: &mut Reader) -> Result<Option<LogId>, Malformed> {
    match reader.u8()? {
        0 => Ok(None),
        1 => {
            let leader = CommittedLeaderId::new(reader.u64()?, reader.u64()?);
            Ok(Some(LogId::new(leader, reader.u64()?)))
        }
        _ => Err(Malformed::default()),
    }
}

fn write_vote(writer: &mut Writer, vote: Option<Vote>) {
    let Some(vote) = vote else { return writer.u8(0) };
    writer.u8(if vote.is_committed() { 2 } else { 1 });
    writer.u64(vote.leader_id().term);
    writer.u64(vote.leader_id().node_id);
}

fn read_vote(reader: &mut Reader) -> Result<Option<Vote>, Malformed> {
    match reader.u8()? {
        0 => Ok(None),
        1 => Ok(Some(Vote::new(reader.u64()?, reader.u64()?))),
        2 => Ok(Some(Vote::new_committed(reader.u64()?, reader.u64()?))),
        _ => Err(Malformed::default()),
    }
}

fn write_entry(writer: &mut Writer, entry: &Entry<Types>, sealer: &Sealer) -> io::Result<()> {
    write_log_id(writer, Some(entry.log_id));
    match &entry.payload {
        EntryPayload::Blank => writer.u8(0),
        EntryPayload::Normal(command) => {
            writer.u8(1);
            codec::write_command(writer, command, Some(sealer));
        }
        EntryPayload::Membership(membership) => {
            writer.u8(2);
            writer.bytes(&serde_json::to_vec(membership)?);
        }
    }
    Ok(())
}

fn read_entry_id(reader: &mut Reader) -> Result<LogId, Malformed> {
    read_log_id(reader)?.ok_or_else(Malformed::default)
}

fn read_entry(reader: &mut Reader, sealer: &Sealer) -> Result<Entry<Types>, Malformed> {
    let log_id = read_entry_id(reader)?;
    let payload = match reader.u8()? {
        0 => EntryPayload::Blank,
        1 => EntryPayload::Normal(codec::read_command(reader, Some(sealer))?),
        2 => {
            let membership: Membership<u64, openraft::BasicNode> =
                serde_json::from_slice(&reader.bytes()?).map_err(|_| Malformed::default())?;
            EntryPayload::Membership(membership)
        }
        _ => return Err(Malformed::default()),
    };
    Ok(Entry { log_id, payload })
}
