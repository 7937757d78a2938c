//! The keys that wait for a look.
//!
//! A plain value: time comes in as an argument, and the runner does the waiting. A key is in the queue at most
//! once however often it is added, and never handed out while a worker has it.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use crate::store::Key;

const FIRST_DELAY: Duration = Duration::from_millis(5);
/// The longest delay of a key that changed while a worker failed at it.
const DIRTY_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_secs(1000);
/// How many times longer than the last look the pause before the next one is at least, where there is a pace.
const PAUSE_PER_LOOK: u32 = 8;
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

#[derive(Default)]
struct State {
    /// In `ready`.
    is_ready: bool,
    /// A worker has it.
    is_active: bool,
    /// Added again while a worker had it.
    is_dirty: bool,
    due: Option<Instant>,
    failures: u32,
    not_before: Option<Instant>,
    /// How long the look that is under way took to decide.
    took: Duration,
}

/// Keys that are ready, keys that become so later, and keys that are being worked on.
#[derive(Default)]
pub struct Queue {
    ready: VecDeque<Key>,
    delayed: BTreeSet<(Instant, Key)>,
    states: HashMap<Key, State>,
    pace: Duration,
}

impl Queue {
    /// A queue that leaves at least `pace` between two looks at one key.
    pub fn paced(pace: Duration) -> Self {
        Self { pace, ..Self::default() }
    }

    /// There is a reason to look at `key`.
    pub fn add(&mut self, key: Key, now: Instant) {
        let state = self.states.entry(key.clone()).or_default();
        if state.is_active {
            state.is_dirty = true;
        } else if !state.is_ready {
            match state.not_before.filter(|not_before| *not_before > now) {
                Some(not_before) => self.delay(key, not_before),
                None => self.make_ready(key),
            }
        }
    }

    /// The next key to look at. It stays with the caller until `done` or `failed`.
    pub fn take(&mut self, now: Instant) -> Option<Key> {
        while let Some((_, key)) = self.delayed.first().filter(|(due, _)| *due <= now).cloned() {
            self.make_ready(key);
        }
        let key = self.ready.pop_front()?;
        let state = self.states.get_mut(&key).expect("a ready key has a state");
        state.is_ready = false;
        state.is_active = true;
        Some(key)
    }

    /// The look ended well; `again` asks for another one.
    pub fn done(&mut self, key: &Key, again: Option<Duration>, now: Instant) {
        let Some(state) = self.states.get_mut(key) else { return };
        state.failures = 0;
        self.release(key, again.map(|delay| now + delay), now);
    }

    /// The look failed: the key comes back, later each time.
    pub fn failed(&mut self, key: &Key, now: Instant) {
        let Some(state) = self.states.get_mut(key) else { return };
        let delay = FIRST_DELAY.saturating_mul(2_u32.saturating_pow(state.failures)).min(LONGEST_DELAY);
        state.failures += 1;
        self.release(key, Some(now + delay), now);
    }

    /// Deciding about `key`, which a worker has, took this long. The more a look costs, the longer is the pause after it,
    /// so that a set of ten thousand pods of which one changes all the time leaves most of a core to others.
    pub fn decided(&mut self, key: &Key, took: Duration) {
        if let Some(state) = self.states.get_mut(key) {
            state.took = took;
        }
    }

