//! How long a guest computed, told cheaply.
//!
//! The kernel knows the CPU time of a thread, but to ask it takes almost a microsecond, and a request would ask twice. A
//! guest that returns soon is charged the time on the wall instead: nothing else can have run on its thread for longer
//! than that. Only where it took so long that its thread may have been interrupted, the kernel is asked.

use std::{cell::Cell, sync::OnceLock, time::Instant};

/// The kernel lets a thread compute for longer than this before another one gets its turn.
const SHORT: u64 = 100_000;
/// How long the last reading of a thread's CPU time bounds what it computes from now on.
const FRESH: u64 = 1_000_000;

/// A time on the wall, in nanoseconds since some point in the past.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moment(pub u64);

/// The last time that this thread's CPU time was read.
#[derive(Debug, Clone, Copy, Default)]
struct Reading {
    at: Moment,
    cpu: u64,
}

thread_local! {
    static LAST: Cell<Reading> = const { Cell::new(Reading { at: Moment(0), cpu: 0 }) };
}

impl Moment {
    pub fn now() -> Self {
        static START: OnceLock<Instant> = OnceLock::new();
        // Not zero, which is before any reading.
        let start = START.get_or_init(Instant::now);
        Self(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX).saturating_add(FRESH))
    }

    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A guest is about to compute on this thread.
pub fn begin() -> Moment {
    let now = Moment::now();
    if now.since(LAST.get().at) >= FRESH {
        LAST.set(Reading { at: now, cpu: thread_cpu_nanos() });
    }
    now
}

/// What this thread computed of the last `wall` nanoseconds, in nanoseconds, after [`begin`] at their start.
pub fn computed(wall: u64, now: Moment) -> u64 {
    if wall < SHORT {
        return wall;
    }
    let cpu = thread_cpu_nanos();
    let last = LAST.replace(Reading { at: now, cpu });
    wall.min(cpu.saturating_sub(last.cpu))
}

#[allow(unsafe_code, reason = "rustix has this clock only behind a feature that nothing else needs")]
fn thread_cpu_nanos() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live timespec; the clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_short_turn_costs_what_the_wall_says() {
        let began = begin();
        assert_eq!(computed(SHORT - 1, Moment(began.0 + SHORT - 1)), SHORT - 1);
    }

    #[test]
    fn who_sleeps_does_not_compute() {
        let began = begin();
        // Nothing is waited for here: to sleep is what is tested.
        std::thread::sleep(Duration::from_millis(50));
        let now = Moment::now();
        let wall = now.since(began);
        assert!(wall >= 50_000_000);
        assert!(computed(wall, now) < wall / 2, "only the last millisecond before it may count, too");
    }

    #[test]
    fn who_computes_is_charged() {
        let began = begin();
        let cpu = thread_cpu_nanos();
        while thread_cpu_nanos() - cpu < 20_000_000 {}
        let now = Moment::now();
        assert!(computed(now.since(began), now) >= 20_000_000);
    }
}
