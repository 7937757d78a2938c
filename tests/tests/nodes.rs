//! Control plane, agent and runtime as separate processes: what one of them loses does not stop the others.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use naru_tests::{Kubectl, eventually, naru_binary, sample, signal};
use tempfile::TempDir;

/// What nodes are called here.
const NAMES: [&str; 2] = ["amber", "birch"];

/// A cluster of `naru server` and `naru node` processes.
struct Parts {
    dir: TempDir,
    server: Child,
    nodes: BTreeMap<&'static str, Child>,
}

impl Parts {
    fn start(nodes: &[&'static str], server_args: &[&str]) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::Builder::new().prefix("naru-parts-").tempdir().unwrap();
        let data = dir.path().join("server");
        let args = ["server", "--listen", "127.0.0.1:0", "--data-dir", text(&data)];
        let mut server = spawn(dir.path(), "server", &[&args, server_args].concat());
        wait_for_line(&dir.path().join("server.out"), "naru server is ready", &mut server);
        let mut parts = Self { dir, server, nodes: BTreeMap::new() };
        for name in nodes {
            parts.start_node(name);
        }
        parts
    }

    fn start_node(&mut self, name: &'static str) {
        let (kubeconfig, data) = (self.kubeconfig(), self.dir.path().join(name));
        let args = ["node", "--kubeconfig", text(&kubeconfig), "--name", name, "--data-dir", text(&data)];
        self.nodes.insert(name, spawn(self.dir.path(), name, &args));
    }

    fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("server/kubeconfig")
    }

    fn kubectl(&self) -> Kubectl {
        Kubectl::new("1.37", &self.kubeconfig(), self.dir.path())
    }

    /// The runtime that a node started, which is no child of this test.
    fn runtime_pid(&self, node: &str) -> Option<u32> {
        let text = std::fs::read_to_string(self.dir.path().join(node).join("runtime/runtime.pid")).ok()?;
        text.trim().parse().ok()
    }

    /// `kill -9` of a node's agent. Its runtime and its containers go on.
    fn kill_node(&mut self, name: &str) {
        let mut node = self.nodes.remove(name).unwrap();
        node.kill().unwrap();
        node.wait().unwrap();
    }

    async fn wait_for_nodes(&self, count: usize) {
        let kubectl = self.kubectl();
        eventually("the nodes are ready", async || {
            let nodes = kubectl.run(&["get", "nodes", "--no-headers"]).stdout;
            if nodes.matches(" Ready ").count() == count { Ok(()) } else { Err(nodes) }
        })
        .await;
    }

