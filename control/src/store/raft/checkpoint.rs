//! The state machine on disk: one redb file that now and then catches up with what is in memory.
//!
//! Nothing is written here while entries are applied; the log already has them. A checkpoint writes what changed since
//! the one before, together with the log id it reaches, in one transaction; after a crash the rest is applied again
//! from the log. The file is open only while it is written or read, so that at any other time it is whole and closed.
//! Every entry has a checksum, and the position has a count and a sum of them: redb does not notice every damage.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use redb::{
    Builder, Database, DatabaseError, ReadOnlyDatabase, ReadableDatabase as _, ReadableTable as _,
    ReadableTableMetadata as _, TableDefinition,
};
use serde::{Deserialize, Serialize};

use super::{LogId, StoredMembership};
use crate::store::{
    Entry, Key, Revision, Snapshot,
    seal::{SealError, Sealer},
};

/// Key to revision, place of the revision, checksum (little-endian) and JSON, encrypted where that is asked for.
const ENTRIES: TableDefinition<&str, &[u8]> = TableDefinition::new("entries");
/// One row: the [`Position`] as JSON.
const POSITION: TableDefinition<&str, &[u8]> = TableDefinition::new("position");
const ROW: &str = "position";
const FORMAT: u32 = 1;
const ROW_HEADER: usize = 16;
/// redb's own default is 1 GiB; pages here are touched once.
const CACHE_BYTES: usize = 8 << 20;

/// How far a checkpoint reaches.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Position {
    pub applied: Option<LogId>,
    pub membership: StoredMembership,
    pub revision: u64,
    /// It came from the leader as a snapshot: the log may end before it.
    pub is_installed: bool,
}

/// A position, and what the entries must add up to.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    format: u32,
    position: Position,
    count: u64,
    sum: u64,
}

/// Why a checkpoint cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("cannot use {}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("{} is corrupted: {reason}", path.display())]
    Corrupted { path: PathBuf, reason: String },
    #[error(transparent)]
    Sealed(SealError),
    #[error("the store is closed")]
    Closed,
}

/// The file, which may not exist yet.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    path: PathBuf,
    sealer: Arc<Sealer>,
}

impl Checkpoint {
    pub fn new(dir: &Path, sealer: Arc<Sealer>) -> Self {
        Self { path: dir.join("state.redb"), sealer }
    }

    /// What the file holds; `None` where there is none.
    pub fn load(&self) -> Result<Option<(Snapshot, Position)>, CheckpointError> {
        if !fs::exists(&self.path).map_err(|error| self.io(error))? {
            return Ok(None);
        }
        self.guarded(|| {
            let database = self.open_to_read()?;
            let transaction = database.begin_read().map_err(redb::Error::from)?;
            let record = {
                let table = transaction.open_table(POSITION).map_err(redb::Error::from)?;
                let row = table.get(ROW).map_err(redb::Error::from)?;
                let row = row.ok_or_else(|| Failure::Damage("it has no position".into()))?;
                decode_record(row.value())?
            };
            let table = transaction.open_table(ENTRIES).map_err(redb::Error::from)?;
            let mut view = Snapshot { revision: Revision(record.position.revision), ..Snapshot::default() };
            let (mut count, mut sum) = (0, 0_u64);
            for row in table.iter().map_err(redb::Error::from)? {
                let (key, value) = row.map_err(redb::Error::from)?;
                sum = sum.wrapping_add(u64::from(checksum(key.value(), value.value())));
                count += 1;
                view.put(Arc::new(decode_row(key.value(), value.value(), &self.sealer)?));
            }
            if (count, sum) != (record.count, record.sum) {
                return Err(Failure::Damage(format!(
                    "it should hold {} objects with checksum {:x}, but holds {count} with {sum:x}",
                    record.count, record.sum
                )));
            }
            Ok(Some((view, record.position)))
        })
    }

    /// Makes the file say what `view` says at `position`; `changed` holds all keys that may differ, or is `None`
    /// where all may. Durable when this returns, and as before when it fails.
    pub fn save(
        &self,
        view: &Snapshot,
        changed: Option<&HashSet<Key>>,
        position: &Position,
    ) -> Result<(), CheckpointError> {
        self.guarded(|| {
            if !fs::exists(&self.path)? {
                return self.create(view, position);
            }
            let database = builder().open(&self.path)?;
            write(&database, view, changed, position, &self.sealer)
        })
    }

    /// The same with a new file in place of the old one, so that nothing is left of what it held.
    pub fn replace(&self, view: &Snapshot, position: &Position) -> Result<(), CheckpointError> {
        self.guarded(|| self.create(view, position))
    }

    /// Under another name first: a file of this name is never half made.
    fn create(&self, view: &Snapshot, position: &Position) -> Result<(), Failure> {
        let draft = self.path.with_extension("new");
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let database = builder().create(&draft)?;
        write(&database, view, None, position, &self.sealer)?;
        database.close()?;
        fs::rename(&draft, &self.path)?;
        File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()?;
        Ok(())
    }

    /// Reading changes nothing in the file, unless a crash interrupted a checkpoint: then redb has to go back to
    /// the last whole one.
    fn open_to_read(&self) -> Result<ReadOnlyDatabase, Failure> {
        match builder().open_read_only(&self.path) {
            Err(DatabaseError::RepairAborted) => {
                builder().set_check_integrity_on_open(true).open(&self.path)?.close()?;
                Ok(builder().open_read_only(&self.path)?)
            }
            opened => Ok(opened?),
        }
    }

