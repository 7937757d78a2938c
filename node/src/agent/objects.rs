//! ConfigMaps, Secrets and RuntimeClasses, fetched when a pod needs them and kept for a moment.
//!
//! A thousand pods that start together with the same ConfigMap cost one request. There is no watch per object: a node
//! may only see the objects that its pods name.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use k8s_openapi::api::{
    core::v1::{ConfigMap, Secret},
    node::v1::RuntimeClass,
};
use naru_model::pod::RUNTIME_HANDLERS;

use super::{
    cluster::{Cluster, ClusterError, ClusterResult},
    identity::PodIdentity,
};

/// For a starting container: young enough not to surprise whoever has just changed the object.
pub const FRESH: Duration = Duration::from_millis(500);
/// For refreshing what is mounted.
pub const RECENT: Duration = Duration::from_secs(5);
const FORGET_AFTER: Duration = Duration::from_mins(2);
const SWEEP_ABOVE: usize = 1024;

pub struct Objects {
    cluster: Arc<dyn Cluster>,
    config_maps: Cache<ConfigMap>,
    secrets: Cache<Secret>,
    runtime_classes: Cache<RuntimeClass>,
}

type Slot<T> = Arc<tokio::sync::Mutex<Option<(Instant, ClusterResult<Arc<T>>)>>>;
/// By namespace and name, with the time of its last use.
type Slots<T> = HashMap<(String, String), (Instant, Slot<T>)>;

struct Cache<T> {
    /// Held for a few lines; the slot's own lock is what waits for the API, so each object is fetched once at a time.
    slots: Mutex<Slots<T>>,
}

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Self { slots: Mutex::default() }
    }
}

impl<T> Cache<T> {
    fn slot(&self, namespace: &str, name: &str) -> Slot<T> {
        let mut slots = self.slots.lock().expect("no one panics holding it");
        let now = Instant::now();
        if slots.len() > SWEEP_ABOVE {
            slots.retain(|_, (used, _)| now.duration_since(*used) < FORGET_AFTER);
        }
        let entry = slots.entry((namespace.into(), name.into())).or_insert_with(|| (now, Slot::default()));
        entry.0 = now;
        entry.1.clone()
    }

    async fn get(
        &self,
        (namespace, name): (&str, &str),
        max_age: Duration,
        fetch: impl Future<Output = ClusterResult<T>>,
    ) -> ClusterResult<Arc<T>> {
        let slot = self.slot(namespace, name);
        let mut slot = slot.lock().await;
        if let Some((at, result)) = &*slot
            && at.elapsed() <= max_age
        {
            return result.clone();
        }
        let result = fetch.await.map(Arc::new);
        *slot = Some((Instant::now(), result.clone()));
        result
    }
}

impl Objects {
    pub fn new(cluster: Arc<dyn Cluster>) -> Self {
        Self {
            cluster,
            config_maps: Cache::default(),
            secrets: Cache::default(),
            runtime_classes: Cache::default(),
        }
    }

    pub async fn config_map(
        &self,
        namespace: &str,
        name: &str,
        max_age: Duration,
    ) -> ClusterResult<Arc<ConfigMap>> {
        let fetch = self.cluster.config_map(namespace, name);
        let result = self.config_maps.get((namespace, name), max_age, fetch).await;
        result.map_err(|error| as_kubelet(error, "configmap", name))
    }

    /// A new token of `account`, bound to `pod`.
    pub async fn account_token(
        &self,
        pod: &PodIdentity,
        account: &str,
        audience: Option<&str>,
        seconds: i64,
    ) -> ClusterResult<String> {
        self.cluster.account_token(pod, account, audience, seconds).await
    }

    pub async fn secret(&self, namespace: &str, name: &str, max_age: Duration) -> ClusterResult<Arc<Secret>> {
        let fetch = self.cluster.secret(namespace, name);
        let result = self.secrets.get((namespace, name), max_age, fetch).await;
        result.map_err(|error| as_kubelet(error, "secret", name))
    }

    /// The runtime's handler for pods of the class: what its object says, unless the name is one of those that need no
    /// object.
    pub async fn runtime_handler(&self, class: &str) -> ClusterResult<String> {
        if class.is_empty() || RUNTIME_HANDLERS.contains(&class) {
            return Ok(class.to_owned());
        }
        let fetch = self.cluster.runtime_class(class);
        let result = self.runtime_classes.get(("", class), RECENT, fetch).await;
        let found = result.map_err(|error| as_kubelet(error, "RuntimeClass", class))?;
        Ok(found.handler.clone())
    }
}

/// The kubelet names the missing object by its kind, not its resource.
fn as_kubelet(error: ClusterError, kind: &str, name: &str) -> ClusterError {
    match error {
        ClusterError::NotFound(_) => ClusterError::NotFound(format!("{kind} {name:?} not found")),
        other => other,
    }
}
