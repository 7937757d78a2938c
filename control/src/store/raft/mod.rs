//! The durable, replicated side of the store: openraft above files of our own and redb.
//!
//! A write takes this way: the proposer batches it, openraft appends the batch to the log, one fsync makes it durable,
//! the state machine applies it to the cache and answers. Checkpoints follow behind in redb and let the log be purged.
//! Invariant: nothing is answered before it is durable, and nothing is applied that is not.
//! Not here: what a transaction does (`cache`).
//!
//! # Why the log is not in redb
//!
//! It was measured both ways, batch for batch (`cargo bench -p naru-control --bench raft_log`, figures in
//! docs/PERFORMANCE.md). Appending to a file costs one write and one `fdatasync`; a durable commit of redb flushes
//! once, too, but copies the pages from root to leaf for every batch, and again when the log is purged. On a disk where
//! the flush dominates they are equal; on a fast one segments append 3 to 30 times as many batches and leave the CPU to
//! others. So the log is append-only [`segments`], where each batch is one frame with its checksum, and redb keeps what
//! it is good at: the whole state, ordered, updated in place and transactionally.

mod checkpoint;
mod codec;
mod command;
mod directory;
mod image;
mod log;
mod machine;
mod network;
mod proposer;
mod segments;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use openraft::{BasicNode, Config, Raft, ServerState, SnapshotPolicy, error::Fatal};
use tokio::{
    sync::{mpsc, oneshot},
    task::{JoinHandle, spawn_blocking},
    time::timeout,
};

pub use self::command::{Command, Reply};
use self::{
    checkpoint::{Checkpoint, CheckpointError, Position},
    directory::Directory,
    image::Image,
    log::Log,
    machine::Machine,
    network::Alone,
    proposer::{Proposal, Proposer},
};
use super::{
    Op, Snapshot, StoreError,
    cache::{Cache, Outcome},
    seal::Sealer,
};

openraft::declare_raft_types!(
    pub Types:
        D = Command,
        R = Reply,
        NodeId = u64,
        Node = BasicNode,
        SnapshotData = Image,
);

type LogId = openraft::LogId<u64>;
type Vote = openraft::Vote<u64>;
type StoredMembership = openraft::StoredMembership<u64, BasicNode>;
type SnapshotMeta = openraft::SnapshotMeta<u64, BasicNode>;

/// The only voter, until clusters have several.
const MEMBER: u64 = 1;
/// After this long a write is answered with "outcome unknown".
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Becoming the leader of a cluster of one takes milliseconds; applying a long log again may take longer.
const START_TIMEOUT: Duration = Duration::from_mins(1);
/// The log grows by this much between checkpoints: it bounds the time that a restart takes.
const CHECKPOINT_BYTES: u64 = 64 << 20;
/// Applied entries that stay in the log for members that lag a little.
const KEPT_ENTRIES: u64 = 256;

/// Why the member stopped writing, once it has. Clones share it.
#[derive(Clone, Default)]
struct Failure(Arc<OnceLock<String>>);

impl Failure {
    fn get(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }
    fn set(&self, fatal: &Fatal<u64>) {
        let reason = match fatal {
            Fatal::StorageError(error) => {
                format!("the store stopped writing: {error}; restart the server when the cause is gone")
            }
            Fatal::Panicked => "the store stopped writing after a panic; restart the server".into(),
            Fatal::Stopped => "the store is closed".into(),
        };
        // The first reason is the cause of all others.
        let _ = self.0.set(reason);
    }
    fn close(&self) {
        let _ = self.0.set("the store is closed".into());
    }
}

/// A running member.
pub struct Member {
    raft: Raft<Types>,
    machine: Machine,
    proposals: mpsc::Sender<Proposal>,
    failure: Failure,
    log: Log,
    /// Says how everything on disk is encrypted.
    mark: PathBuf,
    /// What has to end before the directory is given back. Taken by `close`.
    running: Mutex<Option<Running>>,
}

struct Running {
    tasks: Vec<JoinHandle<()>>,
    directory: Directory,
}

/// A transaction in the queue.
pub struct Pending {
    outcome: oneshot::Receiver<Result<Outcome, StoreError>>,
    deadline: tokio::time::Instant,
}

impl Pending {
    pub async fn outcome(self) -> Result<Outcome, StoreError> {
        match tokio::time::timeout_at(self.deadline, self.outcome).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) | Err(_) => Err(StoreError::OutcomeUnknown),
        }
    }
}

