//! Who may compute: CPU limits, shares under contention, and the threads on which guests compute for long.
//!
//! A guest starts wherever its future is polled and may use one slice for free: most requests end within it. When the
//! slice is over (the epoch deadline), the guest goes to the queue of this file. At most as many guests as there are
//! CPUs hold a slot; the next slot goes to the container with the least virtual time (CPU time divided by shares), so
//! that containers share by weight however many instances each runs; time that nobody else wanted is not counted. A
//! container over its limit waits until its next period, as with cgroups: a quota per 100 ms, with debts carried over.
//!
//! Free slices are counted and limited like any other time, but not queued: of many short requests the connections
//! that bring them take turns, not the containers.
//!
//! Guests that used up their free slice move to the engine's own threads, which are a little less urgent than those
//! that do I/O: neither can a guest delay another one's first slice, nor the node's own work.
//!
//! Invariant: a [`Run`] holds a slot only while its guest is being polled.

use std::{
    cell::Cell,
    collections::BTreeMap,
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use crate::{
    clock::{self, Moment},
    ticker::{TICK, Ticker},
};

/// Ticks of the first, free slice. The first of them may be short, as the clock is already running.
pub const FREE_TICKS: u64 = 2;
/// Ticks of a slice after it.
const SLICE_TICKS: u64 = 5;
/// The period of CPU limits, as the kernel's default.
const PERIOD: Duration = Duration::from_millis(100);
/// Shares of a container that asked for one CPU.
const SHARES_PER_CPU: u64 = 1024;
/// How much less urgent than other threads those of guests are.
const NICENESS: i32 = 3;

/// All CPU time that the guests of an engine share.
pub struct Cpu {
    slots: usize,
    queue: Mutex<Queue>,
    ticker: Arc<Ticker>,
    threads: Option<tokio::runtime::Runtime>,
}

#[derive(Default)]
struct Queue {
    taken: usize,
    /// By virtual time, then by arrival.
    waiting: BTreeMap<(u64, u64), oneshot::Sender<Slot>>,
    arrivals: u64,
    /// The virtual time of the last one served. Whoever slept long starts here, not at its old time.
    now: u64,
}

/// The right to compute now. Given back when dropped.
struct Slot(Option<Arc<Cpu>>);

impl Slot {
    /// Ends it without giving it back: for whoever has the queue locked and counts by hand.
    fn defuse(mut self) {
        self.0 = None;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(cpu) = &self.0 {
            let mut queue = cpu.lock();
            queue.taken -= 1;
            Cpu::serve(cpu, &mut queue);
        }
    }
}

impl Cpu {
    pub fn new() -> std::io::Result<Arc<Self>> {
        let slots = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(slots)
            .thread_name("naru-guest")
            .on_thread_start(|| {
                // Of this thread only; without effect where the system forbids it.
                let _ = rustix::process::setpriority_process(None, NICENESS);
            })
            .enable_all()
            .build()?;
        Ok(Arc::new(Self {
            slots,
            queue: Mutex::default(),
            ticker: Ticker::start()?,
            threads: Some(threads),
        }))
    }

    /// From now on the guests of `engine` are interrupted, too.
    pub fn drive(&self, engine: wasmtime::Engine) {
        self.ticker.drive(engine);
    }

    /// The threads of guests that compute for long, and of all commands.
    pub fn threads(&self) -> &tokio::runtime::Handle {
        self.threads.as_ref().expect("taken only when dropped").handle()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues for a slot. `held` goes back only then: whoever has less virtual time passes, and nobody else.
    fn queue(self: &Arc<Self>, virtual_time: &AtomicU64, held: Option<Slot>) -> oneshot::Receiver<Slot> {
        let mut queue = self.lock();
        let (sender, granted) = oneshot::channel();
        let is_contended = !queue.waiting.is_empty() || held.is_none() && queue.taken >= self.slots;
        let time = if !is_contended {
            // What nobody else wanted is not held against anyone later.
            virtual_time.store(queue.now, Relaxed);
            queue.now
        } else if held.is_some() {
            // Whoever goes on computing keeps what it is ahead or behind.
            virtual_time.load(Relaxed)
        } else {
            virtual_time.fetch_max(queue.now, Relaxed).max(queue.now)
        };
        queue.arrivals += 1;
        let key = (time, queue.arrivals);
        queue.waiting.insert(key, sender);
        if let Some(held) = held {
            queue.taken -= 1;
            held.defuse();
        }
        Self::serve(self, &mut queue);
        granted
    }

    fn serve(this: &Arc<Self>, queue: &mut Queue) {
        while queue.taken < this.slots {
            let Some(((time, _), waiter)) = queue.waiting.pop_first() else { return };
            queue.now = queue.now.max(time);
            queue.taken += 1;
            if let Err(slot) = waiter.send(Slot(Some(this.clone()))) {
                // Its guest was killed while it waited.
                queue.taken -= 1;
                slot.defuse();
            }
        }
    }
}

impl Drop for Cpu {
    fn drop(&mut self) {
        self.ticker.stop();
        if let Some(threads) = self.threads.take() {
            threads.shutdown_background();
        }
    }
}

/// The CPU time of one container.
pub struct CpuAccount {
    cpu: Arc<Cpu>,
    shares: AtomicU64,
    /// Nanoseconds that it may use per period; 0 is no limit.
    quota_nanos: AtomicU64,
    used_nanos: AtomicU64,
    virtual_time: AtomicU64,
    throttle: Mutex<Throttle>,
}

/// Guards a few lines without `.await`.
struct Throttle {
    period_start: Instant,
    used: Duration,
    throttled_until: Instant,
    periods: u64,
    time: Duration,
}

/// How often and how long a container waited for its next period.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Throttled {
    pub periods: u64,
    pub time: Duration,
}

impl CpuAccount {
    pub fn new(cpu: Arc<Cpu>, shares: u64, limit_millis: Option<u64>) -> Self {
        let now = Instant::now();
        let account = Self {
            cpu,
            shares: AtomicU64::new(2),
            quota_nanos: AtomicU64::new(0),
            used_nanos: AtomicU64::new(0),
            virtual_time: AtomicU64::new(0),
            throttle: Mutex::new(Throttle {
                period_start: now,
                used: Duration::ZERO,
                throttled_until: now,
                periods: 0,
                time: Duration::ZERO,
            }),
        };
        account.set_limits(shares, limit_millis);
        account
    }

    /// From now on. Who waits for its next period under an old limit still waits for that.
    pub fn set_limits(&self, shares: u64, limit_millis: Option<u64>) {
        self.shares.store(shares.max(2), Relaxed);
        let per_milli = PERIOD.as_nanos() as u64 / 1000;
        self.quota_nanos
            .store(limit_millis.map_or(0, |millis| millis.max(1).saturating_mul(per_milli)), Relaxed);
    }

    fn quota(&self) -> Option<Duration> {
        Some(self.quota_nanos.load(Relaxed)).filter(|nanos| *nanos > 0).map(Duration::from_nanos)
    }

    pub fn cpu(&self) -> &Arc<Cpu> {
        &self.cpu
    }

    pub fn used(&self) -> Duration {
        Duration::from_nanos(self.used_nanos.load(Relaxed))
    }

    pub fn throttled(&self) -> Throttled {
        let throttle = self.throttle.lock().unwrap_or_else(PoisonError::into_inner);
        Throttled { periods: throttle.periods, time: throttle.time }
    }

    fn charge(&self, nanos: u64) {
        self.used_nanos.fetch_add(nanos, Relaxed);
        self.virtual_time
            .fetch_add(nanos.saturating_mul(SHARES_PER_CPU) / self.shares.load(Relaxed), Relaxed);
        if let Some(quota) = self.quota() {
            let mut throttle = self.throttle.lock().unwrap_or_else(PoisonError::into_inner);
            throttle.start_period(quota, Instant::now());
            throttle.used += Duration::from_nanos(nanos);
        }
    }

    /// Waits while the container is over its limit. Costs nothing for one without limit.
    pub async fn within_limit(&self) {
        // Asked again each time: the limit may have changed while it waited.
        while let Some(quota) = self.quota() {
            let wait = {
                let mut throttle = self.throttle.lock().unwrap_or_else(PoisonError::into_inner);
                throttle.wait(quota, Instant::now())
            };
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => return,
            }
        }
    }

    /// Smaller where the limit is: a slice should not take the quota of many periods at once.
    fn slice_ticks(&self) -> u64 {
        let Some(quota) = self.quota() else { return SLICE_TICKS };
        ((quota / 2).as_micros() as u64 / TICK.as_micros() as u64).clamp(1, SLICE_TICKS)
    }
}

