//! The decision for one object: is it still wanted, and is it waited for?

use std::sync::Arc;

use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::OwnerReference};
use naru_model::{ResourceInfo, owner::group_version};
use serde_json::json;

use crate::{
    client::Delete,
    controllers::framework::{Action, Cache, Change, ClusterView, Controller, Note, Plan, Report, Write},
    store::{Entry, Key, Meta},
};

pub const FOREGROUND: &str = "foregroundDeletion";
pub const ORPHAN: &str = "orphan";

/// Collects what no owner holds any more. A key is an object of any kind.
pub struct GarbageCollector;

/// What an owner reference points at.
enum Owner<'a> {
    /// It is there, or cannot be judged.
    Solid,
    /// It is there, being deleted, and waits for its dependents.
    Waiting(&'a Arc<Entry>),
    /// Nothing has this uid.
    Absent,
    /// Something has, but where this dependent may not have an owner.
    Misplaced,
}

impl GarbageCollector {
    /// Judges an owner of `entry`.
    fn owner<'a>(entry: &Entry, reference: &OwnerReference, cache: &'a Cache) -> Owner<'a> {
        let (group, _) = group_version(reference);
        let Some((resource, info)) = cache.resource_of_kind(group, &reference.kind) else {
            return Owner::Solid; // A kind that is not served may come back.
        };
        let namespace = if info.namespaced { entry.meta.namespace.as_str() } else { "" };
        let key = Key::new(resource, namespace, &reference.name);
        match cache.entry(&key).filter(|owner| owner.meta.uid == reference.uid) {
            Some(owner) if is_waiting(&owner.meta) => Owner::Waiting(owner),
            Some(_) => Owner::Solid,
            None if info.namespaced && namespace.is_empty() => Owner::Misplaced,
            None => match cache.by_uid(&reference.uid) {
                Some(other) if other.key.resource() == resource && other.key != key => Owner::Misplaced,
                _ => Owner::Absent,
            },
        }
    }

    /// Decides about an object with owners that is not being deleted.
    fn judge(entry: &Arc<Entry>, cache: &Cache, plan: &mut Plan) {
        let (mut solid, mut waiting, mut dangling) = (Vec::new(), Vec::new(), Vec::new());
        for reference in entry.meta.owner_references.iter() {
            match Self::owner(entry, reference, cache) {
                Owner::Solid => solid.push(reference.clone()),
                Owner::Waiting(owner) => waiting.push((reference.clone(), owner)),
                Owner::Absent => dangling.push(reference.clone()),
                Owner::Misplaced => {
                    dangling.push(reference.clone());
                    plan.then([complain(entry, reference, cache)]);
                }
            }
        }
        if !solid.is_empty() {
            // Somebody still wants it: only the others let go.
            if !dangling.is_empty() || !waiting.is_empty() {
                plan.then([set_owners(entry, &solid)]);
            }
            return;
        }
        let has_dependents = cache.owned_by(&entry.meta.uid).next().is_some();
        let policy = if !waiting.is_empty() && has_dependents {
            // Two that wait for each other would wait for ever.
            let is_circle = |dependent: &&Arc<Entry>| is_waiting(&dependent.meta);
            if cache.owned_by(&entry.meta.uid).any(|dependent| is_circle(&dependent)) {
                plan.then([unblock(entry)]);
            }
            "Foreground"
        } else if has_finalizer(&entry.meta, ORPHAN) {
            "Orphan"
        } else if has_finalizer(&entry.meta, FOREGROUND) {
            "Foreground"
        } else {
            "Background"
        };
        // The owners decided on must be the owners it has: an adoption in between saves it.
        let has_changed_owners = plan
            .stages
            .iter()
            .any(|stage| stage.writes.iter().any(|write| matches!(write.action, Action::Patch { .. })));
        let options = Delete {
            uid: Some(entry.meta.uid.clone()),
            resource_version: (!has_changed_owners).then(|| entry.revision.0.to_string()),
            propagation_policy: Some(policy.into()),
            grace_period_seconds: None,
        };
        plan.then([Action::Delete { key: entry.key.clone(), options }.into()]);
    }
}

