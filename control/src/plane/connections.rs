//! How many connections there are, which of them are idle, and which goes when there are too many.
//!
//! A connection without a request costs memory and a file descriptor, and a client may open thousands. Those that have
//! been idle longest make room for new ones, so that nobody is kept out by connections that nobody uses.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http_body::{Frame, SizeHint};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::Notify;

/// File descriptors that are for other things than connections.
const RESERVED_FILES: u64 = 512;
/// More connections than this are not of use to anybody.
const MOST: u64 = 65_536;
const FEWEST: u64 = 64;
/// How many connections are looked at to find an idle one.
const MOST_TRIED: usize = 1024;

/// All open connections.
pub struct Connections {
    limit: usize,
    began: Instant,
    /// Oldest first; those that are gone stay in it until they are come across. Held for a few lines only.
    open: Mutex<VecDeque<Weak<Connection>>>,
    count: Arc<AtomicU32>,
}

/// One connection, as long as it is open.
pub struct Connection {
    began: Instant,
    /// Requests whose answers are not sent yet.
    active: AtomicU32,
    requests: AtomicU32,
    /// When the last one ended, in milliseconds since `began`.
    last: AtomicU64,
    /// Told when it must make room.
    evicted: Notify,
    count: Arc<AtomicU32>,
}

impl Connections {
    /// As many as this process may have files open; raises that limit as far as it may.
    pub fn new() -> Self {
        let files = getrlimit(Resource::Nofile);
        let wanted = files.maximum.unwrap_or(MOST).min(MOST + RESERVED_FILES);
        let mut allowed = files.current.unwrap_or(wanted);
        if allowed < wanted
            && setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: files.maximum }).is_ok()
        {
            allowed = wanted;
        }
        Self::of(allowed.saturating_sub(RESERVED_FILES).clamp(FEWEST, MOST) as usize)
    }

    fn of(limit: usize) -> Self {
        Self { limit, began: Instant::now(), open: Mutex::default(), count: Arc::default() }
    }

    /// Takes a new connection in. Answers whether another must go for it: an idle one does; where all are busy, the
    /// new one must not be served, and is None.
    pub fn open(&self) -> (Option<Arc<Connection>>, bool) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = self.count.load(Ordering::Relaxed) as usize >= self.limit;
        if is_full && !evict(&mut open) {
            return (None, true);
        }
        // Those that are gone must not pile up: every new one takes two of them along.
        for _ in 0..2 {
            if open.front().is_some_and(|oldest| oldest.strong_count() == 0) {
                open.pop_front();
            }
        }
        if open.len() > 2 * self.limit {
            open.retain(|connection| connection.strong_count() > 0);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::new(Connection {
            began: self.began,
            active: AtomicU32::new(0),
            requests: AtomicU32::new(0),
            last: AtomicU64::new(self.began.elapsed().as_millis() as u64),
            evicted: Notify::new(),
            count: self.count.clone(),
        });
        open.push_back(Arc::downgrade(&connection));
        (Some(connection), is_full)
    }
}

/// Ends the oldest connection that is idle, if there is one.
fn evict(open: &mut VecDeque<Weak<Connection>>) -> bool {
    for _ in 0..open.len().min(MOST_TRIED) {
        let Some(oldest) = open.pop_front() else { return false };
        let Some(connection) = oldest.upgrade() else { continue };
        if connection.active.load(Ordering::Acquire) == 0 {
            connection.evicted.notify_one();
            return true;
        }
        // Busy ones are looked at again only after all others.
        open.push_back(oldest);
    }
    false
}

impl Connection {
    /// A request begins; it ends when what this gives is dropped.
    pub fn request(self: &Arc<Self>) -> Active {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.active.fetch_add(1, Ordering::AcqRel);
        Active(self.clone())
    }

    /// Whether it has carried any request.
    pub fn is_used(&self) -> bool {
        self.requests.load(Ordering::Relaxed) > 0
    }

    /// Waits until it has been without a request for long, or must make room. A connection that never carried one may
    /// be idle for `unused` only.
    pub async fn idle(&self, unused: Duration, used: Duration) {
        let wait = async {
            loop {
                let patience = if self.is_used() { used } else { unused };
                let last = self.began + Duration::from_millis(self.last.load(Ordering::Relaxed));
                let is_active = self.active.load(Ordering::Acquire) > 0;
                let ends = if is_active { Instant::now() + patience } else { last + patience };
                if !is_active && Instant::now() >= ends {
                    return;
                }
                tokio::time::sleep_until(ends.into()).await;
            }
        };
        tokio::select! {
            () = wait => (),
            () = self.evicted.notified() => (),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request that is being answered.
pub struct Active(Arc<Connection>);

impl Drop for Active {
    fn drop(&mut self) {
        let now = self.0.began.elapsed().as_millis() as u64;
        self.0.last.store(now, Ordering::Relaxed);
        self.0.active.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A body that keeps its connection from being idle until it is sent.
pub struct Answer<B> {
    body: B,
    _active: Active,
}

impl<B> Answer<B> {
    pub fn new(body: B, active: Active) -> Self {
        Self { body, _active: active }
    }
}

impl<B: http_body::Body + Unpin> http_body::Body for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_hours(1);

    #[tokio::test]
    async fn the_oldest_idle_connection_makes_room() {
        let connections = Connections::of(2);
        let (first, second) = (connections.open().0.expect("room"), connections.open().0.expect("room"));
        let busy = first.request();
        let (third, is_full) = connections.open();
        assert!(third.is_some() && is_full);
        // The first is busy, so the second had to go.
        second.idle(LONG, LONG).await;
        drop(second);
        let active = third.as_ref().expect("room").request();
        assert!(connections.open().0.is_none(), "all are busy");
        drop(active);
        drop(busy);
        assert!(connections.open().0.is_some());
        // Whoever is told to go needs a moment to do so: the count includes it until then.
        drop((first, third));
        assert_eq!(connections.count.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn connections_that_come_and_go_leave_nothing_behind() {
        let connections = Connections::of(100);
        for _ in 0..10_000 {
            drop(connections.open());
        }
        assert!(connections.open.lock().expect("whole").len() <= 201);
        assert_eq!(connections.count.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn only_a_connection_without_requests_is_idle() {
        let connections = Connections::of(10);
        let connection = connections.open().0.expect("room");
        connection.idle(SHORT, LONG).await;
        let active = connection.request();
        let idle = connection.idle(SHORT, SHORT);
        tokio::pin!(idle);
        assert!(tokio::time::timeout(4 * SHORT, &mut idle).await.is_err());
        drop(active);
        idle.await;
    }
}
