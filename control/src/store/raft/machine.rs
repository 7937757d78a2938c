//! The replicated state machine: applies commands to the cache, and makes checkpoints of it.

use std::{
    collections::HashSet,
    io, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use openraft::{
    AnyError, Entry, EntryPayload, OptionalSend, RaftSnapshotBuilder, StorageError, StorageIOError,
    storage::RaftStateMachine,
};
use tokio::sync::oneshot;

use super::{
    Image, LogId, Reply, SnapshotMeta, StoredMembership, Types,
    checkpoint::{Checkpoint, CheckpointError, Position},
    image,
};
use crate::store::{Change, Key, cache::Cache};

/// Between attempts to write a checkpoint.
const RETRY: Duration = Duration::from_secs(5);

/// A handle on the state machine; clones share it.
#[derive(Clone)]
pub struct Machine {
    shared: Arc<Shared>,
}

struct Shared {
    cache: Arc<Cache>,
    checkpoint: Checkpoint,
    /// Held while entries are applied, so that position and cache always agree.
    state: Mutex<State>,
    /// The position of the checkpoint on disk; held while the next one is written.
    saved: Mutex<Saved>,
}

struct Saved {
    position: Option<Position>,
    /// The directory is given back: nothing may be written to it any more.
    is_closed: bool,
}

#[derive(Default)]
struct State {
    position: Position,
    /// Keys written since the last checkpoint; all of them, where there was none.
    changed: HashSet<Key>,
}

impl Machine {
    /// A machine whose `cache` holds what `checkpoint` does at `saved`.
    pub fn new(cache: Arc<Cache>, checkpoint: Checkpoint, saved: Option<Position>) -> Self {
        let position = saved.clone().unwrap_or_default();
        let state = Mutex::new(State { position, changed: HashSet::new() });
        let saved = Mutex::new(Saved { position: saved, is_closed: false });
        Self { shared: Arc::new(Shared { cache, checkpoint, state, saved }) }
    }

    /// Writes what changed since the last checkpoint to disk. Blocks; applying goes on meanwhile.
    pub fn checkpoint(&self) -> Result<(), CheckpointError> {
        self.save(false)
    }

    /// Writes everything to disk anew, and leaves nothing of the checkpoint before.
    pub fn rewrite(&self) -> Result<(), CheckpointError> {
        self.save(true)
    }

    fn save(&self, is_new: bool) -> Result<(), CheckpointError> {
        let shared = &self.shared;
        let mut saved = shared.saved();
        if saved.is_closed {
            return Err(CheckpointError::Closed);
        }
        let mut state = shared.state();
        let position = Position { revision: shared.cache.revision().0, ..state.position.clone() };
        let changed = mem::take(&mut state.changed);
        let view = shared.cache.snapshot();
        drop(state);
        let changed_keys = saved.position.as_ref().map(|_| &changed);
        let written = if is_new {
            shared.checkpoint.replace(&view, &position)
        } else {
            shared.checkpoint.save(&view, changed_keys, &position)
        };
        if let Err(error) = written {
            shared.state().changed.extend(changed);
            return Err(error);
        }
        saved.position = Some(position);
        Ok(())
    }

    /// What the checkpoint on disk is to openraft; `None` before the first.
    fn snapshot(&self) -> Option<openraft::Snapshot<Types>> {
        let position = self.shared.saved().position.clone()?;
        let snapshot = Box::new(Image::of(self.shared.checkpoint.clone(), position.clone()));
        Some(openraft::Snapshot { meta: meta(&position), snapshot })
    }

    fn apply_one(&self, state: &mut State, entry: Entry<Types>) -> Reply {
        state.position.applied = Some(entry.log_id);
        match entry.payload {
            EntryPayload::Blank => Reply::default(),
            EntryPayload::Membership(membership) => {
                state.position.membership = StoredMembership::new(Some(entry.log_id), membership);
                Reply::default()
            }
            EntryPayload::Normal(command) => {
                let transactions = command.transactions();
                let outcomes = self.shared.cache.apply(transactions.iter().map(Vec::as_slice));
                let succeeded = transactions.iter().zip(&outcomes).filter(|(_, outcome)| outcome.is_ok());
                let written =
                    succeeded.flat_map(|(ops, _)| ops).filter(|op| !matches!(op.change, Change::Check));
                state.changed.extend(written.map(|op| op.key.clone()));
                Reply(outcomes)
            }
        }
    }

    /// Replaces everything with what a snapshot from the leader holds.
    fn install(&self, meta: &SnapshotMeta, image: Image) -> Result<(), AnyError> {
        let bytes = image.into_bytes().map_err(|error| AnyError::new(&error))?;
        let view = image::decode(bytes).map_err(|error| AnyError::new(&error))?;
        let position = Position {
            applied: meta.last_log_id,
            membership: meta.last_membership.clone(),
            revision: view.revision().0,
            is_installed: true,
        };
        let shared = &self.shared;
        let mut saved = shared.saved();
        let mut state = shared.state();
        shared.checkpoint.save(&view, None, &position).map_err(|error| AnyError::new(&error))?;
        shared.cache.replace(view);
        saved.position = Some(position.clone());
        *state = State { position, changed: HashSet::new() };
        Ok(())
    }

    /// Waits until no checkpoint is being written, and sees to it that none is from now on.
    pub fn close(&self) {
        self.shared.saved().is_closed = true;
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn saved(&self) -> MutexGuard<'_, Saved> {
        self.saved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn meta(position: &Position) -> SnapshotMeta {
    let snapshot_id =
        position.applied.map_or_else(String::new, |id| format!("{}-{}", id.leader_id.term, id.index));
    SnapshotMeta { last_log_id: position.applied, last_membership: position.membership.clone(), snapshot_id }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError<u64>> {
        let state = self.shared.state();
        Ok((state.position.applied, state.position.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Reply>, StorageError<u64>>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut state = self.shared.state();
        Ok(entries.into_iter().map(|entry| self.apply_one(&mut state, entry)).collect())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Image>, StorageError<u64>> {
        Ok(Box::new(Image::empty()))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Image>,
    ) -> Result<(), StorageError<u64>> {
        let (machine, meta) = (self.clone(), meta.clone());
        let signature = meta.signature();
        let installed = tokio::task::spawn_blocking(move || machine.install(&meta, *snapshot)).await;
        installed
            .map_err(|error| AnyError::new(&error))
            .flatten()
            .map_err(|error| StorageIOError::write_snapshot(Some(signature), error).into())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<openraft::Snapshot<Types>>, StorageError<u64>> {
        Ok(self.snapshot())
    }
}

/// Does `work` on a thread of its own, which leaves the CPU to requests where both want it.
async fn unhurried<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    const NICENESS: i32 = 5;
    let (done, outcome) = oneshot::channel();
    let thread = thread::Builder::new().name("naru-checkpoint".into());
    thread.spawn(move || {
        // Of this thread only; without effect where the system forbids it.
        let _ = rustix::process::setpriority_process(None, NICENESS);
        let _ = done.send(work());
    })?;
    outcome.await.map_err(|_| io::Error::other("the thread that wrote it ended early"))
}

impl RaftSnapshotBuilder<Types> for Machine {
    /// Makes a checkpoint, and answers it for openraft to purge the log up to it. Never fails: a full disk must not
    /// stop a member, and an error here would. The log has everything, and only grows until a checkpoint succeeds.
    async fn build_snapshot(&mut self) -> Result<openraft::Snapshot<Types>, StorageError<u64>> {
        loop {
            let machine = self.clone();
            let made = unhurried(move || machine.checkpoint()).await;
            let error = match made {
                Ok(Ok(())) => return Ok(self.snapshot().expect("a checkpoint was made")),
                Ok(Err(error @ CheckpointError::Closed)) => AnyError::new(&error),
                Ok(Err(error)) => {
                    tracing::error!(%error, "could not write a checkpoint, trying again");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
                Err(error) => AnyError::new(&error),
            };
            return Err(StorageIOError::write_snapshot(None, error).into());
        }
    }
}
