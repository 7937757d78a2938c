//! Control plane, agent and runtime as separate processes: what one of them loses does not stop the others.

use std::{
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

/// A cluster of `naru server` and `naru node` processes.
struct Parts {
    dir: TempDir,
    server: Child,
    node: Option<Child>,
}

impl Parts {
    fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::Builder::new().prefix("naru-parts-").tempdir().unwrap();
        let data = dir.path().join("server");
        let mut server =
            spawn(dir.path(), "server", &["server", "--listen", "127.0.0.1:0", "--data-dir", text(&data)]);
        wait_for_line(&dir.path().join("server.out"), "naru server is ready", &mut server);
        let mut parts = Self { dir, server, node: None };
        parts.start_node();
        parts
    }

    fn start_node(&mut self) {
        let (kubeconfig, data) = (self.kubeconfig(), self.node_dir());
        let args = ["node", "--kubeconfig", text(&kubeconfig), "--name", "amber", "--data-dir", text(&data)];
        self.node = Some(spawn(self.dir.path(), "node", &args));
    }

    fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("server/kubeconfig")
    }

    fn node_dir(&self) -> PathBuf {
        self.dir.path().join("amber")
    }

    fn kubectl(&self) -> Kubectl {
        Kubectl::new("1.37", &self.kubeconfig(), self.dir.path())
    }

    /// The runtime that the node started, which is no child of this test.
    fn runtime_pid(&self) -> Option<u32> {
        let text = std::fs::read_to_string(self.node_dir().join("runtime/runtime.pid")).ok()?;
        text.trim().parse().ok()
    }

    fn kill_node(&mut self) {
        let mut node = self.node.take().unwrap();
        node.kill().unwrap();
        node.wait().unwrap();
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        let runtime = self.runtime_pid();
        for child in self.node.iter_mut().chain([&mut self.server]) {
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Some(pid) = runtime {
            signal(pid, rustix::process::Signal::KILL);
        }
        if std::thread::panicking() {
            for log in ["server.log", "node.log", "amber/runtime.log"] {
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
    let mut parts = Parts::start();
    let kubectl = parts.kubectl();
    eventually("the node is ready", async || {
        let nodes = kubectl.run(&["get", "nodes", "--no-headers"]).stdout;
        if nodes.contains(" Ready ") { Ok(()) } else { Err(nodes) }
    })
    .await;
    let imported = Command::new(naru_binary())
        .args([
            "image",
            "import",
            text(&sample("hello")),
            "--name",
            "hello:v1",
            "--kubeconfig",
            text(&parts.kubeconfig()),
        ])
        .output()
        .unwrap();
    assert!(imported.status.success(), "{}", String::from_utf8_lossy(&imported.stderr));
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
        parts.kill_node();
        eventually("requests are answered without an agent", async || more_than(&answered, seen + 50)).await;
        parts.start_node();
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
