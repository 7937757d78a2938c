//! What is kept of an object: its JSON as served, its metadata, and its typed form once somebody asked.

use std::{
    any::Any,
    borrow::Cow,
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    thread::LocalKey,
};

use bytes::Bytes;
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{OwnerReference, Time},
    jiff::Timestamp,
};
use naru_model::Object;
use serde::{Deserialize, de::DeserializeOwned};

use super::{Fingerprint, Key, Revision, json, splice};

/// An object ready to be written: canonical JSON without `metadata.resourceVersion`, which the state machine
/// puts in at `revision_at` when it knows the revision.
#[derive(Debug, Clone)]
pub struct Draft {
    pub json: Bytes,
    /// Byte offset in `json` where the member `resourceVersion` goes; 0 where the object has no `metadata`.
    pub revision_at: u32,
    pub(super) meta: Arc<Meta>,
}

impl Draft {
    /// Serializes `object`; its `resourceVersion` is ignored.
    pub fn new<T: Object>(object: &T) -> Result<Self, serde_json::Error> {
        Self::from_json(json::to_vec(object)?)
    }

    /// The same for an object that is held as JSON. Objects without `metadata` get none.
    pub fn from_value(value: &serde_json::Value) -> Result<Self, serde_json::Error> {
        Self::from_json(json::to_vec(value)?)
    }

    /// The draft that had these fields when it was stored.
    pub(super) fn stored(revision_at: u32, json: Bytes) -> Result<Self, serde_json::Error> {
        // The member goes between two others or before a brace; anything else was not made here.
        if revision_at as usize >= json.len().max(1) {
            return Err(serde::de::Error::custom("the revision's place is not in the object"));
        }
        let meta = match splice::find(&json, splice::REVISION) {
            Some(place) => Meta::decode(&json[place.metadata])?,
            None => Meta::default(),
        };
        // An object without metadata keeps these very bytes, and must not keep the buffer around them alive.
        let json = if revision_at == 0 { Bytes::copy_from_slice(&json) } else { json };
        Ok(Self { json, revision_at, meta: Arc::new(meta) })
    }

    /// `json` must be valid JSON; any `resourceVersion` in it is cut out.
    pub(super) fn from_json(mut json: Vec<u8>) -> Result<Self, serde_json::Error> {
        let Some(place) = splice::find(&json, splice::REVISION) else {
            return Ok(Self { json: json.into(), revision_at: 0, meta: Arc::default() });
        };
        let meta = Meta::decode(&json[place.metadata])?;
        if let Some(range) = place.existing {
            json.drain(range);
        }
        let revision_at = u32::try_from(place.insert_at).map_err(serde::ser::Error::custom)?;
        Ok(Self { json: json.into(), revision_at, meta: Arc::new(meta) })
    }

    /// What tells this draft from others.
    pub fn fingerprint(&self) -> Fingerprint {
        fingerprint(&self.json)
    }

    /// The same object, which says nothing of its managers yet, with these `metadata.managedFields`.
    pub fn with_managed_fields(mut self, json: &[u8]) -> Self {
        let Some(place) = splice::find(&self.json, splice::MANAGED_FIELDS) else { return self };
        let len = self.json.len();
        self.json =
            splice::insert_member(&self.json, place.insert_at, splice::MANAGED_FIELDS, [json, b"", b""])
                .into();
        // The revision's key is the greater one: its place is the same or after this one.
        self.revision_at += (self.json.len() - len) as u32;
        self
    }
}

/// The part of `metadata` that every object's handling needs, decoded once when the entry is made.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Meta {
    pub name: String,
    pub namespace: String,
    pub uid: String,
    pub generation: Option<i64>,
    /// Shared by those who have the same, as are the owners: the pods of a set.
    pub labels: Arc<BTreeMap<String, String>>,
    pub owner_references: Arc<Vec<OwnerReference>>,
    pub finalizers: Vec<String>,
    pub creation_timestamp: Option<Timestamp>,
    pub deletion_timestamp: Option<Timestamp>,
}

