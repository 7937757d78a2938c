//! How fast pods are placed: simulated (5,000 nodes, 100,000 pods), and through the API over a store in memory.
//!
//! `cargo bench -p naru-control --bench scheduler` prints a table; `-- --quick` takes a tenth of it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, ServiceAccount};
use naru_control::{
    ApiClient,
    scheduler::{
        self,
        core::{BindResult, Core, Decision},
        plugins::default_profile,
    },
    store::Scope,
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const RUNS: usize = 3;
const WORKLOADS: usize = 1_000;

fn main() {
    let scale = if std::env::args().any(|argument| argument == "--quick") { 10 } else { 1 };
    println!("| what | nodes | pods | median pods/s | worst decision |");
    println!("| --- | --- | --- | --- | --- |");
    for (nodes, pods) in
        [(5_000 / scale, 100_000 / scale), (1_000 / scale, 100_000 / scale), (100, 10_000 / scale)]
    {
        let mut runs: Vec<_> = (0..RUNS).map(|_| simulate(nodes, pods)).collect();
        runs.sort_by(|left, right| left.0.total_cmp(&right.0));
        let (rate, worst) = runs[RUNS / 2];
        println!("| simulated | {nodes} | {pods} | {rate:.0} | {worst:.1?} |");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    for (nodes, pods) in [(1_000 / scale, 10_000 / scale), (100, 10_000 / scale)] {
        let mut runs: Vec<_> = (0..RUNS).map(|_| runtime.block_on(through_api(nodes, pods))).collect();
        runs.sort_by(f64::total_cmp);
        println!("| through the API, store in memory | {nodes} | {pods} | {:.0} | |", runs[RUNS / 2]);
    }
}

/// Pods per second, and the longest that one decision took. What the watch would tell of a bind is told as well.
fn simulate(nodes: usize, pods: usize) -> (f64, Duration) {
    let mut core = Core::new(default_profile(), 1);
    for number in 0..nodes {
        core.node_added_or_changed(Arc::new(typed(node(number))));
    }
    let pods: Vec<Arc<Pod>> = (0..pods).map(|number| Arc::new(typed(pod(number)))).collect();
    let started = Instant::now();
    for pod in &pods {
        core.pod_added_or_changed(pod, Duration::ZERO);
    }
    let (mut placed, mut worst) = (0, Duration::ZERO);
    loop {
        let before = Instant::now();
        let Some(decision) = core.next(Duration::ZERO) else { break };
        worst = worst.max(before.elapsed());
        let Decision::Bind { pod, node } = decision else { panic!("every pod fits") };
        let mut bound = (*pod.pod).clone();
        bound.spec.get_or_insert_default().node_name = Some(node.to_string());
        core.pod_added_or_changed(&Arc::new(bound), Duration::ZERO);
        core.bound(&pod, &node, BindResult::Done, Duration::ZERO);
        placed += 1;
    }
    assert_eq!(placed, pods.len());
    (placed as f64 / started.elapsed().as_secs_f64(), worst)
}

/// Pods per second from the scheduler's start, all pods waiting, until the last is bound.
async fn through_api(nodes: usize, pods: usize) -> f64 {
    let client = ApiClient::in_memory();
    let namespace: Namespace = typed(json!({"metadata": {"name": "default"}}));
    client.create(&namespace).await.expect("the namespace");
    let account: ServiceAccount = typed(json!({"metadata": {"name": "default", "namespace": "default"}}));
    client.create(&account).await.expect("the account");
    for number in 0..nodes {
        let made = client.create(&typed::<Node>(node(number))).await.expect("a node");
        let mut made = (*made.typed::<Node>().expect("a node")).clone();
        // New nodes are tainted until they are seen to be ready, and nobody looks after these.
        made.spec.get_or_insert_default().taints = None;
        client.update(&made).await.expect("a node without taints");
    }
    for number in 0..pods {
        client.create(&typed::<Pod>(pod(number))).await.expect("a pod");
    }
    let shutdown = CancellationToken::new();
    let store = client.store().clone();
    let mut watch = store.watch(Scope::all("pods"), store.snapshot().revision()).expect("a watch");
    let started = Instant::now();
    let task = scheduler::spawn(client.acting_as("system:kube-scheduler"), shutdown.clone());
    let mut bound = 0;
    while bound < pods {
        let event = watch.next().await.expect("the history is long enough");
        let node = |entry: &naru_control::store::Entry| {
            entry
                .typed::<Pod>()
                .ok()
                .and_then(|pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone()))
        };
        let was_bound = event.previous.as_deref().is_some_and(|previous| node(previous).is_some());
        bound += usize::from(!was_bound && node(&event.entry).is_some());
    }
    let rate = pods as f64 / started.elapsed().as_secs_f64();
    shutdown.cancel();
    task.await.expect("it ends");
    rate
}

fn typed<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a valid object")
}

fn node(number: usize) -> Value {
    json!({
        "metadata": {"name": format!("node-{number}"), "uid": format!("node-{number}"), "labels": {"zone": format!("zone-{}", number % 3)}},
        "status": {"allocatable": {"cpu": "32", "memory": "128Gi", "pods": "250"}, "capacity": {"cpu": "32", "memory": "128Gi", "pods": "250"}},
    })
}

fn pod(number: usize) -> Value {
    let workload = format!("workload-{}", number % WORKLOADS);
    let (cpu, memory) = [("50m", "64Mi"), ("100m", "128Mi"), ("250m", "256Mi")][number % 3];
    json!({
        "metadata": {
            "name": format!("pod-{number}"), "namespace": "default", "uid": format!("pod-{number}"),
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": workload, "uid": workload, "controller": true}],
        },
        "spec": {"containers": [{"name": "main", "image": "main", "resources": {"requests": {"cpu": cpu, "memory": memory}}}]},
    })
}