impl Member {
    /// Opens the member in `dir`; when this returns, it leads and the cache holds everything that was acknowledged.
    pub async fn open(dir: &Path, sealer: Arc<Sealer>) -> Result<(Self, Arc<Cache>), StoreError> {
        let opened = {
            let dir = dir.to_owned();
            spawn_blocking(move || Opened::open(&dir, sealer)).await
        };
        let Opened { directory, log, view, saved, checkpoint } =
            opened.map_err(|error| StoreError::Internal(error.into()))??;
        let cache = Arc::new(Cache::new(view));
        let machine = Machine::new(cache.clone(), checkpoint, saved);
        let last = log.range().1.map_or(0, |id| id.index);
        let raft = Raft::new(MEMBER, Arc::new(config()), Alone, log.clone(), machine.clone())
            .await
            .map_err(|error| StoreError::Internal(error.into()))?;
        lead(&raft, last).await?;

        let (proposals, queue) = mpsc::channel(proposer::QUEUE);
        let failure = Failure::default();
        let proposer = Proposer { raft: raft.clone(), log: log.clone(), queue, failure: failure.clone() };
        let checkpoints = keep_checkpoints(raft.clone(), log.clone());
        let tasks = vec![tokio::spawn(proposer.run()), tokio::spawn(checkpoints)];
        let running = Mutex::new(Some(Running { tasks, directory }));
        let mark = dir.join("sealed");
        Ok((Self { raft, machine, proposals, failure, log, mark, running }, cache))
    }

    /// See [`super::Store::propose`].
    pub async fn propose(&self, ops: Vec<Op>) -> Result<Pending, StoreError> {
        if let Some(reason) = self.failure.get() {
            return Err(StoreError::Unusable(reason.into()));
        }
        let (answer, outcome) = oneshot::channel();
        let deadline = tokio::time::Instant::now() + WRITE_TIMEOUT;
        match tokio::time::timeout_at(deadline, self.proposals.send(Proposal { ops, answer })).await {
            Ok(Ok(())) => Ok(Pending { outcome, deadline }),
            Ok(Err(_)) => Err(StoreError::Unusable("the store is closed".into())),
            // It never got into the queue, so it was not proposed.
            Err(_) => Err(StoreError::NoLeader),
        }
    }

    /// See [`super::Store::read_index`].
    pub async fn read_index(&self) -> Result<(), StoreError> {
        // An only voter has applied whatever it has acknowledged, so a read need not ask anybody.
        if self.raft.metrics().borrow().membership_config.voter_ids().count() == 1 {
            return Ok(());
        }
        match timeout(WRITE_TIMEOUT, self.raft.ensure_linearizable()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(openraft::error::RaftError::Fatal(fatal))) => {
                self.failure.set(&fatal);
                Err(StoreError::Unusable(self.failure.get().unwrap_or_default().into()))
            }
            Ok(Err(_)) | Err(_) => Err(StoreError::NoLeader),
        }
    }

    /// See [`super::Store::checkpoint`].
    pub async fn checkpoint(&self) -> Result<(), StoreError> {
        let machine = self.machine.clone();
        spawn_blocking(move || machine.checkpoint())
            .await
            .map_err(|error| StoreError::Internal(error.into()))?
            .map_err(|error| StoreError::Unusable(error.to_string()))?;
        self.raft.trigger().snapshot().await.map_err(|error| StoreError::Internal(error.into()))
    }

    /// How everything on disk is encrypted, as [`Member::rewrite`] was told; "" for not at all.
    pub fn mark(&self) -> String {
        fs::read_to_string(&self.mark).unwrap_or_default()
    }

    /// Writes everything on disk anew, after which nothing is left of how it was written before; then notes `mark`.
    pub async fn rewrite(&self, mark: &str) -> Result<(), StoreError> {
        let internal = |error: anyhow::Error| StoreError::Internal(error);
        // What is appended from here on goes to a new file; what is before it can go.
        let last = self.log.roll().await.map_err(|error| internal(error.into()))?.unwrap_or_default();
        self.reaches(last, |metrics| metrics.last_applied, "all is applied").await?;
        let machine = self.machine.clone();
        let rewritten = spawn_blocking(move || machine.rewrite()).await;
        rewritten
            .map_err(|error| internal(error.into()))?
            .map_err(|error| StoreError::Unusable(error.to_string()))?;
        let trigger = self.raft.trigger();
        trigger.snapshot().await.map_err(|error| internal(error.into()))?;
        self.reaches(last, |metrics| metrics.snapshot, "a checkpoint is made").await?;
        trigger.purge_log(last).await.map_err(|error| internal(error.into()))?;
        self.reaches(last, |metrics| metrics.purged, "the log is purged").await?;
        fs::write(&self.mark, mark).map_err(|error| internal(error.into()))
    }

    /// Waits until `what` of this member is at `index` or beyond.
    async fn reaches(
        &self,
        index: u64,
        what: fn(&openraft::RaftMetrics<u64, BasicNode>) -> Option<LogId>,
        message: &'static str,
    ) -> Result<(), StoreError> {
        let is_there = move |metrics: &openraft::RaftMetrics<u64, BasicNode>| {
            what(metrics).is_some_and(|id| id.index >= index)
        };
        let wait = self.raft.wait(Some(START_TIMEOUT));
        wait.metrics(is_there, message).await.map(drop).map_err(|error| StoreError::Internal(error.into()))
    }

    /// Ends all tasks and gives the directory back. What was acknowledged is in the log, so nothing is flushed.
    pub async fn close(&self) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(running) = running else { return };
        self.failure.close();
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "the store's consensus did not end well");
        }
        let machine = self.machine.clone();
        let _ = spawn_blocking(move || machine.close()).await;
        for task in running.tasks {
            task.abort();
            let _ = task.await;
        }
        drop(running.directory);
    }
}