impl Meta {
    fn decode(json: &[u8]) -> Result<Self, serde_json::Error> {
        /// The wire's form: everything may be absent or null.
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Wire {
            name: Option<String>,
            namespace: Option<String>,
            uid: Option<String>,
            generation: Option<i64>,
            labels: Option<BTreeMap<String, String>>,
            owner_references: Option<Vec<OwnerReference>>,
            finalizers: Option<Vec<String>>,
            creation_timestamp: Option<Time>,
            deletion_timestamp: Option<Time>,
        }
        let wire: Wire = serde_json::from_slice(json)?;
        Ok(Self {
            name: wire.name.unwrap_or_default(),
            namespace: wire.namespace.unwrap_or_default(),
            uid: wire.uid.unwrap_or_default(),
            generation: wire.generation,
            labels: shared(&LABELS, wire.labels.unwrap_or_default()),
            owner_references: shared(&OWNERS, fitted(wire.owner_references)),
            finalizers: fitted(wire.finalizers),
            creation_timestamp: wire.creation_timestamp.map(|time| time.0),
            deletion_timestamp: wire.deletion_timestamp.map(|time| time.0),
        })
    }
}

/// Values that were decoded lately, most of which come in crowds.
type Recent<T> = RefCell<VecDeque<Arc<T>>>;

thread_local! {
    static LABELS: Recent<BTreeMap<String, String>> = const { RefCell::new(VecDeque::new()) };
    static OWNERS: Recent<Vec<OwnerReference>> = const { RefCell::new(VecDeque::new()) };
}

/// `value`, or one that equals it and is kept already.
fn shared<T: PartialEq>(recent: &'static LocalKey<Recent<T>>, value: T) -> Arc<T> {
    const REMEMBERED: usize = 16;
    recent.with_borrow_mut(|recent| {
        if let Some(same) = recent.iter().find(|known| ***known == value) {
            return same.clone();
        }
        recent.truncate(REMEMBERED - 1);
        let value = Arc::new(value);
        recent.push_front(value.clone());
        value
    })
}

/// Without the room for more that decoding leaves.
fn fitted<T>(items: Option<Vec<T>>) -> Vec<T> {
    let mut items = items.unwrap_or_default();
    items.shrink_to_fit();
    items
}

fn fingerprint(json: &[u8]) -> Fingerprint {
    use sha2::Digest as _;
    let mut fingerprint = [0; 16];
    let digest = sha2::Sha256::digest(json);
    fingerprint.copy_from_slice(&digest[..16]);
    Fingerprint(fingerprint)
}

/// The decoded form.
#[derive(Default)]
enum Typed {
    /// Nobody asked for it yet.
    #[default]
    Unasked,
    Kept {
        object: Arc<dyn Any + Send + Sync>,
        /// Since [`Entry::let_idle_go`] looked last.
        is_used: bool,
    },
    /// Others were written since: made anew for the next who asks, who may be the only one. Kept for those after.
    Cooled,
    /// The entry was replaced a while ago: made anew for each of the few who still ask.
    Given,
}

/// One revision of one object.
pub struct Entry {
    pub key: Key,
    pub revision: Revision,
    pub meta: Arc<Meta>,
    /// Canonical JSON, `metadata.resourceVersion` included: exactly what GET answers.
    pub json: Bytes,
    /// As in [`Draft`].
    pub(super) revision_at: u32,
    /// Guards one decode; held while decoding, so that two readers never decode the same revision twice.
    typed: Mutex<Typed>,
    brief: OnceLock<Arc<dyn Any + Send + Sync>>,
}

impl Entry {
    /// `draft` as it is at `revision`.
    pub(crate) fn new(key: Key, revision: Revision, draft: &Draft) -> Self {
        let json = match draft.revision_at {
            0 => draft.json.clone(),
            at => splice::insert(&draft.json, at as usize, revision).into(),
        };
        Self {
            key,
            revision,
            meta: draft.meta.clone(),
            json,
            revision_at: draft.revision_at,
            typed: Mutex::default(),
            brief: OnceLock::new(),
        }
    }

