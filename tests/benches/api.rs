//! The API server under 1, 16 and 64 clients: create, get, patch, list and watch, with pods of about 5 kB.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use naru_tests::{
    Cluster,
    bench::{Samples, Table, report},
    raw_client::{Connection, Target},
};

const RUN: Duration = Duration::from_secs(3);
const POD_BYTES: usize = 5000;

#[tokio::main]
async fn main() {
    let cluster = Cluster::start();
    let target = Target::from_kubeconfig(&cluster.kubeconfig());
    let mut table = Table::new(&["what", "clients", "per second", "p50", "p99", "target"]);
    for clients in [1, 16, 64] {
        let at = |rate: &str| if clients == 64 { rate.to_owned() } else { String::new() };
        let created = load(&target, clients, Request::Create).await;
        table.row(&created.row("create Pod", clients, &at("≥ 5,000")));
        let got = load(&target, clients, Request::Get).await;
        table.row(&got.row("get Pod", clients, &at("≥ 20,000")));
        let patched = load(&target, clients, Request::Patch).await;
        table.row(&patched.row("strategic patch Pod", clients, &at("≥ 4,000")));
    }
    list(&target, &mut table).await;
    watch(&cluster, &target, &mut table).await;
    report("api", "cargo bench -p naru-tests --bench api", &table);
}

#[derive(Clone, Copy)]
enum Request {
    Create,
    Get,
    Patch,
}

struct Load {
    count: usize,
    elapsed: Duration,
    latencies: Samples,
}

impl Load {
    fn row(&self, what: &str, clients: usize, target: &str) -> [String; 6] {
        let rate = self.count as f64 / self.elapsed.as_secs_f64();
        let millis = |value: f64| format!("{value:.2} ms");
        let (p50, p99) = (self.latencies.median(), self.latencies.quantile(0.99));
        [what.into(), clients.to_string(), format!("{rate:.0}"), millis(p50), millis(p99), target.into()]
    }
}

/// A pod that no node takes, of about `POD_BYTES`.
fn pod(name: &str) -> Bytes {
    let padding = "x".repeat(POD_BYTES - 600);
    let pod = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "annotations": { "padding": padding } },
        "spec": {
            "nodeName": "",
            "schedulerName": "nobody",
            "containers": [{ "name": "c", "image": "hello:v1", "ports": [{ "containerPort": 8080 }] }],
        },
    });
    Bytes::from(pod.to_string())
}

/// `clients` connections send one request after the other for `RUN`.
async fn load(target: &Target, clients: usize, request: Request) -> Load {
    let next = Arc::new(AtomicUsize::new(0));
    let mut connections = Vec::new();
    for _ in 0..clients {
        connections.push(target.connect().await);
    }
    // What is read and patched must be there.
    let first = format!("fixed-{clients}");
    connections[0].call("POST", "/api/v1/namespaces/default/pods", "application/json", pod(&first)).await;
    let started = Instant::now();
    let tasks: Vec<_> = connections
        .into_iter()
        .map(|connection| tokio::spawn(one_client(connection, clients, request, next.clone(), started)))
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.expect("a client"));
    }
    Load { count: latencies.len(), elapsed: started.elapsed(), latencies: Samples::of_millis(latencies) }
}

async fn one_client(
    mut connection: Connection,
    clients: usize,
    request: Request,
    next: Arc<AtomicUsize>,
    started: Instant,
) -> Vec<Duration> {
    const PODS: &str = "/api/v1/namespaces/default/pods";
    let mut latencies = Vec::new();
    while started.elapsed() < RUN {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let (method, path, content_type, body) = match request {
            Request::Create => {
                ("POST", PODS.to_owned(), "application/json", pod(&format!("p-{clients}-{number}")))
            }
            Request::Get => ("GET", format!("{PODS}/fixed-{clients}"), "application/json", Bytes::new()),
            Request::Patch => {
                let patch = format!("{{\"metadata\":{{\"labels\":{{\"n\":\"{number}\"}}}}}}");
                let path = format!("{PODS}/p-{clients}-{}", number % 100);
                ("PATCH", path, "application/strategic-merge-patch+json", patch.into())
            }
        };
        let sent = Instant::now();
        let (status, _) = connection.call(method, &path, content_type, body).await;
        assert!(status < 300, "{method} {path}: {status}");
        latencies.push(sent.elapsed());
    }
    latencies
}