    /// Runs `work` on the file. redb panics on some damaged files; that is damage, too.
    fn guarded<T>(&self, work: impl FnOnce() -> Result<T, Failure>) -> Result<T, CheckpointError> {
        let damaged = |reason: String| CheckpointError::Corrupted { path: self.path.clone(), reason };
        match catch_unwind(AssertUnwindSafe(work)) {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(Failure::Io(error))) => Err(self.io(error)),
            Ok(Err(Failure::Damage(reason))) => Err(damaged(reason)),
            Ok(Err(Failure::Sealed(error))) => Err(CheckpointError::Sealed(error)),
            Err(_) => Err(damaged("the database does not hold together".into())),
        }
    }

    fn io(&self, error: io::Error) -> CheckpointError {
        CheckpointError::Io { path: self.path.clone(), error }
    }
}

/// The kinds of failure that a caller tells apart.
enum Failure {
    Io(io::Error),
    Damage(String),
    Sealed(SealError),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        // Whatever redb reads is there, or the file was cut short.
        if error.kind() == io::ErrorKind::UnexpectedEof || error.kind() == io::ErrorKind::InvalidData {
            return Self::Damage(error.to_string());
        }
        Self::Io(error)
    }
}

impl From<redb::Error> for Failure {
    fn from(error: redb::Error) -> Self {
        match error {
            redb::Error::Io(error) => error.into(),
            error => Self::Damage(error.to_string()),
        }
    }
}

impl From<DatabaseError> for Failure {
    fn from(error: DatabaseError) -> Self {
        redb::Error::from(error).into()
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

fn write(
    database: &Database,
    view: &Snapshot,
    changed: Option<&HashSet<Key>>,
    position: &Position,
    sealer: &Sealer,
) -> Result<(), Failure> {
    let transaction = database.begin_write().map_err(redb::Error::from)?;
    {
        let mut positions = transaction.open_table(POSITION).map_err(redb::Error::from)?;
        let mut record = match positions.get(ROW).map_err(redb::Error::from)? {
            Some(row) => decode_record(row.value())?,
            None => Record { format: FORMAT, ..Record::default() },
        };
        record.position = position.clone();
        if changed.is_none() {
            (record.count, record.sum) = (0, 0);
            transaction.delete_table(ENTRIES).map_err(redb::Error::from)?;
        }
        let mut entries = transaction.open_table(ENTRIES).map_err(redb::Error::from)?;
        let mut row = Vec::new();
        let mut put = |key: &Key, entry: Option<&Entry>| -> Result<(), redb::Error> {
            let name = key.as_str();
            let old = match entry {
                Some(entry) => {
                    encode_row(entry, &mut row, sealer);
                    record.sum = record.sum.wrapping_add(u64::from(checksum(name, &row)));
                    record.count += 1;
                    entries.insert(name, &*row)?
                }
                None => entries.remove(name)?,
            };
            if let Some(old) = old {
                record.sum = record.sum.wrapping_sub(u64::from(checksum(name, old.value())));
                record.count -= 1;
            }
            Ok(())
        };
        match changed {
            None => view.entries().try_for_each(|entry| put(&entry.key, Some(entry)))?,
            Some(changed) => {
                // In order, so that neighbours in the tree are written together.
                let mut keys: Vec<&Key> = changed.iter().collect();
                keys.sort_unstable();
                keys.into_iter().try_for_each(|key| put(key, view.get(key).as_deref()))?;
            }
        }
        debug_assert_eq!(entries.len().ok(), Some(record.count));
        let record = serde_json::to_vec(&record).map_err(io::Error::other)?;
        positions.insert(ROW, &*record).map_err(redb::Error::from)?;
    }
    transaction.commit().map_err(redb::Error::from)?;
    Ok(())
}

fn decode_record(row: &[u8]) -> Result<Record, Failure> {
    let record: Record =
        serde_json::from_slice(row).map_err(|error| Failure::Damage(format!("its position: {error}")))?;
    if record.format != FORMAT {
        return Err(Failure::Damage(format!("it has format {}, not {FORMAT}", record.format)));
    }
    Ok(record)
}

fn encode_row(entry: &Entry, row: &mut Vec<u8>, sealer: &Sealer) {
    row.clear();
    row.extend_from_slice(&entry.revision.0.to_le_bytes());
    row.extend_from_slice(&entry.revision_at.to_le_bytes());
    row.extend_from_slice(&[0; 4]);
    row.extend_from_slice(&sealer.seal(&entry.key, &entry.json));
    let crc = checksum(entry.key.as_str(), row);
    row[12..ROW_HEADER].copy_from_slice(&crc.to_le_bytes());
}

/// Over key and row, without the row's own checksum.
fn checksum(key: &str, row: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key.as_bytes());
    hasher.update(row.get(..12).unwrap_or_default());
    hasher.update(row.get(ROW_HEADER..).unwrap_or_default());
    hasher.finalize()
}

fn decode_row(key: &str, row: &[u8], sealer: &Sealer) -> Result<Entry, Failure> {
    let damage = || Failure::Damage(format!("object {key:?} fails its checksum"));
    let header: &[u8; ROW_HEADER] = row.first_chunk().ok_or_else(damage)?;
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if checksum(key, row) != word(12) {
        return Err(damage());
    }
    let revision = Revision(u64::from(word(0)) | u64::from(word(4)) << 32);
    let (key, stored) = (Key::from_arc(key.into()), &row[ROW_HEADER..]);
    let opened = sealer.unseal(&key, stored).map_err(Failure::Sealed)?;
    let json = opened.map_or_else(|| Bytes::copy_from_slice(stored), Bytes::from);
    Entry::stored(key, revision, word(8), json).map_err(|_| damage())
}
