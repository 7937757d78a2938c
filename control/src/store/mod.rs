//! The replicated store: every object of the cluster, its history, and who watches it.
//!
//! One small interface (`get`, `snapshot`, `watch`, `transact`) over openraft and redb. Nothing outside this
//! folder names either. All reads come from memory; a write is acknowledged when its log entry is durable.

mod entry;
mod key;
mod watch;

use std::{path::Path, sync::Arc};

pub use entry::{Draft, Entry, Meta};
pub use key::{Key, Scope};
pub use watch::{Event, EventKind, Lagged, Watch};

/// The store's order of writes; an object's `resourceVersion`. 0 is "before everything".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

/// What must hold for an operation's key when the operation is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precondition {
    Any,
    Absent,
    Present,
    At(Revision),
}

#[derive(Debug, Clone)]
pub enum Change {
    Put(Draft),
    Delete,
    /// Changes nothing, but its precondition guards the transaction.
    Check,
}

#[derive(Debug, Clone)]
pub struct Op {
    pub key: Key,
    pub precondition: Precondition,
    pub change: Change,
}

/// Why the store did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Operation `index` of the transaction found its key in another state; nothing was written.
    #[error("precondition of operation {index} does not hold")]
    Precondition { index: usize, current: Option<Arc<Entry>> },
    #[error("no leader is elected right now; nothing was written")]
    NoLeader,
    /// The write was proposed and may still commit.
    #[error("no answer in time; the write may still complete")]
    OutcomeUnknown,
    /// The revision is older than the history kept in memory (HTTP 410).
    #[error("revision {0:?} is older than the history that is kept")]
    Expired(Revision),
    /// The data directory cannot be used: locked, corrupted, not writable. The text says what to do.
    #[error("{0}")]
    Unusable(String),
    #[error("the store failed")]
    Internal(#[source] anyhow::Error),
}

/// A consistent, immutable view of the whole store; cheap to take and to clone, blocks no writer.
#[derive(Clone)]
pub struct Snapshot {}

impl Snapshot {
    pub fn revision(&self) -> Revision {
        todo!()
    }
    pub fn get(&self, key: &Key) -> Option<Arc<Entry>> {
        todo!("{key:?}")
    }
    /// The entries of `scope` in key order, those after `after` only if given (exclusive; for paging).
    pub fn range<'a>(&'a self, scope: &Scope, after: Option<&Key>) -> Box<dyn Iterator<Item = Arc<Entry>> + Send + 'a> {
        todo!("{scope:?} {after:?}")
    }
    /// How many entries `scope` holds.
    pub fn count(&self, scope: &Scope) -> usize {
        self.range(scope, None).count()
    }
    /// The decoded objects of `scope`; entries that do not decode are skipped and logged.
    pub fn list<T: naru_model::Object>(&self, scope: &Scope) -> Vec<Arc<T>> {
        self.range(scope, None).filter_map(|entry| entry.typed::<T>().ok()).collect()
    }
}

/// A handle on the store; clones share it.
#[derive(Clone)]
pub struct Store {}

impl Store {
    /// Opens (or creates) the store in `dir`, replays what is there and waits until this member leads.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] where the directory is locked by another process, not writable or corrupted.
    pub async fn open(dir: &Path) -> Result<Self, StoreError> {
        todo!("{dir:?}")
    }
    /// A store that lives in memory only: for unit tests of the rooms above.
    pub fn in_memory() -> Self {
        todo!()
    }
    /// The newest view of this member.
    pub fn snapshot(&self) -> Snapshot {
        todo!()
    }
    /// The view as it was at `revision`, rebuilt from history: for continue tokens.
    pub fn snapshot_at(&self, revision: Revision) -> Result<Snapshot, StoreError> {
        todo!("{revision:?}")
    }
    /// Waits until this member has applied everything that was committed when it was called.
    pub async fn read_index(&self) -> Result<Revision, StoreError> {
        todo!()
    }
    /// Waits until `revision` is applied here.
    pub async fn wait_for(&self, revision: Revision) -> Result<(), StoreError> {
        todo!("{revision:?}")
    }
    /// Every event of `scope` after `from`, in order, without gaps.
    pub fn watch(&self, scope: Scope, from: Revision) -> Result<Watch, StoreError> {
        todo!("{scope:?} {from:?}")
    }
    /// Applies all of `ops` or none of them. Each put or delete gets the next revision, in order. Answers, per
    /// operation, the entry that was written (or, for a delete, removed, at the revision of its removal).
    pub async fn transact(&self, ops: Vec<Op>) -> Result<Vec<Option<Arc<Entry>>>, StoreError> {
        todo!("{ops:?}")
    }
    /// Flushes and closes; later calls fail.
    pub async fn close(&self) {
        todo!()
    }
}