    fn import(&self, sample_name: &str) {
        let (file, kubeconfig) = (sample(sample_name), self.kubeconfig());
        let image = format!("{sample_name}:v1");
        let args = ["image", "import", text(&file), "--name", &image, "--kubeconfig", text(&kubeconfig)];
        let imported = Command::new(naru_binary()).args(args).output().unwrap();
        assert!(imported.status.success(), "{}", String::from_utf8_lossy(&imported.stderr));
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        let runtimes: Vec<_> = NAMES.iter().filter_map(|name| self.runtime_pid(name)).collect();
        for child in self.nodes.values_mut().chain([&mut self.server]) {
            let _ = child.kill();
            let _ = child.wait();
        }
        for pid in runtimes {
            signal(pid, rustix::process::Signal::KILL);
        }
        if std::thread::panicking() {
            for log in ["server.log", "amber.log", "amber/runtime.log", "birch.log", "birch/runtime.log"] {
                eprintln!(
                    "--- {log}:\n{}",
                    std::fs::read_to_string(self.dir.path().join(log)).unwrap_or_default()
                );
            }
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn spawn(dir: &Path, name: &str, args: &[&str]) -> Child {
    let log = File::options().create(true).append(true).open(dir.join(format!("{name}.log"))).unwrap();
    Command::new(naru_binary())
        .args(args)
        .env("HOME", dir)
        .stdin(Stdio::null())
        .stdout(File::create(dir.join(format!("{name}.out"))).unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

fn wait_for_line(file: &Path, start: &str, child: &mut Child) {
    let started = Instant::now();
    while !std::fs::read_to_string(file).unwrap_or_default().lines().any(|line| line.starts_with(start)) {
        assert!(child.try_wait().unwrap().is_none(), "{start}: the process ended");
        assert!(started.elapsed() < Duration::from_mins(1), "{start}: not said");
        std::thread::sleep(Duration::from_millis(10)); // Another process: there is nothing to wait on.
    }
}

const WEB: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: 'hello:v1', ports: [{containerPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_the_agent_stops_no_request_and_restarts_no_container() {
    let mut parts = Parts::start(&["amber"], &[]);
    let kubectl = parts.kubectl();
    parts.wait_for_nodes(1).await;
    parts.import("hello");
    kubectl.apply(WEB);
    kubectl.run(&["rollout", "status", "deploy/web", "--timeout=60s"]).ok();
    let ip = kubectl.run(&["get", "svc", "web", "-o", "jsonpath={.spec.clusterIP}"]).ok();
    let url = format!("http://{ip}/");
    eventually("the service answers", async || reqwest_get(&url).await).await;
    let before = pods(&kubectl);

    // Requests go on throughout.
    let stop = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicUsize::new(0));
    let load = tokio::spawn({
        let (stop, answered, url) = (stop.clone(), answered.clone(), url.clone());
        async move {
            while !stop.load(Ordering::Relaxed) {
                reqwest_get(&url).await?;
                answered.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<(), String>(())
        }
    });
    for _ in 0..3 {
        let seen = answered.load(Ordering::Relaxed);
        parts.kill_node("amber");
        eventually("requests are answered without an agent", async || more_than(&answered, seen + 50)).await;
        parts.start_node("amber");
        // The agent has taken over when it reports again.
        let deleted = kubectl
            .run(&["get", "lease", "-n", "kube-node-lease", "amber", "-o", "jsonpath={.spec.renewTime}"])
            .ok();
        eventually("the agent is back", async || {
            let path = ["get", "lease", "-n", "kube-node-lease", "amber", "-o", "jsonpath={.spec.renewTime}"];
            let renewed = kubectl.run(&path).ok();
            if renewed == deleted { Err(renewed) } else { Ok(()) }
        })
        .await;
        let seen = answered.load(Ordering::Relaxed);
        eventually("requests are answered with the new agent", async || more_than(&answered, seen + 50))
            .await;
    }
    stop.store(true, Ordering::Relaxed);
    load.await.unwrap().expect("no request failed");
    assert_eq!(pods(&kubectl), before, "the same pods, with the same restart counts");

    // And the new agent really is in charge.
    kubectl.run(&["scale", "deploy/web", "--replicas=5"]).ok();
    kubectl.run(&["rollout", "status", "deploy/web", "--timeout=60s"]).ok();
}

fn more_than(count: &AtomicUsize, least: usize) -> Result<(), usize> {
    let now = count.load(Ordering::Relaxed);
    if now >= least { Ok(()) } else { Err(now) }
}

async fn reqwest_get(url: &str) -> Result<(), String> {
    let client =
        reqwest::Client::builder().timeout(Duration::from_secs(10)).pool_max_idle_per_host(0).build();
    let response = client
        .map_err(|error| error.to_string())?
        .get(url)
        .send()
        .await
        .map_err(|error| format!("{error:?}"))?;
    if response.status() != 200 {
        return Err(response.status().to_string());
    }
    response.text().await.map(|_| ()).map_err(|error| format!("{error:?}"))
}

/// Name, uid, address and restart count of every pod.
fn pods(kubectl: &Kubectl) -> String {
    let path = "jsonpath={range .items[*]}{.metadata.name} {.metadata.uid} {.status.podIP} \
                {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}{\"\\n\"}{end}";
    kubectl.run(&["get", "pods", "-l", "app=web", "-o", path]).ok()
}

/// Three pods of `amber` that differ in how long they tolerate its silence, and a Deployment on both nodes.
const PATIENCE: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      tolerations:
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 2}
      containers:
      - {name: web, image: 'hello:v1', ports: [{containerPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Pod
metadata: {name: usual}
spec:
  nodeName: amber
  containers:
  - {name: web, image: 'hello:v1', ports: [{containerPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: endless}
spec:
  nodeName: amber
  tolerations: [{operator: Exists}]
  containers:
  - {name: web, image: 'hello:v1', ports: [{containerPort: 8080}]}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_node_is_tainted_and_its_pods_are_replaced_elsewhere() {
    let mut parts = Parts::start(&NAMES, &["--node-monitor-grace-period", "15"]);
    let kubectl = parts.kubectl();
    parts.wait_for_nodes(2).await;
    parts.import("hello");
    kubectl.apply(PATIENCE);
    kubectl.run(&["rollout", "status", "deploy/web", "--timeout=60s"]).ok();
    kubectl.run(&["wait", "--for=condition=Ready", "pod/usual", "pod/endless", "--timeout=60s"]).ok();
    // Name and address of the Deployment's pods on a node, those that are to stay.
    let on = |node: &str| {
        let path = "jsonpath={range .items[*]}{.metadata.deletionTimestamp}#{.metadata.name}#{.status.podIP}{\"\\n\"}{end}";
        let field = format!("spec.nodeName={node}");
        let text =
            kubectl.run(&["get", "pods", "-l", "app=web", "--field-selector", &field, "-o", path]).ok();
        let staying = text.lines().filter_map(|line| line.strip_prefix('#')?.split_once('#'));
        staying.map(|(name, ip)| (name.to_owned(), ip.to_owned())).collect::<Vec<_>>()
    };
    let lost = on("amber");
    assert_eq!((lost.len(), on("birch").len()), (1, 1));
    let (name, address) = &lost[0];

    parts.kill_node("amber");
    let of_amber =
        |path: &str| kubectl.run(&["get", "node", "amber", "-o", &format!("jsonpath={path}")]).ok();
    eventually("the node is not ready", async || {
        let nodes = kubectl.run(&["get", "nodes", "--no-headers"]).ok();
        if nodes.lines().any(|line| line.starts_with("amber") && line.contains(" NotReady ")) {
            Ok(())
        } else {
            Err(nodes)
        }
    })
    .await;
    let ready = of_amber("{.status.conditions[?(@.type==\"Ready\")]['status', 'reason', 'message']}");
    assert_eq!(ready, "Unknown NodeStatusUnknown Kubelet stopped posting node status.");
    eventually("the taints", async || {
        let taints = of_amber("{range .spec.taints[*]}{.key}:{.effect} {end}");
        let expected = "node.kubernetes.io/unreachable:NoSchedule node.kubernetes.io/unreachable:NoExecute ";
        if taints == expected { Ok(()) } else { Err(taints) }
    })
    .await;

    eventually("a replacement runs elsewhere", async || {
        let (amber, birch) = (on("amber"), on("birch"));
        if amber.is_empty() && birch.len() == 2 { Ok(()) } else { Err(format!("{amber:?} {birch:?}")) }
    })
    .await;
    kubectl.run(&["rollout", "status", "deploy/web", "--timeout=60s"]).ok();
    let evicted =
        ["get", "pod", name, "-o", "jsonpath={.status.conditions[?(@.type==\"DisruptionTarget\")].reason}"];
    assert_eq!(kubectl.run(&evicted).ok(), "DeletionByTaintManager");
    let slices = ["get", "endpointslices", "-l", "kubernetes.io/service-name=web", "-o"];
    let ready = "jsonpath={.items[*].endpoints[?(@.conditions.ready==true)].addresses}";
    let ready = kubectl.run(&[&slices[..], &[ready]].concat()).ok();
    assert!(!ready.contains(&format!("\"{address}\"")), "{ready} still has {address}");
    // The others tolerate it: for five minutes, or for ever. None counts as ready, as nobody vouches for it.
    for name in ["usual", "endless"] {
        let path = "jsonpath={.metadata.deletionTimestamp}{.status.conditions[?(@.type==\"Ready\")].status}";
        assert_eq!(kubectl.run(&["get", "pod", name, "-o", path]).ok(), "False", "{name}");
    }
    for (reason, kind) in [("NodeNotReady", "Node"), ("TaintManagerEviction", "Pod")] {
        let selector = format!("reason={reason},involvedObject.kind={kind}");
        let events =
            kubectl.run(&["get", "events", "-A", "--no-headers", "--field-selector", &selector]).ok();
        assert!(!events.is_empty(), "no event {reason} of a {kind}");
    }

    // It speaks again: it is taken back, finishes what was deleted, and vouches for the rest.
    parts.start_node("amber");
    parts.wait_for_nodes(2).await;
    kubectl.run(&["wait", "--for=delete", &format!("pod/{name}"), "--timeout=60s"]).ok();
    kubectl.run(&["wait", "--for=condition=Ready", "pod/usual", "pod/endless", "--timeout=60s"]).ok();
    assert_eq!(of_amber("{.spec.taints}"), "");
}
