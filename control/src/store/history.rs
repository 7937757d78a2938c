//! What happened lately to one resource: a bounded ring of events that all its watchers read.

use std::{collections::VecDeque, sync::Arc};

use super::{Event, EventKind, Revision, bell::Bell, snapshot::Entries};

/// Events kept per resource: enough for a watcher that pauses while a few thousand pods start.
const MAX_EVENTS: usize = 8192;
/// JSON kept per resource. Few large objects must not cost more memory than many small ones.
const MAX_BYTES: usize = 16 << 20;
/// A burst of large objects may exceed the bytes by this many events, so that there always is some history.
const MIN_EVENTS: usize = 16;
/// Events this far behind the newest drop what was made for watchers' convenience; few are still unread.
const WARM_EVENTS: usize = 256;

/// The recent events of one resource.
pub(super) struct History {
    events: VecDeque<Arc<Event>>,
    /// The number of the first event that is kept; numbers count up from 0 for the life of the process.
    first: u64,
    /// All events after this revision are kept.
    complete_after: Revision,
    bytes: usize,
    bell: Arc<Bell>,
}

impl History {
    /// An empty history that is complete after `revision` and numbers its events from `first` on.
    pub fn new(revision: Revision, first: u64) -> Self {
        Self { events: VecDeque::new(), first, complete_after: revision, bytes: 0, bell: Arc::default() }
    }

    pub fn push(&mut self, event: Arc<Event>) {
        self.bytes += size(&event);
        self.events.push_back(event);
        if let Some(cooled) = self.events.len().checked_sub(WARM_EVENTS + 1) {
            self.events[cooled].cool_down();
        }
        while self.events.len() > MAX_EVENTS || (self.bytes > MAX_BYTES && self.events.len() > MIN_EVENTS) {
            let Some(event) = self.events.pop_front() else { break };
            self.bytes -= size(&event);
            self.complete_after = event.revision;
            self.first += 1;
        }
    }

    /// Whether every event after `revision` is still here.
    pub fn reaches_back_to(&self, revision: Revision) -> bool {
        revision >= self.complete_after
    }

    /// The number of the first event after `revision`.
    pub fn position_after(&self, revision: Revision) -> u64 {
        self.first + self.events.partition_point(|event| event.revision <= revision) as u64
    }

    /// The events from number `position` on; `None` where they are no longer all here.
    pub fn since(&self, position: u64) -> Option<impl Iterator<Item = &Arc<Event>>> {
        let skip = position.checked_sub(self.first)?;
        Some(self.events.range((skip as usize).min(self.events.len())..))
    }

    /// `entries` as they were at `revision`, which must be within the history.
    pub fn undo(&self, entries: &mut Entries, revision: Revision) {
        for event in self.events.iter().rev().take_while(|event| event.revision > revision) {
            match &event.previous {
                Some(previous) => entries.insert(previous.key.clone(), previous.clone()),
                None => entries.remove(&event.entry.key),
            };
        }
    }

    /// Rings for watchers whenever events were added.
    pub fn bell(&self) -> &Arc<Bell> {
        &self.bell
    }
}

/// What keeping `event` costs. The state before belongs to the event before.
fn size(event: &Event) -> usize {
    event.entry.json.len() + 256
}

impl Event {
    /// Gives back what only readers of a fresh event profit from.
    fn cool_down(&self) {
        self.forget_frames();
        if let Some(previous) = &self.previous {
            previous.forget_typed();
        }
        if self.kind == EventKind::Deleted {
            self.entry.forget_typed();
        }
    }
}
