//! What a namespace holds beyond the store: objects that other servers serve in it.
//!
//! Only a conversation with these servers tells, and only it deletes anything there. It is an errand of the
//! controller's plan; what comes of it is kept here for the next look at the namespace.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use futures::future::BoxFuture;
use k8s_openapi::{
    jiff::{SignedDuration, Timestamp},
    kube_aggregator::pkg::apis::apiregistration::v1::APIService,
};

use crate::controllers::framework::{Cache, Errand};

/// What was found is believed for so long.
pub(super) const FRESH: SignedDuration = SignedDuration::from_secs(5);

/// The servers that serve beside this one, as far as namespaces concern them.
pub trait OtherServers: Send + Sync {
    /// Has them delete what they keep in a namespace, and tells what is left; `versions` are the groups and versions
    /// (`shop.example.com/v1`) that are theirs.
    fn empty<'a>(&'a self, namespace: &'a str, versions: &'a [String]) -> BoxFuture<'a, Found>;
}

/// What other servers keep in a namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Groups and versions (`shop.example.com/v1`) whose server does not tell what it serves.
    pub undiscovered: BTreeSet<String>,
    /// Why something could not be deleted, or not even seen.
    pub failures: Vec<String>,
    /// How many objects there are of each resource (`carts.shop.example.com`), where there are any.
    pub remaining: BTreeMap<String, usize>,
    /// How many objects each finalizer holds.
    pub finalizers: BTreeMap<String, usize>,
}

impl Found {
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// The versions that other servers serve, and whether the cluster counts each of them as available.
pub(super) type Versions = BTreeMap<String, bool>;

pub(super) fn versions(cache: &Cache) -> Versions {
    let services = cache.list::<APIService>(None);
    let theirs = services.filter_map(|service| {
        let spec = service.spec.as_ref().filter(|spec| spec.service.is_some())?;
        let text = |of: &Option<String>| of.clone().unwrap_or_default();
        let conditions = service.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let mut available = conditions.filter(|condition| condition.type_ == "Available");
        let is_available = available.any(|condition| condition.status == "True");
        Some((format!("{}/{}", text(&spec.group), text(&spec.version)), is_available))
    });
    theirs.collect()
}

/// What was found of one namespace.
#[derive(Debug, Clone)]
struct Seen {
    at: Timestamp,
    /// What there was to ask then.
    versions: Versions,
    found: Found,
}

/// What is known of other servers' contents, by the uids of namespaces.
pub(super) struct Elsewhere {
    servers: Arc<dyn OtherServers>,
    clock: fn() -> Timestamp,
    /// Held for a line at a time.
    seen: Mutex<HashMap<String, Seen>>,
}

impl Elsewhere {
    pub fn new(servers: Arc<dyn OtherServers>, clock: fn() -> Timestamp) -> Arc<Self> {
        Arc::new(Self { servers, clock, seen: Mutex::default() })
    }

    /// What was found a moment ago, when the same was there to ask.
    pub fn known(&self, uid: &str, versions: &Versions, now: Timestamp) -> Option<Found> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let is_fresh = |seen: &&Seen| now.duration_since(seen.at) < FRESH && seen.versions == *versions;
        seen.get(uid).filter(is_fresh).map(|seen| seen.found.clone())
    }

    pub fn forget(&self, uid: &str) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

/// The errand that empties a namespace elsewhere.
pub(super) struct Emptying {
    pub elsewhere: Arc<Elsewhere>,
    pub namespace: String,
    pub uid: String,
    pub versions: Versions,
}

impl fmt::Debug for Emptying {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Emptying").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl Errand for Emptying {
    fn run(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let available = self.versions.iter().filter(|(_, is_available)| **is_available);
            let available: Vec<String> = available.map(|(version, _)| version.clone()).collect();
            let found = self.elsewhere.servers.empty(&self.namespace, &available).await;
            let seen = Seen { at: (self.elsewhere.clock)(), versions: self.versions.clone(), found };
            let mut known = self.elsewhere.seen.lock().unwrap_or_else(PoisonError::into_inner);
            known.insert(self.uid.clone(), seen);
        })
    }
}
