//! The road to the API for code inside the control plane: the same path as an HTTP request, without HTTP.

use std::sync::Arc;

use k8s_openapi::{
    api::core::v1::{Binding, ObjectReference},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use naru_model::Object;
use serde_json::{Value, json};

use crate::{
    ApiError,
    audit::{Answer, Target},
    auth::{Authorizer, User},
    notes::Notes,
    registry::{AnyObject, Call, Outcome, Part, Registry, Served},
    store::{Entry, Store},
};

/// A patch and its kind.
#[derive(Debug, Clone)]
pub enum Patch {
    Json(Value),
    Merge(Value),
    Strategic(Value),
}

/// Preconditions and policy of a delete, as in `metav1.DeleteOptions`.
#[derive(Debug, Clone, Default)]
pub struct Delete {
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub grace_period_seconds: Option<i64>,
    /// `Background`, `Foreground` or `Orphan`.
    pub propagation_policy: Option<String>,
}

impl Delete {
    /// As `metav1.DeleteOptions`.
    pub fn to_value(&self) -> Value {
        let mut options = json!({ "apiVersion": "meta.k8s.io/v1", "kind": "DeleteOptions" });
        for (field, value) in [
            ("gracePeriodSeconds", self.grace_period_seconds.map(Value::from)),
            ("propagationPolicy", self.propagation_policy.as_deref().map(Value::from)),
        ] {
            if let Some(value) = value {
                options[field] = value;
            }
        }
        for (field, value) in [("uid", &self.uid), ("resourceVersion", &self.resource_version)] {
            if let Some(value) = value {
                options["preconditions"][field] = value.as_str().into();
            }
        }
        options
    }
}

/// Acts as one user of the cluster (`system:serviceaccount:kube-system:deployment-controller`, …).
#[derive(Clone)]
pub struct ApiClient {
    registry: Registry,
    user: User,
}

impl ApiClient {
    /// A client that acts as the control plane's own `user`.
    pub fn new(registry: Registry, user: &str) -> Self {
        Self { registry, user: User::internal(user) }
    }

    /// A client over a store in memory with every built-in kind and the default roles in force: for tests of the
    /// rooms above.
    pub fn in_memory() -> Self {
        let authorizer = Arc::new(Authorizer::of_defaults());
        let kinds = crate::registry::Kinds::builtin();
        let registry = Registry::new(Store::in_memory(), kinds, Default::default(), authorizer);
        Self::new(registry, "system:apiserver")
    }

    /// The cache that reads come from.
    pub fn store(&self) -> &Store {
        self.registry.store()
    }

    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The same road under another name, for audit and RBAC.
    #[must_use]
    pub fn acting_as(&self, user: &str) -> Self {
        Self::new(self.registry.clone(), user)
    }

    pub async fn create<T: Object>(&self, object: &T) -> Result<Arc<Entry>, ApiError> {
        let served = self.served::<T>()?;
        let notes = self.notes();
        let call = self.call(&served, &notes, object.namespace(), "");
        let work = async { written(self.registry.create(&call, Box::new(object.clone())).await?) };
        self.carry_out(&call, "create", "", work).await
    }

    /// Replaces the object; a `resourceVersion` in it is a precondition.
    pub async fn update<T: Object>(&self, object: &T) -> Result<Arc<Entry>, ApiError> {
        self.put(object, Part::Whole, "").await
    }

    pub async fn update_status<T: Object>(&self, object: &T) -> Result<Arc<Entry>, ApiError> {
        self.put(object, Part::Status, "status").await
    }

    /// `subresource` is "" or, say, `status`.
    pub async fn patch<T: Object>(
        &self,
        namespace: &str,
        name: &str,
        subresource: &str,
        patch: Patch,
    ) -> Result<Arc<Entry>, ApiError> {
        let served = self.served::<T>()?;
        self.patch_served(&served, namespace, name, subresource, patch).await
    }

    pub async fn delete<T: Object>(
        &self,
        namespace: &str,
        name: &str,
        options: Delete,
    ) -> Result<(), ApiError> {
        let served = self.served::<T>()?;
        self.delete_served(&served, namespace, name, options).await
    }

    /// A delete of a resource known only by name: the garbage collector and the namespace controller use it.
    /// `resource` is the qualified plural (`deployments.apps`).
    pub async fn delete_resource(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        options: Delete,
    ) -> Result<(), ApiError> {
        let served = self.named(resource)?;
        self.delete_served(&served, namespace, name, options).await
    }

    /// Likewise a patch (removing a finalizer or an owner reference).
    pub async fn patch_resource(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        subresource: &str,
        patch: Patch,
    ) -> Result<Arc<Entry>, ApiError> {
        let served = self.named(resource)?;
        self.patch_served(&served, namespace, name, subresource, patch).await
    }

    /// Writes the pod's `binding`: sets `spec.nodeName` and the `PodScheduled` condition.
    pub async fn bind(&self, namespace: &str, pod: &str, pod_uid: &str, node: &str) -> Result<(), ApiError> {
        let served = self.named("pods")?;
        let notes = self.notes();
        let call = self.call(&served, &notes, namespace, pod);
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(pod.into()),
                namespace: Some(namespace.into()),
                uid: (!pod_uid.is_empty()).then(|| pod_uid.into()),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                kind: Some("Node".into()),
                name: Some(node.into()),
                ..ObjectReference::default()
            },
        };
        self.carry_out(&call, "create", "binding", self.registry.bind(&call, binding)).await
    }

    /// Every resource that is stored, by the name under which it is: for the namespace controller and the garbage
    /// collector.
    pub fn resources(&self) -> Vec<naru_model::ResourceInfo> {
        self.registry.kinds().stored().map(|served| served.info.clone()).collect()
    }

    async fn put<T: Object>(
        &self,
        object: &T,
        part: Part,
        subresource: &str,
    ) -> Result<Arc<Entry>, ApiError> {
        let served = self.served::<T>()?;
        let notes = self.notes();
        let call = self.call(&served, &notes, object.namespace(), object.name());
        let make = |_: Option<&Arc<Entry>>| Ok(Box::new(object.clone()) as Box<dyn AnyObject>);
        let work = async { written(self.registry.update(&call, part, make).await?) };
        self.carry_out(&call, "update", subresource, work).await
    }

    async fn patch_served(
        &self,
        served: &Served,
        namespace: &str,
        name: &str,
        subresource: &str,
        patch: Patch,
    ) -> Result<Arc<Entry>, ApiError> {
        let notes = self.notes();
        let call = self.call(served, &notes, namespace, name);
        let part = match subresource {
            "" => Part::Whole,
            "status" => Part::Status,
            "approval" => Part::Approval,
            "finalize" => Part::Finalize,
            _ => return Err(ApiError::NoSuchPath),
        };
        let work = async { written(self.registry.patch(&call, part, &patch, &[]).await?) };
        self.carry_out(&call, "patch", subresource, work).await
    }

    async fn delete_served(
        &self,
        served: &Served,
        namespace: &str,
        name: &str,
        options: Delete,
    ) -> Result<(), ApiError> {
        let notes = self.notes();
        let call = self.call(served, &notes, namespace, name);
        let work = async { self.registry.delete(&call, &options).await.map(drop) };
        self.carry_out(&call, "delete", "", work).await
    }

    /// Does `work` if the user may, and has it recorded where requests are.
    async fn carry_out<T>(
        &self,
        call: &Call<'_>,
        verb: &'static str,
        subresource: &str,
        work: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, ApiError> {
        let attributes = call.attributes(verb, subresource);
        let allowed = async {
            self.registry.authorize(&self.user, &attributes)?;
            work.await
        };
        let Some(audit) = self.registry.audit() else { return allowed.await };
        let record = audit.begin_internal(Target::named(&attributes, call.served.info.version));
        record.authenticated(&self.user).await;
        record.authorized(self.registry.authorizer(), &self.user, &attributes);
        let done = allowed.await;
        record.annotate(call.notes.map(Notes::take_annotations).unwrap_or_default());
        match &done {
            Ok(_) => {
                let code = if verb == "create" { 201 } else { 200 };
                record.answered(Answer { code, body: None }, false).await;
            }
            Err(error) => {
                let status = serde_json::to_vec(&error.to_status()).unwrap_or_default().into();
                record.answered(Answer { code: error.code(), body: Some(&status) }, false).await;
            }
        }
        done
    }

    fn served<T: Object>(&self) -> Result<Arc<Served>, ApiError> {
        self.registry.kinds().of::<T>().cloned().ok_or(ApiError::NoSuchPath)
    }

    fn named(&self, resource: &str) -> Result<Arc<Served>, ApiError> {
        self.registry.kinds().named(resource).cloned().ok_or(ApiError::NoSuchPath)
    }

    fn notes(&self) -> Notes {
        Notes::new(self.registry.audit().is_some())
    }

    fn call<'a>(
        &'a self,
        served: &'a Served,
        notes: &'a Notes,
        namespace: &'a str,
        name: &'a str,
    ) -> Call<'a> {
        Call { notes: Some(notes), ..Call::of(&self.user, served, namespace, name) }
    }
}

