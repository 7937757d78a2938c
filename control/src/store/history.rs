//! What happened lately to one resource: a bounded ring of events that all its watchers read.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Event, EventKind, Revision, bell::Bell, entries::Entries};

/// Events kept per resource: enough for a watcher that pauses while a few thousand pods start.
const MAX_EVENTS: usize = 8192;
/// JSON kept per resource. Few large objects must not cost more memory than many small ones.
const MAX_BYTES: usize = 16 << 20;
/// JSON that stays however old it is. What there is beyond that is for those who write and watch now.
const LASTING_BYTES: usize = 1 << 20;
/// How long the rest stays at least, as the revisions of a kube-apiserver.
const LIFE: Duration = Duration::from_mins(5);
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
    /// When events were counted, and the number that the next one had then; oldest first.
    marks: VecDeque<(Instant, u64)>,
    bell: Arc<Bell>,
}

impl History {
    /// An empty history that is complete after `revision` and numbers its events from `first` on.
    pub fn new(revision: Revision, first: u64) -> Self {
        Self {
            events: VecDeque::new(),
            first,
            complete_after: revision,
            bytes: 0,
            marks: VecDeque::new(),
            bell: Arc::default(),
        }
    }

    pub fn push(&mut self, event: Arc<Event>) {
        self.bytes += size(&event);
        self.events.push_back(event);
        if let Some(cooled) = self.events.len().checked_sub(WARM_EVENTS + 1) {
            self.events[cooled].cool_down();
        }
        while self.events.len() > MAX_EVENTS || (self.bytes > MAX_BYTES && self.events.len() > MIN_EVENTS) {
            self.pop_first();
        }
    }

    /// Hands out what is old, but for the last of it. To be called every now and then.
    pub fn age(&mut self, now: Instant) -> Vec<Arc<Event>> {
        let mut old = Vec::new();
        let next = self.first + self.events.len() as u64;
        if self.marks.back().is_none_or(|(_, known)| *known != next) {
            self.marks.push_back((now, next));
        }
        while let Some((then, end)) = self.marks.front().copied()
            && now.duration_since(then) >= LIFE
        {
            while self.first < end && self.bytes > LASTING_BYTES {
                old.extend(self.pop_first());
            }
            self.marks.pop_front();
        }
        if self.events.capacity() > 2 * self.events.len() {
            self.events.shrink_to_fit();
        }
        old
    }

    fn pop_first(&mut self) -> Option<Arc<Event>> {
        let event = self.events.pop_front()?;
        self.bytes -= size(&event);
        self.complete_after = event.revision;
        self.first += 1;
        Some(event)
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
                Some(previous) => entries.insert(previous.clone()),
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
        match self.kind {
            EventKind::Deleted => self.entry.forget_typed(),
            // Of a crowd of objects that are written one after the other, most are not asked for again soon.
            EventKind::Added | EventKind::Modified => self.entry.let_go(),
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;
    use crate::store::{Draft, Entry, Key};

    fn event(revision: u64, text: &str) -> Arc<Event> {
        let draft = Draft::from_value(&serde_json::json!({ "text": text })).expect("a draft");
        let entry = Entry::new(Key::new("configmaps", "a", "x"), Revision(revision), &draft);
        Arc::new(Event::new(EventKind::Modified, Arc::new(entry), None))
    }

    #[test]
    fn old_events_go_but_for_the_last_of_them() {
        let start = Instant::now();
        let mut history = History::new(Revision(0), 0);
        let text = "x".repeat(LASTING_BYTES / 4);
        (1..=10).for_each(|revision| history.push(event(revision, &text)));
        assert!(history.age(start).is_empty());
        (11..=12).for_each(|revision| history.push(event(revision, &text)));
        assert!(history.age(start + LIFE / 2).is_empty(), "none is old enough");

        let old = history.age(start + LIFE);
        let revisions: Vec<_> = old.iter().map(|event| event.revision.0).collect();
        assert_eq!(revisions, (1..=9).collect::<Vec<_>>(), "three of them fit into what stays");
        assert!(history.reaches_back_to(Revision(9)) && !history.reaches_back_to(Revision(8)));
        assert!(history.since(8).is_none(), "a cursor that is still there has missed something");
        assert_eq!(history.since(9).expect("all are here").count(), 3);
        assert_eq!(history.position_after(Revision(12)), 12);
        assert!(history.age(start + 3 * LIFE).is_empty(), "what fits stays for ever");
    }

    #[test]
    fn what_was_decoded_of_a_crowd_goes_when_others_follow() {
        let mut history = History::new(Revision(0), 0);
        let first = event(1, "x");
        history.push(first.clone());
        let decoded = first.entry.typed::<ConfigMap>().expect("a map");
        let unasked = event(2, "x");
        history.push(unasked.clone());
        (3..=WARM_EVENTS as u64).for_each(|revision| history.push(event(revision, "x")));
        assert_eq!(Arc::strong_count(&decoded), 2, "it is warm still");
        history.push(event(1000, "x"));
        assert_eq!(Arc::strong_count(&decoded), 1);
        history.push(event(1001, "x"));
        let first_asked = unasked.entry.typed::<ConfigMap>().expect("a map");
        assert_eq!(Arc::strong_count(&first_asked), 1, "nor does the first who asks when it is cold");
        drop(decoded);
        let late = first.entry.typed::<ConfigMap>().expect("a map");
        assert_eq!(Arc::strong_count(&late), 1, "who comes late keeps no memory taken");
        let again = first.entry.typed::<ConfigMap>().expect("a map");
        assert!(
            Arc::ptr_eq(&again, &first.entry.typed().expect("a map")),
            "what many ask for is shared again"
        );
    }

    #[test]
    fn a_busy_resource_keeps_what_is_young() {
        let start = Instant::now();
        let mut history = History::new(Revision(0), 0);
        let text = "x".repeat(LASTING_BYTES / 2);
        for minute in 0..20 {
            history.push(event(minute + 1, &text));
            history.age(start + Duration::from_mins(minute));
        }
        assert!(history.reaches_back_to(Revision(15)) && !history.reaches_back_to(Revision(14)));
        assert!(history.marks.len() <= 6, "marks go with what they mark: {}", history.marks.len());
    }
}