async fn list(target: &Target, table: &mut Table) {
    let mut connection = target.connect().await;
    for number in 0..10_000 {
        let body = pod(&format!("l-{number}"));
        let created =
            connection.call("POST", "/api/v1/namespaces/kube-public/pods", "application/json", body).await;
        assert_eq!(created.0, 201);
    }
    let mut latencies = Samples::default();
    let mut bytes = 0;
    for _ in 0..11 {
        let sent = Instant::now();
        let path = "/api/v1/namespaces/kube-public/pods";
        let (status, size) = connection.call("GET", path, "application/json", Bytes::new()).await;
        assert_eq!(status, 200);
        bytes = size;
        latencies.push(sent.elapsed().as_secs_f64() * 1000.0);
    }
    let what = format!("list 10,000 Pods ({} MB)", bytes / 1_000_000);
    let cell = |value: f64| format!("{value:.0} ms");
    let row =
        [what, "1".into(), String::new(), cell(latencies.median()), cell(latencies.max()), "≤ 80 ms".into()];
    table.row(&row);
}

/// Server CPU for one event to one of 100 watchers: the CPU of the process while 1,000 objects change.
async fn watch(cluster: &Cluster, target: &Target, table: &mut Table) {
    const WATCHERS: usize = 100;
    const EVENTS: usize = 1000;
    let path = "/api/v1/namespaces/kube-node-lease/configmaps";
    let mut writer = target.connect().await;
    let without = write_config_maps(cluster, &mut writer, path, "a", EVENTS).await;
    let delivered = Arc::new(AtomicUsize::new(0));
    let mut tasks = Vec::new();
    for _ in 0..WATCHERS {
        let mut connection = target.connect().await;
        let delivered = delivered.clone();
        let watch_path = format!("{path}?watch=true&labelSelector=round%3Db");
        let response = connection.send("GET", &watch_path, "application/json", Bytes::new()).await;
        tasks.push(tokio::spawn(async move {
            let mut body = response.into_body();
            let _connection = connection;
            let mut seen = 0;
            while seen < EVENTS {
                let Some(Ok(frame)) = body.frame().await else { break };
                let data = frame.into_data().unwrap_or_default();
                let lines = data.split(|byte| *byte == b'\n').count() - 1;
                seen += lines;
                delivered.fetch_add(lines, Ordering::Relaxed);
            }
        }));
    }
    let started = Instant::now();
    let before = cpu(cluster.pid());
    write_config_maps(cluster, &mut writer, path, "b", EVENTS).await;
    for task in tasks {
        task.await.expect("a watcher");
    }
    let spent = cpu(cluster.pid()).saturating_sub(before).saturating_sub(without);
    let count = delivered.load(Ordering::Relaxed);
    let rate = count as f64 / started.elapsed().as_secs_f64();
    let each = format!("{:.1} µs of CPU", spent.as_secs_f64() * 1e6 / count.max(1) as f64);
    table.row(&["watch event to one of 100 watchers", "100", &format!("{rate:.0}"), &each, "", "≤ 5 µs"]);
}

async fn write_config_maps(
    cluster: &Cluster,
    writer: &mut Connection,
    path: &str,
    round: &str,
    count: usize,
) -> Duration {
    let before = cpu(cluster.pid());
    for number in 0..count {
        let object = serde_json::json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": format!("{round}-{number}"), "labels": { "round": round } },
            "data": { "padding": "x".repeat(1000) },
        });
        let (status, _) = writer.call("POST", path, "application/json", object.to_string().into()).await;
        assert_eq!(status, 201);
    }
    cpu(cluster.pid()).saturating_sub(before)
}

/// CPU time that a process has used.
fn cpu(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let fields: Vec<u64> =
        after_name.split_whitespace().skip(11).take(2).filter_map(|text| text.parse().ok()).collect();
    let ticks_per_second = 100; // USER_HZ on every Linux that Rust runs on.
    Duration::from_millis(fields.iter().sum::<u64>() * 1000 / ticks_per_second)
}
