//! What the stories need: an engine, a pod's network made up, a log to read, guests.

use std::{
    collections::HashMap,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use naru_wasi_shim::{
    Container, ContainerSpec, Engine, EngineSettings, HttpBody, Limits, LogStream, LogWriter, Module,
    NetworkError, PodNetwork, Reuse,
};
use rand::Rng;

use crate::guest::guest;

pub const MIB: u64 = 1 << 20;

/// No state is waited for longer than this.
pub const DEADLINE: Duration = Duration::from_mins(1);

pub struct Node {
    pub engine: Engine,
    pub dir: tempfile::TempDir,
}

impl Node {
    pub fn new() -> Self {
        Self::with_instances(100)
    }

    pub fn with_instances(max_instances: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = EngineSettings {
            cache_dir: dir.path().join("cache"),
            max_instances: Some(max_instances),
            harden: false,
        };
        Self { engine: Engine::new(settings).unwrap(), dir }
    }

    pub async fn wat(&self, text: &str) -> Arc<Module> {
        self.load(&wat::parse_str(text).unwrap()).await.unwrap()
    }

    pub async fn load(&self, wasm: &[u8]) -> Result<Arc<Module>, naru_wasi_shim::LoadError> {
        let number: u64 = rand::rng().random();
        let path = self.dir.path().join(format!("{number}.wasm"));
        fs::write(&path, wasm).unwrap();
        self.engine.load(&path, &format!("test:{number}"), Reuse::Never).await
    }

    pub async fn guest(&self, name: &str) -> Arc<Module> {
        self.engine.load(&guest(name), name, Reuse::Never).await.unwrap()
    }

    /// Runs a command of WAT to its end.
    pub async fn run(
        &self,
        text: &str,
        change: impl FnOnce(&mut ContainerSpec),
    ) -> (naru_wasi_shim::ExitStatus, String) {
        let (container, log) = self.start(self.wat(text).await, change).await;
        (within(container.wait()).await, log.text())
    }

    pub async fn start(
        &self,
        module: Arc<Module>,
        change: impl FnOnce(&mut ContainerSpec),
    ) -> (Container, Arc<Log>) {
        let log = Arc::new(Log::default());
        let mut spec = spec(module, log.clone());
        change(&mut spec);
        (Container::start(&self.engine, spec).await.unwrap(), log)
    }
}

pub fn spec(module: Arc<Module>, log: Arc<Log>) -> ContainerSpec {
    ContainerSpec {
        name: "shop/front/web".into(),
        module,
        args: vec!["program".into()],
        env: Vec::new(),
        working_dir: None,
        mounts: Vec::new(),
        limits: Limits { memory_bytes: Some(64 * MIB), cpu_shares: 1024, cpu_limit_millis: None },
        network: Arc::new(Pod::default()),
        log,
        http_ports: Vec::new(),
        reuse: Reuse::Never,
        stdin: false,
    }
}

pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("in time")
}

/// Polls until `state` holds.
pub async fn eventually(what: &str, mut state: impl FnMut() -> bool) {
    let started = Instant::now();
    while !state() {
        assert!(started.elapsed() < DEADLINE, "still not: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[derive(Default)]
pub struct Log(Mutex<Vec<(LogStream, String)>>);

impl Log {
    pub fn text(&self) -> String {
        self.0.lock().unwrap().iter().map(|(_, text)| text.as_str()).collect()
    }

    pub fn stream(&self, wanted: LogStream) -> String {
        let log = self.0.lock().unwrap();
        log.iter().filter(|(stream, _)| *stream == wanted).map(|(_, text)| text.as_str()).collect()
    }
}

impl LogWriter for Log {
    fn write(&self, stream: LogStream, bytes: &[u8]) {
        let mut log = self.0.lock().unwrap();
        // Endless output must not fill the machine that tests it.
        if log.len() < 10_000 {
            log.push((stream, String::from_utf8_lossy(bytes).into_owned()));
        }
    }
}

/// A pod on an address of its own, so that its ports are free.
pub struct Pod {
    pub address: IpAddr,
    pub names: HashMap<&'static str, IpAddr>,
    /// What may be connected to, and where that goes.
    pub routes: HashMap<SocketAddr, SocketAddr>,
}

impl Default for Pod {
    fn default() -> Self {
        let mut random = rand::rng();
        let address = Ipv4Addr::new(127, 70, random.random(), random.random_range(1..255)).into();
        Self { address, names: HashMap::new(), routes: HashMap::new() }
    }
}

#[async_trait::async_trait]
impl PodNetwork for Pod {
    fn address(&self) -> IpAddr {
        self.address
    }
    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, NetworkError> {
        let found = self.names.get(name).ok_or_else(|| NetworkError::NoSuchName(name.into()))?;
        Ok(vec![*found])
    }
    async fn connect(&self, address: SocketAddr) -> Result<SocketAddr, NetworkError> {
        self.routes.get(&address).copied().ok_or(NetworkError::Denied(address))
    }
    async fn send(&self, request: Request<HttpBody>) -> Result<Response<HttpBody>, NetworkError> {
        match request.uri().host() {
            Some("echo") => Ok(Response::new(body(format!("echo of {}", request.uri().path())))),
            _ => Err(NetworkError::Refused(request.uri().to_string())),
        }
    }
}

pub fn body(text: impl Into<Bytes>) -> HttpBody {
    Full::new(text.into()).map_err(|never| match never {}).boxed_unsync()
}

/// One request without TCP: status and text.
pub async fn get(container: &Container, path: &str) -> (u16, String) {
    let request = Request::get(format!("http://shop{path}")).body(body("")).unwrap();
    let response = within(container.handle(request)).await.unwrap();
    let status = response.status().as_u16();
    let bytes = within(response.into_body().collect()).await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&bytes).into_owned())
}
