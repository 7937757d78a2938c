//! Exponential delays as values: who fails again and again waits longer and longer, up to a cap.

use jiff::{SignedDuration, Timestamp};

/// How long to wait after the first failure, and at most.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    pub initial: SignedDuration,
    pub max: SignedDuration,
}

/// Containers and image pulls: 10 s doubling to 5 min.
pub const KUBELET: Schedule =
    Schedule { initial: SignedDuration::from_secs(10), max: SignedDuration::from_secs(300) };
/// Volumes, sandboxes and everything else that failed: 0.5 s doubling to about 2 min.
pub const RETRY: Schedule =
    Schedule { initial: SignedDuration::from_millis(500), max: SignedDuration::from_secs(122) };

/// The delay that one thing is serving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    pub delay: SignedDuration,
    last_update: Timestamp,
}

impl Backoff {
    /// What is left of the delay, counted from the failure `since`; `None` when it is over.
    pub fn remaining(&self, schedule: Schedule, since: Timestamp, now: Timestamp) -> Option<SignedDuration> {
        if self.is_expired(schedule, since) {
            return None;
        }
        let left = self.delay - now.duration_since(since);
        left.is_positive().then_some(left)
    }

    /// The next, longer delay. A failure that comes twice the cap after the last one starts afresh.
    pub fn next(previous: Option<Self>, schedule: Schedule, since: Timestamp, now: Timestamp) -> Self {
        let delay = match previous {
            Some(previous) if !previous.is_expired(schedule, since) => (previous.delay * 2).min(schedule.max),
            _ => schedule.initial,
        };
        Self { delay, last_update: now }
    }

    fn is_expired(&self, schedule: Schedule, since: Timestamp) -> bool {
        since.duration_since(self.last_update) > schedule.max * 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    #[test]
    fn delays_double_up_to_five_minutes() {
        let mut backoff = None;
        let mut delays = Vec::new();
        let mut now = 0;
        for _ in 0..8 {
            let next = Backoff::next(backoff, KUBELET, at(now), at(now));
            delays.push(next.delay.as_secs());
            now += next.delay.as_secs();
            backoff = Some(next);
        }
        assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300, 300]);
    }

    #[test]
    fn a_run_of_more_than_ten_minutes_resets_the_delay() {
        let long = Backoff { delay: SignedDuration::from_secs(300), last_update: at(0) };
        assert_eq!(Backoff::next(Some(long), KUBELET, at(600), at(600)).delay.as_secs(), 300);
        assert_eq!(Backoff::next(Some(long), KUBELET, at(601), at(601)).delay.as_secs(), 10);
        assert_eq!(long.remaining(KUBELET, at(601), at(602)), None);
    }

    #[test]
    fn the_delay_counts_from_the_failure() {
        let backoff = Backoff { delay: SignedDuration::from_secs(10), last_update: at(0) };
        assert_eq!(backoff.remaining(KUBELET, at(5), at(6)), Some(SignedDuration::from_secs(9)));
        assert_eq!(backoff.remaining(KUBELET, at(5), at(15)), None);
    }
}
