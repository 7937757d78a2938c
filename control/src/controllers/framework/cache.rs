//! The objects that controllers decide on, with the indexes that keep a decision independent of cluster size.
//!
//! **Invariant:** the cache is the store as it was at one revision, for the resources that are watched: changes
//! are applied in the store's order. It shares entries with the store and so costs pointers, not copies.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::Bound,
    sync::Arc,
};

use k8s_openapi::{
    api::core::v1::{Node, Pod},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
    jiff::Timestamp,
};
use naru_model::{Object, PodBrief, ResourceInfo};

use super::{brief, decoded, key_of, resource_of};
use crate::store::{Entry, Key, Meta};

type Entries = BTreeMap<Key, Arc<Entry>>;

const BUDGETS: &str = "poddisruptionbudgets.policy";
const EXCLUDED_FROM_DISRUPTION: &str = "node.kubernetes.io/exclude-disruption";

/// One change of one object. `is_deleted` leaves the last state in `entry`.
#[derive(Debug, Clone)]
pub struct Change<'a> {
    pub entry: &'a Arc<Entry>,
    pub previous: Option<&'a Arc<Entry>>,
    pub is_deleted: bool,
}

impl Change<'_> {
    /// Whether the object is a `T`.
    pub fn is<T: Object>(&self) -> bool {
        let resource = self.entry.key.resource();
        match resource.strip_prefix(T::URL_PATH_SEGMENT) {
            Some("") => T::GROUP.is_empty(),
            Some(group) => group.strip_prefix('.').is_some_and(|group| group == T::GROUP),
            None => false,
        }
    }

    /// The state now and the one before, those that exist.
    pub fn states(&self) -> impl Iterator<Item = &Arc<Entry>> {
        std::iter::once(self.entry).chain(self.previous)
    }
}

/// One of many pods: its entry, and what is looked at in all of them.
#[derive(Clone)]
pub struct Member {
    pub entry: Arc<Entry>,
    pub brief: Arc<PodBrief>,
}

impl Member {
    fn of(entry: &Arc<Entry>) -> Option<Self> {
        Some(Self { brief: brief(entry)?, entry: entry.clone() })
    }

    pub fn name(&self) -> &str {
        &self.entry.meta.name
    }

    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.entry.meta.labels
    }

    pub fn is_deleting(&self) -> bool {
        self.entry.meta.deletion_timestamp.is_some()
    }

    /// Neither terminal nor being deleted: what controllers count.
    pub fn is_active(&self) -> bool {
        !self.brief.is_terminal && !self.is_deleting()
    }

    /// All of the pod; decoded anew where nobody has asked for a while.
    pub fn pod(&self) -> Option<Arc<Pod>> {
        decoded(&self.entry)
    }
}

/// Every watched object at one revision.
#[derive(Default)]
pub struct Cache {
    objects: Entries,
    followed: Followed,
    /// Objects by the uid of each of their owners.
    by_owner: HashMap<String, Entries>,
    by_uid: HashMap<String, Key>,
    /// Objects without a controlling owner: those that may be adopted.
    uncontrolled: Entries,
    pods_by_node: HashMap<String, Entries>,
    /// Pods by namespace, label and value, in one string with NUL between.
    pods_by_label: HashMap<String, Entries>,
    /// PodDisruptionBudgets by namespace, as every change of a pod asks for them.
    budgets: HashMap<String, Entries>,
    /// When a node's heartbeat (its Lease or its Ready condition) last changed, by this process's clock. The
    /// timestamps inside are another machine's, and may be from before we were started.
    heartbeats: HashMap<String, Timestamp>,
    /// Nodes that count when all are silent, and those of them that are ready.
    counted_nodes: HashSet<String>,
    ready_nodes: HashSet<String>,
    /// When a node was seen to vanish.
    vanished: HashMap<String, Timestamp>,
    started: Option<Timestamp>,
}

/// The resources that are watched.
#[derive(Default)]
struct Followed {
    by_name: BTreeMap<String, ResourceInfo>,
    /// Qualified names by group and kind, as owner references name them.
    by_kind: HashMap<String, HashMap<String, String>>,
}

