use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Event, Pod};
use naru_model::pod::node_name;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::run;
use crate::{
    ApiError,
    scheduler::{BindFailure, Cluster, PodInfo},
    store::{Change, Draft, Key, Op, Precondition, Scope, Store},
};

/// A store that is written to directly, without an API before it.
struct Bare {
    store: Store,
    events: Mutex<Vec<String>>,
    /// So many binds are refused first.
    refusals: AtomicUsize,
}

impl Bare {
    async fn put(&self, resource: &str, namespace: &str, value: Value) {
        let name = value["metadata"]["name"].as_str().expect("a name").to_owned();
        let draft = Draft::from_value(&value).expect("it serializes");
        let key = Key::new(resource, namespace, &name);
        let op = Op { key, precondition: Precondition::Any, change: Change::Put(draft) };
        self.store.transact(vec![op]).await.expect("it is written");
    }

    async fn pod(&self, name: &str, cpu: &str) {
        let value = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "d", "uid": name},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}});
        self.put("pods", "d", value).await;
    }

    async fn node(&self, name: &str, cpu: &str) {
        let value = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
            "status": {"allocatable": {"cpu": cpu, "pods": "1000"}}});
        self.put("nodes", "", value).await;
    }

    fn pods(&self) -> Vec<Arc<Pod>> {
        self.store.snapshot().list(&Scope::all("pods"))
    }

    fn bound(&self) -> usize {
        self.pods().iter().filter(|pod| node_name(pod).is_some()).count()
    }

    fn events(&self) -> Vec<String> {
        self.events.lock().expect("no panic").clone()
    }
}

#[async_trait]
impl Cluster for Bare {
    fn store(&self) -> &Store {
        &self.store
    }

    async fn bind(&self, pod: &PodInfo, node: &str) -> Result<(), BindFailure> {
        let refused =
            self.refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if refused.is_ok() {
            return Err(BindFailure::Refused("not now".into()));
        }
        let mut value = serde_json::to_value(&*pod.pod).expect("it serializes");
        value["spec"]["nodeName"] = node.into();
        self.put("pods", pod.namespace(), value).await;
        Ok(())
    }

    async fn patch_pod_status(&self, pod: &PodInfo, patch: Value) -> Result<(), ApiError> {
        let mut value = serde_json::to_value(&*pod.pod).expect("it serializes");
        json_patch::merge(&mut value, &patch);
        self.put("pods", pod.namespace(), value).await;
        Ok(())
    }

    async fn create_event(&self, event: &Event) -> Result<(), ApiError> {
        let (reason, message) = (event.reason.as_deref(), event.message.as_deref());
        let text = format!("{}: {}", reason.unwrap_or_default(), message.unwrap_or_default());
        self.events.lock().expect("no panic").push(text);
        Ok(())
    }

    async fn patch_event(&self, _namespace: &str, _name: &str, _patch: Value) -> Result<(), ApiError> {
        Ok(())
    }
}

fn start() -> (Arc<Bare>, CancellationToken, tokio::task::JoinHandle<()>) {
    let bare =
        Arc::new(Bare { store: Store::in_memory(), events: Mutex::default(), refusals: AtomicUsize::new(0) });
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(run(bare.clone(), 1, shutdown.clone()));
    (bare, shutdown, task)
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("in time: {what}"));
}

#[tokio::test]
async fn pods_are_bound_and_told_so() {
    let (cluster, shutdown, task) = start();
    cluster.node("n", "4").await;
    cluster.pod("a", "1").await;
    eventually("it is bound", || cluster.bound() == 1).await;
    eventually("it is told", || cluster.events() == ["Scheduled: Successfully assigned d/a to n"]).await;
    shutdown.cancel();
    task.await.expect("it ends");
}

#[tokio::test]
async fn a_pod_that_fits_nowhere_says_why_and_is_bound_when_a_node_comes() {
    let (cluster, shutdown, task) = start();
    cluster.node("small", "1").await;
    cluster.pod("a", "2").await;
    let refusal = "0/1 nodes are available: 1 Insufficient cpu.";
    eventually("the event", || cluster.events() == [format!("FailedScheduling: {refusal}")]).await;
    eventually("the condition", || {
        let conditions = cluster.pods()[0].status.as_ref().and_then(|status| status.conditions.clone());
        let found = naru_model::condition::find(conditions.as_ref(), "PodScheduled").cloned();
        found.is_some_and(|found| found.status == "False" && found.message.as_deref() == Some(refusal))
    })
    .await;
    cluster.node("big", "2").await;
    eventually("it is bound", || cluster.pods().iter().all(|pod| node_name(pod) == Some("big"))).await;
    shutdown.cancel();
    task.await.expect("it ends");
}