impl Throttle {
    /// Pays off what the periods since the last look allowed.
    fn start_period(&mut self, quota: Duration, now: Instant) {
        let passed = now.saturating_duration_since(self.period_start).as_nanos() / PERIOD.as_nanos();
        if passed > 0 {
            let passed = u32::try_from(passed).unwrap_or(u32::MAX);
            self.used = self.used.saturating_sub(quota.saturating_mul(passed));
            self.period_start += PERIOD * passed;
        }
    }

    /// How long to wait, and counts it once for all guests of the container.
    fn wait(&mut self, quota: Duration, now: Instant) -> Option<Duration> {
        self.start_period(quota, now);
        if self.used < quota {
            return None;
        }
        let until = self.period_start + PERIOD;
        if until > self.throttled_until {
            let from = self.throttled_until.max(now);
            self.periods += 1;
            self.time += until.saturating_duration_since(from);
            self.throttled_until = until;
        }
        Some(until.saturating_duration_since(now))
    }
}

/// One guest's way through the queue: shared by its instance and by the future that polls it.
pub struct Run {
    account: Arc<CpuAccount>,
    slot: Mutex<Option<Slot>>,
    /// It used up its free slice where it must not compute for long.
    must_move: AtomicBool,
    /// It computes on the engine's threads.
    moved: AtomicBool,
    /// It waits for CPU time, not for the world.
    queued: AtomicBool,
}

