//! Watches read a shared, bounded history; none of them has a buffer of its own.

use std::sync::Arc;

use super::{Entry, Revision};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    Added,
    Modified,
    /// `entry` is the last state, at the revision of the deletion.
    Deleted,
}

/// One change. Shared by all watchers, and so is what they cache in it.
#[derive(Debug)]
pub struct Event {
    pub kind: EventKind,
    pub revision: Revision,
    pub entry: Arc<Entry>,
    /// The state before, where there was one.
    pub previous: Option<Arc<Entry>>,
}

/// The watcher fell behind the history that is kept, and must list again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the watcher fell behind the history that is kept")]
pub struct Lagged;

/// A cursor into the history of one scope.
pub struct Watch {}

impl Watch {
    /// The next event; waits for it. Cancel-safe.
    pub async fn next(&mut self) -> Result<Arc<Event>, Lagged> {
        todo!()
    }
    /// The next event if there is one already.
    pub fn try_next(&mut self) -> Result<Option<Arc<Event>>, Lagged> {
        todo!()
    }
    /// Everything up to this revision was delivered: what a bookmark says.
    pub fn progress(&self) -> Revision {
        todo!()
    }
}
