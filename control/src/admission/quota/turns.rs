//! How the writers of a namespace with quotas share a flush.
//!
//! A write changes the quota in its own transaction, so each one builds on the last: were it to wait until that is on
//! disk, every write would cost a flush of its own. Instead, a writer holds its namespace's line only until its
//! transaction has a place in the order of writes ([`Store::propose`]), and leaves the quota as it will be. The next
//! one builds on that, under the condition that it came true ([`Precondition::Like`]).
//!
//! **Invariant:** what is left here decides nothing. A quota is exceeded or not by the conditions of transactions,
//! which are judged when they are applied; when something that was built on comes to nothing, so does what was built,
//! and its writer begins anew with what is stored. Nothing is remembered across a restart, and nothing needs to be.
//!
//! [`Store::propose`]: crate::store::Store::propose

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use k8s_openapi::api::core::v1::ResourceQuota;
use tokio::sync::{Mutex as Line, MutexGuard as Place, Notify};

use super::is_rationed;
use crate::{
    registry::Call,
    store::{Draft, Fingerprint, Key, Snapshot},
};

const LINES: usize = 64;

/// The lines of all namespaces; a few namespaces may share one.
pub struct Turns {
    lines: Vec<Arc<Turn>>,
    hasher: RandomState,
}

#[derive(Default)]
struct Turn {
    line: Line<()>,
    /// Held for a few lines.
    chain: Mutex<Chain>,
    /// Told whenever a transaction came to its end.
    ended: Notify,
}

/// Transactions that build on each other.
#[derive(Default)]
struct Chain {
    /// Which chain this is: those before it ended, well or not.
    number: u64,
    in_flight: usize,
    /// Quotas as they will be when all of it is written.
    quotas: BTreeMap<Key, Arc<Coming>>,
    /// The objects that it writes.
    objects: BTreeSet<Key>,
    /// How many transactions were proposed in all, and how many came to an end.
    proposed: u64,
    ended: u64,
}

/// A quota as a transaction that is being written leaves it.
pub struct Coming {
    pub quota: ResourceQuota,
    pub draft: Fingerprint,
}

impl Coming {
    pub fn new(quota: ResourceQuota, draft: &Draft) -> Self {
        Self { quota, draft: draft.fingerprint() }
    }
}

impl Default for Turns {
    fn default() -> Self {
        Self { lines: (0..LINES).map(|_| Arc::default()).collect(), hasher: RandomState::new() }
    }
}

impl Turns {
    /// Waits for a turn in the namespace of `call`; at once, and without one, where nothing is rationed. Who
    /// `is_patient` would rather step back than be refused for what may not come true.
    pub async fn take(&self, view: &Snapshot, call: &Call<'_>, is_patient: bool) -> Option<InLine<'_>> {
        if call.dry_run || !is_rationed(view, call) {
            return None;
        }
        let turn = &self.lines[self.hasher.hash_one(call.namespace) as usize % LINES];
        let place = turn.line.lock().await;
        let coming = turn.chain().quotas.clone();
        Some(InLine { _place: place, turn, coming, is_patient })
    }
}

/// A writer whose turn it is.
pub struct InLine<'a> {
    _place: Place<'a, ()>,
    turn: &'a Arc<Turn>,
    /// As it was when the turn began: a view that was taken since then shows whatever had ended by then.
    coming: BTreeMap<Key, Arc<Coming>>,
    is_patient: bool,
}

impl InLine<'_> {
    /// The quota `key` as writes under way leave it; `None` where none of them changes it.
    pub fn coming(&self, key: &Key) -> Option<&Coming> {
        self.coming.get(key).map(|coming| &**coming)
    }

    /// Whether the object `key` is being written: a second write of it would fail, and what was built on it, too.
    pub fn is_being_written(&self, key: &Key) -> bool {
        self.turn.chain().objects.contains(key)
    }

    /// Whether a refusal may be mistaken, as it rests on what is not written yet, and the writer wants to know.
    pub fn would_step_back(&self) -> bool {
        self.is_patient && !self.coming.is_empty()
    }

    /// Lets others go ahead, and waits for the end of all that is under way now.
    pub async fn step_back(self) {
        let turn = self.turn.clone();
        let proposed = turn.chain().proposed;
        drop(self);
        loop {
            let ended = turn.ended.notified();
            tokio::pin!(ended);
            // From here on no end is missed.
            ended.as_mut().enable();
            if turn.chain().ended >= proposed {
                return;
            }
            ended.await;
        }
    }

    /// Gives the turn to the next one: a transaction that writes `object` and leaves `quotas` is in the order of
    /// writes.
    pub fn proposed(self, object: Key, quotas: Vec<(Key, Coming)>) -> Underway {
        let mut chain = self.turn.chain();
        chain.in_flight += 1;
        chain.proposed += 1;
        chain.objects.insert(object);
        chain.quotas.extend(quotas.into_iter().map(|(key, coming)| (key, Arc::new(coming))));
        Underway { number: chain.number, turn: self.turn.clone(), is_written: false }
    }
}

impl Turn {
    fn chain(&self) -> MutexGuard<'_, Chain> {
        self.chain.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A transaction that is being written; one that nobody waits for any more counts as failed.
pub struct Underway {
    number: u64,
    turn: Arc<Turn>,
    is_written: bool,
}

impl Underway {
    pub fn written(mut self) {
        self.is_written = true;
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        let mut chain = self.turn.chain();
        chain.ended += 1;
        if chain.number == self.number {
            chain.in_flight -= 1;
            // When nothing is under way, what is stored is the truth again; and at once where something failed.
            if chain.in_flight == 0 || !self.is_written {
                chain.number += 1;
                chain.in_flight = 0;
                chain.quotas.clear();
                chain.objects.clear();
            }
        }
        drop(chain);
        self.turn.ended.notify_waiters();
    }
}