    /// The entry as it was stored: `json` has its revision in it already.
    pub(super) fn stored(
        key: Key,
        revision: Revision,
        revision_at: u32,
        json: Bytes,
    ) -> Result<Self, serde_json::Error> {
        let meta = match splice::find(&json, splice::REVISION) {
            Some(place) => Meta::decode(&json[place.metadata])?,
            None => Meta::default(),
        };
        Ok(Self {
            key,
            revision,
            meta: Arc::new(meta),
            json,
            revision_at,
            typed: Mutex::default(),
            brief: OnceLock::new(),
        })
    }

    /// That of the draft which made it.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        match self.revision_at as usize {
            0 => fingerprint(&self.json),
            at => fingerprint(&splice::remove(&self.json, at, self.revision)),
        }
    }

    /// The same object at another revision: what a deletion reports.
    pub(super) fn at(&self, revision: Revision) -> Self {
        let json = match self.revision_at as usize {
            0 => self.json.clone(),
            at => splice::insert(&splice::remove(&self.json, at, self.revision), at, revision).into(),
        };
        Self {
            key: self.key.clone(),
            revision,
            meta: self.meta.clone(),
            json,
            revision_at: self.revision_at,
            typed: Mutex::default(),
            brief: OnceLock::new(),
        }
    }

    /// `metadata.managedFields` as JSON.
    pub fn managed_fields(&self) -> Option<&[u8]> {
        let value = splice::find(&self.json, splice::MANAGED_FIELDS)?.value?;
        Some(&self.json[value])
    }

    /// The object's JSON without `metadata.managedFields`.
    pub fn plain_json(&self) -> Cow<'_, [u8]> {
        match splice::find(&self.json, splice::MANAGED_FIELDS).and_then(|place| place.existing) {
            None => Cow::Borrowed(&self.json),
            Some(range) => Cow::Owned([&self.json[..range.start], &self.json[range.end..]].concat()),
        }
    }

    /// The object as `T`, without `metadata.managedFields`, decoded once and shared by all who ask. (An entry that was
    /// replaced long ago, that many others follow, or that nobody asked for a while, forgets the decoded form to save
    /// memory, and decodes again.)
    pub fn typed<T: Object>(&self) -> Result<Arc<T>, serde_json::Error> {
        let mut typed = self.typed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Typed::Kept { object, is_used } = &mut *typed
            && let Ok(object) = object.clone().downcast::<T>()
        {
            *is_used = true;
            return Ok(object);
        }
        let mut object: T = serde_json::from_slice(&self.plain_json())?;
        if let Some(pod) = (&mut object as &mut dyn Any).downcast_mut() {
            naru_model::pod::compact(pod);
        }
        let object = Arc::new(object);
        match *typed {
            // The first type that is asked for is the one that everybody asks for.
            Typed::Unasked => *typed = Typed::Kept { object: object.clone(), is_used: true },
            Typed::Cooled => *typed = Typed::Unasked,
            Typed::Kept { .. } | Typed::Given => {}
        }
        Ok(object)
    }

    /// A small part of the object, decoded once and kept as long as the entry, for what is asked of all objects of a
    /// kind again and again. One kind of object should have one such part: a second is decoded anew for each who asks.
    pub fn brief<B: DeserializeOwned + Send + Sync + 'static>(&self) -> Result<Arc<B>, serde_json::Error> {
        if let Some(brief) = self.brief.get()
            && let Ok(brief) = brief.clone().downcast::<B>()
        {
            return Ok(brief);
        }
        let brief = Arc::new(serde_json::from_slice::<B>(&self.json)?);
        // Two who decoded at the same time made the same.
        let _ = self.brief.set(brief.clone());
        Ok(brief)
    }

    /// Gives back the memory of the decoded form if nobody asked for it since the last call.
    pub(super) fn let_idle_go(&self) {
        let mut typed = self.typed.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *typed {
            Typed::Kept { is_used: false, .. } => *typed = Typed::Unasked,
            Typed::Kept { is_used, .. } => *is_used = false,
            Typed::Unasked | Typed::Cooled | Typed::Given => {}
        }
    }

    /// Gives back the memory of the decoded form until it is asked for twice again, unless somebody does so now. Never
    /// waits.
    pub(super) fn let_go(&self) {
        if let Ok(mut typed) = self.typed.try_lock() {
            *typed = Typed::Cooled;
        }
    }

    /// Gives back the memory of the decoded form, and keeps none from now on.
    pub(super) fn forget_typed(&self) {
        *self.typed.lock().unwrap_or_else(PoisonError::into_inner) = Typed::Given;
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Entry({} at {})", self.key.as_str(), self.revision.0)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};

    use super::*;

    fn config_map() -> ConfigMap {
        ConfigMap {
            metadata: ObjectMeta {
                name: Some("settings".into()),
                namespace: Some("shop".into()),
                uid: Some("u-1".into()),
                generation: Some(3),
                resource_version: Some("999".into()),
                labels: Some([("app".to_owned(), "front".to_owned())].into()),
                finalizers: Some(vec!["a/b".into()]),
                creation_timestamp: Some(Time("2026-01-02T03:04:05Z".parse().unwrap())),
                ..Default::default()
            },
            data: Some([("metadata".to_owned(), "{\"resourceVersion\":\"1\"}".to_owned())].into()),
            ..Default::default()
        }
    }

    fn key() -> Key {
        Key::new("configmaps", "shop", "settings")
    }

    #[test]
    fn objects_with_the_same_labels_and_owners_share_them() {
        let meta = |name: &str, app: &str| {
            let json = format!(r#"{{"name":"{name}","labels":{{"app":"{app}"}}}}"#);
            Meta::decode(json.as_bytes()).unwrap()
        };
        let (one, other, odd) = (meta("a", "x"), meta("b", "x"), meta("c", "y"));
        assert!(
            Arc::ptr_eq(&one.labels, &other.labels)
                && Arc::ptr_eq(&one.owner_references, &odd.owner_references)
        );
        assert_eq!((&*odd.labels["app"], &*one.labels["app"]), ("y", "x"));
        // Whatever came between, the values are right.
        for number in 0..100 {
            assert_eq!(meta("d", &number.to_string()).labels["app"], number.to_string());
        }
        assert_eq!(meta("e", "x").labels, one.labels);
    }

    #[test]
    fn an_entry_is_the_canonical_serialization_at_its_revision() {
        let mut object = config_map();
        let entry = Entry::new(key(), Revision(17), &Draft::new(&object).unwrap());
        object.metadata.resource_version = Some("17".into());
        assert_eq!(entry.json, serde_json::to_vec(&object).unwrap());
        assert_eq!(*entry.typed::<ConfigMap>().unwrap(), object);
    }

    #[test]
    fn a_typed_object_and_its_json_value_make_the_same_draft() {
        let object = config_map();
        let typed = Draft::new(&object).unwrap();
        let untyped = Draft::from_value(&serde_json::to_value(&object).unwrap()).unwrap();
        let as_value = |draft: &Draft| {
            let entry = Entry::new(key(), Revision(5), draft);
            serde_json::from_slice::<serde_json::Value>(&entry.json).unwrap()
        };
        assert_eq!(as_value(&typed), as_value(&untyped));
        assert_eq!(typed.meta, untyped.meta);
    }

    #[test]
    fn metadata_is_decoded() {
        let meta = Draft::new(&config_map()).unwrap().meta;
        assert_eq!((&*meta.name, &*meta.namespace, &*meta.uid), ("settings", "shop", "u-1"));
        assert_eq!((meta.generation, &*meta.labels["app"]), (Some(3), "front"));
        assert_eq!(meta.finalizers, ["a/b"]);
        assert_eq!(meta.creation_timestamp, Some("2026-01-02T03:04:05Z".parse().unwrap()));
        assert_eq!(meta.deletion_timestamp, None);
    }

    #[test]
    fn managers_are_in_the_json_and_not_in_the_typed_object() {
        let managers = br#"[{"manager":"kubectl"}]"#;
        let mut object = config_map();
        let draft = Draft::new(&object).unwrap().with_managed_fields(managers);
        let entry = Entry::new(key(), Revision(17), &draft);
        assert_eq!(entry.managed_fields(), Some(&managers[..]));
        object.metadata.resource_version = Some("17".into());
        assert_eq!(entry.plain_json(), serde_json::to_vec(&object).unwrap());
        assert_eq!(*entry.typed::<ConfigMap>().unwrap(), object);
        object.metadata.managed_fields = Some(serde_json::from_slice(managers).expect("managers"));
        assert_eq!(entry.json, serde_json::to_vec(&object).unwrap());
        assert_eq!(entry.at(Revision(18)).managed_fields(), Some(&managers[..]));
        let bare = Draft::new(&ConfigMap::default()).unwrap().with_managed_fields(managers);
        let bare = Entry::new(key(), Revision(1), &bare);
        assert!(
            bare.json
                .ends_with(br#""metadata":{"managedFields":[{"manager":"kubectl"}],"resourceVersion":"1"}}"#)
        );
    }

    #[test]
    fn metadata_of_wrong_type_makes_no_draft() {
        let value = serde_json::json!({"metadata": {"finalizers": "none"}});
        assert!(Draft::from_value(&value).is_err());
    }

    #[test]
    fn a_value_without_metadata_is_stored_as_it_is() {
        let draft = Draft::from_value(&serde_json::json!({"port": 30000})).unwrap();
        let entry = Entry::new(key(), Revision(2), &draft);
        assert_eq!(entry.json, r#"{"port":30000}"#);
        assert_eq!(entry.at(Revision(3)).json, entry.json);
    }

    #[test]
    fn the_typed_object_is_decoded_once() {
        let entry = Entry::new(key(), Revision(1), &Draft::new(&config_map()).unwrap());
        let (first, second) = (entry.typed::<ConfigMap>().unwrap(), entry.typed::<ConfigMap>().unwrap());
        assert!(Arc::ptr_eq(&first, &second));
        entry.forget_typed();
        assert_eq!(entry.typed::<ConfigMap>().unwrap(), first);
    }

    #[test]
    fn an_object_that_nobody_asked_for_since_the_last_look_is_let_go() {
        let entry = Entry::new(key(), Revision(1), &Draft::new(&config_map()).unwrap());
        let first = entry.typed::<ConfigMap>().unwrap();
        entry.let_idle_go();
        assert!(Arc::ptr_eq(&first, &entry.typed::<ConfigMap>().unwrap()), "it was in use");
        entry.let_idle_go();
        entry.let_idle_go();
        assert_eq!(Arc::strong_count(&first), 1);
        let second = entry.typed::<ConfigMap>().unwrap();
        assert!(Arc::ptr_eq(&second, &entry.typed::<ConfigMap>().unwrap()), "it is kept again");
    }

    #[test]
    fn an_entry_at_another_revision_differs_in_nothing_else() {
        let entry = Entry::new(key(), Revision(99), &Draft::new(&config_map()).unwrap());
        let later = entry.at(Revision(100));
        let mut object = (*entry.typed::<ConfigMap>().unwrap()).clone();
        object.metadata.resource_version = Some("100".into());
        assert_eq!(later.json, serde_json::to_vec(&object).unwrap());
        assert_eq!(later.at(Revision(99)).json, entry.json);
    }

    #[test]
    fn a_stored_entry_is_the_same_again() {
        let entry = Entry::new(key(), Revision(7), &Draft::new(&config_map()).unwrap());
        let again = Entry::stored(key(), Revision(7), entry.revision_at, entry.json.clone()).unwrap();
        assert_eq!((&again.meta, &again.json), (&entry.meta, &entry.json));
    }
}
