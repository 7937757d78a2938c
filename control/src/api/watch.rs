//! WATCH: a stream of frames, one JSON object a line, or protobuf messages led by their lengths.
//!
//! Watchers read the store's shared history; a frame in the plain form is made once for all of them. Events that
//! wait are sent together. A watcher that falls behind the history is told so (410) and ended, never buffered for.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use futures::stream;
use k8s_openapi::jiff::Timestamp;
use rand::Rng;
use serde_json::{Value, json};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    body::Body,
    encoding::Encoding,
    form::{self, Form},
    list::{ListOptions, revision_of, wait_for},
    query::Query,
    select::Filter,
};
use crate::{
    ApiError, protobuf,
    registry::{Call, Registry, Served},
    store::{Entry, Event, EventKind, Lagged, Revision, StoreError, Watch},
};

const BOOKMARK_EVERY: Duration = Duration::from_mins(1);
/// Frames that are ready are joined up to about this much.
const PIECE_BYTES: usize = 64 << 10;
/// So many events are taken at once at most.
const EVENTS_AT_ONCE: usize = 64;
/// Watches without a timeout of their own end after this and up to twice as long.
const LIFETIME: Duration = Duration::from_mins(30);

/// Answers a WATCH; the stream ends with the client, its timeout, or `shutdown`.
pub async fn watch(
    registry: &Registry,
    served: &Arc<Served>,
    call: &Call<'_>,
    (form, encoding): (Form, Encoding),
    query: &Query<'_>,
    shutdown: CancellationToken,
) -> Result<Body, ApiError> {
    let options = ListOptions::parse(query, true)?;
    let sends_initial = query.has("sendInitialEvents").then(|| query.flag("sendInitialEvents"));
    let filter = Filter::new(served, call, query)?;
    let store = registry.store();
    let version = options.resource_version.as_str();
    // Without a version a watch starts with what is there, as if each object had just been added.
    let starts_with_state = sends_initial.unwrap_or(version.is_empty() || version == "0");
    let from = match version {
        "" | "0" => None,
        text => Some(revision_of(text)?),
    };
    let mut initial = VecDeque::new();
    let start = if starts_with_state || from.is_none() {
        match from {
            Some(revision) => {
                // What a watch cannot begin with is told in the stream, as in Kubernetes.
                if let Err(error) = wait_for(store, revision).await {
                    return Ok(error_frame(encoding, &error).into());
                }
            }
            None => drop(store.read_index().await?),
        }
        let view = store.snapshot();
        if starts_with_state {
            initial.extend(view.range(&filter.scope, None).filter(|entry| filter.matches(entry)));
        }
        view.revision()
    } else {
        from.unwrap_or_default()
    };
    let events = match store.watch(filter.scope.clone(), start) {
        Ok(events) => events.in_a_crowd(),
        Err(StoreError::Expired(_)) => return Ok(too_old(encoding, start).into()),
        Err(error) => return Err(error.into()),
    };
    let timeout = match query.number("timeoutSeconds")? {
        Some(seconds) if seconds > 0 => Duration::from_secs(seconds as u64),
        _ => LIFETIME + rand::rng().random_range(Duration::ZERO..LIFETIME),
    };
    let allows_bookmarks = query.flag("allowWatchBookmarks");
    let mut bookmarks = interval_at(Instant::now() + BOOKMARK_EVERY, BOOKMARK_EVERY);
    bookmarks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let watcher = Watcher {
        served: served.clone(),
        filter,
        form,
        encoding,
        events,
        taken: VecDeque::new(),
        initial,
        ends_initial_with: (sends_initial == Some(true) && allows_bookmarks).then_some(start),
        columns_sent: false,
        bookmarks: allows_bookmarks.then_some(bookmarks),
        deadline: Instant::now() + timeout,
        shutdown,
        is_over: false,
    };
    Ok(Body::stream(stream::unfold(watcher, |mut watcher| async move {
        let piece = watcher.next().await?;
        Some((piece, watcher))
    })))
}

/// One client's watch.
struct Watcher {
    served: Arc<Served>,
    filter: Filter,
    form: Form,
    encoding: Encoding,
    events: Watch,
    /// Events that wait for the piece before them to be sent.
    taken: VecDeque<Arc<Event>>,
    initial: VecDeque<Arc<Entry>>,
    /// The revision at which the end of the initial events is to be announced.
    ends_initial_with: Option<Revision>,
    columns_sent: bool,
    bookmarks: Option<Interval>,
    deadline: Instant,
    shutdown: CancellationToken,
    is_over: bool,
}

