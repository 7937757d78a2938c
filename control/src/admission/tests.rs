//! Admission through the road that every write takes.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    ConfigMap, LimitRange, Namespace, PersistentVolumeClaim, Pod, ResourceQuota, ServiceAccount,
};
use k8s_openapi::api::{apps::v1::Deployment, storage::v1::StorageClass};
use naru_model::Object;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    ApiClient, ApiError,
    auth::{Authorizer, User},
    client::{Delete, Patch},
    notes::Notes,
    registry::{Call, Kinds, Registry},
    store::{Change, Draft, Key, Op, Precondition, Scope, Store},
};

fn object<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a valid object")
}

/// A cluster with the namespace `shop`.
async fn cluster(labels: Value) -> ApiClient {
    let client = ApiClient::in_memory();
    let namespace: Namespace = object(json!({ "metadata": { "name": "shop", "labels": labels } }));
    client.create(&namespace).await.expect("a namespace");
    let account: ServiceAccount = object(json!({ "metadata": { "name": "default", "namespace": "shop" } }));
    client.create(&account).await.expect("an account");
    client
}

/// Puts an object where admission finds it.
async fn put<T: Object>(client: &ApiClient, resource: &str, object: &T) {
    let key = Key::new(resource, object.namespace(), object.name());
    let change = Change::Put(Draft::new(object).expect("objects serialize"));
    client.store().transact(vec![Op { key, precondition: Precondition::Any, change }]).await.expect("stored");
}

fn pod(name: &str, resources: &Value) -> Pod {
    let containers = json!([{ "name": "web", "image": "hello.wasm", "resources": resources }]);
    object(json!({ "metadata": { "name": name, "namespace": "shop" }, "spec": { "containers": containers } }))
}

fn quota(hard: Value) -> ResourceQuota {
    object(json!({ "metadata": { "name": "all", "namespace": "shop" }, "spec": { "hard": hard } }))
}

fn used(client: &ApiClient) -> Value {
    let entry = client.store().snapshot().get(&Key::new("resourcequotas", "shop", "all")).expect("a quota");
    let value: Value = serde_json::from_slice(&entry.json).expect("json");
    value["status"]["used"].clone()
}

