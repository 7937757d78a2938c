//! What the work on a request leaves behind beside its answer: warnings for the client, and annotations for the audit
//! log.
//!
//! Both count whether the request succeeds or not, so they are no part of what the work answers: a [`Call`] carries a
//! reference to the request's [`Notes`], and whoever has something to say says it there.
//!
//! [`Call`]: crate::registry::Call

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::{Mutex, MutexGuard, PoisonError},
};

use naru_model::validation::names;

use crate::audit::Level;

/// What all warnings of one answer may be long, in characters; when they are longer, each is cut to the second number.
/// Clients have limits for headers, and a client that was told less is better off than one that was told nothing.
const MAX_WARNINGS: usize = 4 << 10;
const MAX_CUT_WARNING: usize = 256;
/// So many warnings are told: clients built on hyper refuse an answer of more than a hundred headers.
const MAX_COUNT: usize = 64;

/// What was noticed during one request.
#[derive(Debug, Default)]
pub struct Notes {
    is_recorded: bool,
    /// Held for a few lines, never over an await.
    noted: Mutex<Noted>,
}

#[derive(Debug, Default)]
struct Noted {
    warnings: Vec<String>,
    annotations: Annotations,
}

/// Annotations of an audit event by their keys, each with the least level of events that show it.
pub type Annotations = BTreeMap<String, (Level, String)>;

impl Notes {
    /// Notes of a request that the audit log may want to know of, or not.
    pub fn new(is_recorded: bool) -> Self {
        Self { is_recorded, ..Self::default() }
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the client something, once.
    pub fn warn(&self, text: impl Into<String>) {
        let (text, mut noted) = (text.into(), self.noted());
        if !text.is_empty() && noted.warnings.len() < MAX_COUNT && !noted.warnings.contains(&text) {
            noted.warnings.push(text);
        }
    }

    /// What the client is to be told, in the order in which it came up.
    pub fn take_warnings(&self) -> Vec<String> {
        let warnings = std::mem::take(&mut self.noted().warnings);
        if warnings.is_empty() { warnings } else { within_limits(warnings) }
    }

    /// Whether annotations lead anywhere.
    pub fn is_recorded(&self) -> bool {
        self.is_recorded
    }

    /// Notes `value` under `key` for audit events of `level` and above. As in Kubernetes, a key is a DNS name, a slash
    /// and a name, and what was noted first stays: other annotations are dropped, and the log says so.
    pub fn annotate(&self, level: Level, key: String, value: String) {
        if !self.is_recorded {
            return;
        }
        if !is_key(&key) {
            tracing::warn!(
                key,
                "an annotation of a request has no key of the form DOMAIN/NAME and is dropped"
            );
            return;
        }
        match self.noted().annotations.entry(key) {
            Entry::Vacant(place) => {
                place.insert((level, value));
            }
            Entry::Occupied(place) if place.get().1 == value => (),
            Entry::Occupied(place) => {
                tracing::warn!(key = place.key(), value, "an annotation of a request cannot be changed");
            }
        }
    }

    pub fn take_annotations(&self) -> Annotations {
        if self.is_recorded { std::mem::take(&mut self.noted().annotations) } else { Annotations::new() }
    }
}

fn is_key(key: &str) -> bool {
    key.split_once('/').is_some_and(|(prefix, name)| !prefix.is_empty() && !name.contains('/'))
        && names::qualified_name(key).is_empty()
}

/// As many of the warnings as an answer's headers hold.
fn within_limits(mut warnings: Vec<String>) -> Vec<String> {
    let length = |text: &String| text.chars().count();
    if warnings.iter().map(length).sum::<usize>() <= MAX_WARNINGS {
        return warnings;
    }
    let mut room = MAX_WARNINGS;
    warnings.retain_mut(|text| {
        if let Some((end, _)) = text.char_indices().nth(MAX_CUT_WARNING) {
            text.truncate(end);
        }
        let fits = length(text) <= room;
        room = room.saturating_sub(length(text));
        fits
    });
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_told_once_and_not_more_than_it_can_take() {
        let notes = Notes::default();
        for text in ["old", "", "odd", "old"] {
            notes.warn(text);
        }
        assert_eq!(notes.take_warnings(), ["old", "odd"]);
        assert!(notes.take_warnings().is_empty());
        (0..1000).for_each(|index| notes.warn(index.to_string()));
        assert_eq!(notes.take_warnings().len(), MAX_COUNT);

        notes.warn("é".repeat(4090));
        notes.warn("short");
        assert_eq!(notes.take_warnings().len(), 2, "this fits as it is");
        for index in 0..40 {
            notes.warn(format!("{index:02}{}", "é".repeat(400)));
        }
        let warnings = notes.take_warnings();
        assert_eq!(warnings.len(), MAX_WARNINGS / MAX_CUT_WARNING);
        assert!(warnings.iter().all(|text| text.chars().count() == MAX_CUT_WARNING));
    }

    #[test]
    fn annotations_are_kept_as_they_were_noted_first() {
        let notes = Notes::new(true);
        let annotate = |key: &str, value: &str| notes.annotate(Level::Metadata, key.into(), value.into());
        annotate("limits.example.com/size", "big");
        annotate("limits.example.com/size", "small");
        annotate("no-domain", "x");
        annotate("/no-domain", "x");
        annotate("two/slashes/x", "x");
        annotate("limits.example.com/bad key", "x");
        let kept = notes.take_annotations();
        assert_eq!(kept.len(), 1);
        assert_eq!(kept["limits.example.com/size"], (Level::Metadata, "big".to_owned()));

        let unrecorded = Notes::new(false);
        unrecorded.annotate(Level::Metadata, "limits.example.com/size".into(), "big".into());
        assert!(unrecorded.take_annotations().is_empty());
    }
}
