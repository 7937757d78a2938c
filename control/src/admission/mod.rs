//! What is added to, or refused of, a write beyond the rules of its kind.
//!
//! Built in: namespaces must exist and live (`lifecycle`), roles give no more than their writer holds (`rbac`), agents
//! write what is their node's (`nodes`), certificates are asked for, approved and signed by who may (`certificates`),
//! pods get their account and its token (`service_account`), a priority (`priority`) and default tolerations (`pods`).
//! Then come the plugins of `chain`. What a write uses of its namespace's quotas is charged with it (`quota`).

mod certificates;
mod chain;
mod ingress;
mod lifecycle;
mod limit_ranger;
pub mod matching;
mod node_taint;
mod nodes;
mod pod_security;
mod pods;
mod priority;
pub mod quota;
mod rbac;
mod runtime_class;
mod service_account;
pub mod storage;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use naru_model::Object;
use tokio::sync::MutexGuard;

use crate::{
    ApiError,
    auth::Authorizer,
    registry::{AnyObject, Call, Part},
    store::{Scope, Snapshot, Store},
};
use chain::Write;

/// The chain that every write passes after defaulting and before validation.
pub struct Admission {
    authorizer: Arc<Authorizer>,
    turns: quota::Turns,
}

impl Admission {
    pub fn new(authorizer: Arc<Authorizer>) -> Self {
        Self { authorizer, turns: quota::Turns::default() }
    }

    /// A turn to create something in a namespace with quotas, to be held until it is stored.
    pub async fn turn(&self, view: &Snapshot, call: &Call<'_>) -> Option<MutexGuard<'_, ()>> {
        self.turns.take(view, call).await
    }

    pub async fn admit_create(
        &self,
        store: &Store,
        call: &Call<'_>,
        object: &mut dyn AnyObject,
    ) -> Result<(), ApiError> {
        lifecycle::admit(store, call, object)?;
        rbac::admit(store, &self.authorizer, call, object, None)?;
        nodes::admit_create(call, object)?;
        certificates::admit_create(call, object)?;
        certificates::admit_bundle(&self.authorizer, call, object)?;
        priority::of_class(store, call, object)?;
        if let Some(pod) = object.get_mut::<Pod>() {
            service_account::admit(store, call, pod).await?;
            pods::admit_create(store, call, pod)?;
        }
        chain::mutate(&Write { call, part: Part::Whole, view: &store.snapshot(), old: None }, object)
    }

    pub fn admit_update(
        &self,
        store: &Store,
        call: &Call<'_>,
        part: Part,
        new: &mut dyn AnyObject,
        old: &dyn AnyObject,
    ) -> Result<(), ApiError> {
        nodes::admit_update(call, part, new, old)?;
        certificates::admit_update(&self.authorizer, call, part, new, old)?;
        if matches!(part, Part::Whole | Part::Scale) {
            certificates::admit_bundle(&self.authorizer, call, new)?;
            rbac::admit(store, &self.authorizer, call, new, Some(old))?;
            priority::of_class(store, call, new)?;
            if let Some(pod) = new.get_mut::<Pod>() {
                pods::add_default_tolerations(pod);
            }
        }
        chain::mutate(&Write { call, part, view: &store.snapshot(), old: Some(old) }, new)
    }

    /// What is looked at when everything is known of the object: after validation. `old` is the state that an update
    /// replaces. Texts for `Warning` headers are added to `warnings`.
    pub fn validate(
        &self,
        store: &Store,
        call: &Call<'_>,
        part: Part,
        new: &dyn AnyObject,
        old: Option<&dyn AnyObject>,
        warnings: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        chain::validate(&Write { call, part, view: &store.snapshot(), old }, new, warnings)
    }

    pub fn admit_delete(&self, call: &Call<'_>, object: &dyn AnyObject) -> Result<(), ApiError> {
        nodes::admit_delete(call, object)
    }
}

/// `pods "web" is forbidden: MESSAGE`
fn refused(call: &Call<'_>, name: &str, message: String) -> ApiError {
    let resource = call.served.qualified.clone();
    ApiError::Refused { resource, name: name.into(), message, causes: Vec::new() }
}

/// The class that one of `annotations` makes the default; of several, the newest.
fn default_class<T: Object>(view: &Snapshot, resource: &str, annotations: &[&str]) -> Option<Arc<T>> {
    if !view.holds(resource) {
        return None;
    }
    let is_default = |class: &Arc<T>| {
        let given = class.metadata().annotations.as_ref();
        annotations
            .iter()
            .any(|name| given.and_then(|given| given.get(*name)).is_some_and(|value| value == "true"))
    };
    let classes = view.list::<T>(&Scope::all(resource)).into_iter().rev().filter(is_default);
    let created = |class: &Arc<T>| class.metadata().creation_timestamp.as_ref().map(|time| time.0);
    // In the order of names, and of equally new ones the first.
    classes.max_by_key(created)
}
