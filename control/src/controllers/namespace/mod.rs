//! Empties namespaces that are being deleted, and lets go of them when nothing is left.
//!
//! Pods go first, as they may need their configuration to end well; then everything else at once, what other servers
//! serve included. What stays behind its finalizers is named in the namespace's conditions, and so is what cannot be
//! found out: while a server that serves beside this one does not answer, nobody knows what of the namespace is there.

mod conditions;
mod elsewhere; // What other servers keep.
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    api::core::v1::Namespace, jiff::Timestamp, kube_aggregator::pkg::apis::apiregistration::v1::APIService,
};
use naru_model::Object;
use serde_json::json;

use super::{
    common::is_deleting,
    framework::{Action, Cache, Change, ClusterView, Plan, Reconciler, Write, key_of, resource_of},
};
use crate::{
    client::Delete,
    store::{Entry, Key},
};
use elsewhere::{Elsewhere, Emptying};
pub use elsewhere::{Found, OtherServers};

const FINALIZER: &str = "kubernetes";

/// Deletes the contents of namespaces.
pub struct Namespaces {
    /// None where no other server is ever asked.
    elsewhere: Option<Arc<Elsewhere>>,
}

/// What is left of one resource.
struct Remains<'a> {
    resource: &'a str,
    entries: Vec<&'a Arc<Entry>>,
}

impl Namespaces {
    pub fn new(servers: Option<Arc<dyn OtherServers>>) -> Self {
        Self { elsewhere: servers.map(|servers| Elsewhere::new(servers, Timestamp::now)) }
    }

    /// What other servers keep in the namespace; where that must be asked first, `plan` does so when nothing is left
    /// to delete here before it (`is_due`), and `None` is answered.
    fn found_elsewhere(
        &self,
        namespace: &Namespace,
        view: &ClusterView<'_>,
        is_due: bool,
        plan: &mut Plan,
    ) -> Option<Found> {
        let (Some(elsewhere), versions) = (&self.elsewhere, elsewhere::versions(view.cache)) else {
            return Some(Found::default());
        };
        let undiscovered = versions.iter().filter(|(_, is_available)| !**is_available);
        let mut found =
            Found { undiscovered: undiscovered.map(|(name, _)| name.clone()).collect(), ..Found::default() };
        if versions.is_empty() || !is_due {
            return Some(found);
        }
        let Some(told) = elsewhere.known(namespace.uid(), &versions, view.now) else {
            plan.then([Write::errand(Emptying {
                elsewhere: elsewhere.clone(),
                namespace: namespace.name().into(),
                uid: namespace.uid().into(),
                versions,
            })]);
            plan.look_again(Duration::ZERO);
            return None;
        };
        found.undiscovered.extend(told.undiscovered);
        if !(found.undiscovered.is_empty() && told.failures.is_empty() && told.remaining.is_empty()) {
            // They do not tell when that changes.
            plan.look_again(elsewhere::FRESH.unsigned_abs());
        }
        Some(Found { undiscovered: found.undiscovered, ..told })
    }
}

impl Reconciler for Namespaces {
    type Object = Namespace;

    fn name(&self) -> &'static str {
        "namespace-controller"
    }

    fn concerns(&self, change: &Change<'_>, cache: &Cache, look: &mut dyn FnMut(Key)) {
        if change.is::<APIService>() && self.elsewhere.is_some() {
            let namespaces = cache.entries(&resource_of::<Namespace>(), None);
            let ending = namespaces.filter(|entry| entry.meta.deletion_timestamp.is_some());
            return ending.for_each(|entry| look(entry.key.clone()));
        }
        if change.is::<Namespace>() && change.is_deleted {
            if let Some(elsewhere) = &self.elsewhere {
                elsewhere.forget(&change.entry.meta.uid);
            }
            return;
        }
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
        let has_pods = remains.iter().any(|remains| remains.resource == "pods");
        let mut later = Plan::nothing();
        let found = self.found_elsewhere(namespace, view, !has_pods, &mut later);
        let is_known = found.is_some();
        let found = found.unwrap_or_default();
        if is_known {
            plan.then(conditions::report(namespace, &remains, &found, view.now));
        }
        if remains.is_empty() && is_known && found.is_nothing() {
            let others = finalizers.iter().filter(|finalizer| *finalizer != FINALIZER).collect::<Vec<_>>();
            let patch = json!({"metadata": {"uid": namespace.uid()}, "spec": {"finalizers": others}});
            plan.then([Write::merge_patch(key_of::<Namespace>("", namespace.name()), "finalize", patch)]);
            return plan;
        }
        let due = remains.iter().filter(|remains| !has_pods || remains.resource == "pods");
        let entries = due.flat_map(|remains| &remains.entries);
        plan.then(entries.filter(|entry| entry.meta.deletion_timestamp.is_none()).map(|entry| delete(entry)));
        plan.stages.extend(later.stages);
        if let Some(again) = later.again {
            plan.look_again(again);
        }
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
