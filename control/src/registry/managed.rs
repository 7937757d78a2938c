//! Who owns which field of an object: `metadata.managedFields` on the generic path.
//!
//! Typed objects never hold it: it is kept as text beside them, read only when somebody else's fields may change
//! hands, and put into the JSON that is stored.

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry, jiff::Timestamp};
use naru_model::apply::{Fields, ManagedFields, Tree, Writer};
use serde_json::Value;

use super::{AnyObject, Call, Part, alike::Asked};
use crate::{ApiError, store::Entry};

/// What a write does to the object's managers.
pub(super) enum Owners {
    /// Nothing: the server's own bookkeeping has no manager.
    Kept,
    /// What the write changes becomes its manager's.
    Updated { part: Part, sent: Option<Vec<ManagedFieldsEntry>> },
    /// Somebody worked it out before.
    Given(ManagedFields),
    /// The same, as JSON.
    Settled(Option<String>),
}

impl Call<'_> {
    pub(super) fn writer<'a>(&'a self, part: Part, time: &'a str) -> Writer<'a> {
        Writer {
            manager: self.manager,
            api_version: &self.served.api_version,
            subresource: part.subresource(),
            time,
        }
    }

    /// What writes to `part` do not own.
    pub(super) fn ignored(&self, part: Part) -> Fields {
        Fields::of_paths(self.served.kind.reset_fields(part.subresource()).iter().copied())
    }
}

/// The field manager as which Kubernetes' component with this user's name is known.
pub(super) fn component(user: &str) -> &str {
    if user.starts_with("system:serviceaccount:kube-system:") {
        return "kube-controller-manager";
    }
    match user.strip_prefix("system:") {
        Some("apiserver") => "kube-apiserver",
        name => name.unwrap_or(user),
    }
}

/// A time as managers show it.
pub(super) fn time(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `metadata.managedFields` of an object that is about to be created, as JSON: whoever creates it owns all of it. To be
/// asked for before admission, as nobody owns what that adds.
pub(super) fn of_created(
    call: &Call<'_>,
    object: &dyn AnyObject,
    now: Timestamp,
) -> Result<Option<String>, ApiError> {
    let json = object.to_json().map_err(|error| ApiError::Internal(error.to_string()))?;
    Asked::new(call, json, time(now)).answer(|asked| {
        let mut managers = ManagedFields::default();
        let writer = call.writer(Part::Whole, &asked.time);
        let ignored = call.ignored(Part::Whole);
        as_served(call, &asked.object, |new| {
            managers.update(call.served.object_type(), None, new, writer, &ignored);
        })?;
        Ok(managers.to_json())
    })
}

impl Owners {
    /// Whether the object's managers stay as they are, given that nothing else changes.
    pub fn are_same(&self, entry: &Entry) -> bool {
        let live = || stored(entry).unwrap_or_default();
        match self {
            Self::Kept | Self::Updated { sent: None, .. } => true,
            Self::Updated { part, sent: Some(sent) } => {
                base(entry, *part, Some(sent)).unwrap_or_default().is_same_but_for_times(&live())
            }
            Self::Given(managers) => managers.is_same_but_for_times(&live()),
            Self::Settled(json) => {
                let managers = json.as_ref().and_then(|json| ManagedFields::parse(json.as_bytes()));
                managers.unwrap_or_default().is_same_but_for_times(&live())
            }
        }
    }

    /// What the write would do had nobody changed the state that was asked for, whose JSON is `asked`.
    pub fn of_request(
        self,
        call: &Call<'_>,
        entry: &Entry,
        asked: &[u8],
        now: Timestamp,
    ) -> Result<Self, ApiError> {
        self.settle(call, entry, asked, now).map(Self::Settled)
    }

    /// `metadata.managedFields` of the new state, whose JSON is `new`, as JSON.
    pub fn settle(
        self,
        call: &Call<'_>,
        entry: &Entry,
        new: &[u8],
        now: Timestamp,
    ) -> Result<Option<String>, ApiError> {
        match self {
            Self::Kept => Ok(entry.managed_fields().map(|json| String::from_utf8_lossy(json).into_owned())),
            Self::Given(managers) => Ok(managers.to_json()),
            Self::Settled(json) => Ok(json),
            Self::Updated { part, sent } => {
                let mut managers = base(entry, part, sent.as_deref()).unwrap_or_default();
                // An object without managers gets them when somebody applies.
                if managers.is_empty() {
                    return Ok(None);
                }
                let (time, ignored) = (time(now), call.ignored(part));
                let writer = call.writer(part, &time);
                as_served(call, &entry.plain_json(), |old| {
                    as_served(call, new, |new| {
                        managers.update(call.served.object_type(), Some(old), new, writer, &ignored);
                    })
                })??;
                Ok(managers.to_json())
            }
        }
    }
}

/// The managers of a stored object; `None` where it has none, or none that can be read.
pub(super) fn stored(entry: &Entry) -> Option<ManagedFields> {
    entry.managed_fields().and_then(ManagedFields::parse)
}

/// The managers before a write: those that the client sent, for it may clear or edit them, else those stored.
/// An empty list, or one empty entry, clears them.
fn base(entry: &Entry, part: Part, sent: Option<&[ManagedFieldsEntry]>) -> Option<ManagedFields> {
    match sent.filter(|_| part == Part::Whole) {
        None => stored(entry),
        Some([]) => None,
        Some([only]) if *only == ManagedFieldsEntry::default() => None,
        Some(sent) => {
            let json = serde_json::to_vec(sent).unwrap_or_default();
            ManagedFields::parse(&json).filter(|managers| !managers.is_empty()).or_else(|| stored(entry))
        }
    }
}

/// Hands `see` the object in the shape in which the client knows it.
fn as_served<T>(call: &Call<'_>, json: &[u8], see: impl FnOnce(&Tree<'_>) -> T) -> Result<T, ApiError> {
    let internal = |error: serde_json::Error| ApiError::Internal(error.to_string());
    match call.served.conversion {
        None => Ok(see(&Tree::parse(json).map_err(internal)?)),
        Some(conversion) => {
            let value: Value = serde_json::from_slice(json).map_err(internal)?;
            Ok(see(&Tree::from(&(conversion.to_served)(value))))
        }
    }
}