impl Controller for GarbageCollector {
    fn name(&self) -> &'static str {
        "generic-garbage-collector"
    }

    fn concerns(&self, change: &Change<'_>, cache: &Cache, look: &mut dyn FnMut(Key)) {
        let meta = &change.entry.meta;
        let is_newly_deleting = meta.deletion_timestamp.is_some()
            && change.previous.is_none_or(|old| old.meta.deletion_timestamp.is_none());
        let has_changed = change.previous.is_none_or(|old| {
            old.meta.owner_references != meta.owner_references || old.meta.finalizers != meta.finalizers
        });
        if change.is_deleted || is_newly_deleting || (has_changed && meta.deletion_timestamp.is_some()) {
            cache.owned_by(&meta.uid).for_each(|dependent| look(dependent.key.clone()));
        }
        let is_collectable = !meta.owner_references.is_empty() || meta.deletion_timestamp.is_some();
        if !change.is_deleted && is_collectable && (has_changed || is_newly_deleting) {
            look(change.entry.key.clone());
        }
        // Owners in deletion may have waited for this.
        if change.is_deleted || has_changed {
            let owners = change.states().flat_map(|state| state.meta.owner_references.iter());
            let owners = owners.filter_map(|owner| cache.by_uid(&owner.uid));
            owners
                .filter(|owner| owner.meta.deletion_timestamp.is_some())
                .for_each(|owner| look(owner.key.clone()));
        }
    }

    fn reconcile(&self, key: &Key, view: &ClusterView<'_>) -> Plan {
        let mut plan = Plan::nothing();
        let Some(entry) = view.cache.entry(key) else { return plan };
        let meta = &entry.meta;
        if meta.deletion_timestamp.is_none() {
            if !meta.owner_references.is_empty() {
                Self::judge(entry, view.cache, &mut plan);
            }
        } else if has_finalizer(meta, FOREGROUND) {
            let is_blocked =
                view.cache.owned_by(&meta.uid).any(|dependent| blocks(&dependent.meta, &meta.uid));
            if !is_blocked {
                plan.then([remove_finalizer(entry, FOREGROUND)]);
            }
        } else if has_finalizer(meta, ORPHAN) {
            plan.then(view.cache.owned_by(&meta.uid).map(|dependent| {
                let others = dependent.meta.owner_references.iter().filter(|owner| owner.uid != meta.uid);
                set_owners(dependent, &others.cloned().collect::<Vec<_>>())
            }));
            plan.then([remove_finalizer(entry, ORPHAN)]);
        }
        plan
    }
}

/// Tells that an owner is not where it says it is.
fn complain(entry: &Entry, reference: &OwnerReference, cache: &Cache) -> Write {
    let info = cache.resource(entry.key.resource());
    let about = ObjectReference {
        api_version: info.map(ResourceInfo::api_version),
        kind: info.map(|info| info.kind.into()),
        namespace: Some(entry.meta.namespace.clone()),
        name: Some(entry.meta.name.clone()),
        uid: Some(entry.meta.uid.clone()),
        ..Default::default()
    };
    let message = format!(
        "ownerRef [{}/{}, namespace: {}, name: {}, uid: {}] does not exist in namespace \"{}\"",
        reference.api_version,
        reference.kind,
        entry.meta.namespace,
        reference.name,
        reference.uid,
        entry.meta.namespace
    );
    let success = Some(Note::warning("OwnerRefInvalidNamespace", message));
    Write::from(Action::Tell).reported(Report { about, success, failure: None })
}

/// Whether the object is being deleted and waits for its dependents.
fn is_waiting(meta: &Meta) -> bool {
    meta.deletion_timestamp.is_some() && has_finalizer(meta, FOREGROUND)
}

fn has_finalizer(meta: &Meta, finalizer: &str) -> bool {
    meta.finalizers.iter().any(|other| other == finalizer)
}

fn blocks(dependent: &Meta, owner_uid: &str) -> bool {
    let mut owners = dependent.owner_references.iter();
    owners.any(|owner| owner.uid == owner_uid && owner.block_owner_deletion == Some(true))
}

/// Replaces the list of owners, if nobody else has changed the object since.
fn set_owners(entry: &Entry, owners: &[OwnerReference]) -> Write {
    let owners = (!owners.is_empty()).then_some(owners);
    let version = entry.revision.0.to_string();
    let metadata = json!({"uid": entry.meta.uid, "resourceVersion": version, "ownerReferences": owners});
    Write::merge_patch(entry.key.clone(), "", json!({"metadata": metadata}))
}

/// The same owners, none of which has to wait for this object any longer.
fn unblock(entry: &Entry) -> Write {
    let mut owners = Vec::clone(&entry.meta.owner_references);
    for owner in &mut owners {
        owner.block_owner_deletion = Some(false);
    }
    set_owners(entry, &owners)
}

fn remove_finalizer(entry: &Entry, finalizer: &str) -> Write {
    let others = entry.meta.finalizers.iter().filter(|other| *other != finalizer).collect::<Vec<_>>();
    let others = (!others.is_empty()).then_some(others);
    let version = entry.revision.0.to_string();
    let metadata = json!({"uid": entry.meta.uid, "resourceVersion": version, "finalizers": others});
    Write::merge_patch(entry.key.clone(), "", json!({"metadata": metadata}))
}
