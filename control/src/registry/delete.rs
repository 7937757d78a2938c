//! Deletion: at once, after a grace period, or when the last finalizer is gone.

use std::sync::Arc;

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::{SignedDuration, Timestamp},
};

use super::{
    Call,
    managed::Owners,
    path::{Outcome, Refusal, Registry, damaged, is_finished, release},
};
use crate::{
    ApiError,
    client::Delete,
    store::{Change, Entry, Op, Precondition, StoreError},
};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
const MAX_ATTEMPTS: usize = 64;

/// What a delete did.
pub enum Deleted {
    /// The object is gone; this was its last state.
    Gone(Arc<Entry>),
    /// The object is still there, with a deletion timestamp.
    Pending(Outcome),
}

impl Registry {
    /// Deletes the object named by `call`, as far as its finalizers and grace period allow now.
    pub async fn delete(&self, call: &Call<'_>, options: &Delete) -> Result<Deleted, ApiError> {
        if call.served.info.group.is_empty() && call.served.info.plural == "namespaces" {
            refuse_immortal(call)?;
        }
        let key = call.key();
        for _ in 0..MAX_ATTEMPTS {
            let entry = self.store().snapshot().get(&key).ok_or_else(|| call.not_found())?;
            check_preconditions(call, options, &entry)?;
            match self.try_delete(call, options, &entry).await {
                Ok(deleted) => return Ok(deleted),
                Err(Refusal::Error(error)) => return Err(error),
                Err(Refusal::Taken | Refusal::Outdated) => (),
            }
        }
        Err(call.modified())
    }

    async fn try_delete(
        &self,
        call: &Call<'_>,
        options: &Delete,
        entry: &Arc<Entry>,
    ) -> Result<Deleted, Refusal> {
        let kind = &call.served.kind;
        let old = kind.load(entry).map_err(|error| damaged(entry, &error))?;
        self.admission().admit_delete(self, call, &*old, options).await?;
        let mut new = old.boxed();
        let now = Timestamp::now();
        let finalizers = finalizers_given(options, new.meta(), kind.orphans_by_default());
        new.meta_mut().finalizers = (!finalizers.is_empty()).then_some(finalizers);
        let grace = grace_period(new.meta(), options, || {
            kind.grace_period_seconds(&*old, options.grace_period_seconds)
        });
        let is_new = new.meta().deletion_timestamp.is_none();
        match grace {
            Grace::Unchanged => (),
            Grace::Seconds(seconds) => {
                set_deadline(new.meta_mut(), now, seconds);
                if is_new {
                    kind.mark_deleting(&mut *new);
                }
            }
        }
        if is_finished(kind.is_held(&*new), new.meta()) {
            if !call.dry_run {
                let key = entry.key.clone();
                let precondition = Precondition::At(entry.revision);
                let mut ops = vec![Op { key, precondition, change: Change::Delete }];
                ops.extend(kind.claims(&*old).into_iter().map(release));
                return match self.store().transact(ops).await {
                    Ok(entries) => {
                        let last = entries.into_iter().next().flatten();
                        Ok(Deleted::Gone(last.unwrap_or_else(|| entry.clone())))
                    }
                    Err(StoreError::Precondition { .. }) => Err(Refusal::Outdated),
                    Err(error) => Err(Refusal::Error(error.into())),
                };
            }
            return Ok(Deleted::Gone(entry.clone()));
        }
        let (json, entry) = self.put(call, entry, &*old, &*new, Owners::Kept, now).await?;
        let is_undecided = kind.orphans_by_default() && options.propagation_policy.is_none();
        call.warn(is_undecided.then(|| orphans_stay(call.served.info.plural)));
        Ok(Deleted::Pending(Outcome { json, entry, is_created: false }))
    }
}

enum Grace {
    /// The deletion that is under way goes on as it is.
    Unchanged,
    /// The object is to be gone in so many seconds.
    Seconds(i64),
}

/// A deletion that is under way may only be shortened.
fn grace_period(meta: &ObjectMeta, options: &Delete, fresh: impl FnOnce() -> Option<i64>) -> Grace {
    if meta.deletion_timestamp.is_none() {
        return Grace::Seconds(fresh().unwrap_or(0).max(0));
    }
    match (meta.deletion_grace_period_seconds, options.grace_period_seconds) {
        (Some(present), Some(asked)) if asked < present => Grace::Seconds(asked.max(0)),
        _ => Grace::Unchanged,
    }
}

fn set_deadline(meta: &mut ObjectMeta, now: Timestamp, seconds: i64) {
    let began = match (&meta.deletion_timestamp, meta.deletion_grace_period_seconds) {
        (Some(deadline), Some(grace)) => deadline.0 - SignedDuration::from_secs(grace),
        _ => now,
    };
    if meta.deletion_timestamp.is_none() {
        meta.generation = meta.generation.map(|generation| generation + 1);
    }
    meta.deletion_timestamp = Some(Time(began + SignedDuration::from_secs(seconds)));
    meta.deletion_grace_period_seconds = Some(seconds);
}

/// The propagation policy is remembered as a finalizer for the garbage collector.
fn finalizers_given(options: &Delete, meta: &ObjectMeta, orphans_by_default: bool) -> Vec<String> {
    let mut finalizers = meta.finalizers.clone().unwrap_or_default();
    let wanted = match options.propagation_policy.as_deref() {
        None => {
            let is_decided =
                finalizers.iter().any(|finalizer| finalizer == ORPHAN || finalizer == FOREGROUND);
            if orphans_by_default && !is_decided && meta.deletion_timestamp.is_none() {
                finalizers.push(ORPHAN.into());
            }
            return finalizers;
        }
        Some("Orphan") => Some(ORPHAN),
        Some("Foreground") => Some(FOREGROUND),
        Some(_) => None,
    };
    finalizers.retain(|finalizer| {
        Some(finalizer.as_str()) == wanted || (finalizer != ORPHAN && finalizer != FOREGROUND)
    });
    // Somebody who asks for a policy when the deletion is under way may still change it, as in Kubernetes.
    if let Some(wanted) = wanted
        && !finalizers.iter().any(|finalizer| finalizer == wanted)
    {
        finalizers.push(wanted.into());
    }
    finalizers
}

fn orphans_stay(plural: &str) -> String {
    format!(
        "child pods are preserved by default when {plural} are deleted; set propagationPolicy=Background to remove them \
         or set propagationPolicy=Orphan to suppress this warning"
    )
}

fn check_preconditions(call: &Call<'_>, options: &Delete, entry: &Entry) -> Result<(), ApiError> {
    if let Some(uid) = &options.uid
        && *uid != entry.meta.uid
    {
        let found = &entry.meta.uid;
        return Err(call.conflict(format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({found}). The object might have been \
             deleted and then recreated"
        )));
    }
    if let Some(version) = &options.resource_version
        && *version != entry.revision.0.to_string()
    {
        let found = entry.revision.0;
        return Err(call.conflict(format!(
            "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ({found}). \
             The object might have been modified"
        )));
    }
    Ok(())
}

/// The namespaces that a cluster cannot be without.
fn refuse_immortal(call: &Call<'_>) -> Result<(), ApiError> {
    if matches!(call.name, "default" | "kube-system" | "kube-public") {
        return Err(ApiError::Refused {
            resource: call.served.qualified.clone(),
            name: call.name.into(),
            message: "this namespace may not be deleted".into(),
            causes: Vec::new(),
        });
    }
    Ok(())
}
