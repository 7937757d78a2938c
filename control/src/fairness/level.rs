//! A priority level at work: counts the seats in use, and lets requests wait for one.
//!
//! While nobody waits, taking and giving back a seat is one atomic exchange each. Only when a level is full do
//! requests meet at a lock, and there [`Queues`] decide.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use http::HeaderValue;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::{Notify, oneshot};

use super::{
    counts::Counts,
    queues::{Place, QueueState, Queues, Settings},
};

/// One request that waits, in the upper half of a level's state; the lower half counts the seats in use.
const WAITER: u64 = 1 << 32;

/// Why a request does not get a seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The level is full, and lets nobody wait.
    NoSeat,
    /// The flow's queues are full.
    QueueFull,
    /// It waited as long as requests may.
    TimedOut,
}

impl Refused {
    /// As Kubernetes' metrics name it.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::NoSeat => "concurrency-limit",
            Self::QueueFull => "queue-full",
            Self::TimedOut => "time-out",
        }
    }
}

/// What a level does with requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Seats all of them.
    Exempt,
    /// Refuses those that find no seat.
    Reject,
    /// Lets them wait.
    Queue(Settings),
}

/// A level. It outlives changes of its configuration, so that what runs and waits is not forgotten.
pub struct Level {
    pub name: String,
    /// The object's uid, as clients are told it.
    pub uid: HeaderValue,
    state: AtomicU64,
    limit: AtomicU32,
    /// The most seats that were wanted at once since somebody last asked.
    peak: AtomicU32,
    /// What became of each schema's requests, by its name. Locked when a schema is compiled and when counts are read.
    counts: Mutex<BTreeMap<String, Arc<Counts>>>,
    /// Taken only by requests that find the level full, and by those that end while others wait. Never held over an
    /// await.
    waiting: Mutex<Waiting>,
    /// Requests that left before they got a seat.
    cancelled: AtomicU64,
    /// Told when the level is full.
    pressed: Arc<Notify>,
}

struct Waiting {
    policy: Policy,
    queues: Queues<Waiter>,
}

struct Waiter {
    seat: oneshot::Sender<()>,
    asker: Arc<Asker>,
}

/// A request that waits, for whoever debugs.
#[derive(Debug, Default)]
pub struct Asker {
    pub since: Timestamp,
    pub schema: String,
    /// What tells its flow from others of the schema.
    pub distinguisher: String,
    pub user: String,
    pub verb: String,
    /// Of its URL.
    pub path: String,
    pub namespace: String,
    pub name: String,
    pub resource: String,
    pub subresource: String,
}

/// What a level is doing, for `/metrics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    pub seats_in_use: u32,
    pub waiting: u32,
    pub limit: u32,
}

impl Level {
    pub fn new(name: &str, uid: HeaderValue, policy: Policy, pressed: Arc<Notify>) -> Self {
        let settings = settings_of(policy);
        let limit = if policy == Policy::Exempt { u32::MAX } else { 0 };
        Self {
            name: name.to_owned(),
            uid,
            state: AtomicU64::new(0),
            limit: AtomicU32::new(limit),
            peak: AtomicU32::new(0),
            counts: Mutex::default(),
            waiting: Mutex::new(Waiting { policy, queues: Queues::new(settings) }),
            cancelled: AtomicU64::new(0),
            pressed,
        }
    }

    /// Changes what happens to requests from now on.
    pub fn configure(&self, policy: Policy) {
        let mut waiting = self.waiting();
        waiting.policy = policy;
        waiting.queues.configure(settings_of(policy));
        if policy == Policy::Exempt {
            self.limit.store(u32::MAX, Ordering::Relaxed);
        }
        self.dispatch(&mut waiting);
    }

    /// Sets how many seats there are; who fits now goes ahead.
    pub fn set_limit(&self, limit: u32) {
        if self.limit.swap(limit, Ordering::AcqRel) < limit {
            // Under the lock, so that a request which has just found the level full is seen, or sees this.
            self.dispatch(&mut self.waiting());
        }
    }

