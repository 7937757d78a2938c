//! The list of resources that are served.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use naru_model::{ResourceInfo, apply::ObjectType, validation::FieldErrors};
use serde_json::Value;

use super::{
    AnyObject, Kind, autoscaler, certificates, configmap, controllerrevision, crd, cronjob, daemonset,
    deployment, disruptionbudget, endpoints, endpointslice,
    erased::{Erase, ErasedKind, OnUnknown},
    event, job, lease, limitrange, namespace, node, persistentvolume, persistentvolumeclaim, pod,
    podtemplate, priorityclass, rbac, replicaset, replicationcontroller, resource_metrics, resourcequota,
    reviews, runtimeclass, secret, service, serviceaccount, statefulset, virtuals,
};
use crate::store::Entry;

/// A resource as clients see it. Most are stored as they are served; a view of another resource converts.
pub struct Served {
    pub info: &'static ResourceInfo,
    /// `deployments.apps`
    pub qualified: String,
    /// `apps/v1`
    pub api_version: String,
    /// `Deployment.apps`, as messages about invalid objects say it.
    pub qualified_kind: String,
    /// `io.k8s.api.apps.v1.Deployment`
    pub type_name: String,
    pub kind: Arc<dyn ErasedKind>,
    /// The resource under which objects are stored.
    pub storage: Arc<str>,
    /// `DeploymentList`
    pub list_kind: String,
    pub conversion: Option<Conversion>,
    /// Whether there is nothing in the store: `api::computed` answers.
    pub is_virtual: bool,
    object_type: OnceLock<ObjectType>,
}

/// How a view's objects become those of the stored kind, and back.
#[derive(Clone, Copy)]
pub struct Conversion {
    /// Told of fields that the served version does not know; what it leaves in place, the stored kind judges.
    pub to_stored: fn(Value, OnUnknown<'_>) -> Result<Value, serde_json::Error>,
    pub to_served: fn(Value) -> Value,
    /// As [`ErasedKind::add_schema`], of the served type.
    pub add_schema: fn(&mut schemars::SchemaGenerator),
    /// The fields that selectors know, by their names here and in the stored kind; none where these are the same.
    pub fields: &'static [(&'static str, &'static str)],
    /// What is asked of objects that are written in this version beyond the stored kind's rules. Without an old state
    /// the object is new.
    pub validate: fn(&dyn AnyObject, Option<&dyn AnyObject>, &mut FieldErrors),
}

impl Served {
    fn new(info: &'static ResourceInfo, kind: Arc<dyn ErasedKind>, conversion: Option<Conversion>) -> Self {
        let qualified_kind = match info.group {
            "" => info.kind.to_owned(),
            group => format!("{}.{group}", info.kind),
        };
        let storage = kind.resource().qualified().into();
        Self {
            info,
            qualified: info.qualified(),
            api_version: info.api_version(),
            qualified_kind,
            type_name: naru_model::patch::merge_keys::type_name(info.group, info.version, info.kind),
            kind,
            storage,
            list_kind: format!("{}List", info.kind),
            conversion,
            is_virtual: false,
            object_type: OnceLock::new(),
        }
    }

    /// Whether objects lie in the store in this very form.
    pub fn is_stored(&self) -> bool {
        self.conversion.is_none() && !self.is_virtual
    }

    /// A resource that a definition made.
    pub fn custom(kind: Arc<dyn ErasedKind>, type_name: String, list_kind: String) -> Self {
        Self { type_name, list_kind, ..Self::new(kind.resource(), kind, None) }
    }

    /// What server-side apply knows of the type.
    pub fn object_type(&self) -> &ObjectType {
        self.object_type
            .get_or_init(|| self.kind.object_type().unwrap_or_else(|| ObjectType::builtin(&self.type_name)))
    }

    /// The fields that selectors know beside `metadata.name` and `metadata.namespace`.
    pub fn field_names(&self) -> Vec<&str> {
        match self.conversion {
            Some(conversion) if !conversion.fields.is_empty() => {
                conversion.fields.iter().map(|(name, _)| *name).collect()
            }
            _ => self.kind.field_names(),
        }
    }