/// The entry of a write; of an update that removed the object with its last finalizer, its last state.
fn written(outcome: Outcome) -> Result<Arc<Entry>, ApiError> {
    outcome.entry.ok_or_else(|| ApiError::Internal("the write left no object".into()))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Service, ServiceAccount};
    use serde::de::DeserializeOwned;
    use serde_json::json;

    use super::*;

    fn object<T: DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).expect("a valid object")
    }

    async fn cluster() -> ApiClient {
        let client = ApiClient::in_memory();
        let namespace: Namespace = object(json!({ "metadata": { "name": "shop" } }));
        client.create(&namespace).await.expect("a namespace");
        let account: ServiceAccount =
            object(json!({ "metadata": { "name": "default", "namespace": "shop" } }));
        client.create(&account).await.expect("an account");
        client
    }

    fn config_map(name: &str, data: Value) -> ConfigMap {
        object(json!({ "metadata": { "name": name, "namespace": "shop" }, "data": data }))
    }

    fn pod(name: &str) -> Pod {
        let containers = json!([{ "name": "web", "image": "hello.wasm" }]);
        object(
            json!({ "metadata": { "name": name, "namespace": "shop" }, "spec": { "containers": containers } }),
        )
    }

    fn service(name: &str, spec: Value) -> Service {
        object(json!({ "metadata": { "name": name, "namespace": "shop" }, "spec": spec }))
    }

    #[tokio::test]
    async fn a_created_object_has_what_the_server_gives() {
        let client = cluster().await;
        let entry = client.create(&config_map("prices", json!({ "tea": "3" }))).await.expect("created");
        let stored: Value = serde_json::from_slice(&entry.json).expect("json");
        assert_eq!(stored["metadata"]["resourceVersion"], entry.revision.0.to_string());
        assert_eq!(stored["metadata"]["uid"].as_str().map(str::len), Some(36));
        assert!(stored["metadata"]["creationTimestamp"].is_string());
        let again = client.create(&config_map("prices", json!({}))).await.expect_err("it exists");
        assert_eq!(again.to_string(), r#"configmaps "prices" already exists"#);
    }

    #[tokio::test]
    async fn a_namespace_must_exist() {
        let client = ApiClient::in_memory();
        let error = client.create(&config_map("prices", json!({}))).await.expect_err("no namespace");
        assert_eq!((error.code(), error.to_string()), (404, r#"namespaces "shop" not found"#.into()));
    }

    #[tokio::test]
    async fn an_update_of_an_old_version_is_a_conflict() {
        let client = cluster().await;
        let first = client.create(&config_map("prices", json!({ "tea": "3" }))).await.expect("created");
        let mut map = ConfigMap::clone(&*first.typed().expect("typed"));
        map.data = Some([("tea".to_owned(), "4".to_owned())].into());
        client.update(&map).await.expect("the version is current");
        let error = client.update(&map).await.expect_err("the version is old");
        assert_eq!(
            error.to_string(),
            "Operation cannot be fulfilled on configmaps \"prices\": the object has been modified; please apply your \
             changes to the latest version and try again"
        );
    }

    #[tokio::test]
    async fn an_update_that_changes_nothing_writes_nothing() {
        let client = cluster().await;
        let first = client.create(&config_map("prices", json!({ "tea": "3" }))).await.expect("created");
        let again = client.update(&config_map("prices", json!({ "tea": "3" }))).await.expect("updated");
        assert_eq!(first.revision, again.revision);
        let other = client.update(&config_map("prices", json!({ "tea": "4" }))).await.expect("updated");
        assert!(other.revision > again.revision);
    }

    #[tokio::test]
    async fn concurrent_patches_all_survive() {
        let client = cluster().await;
        client.create(&config_map("prices", json!({}))).await.expect("created");
        let patches = (0..20).map(|index| {
            let client = client.clone();
            let patch = Patch::Merge(json!({ "data": { format!("item-{index}"): "1" } }));
            tokio::spawn(async move { client.patch::<ConfigMap>("shop", "prices", "", patch).await })
        });
        for patch in patches.collect::<Vec<_>>() {
            patch.await.expect("no panic").expect("patched");
        }
        let entry = client.store().snapshot().get(&crate::store::Key::new("configmaps", "shop", "prices"));
        let map: Arc<ConfigMap> = entry.expect("there").typed().expect("typed");
        assert_eq!(map.data.as_ref().map(|data| data.len()), Some(20));
    }

    #[tokio::test]
    async fn a_finalizer_keeps_a_deleted_object_until_it_is_removed() {
        let client = cluster().await;
        let mut map = config_map("prices", json!({}));
        map.metadata.finalizers = Some(vec!["shop.example/audit".into()]);
        client.create(&map).await.expect("created");
        client.delete::<ConfigMap>("shop", "prices", Delete::default()).await.expect("accepted");
        let key = crate::store::Key::new("configmaps", "shop", "prices");
        let entry = client.store().snapshot().get(&key).expect("still there");
        assert!(entry.meta.deletion_timestamp.is_some());
        let patch = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
        client.patch::<ConfigMap>("shop", "prices", "", patch).await.expect("patched");
        assert!(client.store().snapshot().get(&key).is_none());
    }

    #[tokio::test]
    async fn a_pod_is_bound_once() {
        let client = cluster().await;
        let uid = client.create(&pod("web")).await.expect("created").meta.uid.clone();
        let wrong = client.bind("shop", "web", "other", "amber").await.expect_err("another pod of this name");
        assert_eq!(wrong.code(), 409);
        client.bind("shop", "web", &uid, "amber").await.expect("bound");
        let again = client.bind("shop", "web", &uid, "birch").await.expect_err("bound already");
        assert_eq!(
            again.to_string(),
            "Operation cannot be fulfilled on pods/binding \"web\": pod web is already assigned to node \"amber\""
        );
    }

    #[tokio::test]
    async fn service_addresses_and_node_ports_are_given_once_and_given_back() {
        let client = cluster().await;
        let ports = json!([{ "port": 80, "nodePort": 30080 }]);
        let spec = json!({ "type": "NodePort", "clusterIP": "127.4.0.10", "ports": ports });
        client.create(&service("front", spec.clone())).await.expect("both are free");
        let error = client.create(&service("back", spec.clone())).await.expect_err("both are taken");
        assert_eq!(
            error.to_string(),
            "Service \"back\" is invalid: [spec.clusterIPs: Invalid value: [\"127.4.0.10\"]: failed to allocate IP \
             127.4.0.10: provided IP is already allocated, spec.ports[0].nodePort: Invalid value: 30080: provided \
             port is already allocated]"
        );
        client.delete::<Service>("shop", "front", Delete::default()).await.expect("deleted");
        client.create(&service("back", spec)).await.expect("both are free again");
    }

    #[tokio::test]
    async fn racing_services_get_different_addresses() {
        let client = cluster().await;
        let creates = (0..40).map(|index| {
            let client = client.clone();
            let spec = json!({ "type": "NodePort", "ports": [{ "port": 80 }] });
            tokio::spawn(async move { client.create(&service(&format!("s{index}"), spec)).await })
        });
        let mut seen = std::collections::BTreeSet::new();
        for create in creates.collect::<Vec<_>>() {
            let entry = create.await.expect("no panic").expect("created");
            let service: Arc<Service> = entry.typed().expect("typed");
            let spec = service.spec.clone().expect("spec");
            let port = spec.ports.and_then(|ports| ports[0].node_port).expect("a node port");
            assert!((30_000..=32_767).contains(&port));
            assert!(seen.insert(spec.cluster_ip.expect("an address")) && seen.insert(port.to_string()));
        }
    }
}
