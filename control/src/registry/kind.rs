//! The trait that a kind implements. Every method has a default that is right for a plain object.

use k8s_openapi::{Metadata as _, jiff::Timestamp};
use naru_model::{Object, ResourceInfo, apply::ObjectType, validation::FieldErrors};
use serde_json::Value;

use super::allocation::{Claim, Pools};
use crate::store::{Entry, Snapshot};

/// A printer column of `kubectl get`.
#[derive(Debug, Clone, Copy)]
pub struct ColumnOf<'a> {
    pub name: &'a str,
    /// `string`, `integer`, …
    pub kind: &'a str,
    /// `name` for the first column, else "".
    pub format: &'a str,
    /// 0 is always shown, 1 only with `-o wide`.
    pub priority: i32,
    pub description: &'a str,
}

/// A column of a kind that is built in.
pub type Column = ColumnOf<'static>;

/// The scale of an object: the `scale` subresource.
#[derive(Debug, Clone, Default)]
pub struct Scale {
    pub spec_replicas: i32,
    pub status_replicas: i32,
    /// The label selector as text.
    pub selector: String,
}

/// What a kind's hooks may look at beside the object itself. Uids and times are chosen by the caller.
pub struct Context<'a> {
    pub now: Timestamp,
    /// Other objects as they were when the request came in.
    pub view: &'a Snapshot,
}