/// What woke a watcher up.
enum Wake {
    Events(Result<Vec<Arc<Event>>, Lagged>),
    Bookmark,
    End,
}

impl Watcher {
    /// The next piece of the stream, or `None` at its end.
    async fn next(&mut self) -> Option<Bytes> {
        if self.is_over {
            return None;
        }
        if !self.initial.is_empty() || self.ends_initial_with.is_some() {
            return Some(self.next_initial());
        }
        let mut piece = Piece::default();
        self.put_taken(&mut piece);
        while piece.is_empty() {
            match self.wake().await {
                Wake::End => return None,
                Wake::Bookmark => {
                    let bookmark = self.bookmark(self.events.progress(), false);
                    piece.push(frame(self.encoding, "BOOKMARK", &bookmark));
                }
                Wake::Events(Ok(events)) => {
                    self.taken = events.into();
                    self.put_taken(&mut piece);
                }
                Wake::Events(Err(Lagged)) => {
                    piece.push(too_old(self.encoding, self.events.progress()));
                    self.is_over = true;
                }
            }
        }
        Some(piece.join())
    }

    async fn wake(&mut self) -> Wake {
        let bookmark = async {
            match &mut self.bookmarks {
                Some(bookmarks) => drop(bookmarks.tick().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            events = self.events.next_many(EVENTS_AT_ONCE) => Wake::Events(events),
            () = self.shutdown.cancelled() => Wake::End,
            () = sleep_until(self.deadline) => Wake::End,
            () = bookmark => Wake::Bookmark,
        }
    }

    fn next_initial(&mut self) -> Bytes {
        let mut piece = Piece::default();
        while piece.len < PIECE_BYTES
            && !self.is_over
            && let Some(entry) = self.initial.pop_front()
        {
            let object = self.object(&entry);
            self.put("ADDED", object, &mut piece);
        }
        if self.initial.is_empty()
            && let Some(revision) = self.ends_initial_with.take()
        {
            let bookmark = self.bookmark(revision, true);
            piece.push(frame(self.encoding, "BOOKMARK", &bookmark));
        }
        piece.join()
    }

    /// Puts events that were taken into `piece`, as many as fit.
    fn put_taken(&mut self, piece: &mut Piece) {
        while piece.len < PIECE_BYTES
            && !self.is_over
            && let Some(event) = self.taken.pop_front()
        {
            self.put_event(&event, piece);
        }
    }

    fn put_event(&mut self, event: &Event, piece: &mut Piece) {
        let is_shown = self.filter.matches(&event.entry);
        let was_shown = event.previous.as_ref().is_some_and(|previous| self.filter.matches(previous));
        let kind = match (event.kind, was_shown, is_shown) {
            (EventKind::Deleted, true, _) => "DELETED",
            (EventKind::Deleted, false, shown) => {
                // The state before is part of every deletion; without it the last state decides.
                if !shown || event.previous.is_some() {
                    return;
                }
                "DELETED"
            }
            (_, false, true) => "ADDED",
            (_, true, true) => "MODIFIED",
            (_, true, false) => return self.put_left(event, piece),
            (_, false, false) => return,
        };
        let is_as_stored =
            self.served.conversion.is_none() && self.served.kind.is_served_as_stored(&event.entry);
        if self.form == Form::Plain && is_as_stored {
            let name = frame_name(self.encoding, kind);
            return piece.push(event.frame(name, || frame(self.encoding, kind, &event.entry.json)));
        }
        let object = self.object(&event.entry);
        self.put(kind, object, piece);
    }

    /// An object that the selector no longer chooses is gone for this watcher: its last chosen state, at the
    /// revision of the change.
    fn put_left(&mut self, event: &Event, piece: &mut Piece) {
        let Some(previous) = &event.previous else { return };
        let object = match self.form {
            Form::Plain => form::plain(&self.served, previous),
            _ => self.object(previous),
        };
        let object = object.map(|object| with_revision(&object, previous.revision, event.revision));
        self.put("DELETED", object, piece);
    }

    /// Puts a frame with `object` into `piece`; an error ends the stream.
    fn put(&mut self, kind: &str, object: Result<Bytes, ApiError>, piece: &mut Piece) {
        piece.push(match object {
            Ok(object) => frame(self.encoding, kind, &object),
            Err(error) => {
                self.is_over = true;
                error_frame(self.encoding, &error)
            }
        });
    }

    fn object(&mut self, entry: &Entry) -> Result<Bytes, ApiError> {
        match self.form {
            Form::Plain => form::plain(&self.served, entry),
            Form::Metadata { version, .. } => Ok(form::metadata(version, entry)),
            Form::Table { version, include } => {
                let row = form::row(&self.served, entry, include, version, Timestamp::now())?;
                let columns =
                    (!std::mem::replace(&mut self.columns_sent, true)).then(|| form::columns(&self.served));
                let metadata = json!({ "resourceVersion": entry.revision.0.to_string() });
                Ok(form::table(version, metadata, columns, &[row]))
            }
        }
    }

    fn bookmark(&self, revision: Revision, ends_initial: bool) -> Bytes {
        let mut metadata =
            json!({ "resourceVersion": revision.0.max(1).to_string(), "creationTimestamp": null });
        if ends_initial {
            metadata["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        }
        match self.form {
            Form::Plain => form::to_bytes(&json!({
                "kind": self.served.info.kind,
                "apiVersion": self.served.api_version,
                "metadata": metadata,
            })),
            Form::Metadata { version, .. } => form::to_bytes(&json!({
                "kind": form::METADATA_KIND,
                "apiVersion": version.api_version(),
                "metadata": metadata,
            })),
            // kubectl reads the annotation from the row's object.
            Form::Table { version, .. } => {
                let object = json!({
                    "kind": form::METADATA_KIND,
                    "apiVersion": version.api_version(),
                    "metadata": metadata,
                });
                let row = form::to_bytes(&json!({ "cells": Value::Array(Vec::new()), "object": object }));
                let metadata = json!({ "resourceVersion": revision.0.max(1).to_string() });
                form::table(version, metadata, None, &[row])
            }
        }
    }
}

/// Frames that are sent together.
#[derive(Default)]
struct Piece {
    frames: Vec<Bytes>,
    len: usize,
}

impl Piece {
    fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    fn push(&mut self, frame: Bytes) {
        self.len += frame.len();
        self.frames.push(frame);
    }

    /// All frames one after the other; a single one is not copied.
    fn join(mut self) -> Bytes {
        match self.frames.len() {
            1 => self.frames.remove(0),
            _ => self.frames.concat().into(),
        }
    }
}

fn frame(encoding: Encoding, kind: &str, object: &[u8]) -> Bytes {
    if encoding == Encoding::Protobuf {
        // Only what has a message is watched in protobuf.
        let object = protobuf::object(object).unwrap_or_default();
        return protobuf::watch_frame(kind, &object).into();
    }
    let mut bytes = BytesMut::with_capacity(object.len() + 40);
    bytes.put_slice(b"{\"type\":\"");
    bytes.put_slice(kind.as_bytes());
    bytes.put_slice(b"\",\"object\":");
    bytes.put_slice(object);
    bytes.put_slice(b"}\n");
    bytes.freeze()
}

/// Under which name watchers share a frame.
fn frame_name(encoding: Encoding, kind: &'static str) -> &'static str {
    match (encoding, kind) {
        (Encoding::Protobuf, "ADDED") => "protobuf ADDED",
        (Encoding::Protobuf, "MODIFIED") => "protobuf MODIFIED",
        (Encoding::Protobuf, _) => "protobuf DELETED",
        _ => kind,
    }
}

fn too_old(encoding: Encoding, revision: Revision) -> Bytes {
    error_frame(encoding, &ApiError::Expired(format!("too old resource version: {}", revision.0)))
}

fn error_frame(encoding: Encoding, error: &ApiError) -> Bytes {
    frame(encoding, "ERROR", &form::to_bytes(&error.to_status()))
}

/// `object` as if it had been written at `new`: only the number changes.
fn with_revision(object: &[u8], old: Revision, new: Revision) -> Bytes {
    let pattern = format!("\"resourceVersion\":\"{}\"", old.0);
    let Some(at) = object.windows(pattern.len()).position(|window| window == pattern.as_bytes()) else {
        return Bytes::copy_from_slice(object);
    };
    let mut bytes = BytesMut::with_capacity(object.len() + 8);
    bytes.put_slice(&object[..at]);
    bytes.put_slice(format!("\"resourceVersion\":\"{}\"", new.0).as_bytes());
    bytes.put_slice(&object[at + pattern.len()..]);
    bytes.freeze()
}
