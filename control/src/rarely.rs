//! Things that may happen a thousand times a second, and are worth a line in the log now and then.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Between two lines.
const EVERY: Duration = Duration::from_mins(1);

/// Counts what happens, and says when to tell.
#[derive(Debug, Default)]
pub struct Rarely {
    /// How often it happened since it was last told, and when that was. Held for these lines only.
    state: Mutex<(u64, Option<Instant>)>,
}

impl Rarely {
    /// It happened. Answers how often since it was last told, where it is time to tell again.
    pub fn happened(&self) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, told) = &mut *state;
        *count += 1;
        if told.is_some_and(|when| when.elapsed() < EVERY) {
            return None;
        }
        *told = Some(Instant::now());
        Some(std::mem::take(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_time_is_told_and_then_a_count_now_and_then() {
        let rarely = Rarely::default();
        assert_eq!(rarely.happened(), Some(1));
        assert_eq!((0..5).find_map(|_| rarely.happened()), None);
        let long_ago = Instant::now().checked_sub(EVERY);
        rarely.state.lock().expect("whole").1 = long_ago;
        assert_eq!(rarely.happened(), Some(6));
    }
}