impl Run {
    /// For a guest that starts on a thread that has other work, too.
    pub fn visiting(account: Arc<CpuAccount>) -> Arc<Self> {
        Self::new(account, false)
    }

    /// For a guest that starts on the engine's threads.
    pub fn at_home(account: Arc<CpuAccount>) -> Arc<Self> {
        Self::new(account, true)
    }

    fn new(account: Arc<CpuAccount>, moved: bool) -> Arc<Self> {
        Arc::new(Self {
            account,
            slot: Mutex::new(None),
            must_move: AtomicBool::new(false),
            moved: AtomicBool::new(moved),
            queued: AtomicBool::new(false),
        })
    }

    /// For the next call of a kept instance: it starts on any thread, with a free slice.
    pub fn visit_again(&self) {
        self.must_move.store(false, Relaxed);
        self.moved.store(false, Relaxed);
        self.queued.store(false, Relaxed);
    }

    /// Whether the guest's future must be polled on [`Cpu::threads`] from now on. True once.
    pub fn take_move(&self) -> bool {
        self.must_move.swap(false, Relaxed) && !self.moved.swap(true, Relaxed)
    }

    /// Whether the guest waits for CPU time rather than in a call of its own.
    pub fn is_queued(&self) -> bool {
        self.queued.load(Relaxed)
    }

    pub fn slice_ticks(&self) -> u64 {
        self.account.slice_ticks()
    }

    /// At the end of a slice: waits until the guest may compute again.
    pub async fn next_slice(self: Arc<Self>) {
        charge_so_far(&self.account);
        self.queued.store(true, Relaxed);
        if !self.moved.load(Relaxed) {
            self.must_move.store(true, Relaxed);
            // Polled again after the move, or dropped.
            poll_fn(|_| if self.moved.load(Relaxed) { Poll::Ready(()) } else { Poll::Pending }).await;
        }
        if self.account.quota().is_some() {
            self.release();
            self.account.within_limit().await;
        }
        let held = self.slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        let granted = self.account.cpu.queue(&self.account.virtual_time, held);
        // Even if the slot is granted at once: guests that have not started yet are not in the queue, but behind this
        // one on its thread, and whoever wants to abort this guest must get hold of it.
        tokio::task::yield_now().await;
        let slot = granted.await.expect("a waiter stays queued until it is served");
        *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(slot);
        self.queued.store(false, Relaxed);
    }

    fn release(&self) {
        drop(self.slot.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// Polls a guest: measures its CPU time, keeps the epoch going, and gives its slot back whenever it waits.
pub struct Metered<F: ?Sized> {
    run: Arc<Run>,
    guest: Pin<Box<F>>,
}

impl<F: Future + ?Sized> Metered<F> {
    pub fn new(run: Arc<Run>, guest: Pin<Box<F>>) -> Self {
        Self { run, guest }
    }

    pub fn run(&self) -> &Arc<Run> {
        &self.run
    }
}

impl<F: Future + ?Sized> Future for Metered<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let _turn = Turn::begin(&this.run);
        this.guest.as_mut().poll(context)
    }
}

impl<F: ?Sized> Drop for Metered<F> {
    fn drop(&mut self) {
        self.run.release();
    }
}

thread_local! {
    /// Since when the guest that is polled on this thread has not been charged.
    static UNCHARGED_SINCE: Cell<Moment> = const { Cell::new(Moment(0)) };
}

fn charge_so_far(account: &CpuAccount) {
    let now = Moment::now();
    let since = UNCHARGED_SINCE.replace(now);
    account.charge(clock::computed(now.since(since), now));
}

/// One poll of a guest. Guests may be polled inside one another (a call to a container on the same node): the outer
/// one's clock stands still meanwhile.
struct Turn<'a> {
    run: &'a Run,
    began: Moment,
    outer: Moment,
}