    /// The most seats that were wanted since the last call.
    pub fn take_peak(&self) -> u32 {
        let now = wanted(self.state.load(Ordering::Relaxed));
        self.peak.swap(now, Ordering::Relaxed).max(now)
    }

    pub fn load(&self) -> Load {
        let state = self.state.load(Ordering::Relaxed);
        Load {
            seats_in_use: in_use(state),
            waiting: waiters(state),
            limit: self.limit.load(Ordering::Relaxed),
        }
    }

    /// The counters of a schema; the same ones for ever.
    pub fn counts_of(&self, schema: &str) -> Arc<Counts> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.entry(schema.to_owned()).or_default().clone()
    }

    /// The counters of all schemas that came here since the level is there.
    pub fn counts(&self) -> BTreeMap<String, Arc<Counts>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many requests left before they got a seat, other than because they had waited for too long.
    pub fn cancelled(&self) -> u64 {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Its queues; none where nobody may wait.
    pub fn queues(&self) -> Vec<QueueState<Arc<Asker>>> {
        let waiting = self.waiting();
        match waiting.policy {
            Policy::Queue(_) => waiting.queues.states(|waiter| waiter.asker.clone()),
            Policy::Exempt | Policy::Reject => Vec::new(),
        }
    }

    /// Takes `width` seats if they are free and nobody waits for them.
    pub fn try_acquire(self: &Arc<Self>, width: u32) -> Option<Permit> {
        let mut state = self.state.load(Ordering::Relaxed);
        while waiters(state) == 0 && self.fits(state, width) {
            let next = state + u64::from(width);
            match self.state.compare_exchange_weak(state, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => {
                    self.note_demand(in_use(next));
                    return Some(Permit { level: self.clone(), width, queued: None });
                }
                Err(changed) => state = changed,
            }
        }
        None
    }

    /// Takes `width` seats, waiting for them up to `patience` where the level lets requests wait.
    pub async fn acquire(
        self: &Arc<Self>,
        width: u32,
        flow: u64,
        patience: Duration,
        asker: Asker,
    ) -> Result<Permit, Refused> {
        let wait = match self.enqueue(width, flow, asker) {
            Enqueued::Seated(permit) => return Ok(permit),
            Enqueued::Refused(why) => return Err(why),
            Enqueued::Waits(wait) => wait,
        };
        tokio::time::timeout(patience, wait.seated()).await.map_err(|_| {
            // It was counted when it left.
            self.cancelled.fetch_sub(1, Ordering::Relaxed);
            Refused::TimedOut
        })
    }

    fn enqueue(self: &Arc<Self>, width: u32, flow: u64, asker: Asker) -> Enqueued {
        self.pressed.notify_one();
        let mut waiting = self.waiting();
        loop {
            if let Some(permit) = self.try_acquire(width) {
                return Enqueued::Seated(permit);
            }
            // Who gives a seat back after this sees a waiter, and comes to the lock.
            let state = self.state.load(Ordering::Relaxed);
            if waiters(state) == 0 && self.fits(state, width) {
                continue;
            }
            let next = state + WAITER;
            if self.state.compare_exchange(state, next, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                self.note_demand(wanted(next));
                break;
            }
        }
        let (seat, ready) = oneshot::channel();
        let is_queueing = matches!(waiting.policy, Policy::Queue(_));
        let waiter = Waiter { seat, asker: Arc::new(asker) };
        let place = if is_queueing { waiting.queues.enqueue(flow, width, waiter).ok() } else { None };
        let Some(place) = place else {
            self.state.fetch_sub(WAITER, Ordering::AcqRel);
            return Enqueued::Refused(if is_queueing { Refused::QueueFull } else { Refused::NoSeat });
        };
        self.dispatch(&mut waiting);
        Enqueued::Waits(Wait { level: self.clone(), width, place, ready, is_settled: false })
    }

    /// Seats those whose turn it is, as long as there are seats.
    fn dispatch(&self, waiting: &mut Waiting) {
        while let Some((queue, width)) = waiting.queues.next()
            && self.seat_waiter(width)
        {
            let Some(waiter) = waiting.queues.start(queue) else { return };
            // A waiter that leaves takes itself out first, so this one is still there.
            let _ = waiter.seat.send(());
        }
    }

    fn seat_waiter(&self, width: u32) -> bool {
        let seat = |state| self.fits(state, width).then(|| state - WAITER + u64::from(width));
        self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, seat).is_ok()
    }

    /// A request that is wider than the whole level runs alone.
    fn fits(&self, state: u64, width: u32) -> bool {
        let (used, limit) = (in_use(state), self.limit.load(Ordering::Relaxed));
        used.saturating_add(width) <= limit || (used == 0 && limit > 0)
    }

    fn note_demand(&self, seats: u32) {
        if seats > self.peak.load(Ordering::Relaxed) {
            self.peak.fetch_max(seats, Ordering::Relaxed);
        }
    }

    fn release(&self, width: u32, queued: Option<(u32, Instant)>) {
        let before = self.state.fetch_sub(u64::from(width), Ordering::AcqRel);
        if queued.is_none() && waiters(before) == 0 {
            return;
        }
        let mut waiting = self.waiting();
        if let Some((queue, since)) = queued {
            waiting.queues.finish(queue, width, since.elapsed());
        }
        self.dispatch(&mut waiting);
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn settings_of(policy: Policy) -> Settings {
    match policy {
        Policy::Queue(settings) => settings,
        Policy::Exempt | Policy::Reject => Settings { queues: 1, hand_size: 1, queue_length: 0 },
    }
}

fn waiters(state: u64) -> u32 {
    (state >> 32) as u32
}

fn in_use(state: u64) -> u32 {
    state as u32
}

/// Seats in use and, counting one each, those that are waited for.
fn wanted(state: u64) -> u32 {
    in_use(state).saturating_add(waiters(state))
}

enum Enqueued {
    Seated(Permit),
    Waits(Wait),
    Refused(Refused),
}

/// A request in a queue; leaves it when dropped.
struct Wait {
    level: Arc<Level>,
    width: u32,
    place: Place,
    ready: oneshot::Receiver<()>,
    is_settled: bool,
}

impl Wait {
    async fn seated(mut self) -> Permit {
        // The sender is in the queue until it is used.
        let _ = (&mut self.ready).await;
        self.is_settled = true;
        let queued = Some((self.place.queue, Instant::now()));
        Permit { level: self.level.clone(), width: self.width, queued }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if self.is_settled {
            return;
        }
        self.level.cancelled.fetch_add(1, Ordering::Relaxed);
        let mut waiting = self.level.waiting();
        if waiting.queues.cancel(self.place).is_some() {
            self.level.state.fetch_sub(WAITER, Ordering::AcqRel);
            // It may have been what the others waited for.
            return self.level.dispatch(&mut waiting);
        }
        drop(waiting);
        // The seat came just now.
        self.level.release(self.width, Some((self.place.queue, Instant::now())));
    }
}

/// Seats that are given back when it is dropped.
#[must_use]
pub struct Permit {
    level: Arc<Level>,
    width: u32,
    /// The queue that it waited in, and since when it runs.
    queued: Option<(u32, Instant)>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.level.release(self.width, self.queued);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUEUES: Settings = Settings { queues: 16, hand_size: 2, queue_length: 2 };
    const PATIENCE: Duration = Duration::from_secs(5);

    fn level(policy: Policy, limit: u32) -> Arc<Level> {
        let uid = HeaderValue::from_static("uid");
        let level = Level::new("tight", uid, policy, Arc::new(Notify::new()));
        level.set_limit(limit);
        Arc::new(level)
    }

    fn spawn_request(level: &Arc<Level>, flow: u64) -> tokio::task::JoinHandle<Result<Permit, Refused>> {
        let level = level.clone();
        tokio::spawn(async move { level.acquire(1, flow, PATIENCE, Asker::default()).await })
    }

    async fn becomes(level: &Level, waiting: u32) {
        while level.load().waiting != waiting {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_full_level_refuses_or_lets_wait() {
        let refusing = level(Policy::Reject, 2);
        let held = [refusing.try_acquire(1).expect("free"), refusing.try_acquire(1).expect("free")];
        assert_eq!(refusing.acquire(1, 0, PATIENCE, Asker::default()).await.err(), Some(Refused::NoSeat));
        assert_eq!(refusing.take_peak(), 3);
        drop(held);
        assert_eq!(refusing.load(), Load { seats_in_use: 0, waiting: 0, limit: 2 });

        let queueing = level(Policy::Queue(QUEUES), 1);
        let held = queueing.try_acquire(1).expect("free");
        let waits: Vec<_> = (0..4).map(|_| spawn_request(&queueing, 9)).collect();
        becomes(&queueing, 4).await;
        assert_eq!(queueing.acquire(1, 9, PATIENCE, Asker::default()).await.err(), Some(Refused::QueueFull));
        drop(held);
        // Whose turn it is, is not said; each gives its seat back.
        let seated =
            waits.into_iter().map(|wait| async { drop(wait.await.expect("no panic").expect("a seat")) });
        futures::future::join_all(seated).await;
        assert_eq!(queueing.load(), Load { seats_in_use: 0, waiting: 0, limit: 1 });
    }

    #[tokio::test]
    async fn who_waits_too_long_or_goes_away_leaves_no_trace() {
        let level = level(Policy::Queue(QUEUES), 1);
        let held = level.try_acquire(1).expect("free");
        let impatient = level.acquire(1, 1, Duration::from_millis(1), Asker::default()).await;
        assert_eq!((impatient.err(), level.cancelled()), (Some(Refused::TimedOut), 0));
        let wait = spawn_request(&level, 2);
        becomes(&level, 1).await;
        wait.abort();
        assert!(wait.await.is_err());
        assert_eq!((level.load().waiting, level.cancelled()), (0, 1));
        drop(held);
        assert_eq!(level.load().seats_in_use, 0);
        assert!(level.try_acquire(1).is_some());
    }

    #[tokio::test]
    async fn more_seats_let_waiters_in_and_a_wide_request_runs_alone() {
        let level = level(Policy::Queue(QUEUES), 0);
        let wait = spawn_request(&level, 1);
        becomes(&level, 1).await;
        level.set_limit(1);
        let permit = wait.await.expect("no panic").expect("a seat");
        assert!(level.try_acquire(1).is_none());
        drop(permit);
        let wide = level.try_acquire(9).expect("the level is empty");
        assert!(level.try_acquire(1).is_none());
        drop(wide);
        level.configure(Policy::Exempt);
        assert!((0..100).map(|_| level.try_acquire(1)).collect::<Vec<_>>().iter().all(Option::is_some));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn seats_are_never_lost_nor_given_twice() {
        let level = level(Policy::Queue(Settings { queue_length: 1000, ..QUEUES }), 3);
        let most = Arc::new(AtomicU32::new(0));
        let running = Arc::new(AtomicU32::new(0));
        let tasks = (0..16_u64).map(|flow| {
            let (level, most, running) = (level.clone(), most.clone(), running.clone());
            tokio::spawn(async move {
                for round in 0..200_u64 {
                    let patience = if round % 7 == 0 { Duration::ZERO } else { PATIENCE };
                    let permit = match level.try_acquire(1) {
                        Some(permit) => permit,
                        None => match level.acquire(1, flow, patience, Asker::default()).await {
                            Ok(permit) => permit,
                            Err(_) => continue,
                        },
                    };
                    most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    tokio::task::yield_now().await;
                    running.fetch_sub(1, Ordering::SeqCst);
                    drop(permit);
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.expect("no panic");
        }
        assert!(most.load(Ordering::SeqCst) <= 3);
        let load = level.load();
        assert_eq!((load.seats_in_use, load.waiting), (0, 0));
    }
}