    /// The value of one of these fields, "" where it is unset.
    pub fn field(&self, entry: &Entry, name: &str) -> String {
        let fields = self.conversion.map(|conversion| conversion.fields).unwrap_or_default();
        let stored = fields.iter().find(|(here, _)| *here == name).map_or(name, |(_, stored)| stored);
        self.kind.field(entry, stored)
    }

    /// Judges what is written in this version by the rules that it alone has.
    pub(super) fn validate_version(
        &self,
        new: &dyn AnyObject,
        old: Option<&dyn AnyObject>,
        errors: &mut FieldErrors,
    ) {
        if let Some(conversion) = self.conversion {
            (conversion.validate)(new, old, errors);
        }
    }

    pub fn has_subresource(&self, name: &str) -> bool {
        self.info.subresources.contains(&name)
    }
}

/// Every resource that is served, found by URL or by name.
#[derive(Clone, Default)]
pub struct Kinds {
    all: Vec<Arc<Served>>,
    /// By group, version and plural.
    by_path: HashMap<&'static str, HashMap<&'static str, HashMap<&'static str, Arc<Served>>>>,
    by_name: HashMap<String, Arc<Served>>,
    /// By the resource under which objects are stored: the names and versions that show the same objects.
    by_storage: HashMap<Arc<str>, Vec<Arc<Served>>>,
}

impl Kinds {
    /// What every Naru serves. A new kind is one line here.
    pub fn builtin() -> Self {
        let mut kinds = Self::default();
        kinds.add(namespace::Namespaces);
        kinds.add(node::Nodes);
        kinds.add(pod::Pods);
        kinds.add(service::Services);
        kinds.add(endpoints::EndpointsKind);
        kinds.add(configmap::ConfigMaps);
        kinds.add(secret::Secrets);
        kinds.add(serviceaccount::ServiceAccounts);
        kinds.add(podtemplate::PodTemplates);
        kinds.add(replicationcontroller::ReplicationControllers);
        kinds.add(persistentvolume::PersistentVolumes);
        kinds.add(persistentvolumeclaim::PersistentVolumeClaims);
        kinds.add(resourcequota::ResourceQuotas);
        kinds.add(limitrange::LimitRanges);
        kinds.add_virtual(virtuals::ComponentStatuses);
        kinds.add_virtual(virtuals::Bindings);
        kinds.add(event::Events);
        kinds.add_view(&event::EVENTS_V1, "events", event::AS_EVENTS_V1);
        kinds.add(deployment::Deployments);
        kinds.add(replicaset::ReplicaSets);
        kinds.add(statefulset::StatefulSets);
        kinds.add(daemonset::DaemonSets);
        kinds.add(job::Jobs);
        kinds.add(cronjob::CronJobs);
        kinds.add(autoscaler::HorizontalPodAutoscalers);
        kinds.add_view(&autoscaler::V1, "horizontalpodautoscalers.autoscaling", autoscaler::AS_V1);
        kinds.add(disruptionbudget::PodDisruptionBudgets);
        kinds.add(priorityclass::PriorityClasses);
        kinds.add(runtimeclass::RuntimeClasses);
        kinds.add(controllerrevision::ControllerRevisions);
        kinds.add(lease::Leases);
        kinds.add(endpointslice::EndpointSlices);
        kinds.add(certificates::SigningRequests);
        kinds.add(certificates::TrustBundles);
        kinds.add(super::pod_certificates::PodCertificateRequests);
        kinds.add(super::storage_migration::StorageVersionMigrations);
        kinds.add(rbac::Roles);
        kinds.add(rbac::RoleBindings);
        kinds.add(rbac::ClusterRoles);
        kinds.add(rbac::ClusterRoleBindings);
        kinds.add_virtual(reviews::TokenReviews);
        kinds.add_virtual(reviews::SelfSubjectReviews);
        kinds.add_virtual(reviews::SubjectAccessReviews);
        kinds.add_virtual(reviews::LocalSubjectAccessReviews);
        kinds.add_virtual(reviews::SelfSubjectAccessReviews);
        kinds.add_virtual(reviews::SelfSubjectRulesReviews);
        super::networking::add(&mut kinds);
        super::storage::add(&mut kinds);
        super::admissionregistration::add(&mut kinds);
        super::flowcontrol::add(&mut kinds);
        kinds.add(super::apiservice::ApiServices);
        kinds.add(crd::Definitions);
        super::devices::add(&mut kinds);
        kinds.add_virtual(resource_metrics::NodeUsages);
        kinds.add_virtual(resource_metrics::PodUsages);
        kinds
    }