impl<'a> Turn<'a> {
    fn begin(run: &'a Run) -> Self {
        run.account.cpu.ticker.enter();
        let began = clock::begin();
        Self { run, began, outer: UNCHARGED_SINCE.replace(began) }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        charge_so_far(&self.run.account);
        let now = UNCHARGED_SINCE.get();
        UNCHARGED_SINCE.set(Moment(self.outer.0 + now.since(self.began)));
        self.run.release();
        self.run.account.cpu.ticker.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUOTA: Duration = Duration::from_millis(10);

    fn throttle(now: Instant) -> Throttle {
        Throttle {
            period_start: now,
            used: Duration::ZERO,
            throttled_until: now,
            periods: 0,
            time: Duration::ZERO,
        }
    }

    #[test]
    fn a_debt_is_paid_off_period_by_period_and_counted() {
        let start = Instant::now();
        let mut throttle = throttle(start);
        throttle.used = QUOTA * 2 + QUOTA / 2;
        assert_eq!(throttle.wait(QUOTA, start), Some(PERIOD));
        assert_eq!(
            throttle.wait(QUOTA, start),
            Some(PERIOD),
            "a second guest of the container waits for the same end"
        );
        assert_eq!(throttle.periods, 1);
        assert_eq!(throttle.wait(QUOTA, start + PERIOD), Some(PERIOD));
        assert_eq!(throttle.wait(QUOTA, start + PERIOD * 2), None);
        assert_eq!((throttle.periods, throttle.time), (2, PERIOD * 2));
    }

    #[test]
    fn what_was_not_used_is_not_saved_up() {
        let start = Instant::now();
        let mut throttle = throttle(start);
        throttle.start_period(QUOTA, start + PERIOD * 50);
        throttle.used += QUOTA;
        assert!(throttle.wait(QUOTA, start + PERIOD * 50).is_some());
    }

    fn cpu_with_one_slot() -> Arc<Cpu> {
        let mut cpu = Cpu::new().unwrap();
        Arc::get_mut(&mut cpu).unwrap().slots = 1;
        cpu
    }

    #[tokio::test]
    async fn the_slot_goes_to_whoever_used_least_for_its_shares() {
        let cpu = cpu_with_one_slot();
        let account = |shares, nanos| {
            let account = CpuAccount::new(cpu.clone(), shares, None);
            account.charge(nanos);
            account
        };
        let (heavy, light) = (account(1024, 2_000), account(512, 1_500));
        let held = cpu.queue(&AtomicU64::new(0), None).await.unwrap();
        // The lighter one used less, but its shares are half: 3000 against 2000.
        let mut light_waits = cpu.queue(&light.virtual_time, None);
        let mut heavy_waits = cpu.queue(&heavy.virtual_time, None);
        drop(held);
        assert!(light_waits.try_recv().is_err());
        let held = heavy_waits.try_recv().unwrap();
        // It goes back to the queue, with less than the other one still.
        heavy.charge(500);
        let mut heavy_waits = cpu.queue(&heavy.virtual_time, Some(held));
        let held = heavy_waits.try_recv().unwrap();
        heavy.charge(1_000);
        let mut heavy_waits = cpu.queue(&heavy.virtual_time, Some(held));
        assert!(heavy_waits.try_recv().is_err());
        // The lighter one uses twice what it was behind, and waits for that long.
        let held = light_waits.try_recv().unwrap();
        light.charge(1_000);
        let mut light_waits = cpu.queue(&light.virtual_time, Some(held));
        let held = heavy_waits.try_recv().unwrap();
        heavy.charge(1_000);
        let mut heavy_waits = cpu.queue(&heavy.virtual_time, Some(held));
        assert!(light_waits.try_recv().is_err());
        heavy_waits.try_recv().unwrap();
    }

    #[tokio::test]
    async fn time_that_nobody_else_wanted_is_not_held_against_a_container() {
        let cpu = cpu_with_one_slot();
        let (lonely, newcomer) =
            (CpuAccount::new(cpu.clone(), 1024, None), CpuAccount::new(cpu.clone(), 1024, None));
        let mut held = cpu.queue(&lonely.virtual_time, None).await.unwrap();
        for _ in 0..3 {
            lonely.charge(1_000_000);
            held = cpu.queue(&lonely.virtual_time, Some(held)).await.unwrap();
        }
        let mut waits = cpu.queue(&newcomer.virtual_time, None);
        lonely.charge(10);
        let mut lonely_waits = cpu.queue(&lonely.virtual_time, Some(held));
        let held = waits.try_recv().unwrap();
        newcomer.charge(20);
        let _waits = cpu.queue(&newcomer.virtual_time, Some(held));
        lonely_waits.try_recv().unwrap();
    }

    #[tokio::test]
    async fn a_waiter_that_is_dropped_does_not_keep_the_slot() {
        let cpu = cpu_with_one_slot();
        let time = AtomicU64::new(0);
        let held = cpu.queue(&time, None).await.unwrap();
        drop(cpu.queue(&time, None));
        drop(held);
        assert_eq!(cpu.lock().taken, 0);
        drop(cpu.queue(&time, None).await.unwrap());
        assert_eq!(cpu.lock().taken, 0);
    }
}
