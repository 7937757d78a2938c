//! The replicated store: every object of the cluster, its history, and who watches it.
//!
//! One small interface (`get`, `snapshot`, `watch`, `transact`) over openraft and redb. Nothing outside this
//! folder names either. All reads come from memory; a write is acknowledged when its log entry is durable.

mod bell; // What wakes watchers.
mod cache; // The newest view and the recent history, in memory.
mod entries; // One resource's objects.
mod entry;
mod history; // One resource's recent events.
pub(crate) mod json; // As Go writes it.
mod key;
mod raft;
mod seal; // Encryption at rest.
mod snapshot;
mod splice; // The revision's place in an object's JSON.
mod watch;

#[cfg(test)]
mod tests;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use cache::Cache;
use raft::Member;
use tokio_util::sync::CancellationToken;

pub use entry::{Draft, Entry, Meta};
pub use key::{Key, Scope};
pub use seal::{SealError, Sealer};
pub use snapshot::{Contents, Snapshot};
pub(crate) use splice::blank;
pub use watch::{Event, EventKind, Lagged, Watch};

/// A decoded object that nobody asked for in this time is let go before twice the time.
const IDLE_OBJECT: Duration = Duration::from_secs(10);

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
    /// The entry is what this draft made, at whatever revision: for a write that builds on one whose revision is not
    /// known yet.
    Like(Fingerprint),
}

/// What tells the JSON of a draft from that of others, wherever and whenever it is worked out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 16]);

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
    /// There is no room for the write; a later one may find some. The text is for the operator.
    #[error("{0}")]
    Full(String),
    #[error("the store failed")]
    Internal(#[source] anyhow::Error),
}

/// A transaction that has its place in the order of writes.
pub struct Proposed(Progress);

enum Progress {
    Done(cache::Outcome),
    Pending(raft::Pending),
}

impl Proposed {
    /// Waits until it is written; see [`Store::transact`].
    pub async fn outcome(self) -> Result<Vec<Option<Arc<Entry>>>, StoreError> {
        let outcome = match self.0 {
            Progress::Done(outcome) => outcome,
            Progress::Pending(pending) => pending.outcome().await?,
        };
        Ok(outcome?)
    }
}

/// A handle on the store; clones share it.
#[derive(Clone)]
pub struct Store {
    cache: Arc<Cache>,
    /// None where the store lives in memory only.
    member: Option<Arc<Member>>,
    sealer: Arc<Sealer>,
}

impl Store {
    /// Opens (or creates) the store in `dir`, replays what is there and waits until this member leads.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] where the directory is locked by another process, not writable or corrupted.
    pub async fn open(dir: &Path) -> Result<Self, StoreError> {
        Self::open_sealed(dir, Sealer::default()).await
    }

    /// The same, with encryption at rest.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] also where `sealer` cannot read what is there; nothing was changed then.
    pub async fn open_sealed(dir: &Path, sealer: Sealer) -> Result<Self, StoreError> {
        let sealer = Arc::new(sealer);
        let (member, cache) = Member::open(dir, sealer.clone()).await?;
        Ok(Self { cache, member: Some(Arc::new(member)), sealer })
    }

    /// A store that lives in memory only: for unit tests of the rooms above.
    pub fn in_memory() -> Self {
        Self { cache: Arc::new(Cache::new(Snapshot::default())), member: None, sealer: Arc::default() }
    }

    /// The newest view of this member.
    pub fn snapshot(&self) -> Snapshot {
        self.cache.snapshot()
    }

    /// The view as it was at `revision`, rebuilt from history. [`StoreError::Expired`] where the history of any
    /// resource is shorter; for continue tokens use [`Store::resource_at`], which asks for one resource only.
    pub fn snapshot_at(&self, revision: Revision) -> Result<Snapshot, StoreError> {
        self.cache.snapshot_at(None, revision)
    }

    /// A view in which `resource` (as in [`Scope::resource`]) is as it was at `revision`, for continue tokens.
    /// Nothing else may be read from it.
    pub fn resource_at(&self, resource: &str, revision: Revision) -> Result<Snapshot, StoreError> {
        self.cache.snapshot_at(Some(resource), revision)
    }

    /// Waits until this member has applied everything that was committed when it was called.
    pub async fn read_index(&self) -> Result<Revision, StoreError> {
        if let Some(member) = &self.member {
            member.read_index().await?;
        }
        Ok(self.cache.revision())
    }

    /// Waits until `revision` is applied here; for ever, if it never comes: the caller sets the deadline.
    pub async fn wait_for(&self, revision: Revision) -> Result<(), StoreError> {
        let mut applied = self.cache.applied();
        applied.wait_for(|applied| *applied >= revision).await.expect("the cache holds the sender");
        Ok(())
    }

    /// Every event of `scope` after `from`, in order, without gaps.
    ///
    /// # Errors
    /// [`StoreError::Expired`] where the history that is kept begins after `from`.
    pub fn watch(&self, scope: Scope, from: Revision) -> Result<Watch, StoreError> {
        Watch::new(self.cache.clone(), scope, from)
    }

    /// Applies all of `ops` or none of them. Each put or delete gets the next revision, in order; a delete of what
    /// is not there gets none. Later operations see what earlier ones wrote. Answers, per operation, the entry that
    /// was written, removed (at the revision of its removal) or checked.
    pub async fn transact(&self, ops: Vec<Op>) -> Result<Vec<Option<Arc<Entry>>>, StoreError> {
        self.propose(ops).await?.outcome().await
    }

    /// Puts `ops` in line: whatever is proposed when this has answered is applied after it, and may build on it
    /// ([`Precondition::Like`]) while it is still being written.
    pub async fn propose(&self, ops: Vec<Op>) -> Result<Proposed, StoreError> {
        Ok(match &self.member {
            Some(member) => Proposed(Progress::Pending(member.propose(ops).await?)),
            None => {
                let outcome = self.cache.apply([&*ops]).pop().expect("one transaction has one outcome");
                Proposed(Progress::Done(outcome))
            }
        })
    }

    /// Brings the state on disk up to date, so that the next start has no log to apply. The store does this by itself
    /// as the log grows; a restart needs no checkpoint.
    pub async fn checkpoint(&self) -> Result<(), StoreError> {
        match &self.member {
            Some(member) => member.checkpoint().await,
            None => Ok(()),
        }
    }

    /// Lets go of decoded objects that nobody asks for any more and of events that nobody has missed for minutes, every
    /// now and then; for ever. Most objects of a large cluster are at rest, and these take more memory than their JSON.
    pub async fn let_idle_objects_go(&self) {
        loop {
            tokio::time::sleep(IDLE_OBJECT).await;
            self.cache.age(Instant::now());
            self.snapshot().entries().for_each(|entry| entry.let_idle_go());
        }
    }

    /// Encrypts what is on disk anew whenever the keys change, until `shutdown`: nothing is left that the first
    /// provider did not write. Ends at once where nothing is encrypted.
    pub async fn keep_sealed(&self, shutdown: CancellationToken) {
        if let Some(member) = &self.member
            && self.sealer.is_configured()
        {
            shutdown.run_until_cancelled(seal::keep(member, &self.sealer)).await;
        }
    }

    /// Closes the store and gives its directory back; later writes fail. A store in memory stays as it is.
    pub async fn close(&self) {
        if let Some(member) = &self.member {
            member.close().await;
        }
    }
}