impl Cache {
    /// Notes what is watched from now on.
    pub fn follow(&mut self, resources: impl IntoIterator<Item = ResourceInfo>) {
        self.followed = Followed::default();
        for info in resources {
            let kinds = self.followed.by_kind.entry(info.group.into()).or_default();
            kinds.insert(info.kind.into(), info.qualified());
            self.followed.by_name.insert(info.qualified(), info);
        }
    }

    /// Every resource that is watched, by qualified name.
    pub fn resources(&self) -> impl Iterator<Item = (&str, &ResourceInfo)> {
        self.followed.by_name.iter().map(|(name, info)| (name.as_str(), info))
    }

    /// A resource that is watched, by its qualified name.
    pub fn resource(&self, qualified: &str) -> Option<&ResourceInfo> {
        self.followed.by_name.get(qualified)
    }

    /// The qualified name of a kind that is watched, and its facts.
    pub fn resource_of_kind(&self, group: &str, kind: &str) -> Option<(&str, &ResourceInfo)> {
        let name = self.followed.by_kind.get(group)?.get(kind)?;
        Some((name, self.followed.by_name.get(name)?))
    }

    /// Takes in the newest state of an object; answers the one before.
    pub fn put(&mut self, entry: Arc<Entry>, now: Timestamp) -> Option<Arc<Entry>> {
        self.started.get_or_insert(now);
        let previous = self.objects.insert(entry.key.clone(), entry.clone());
        if let Some(previous) = &previous {
            self.unindex(previous, Some(&entry));
        }
        self.note_heartbeat(&entry, previous.as_ref(), now);
        self.index(&entry);
        previous
    }

    /// Forgets an object; answers its last known state.
    pub fn remove(&mut self, key: &Key, now: Timestamp) -> Option<Arc<Entry>> {
        let previous = self.objects.remove(key)?;
        self.unindex(&previous, None);
        if key.resource() == "nodes" {
            self.heartbeats.remove(key.name());
            self.counted_nodes.remove(key.name());
            self.ready_nodes.remove(key.name());
            self.vanished.insert(key.name().into(), now);
        }
        Some(previous)
    }

    pub fn entry(&self, key: &Key) -> Option<&Arc<Entry>> {
        self.objects.get(key)
    }

    pub fn get<T: Object>(&self, namespace: &str, name: &str) -> Option<Arc<T>> {
        self.entry(&key_of::<T>(namespace, name)).and_then(decoded::<T>)
    }

    /// The entry with this uid, of whatever resource.
    pub fn by_uid(&self, uid: &str) -> Option<&Arc<Entry>> {
        self.objects.get(self.by_uid.get(uid)?)
    }

