//! Requests per second of a wasi:http container beside plain hyper, in one run, and what an instance costs.
//!
//! `cargo bench -p naru-wasi-shim --bench wasi-http -- hello.wasm [SECONDS]`, where hello.wasm is `samples/hello` built
//! (`make samples`). Load generator and servers share the machine; read the numbers as ratios.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::TokioIo;
use naru_wasi_shim::{
    Container, ContainerSpec, Engine, EngineSettings, HttpBody, Limits, LogStream, LogWriter, Module,
    NetworkError, PodNetwork, Reuse,
};
use tokio::net::{TcpListener, TcpStream};

const CONNECTIONS: [usize; 3] = [1, 16, 64];
const PORTS: std::ops::RangeInclusive<u16> = 20_000..=29_999;

struct Network;

#[async_trait::async_trait]
impl PodNetwork for Network {
    fn address(&self) -> IpAddr {
        Ipv4Addr::LOCALHOST.into()
    }
    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, NetworkError> {
        Err(NetworkError::NoSuchName(name.into()))
    }
    async fn connect(&self, address: SocketAddr) -> Result<SocketAddr, NetworkError> {
        Err(NetworkError::Denied(address))
    }
    async fn send(&self, _: Request<HttpBody>) -> Result<Response<HttpBody>, NetworkError> {
        Err(NetworkError::Other("no network".into()))
    }
}

struct Silence;

impl LogWriter for Silence {
    fn write(&self, _: LogStream, _: &[u8]) {}
}

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1).filter(|arg| !arg.starts_with("--"));
    let Some(wasm) = args.next().map(PathBuf::from) else {
        println!("usage: http HELLO.wasm [SECONDS]");
        return;
    };
    let time = Duration::from_secs(args.next().and_then(|text| text.parse().ok()).unwrap_or(5).max(1));
    let cache = tempfile::tempdir().expect("a temporary directory");
    let settings =
        EngineSettings { cache_dir: cache.path().into(), max_instances: Some(1000), harden: false };
    let engine = Engine::new(settings).expect("an engine");

    let started = Instant::now();
    let module = engine.load(&wasm, "cold", Reuse::Never).await.expect("a component");
    println!("compile and load          {:>10.1?}", started.elapsed());
    drop(module);
    let started = Instant::now();
    let module = engine.load(&wasm, "cold", Reuse::Never).await.expect("a component");
    println!("load from the cache       {:>10.1?}", started.elapsed());

    let (fresh, fresh_at) = container(&engine, &module, Reuse::Never).await;
    let reuse = Reuse::Instances { max_requests: 1000 };
    let module_kept = engine.load(&wasm, "cold", reuse).await.expect("a component");
    let (kept, kept_at) = container(&engine, &module_kept, reuse).await;
    for (name, container) in [("fresh", &fresh), ("kept instance", &kept)] {
        let (elapsed, cpu) = without_tcp(container).await;
        println!("a request, {name:<15}{elapsed:>10.1?}, {cpu:.1?} of them CPU in the guest's turn");
    }

    println!("an idle container         {:>6.1} KiB", idle(&engine, &module).await);

    let plain_at = plain_hyper().await;
    println!("\n{:<24}{:>12}{:>12}{:>12}{:>12}", "server", "connections", "requests/s", "p50", "p99");
    for connections in CONNECTIONS {
        for (name, address) in [("hyper alone", plain_at), ("fresh", fresh_at), ("kept instances", kept_at)] {
            let load = load(address, connections, time).await;
            println!(
                "{name:<24}{connections:>12}{:>12.0}{:>12.2?}{:>12.2?}",
                load.rate, load.median, load.percentile_99
            );
        }
    }
    fresh.stop(Duration::from_secs(1)).await;
    kept.stop(Duration::from_secs(1)).await;
}

fn spec(module: &Arc<Module>, port: u16, reuse: Reuse) -> ContainerSpec {
    ContainerSpec {
        name: "bench".into(),
        module: module.clone(),
        args: vec!["hello".into()],
        env: vec![("GREETING".into(), "hello".into())],
        working_dir: None,
        mounts: Vec::new(),
        limits: Limits { memory_bytes: Some(1 << 30), cpu_shares: 1024, cpu_limit_millis: None },
        network: Arc::new(Network),
        log: Arc::new(Silence),
        http_ports: vec![port],
        reuse,
        stdin: false,
    }
}

/// KiB of memory per container that listens and waits.
async fn idle(engine: &Engine, module: &Arc<Module>) -> f64 {
    const MANY: u32 = 500;
    let before = resident_bytes();
    let mut containers = Vec::new();
    for port in PORTS.rev() {
        containers.extend(Container::start(engine, spec(module, port, Reuse::Never)).await);
        if containers.len() as u32 == MANY {
            break;
        }
    }
    resident_bytes().saturating_sub(before) as f64 / 1024.0 / f64::from(MANY)
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("pages") * 4096
}

async fn container(engine: &Engine, module: &Arc<Module>, reuse: Reuse) -> (Container, SocketAddr) {
    for port in PORTS {
        if let Ok(container) = Container::start(engine, spec(module, port, reuse)).await {
            return (container, SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port));
        }
    }
    panic!("no free port");
}

/// Per request: time, and CPU time of instance, call and end.
async fn without_tcp(container: &Container) -> (Duration, Duration) {
    const REQUESTS: u32 = 5000;
    let (started, cpu) = (Instant::now(), container.stats().cpu_usage);
    for _ in 0..REQUESTS {
        let body = Empty::new().map_err(|never: Infallible| match never {}).boxed_unsync();
        let request = Request::get("http://hello/").body(body).expect("a request");
        let response = container.handle(request).await.expect("a response");
        assert!(response.status().is_success());
        response.into_body().collect().await.expect("a body");
    }
    (started.elapsed() / REQUESTS, container.stats().cpu_usage.saturating_sub(cpu) / REQUESTS)
}

async fn plain_hyper() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a listener");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            tokio::spawn(async move {
                let service = hyper::service::service_fn(async |_| {
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello from hyper\n"))))
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    address
}

struct Load {
    rate: f64,
    median: Duration,
    percentile_99: Duration,
}

async fn load(address: SocketAddr, connections: usize, time: Duration) -> Load {
    let ended = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..connections).map(|_| tokio::spawn(client(address, ended.clone()))).collect();
    let started = Instant::now();
    tokio::time::sleep(time).await;
    ended.store(true, Relaxed);
    let mut latencies = Vec::new();
    for client in clients {
        latencies.extend(client.await.expect("a client"));
    }
    latencies.sort_unstable();
    let at = |share: f64| latencies[(latencies.len().saturating_sub(1) as f64 * share) as usize];
    let rate = latencies.len() as f64 / started.elapsed().as_secs_f64();
    Load { rate, median: at(0.5), percentile_99: at(0.99) }
}

async fn client(address: SocketAddr, ended: Arc<AtomicBool>) -> Vec<Duration> {
    let stream = TcpStream::connect(address).await.expect("a connection");
    stream.set_nodelay(true).expect("an option");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a handshake");
    tokio::spawn(connection);
    let mut latencies = Vec::new();
    while !ended.load(Relaxed) {
        let started = Instant::now();
        let request =
            Request::get("/").header("host", "hello").body(Empty::<Bytes>::new()).expect("a request");
        sender.ready().await.expect("a connection");
        let response = sender.send_request(request).await.expect("a response");
        assert!(response.status().is_success());
        response.into_body().collect().await.expect("a body");
        latencies.push(started.elapsed());
    }
    latencies
}