    /// Serves `kind` under its own name.
    pub fn add<K: Kind>(&mut self, kind: K) {
        let erased: Arc<dyn ErasedKind> = Arc::new(Erase(kind));
        self.insert(Arc::new(Served::new(erased.resource(), erased, None)));
    }

    /// Serves `kind`, of which nothing is stored.
    pub fn add_virtual<K: Kind>(&mut self, kind: K) {
        let erased: Arc<dyn ErasedKind> = Arc::new(Erase(kind));
        self.insert(Arc::new(Served { is_virtual: true, ..Served::new(erased.resource(), erased, None) }));
    }

    /// Serves the objects of `kind`, which was added before, under another name, or in another version, and in
    /// another shape.
    pub fn add_view(&mut self, info: &'static ResourceInfo, of: &str, conversion: Conversion) {
        let kind = self.by_name[of].kind.clone();
        self.insert(Arc::new(Served::new(info, kind, Some(conversion))));
    }

    /// Serves a resource, in place of one with the same path. Of several versions, the last is known by name.
    pub fn insert(&mut self, served: Arc<Served>) {
        let info = served.info;
        let previous = self
            .by_path
            .entry(info.group)
            .or_default()
            .entry(info.version)
            .or_default()
            .insert(info.plural, served.clone());
        // A kind that was added before gives way: the generic form of a kind is replaced by its own file's.
        if let Some(previous) = previous {
            self.all.retain(|other| !Arc::ptr_eq(other, &previous));
            if let Some(same) = self.by_storage.get_mut(&previous.storage) {
                same.retain(|other| !Arc::ptr_eq(other, &previous));
            }
        }
        // A version of a resource that is stored in another has no name of its own.
        if served.conversion.is_none() || !self.by_name.contains_key(&served.qualified) {
            self.by_name.insert(served.qualified.clone(), served.clone());
        }
        self.by_storage.entry(served.storage.clone()).or_default().push(served.clone());
        self.all.push(served);
    }

    /// The resources that are stored, each once: no views, and no second versions.
    pub fn stored(&self) -> impl Iterator<Item = &Arc<Served>> {
        self.all.iter().filter(|served| {
            served.is_stored()
                && self.named(&served.qualified).is_some_and(|named| Arc::ptr_eq(named, served))
        })
    }

    pub fn all(&self) -> &[Arc<Served>] {
        &self.all
    }

    /// All that is served of the objects that are stored under `storage`.
    pub fn of_storage(&self, storage: &str) -> &[Arc<Served>] {
        self.by_storage.get(storage).map_or(&[], Vec::as_slice)
    }

    /// By URL: `("apps", "v1", "deployments")`.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Served>> {
        self.by_path.get(group)?.get(version)?.get(plural)
    }

    pub fn has_group_version(&self, group: &str, version: &str) -> bool {
        self.by_path.get(group).is_some_and(|versions| versions.contains_key(version))
    }

    /// By qualified plural: `deployments.apps`.
    pub fn named(&self, qualified: &str) -> Option<&Arc<Served>> {
        self.by_name.get(qualified)
    }

    /// The resource of a Rust type.
    pub fn of<T: k8s_openapi::Resource>(&self) -> Option<&Arc<Served>> {
        self.find(T::GROUP, T::VERSION, T::URL_PATH_SEGMENT)
    }
}