#[tokio::test]
async fn many_pods_are_bound_at_once_within_the_nodes_limits() {
    let (cluster, shutdown, task) = start();
    for number in 0..10 {
        cluster.node(&format!("n{number}"), "10").await;
    }
    for number in 0..600 {
        cluster.pod(&format!("p{number}"), "200m").await;
    }
    // 10 nodes of 10 cpus hold 500 pods of 0.2.
    eventually("500 are bound", || cluster.bound() == 500).await;
    let mut used = std::collections::BTreeMap::<String, usize>::new();
    for pod in cluster.pods() {
        if let Some(node) = node_name(&pod) {
            *used.entry(node.into()).or_default() += 1;
        }
    }
    assert!(used.len() == 10 && used.values().all(|count| *count == 50), "{used:?}");
    shutdown.cancel();
    task.await.expect("it ends");
}

#[tokio::test]
async fn a_refused_bind_is_tried_again_after_its_backoff() {
    let (cluster, shutdown, task) = start();
    cluster.refusals.store(1, Ordering::SeqCst);
    cluster.node("n", "4").await;
    cluster.pod("a", "1").await;
    let started = std::time::Instant::now();
    eventually("it is bound", || cluster.bound() == 1).await;
    assert!(started.elapsed() >= Duration::from_secs(1), "{:?}", started.elapsed());
    assert_eq!(cluster.events()[0], "FailedScheduling: binding rejected: not now");
    shutdown.cancel();
    task.await.expect("it ends");
}

#[tokio::test]
async fn through_the_api_conditions_and_events_are_written() {
    let client = crate::ApiClient::in_memory();
    let shutdown = CancellationToken::new();
    let task = crate::scheduler::spawn(client.acting_as("system:kube-scheduler"), shutdown.clone());
    let namespace: k8s_openapi::api::core::v1::Namespace = typed(json!({"metadata": {"name": "shop"}}));
    client.create(&namespace).await.expect("the namespace is created");
    let account = json!({"metadata": {"name": "default", "namespace": "shop"}});
    let account: k8s_openapi::api::core::v1::ServiceAccount = typed(account);
    client.create(&account).await.expect("the account is created");
    let pod = json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    client.create(&typed::<Pod>(pod)).await.expect("the pod is created");
    let store = client.store().clone();
    let condition = || {
        let pod = store.snapshot().list::<Pod>(&Scope::all("pods")).pop().expect("the pod");
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        let found = naru_model::condition::find(conditions, "PodScheduled");
        found.map(|found| (found.status.clone(), found.message.clone().unwrap_or_default()))
    };
    let refused = ("False".to_owned(), "no nodes available to schedule pods".to_owned());
    eventually("it is refused", || condition().as_ref() == Some(&refused)).await;
    let node = json!({"metadata": {"name": "n"}, "status": {"allocatable": {"cpu": "1", "pods": "9"}, "capacity": {"cpu": "1", "pods": "9"}}});
    client.create(&typed::<k8s_openapi::api::core::v1::Node>(node)).await.expect("the node is created");
    // A new node is not ready for anyone who has not seen it to be.
    let ready = crate::client::Patch::Merge(json!({"spec": {"taints": null}}));
    client.patch::<k8s_openapi::api::core::v1::Node>("", "n", "", ready).await.expect("the taint is gone");
    eventually("it is bound", || condition().is_some_and(|(status, _)| status == "True")).await;
    let told = |reason: &str| {
        let events = store.snapshot().list::<Event>(&Scope::all("events"));
        events.iter().any(|event| event.reason.as_deref() == Some(reason))
    };
    eventually("both are told", || told("FailedScheduling") && told("Scheduled")).await;
    shutdown.cancel();
    task.await.expect("it ends");
}

fn typed<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a valid object")
}