    /// Every entry of a resource, or of one namespace of it, in key order.
    pub fn entries(
        &self,
        resource: &str,
        namespace: Option<&str>,
    ) -> impl Iterator<Item = &Arc<Entry>> + use<'_> {
        in_scope(&self.objects, resource, namespace)
    }

    /// The objects of a kind, or those of one namespace.
    pub fn list<T: Object>(&self, namespace: Option<&str>) -> impl Iterator<Item = Arc<T>> + use<'_, T> {
        in_scope(&self.objects, &resource_of::<T>(), namespace).filter_map(decoded::<T>)
    }

    /// Every key that is held.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.objects.keys()
    }

    /// What names the uid among its owners, controlled by it or not, of whatever resource.
    pub fn owned_by(&self, uid: &str) -> impl Iterator<Item = &Arc<Entry>> {
        self.by_owner.get(uid).into_iter().flat_map(BTreeMap::values)
    }

    /// The objects of a kind whose controller has the uid.
    pub fn controlled_by<'a, T: Object>(&'a self, uid: &'a str) -> impl Iterator<Item = Arc<T>> + 'a {
        self.entries_controlled_by(resource_of::<T>(), uid).filter_map(decoded::<T>)
    }

    /// The same pods, with what is looked at in all of them.
    pub fn pods_controlled_by<'a>(&'a self, uid: &'a str) -> impl Iterator<Item = Member> + 'a {
        self.entries_controlled_by(resource_of::<Pod>(), uid).filter_map(Member::of)
    }

    fn entries_controlled_by<'a>(
        &'a self,
        resource: String,
        uid: &'a str,
    ) -> impl Iterator<Item = &'a Arc<Entry>> + 'a {
        self.owned_by(uid)
            .filter(move |entry| entry.key.resource() == resource)
            .filter(move |entry| controller_of(&entry.meta).is_some_and(|owner| owner.uid == uid))
    }

    /// The objects of a kind in a namespace that nothing controls.
    pub fn uncontrolled<T: Object>(&self, namespace: &str) -> impl Iterator<Item = Arc<T>> + use<'_, T> {
        in_scope(&self.uncontrolled, &resource_of::<T>(), Some(namespace)).filter_map(decoded::<T>)
    }

    /// The same pods, with what is looked at in all of them.
    pub fn uncontrolled_pods(&self, namespace: &str) -> impl Iterator<Item = Member> + use<'_> {
        in_scope(&self.uncontrolled, &resource_of::<Pod>(), Some(namespace)).filter_map(Member::of)
    }

    pub fn pods_on_node(&self, node: &str) -> impl Iterator<Item = &Arc<Entry>> {
        self.pods_by_node.get(node).into_iter().flat_map(BTreeMap::values)
    }

    /// The pods that carry all of `labels`, found by the rarest of them. No labels select no pods.
    pub fn pods_with_labels<'a>(
        &'a self,
        namespace: &str,
        labels: &'a BTreeMap<String, String>,
    ) -> impl Iterator<Item = Member> + 'a {
        static NONE: Entries = BTreeMap::new();
        let rarest = labels
            .iter()
            .map(|(label, value)| {
                self.pods_by_label.get(&label_key(namespace, label, value)).unwrap_or(&NONE)
            })
            .min_by_key(|entries| entries.len())
            .unwrap_or(&NONE);
        rarest
            .values()
            .filter(|entry| labels.iter().all(|(label, value)| entry.meta.labels.get(label) == Some(value)))
            .filter_map(Member::of)
    }

    /// All pods of a namespace.
    pub fn pods_in(&self, namespace: &str) -> impl Iterator<Item = Member> + use<'_> {
        in_scope(&self.objects, &resource_of::<Pod>(), Some(namespace)).filter_map(Member::of)
    }

    /// Whether there is any PodDisruptionBudget.
    pub fn has_budgets(&self) -> bool {
        !self.budgets.is_empty()
    }

    /// The PodDisruptionBudgets of a namespace.
    pub fn budgets_in(&self, namespace: &str) -> impl Iterator<Item = &Arc<Entry>> {
        self.budgets.get(namespace).into_iter().flat_map(BTreeMap::values)
    }

    /// When the node's heartbeat last changed, as far as this process can tell.
    pub fn heartbeat(&self, node: &str) -> Option<Timestamp> {
        self.heartbeats.get(node).copied()
    }

    /// Whether there are nodes and none is ready, so that the fault is more likely ours than theirs. Nodes with the
    /// label that excludes them from this do not count.
    pub fn is_every_node_lost(&self) -> bool {
        self.ready_nodes.is_empty() && !self.counted_nodes.is_empty()
    }

    /// Since when a node that is not there has been missing.
    pub fn missing_since(&self, node: &str) -> Option<Timestamp> {
        self.vanished.get(node).copied().or(self.started)
    }

    fn index(&mut self, entry: &Arc<Entry>) {
        let key = &entry.key;
        for owner in entry.meta.owner_references.iter() {
            self.by_owner.entry(owner.uid.clone()).or_default().insert(key.clone(), entry.clone());
        }
        if controller_of(&entry.meta).is_none() {
            self.uncontrolled.insert(key.clone(), entry.clone());
        }
        if !entry.meta.uid.is_empty() && self.by_uid.get(&entry.meta.uid) != Some(key) {
            self.by_uid.insert(entry.meta.uid.clone(), key.clone());
        }
        if key.resource() == BUDGETS {
            self.budgets.entry(key.namespace().into()).or_default().insert(key.clone(), entry.clone());
        }
        if key.resource() != "pods" {
            return;
        }
        for (label, value) in entry.meta.labels.iter() {
            let label = label_key(&entry.meta.namespace, label, value);
            self.pods_by_label.entry(label).or_default().insert(key.clone(), entry.clone());
        }
        if let Some(node) = node_of(entry) {
            self.pods_by_node.entry(node).or_default().insert(key.clone(), entry.clone());
        }
    }

    /// Removes `old` from the indexes, except where indexing its successor will replace it anyway.
    fn unindex(&mut self, old: &Arc<Entry>, new: Option<&Arc<Entry>>) {
        let key = &old.key;
        for owner in old.meta.owner_references.iter() {
            let stays =
                new.is_some_and(|new| new.meta.owner_references.iter().any(|other| other.uid == owner.uid));
            if !stays {
                drop_from(&mut self.by_owner, &owner.uid, key);
            }
        }
        if new.is_none_or(|new| controller_of(&new.meta).is_some()) {
            self.uncontrolled.remove(key);
        }
        if new.is_none_or(|new| new.meta.uid != old.meta.uid) {
            self.by_uid.remove(&old.meta.uid);
        }
        if key.resource() == BUDGETS && new.is_none() {
            drop_from(&mut self.budgets, key.namespace(), key);
        }
        if key.resource() != "pods" {
            return;
        }
        for (label, value) in old.meta.labels.iter() {
            if new.is_none_or(|new| new.meta.labels.get(label) != Some(value)) {
                drop_from(&mut self.pods_by_label, &label_key(&old.meta.namespace, label, value), key);
            }
        }
        if let Some(node) = node_of(old)
            && new.and_then(node_of).is_none_or(|other| other != node)
        {
            drop_from(&mut self.pods_by_node, &node, key);
        }
    }

    fn note_heartbeat(&mut self, entry: &Arc<Entry>, previous: Option<&Arc<Entry>>, now: Timestamp) {
        let node = entry.key.name();
        match entry.key.resource() {
            "nodes" => {
                self.vanished.remove(node);
                let is_ready =
                    decoded::<Node>(entry).is_some_and(|node| naru_model::pod::is_node_ready(&node));
                let is_counted = !entry.meta.labels.contains_key(EXCLUDED_FROM_DISRUPTION);
                put_or_take(&mut self.counted_nodes, node, is_counted);
                put_or_take(&mut self.ready_nodes, node, is_counted && is_ready);
                let beat = |entry: &Arc<Entry>| ready_heartbeat(&*decoded::<Node>(entry)?);
                if previous.is_none_or(|previous| beat(previous) != beat(entry)) {
                    self.heartbeats.insert(node.into(), now);
                }
            }
            "leases.coordination.k8s.io" if entry.key.namespace() == "kube-node-lease" => {
                self.heartbeats.insert(node.into(), now);
            }
            _ => (),
        }
    }
}

