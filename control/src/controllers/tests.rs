//! Stories told through the front door: all controllers on a store in memory, with a kubelet of their own.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet},
        core::v1::{ConfigMap, Endpoints, Event, Namespace, Node, Pod, Service, ServiceAccount},
        discovery::v1::EndpointSlice,
    },
    jiff::Timestamp,
};
use naru_model::{Object, condition};
use serde_json::{Value, json};
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{ControllerSettings, framework::resource_of, spawn};
use crate::{
    ApiClient,
    client::{Delete, Patch},
    store::{Key, Revision, Scope},
};

const DEADLINE: Duration = Duration::from_secs(30);

/// A control plane without HTTP, and one node's kubelet.
struct Cluster {
    client: ApiClient,
    shutdown: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Cluster {
    async fn start() -> Self {
        let client = ApiClient::in_memory();
        let shutdown = CancellationToken::new();
        for name in ["default", "kube-system", "kube-node-lease"] {
            client.create(&from::<Namespace>(json!({"metadata": {"name": name}}))).await.unwrap();
        }
        let settings = ControllerSettings {
            pod_cidrs: vec!["127.5.0.0/16".into()],
            node_cidr_prefix: 18,
            root_ca: "PEM".into(),
            ..ControllerSettings::default()
        };
        let mut tasks = spawn(client.clone(), settings, shutdown.clone());
        tasks.push(tokio::spawn(kubelet(client.clone(), shutdown.clone())));
        let cluster = Self { client, shutdown, tasks };
        cluster
            .until("the default account", |cluster| {
                cluster.find::<ServiceAccount>("default", "default").is_some()
            })
            .await;
        cluster
    }

    async fn stop(self) {
        self.shutdown.cancel();
        for task in self.tasks {
            tokio::time::timeout(DEADLINE, task).await.expect("a task ends at shutdown").unwrap();
        }
    }

    async fn create<T: Object>(&self, value: Value) -> Arc<T> {
        self.client.create(&from::<T>(value)).await.unwrap().typed().unwrap()
    }

    fn find<T: Object>(&self, namespace: &str, name: &str) -> Option<Arc<T>> {
        let key = Key::new(&resource_of::<T>(), namespace, name);
        self.client.store().snapshot().get(&key).map(|entry| entry.typed().unwrap())
    }

    fn list<T: Object>(&self) -> Vec<Arc<T>> {
        self.client.store().snapshot().list(&Scope::all(&resource_of::<T>()))
    }

    /// Waits for a state, by name and within a deadline.
    async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !is_so(self) {
            assert!(Instant::now() < deadline, "{what} does not come");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn is_rolled_out(&self, name: &str, image: &str) -> bool {
        let Some(deployment) = self.find::<Deployment>("default", name) else { return false };
        let pods = self.list::<Pod>();
        let replicas = deployment.spec.replicas.unwrap_or(1);
        let status = deployment.status.clone().unwrap_or_default();
        let progressing =
            condition::find(status.conditions.as_ref(), "Progressing").and_then(|found| found.reason.clone());
        status.observed_generation == deployment.metadata.generation
            && status.updated_replicas.unwrap_or(0) == replicas
            && status.replicas.unwrap_or(0) == replicas
            && status.available_replicas.unwrap_or(0) == replicas
            && progressing.as_deref() == Some("NewReplicaSetAvailable")
            && pods.iter().all(|pod| pod.spec.as_ref().unwrap().containers[0].image.as_deref() == Some(image))
    }

    fn ready_endpoints(&self) -> usize {
        let slices = self.list::<EndpointSlice>();
        let endpoints = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
        endpoints
            .filter(|endpoint| endpoint.conditions.as_ref().is_some_and(|of| of.ready == Some(true)))
            .count()
    }
}

fn from<T: Object>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn deployment(name: &str, replicas: i32, image: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "main", "image": image}]},
            },
        },
    })
}

