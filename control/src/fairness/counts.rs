//! What became of the requests of one schema.

use std::sync::atomic::{AtomicU64, Ordering};

use super::level::Refused;

/// Counters of one schema at one level; they only grow.
#[derive(Debug, Default)]
pub struct Counts {
    dispatched: AtomicU64,
    refused: [AtomicU64; 3],
}

impl Counts {
    /// Notes how asking for seats ended.
    pub(super) fn note<T>(&self, outcome: &Result<T, Refused>) {
        let count = match outcome {
            Ok(_) => &self.dispatched,
            Err(why) => &self.refused[*why as usize],
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// How many requests got their seats.
    pub fn dispatched(&self) -> u64 {
        self.dispatched.load(Ordering::Relaxed)
    }

    /// How many did not, by the reason that Kubernetes' metrics know it by.
    pub fn rejected(&self) -> [(&'static str, u64); 3] {
        [Refused::NoSeat, Refused::QueueFull, Refused::TimedOut]
            .map(|why| (why.reason(), self.refused[why as usize].load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_is_counted_by_itself() {
        let counts = Counts::default();
        for outcome in [Ok(()), Ok(()), Err(Refused::QueueFull), Err(Refused::TimedOut)] {
            counts.note(&outcome);
        }
        assert_eq!(counts.dispatched(), 2);
        assert_eq!(counts.rejected(), [("concurrency-limit", 0), ("queue-full", 1), ("time-out", 1)]);
    }
}
