//! The whole store in memory: the newest view, and the recent history of every resource.
//!
//! One writer (the state machine) applies transactions to a private copy of the persistent map and publishes view
//! and events together, so that a reader who saw an event finds it in the next snapshot, and the other way round.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard},
    time::Instant,
};

use tokio::sync::watch;

use super::{
    Change, Entry, Event, EventKind, Op, Precondition, Revision, Snapshot, StoreError, bell::Bell,
    history::History,
};

/// What became of one transaction.
pub(super) type Outcome = Result<Vec<Option<Arc<Entry>>>, Refusal>;

/// The operation whose precondition did not hold, and what it found.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    pub index: usize,
    pub current: Option<Arc<Entry>>,
}

impl From<Refusal> for StoreError {
    fn from(refusal: Refusal) -> Self {
        Self::Precondition { index: refusal.index, current: refusal.current }
    }
}

pub(super) struct Cache {
    /// Held for a few instructions by readers, and by the writer while it publishes.
    state: RwLock<State>,
    /// Only one may apply at a time.
    writer: Mutex<()>,
    applied: watch::Sender<Revision>,
}

struct State {
    view: Snapshot,
    /// Per resource, made when the resource is first written or watched.
    histories: HashMap<Arc<str>, History, ahash::RandomState>,
    /// Where the history of a resource that has none yet begins.
    start: Revision,
    /// The number of the first event of a new history: greater than any that an older cursor may hold.
    first_number: u64,
}

/// The result of looking through a history.
pub(super) struct Found {
    /// In their order.
    pub events: Vec<Arc<Event>>,
    /// The number of the event after the last one that was looked at.
    pub position: u64,
    /// All that happened up to this revision was looked at.
    pub seen: Revision,
}

impl Cache {
    /// A cache that holds `view`, with no history before it.
    pub fn new(view: Snapshot) -> Self {
        let (applied, _) = watch::channel(view.revision);
        let state = State { start: view.revision, view, histories: HashMap::default(), first_number: 0 };
        Self { state: RwLock::new(state), writer: Mutex::default(), applied }
    }

    pub fn snapshot(&self) -> Snapshot {
        self.read().view.clone()
    }

    pub fn revision(&self) -> Revision {
        self.read().view.revision
    }

    /// Reports each newly applied revision.
    pub fn applied(&self) -> watch::Receiver<Revision> {
        self.applied.subscribe()
    }

    /// The newest view with `resource`, or every resource, taken back to `revision`.
    pub fn snapshot_at(&self, resource: Option<&str>, revision: Revision) -> Result<Snapshot, StoreError> {
        let state = self.read();
        let mut view = state.view.clone();
        if revision >= view.revision {
            return Ok(view);
        }
        if revision < state.start {
            return Err(StoreError::Expired(revision));
        }
        for (name, history) in &state.histories {
            if resource.is_some_and(|resource| resource != &**name) {
                continue;
            }
            if !history.reaches_back_to(revision) {
                return Err(StoreError::Expired(revision));
            }
            if let Some(entries) = view.resources.get_mut(&**name) {
                history.undo(entries, revision);
            }
        }
        view.revision = revision;
        Ok(view)
    }

