//! Kinds that need no rules of their own yet, and the view that `events.k8s.io` is.

use std::marker::PhantomData;

use k8s_openapi::api::{
    apps::v1 as apps, coordination::v1 as coordination, core::v1 as core, discovery::v1 as discovery,
    networking::v1 as networking,
};
use naru_model::{Object, ResourceInfo, resource::ALL_VERBS};
use serde_json::{Map, Value};

use super::{Kind, Kinds, kinds::Conversion};

/// A kind whose objects are stored as they come.
pub struct Plain<T> {
    info: &'static ResourceInfo,
    has_generation: bool,
    is_upserted: bool,
    object: PhantomData<fn() -> T>,
}

impl<T: Object> Plain<T> {
    pub fn new(info: &'static ResourceInfo) -> Self {
        Self { info, has_generation: false, is_upserted: false, object: PhantomData }
    }
    fn with_generation(mut self) -> Self {
        self.has_generation = true;
        self
    }
    /// A PUT creates what does not exist.
    fn upserted(mut self) -> Self {
        self.is_upserted = true;
        self
    }
}

impl<T: Object + schemars::JsonSchema> Kind for Plain<T> {
    type Object = T;
    fn resource(&self) -> &'static ResourceInfo {
        self.info
    }
    fn has_generation(&self) -> bool {
        self.has_generation
    }
    fn allows_create_on_update(&self) -> bool {
        self.is_upserted
    }
}

/// Serves everything that has no file of its own.
pub(super) fn register(kinds: &mut Kinds) {
    kinds.add(Namespaces);
    kinds.add(Plain::<core::Node>::new(&NODES));
    kinds.add(Plain::<core::Endpoints>::new(&ENDPOINTS).upserted());
    kinds.add(Plain::<discovery::EndpointSlice>::new(&ENDPOINT_SLICES).with_generation());
    kinds.add(Plain::<core::ConfigMap>::new(&CONFIG_MAPS));
    kinds.add(Plain::<core::Secret>::new(&SECRETS));
    kinds.add(Plain::<core::ServiceAccount>::new(&SERVICE_ACCOUNTS));
    kinds.add(Plain::<core::Event>::new(&EVENTS).upserted());
    kinds.add_view(&EVENTS_V1, "events", Conversion { to_stored: event_to_core, to_served: event_to_v1 });
    kinds.add(Plain::<coordination::Lease>::new(&LEASES).upserted());
    kinds.add(Plain::<apps::ControllerRevision>::new(&CONTROLLER_REVISIONS));
    kinds.add(Plain::<networking::IPAddress>::new(&IP_ADDRESSES));
}

const fn core_resource(
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    short_names: &'static [&'static str],
) -> ResourceInfo {
    ResourceInfo {
        group: "",
        version: "v1",
        kind,
        plural,
        singular,
        short_names,
        categories: &[],
        namespaced: true,
        subresources: &[],
        verbs: ALL_VERBS,
    }
}

static NAMESPACES: ResourceInfo = ResourceInfo {
    namespaced: false,
    subresources: &["finalize", "status"],
    verbs: &["create", "delete", "get", "list", "patch", "update", "watch"],
    ..core_resource("Namespace", "namespaces", "namespace", &["ns"])
};
static NODES: ResourceInfo = ResourceInfo {
    namespaced: false,
    subresources: &["status"],
    ..core_resource("Node", "nodes", "node", &["no"])
};
static ENDPOINTS: ResourceInfo = core_resource("Endpoints", "endpoints", "endpoints", &["ep"]);
static CONFIG_MAPS: ResourceInfo = core_resource("ConfigMap", "configmaps", "configmap", &["cm"]);
static SECRETS: ResourceInfo = core_resource("Secret", "secrets", "secret", &[]);
static SERVICE_ACCOUNTS: ResourceInfo =
    core_resource("ServiceAccount", "serviceaccounts", "serviceaccount", &["sa"]);
static EVENTS: ResourceInfo = core_resource("Event", "events", "event", &["ev"]);
static EVENTS_V1: ResourceInfo =
    ResourceInfo { group: "events.k8s.io", ..core_resource("Event", "events", "event", &["ev"]) };
static CONTROLLER_REVISIONS: ResourceInfo = ResourceInfo {
    group: "apps",
    ..core_resource("ControllerRevision", "controllerrevisions", "controllerrevision", &[])
};
static ENDPOINT_SLICES: ResourceInfo = ResourceInfo {
    group: "discovery.k8s.io",
    ..core_resource("EndpointSlice", "endpointslices", "endpointslice", &[])
};
static LEASES: ResourceInfo =
    ResourceInfo { group: "coordination.k8s.io", ..core_resource("Lease", "leases", "lease", &[]) };
static IP_ADDRESSES: ResourceInfo = ResourceInfo {
    group: "networking.k8s.io",
    namespaced: false,
    ..core_resource("IPAddress", "ipaddresses", "ipaddress", &["ip"])
};

struct Namespaces;

impl Kind for Namespaces {
    type Object = core::Namespace;
    fn resource(&self) -> &'static ResourceInfo {
        &NAMESPACES
    }
    fn has_generation(&self) -> bool {
        false
    }
    fn default(&self, object: &mut core::Namespace) {
        if let Some(name) = object.metadata.name.clone() {
            object.metadata.labels.get_or_insert_default().insert("kubernetes.io/metadata.name".into(), name);
        }
    }
    fn prepare_create(&self, object: &mut core::Namespace, _: &super::Context<'_>) {
        let finalizers = &mut object.spec.get_or_insert_default().finalizers;
        let finalizers = finalizers.get_or_insert_default();
        if !finalizers.iter().any(|finalizer| finalizer == "kubernetes") {
            finalizers.push("kubernetes".into());
        }
        object.status =
            Some(core::NamespaceStatus { phase: Some("Active".into()), ..core::NamespaceStatus::default() });
    }
    fn prepare_update(&self, new: &mut core::Namespace, old: &core::Namespace, _: &super::Context<'_>) {
        new.spec.clone_from(&old.spec);
        new.status.clone_from(&old.status);
    }
    fn prepare_status_update(
        &self,
        new: &mut core::Namespace,
        old: &core::Namespace,
        _: &super::Context<'_>,
    ) {
        new.spec.clone_from(&old.spec);
    }
    fn mark_deleting(&self, object: &mut core::Namespace) {
        object.status.get_or_insert_default().phase = Some("Terminating".into());
    }
    fn is_held(&self, object: &core::Namespace) -> bool {
        object.spec.as_ref().and_then(|spec| spec.finalizers.as_ref()).is_some_and(|held| !held.is_empty())
    }
}

/// Fields that the two Event kinds name differently: `events.k8s.io` first, core second.
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

fn event_to_core(mut value: Value) -> Value {
    if let Some(map) = value.as_object_mut() {
        rename(map, EVENT_FIELDS.iter().copied());
        map.insert("apiVersion".into(), "v1".into());
    }
    value
}

fn event_to_v1(mut value: Value) -> Value {
    if let Some(map) = value.as_object_mut() {
        rename(map, EVENT_FIELDS.iter().map(|(v1, core)| (*core, *v1)));
        map.insert("apiVersion".into(), "events.k8s.io/v1".into());
    }
    value
}

fn rename(map: &mut Map<String, Value>, names: impl Iterator<Item = (&'static str, &'static str)>) {
    for (from, to) in names {
        if let Some(value) = map.remove(from) {
            map.insert(to.into(), value);
        }
    }
}