fn text<T>(outcome: Result<T, ApiError>) -> String {
    outcome.err().map(|error| error.to_string()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_quota_is_never_exceeded_and_never_leaks() {
    let client = cluster(json!({})).await;
    put(&client, "resourcequotas", &quota(json!({ "pods": "20", "requests.cpu": "1" }))).await;
    let creates = (0..64).map(|index| {
        let client = client.clone();
        // A third of them names a pod that another one makes, too.
        let name = format!("web-{}", if index % 3 == 0 { index } else { index - index % 3 });
        let pod = pod(&name, &json!({ "requests": { "cpu": "50m" } }));
        tokio::spawn(async move { client.create(&pod).await })
    });
    let mut created = 0;
    for create in creates.collect::<Vec<_>>() {
        match create.await.expect("no panic") {
            Ok(_) => created += 1,
            Err(ApiError::AlreadyExists { .. }) => (),
            Err(error) => assert!(error.to_string().contains("exceeded quota: all"), "{error}"),
        }
    }
    assert_eq!(created, 20);
    assert_eq!(used(&client), json!({ "pods": "20", "requests.cpu": "1" }));
    let refused = text(client.create(&pod("more", &json!({ "requests": { "cpu": "50m" } }))).await);
    assert_eq!(
        refused,
        "pods \"more\" is forbidden: exceeded quota: all, requested: pods=1,requests.cpu=50m, used: \
         pods=20,requests.cpu=1, limited: pods=20,requests.cpu=1"
    );
}

#[tokio::test]
async fn a_quota_of_compute_wants_to_be_told() {
    let client = cluster(json!({})).await;
    put(&client, "resourcequotas", &quota(json!({ "limits.memory": "1Gi", "count/configmaps": "1" }))).await;
    assert_eq!(
        text(client.create(&pod("web", &json!({}))).await),
        "pods \"web\" is forbidden: failed quota: all: must specify limits.memory for: web"
    );
    let map =
        |name: &str| -> ConfigMap { object(json!({ "metadata": { "name": name, "namespace": "shop" } })) };
    client.create(&map("first")).await.expect("there is room");
    assert_eq!(
        text(client.create(&map("second")).await),
        "configmaps \"second\" is forbidden: exceeded quota: all, requested: count/configmaps=1, used: \
         count/configmaps=1, limited: count/configmaps=1"
    );
    client.delete::<ConfigMap>("shop", "first", Delete::default()).await.expect("deleted");
    assert_eq!(
        used(&client),
        json!({ "count/configmaps": "1", "limits.memory": "0" }),
        "until it is recounted"
    );
}

#[tokio::test]
async fn limit_ranges_fill_in_and_refuse() {
    let client = cluster(json!({})).await;
    let limits = json!([{ "type": "Container", "default": { "cpu": "1" }, "max": { "cpu": "2" } }]);
    let range: LimitRange = object(
        json!({ "metadata": { "name": "bounds", "namespace": "shop" }, "spec": { "limits": limits } }),
    );
    put(&client, "limitranges", &range).await;
    let entry = client.create(&pod("web", &json!({}))).await.expect("created");
    let stored: Value = serde_json::from_slice(&entry.json).expect("json");
    assert_eq!(stored["spec"]["containers"][0]["resources"]["limits"], json!({ "cpu": "1" }));
    assert_eq!(
        text(client.create(&pod("big", &json!({ "limits": { "cpu": "3" } }))).await),
        "pods \"big\" is forbidden: maximum cpu usage per Container is 2, but limit is 3"
    );
}

const RESTRICTED: &str = "violates PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false (container \
                          \"web\" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities \
                          (container \"web\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != \
                          true (pod or container \"web\" must set securityContext.runAsNonRoot=true), seccompProfile \
                          (pod or container \"web\" must set securityContext.seccompProfile.type to \
                          \"RuntimeDefault\" or \"Localhost\")";

#[tokio::test]
async fn a_restricted_namespace_takes_pods_that_say_what_they_do_not_need() {
    let client = cluster(json!({ "pod-security.kubernetes.io/enforce": "restricted" })).await;
    let mut web = pod("web", &json!({}));
    assert_eq!(text(client.create(&web).await), format!("pods \"web\" is forbidden: {RESTRICTED}"));
    let user = User::internal("system:apiserver");
    let served = Arc::clone(client.registry().kinds().of::<Deployment>().expect("served"));
    let template = json!({ "metadata": { "labels": { "app": "web" } }, "spec": web.spec });
    let spec = json!({ "selector": { "matchLabels": { "app": "web" } }, "template": template });
    let deployment: Deployment =
        object(json!({ "metadata": { "name": "web", "namespace": "shop" }, "spec": spec }));
    let notes = Notes::new(true);
    let call = Call { notes: Some(&notes), ..Call::of(&user, &served, "shop", "") };
    client.registry().create(&call, Box::new(deployment)).await.expect("workloads are let in");
    assert_eq!(notes.take_warnings(), [format!("would {}", RESTRICTED.replacen("violates", "violate", 1))]);
    let spec = web.spec.get_or_insert_default();
    spec.security_context =
        Some(object(json!({ "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } })));
    spec.containers[0].security_context =
        Some(object(json!({ "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } })));
    client.create(&web).await.expect("nothing is wrong with it");
}

#[tokio::test]
async fn a_namespace_with_unreadable_labels_is_refused() {
    let client = cluster(json!({})).await;
    let patch = json!({ "metadata": { "labels": { "pod-security.kubernetes.io/warn": "strict" } } });
    assert_eq!(
        text(client.patch::<Namespace>("", "shop", "", Patch::Merge(patch)).await),
        "Namespace \"shop\" is invalid: metadata.labels[pod-security.kubernetes.io/warn]: Invalid value: \"strict\": \
         must be one of privileged, baseline, restricted"
    );
}

#[tokio::test]
async fn claims_get_the_newest_default_class_and_stay_while_in_use() {
    let client = cluster(json!({})).await;
    for (name, created) in [("old", "2026-01-01T00:00:00Z"), ("new", "2026-01-02T00:00:00Z")] {
        let annotations = json!({ "storageclass.kubernetes.io/is-default-class": "true" });
        let metadata = json!({ "name": name, "creationTimestamp": created, "annotations": annotations });
        let class: StorageClass = object(json!({ "metadata": metadata, "provisioner": "example.com/disk" }));
        put(&client, "storageclasses.storage.k8s.io", &class).await;
    }
    let spec = json!({ "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } });
    let claim: PersistentVolumeClaim =
        object(json!({ "metadata": { "name": "data", "namespace": "shop" }, "spec": spec }));
    let entry = client.create(&claim).await.expect("created");
    let stored: Value = serde_json::from_slice(&entry.json).expect("json");
    assert_eq!(stored["spec"]["storageClassName"], "new");
    assert_eq!(stored["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
    let bound = Patch::Merge(json!({ "status": { "phase": "Bound" } }));
    client.patch::<PersistentVolumeClaim>("shop", "data", "status", bound).await.expect("it is bound");
    let grow = json!({ "spec": { "resources": { "requests": { "storage": "2Gi" } } } });
    assert_eq!(
        text(client.patch::<PersistentVolumeClaim>("shop", "data", "", Patch::Merge(grow)).await),
        "persistentvolumeclaims \"data\" is forbidden: only dynamically provisioned pvc can be resized and the \
         storageclass that provisions the pvc must support resize"
    );
}

/// The same on a disk, where writes take their time.
async fn durable_cluster(dir: &std::path::Path) -> ApiClient {
    let store = Store::open(dir).await.expect("a store");
    let authorizer = Arc::new(Authorizer::of_defaults());
    let registry = Registry::new(store, Kinds::builtin(), Default::default(), authorizer);
    let client = ApiClient::new(registry, "system:apiserver");
    let namespace: Namespace = object(json!({ "metadata": { "name": "shop" } }));
    client.create(&namespace).await.expect("a namespace");
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn creators_build_on_each_other_and_no_quota_is_exceeded_or_leaked() {
    const CREATORS: usize = 64;
    let dir = tempfile::tempdir().expect("a folder");
    let client = durable_cluster(dir.path()).await;
    put(&client, "resourcequotas", &quota(json!({ "count/configmaps": "40", "pods": "1" }))).await;
    // Each name is wanted twice, so that some of what others build on comes to nothing.
    let creators: Vec<_> = (0..CREATORS * 2)
        .map(|index| {
            let name = format!("map-{}", index / 2);
            let map: ConfigMap = object(json!({ "metadata": { "name": name, "namespace": "shop" } }));
            let client = client.clone();
            tokio::spawn(
                async move { client.create(&map).await.map(drop).map_err(|error| error.to_string()) },
            )
        })
        .collect();
    let mut created = 0;
    for creator in creators {
        match creator.await.expect("no panic") {
            Ok(()) => created += 1,
            Err(refusal) => assert!(
                refusal.contains(
                    "exceeded quota: all, requested: count/configmaps=1, used: count/configmaps=40"
                ) || refusal.ends_with("already exists"),
                "{refusal}"
            ),
        }
    }
    let stored = client.store().snapshot().count(&Scope::namespace("configmaps", "shop"));
    assert_eq!((created, stored), (40, 40));
    assert_eq!(used(&client)["count/configmaps"], "40");
    client.store().close().await;
    drop(client);
    // It is the same after a restart, as nothing of it was only in memory.
    let store = Store::open(dir.path()).await.expect("the same store");
    let entry = store.snapshot().get(&Key::new("resourcequotas", "shop", "all")).expect("the quota");
    assert!(String::from_utf8_lossy(&entry.json).contains(r#""count/configmaps":"40""#));
    assert_eq!(store.snapshot().count(&Scope::namespace("configmaps", "shop")), 40);
}