/// What is special about one kind.
///
/// All hooks are pure. The generic path calls, for a create: `default` → `prepare_create` → admission →
/// `validate` → `claims` → store; for an update: `default` → `prepare_update` → admission → `validate` →
/// `validate_update` → `claims` → store; for an update of `status`: `prepare_status_update` →
/// `validate_status_update` → store. Metadata rules (names, immutable uid, generation, …) are the generic path's.
pub trait Kind: Send + Sync + 'static {
    type Object: Object + schemars::JsonSchema;

    fn resource(&self) -> &'static ResourceInfo;

    /// Fills in what the client left out, as Kubernetes' defaulting does. Idempotent.
    fn default(&self, _object: &mut Self::Object) {}

    /// Drops what a client may not set on create (`status`), and sets what only the server knows.
    fn prepare_create(&self, _object: &mut Self::Object, _context: &Context<'_>) {}

    /// Carries over from `old` what an update may not touch (`status`, immutable server-set fields).
    fn prepare_update(&self, _new: &mut Self::Object, _old: &Self::Object, _context: &Context<'_>) {}

    /// Carries over from `old` all but `status`; metadata other than labels, annotations, finalizers and owners
    /// is carried over by the generic path.
    fn prepare_status_update(&self, _new: &mut Self::Object, _old: &Self::Object, _context: &Context<'_>) {}

    /// The same for an update of `approval`: only certificate signing requests have one.
    fn prepare_approval_update(&self, _new: &mut Self::Object, _old: &Self::Object, _context: &Context<'_>) {}

    /// Name rule: pushes errors for `metadata.name`. The default is a DNS-1123 subdomain.
    fn validate_name(&self, name: &str, errors: &mut FieldErrors) {
        naru_model::validation::dns1123_subdomain_name(name, errors);
    }

    fn validate(&self, _object: &Self::Object, _errors: &mut FieldErrors) {}

    /// Rules for new objects only, after `validate`.
    fn validate_create(&self, _object: &Self::Object, _errors: &mut FieldErrors) {}

    fn validate_update(&self, _new: &Self::Object, _old: &Self::Object, _errors: &mut FieldErrors) {}

    fn validate_status_update(&self, _new: &Self::Object, _old: &Self::Object, _errors: &mut FieldErrors) {}

    /// Carries over from `old` all but what an update of the subresource `part` may change of the spec.
    fn prepare_part_update(&self, _part: &str, _new: &mut Self::Object, _old: &Self::Object) {}

    fn validate_part_update(
        &self,
        _part: &str,
        _new: &Self::Object,
        _old: &Self::Object,
        _errors: &mut FieldErrors,
    ) {
    }

    /// What every request for this kind is warned of: that it is deprecated, since when, and what to use instead.
    fn deprecation(&self) -> Option<&str> {
        None
    }

    /// Texts for `Warning` headers.
    fn warnings(&self, _object: &Self::Object) -> Vec<String> {
        Vec::new()
    }

    /// Whether `metadata.generation` grows with this update: a change of what the user asked for.
    fn is_spec_changed(&self, new: &Self::Object, old: &Self::Object) -> bool {
        let (new, old) = (serde_json::to_value(new), serde_json::to_value(old));
        match (new, old) {
            (Ok(new), Ok(old)) => new.get("spec") != old.get("spec"),
            _ => true,
        }
    }

    /// Whether objects of this kind carry `metadata.generation` at all.
    fn has_generation(&self) -> bool {
        true
    }

    /// Whether `allocate` does anything.
    fn allocates(&self) -> bool {
        false
    }

    /// Takes what only the cluster can give (service addresses, node ports), after validation. `old` is the state
    /// before an update. What is taken must show in `claims`; a clash with another writer repeats the call.
    fn allocate(
        &self,
        _new: &mut Self::Object,
        _old: Option<&Self::Object>,
        _pools: &Pools<'_>,
        _errors: &mut FieldErrors,
    ) {
    }

    /// The entries that guard what the object holds. They are written, kept and removed with it, atomically.
    fn claims(&self, _object: &Self::Object) -> Vec<Claim> {
        Vec::new()
    }

    /// Whether a PUT of an object that does not exist creates it.
    fn allows_create_on_update(&self) -> bool {
        false
    }

    /// Whether a PUT must say which `resourceVersion` it replaces.
    fn requires_resource_version(&self) -> bool {
        false
    }

    /// What server-side apply knows of the type, for kinds that are not built into Kubernetes.
    fn object_type(&self) -> Option<ObjectType> {
        None
    }

    /// The fields, as `metadata.labels`, that a write to the object ("") or a subresource of it drops, and that its
    /// writer therefore does not own.
    fn reset_fields(&self, subresource: &str) -> &'static [&'static str] {
        match subresource {
            "" if self.resource().subresources.contains(&"status") => &["status"],
            "status" => &["spec"],
            _ => &[],
        }
    }

    /// What else changes when the object's deletion begins (a namespace's phase).
    fn mark_deleting(&self, _object: &mut Self::Object) {}

    /// Whether something beside `metadata.finalizers` keeps a deleted object (a namespace's `spec.finalizers`).
    fn is_held(&self, _object: &Self::Object) -> bool {
        false
    }

    /// Whether the answer to a deletion is the object's last state; of most kinds it is a `Status`. Typed clients decode
    /// what the OpenAPI document says it is, which goes by this, too.
    fn answers_deleted(&self) -> bool {
        false
    }

    /// Whether dependents stay when a deletion does not say what becomes of them.
    fn orphans_by_default(&self) -> bool {
        false
    }

    /// Columns beyond `Name` and `Age`; `columns` and `row` have the same length.
    fn columns(&self) -> &'static [Column] {
        &[
            Column {
                name: "Name",
                kind: "string",
                format: "name",
                priority: 0,
                description: "Name must be unique within a namespace.",
            },
            Column {
                name: "Age",
                kind: "string",
                format: "",
                priority: 0,
                description: "Time since creation.",
            },
        ]
    }

    /// One table row, in the order of `columns`.
    fn row(&self, object: &Self::Object, now: Timestamp) -> Vec<Value> {
        vec![
            object.name().into(),
            crate::registry::kind::age(object.metadata().creation_timestamp.as_ref(), now).into(),
        ]
    }

    /// The fields that `fieldSelector` knows beside `metadata.name` and `metadata.namespace`.
    fn field_names(&self) -> &'static [&'static str] {
        &[]
    }

    /// The value of one of `field_names`, "" where unset.
    fn field(&self, _object: &Self::Object, _name: &str) -> String {
        String::new()
    }

    /// The same, where it can be told without decoding all of the object: a watcher asks it of every change.
    fn quick_field(&self, _entry: &Entry, _name: &str) -> Option<String> {
        None
    }

    /// The grace period of a delete in seconds when the kind is deleted gracefully: `Some(0)` or `None` deletes
    /// now. `requested` is `deleteOptions.gracePeriodSeconds`. Only pods use it.
    fn grace_period_seconds(&self, _object: &Self::Object, _requested: Option<i64>) -> Option<i64> {
        None
    }

    /// The `scale` subresource, for kinds that serve it.
    fn scale(&self, _object: &Self::Object) -> Option<Scale> {
        None
    }

    fn set_scale(&self, _object: &mut Self::Object, _replicas: i32) {}
}

/// An age as `kubectl` prints it (`5s`, `3m12s`, `4d`), or `<unknown>`.
pub fn age(since: Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>, now: Timestamp) -> String {
    since.map_or_else(|| "<unknown>".into(), |since| naru_model::duration::human(now.duration_since(since.0)))
}
