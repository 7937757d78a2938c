//! Watches everything once, keeps the cache, and tells the controllers' queues which keys to look at.
//!
//! **Invariant:** the cache moves from one revision of the whole store to a later one. Watches are per resource,
//! so events are put back into the store's order before they are applied: a Pod is never seen before the
//! ReplicaSet that made it, which is what lets the garbage collector trust the cache.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use futures::{FutureExt as _, future::select_all};
use k8s_openapi::jiff::Timestamp;
use naru_model::ResourceInfo;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::{Cache, Change, Controller, queue::Queue};
use crate::{
    registry::Registry,
    store::{Entry, Event, EventKind, Key, Lagged, Revision, Scope, Store, StoreError, Watch},
};

/// How many changes are applied before readers get a turn.
const BATCH: usize = 512;
const RELIST_DELAY: Duration = Duration::from_millis(100);

/// A controller's queue, and the bell that wakes its runner.
pub(super) struct Inbox {
    /// Held for a few lines at a time, never over an `.await`.
    pub queue: Mutex<Queue>,
    pub bell: Notify,
}

impl Inbox {
    pub fn with<T>(&self, act: impl FnOnce(&mut Queue) -> T) -> T {
        act(&mut self.queue.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct Subscriber {
    controller: Arc<dyn Controller>,
    inbox: Arc<Inbox>,
}

/// The cache and its keeper.
pub struct Hub {
    store: Store,
    registry: Registry,
    /// Written by `run` alone. Readers decide under the lock and never await.
    cache: RwLock<Cache>,
    progress: watch::Sender<Revision>,
    /// Rung by those who wait for the cache, as idle watches learn of others' revisions only when asked.
    nudge: Notify,
    subscribers: Vec<Subscriber>,
}

impl Hub {
    /// A hub for everything that is served, empty until `run`.
    pub fn new(registry: Registry) -> Self {
        let (progress, _) = watch::channel(Revision::default());
        Self {
            store: registry.store().clone(),
            registry,
            cache: RwLock::default(),
            progress,
            nudge: Notify::new(),
            subscribers: Vec::new(),
        }
    }

    /// Before `run`: from now on every change is shown to `controller`.
    pub(super) fn subscribe(&mut self, controller: Arc<dyn Controller>) -> Arc<Inbox> {
        let queue = Mutex::new(Queue::paced(controller.pace()));
        let inbox = Arc::new(Inbox { queue, bell: Notify::new() });
        self.subscribers.push(Subscriber { controller, inbox: inbox.clone() });
        inbox
    }

    pub(super) fn read<T>(&self, decide: impl FnOnce(&Cache) -> T) -> T {
        decide(&self.cache.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// Waits until the cache shows `revision`.
    pub async fn caught_up(&self, revision: Revision) {
        let mut progress = self.progress.subscribe();
        while *progress.borrow_and_update() < revision {
            self.nudge.notify_one();
            // The timeout only repeats the nudge; a hub that is gone is a shutdown, which ends the caller too.
            let _ = tokio::time::timeout(Duration::from_millis(50), progress.changed()).await;
        }
    }

    /// Keeps the cache until `shutdown`.
    pub async fn run(&self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            tokio::select! {
                () = shutdown.cancelled() => return,
                result = self.follow() => match result {
                    Ok(()) => tracing::debug!("the controllers' cache follows other resources"),
                    Err(FollowError::Lagged) => tracing::info!("the controllers' cache lists again"),
                    Err(FollowError::Store(error)) => {
                        tracing::warn!(%error, "the controllers' cache cannot watch the store; it tries again");
                        tokio::time::sleep(RELIST_DELAY).await;
                    }
                },
            }
        }
    }

    /// Lists, then applies events until a watch lags behind or other resources are served.
    async fn follow(&self) -> Result<(), FollowError> {
        let mut changes = self.registry.served_changes();
        let resources: Vec<_> = self.registry.kinds().stored().map(|served| served.info.clone()).collect();
        let names: Vec<_> = resources.iter().map(ResourceInfo::qualified).collect();
        let snapshot = self.store.snapshot();
        let watch = |resource: &String| self.store.watch(Scope::all(resource), snapshot.revision());
        let mut watches = names.iter().map(watch).collect::<Result<Vec<_>, _>>()?;
        self.cache.write().unwrap_or_else(PoisonError::into_inner).follow(resources);
        self.relist(&snapshot, &names);
        self.progress.send_replace(snapshot.revision());
        if watches.is_empty() {
            return std::future::pending().await;
        }
        let mut pending = BTreeMap::new();
        loop {
            let next = select_all(watches.iter_mut().map(|watch| watch.next().boxed()));
            tokio::select! {
                (event, ..) = next => {
                    let news = News::from(&*event?);
                    pending.insert(news.revision, news);
                }
                () = self.nudge.notified() => (),
                _ = changes.changed() => return Ok(()),
            }
            loop {
                let frontier = drain(&mut watches, &mut pending)?;
                let later = pending.split_off(&Revision(frontier.0 + 1));
                self.apply(std::mem::replace(&mut pending, later).into_values());
                self.progress.send_replace(frontier);
                if pending.is_empty() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
    }

    /// Brings the cache to `snapshot`, showing the controllers every difference.
    fn relist(&self, snapshot: &crate::store::Snapshot, resources: &[String]) {
        let mut seen = HashSet::new();
        let mut changes = Vec::new();
        for resource in resources {
            for entry in snapshot.range(&Scope::all(resource), None) {
                seen.insert(entry.key.clone());
                let known = self.read(|cache| cache.entry(&entry.key).cloned());
                if known.is_none_or(|known| known.revision != entry.revision) {
                    changes.push(News { is_deleted: false, revision: entry.revision, entry });
                }
            }
        }
        let gone = self.read(|cache| {
            let gone = |key: &&Key| !seen.contains(key);
            cache.keys().filter(gone).filter_map(|key| cache.entry(key).cloned()).collect::<Vec<_>>()
        });
        for entry in gone {
            let revision = snapshot.revision();
            changes.push(News { is_deleted: true, revision, entry });
        }
        changes.sort_by_key(|news| news.revision);
        self.apply(changes.into_iter());
    }

    fn apply(&self, mut news: impl Iterator<Item = News>) {
        let now = Timestamp::now();
        loop {
            let batch = news.by_ref().take(BATCH).collect::<Vec<_>>();
            if batch.is_empty() {
                return;
            }
            let previous = {
                let mut cache = self.cache.write().unwrap_or_else(PoisonError::into_inner);
                let apply = |news: &News| {
                    if news.is_deleted {
                        cache.remove(&news.entry.key, now)
                    } else {
                        cache.put(news.entry.clone(), now)
                    }
                };
                batch.iter().map(apply).collect::<Vec<_>>()
            };
            self.read(|cache| {
                for (News { entry, is_deleted, .. }, previous) in batch.iter().zip(&previous) {
                    let change = Change { entry, previous: previous.as_ref(), is_deleted: *is_deleted };
                    self.show(&change, cache);
                }
            });
            for subscriber in &self.subscribers {
                subscriber.inbox.bell.notify_one();
            }
        }
    }

    fn show(&self, change: &Change<'_>, cache: &Cache) {
        let now = tokio::time::Instant::now();
        for Subscriber { controller, inbox } in &self.subscribers {
            controller.concerns(change, cache, &mut |key| inbox.with(|queue| queue.add(key, now)));
        }
    }
}

/// What the cache is to take in.
struct News {
    revision: Revision,
    entry: Arc<Entry>,
    is_deleted: bool,
}

impl From<&Event> for News {
    fn from(event: &Event) -> Self {
        let is_deleted = event.kind == EventKind::Deleted;
        Self { revision: event.revision, entry: event.entry.clone(), is_deleted }
    }
}

enum FollowError {
    Lagged,
    Store(StoreError),
}

impl From<Lagged> for FollowError {
    fn from(Lagged: Lagged) -> Self {
        Self::Lagged
    }
}

impl From<StoreError> for FollowError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Takes what all watches have. Answers the revision up to which all of them have been heard.
fn drain(watches: &mut [Watch], pending: &mut BTreeMap<Revision, News>) -> Result<Revision, Lagged> {
    let mut frontier = Revision(u64::MAX - 1);
    for watch in watches {
        while let Some(event) = watch.try_next()? {
            pending.insert(event.revision, News::from(&*event));
        }
        frontier = frontier.min(watch.progress());
    }
    Ok(frontier)
}