/// The owner that controls the object.
pub fn controller_of(meta: &Meta) -> Option<&OwnerReference> {
    naru_model::owner::controller_among(&meta.owner_references)
}

fn ready_heartbeat(node: &Node) -> Option<Timestamp> {
    let conditions = node.status.as_ref()?.conditions.as_ref();
    naru_model::condition::find(conditions, "Ready")?.last_heartbeat_time.as_ref().map(|time| time.0)
}

fn node_of(pod: &Arc<Entry>) -> Option<String> {
    brief(pod)?.node_name.as_deref().map(Into::into)
}

fn label_key(namespace: &str, label: &str, value: &str) -> String {
    format!("{namespace}\0{label}\0{value}")
}

fn put_or_take(names: &mut HashSet<String>, name: &str, is_in: bool) {
    if is_in {
        names.insert(name.into());
    } else {
        names.remove(name);
    }
}

fn drop_from(index: &mut HashMap<String, Entries>, bucket: &str, key: &Key) {
    if let Some(entries) = index.get_mut(bucket) {
        entries.remove(key);
        if entries.is_empty() {
            index.remove(bucket);
        }
    }
}

fn in_scope<'a>(
    entries: &'a Entries,
    resource: &str,
    namespace: Option<&str>,
) -> impl Iterator<Item = &'a Arc<Entry>> + use<'a> {
    // Keys are ordered as text, so the first possible key of a scope is its prefix with an empty name.
    let first = Key::new(resource, namespace.unwrap_or_default(), "");
    let prefix = match namespace {
        Some(namespace) => format!("{resource}/{namespace}/"),
        None => format!("{resource}/"),
    };
    entries
        .range((Bound::Included(first), Bound::Unbounded))
        .take_while(move |(key, _)| key.as_str().starts_with(&prefix))
        .map(|(_, entry)| entry)
}
