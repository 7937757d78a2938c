//! Empties namespaces that are being deleted, and lets go of them when nothing is left.
//!
//! Pods go first, as they may need their configuration to end well; then everything else at once. What stays
//! behind its finalizers is named in the namespace's conditions.

mod conditions;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Namespace;
use naru_model::Object;
use serde_json::json;

use super::{
    common::is_deleting,
    framework::{Action, Cache, Change, ClusterView, Plan, Reconciler, Write, key_of},
};
use crate::{
    client::Delete,
    store::{Entry, Key},
};

const FINALIZER: &str = "kubernetes";

/// Deletes the contents of namespaces.
pub struct Namespaces;

/// What is left of one resource.
struct Remains<'a> {
    resource: &'a str,
    entries: Vec<&'a Arc<Entry>>,
}

impl Reconciler for Namespaces {
    type Object = Namespace;

    fn name(&self) -> &'static str {
        "namespace-controller"
    }

    fn concerns(&self, change: &Change<'_>, cache: &Cache, look: &mut dyn FnMut(Key)) {
        let namespace = change.entry.key.namespace();
        if namespace.is_empty() {
            return;
        }
        let key = key_of::<Namespace>("", namespace);
        if cache.entry(&key).is_some_and(|entry| entry.meta.deletion_timestamp.is_some()) {
            look(key);
        }
    }

    fn reconcile(&self, namespace: &Namespace, view: &ClusterView<'_>) -> Plan {
        let mut plan = Plan::nothing();
        let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.clone()).unwrap_or_default();
        if !is_deleting(namespace) || !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
            return plan;
        }
        let remains = remains(namespace.name(), view.cache);
        plan.then(conditions::report(namespace, &remains, view.now));
        if remains.is_empty() {
            let others = finalizers.iter().filter(|finalizer| *finalizer != FINALIZER).collect::<Vec<_>>();
            let patch = json!({"metadata": {"uid": namespace.uid()}, "spec": {"finalizers": others}});
            plan.then([Write::merge_patch(key_of::<Namespace>("", namespace.name()), "finalize", patch)]);
            return plan;
        }
        let has_pods = remains.iter().any(|remains| remains.resource == "pods");
        let due = remains.iter().filter(|remains| !has_pods || remains.resource == "pods");
        let entries = due.flat_map(|remains| &remains.entries);
        plan.then(entries.filter(|entry| entry.meta.deletion_timestamp.is_none()).map(|entry| delete(entry)));
        plan
    }

    fn pace(&self) -> Duration {
        Duration::from_millis(20)
    }
}

fn remains<'a>(namespace: &str, cache: &'a Cache) -> Vec<Remains<'a>> {
    let namespaced = cache.resources().filter(|(_, info)| info.namespaced);
    let remains = namespaced.map(|(resource, _)| Remains {
        resource,
        entries: cache.entries(resource, Some(namespace)).collect(),
    });
    remains.filter(|remains| !remains.entries.is_empty()).collect()
}

fn delete(entry: &Entry) -> Write {
    let options = Delete {
        uid: Some(entry.meta.uid.clone()),
        propagation_policy: Some("Background".into()),
        ..Delete::default()
    };
    Action::Delete { key: entry.key.clone(), options }.into()
}
