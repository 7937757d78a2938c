//! The API server under 1, 16 and 64 clients: create, get, update, patch, apply, list and watch, with pods of
//! 2 KiB and of about 5 kB and ConfigMaps of 1 kB; beside etcd, which makes raw puts of 1 kB durable on the same disk.
//!
//! `NARU_BENCH_KUBECONFIG` names another Kubernetes-compatible server to drive (client certificates in its kubeconfig);
//! then nothing is said about memory and CPU.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use naru_tests::{
    Cluster,
    bench::{Samples, Table, report, resident_mib},
    etcd::Etcd,
    raw_client::{Connection, Target},
};

const RUN: Duration = Duration::from_secs(3);
/// Longer than decoded objects are kept that nobody asks for, and freed pages by the allocator.
const REST: Duration = Duration::from_secs(35);
/// What makes a pod have about 5 kB with what the server adds at once, and 6.5 with its managers.
const PADDING: usize = 4400;
/// What makes a pod have 2 KiB as it is sent.
const SMALL_PADDING: usize = 1840;
const CONFIG_MAP_BYTES: usize = 1000;
const PODS: &str = "/api/v1/namespaces/default/pods";
/// Apart, so that lists of the others are as long as before.
const SMALL_PODS: &str = "/api/v1/namespaces/kube-system/pods";
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::main]
async fn main() {
    let server = Server::from_env();
    let mut table = Table::new(&["what", "clients", "per second", "p50", "p99", "CPU per request", "target"]);
    // `-- TEXT …` measures only what has one of the texts in its name, and leaves the report as it is.
    let texts: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let is_asked = |name: &str| texts.is_empty() || texts.iter().any(|text| name.contains(text));
    requests(&server, is_asked, &mut table).await;
    if is_asked("list 10,000 Pods") {
        list(&server, &mut table).await;
    }
    if is_asked("watch") {
        for watchers in WATCHERS {
            watch_cost(&server, watchers, &mut table).await;
        }
        for watchers in WATCHERS {
            watch_latency(&server, watchers, &mut table).await;
        }
    }
    if texts.is_empty() {
        report("api", "cargo bench -p naru-tests --bench api", &table);
    } else {
        println!("{table}");
    }
}

/// Each kind of request by few and by many clients, and etcd beside the one that it is the peer of.
async fn requests(server: &Server, is_asked: impl Fn(&str) -> bool, table: &mut Table) {
    let etcd = if is_asked(Request::CreateConfigMap.name()) { Etcd::start().await } else { None };
    for clients in [1, 16, 64] {
        for request in Request::ALL.into_iter().filter(|request| is_asked(request.name())) {
            let load = load(server, clients, request).await;
            let target = if clients == 64 { request.target() } else { "" };
            table.row(&load.row(request.name(), clients, target));
            if let (Request::CreateConfigMap, Some(etcd)) = (request, &etcd) {
                let puts = etcd_puts(etcd, clients).await;
                let ratio = format!("{:.2} × of it above", load.rate() / puts.rate());
                table.row(&puts.row("peer: etcd, raw put of 1 kB", clients, &ratio));
            }
        }
    }
}

/// The server that is measured.
struct Server {
    target: Target,
    /// Of a server that was started here.
    cluster: Option<Cluster>,
}

impl Server {
    fn from_env() -> Self {
        match std::env::var_os("NARU_BENCH_KUBECONFIG").map(PathBuf::from) {
            Some(kubeconfig) => Self { target: Target::from_kubeconfig(&kubeconfig), cluster: None },
            None => {
                let cluster = Cluster::start();
                Self { target: Target::from_kubeconfig(&cluster.kubeconfig()), cluster: Some(cluster) }
            }
        }
    }

    /// Resident memory in MiB when the last requests are a while ago; none for a server elsewhere.
    async fn resident_at_rest(&self) -> f64 {
        let Some(cluster) = &self.cluster else { return f64::NAN };
        tokio::time::sleep(REST).await;
        resident_mib(cluster.pid())
    }

