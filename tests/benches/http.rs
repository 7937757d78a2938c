//! wasi:http requests per second: through the ClusterIP and directly, beside `wasmtime serve` and plain hyper.
//!
//! All in one run on one machine, in turn, as the machine's speed drifts. The load comes from wrk.

use std::{
    convert::Infallible,
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use naru_tests::{
    Cluster, Kubectl,
    bench::{Samples, Table, report},
    sample,
};

const ROUNDS: usize = 3;
const SECONDS: u64 = 4;

fn main() {
    let cluster = Cluster::start();
    cluster.import_samples(&["hello"]);
    let kubectl = cluster.kubectl();
    deploy(&kubectl, "fresh", "");
    deploy(&kubectl, "reused", "wasm.naru.dev/max-requests-per-instance");
    let fresh = [address(&kubectl, "fresh", false), address(&kubectl, "fresh", true)];
    let reused = [address(&kubectl, "reused", false), address(&kubectl, "reused", true)];
    let peer = WasmtimeServe::start();
    let hyper = plain_hyper();
    let mut servers = vec![
        ("hyper alone, no wasm", hyper.to_string()),
        ("a pod, fresh instance per request", fresh[0].clone()),
        ("the same through its ClusterIP", fresh[1].clone()),
        ("a pod, instances reused", reused[0].clone()),
        ("the same through its ClusterIP", reused[1].clone()),
    ];
    if let Some(peer) = &peer {
        servers.insert(1, ("`wasmtime serve`, default flags", peer.address.to_string()));
    }
    let mut table =
        Table::new(&["server", "connections", "requests/s", "p50", "p99", "× `wasmtime serve`", "× hyper"]);
    for connections in [1, 16, 64] {
        measure(&servers, connections, peer.is_some(), &mut table);
    }
    report("http", "cargo bench -p naru-tests --bench http", &table);
}

fn deploy(kubectl: &Kubectl, name: &str, annotation: &str) {
    let annotations =
        if annotation.is_empty() { "{}".into() } else { format!("{{{annotation}: \"1000000\"}}") };
    kubectl.apply(&format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}, annotations: {annotations}}}
    spec:
      containers:
      - {{name: c, image: 'hello:v1', ports: [{{containerPort: 8080}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  selector: {{app: {name}}}
  ports: [{{port: 80, targetPort: 8080}}]
"
    ));
    kubectl.run(&["rollout", "status", &format!("deployment/{name}"), "--timeout=60s"]).ok();
}

fn address(kubectl: &Kubectl, name: &str, service: bool) -> String {
    if service {
        let ip = kubectl.run(&["get", "svc", name, "-o", "jsonpath={.spec.clusterIP}"]).ok();
        format!("{ip}:80")
    } else {
        let selector = format!("app={name}");
        let ip =
            kubectl.run(&["get", "pods", "-l", &selector, "-o", "jsonpath={.items[0].status.podIP}"]).ok();
        format!("{ip}:8080")
    }
}

/// Runs all servers in turn, `ROUNDS` times, and adds a row of medians for each.
fn measure(servers: &[(&str, String)], connections: usize, has_peer: bool, table: &mut Table) {
    let mut results: Vec<[Samples; 3]> = servers.iter().map(|_| Default::default()).collect();
    for _ in 0..ROUNDS {
        for ((_, address), samples) in servers.iter().zip(&mut results) {
            let figures = wrk(address, connections);
            for (sample, figure) in samples.iter_mut().zip(figures) {
                sample.push(figure);
            }
        }
    }
    let rate = |index: usize| results[index][0].median();
    for (index, ((name, _), samples)) in servers.iter().zip(&results).enumerate() {
        let ratio = |peer: usize| format!("{:.2}", rate(index) / rate(peer));
        table.row(&[
            (*name).to_owned(),
            connections.to_string(),
            format!("{:.0}", samples[0].median()),
            format!("{:.2} ms", samples[1].median()),
            format!("{:.2} ms", samples[2].median()),
            if has_peer { ratio(1) } else { "not installed".into() },
            ratio(0),
        ]);
    }
}

/// Requests per second, p50 and p99 in milliseconds.
fn wrk(address: &str, connections: usize) -> [f64; 3] {
    let output = Command::new("wrk")
        .args([
            "-t1",
            "--latency",
            &format!("-c{connections}"),
            &format!("-d{SECONDS}s"),
            &format!("http://{address}/"),
        ])
        .output()
        .expect("wrk is installed: apt-get install wrk");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(!text.contains("Non-2xx"), "{address}: {text}");
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(key));
        line.unwrap_or_else(|| panic!("wrk said no {key} of {address}: {text}")).trim().to_owned()
    };
    [value("Requests/sec:").parse().expect("a number"), millis(&value("50%")), millis(&value("99%"))]
}

/// `831.00us`, `5.30ms` or `1.02s` in milliseconds.
fn millis(text: &str) -> f64 {
    let (number, factor) = match text {
        _ if text.ends_with("us") => (&text[..text.len() - 2], 0.001),
        _ if text.ends_with("ms") => (&text[..text.len() - 2], 1.0),
        _ => (text.trim_end_matches('s'), 1000.0),
    };
    number.parse::<f64>().expect("a number") * factor
}

/// The peer: the `wasmtime` command with the same component.
struct WasmtimeServe {
    address: SocketAddr,
    process: Child,
}

impl WasmtimeServe {
    /// `None`, with a word of why, where the command is not installed.
    fn start() -> Option<Self> {
        let tools = std::env::var_os("NARU_TOOLS").map(PathBuf::from);
        let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/naru/tools");
        let binary = tools.unwrap_or_else(home).join("wasmtime/bin/wasmtime");
        if !binary.exists() {
            eprintln!("{} is missing: `make bench` installs it", binary.display());
            return None;
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|free| free.local_addr())
            .expect("a free port");
        let process = Command::new(binary)
            .args(["serve", "-S", "cli", "--addr", &port.to_string()])
            .arg(sample("hello"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("wasmtime starts");
        let started = std::time::Instant::now();
        while std::net::TcpStream::connect(port).is_err() {
            assert!(started.elapsed() < Duration::from_secs(30), "wasmtime serve does not listen");
            std::thread::sleep(Duration::from_millis(20)); // Another process: there is nothing to wait on.
        }
        Some(Self { address: port, process })
    }
}

impl Drop for WasmtimeServe {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The ceiling: hyper with the same answer and no wasm, on threads of its own.
fn plain_hyper() -> SocketAddr {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
            tell.send(listener.local_addr().expect("an address")).expect("somebody asked");
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let _ = stream.set_nodelay(true);
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service_fn(hello)),
                );
            }
        });
    });
    told.recv().expect("the server starts")
}

async fn hello(_request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let response = Response::builder().header("content-type", "text/plain; charset=utf-8");
    Ok(response.body(Full::new(Bytes::from_static(b"Hello from WebAssembly\n"))).expect("a response"))
}
