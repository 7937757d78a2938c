//! Group commit: transactions that arrive while a batch is being written go together into the next one.
//!
//! One batch is in flight at a time. That costs nothing, for the log is written by one fsync after the other anyway,
//! and makes batches as large as the load asks for.

use std::io::ErrorKind;

use openraft::{
    Raft,
    error::{ClientWriteError, RaftError},
};
use tokio::sync::{mpsc, oneshot};

use super::{Command, Failure, Log, Types};
use crate::store::{Change, Op, StoreError, cache::Outcome};

/// Transactions that may wait; more wait in front of the queue.
pub const QUEUE: usize = 4096;
/// What goes into one batch at most. The bytes are those of one large object, or a few hundred pods.
const BATCH_TRANSACTIONS: usize = 1024;
const BATCH_BYTES: usize = 4 << 20;

/// A transaction and who wants to know its outcome.
pub struct Proposal {
    pub ops: Vec<Op>,
    pub answer: oneshot::Sender<Result<Outcome, StoreError>>,
}

/// Owns the queue of transactions; ends when all who could fill it are gone.
pub struct Proposer {
    pub raft: Raft<Types>,
    pub log: Log,
    pub queue: mpsc::Receiver<Proposal>,
    pub failure: Failure,
}

impl Proposer {
    pub async fn run(mut self) {
        while let Some(first) = self.queue.recv().await {
            let (batch, size) = self.fill(first);
            if !batch.is_empty() {
                self.propose(batch, size).await;
            }
        }
    }

    /// `first` and what else waits already, as far as it fits; without those whose callers have gone, who were told
    /// that the outcome is unknown.
    fn fill(&mut self, first: Proposal) -> (Vec<Proposal>, usize) {
        let mut size = size(&first.ops);
        let mut batch = vec![first];
        while batch.len() < BATCH_TRANSACTIONS && size < BATCH_BYTES {
            let Ok(next) = self.queue.try_recv() else { break };
            size += self::size(&next.ops);
            batch.push(next);
        }
        batch.retain(|proposal| !proposal.answer.is_closed());
        (batch, size)
    }

    async fn propose(&self, batch: Vec<Proposal>, size: usize) {
        let (transactions, answers): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|proposal| (proposal.ops, proposal.answer)).unzip();
        if let Some(reason) = self.failure.get() {
            return refuse(answers, || StoreError::Unusable(reason.into()));
        }
        if let Err(error) = self.log.reserve(size).await {
            let reason = format!("{error}; nothing was written");
            let is_full = matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
            let refusal = if is_full { StoreError::Full } else { StoreError::Unusable };
            return refuse(answers, || refusal(reason.clone()));
        }
        match self.raft.client_write(Command::new(transactions)).await {
            Ok(response) => {
                for (answer, outcome) in answers.into_iter().zip(response.data.0) {
                    // Whoever does not wait any more has been told that the outcome is unknown.
                    let _ = answer.send(Ok(outcome));
                }
            }
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => {
                refuse(answers, || StoreError::NoLeader);
            }
            Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error))) => {
                refuse(answers, || StoreError::Internal(error.clone().into()));
            }
            Err(RaftError::Fatal(fatal)) => {
                // The batch may be in the log already; a restart decides.
                tracing::error!(error = %fatal, "the store stops writing");
                self.failure.set(&fatal);
                refuse(answers, || StoreError::OutcomeUnknown);
            }
        }
    }
}

fn refuse(answers: Vec<oneshot::Sender<Result<Outcome, StoreError>>>, error: impl Fn() -> StoreError) {
    for answer in answers {
        let _ = answer.send(Err(error()));
    }
}

/// The bytes that `ops` take in the log, roughly.
fn size(ops: &[Op]) -> usize {
    let size = |op: &Op| match &op.change {
        Change::Put(draft) => draft.json.len() + op.key.as_str().len() + 160,
        Change::Delete | Change::Check => op.key.as_str().len() + 32,
    };
    ops.iter().map(size).sum::<usize>() + 64
}