    /// CPU time that it used so far; zero for a server elsewhere.
    fn cpu(&self) -> Duration {
        self.cluster.as_ref().map(|cluster| cpu(cluster.pid())).unwrap_or_default()
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Request {
    CreateConfigMap,
    CreateSmall,
    Create,
    Get,
    List,
    Update,
    Patch,
    Apply,
}

impl Request {
    const ALL: [Self; 8] = [
        Self::CreateConfigMap,
        Self::CreateSmall,
        Self::Create,
        Self::Get,
        Self::List,
        Self::Update,
        Self::Patch,
        Self::Apply,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::CreateConfigMap => "create ConfigMap of 1 kB",
            Self::CreateSmall => "create Pod of 2 KiB",
            Self::Create => "create Pod of 5 kB",
            Self::Get => "get Pod",
            Self::List => "list of 100 Pods",
            Self::Update => "update ConfigMap",
            Self::Patch => "strategic patch Pod",
            Self::Apply => "server-side apply ConfigMap",
        }
    }

    fn target(self) -> &'static str {
        match self {
            Self::CreateConfigMap => "≥ 1.0 × etcd's puts",
            Self::CreateSmall | Self::Create => "≥ 5,000",
            Self::Get => "≥ 20,000",
            Self::Patch => "≥ 4,000",
            Self::List | Self::Update | Self::Apply => "",
        }
    }

    /// Method, path, content type and body of the request with this number.
    fn parts(self, clients: usize, number: usize) -> (&'static str, String, &'static str, Bytes) {
        const JSON: &str = "application/json";
        let known = format!("p-{clients}-{}", number % 100);
        match self {
            Self::CreateConfigMap => {
                let object = config_map(&format!("p-{clients}-{number}"), "new", &number.to_string());
                ("POST", CONFIG_MAPS.into(), JSON, object)
            }
            Self::CreateSmall => {
                let pod = pod(&format!("s-{clients}-{number}"), SMALL_PADDING);
                ("POST", SMALL_PODS.into(), JSON, pod)
            }
            Self::Create => ("POST", PODS.into(), JSON, pod(&format!("p-{clients}-{number}"), PADDING)),
            Self::Get => ("GET", format!("{PODS}/p-{clients}-0"), JSON, Bytes::new()),
            Self::List => ("GET", format!("{PODS}?limit=100"), JSON, Bytes::new()),
            Self::Update => (
                "PUT",
                format!("{CONFIG_MAPS}/{known}"),
                JSON,
                config_map(&known, "new", &number.to_string()),
            ),
            Self::Patch => {
                let patch = format!("{{\"metadata\":{{\"labels\":{{\"n\":\"{number}\"}}}}}}");
                let path = format!("{PODS}/{known}");
                ("PATCH", path, "application/strategic-merge-patch+json", patch.into())
            }
            Self::Apply => {
                let name = format!("a-{clients}-{}", number % 100);
                let path = format!("{CONFIG_MAPS}/{name}?fieldManager=bench&force=true");
                ("PATCH", path, "application/apply-patch+yaml", config_map(&name, "new", &number.to_string()))
            }
        }
    }
}

struct Load {
    elapsed: Duration,
    latencies: Vec<Duration>,
    cpu: Duration,
}

impl Load {
    fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64()
    }

    fn row(&self, what: &str, clients: usize, target: &str) -> [String; 7] {
        let samples = Samples::of_millis(self.latencies.iter().copied());
        let millis = |value: f64| format!("{value:.2} ms");
        [
            what.into(),
            clients.to_string(),
            format!("{:.0}", self.rate()),
            millis(samples.median()),
            millis(samples.quantile(0.99)),
            format!("{:.0} µs", self.cpu.as_secs_f64() * 1e6 / self.latencies.len().max(1) as f64),
            target.into(),
        ]
    }
}

/// A pod that no node takes, with so many bytes of padding.
fn pod(name: &str, padding: usize) -> Bytes {
    let padding = "x".repeat(padding);
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

fn config_map(name: &str, round: &str, value: &str) -> Bytes {
    let object = serde_json::json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": name, "labels": { "round": round } },
        "data": { "value": value, "padding": "x".repeat(CONFIG_MAP_BYTES) },
    });
    Bytes::from(object.to_string())
}

/// `clients` connections send one request after the other for `RUN`.
async fn load(server: &Server, clients: usize, request: Request) -> Load {
    let next = Arc::new(AtomicUsize::new(0));
    let mut connections = Vec::new();
    for _ in 0..clients {
        connections.push(server.target.connect().await);
    }
    let (started, cpu) = (Instant::now(), server.cpu());
    let tasks: Vec<_> = connections
        .into_iter()
        .map(|connection| tokio::spawn(one_client(connection, clients, request, next.clone(), started)))
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.expect("a client"));
    }
    Load { elapsed: started.elapsed(), latencies, cpu: server.cpu().saturating_sub(cpu) }
}

async fn one_client(
    mut connection: Connection,
    clients: usize,
    request: Request,
    next: Arc<AtomicUsize>,
    started: Instant,
) -> Vec<Duration> {
    let mut latencies = Vec::new();
    while started.elapsed() < RUN {
        let (method, path, content_type, body) = request.parts(clients, next.fetch_add(1, Relaxed));
        let sent = Instant::now();
        let (status, answer) = connection.read(method, &path, content_type, body).await;
        assert!(status < 300, "{method} {path}: {status} {}", String::from_utf8_lossy(&answer));
        latencies.push(sent.elapsed());
    }
    latencies
}

