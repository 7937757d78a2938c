//! The entries of one resource, in key order, and how many each namespace has of them.

use std::{ops::RangeBounds, sync::Arc};

use imbl::OrdMap;

use super::{Entry, Key};

/// Cheap to clone, as its clones share what they have in common.
#[derive(Clone, Default)]
pub(super) struct Entries {
    by_key: OrdMap<Key, Arc<Entry>>,
    /// What is in no namespace counts for "".
    per_namespace: OrdMap<Arc<str>, usize>,
}

impl Entries {
    pub fn get(&self, key: &Key) -> Option<&Arc<Entry>> {
        self.by_key.get(key)
    }

    /// Puts `entry` in the place of the one with its key, which it answers.
    pub fn insert(&mut self, entry: Arc<Entry>) -> Option<Arc<Entry>> {
        let key = entry.key.clone();
        let previous = self.by_key.insert(key.clone(), entry);
        if previous.is_none() {
            match self.per_namespace.get_mut(key.namespace()) {
                Some(count) => *count += 1,
                None => drop(self.per_namespace.insert(key.namespace().into(), 1)),
            }
        }
        previous
    }

    pub fn remove(&mut self, key: &Key) -> Option<Arc<Entry>> {
        let previous = self.by_key.remove(key)?;
        if let Some(count) = self.per_namespace.get_mut(key.namespace()) {
            *count -= 1;
            if *count == 0 {
                self.per_namespace.remove(key.namespace());
            }
        }
        Some(previous)
    }

    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    pub fn count_in(&self, namespace: &str) -> usize {
        self.per_namespace.get(namespace).copied().unwrap_or_default()
    }

    pub fn range(&self, keys: impl RangeBounds<Key>) -> impl Iterator<Item = (&Key, &Arc<Entry>)> + Send {
        self.by_key.range(keys)
    }

    pub fn values(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.by_key.values()
    }

    /// Whether both are the same, and not only equal.
    pub fn is(&self, other: &Self) -> bool {
        self.by_key.ptr_eq(&other.by_key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Draft, Revision};

    #[test]
    fn namespaces_are_counted() {
        let entry = |namespace: &str, name: &str| {
            let draft = Draft::from_value(&serde_json::json!({})).expect("a draft");
            Arc::new(Entry::new(Key::new("pods", namespace, name), Revision(1), &draft))
        };
        let mut entries = Entries::default();
        let keys = [("a", "x"), ("a", "y"), ("ab", "x"), ("", "x")];
        for (namespace, name) in keys {
            assert!(entries.insert(entry(namespace, name)).is_none());
        }
        let before = entries.clone();
        assert!(entries.insert(entry("a", "x")).is_some(), "what is replaced counts once");
        let counts = |entries: &Entries| ["a", "ab", "", "b"].map(|namespace| entries.count_in(namespace));
        assert_eq!((counts(&entries), entries.len()), ([2, 1, 1, 0], 4));
        assert!(entries.remove(&Key::new("pods", "b", "x")).is_none());
        for (namespace, name) in keys {
            assert!(entries.remove(&Key::new("pods", namespace, name)).is_some());
        }
        assert_eq!((counts(&entries), entries.len()), ([0; 4], 0));
        assert!(entries.per_namespace.is_empty(), "namespaces without entries go");
        assert_eq!(counts(&before), [2, 1, 1, 0], "a clone stays as it was");
    }
}
