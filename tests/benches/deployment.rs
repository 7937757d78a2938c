//! A Deployment from 0 to 1,000 wasm pods Ready on one node, and what they take in memory.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{WatchEvent, WatchParams},
};
use naru_tests::{
    Cluster,
    bench::{Samples, Table, children, private_mib, report, resident_mib},
};

const RUNS: usize = 5;
/// As many as one node takes.
const CROWD: usize = 10_000;
/// After so long without news, what is only of use to the busy has been given back.
const REST: Duration = Duration::from_secs(35);

/// When each stage of a pod was first seen.
#[derive(Default, Clone, Copy)]
struct Seen {
    created: Option<Duration>,
    bound: Option<Duration>,
    running: Option<Duration>,
    ready: Option<Duration>,
}

#[tokio::main]
async fn main() {
    let pods: usize = std::env::var("PODS").ok().and_then(|text| text.parse().ok()).unwrap_or(1000);
    let mut stages: [Samples; 4] = Default::default();
    let (mut control, mut runtime, mut per_pod) =
        (Samples::default(), Samples::default(), Samples::default());
    for _ in 0..RUNS {
        let cluster = Cluster::start();
        cluster.import_samples(&["hello"]);
        warm_up(&cluster);
        let idle = private_of_all(&cluster);
        let seen = roll_out(&cluster, pods).await;
        let last = |stage: fn(&Seen) -> Option<Duration>| {
            seen.values().filter_map(stage).max().map_or(f64::NAN, |last| last.as_secs_f64() * 1000.0)
        };
        stages[0].push(last(|seen| seen.created));
        stages[1].push(last(|seen| seen.bound));
        stages[2].push(last(|seen| seen.running));
        stages[3].push(last(|seen| seen.ready));
        control.push(resident_mib(cluster.pid()));
        runtime.push(children(cluster.pid()).iter().map(|pid| resident_mib(*pid)).sum());
        per_pod.push((private_of_all(&cluster) - idle) * 1024.0 / pods as f64);
    }
    let crowd = crowd().await;
    let mut table = Table::new(&["what", "median", "min", "max", "target"]);
    let mut row = |name: &str, samples: &Samples, unit: &str, target: &str| {
        let cell = |value: f64| format!("{value:.0} {unit}");
        table.row(&[
            name.into(),
            cell(samples.median()),
            cell(samples.min()),
            cell(samples.max()),
            target.into(),
        ]);
    };
    row(&format!("{pods} pods: the last is created (API write)"), &stages[0], "ms", "");
    row("the last is bound (scheduling)", &stages[1], "ms", "");
    row("the last is Running (agent and runtime)", &stages[2], "ms", "");
    row("the last is Ready (status)", &stages[3], "ms", "< 1,500 ms for 1,000");
    row("control plane and agent, resident", &control, "MiB", "");
    row("runtime, resident", &runtime, "MiB", "");
    row("memory of all processes that a pod adds at that moment, private", &per_pod, "KiB", "");
    row(&format!("{CROWD} pods: the last is Ready"), &crowd.ready, "ms", "");
    row("pods of these that answer", &crowd.answering, "pods", "10,000 pods");
    row("memory of all processes that a pod adds, private, at rest", &crowd.per_pod, "KiB", "< 64 KiB");
    row("control plane and agent, resident, at rest", &crowd.control, "MiB", "");
    row("runtime, resident, at rest", &crowd.runtime, "MiB", "");
    report("deployment", "cargo bench -p naru-tests --bench deployment", &table);
}

fn private_of_all(cluster: &Cluster) -> f64 {
    private_mib(cluster.pid()) + children(cluster.pid()).iter().map(|pid| private_mib(*pid)).sum::<f64>()
}

/// What is measured of a full node.
#[derive(Default)]
struct Crowd {
    ready: Samples,
    answering: Samples,
    per_pod: Samples,
    control: Samples,
    runtime: Samples,
}

