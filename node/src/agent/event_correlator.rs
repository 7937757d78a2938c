//! Which events are worth a write: repetitions become a count, floods are cut off.
//!
//! The same three steps as Kubernetes' event clients: a source may say 25 things about an object at once and one more
//! every five minutes; the eleventh variation of a message within ten minutes is folded into one "similar" event; an
//! event that was written before is counted up.

use std::collections::{HashMap, HashSet};

use jiff::{SignedDuration, Timestamp};

const BURST: f64 = 25.0;
const REFILL_PER_SECOND: f64 = 1.0 / 300.0;
const SIMILAR_LIMIT: usize = 10;
const SIMILAR_WINDOW: SignedDuration = SignedDuration::from_mins(10);
/// Beyond this many objects or messages the memory starts afresh: events are a service, not a ledger.
const CAPACITY: usize = 4096;

/// What was said, about what.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Said {
    /// Uid of the object, and the field of it.
    pub object: String,
    pub field: String,
    pub kind: &'static str,
    pub reason: String,
    pub message: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// New: write it with this message.
    Create {
        message: String,
    },
    /// Written before, under that name: count it up.
    Repeat {
        name: String,
        count: i32,
        message: String,
    },
    Drop,
}

#[derive(Default)]
pub struct Correlator {
    buckets: HashMap<String, (f64, Timestamp)>,
    similar: HashMap<Said, (HashSet<String>, Timestamp)>,
    written: HashMap<Said, (String, i32)>,
}

impl Correlator {
    /// Judges what was said; a `Create` is to be followed by `was_written`.
    pub fn judge(&mut self, said: &Said, now: Timestamp) -> Verdict {
        if !self.take_token(said, now) {
            return Verdict::Drop;
        }
        let key = self.fold_similar(said, now);
        let message = if key.message.is_empty() && !said.message.is_empty() {
            format!("(combined from similar events): {}", said.message)
        } else {
            said.message.clone()
        };
        match self.written.get_mut(&key) {
            Some((name, count)) => {
                *count += 1;
                Verdict::Repeat { name: name.clone(), count: *count, message }
            }
            None => Verdict::Create { message },
        }
    }

    /// Remembers the name under which an event was written.
    pub fn was_written(&mut self, said: &Said, name: String, now: Timestamp) {
        if self.written.len() >= CAPACITY {
            self.written.clear();
        }
        let key = self.current_key(said, now);
        self.written.insert(key, (name, 1));
    }

    /// The API no longer has it: the next one is new.
    pub fn was_lost(&mut self, name: &str) {
        self.written.retain(|_, (written, _)| written != name);
    }

    fn take_token(&mut self, said: &Said, now: Timestamp) -> bool {
        if self.buckets.len() >= CAPACITY {
            self.buckets.clear();
        }
        let (tokens, since) = self.buckets.entry(said.object.clone()).or_insert((BURST, now));
        *tokens = (*tokens + now.duration_since(*since).as_secs_f64() * REFILL_PER_SECOND).min(BURST);
        *since = now;
        let has_token = *tokens >= 1.0;
        if has_token {
            *tokens -= 1.0;
        }
        has_token
    }

    /// The key to count under: without the message once too many variations have come.
    fn fold_similar(&mut self, said: &Said, now: Timestamp) -> Said {
        if self.similar.len() >= CAPACITY {
            self.similar.clear();
        }
        let (messages, since) = self.similar.entry(without_message(said)).or_insert((HashSet::new(), now));
        if now.duration_since(*since) > SIMILAR_WINDOW {
            messages.clear();
        }
        *since = now;
        if messages.len() < SIMILAR_LIMIT {
            messages.insert(said.message.clone());
        }
        self.current_key(said, now)
    }

    fn current_key(&self, said: &Said, now: Timestamp) -> Said {
        let general = without_message(said);
        let is_folded = self.similar.get(&general).is_some_and(|(messages, since)| {
            messages.len() >= SIMILAR_LIMIT
                && !messages.contains(&said.message)
                && now.duration_since(*since) <= SIMILAR_WINDOW
        });
        if is_folded { general } else { said.clone() }
    }
}

fn without_message(said: &Said) -> Said {
    Said { message: String::new(), ..said.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    fn said(message: &str) -> Said {
        Said {
            object: "uid".into(),
            field: "spec.containers{web}".into(),
            kind: "Warning",
            reason: "Unhealthy".into(),
            message: message.into(),
        }
    }

    #[test]
    fn the_same_event_is_counted_not_repeated() {
        let mut correlator = Correlator::default();
        assert_eq!(correlator.judge(&said("a"), at(0)), Verdict::Create { message: "a".into() });
        correlator.was_written(&said("a"), "e1".into(), at(0));
        let repeat = Verdict::Repeat { name: "e1".into(), count: 2, message: "a".into() };
        assert_eq!(correlator.judge(&said("a"), at(1)), repeat);
        correlator.was_lost("e1");
        assert_eq!(correlator.judge(&said("a"), at(2)), Verdict::Create { message: "a".into() });
    }

    #[test]
    fn the_eleventh_variation_is_combined_with_the_next_ones() {
        let mut correlator = Correlator::default();
        for variation in 0..10 {
            let verdict = correlator.judge(&said(&format!("m{variation}")), at(0));
            assert!(matches!(verdict, Verdict::Create { .. }), "{variation}: {verdict:?}");
        }
        let combined = "(combined from similar events): m10";
        assert_eq!(correlator.judge(&said("m10"), at(1)), Verdict::Create { message: combined.into() });
        correlator.was_written(&said("m10"), "e".into(), at(1));
        assert!(matches!(correlator.judge(&said("m11"), at(2)), Verdict::Repeat { count: 2, .. }));
    }

    #[test]
    fn a_flood_about_one_object_is_cut_off_and_trickles() {
        let mut correlator = Correlator::default();
        let passed = (0..100).filter(|_| correlator.judge(&said("a"), at(0)) != Verdict::Drop).count();
        assert_eq!(passed, 25);
        assert_eq!(correlator.judge(&said("a"), at(10)), Verdict::Drop);
        assert_ne!(correlator.judge(&said("a"), at(400)), Verdict::Drop);
    }
}