    /// Where a watch that has seen everything up to `from` begins to read, and what rings for it.
    pub fn subscribe(&self, resource: &str, from: Revision) -> Result<(u64, Arc<Bell>), StoreError> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let history = state.history(resource);
        if !history.reaches_back_to(from) {
            return Err(StoreError::Expired(from));
        }
        Ok((history.position_after(from), history.bell().clone()))
    }

    /// The first events from number `position` on that `matches`, at most `limit`; `None` where the history begins
    /// later.
    pub fn scan(
        &self,
        resource: &str,
        position: u64,
        limit: usize,
        matches: impl Fn(&Event) -> bool,
    ) -> Option<Found> {
        let state = self.read();
        let history = state.histories.get(resource)?;
        let mut found = Found { events: Vec::new(), position, seen: state.view.revision };
        for event in history.since(position)? {
            found.position += 1;
            if matches(event) {
                found.events.push(event.clone());
                if found.events.len() == limit {
                    found.seen = event.revision;
                    break;
                }
            }
        }
        Some(found)
    }

    /// Forgets what happened long ago, as [`History::age`] says.
    pub fn age(&self, now: Instant) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let old: Vec<_> = state.histories.values_mut().map(|history| history.age(now)).collect();
        // They are freed after the lock is given back: that may take a while.
        drop(state);
        drop(old);
    }

    /// Applies each transaction wholly or not at all, in order, and tells watchers.
    pub fn apply<'a>(&self, transactions: impl IntoIterator<Item = &'a [Op]>) -> Vec<Outcome> {
        let _one_at_a_time = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut view = self.snapshot();
        let mut events = Vec::new();
        let outcomes = transactions.into_iter().map(|ops| transact(&mut view, ops, &mut events)).collect();
        if !events.is_empty() {
            self.publish(view, events);
        }
        outcomes
    }

    /// Puts `view` in the place of everything, as after a snapshot from the leader. All watches end.
    pub fn replace(&self, view: Snapshot) {
        let _one_at_a_time = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let revision = view.revision;
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.start = revision;
        state.view = view;
        let histories = std::mem::take(&mut state.histories);
        let last = histories.values().map(|history| history.position_after(Revision(u64::MAX))).max();
        state.first_number = last.unwrap_or_default().max(state.first_number) + 1;
        drop(state);
        for history in histories.values() {
            history.bell().ring_out();
        }
        self.applied.send_replace(revision);
    }

    fn publish(&self, view: Snapshot, events: Vec<Event>) {
        let revision = view.revision;
        let mut bells: Vec<Arc<Bell>> = Vec::new();
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        // The old map is freed after the lock is given back: that may take a while.
        let old = std::mem::replace(&mut state.view, view);
        for event in events {
            let event = Arc::new(event);
            let history = state.history(event.entry.key.resource());
            if !bells.iter().any(|bell| Arc::ptr_eq(bell, history.bell())) {
                bells.push(history.bell().clone());
            }
            history.push(event);
        }
        drop(state);
        drop(old);
        for bell in bells {
            bell.ring();
        }
        self.applied.send_replace(revision);
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn history(&mut self, resource: &str) -> &mut History {
        if !self.histories.contains_key(resource) {
            self.histories.insert(resource.into(), History::new(self.start, self.first_number));
        }
        self.histories.get_mut(resource).expect("was just put in")
    }
}

/// Applies `ops` to `view` if all preconditions hold; `view` and `events` are untouched otherwise.
fn transact(view: &mut Snapshot, ops: &[Op], events: &mut Vec<Event>) -> Outcome {
    if let [op] = ops {
        check(op, 0, || view.get(&op.key))?;
        return Ok(vec![write(view, op, events)]);
    }
    // Later operations see what earlier ones wrote, so all is undone when one of them is refused.
    let before = view.clone();
    let events_before = events.len();
    let mut answers = Vec::with_capacity(ops.len());
    for (index, op) in ops.iter().enumerate() {
        if let Err(refusal) = check(op, index, || view.get(&op.key)) {
            *view = before;
            events.truncate(events_before);
            return Err(refusal);
        }
        answers.push(write(view, op, events));
    }
    Ok(answers)
}

fn check(op: &Op, index: usize, current: impl FnOnce() -> Option<Arc<Entry>>) -> Result<(), Refusal> {
    if op.precondition == Precondition::Any {
        return Ok(());
    }
    let current = current();
    let holds = match (op.precondition, &current) {
        (Precondition::Any, _) | (Precondition::Absent, None) | (Precondition::Present, Some(_)) => true,
        (Precondition::At(revision), Some(entry)) => entry.revision == revision,
        (Precondition::Like(draft), Some(entry)) => entry.fingerprint() == draft,
        _ => false,
    };
    if holds { Ok(()) } else { Err(Refusal { index, current }) }
}

fn write(view: &mut Snapshot, op: &Op, events: &mut Vec<Event>) -> Option<Arc<Entry>> {
    let next = Revision(view.revision.0 + 1);
    match &op.change {
        Change::Check => view.get(&op.key),
        Change::Put(draft) => {
            let entry = Arc::new(Entry::new(op.key.clone(), next, draft));
            view.revision = next;
            let previous = view.put(entry.clone());
            let kind = if previous.is_some() { EventKind::Modified } else { EventKind::Added };
            events.push(Event::new(kind, entry.clone(), previous));
            Some(entry)
        }
        Change::Delete => {
            let previous = view.remove(&op.key)?;
            view.revision = next;
            let entry = Arc::new(previous.at(next));
            events.push(Event::new(EventKind::Deleted, entry.clone(), Some(previous)));
            Some(entry)
        }
    }
}
