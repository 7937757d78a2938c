//! A consistent view of the whole store at one revision.

use std::sync::Arc;

use imbl::OrdMap;

use super::{Entry, Key, Revision, Scope, entries::Entries};

/// A consistent, immutable view of the whole store; cheap to take and to clone, blocks no writer.
#[derive(Clone, Default)]
pub struct Snapshot {
    pub(super) revision: Revision,
    pub(super) resources: OrdMap<Arc<str>, Entries>,
}

/// The entries of a resource at some revision; equal to themselves alone.
#[derive(Clone)]
pub struct Contents(Entries);

impl PartialEq for Contents {
    fn eq(&self, other: &Self) -> bool {
        self.0.is(&other.0)
    }
}

impl Snapshot {
    pub fn revision(&self) -> Revision {
        self.revision
    }

    pub fn get(&self, key: &Key) -> Option<Arc<Entry>> {
        self.resources.get(key.resource())?.get(key).cloned()
    }

    /// All of `resource` as one value, which is another one after each change; `None` where there is nothing.
    pub fn contents(&self, resource: &str) -> Option<Contents> {
        let entries = self.resources.get(resource).filter(|entries| !entries.is_empty());
        entries.map(|entries| Contents(entries.clone()))
    }

    /// Whether there is any object of `resource`.
    pub fn holds(&self, resource: &str) -> bool {
        self.resources.get(resource).is_some_and(|entries| !entries.is_empty())
    }

    /// The entries of `scope` in key order, those after `after` only if given (exclusive; for paging).
    pub fn range<'a>(
        &'a self,
        scope: &Scope,
        after: Option<&Key>,
    ) -> Box<dyn Iterator<Item = Arc<Entry>> + Send + 'a> {
        let Some(entries) = self.resources.get(&*scope.resource) else {
            return Box::new(std::iter::empty());
        };
        if let (Some(namespace), Some(name)) = (&scope.namespace, &scope.name) {
            let key = Key::new(&scope.resource, namespace, name);
            let is_after = after.is_none_or(|after| key > *after);
            return Box::new(entries.get(&key).filter(|_| is_after).cloned().into_iter());
        }
        let prefix = match &scope.namespace {
            Some(namespace) => format!("{}/{namespace}/", scope.resource),
            None => format!("{}/", scope.resource),
        };
        let first = Key::from_text(&prefix);
        let start = match after {
            Some(after) if *after >= first => std::ops::Bound::Excluded(after.clone()),
            _ => std::ops::Bound::Included(first),
        };
        let name = scope.name.clone();
        Box::new(
            entries
                .range((start, std::ops::Bound::Unbounded))
                .take_while(move |(key, _)| key.as_str().starts_with(&prefix))
                .filter(move |(key, _)| name.as_deref().is_none_or(|name| key.name() == name))
                .map(|(_, entry)| entry.clone()),
        )
    }

    /// How many entries `scope` holds.
    pub fn count(&self, scope: &Scope) -> usize {
        let Some(entries) = self.resources.get(&*scope.resource) else { return 0 };
        match (&scope.namespace, &scope.name) {
            (None, None) => entries.len(),
            (Some(namespace), None) => entries.count_in(namespace),
            (_, Some(_)) => self.range(scope, None).count(),
        }
    }

    /// The decoded objects of `scope`; entries that do not decode are skipped and logged.
    pub fn list<T: naru_model::Object>(&self, scope: &Scope) -> Vec<Arc<T>> {
        let decode = |entry: Arc<Entry>| match entry.typed::<T>() {
            Ok(object) => Some(object),
            Err(error) => {
                tracing::warn!(key = entry.key.as_str(), %error, "skipping an object that does not decode");
                None
            }
        };
        self.range(scope, None).filter_map(decode).collect()
    }

    pub(super) fn put(&mut self, entry: Arc<Entry>) -> Option<Arc<Entry>> {
        let resource = entry.key.resource();
        if let Some(entries) = self.resources.get_mut(resource) {
            return entries.insert(entry);
        }
        let resource = Arc::from(resource);
        let mut entries = Entries::default();
        entries.insert(entry);
        self.resources.insert(resource, entries);
        None
    }

    pub(super) fn remove(&mut self, key: &Key) -> Option<Arc<Entry>> {
        self.resources.get_mut(key.resource())?.remove(key)
    }

    /// All entries of all resources.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.resources.values().flat_map(|entries| entries.values())
    }
}