/// One roll-out of as many pods as a node takes; each is asked once, and then they are left alone.
async fn crowd() -> Crowd {
    let cluster = Cluster::start();
    cluster.import_samples(&["hello"]);
    let idle = private_of_all(&cluster);
    let mut crowd = Crowd::default();
    let seen = roll_out(&cluster, CROWD).await;
    let ready = seen.values().filter_map(|of| of.ready).max().expect("all are ready");
    crowd.ready.push(ready.as_secs_f64() * 1000.0);
    crowd.answering.push(count_answering(&cluster).await as f64);
    tokio::time::sleep(REST).await;
    crowd.per_pod.push((private_of_all(&cluster) - idle) * 1024.0 / CROWD as f64);
    crowd.control.push(resident_mib(cluster.pid()));
    crowd.runtime.push(children(cluster.pid()).iter().map(|pid| resident_mib(*pid)).sum());
    crowd
}

async fn count_answering(cluster: &Cluster) -> usize {
    let api: Api<Pod> = Api::default_namespaced(cluster.client().await);
    let pods = api.list(&Default::default()).await.expect("a list");
    let client = cluster.http();
    let mut answering = 0;
    for pod in pods {
        let address = pod.status.and_then(|status| status.pod_ip).expect("an address");
        let answer = client.get(format!("http://{address}:8080/")).send().await;
        answering += usize::from(answer.is_ok_and(|answer| answer.status().is_success()));
    }
    answering
}

/// One pod first, so that the image is on the node and compiled, as on a node that has been up for a while.
fn warm_up(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    kubectl.run(&["create", "deployment", "warm", "--image=hello:v1", "--port=8080"]).ok();
    kubectl.run(&["rollout", "status", "deployment/warm", "--timeout=60s"]).ok();
    kubectl.run(&["delete", "deployment", "warm", "--cascade=foreground"]).ok();
}

async fn roll_out(cluster: &Cluster, pods: usize) -> HashMap<String, Seen> {
    let kubectl = cluster.kubectl();
    kubectl.run(&["create", "deployment", "web", "--image=hello:v1", "--port=8080", "--replicas=0"]).ok();
    let api: Api<Pod> = Api::default_namespaced(cluster.client().await);
    let params = WatchParams::default().labels("app=web");
    let mut events = api.watch(&params, "0").await.expect("a watch").boxed();
    let started = Instant::now();
    let patch = serde_json::json!({ "spec": { "replicas": pods } });
    let scaled = tokio::spawn({
        let deployments: Api<k8s_openapi::api::apps::v1::Deployment> =
            Api::default_namespaced(cluster.client().await);
        async move {
            deployments
                .patch("web", &Default::default(), &kube::api::Patch::Merge(patch))
                .await
                .expect("a patch");
        }
    });
    let mut seen: HashMap<String, Seen> = HashMap::new();
    let mut ready = 0;
    while ready < pods {
        let next = tokio::time::timeout(Duration::from_mins(2), events.try_next()).await;
        let event =
            next.expect("pods become ready in time").expect("the watch goes on").expect("it does not end");
        let (WatchEvent::Added(pod) | WatchEvent::Modified(pod)) = event else { continue };
        let now = started.elapsed();
        let of = seen.entry(pod.metadata.name.clone().unwrap_or_default()).or_default();
        of.created.get_or_insert(now);
        if pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()) {
            of.bound.get_or_insert(now);
        }
        let status = pod.status.unwrap_or_default();
        if status.phase.as_deref() == Some("Running") {
            of.running.get_or_insert(now);
        }
        let conditions = status.conditions.unwrap_or_default();
        if of.ready.is_none() && conditions.iter().any(|of| of.type_ == "Ready" && of.status == "True") {
            of.ready = Some(now);
            ready += 1;
        }
    }
    scaled.await.expect("the patch was sent");
    seen
}