    /// When the next delayed key is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.delayed.first().map(|(due, _)| *due)
    }

    fn release(&mut self, key: &Key, again: Option<Instant>, now: Instant) {
        let state = self.states.get_mut(key).expect("the caller has just seen it");
        state.is_active = false;
        let pause = self.pace.max((std::mem::take(&mut state.took) * PAUSE_PER_LOOK).min(LONGEST_PAUSE));
        state.not_before = (!self.pace.is_zero()).then(|| now + pause);
        if std::mem::take(&mut state.is_dirty) {
            if state.failures == 0 {
                self.add(key.clone(), now);
            } else {
                // The change may be the one that was waited for, or only our own write: shorten a long backoff, but
                // do not let a hot object defeat it.
                self.delay(key.clone(), now + DIRTY_DELAY);
            }
        }
        if let Some(again) = again {
            self.delay(key.clone(), again);
        }
        let state = &self.states[key];
        if !state.is_ready && state.due.is_none() {
            match state.not_before {
                Some(not_before) if not_before > now => (), // Kept for the pace; the sweep below forgets it.
                _ => drop(self.states.remove(key)),
            }
        }
        if self.states.len() > 2 * (self.ready.len() + self.delayed.len()) + 1024 {
            self.states.retain(|_, state| {
                state.is_ready
                    || state.is_active
                    || state.due.is_some()
                    || state.not_before.is_some_and(|not_before| not_before > now)
            });
        }
    }

    fn make_ready(&mut self, key: Key) {
        let state = self.states.entry(key.clone()).or_default();
        if let Some(due) = state.due.take() {
            self.delayed.remove(&(due, key.clone()));
        }
        if !state.is_ready {
            state.is_ready = true;
            self.ready.push_back(key);
        }
    }

    /// The earlier of two delays wins.
    fn delay(&mut self, key: Key, due: Instant) {
        let state = self.states.entry(key.clone()).or_default();
        if state.is_ready || state.due.is_some_and(|earlier| earlier <= due) {
            return;
        }
        if let Some(later) = state.due.replace(due) {
            self.delayed.remove(&(later, key.clone()));
        }
        self.delayed.insert((due, key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new("pods", "default", name)
    }

    #[test]
    fn a_key_added_twice_is_handed_out_once() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add(key("a"), now);
        queue.add(key("a"), now);
        assert_eq!(queue.take(now), Some(key("a")));
        assert_eq!(queue.take(now), None);
    }

    #[test]
    fn a_key_added_while_a_worker_has_it_waits_for_the_worker() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add(key("a"), now);
        queue.take(now);
        queue.add(key("a"), now);
        assert_eq!(queue.take(now), None);
        queue.done(&key("a"), None, now);
        assert_eq!(queue.take(now), Some(key("a")));
    }

    #[test]
    fn failures_double_the_delay_up_to_the_longest_and_success_resets_it() {
        let (mut queue, mut now) = (Queue::default(), Instant::now());
        queue.add(key("a"), now);
        for expected in [5, 10, 20, 40, 80] {
            assert_eq!(queue.take(now), Some(key("a")));
            queue.failed(&key("a"), now);
            assert_eq!(queue.next_due(), Some(now + Duration::from_millis(expected)));
            now += Duration::from_millis(expected);
        }
        for _ in 0..30 {
            queue.take(now);
            queue.failed(&key("a"), now);
            now = queue.next_due().unwrap();
        }
        queue.take(now);
        queue.failed(&key("a"), now);
        assert_eq!(queue.next_due(), Some(now + LONGEST_DELAY));
        now += LONGEST_DELAY;
        queue.take(now);
        queue.done(&key("a"), None, now);
        queue.add(key("a"), now);
        queue.take(now);
        queue.failed(&key("a"), now);
        assert_eq!(queue.next_due(), Some(now + FIRST_DELAY));
    }

    #[test]
    fn a_change_during_a_failure_shortens_a_long_backoff_only() {
        let (mut queue, mut now) = (Queue::default(), Instant::now());
        queue.add(key("a"), now);
        for _ in 0..20 {
            queue.take(now);
            queue.failed(&key("a"), now);
            now = queue.next_due().unwrap();
        }
        queue.take(now);
        queue.add(key("a"), now);
        queue.failed(&key("a"), now);
        assert_eq!(queue.next_due(), Some(now + DIRTY_DELAY));
    }

    #[test]
    fn a_change_cuts_a_delay_short() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add(key("a"), now);
        queue.take(now);
        queue.done(&key("a"), Some(Duration::from_mins(1)), now);
        assert_eq!(queue.take(now), None);
        queue.add(key("a"), now);
        assert_eq!(queue.take(now), Some(key("a")));
        queue.done(&key("a"), None, now);
        assert_eq!(queue.next_due(), None);
    }

    #[test]
    fn a_look_that_takes_long_is_followed_by_a_longer_pause() {
        let pace = Duration::from_millis(20);
        let (mut queue, now) = (Queue::paced(pace), Instant::now());
        let mut next_after = |took: u64| {
            queue.add(key("a"), now);
            assert_eq!(queue.take(now), Some(key("a")));
            queue.decided(&key("a"), Duration::from_millis(took));
            queue.done(&key("a"), None, now);
            queue.add(key("a"), now);
            let due = queue.next_due().expect("it waits");
            assert_eq!(queue.take(due), Some(key("a")));
            queue.done(&key("a"), None, now - LONGEST_PAUSE);
            due - now
        };
        assert_eq!(next_after(1), pace);
        assert_eq!(next_after(10), Duration::from_millis(80));
        assert_eq!(next_after(10_000), LONGEST_PAUSE);
        assert_eq!(next_after(1), pace);
    }

    #[test]
    fn a_paced_queue_answers_the_first_change_at_once_and_takes_a_storm_together() {
        let pace = Duration::from_millis(50);
        let (mut queue, now) = (Queue::paced(pace), Instant::now());
        queue.add(key("a"), now);
        assert_eq!(queue.take(now), Some(key("a")));
        queue.done(&key("a"), None, now);
        for _ in 0..1000 {
            queue.add(key("a"), now);
        }
        assert_eq!(queue.take(now), None);
        assert_eq!(queue.take(now + pace), Some(key("a")));
        assert_eq!(queue.take(now + pace), None);
    }

    #[test]
    fn finished_keys_leave_nothing_behind() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for number in 0..10_000 {
            queue.add(key(&number.to_string()), now);
        }
        while let Some(key) = queue.take(now) {
            queue.done(&key, None, now);
        }
        assert!(queue.states.is_empty());
    }
}