/// The peer's part: every client has a connection of its own.
async fn etcd_puts(etcd: &Etcd, clients: usize) -> Load {
    let next = Arc::new(AtomicUsize::new(0));
    let mut connections = Vec::new();
    for _ in 0..clients {
        connections.push(etcd.connect().await.expect("etcd listens"));
    }
    let (started, before) = (Instant::now(), cpu(etcd.pid()));
    let tasks = connections.into_iter().map(|mut connection| {
        let next = next.clone();
        tokio::spawn(async move {
            let mut latencies = Vec::new();
            while started.elapsed() < RUN {
                let key = format!("/registry/configmaps/default/p-{clients}-{}", next.fetch_add(1, Relaxed));
                let sent = Instant::now();
                connection.put(key.into_bytes(), vec![b'x'; CONFIG_MAP_BYTES]).await.expect("a put");
                latencies.push(sent.elapsed());
            }
            latencies
        })
    });
    let tasks: Vec<_> = tasks.collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.expect("a client"));
    }
    Load { elapsed: started.elapsed(), latencies, cpu: cpu(etcd.pid()).saturating_sub(before) }
}

/// 10,000 pods: what they take in memory, and how long a list of them takes.
async fn list(server: &Server, table: &mut Table) {
    const PATH: &str = "/api/v1/namespaces/kube-public/pods";
    const JSON: &str = "application/json";
    let before = server.resident_at_rest().await;
    let mut connection = server.target.connect().await;
    for number in 0..10_000 {
        let created = connection.read("POST", PATH, JSON, pod(&format!("l-{number}"), PADDING)).await;
        assert_eq!(created.0, 201);
    }
    let memory = server.resident_at_rest().await - before;
    let mut connection = server.target.connect().await;
    let mut whole = Samples::default();
    let mut pages = Samples::default();
    let mut bytes = 0;
    for _ in 0..11 {
        let sent = Instant::now();
        let list = take(&mut connection, PATH).await;
        bytes = list.bytes;
        whole.push(sent.elapsed().as_secs_f64() * 1000.0);
        let sent = Instant::now();
        let mut next = Some(String::new());
        while let Some(token) = next {
            next = take(&mut connection, &format!("{PATH}?limit=500&continue={token}")).await.token;
        }
        pages.push(sent.elapsed().as_secs_f64() * 1000.0);
    }
    let size = format!("{} MB", bytes / 1_000_000);
    let mut row = |what: String, samples: &Samples, target: &str| {
        let cell = |value: f64| format!("{value:.0} ms");
        let rate = format!("{:.0} MB/s", bytes as f64 / 1000.0 / samples.median());
        table.row(&[
            what,
            "1".into(),
            rate,
            cell(samples.median()),
            cell(samples.max()),
            String::new(),
            target.into(),
        ]);
    };
    row(format!("list 10,000 Pods ({size})"), &whole, "≤ 80 ms");
    row("the same in pages of 500".into(), &pages, "");
    let ratio = memory * 1024.0 * 1024.0 / bytes as f64;
    let memory = format!("{memory:.0} MiB, {ratio:.1} × their JSON");
    table.row(&["memory that they take, at rest", "", "", &memory, "", "", "≤ 2 ×"]);
}

/// What is measured of a list.
struct Taken {
    bytes: usize,
    token: Option<String>,
}

/// Gets a list and lets go of each piece as it comes: what a client does with 60 MB is its own.
async fn take(connection: &mut Connection, path: &str) -> Taken {
    let response = connection.send("GET", path, "application/json", Bytes::new()).await;
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    let (mut bytes, mut head) = (0, Vec::new());
    while let Some(frame) = body.frame().await {
        let piece = frame.expect("a piece").into_data().unwrap_or_default();
        // The metadata is in front of the items.
        if head.len() < 400 {
            head.extend_from_slice(&piece[..piece.len().min(400)]);
        }
        bytes += piece.len();
    }
    let head = String::from_utf8_lossy(&head);
    let token = head.split_once("\"continue\":\"").and_then(|(_, after)| after.split_once('"'));
    Taken { bytes, token: token.map(|(token, _)| token.to_owned()) }
}

/// So many watch at once.
const WATCHERS: [usize; 4] = [1, 16, 64, 100];
const WATCHED: &str = "/api/v1/namespaces/kube-node-lease/configmaps";