/// What a directory holds, verified.
struct Opened {
    directory: Directory,
    log: Log,
    view: Snapshot,
    saved: Option<Position>,
    checkpoint: Checkpoint,
}

impl Opened {
    fn open(dir: &Path, sealer: Arc<Sealer>) -> Result<Self, StoreError> {
        let unusable = |error: &dyn std::fmt::Display| {
            StoreError::Unusable(format!(
                "{error}; restore the data directory {} from a backup, or move it away to start empty (nothing in it \
                 was changed)",
                dir.display()
            ))
        };
        let directory = Directory::lock(dir)?;
        let checkpoint = Checkpoint::new(dir, sealer.clone());
        let loaded = checkpoint.load().map_err(|error| match error {
            CheckpointError::Sealed(error) => StoreError::Unusable(error.to_string()),
            error => unusable(&error),
        })?;
        let is_configured = sealer.is_configured();
        let log_dir = directory::log_dir(dir);
        let log = Log::open(&log_dir, loaded.is_some(), sealer).map_err(|error| unusable(&error))?;
        let (view, saved) = loaded.unzip();
        check_continuity(&log, saved.as_ref())
            .map_err(|reason| unusable(&format!("{} {reason}", log_dir.display())))?;
        let applied = saved.as_ref().and_then(|position| position.applied);
        log.check_sealed(applied).map_err(|error| StoreError::Unusable(error.to_string()))?;
        if !is_configured {
            // From now on all is written in plain.
            let _ = fs::remove_file(dir.join("sealed"));
        }
        Ok(Self { directory, log, view: view.unwrap_or_default(), saved, checkpoint })
    }
}

/// Whether the log goes on from the checkpoint without a gap.
fn check_continuity(log: &Log, saved: Option<&Position>) -> Result<(), &'static str> {
    let (before, last) = log.range();
    let applied = saved.and_then(|position| position.applied);
    if before > applied {
        return Err("begins after what state.redb holds: files are missing");
    }
    let is_installed = saved.is_some_and(|position| position.is_installed);
    if last < applied && !is_installed {
        return Err("ends before what state.redb holds: it was cut short");
    }
    Ok(())
}

fn config() -> Config {
    Config {
        cluster_name: "naru".into(),
        // A lost leader is noticed within half a second.
        heartbeat_interval: 100,
        election_timeout_min: 300,
        election_timeout_max: 500,
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: KEPT_ENTRIES,
        ..Config::default()
    }
}

/// Makes this member the leader, at once: it is the only voter. Waits until it has applied the log up to `last`.
async fn lead(raft: &Raft<Types>, last: u64) -> Result<(), StoreError> {
    let internal = |error: anyhow::Error| StoreError::Internal(error);
    if raft.is_initialized().await.map_err(|error| internal(error.into()))? {
        if raft.current_leader().await != Some(MEMBER) {
            raft.trigger().elect().await.map_err(|error| internal(error.into()))?;
        }
    } else {
        let members = BTreeMap::from([(MEMBER, BasicNode::default())]);
        raft.initialize(members).await.map_err(|error| internal(error.into()))?;
    }
    let is_ready = move |metrics: &openraft::RaftMetrics<u64, BasicNode>| {
        metrics.state == ServerState::Leader
            && metrics.last_applied.is_some_and(|applied| applied.index >= last)
    };
    raft.wait(Some(START_TIMEOUT))
        .metrics(is_ready, "this member leads")
        .await
        .map_err(|error| internal(error.into()))?;
    Ok(())
}

/// Has a checkpoint made whenever the log has grown enough, and the log purged up to it.
async fn keep_checkpoints(raft: Raft<Types>, log: Log) {
    let mut done = 0;
    loop {
        log.grown_beyond(done + CHECKPOINT_BYTES).await;
        done = log.written();
        if raft.trigger().snapshot().await.is_err() {
            return;
        }
    }
}
