//! What every controller stands on: watch → key queue → pure `reconcile` → plan → worker.
//!
//! The hub watches every resource once for all controllers and keeps the cache that they decide on; a runner per
//! controller takes keys from its queue, asks the controller for a plan and carries it out through the API.
//!
//! **Invariant:** one worker at a time per key, and a key is looked at again only once the cache has caught up
//! with what the worker wrote for it. So a decision never sees a state older than its own last writes, and no
//! bookkeeping of expectations is needed.
//! **Deliberately absent:** retries inside a plan. A failed write ends the plan, and the key comes back later.

mod cache;
mod events;
mod hub;
mod plan;
mod queue;
mod runner;
#[cfg(test)]
mod tests;

pub use cache::{Cache, Change, Member, controller_of};
pub use events::Recorder;
pub use hub::Hub;
pub use plan::{Action, Errand, Note, Plan, Report, Stage, Write};
pub use runner::{Runner, Settings as RunnerSettings};

use std::{sync::Arc, time::Duration};

use k8s_openapi::jiff::Timestamp;
use naru_model::{Object, PodBrief};

use crate::store::{Entry, Key};

/// What a reconciler may look at: the cache, the time, and how the last attempt at this key went.
#[derive(Clone, Copy)]
pub struct ClusterView<'a> {
    pub cache: &'a Cache,
    pub now: Timestamp,
    /// What the API answered when a write of the last plan for this key failed and the plan wanted it reported.
    pub last_failure: Option<&'a str>,
}

/// A set of keys, and what to do about each: the form that the runner works with.
///
/// Most controllers are a [`Reconciler`] for one kind, wrapped in [`Typed`].
pub trait Controller: Send + Sync + 'static {
    /// The name in events and, with `system:serviceaccount:kube-system:` before it, the user that writes.
    fn name(&self) -> &'static str;

    /// Names the keys that `change` is a reason to look at. Called for every change of every object.
    fn concerns(&self, change: &Change<'_>, cache: &Cache, look: &mut dyn FnMut(Key));

    /// Decides. Pure: the same view gives the same plan.
    fn reconcile(&self, key: &Key, view: &ClusterView<'_>) -> Plan;

    /// The shortest time between two looks at one key. The first look is never delayed; a storm of changes is
    /// taken together.
    fn pace(&self) -> Duration {
        Duration::ZERO
    }

    /// How many keys are worked on at once.
    fn concurrency(&self) -> usize {
        8
    }
}

/// Decides what should change for one kind of object.
///
/// Pure: the same object and view always give the same plan. It never awaits or writes, and takes the time from
/// the view; the worker that called it carries the plan out.
pub trait Reconciler: Send + Sync + 'static {
    type Object: Object;

    fn name(&self) -> &'static str;

    fn reconcile(&self, object: &Self::Object, view: &ClusterView<'_>) -> Plan;

    /// Keys of this kind that a change of another object is a reason to look at.
    fn concerns(&self, _change: &Change<'_>, _cache: &Cache, _look: &mut dyn FnMut(Key)) {}

    fn pace(&self) -> Duration {
        Duration::ZERO
    }
}

/// A [`Reconciler`] as a [`Controller`]: every change of an object of its kind is a reason to look at it.
pub struct Typed<R>(pub R);

impl<R: Reconciler> Controller for Typed<R> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn concerns(&self, change: &Change<'_>, cache: &Cache, look: &mut dyn FnMut(Key)) {
        if change.is::<R::Object>() {
            look(change.entry.key.clone());
        }
        self.0.concerns(change, cache, look);
    }

    fn reconcile(&self, key: &Key, view: &ClusterView<'_>) -> Plan {
        match view.cache.entry(key).and_then(decoded::<R::Object>) {
            Some(object) => self.0.reconcile(&object, view),
            None => Plan::nothing(),
        }
    }

    fn pace(&self) -> Duration {
        self.0.pace()
    }
}

/// The entry's object, or `None` (and a line in the log) where it does not decode.
pub fn decoded<T: Object>(entry: &Arc<Entry>) -> Option<Arc<T>> {
    entry
        .typed::<T>()
        .inspect_err(|error| tracing::error!(key = entry.key.as_str(), %error, "an object does not decode"))
        .ok()
}

/// What controllers look at in every pod, or `None` (and a line in the log) where the pod does not decode.
pub fn brief(pod: &Entry) -> Option<Arc<PodBrief>> {
    pod.brief::<PodBrief>()
        .inspect_err(|error| tracing::error!(key = pod.key.as_str(), %error, "a pod does not decode"))
        .ok()
}

/// The name under which objects of type `T` are stored: `pods`, `deployments.apps`.
pub fn resource_of<T: Object>() -> String {
    if T::GROUP.is_empty() {
        T::URL_PATH_SEGMENT.into()
    } else {
        format!("{}.{}", T::URL_PATH_SEGMENT, T::GROUP)
    }
}

/// The key of an object of type `T`.
pub fn key_of<T: Object>(namespace: &str, name: &str) -> Key {
    Key::new(&resource_of::<T>(), namespace, name)
}
