//! Watches read a shared, bounded history; none of them has a buffer of its own.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;

use super::{
    Entry, Revision, Scope, StoreError,
    bell::{Bell, Listener},
    cache::{Cache, Found},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    Added,
    Modified,
    /// `entry` is the last state, at the revision of the deletion.
    Deleted,
}

/// One change. Shared by all watchers, and so is what they cache in it.
pub struct Event {
    pub kind: EventKind,
    pub revision: Revision,
    pub entry: Arc<Entry>,
    /// The state before, where there was one.
    pub previous: Option<Arc<Entry>>,
    /// What watchers send for this event, by form; a handful at most. Held while a frame is made.
    frames: Mutex<Vec<(&'static str, Bytes)>>,
}

impl Event {
    pub(super) fn new(kind: EventKind, entry: Arc<Entry>, previous: Option<Arc<Entry>>) -> Self {
        Self { kind, revision: entry.revision, entry, previous, frames: Mutex::default() }
    }

    /// The encoded watch frame of this event in one `form` (`ADDED`, `v1/Table MODIFIED`, …), made by the first
    /// watcher that needs it and shared by all others. The same form must always mean the same bytes.
    pub fn frame(&self, form: &'static str, make: impl FnOnce() -> Bytes) -> Bytes {
        let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, frame)) = frames.iter().find(|(known, _)| *known == form) {
            return frame.clone();
        }
        let frame = make();
        frames.push((form, frame.clone()));
        frame
    }

    pub(super) fn forget_frames(&self) {
        *self.frames.lock().unwrap_or_else(PoisonError::into_inner) = Vec::new();
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?} {:?}", self.kind, self.entry)
    }
}

/// The watcher fell behind the history that is kept, and must list again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the watcher fell behind the history that is kept")]
pub struct Lagged;

/// A cursor into the history of one scope.
pub struct Watch {
    cache: Arc<Cache>,
    scope: Scope,
    listener: Listener,
    /// The number of the next event to look at.
    position: u64,
    /// Events up to here were delivered, or were none of this watch's business.
    delivered: Revision,
}

impl Watch {
    pub(super) fn new(cache: Arc<Cache>, scope: Scope, from: Revision) -> Result<Self, StoreError> {
        let (position, bell) = cache.subscribe(&scope.resource, from)?;
        Ok(Self { cache, scope, listener: Bell::listen(bell), position, delivered: from })
    }

    /// The same watch as one of possibly many, which are woken together and not for every single event: an event comes
    /// a few milliseconds later where hundreds follow each other and a crowd looks on.
    #[must_use]
    pub fn in_a_crowd(mut self) -> Self {
        self.listener = self.listener.in_a_crowd();
        self
    }

    /// The next event; waits for it. Cancel-safe.
    pub async fn next(&mut self) -> Result<Arc<Event>, Lagged> {
        Ok(self.next_many(1).await?.remove(0))
    }

    /// The next events, at least one and at most `limit`; waits for the first. Cancel-safe.
    pub async fn next_many(&mut self, limit: usize) -> Result<Vec<Arc<Event>>, Lagged> {
        let bell = self.listener.bell().clone();
        loop {
            // Registered before looking, so that no ring is missed in between.
            let notified = bell.rung(&self.listener);
            let events = self.take(limit)?;
            if !events.is_empty() {
                return Ok(events);
            }
            notified.await;
        }
    }

    /// The next event if there is one already.
    pub fn try_next(&mut self) -> Result<Option<Arc<Event>>, Lagged> {
        Ok(self.take(1)?.pop())
    }

    /// The events that are there already, at most `limit`.
    fn take(&mut self, limit: usize) -> Result<Vec<Arc<Event>>, Lagged> {
        let found = self.scan(limit).ok_or(Lagged)?;
        self.position = found.position;
        // A watch may start at a revision that this member has not seen yet.
        self.delivered = self.delivered.max(found.seen);
        Ok(found.events)
    }

    fn scan(&self, limit: usize) -> Option<Found> {
        self.cache.scan(&self.scope.resource, self.position, limit, |event| {
            event.revision > self.delivered && self.scope.contains(&event.entry.key)
        })
    }

    /// Everything up to this revision was delivered: what a bookmark says.
    pub fn progress(&self) -> Revision {
        match self.scan(1) {
            Some(found) if found.events.is_empty() => self.delivered.max(found.seen),
            _ => self.delivered,
        }
    }
}