/// Binds every pod to `amber`, makes it ready with an address, and finishes those that are to end.
async fn kubelet(client: ApiClient, shutdown: CancellationToken) {
    let mut watch = client.store().watch(Scope::all("pods"), Revision(0)).unwrap();
    let mut address = 0u32;
    loop {
        let event = tokio::select! {
            () = shutdown.cancelled() => return,
            event = watch.next() => event.expect("the kubelet keeps up"),
        };
        let (namespace, name) = (event.entry.key.namespace().to_owned(), event.entry.key.name().to_owned());
        let pod = event.entry.typed::<Pod>().unwrap();
        let client = client.clone();
        if event.kind == crate::store::EventKind::Deleted {
            continue;
        }
        if event.entry.meta.deletion_timestamp.is_some() {
            let options = Delete { grace_period_seconds: Some(0), ..Delete::default() };
            tokio::spawn(async move { client.delete::<Pod>(&namespace, &name, options).await });
        } else if naru_model::pod::node_name(&pod).is_none() {
            address += 1;
            let ip = std::net::Ipv4Addr::from(u32::from(std::net::Ipv4Addr::new(127, 5, 0, 0)) + address)
                .to_string();
            let uid = event.entry.meta.uid.clone();
            tokio::spawn(async move {
                let _ = client.bind(&namespace, &name, &uid, "amber").await;
                let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": Timestamp::now().to_string()});
                let status =
                    json!({"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [ready]});
                let _ = client
                    .patch::<Pod>(&namespace, &name, "status", Patch::Strategic(json!({"status": status})))
                    .await;
            });
        }
    }
}

async fn add_node(cluster: &Cluster) {
    cluster.create::<Node>(json!({"metadata": {"name": "amber"}})).await;
    let now = Timestamp::now().to_string();
    let ready =
        json!({"type": "Ready", "status": "True", "lastHeartbeatTime": now, "lastTransitionTime": now});
    let patch = Patch::Strategic(json!({"status": {"conditions": [ready]}}));
    cluster.client.patch::<Node>("", "amber", "status", patch).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_is_served_rolled_undone_and_deleted() {
    let cluster = Cluster::start().await;
    add_node(&cluster).await;
    let ports = json!([{"port": 80, "targetPort": 8080}]);
    let spec = json!({"selector": {"app": "web"}, "ports": ports});
    cluster
        .create::<Service>(json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec}))
        .await;
    cluster.create::<Deployment>(deployment("web", 5, "hello:1")).await;
    cluster.until("the first rollout", |cluster| cluster.is_rolled_out("web", "hello:1")).await;
    cluster.until("five endpoints", |cluster| cluster.ready_endpoints() == 5).await;
    cluster
        .until("legacy endpoints", |cluster| {
            let endpoints = cluster.find::<Endpoints>("default", "web");
            let subsets = endpoints.and_then(|endpoints| endpoints.subsets.clone()).unwrap_or_default();
            subsets.iter().flat_map(|subset| subset.addresses.iter().flatten()).count() == 5
        })
        .await;

    // A new image rolls through, and going back reuses the first set.
    for (image, revision) in [("hello:2", "2"), ("hello:1", "3")] {
        let patch =
            json!({"spec": {"template": {"spec": {"containers": [{"name": "main", "image": image}]}}}});
        cluster.client.patch::<Deployment>("default", "web", "", Patch::Strategic(patch)).await.unwrap();
        cluster.until(image, |cluster| cluster.is_rolled_out("web", image)).await;
        let deployment = cluster.find::<Deployment>("default", "web").unwrap();
        assert_eq!(
            deployment.metadata.annotations.as_ref().unwrap()["deployment.kubernetes.io/revision"],
            revision
        );
    }
    assert_eq!(cluster.list::<ReplicaSet>().len(), 2);
    cluster.until("five endpoints again", |cluster| cluster.ready_endpoints() == 5).await;

    // In the foreground, the Deployment outlives its pods.
    let options = Delete { propagation_policy: Some("Foreground".into()), ..Delete::default() };
    cluster.client.delete::<Deployment>("default", "web", options).await.unwrap();
    cluster
        .until("the end of the Deployment", |cluster| cluster.find::<Deployment>("default", "web").is_none())
        .await;
    assert_eq!((cluster.list::<ReplicaSet>().len(), cluster.list::<Pod>().len()), (0, 0));
    cluster.until("no endpoints", |cluster| cluster.ready_endpoints() == 0).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_pods_take_few_writes_beside_their_own() {
    let cluster = Cluster::start().await;
    add_node(&cluster).await;
    let spec = json!({"selector": {"app": "web"}, "ports": [{"port": 80}]});
    cluster
        .create::<Service>(json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec}))
        .await;
    let before = cluster.client.store().snapshot().revision();
    let started = Instant::now();
    cluster.create::<Deployment>(deployment("web", 1000, "hello:1")).await;
    cluster.until("a thousand pods", |cluster| cluster.list::<Pod>().len() == 1000).await;
    println!("a thousand pods were created after {:?}", started.elapsed());
    cluster.until("the rollout", |cluster| cluster.is_rolled_out("web", "hello:1")).await;
    cluster.until("a thousand endpoints", |cluster| cluster.ready_endpoints() == 1000).await;
    println!("and available after {:?}", started.elapsed());
    let writes = cluster.client.store().snapshot().revision().0 - before.0;
    println!("{writes} writes");
    // Three per pod are the kubelet's and the API's; what is left is statuses, slices and events.
    assert!((3000..4500).contains(&writes), "{writes} writes for a thousand pods");
    assert!(cluster.list::<Event>().len() < 100);
    assert!(cluster.list::<EndpointSlice>().len() < 25);
    let patch = Patch::Merge(json!({"spec": {"replicas": 0}}));
    cluster.client.patch::<Deployment>("default", "web", "", patch).await.unwrap();
    cluster.until("no pods", |cluster| cluster.list::<Pod>().is_empty()).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_takes_its_contents_along() {
    let cluster = Cluster::start().await;
    add_node(&cluster).await;
    cluster.create::<Namespace>(json!({"metadata": {"name": "shop"}})).await;
    cluster
        .until("the shop's CA", |cluster| cluster.find::<ConfigMap>("shop", "kube-root-ca.crt").is_some())
        .await;
    cluster
        .until("the shop's account", |cluster| cluster.find::<ServiceAccount>("shop", "default").is_some())
        .await;
    let mut front = deployment("front", 3, "hello:1");
    front["metadata"]["namespace"] = json!("shop");
    cluster.create::<Deployment>(front).await;
    cluster.until("three pods", |cluster| cluster.list::<Pod>().len() == 3).await;
    cluster.client.delete::<Namespace>("", "shop", Delete::default()).await.unwrap();
    cluster.until("the end of the shop", |cluster| cluster.find::<Namespace>("", "shop").is_none()).await;
    let snapshot = cluster.client.store().snapshot();
    for info in cluster.client.resources().iter().filter(|info| info.namespaced) {
        assert_eq!(snapshot.count(&Scope::namespace(&info.qualified(), "shop")), 0, "{}", info.plural);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_gets_a_pod_range() {
    let cluster = Cluster::start().await;
    add_node(&cluster).await;
    let range = |cluster: &Cluster| {
        cluster.find::<Node>("", "amber").and_then(|node| node.spec.as_ref()?.pod_cidr.clone())
    };
    cluster.until("the range", |cluster| range(cluster).as_deref() == Some("127.5.0.0/18")).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_pods_come_back_and_a_set_orphans_its_pods_when_asked_to() {
    let cluster = Cluster::start().await;
    add_node(&cluster).await;
    cluster.create::<Deployment>(deployment("web", 3, "hello:1")).await;
    cluster.until("the rollout", |cluster| cluster.is_rolled_out("web", "hello:1")).await;
    let victim = cluster.list::<Pod>().remove(0);
    cluster.client.delete::<Pod>("default", victim.name(), Delete::default()).await.unwrap();
    cluster
        .until("a replacement", |cluster| {
            cluster.list::<Pod>().len() == 3 && cluster.find::<Pod>("default", victim.name()).is_none()
        })
        .await;
    let set = cluster.list::<ReplicaSet>().remove(0);
    let options = Delete { propagation_policy: Some("Orphan".into()), ..Delete::default() };
    cluster.client.delete::<Deployment>("default", "web", options).await.unwrap();
    cluster
        .until("the end of the Deployment", |cluster| cluster.find::<Deployment>("default", "web").is_none())
        .await;
    let orphan = cluster.find::<ReplicaSet>("default", set.name()).expect("the set stays");
    assert!(orphan.metadata.owner_references.is_none());
    assert_eq!(cluster.list::<Pod>().len(), 3);
    cluster.stop().await;
}