/// `count` connections that watch one round of ConfigMaps and hand each line to `see`, until each saw `events`.
async fn watch(
    server: &Server,
    round: &str,
    (count, events): (usize, usize),
    see: impl Fn(&[u8]) + Clone + Send + 'static,
) -> Vec<tokio::task::JoinHandle<()>> {
    let mut tasks = Vec::new();
    for _ in 0..count {
        let mut connection = server.target.connect().await;
        let path = format!("{WATCHED}?watch=true&labelSelector=round%3D{round}");
        let response = connection.send("GET", &path, "application/json", Bytes::new()).await;
        let see = see.clone();
        tasks.push(tokio::spawn(async move {
            let mut body = response.into_body();
            let _connection = connection;
            let (mut seen, mut rest) = (0, Vec::new());
            while seen < events {
                let Some(Ok(frame)) = body.frame().await else { break };
                rest.extend_from_slice(&frame.into_data().unwrap_or_default());
                let complete = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
                for line in rest[..complete].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                    see(line);
                    seen += 1;
                }
                rest.drain(..complete);
            }
        }));
    }
    tasks
}

/// Server CPU for one event to one of the watchers: the CPU of the process while 1,000 objects are created.
async fn watch_cost(server: &Server, watchers: usize, table: &mut Table) {
    const EVENTS: usize = 1000;
    let mut writer = server.target.connect().await;
    let before = server.cpu();
    write_config_maps(&mut writer, &format!("alone-{watchers}"), EVENTS).await;
    let without = server.cpu().saturating_sub(before);
    let delivered = Arc::new(AtomicUsize::new(0));
    let count = delivered.clone();
    let see = move |_: &[u8]| {
        count.fetch_add(1, Relaxed);
    };
    let round = format!("watched-{watchers}");
    let tasks = watch(server, &round, (watchers, EVENTS), see).await;
    let (started, before) = (Instant::now(), server.cpu());
    write_config_maps(&mut writer, &round, EVENTS).await;
    for task in tasks {
        task.await.expect("a watcher");
    }
    let spent = server.cpu().saturating_sub(before).saturating_sub(without);
    let count = delivered.load(Relaxed);
    let rate = format!("{:.0}", count as f64 / started.elapsed().as_secs_f64());
    let each = format!("{:.1} µs", spent.as_secs_f64() * 1e6 / count.max(1) as f64);
    let target = if watchers == 100 { "≤ 5 µs" } else { "" };
    table.row(&["watch: events to all watchers", &watchers.to_string(), &rate, "", "", &each, target]);
}

async fn write_config_maps(writer: &mut Connection, round: &str, count: usize) {
    for number in 0..count {
        let object = config_map(&format!("{round}-{number}"), round, "");
        let (status, _) = writer.read("POST", WATCHED, "application/json", object).await;
        assert_eq!(status, 201);
    }
}

/// How long after its request was sent an event is with each of the watchers, at 200 writes a second.
async fn watch_latency(server: &Server, watchers: usize, table: &mut Table) {
    const EVENTS: usize = 1000;
    let started = Instant::now();
    let seen: Arc<std::sync::Mutex<Vec<Duration>>> = Arc::default();
    let sink = seen.clone();
    let see = move |line: &[u8]| {
        let text = String::from_utf8_lossy(line);
        let sent = text.split_once("\"value\":\"").and_then(|(_, after)| after.split_once('"'));
        let sent: u64 = sent.and_then(|(nanos, _)| nanos.parse().ok()).expect("when it was sent");
        let late = started.elapsed().saturating_sub(Duration::from_nanos(sent));
        sink.lock().expect("no watcher panicked").push(late);
    };
    let round = format!("timed-{watchers}");
    let tasks = watch(server, &round, (watchers, EVENTS), see).await;
    let mut writer = server.target.connect().await;
    let mut pace = tokio::time::interval(Duration::from_millis(5));
    for number in 0..EVENTS {
        pace.tick().await;
        let object =
            config_map(&format!("{round}-{number}"), &round, &started.elapsed().as_nanos().to_string());
        let (status, _) = writer.read("POST", WATCHED, "application/json", object).await;
        assert_eq!(status, 201);
    }
    for task in tasks {
        task.await.expect("a watcher");
    }
    let latencies = Samples::of_millis(seen.lock().expect("no watcher panicked").iter().copied());
    let cell = |value: f64| format!("{value:.2} ms");
    let (p50, p99) = (cell(latencies.median()), cell(latencies.quantile(0.99)));
    let target = if watchers == 100 { "p99 < 20 ms" } else { "" };
    table.row(&["watch: event at 200 writes/s", &watchers.to_string(), "", &p50, &p99, "", target]);
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
