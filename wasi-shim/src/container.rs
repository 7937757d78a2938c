//! One container: a module that runs once (a command) or per request (wasi:http).
//!
//! How a container ends:
//! - by itself: a command returns, exits or traps; a container that wants more memory than its limit ends as
//!   [`ExitReason::OomKilled`], also a wasi:http one (the request gets 500), as a Linux container would.
//! - by [`Container::stop`]: wasm knows no signals. A command is ended where it waits for the world (a sleep, a poll, a
//!   read): there it does nothing half, and it exits with 143 as a program without a handler for SIGTERM does. While it
//!   computes it goes on, may finish, and is killed (137) when the grace period is over. A wasi:http container closes
//!   its listeners, finishes what it was asked and exits with 0; with 137 if that took too long.
//! - by being dropped: killed.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{
            AtomicBool, AtomicU32, AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::{Duration, SystemTime},
};

use http::{Request, Response};
use tokio::{
    io::{AsyncWriteExt, DuplexStream},
    sync::{Notify, watch},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Engine, HttpBody, Module, NetworkError, PodNetwork, command,
    cpu::CpuAccount,
    exec::Streams,
    failure::Ending,
    guest::Environment,
    home::Home,
    listen,
    machine::InstancePermit,
    memory::MemoryAccount,
    pipe::Stdin,
    serve::{self, Instance},
    worlds::World,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    Stdout,
    Stderr,
}

/// Where a guest's output goes. Called from many threads; must not block for long.
pub trait LogWriter: Send + Sync + 'static {
    fn write(&self, stream: LogStream, bytes: &[u8]);
}

#[derive(Debug, Clone)]
pub struct Mount {
    pub host_path: PathBuf,
    pub guest_path: String,
    pub read_only: bool,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// Cap of linear memory and tables in bytes, over all instances of the container; `None` is the node's default.
    pub memory_bytes: Option<u64>,
    /// Share when CPU is scarce, as cgroup cpu.shares (1024 is one CPU requested; 2 is the least).
    pub cpu_shares: u64,
    /// Cap in thousandths of a CPU.
    pub cpu_limit_millis: Option<u64>,
}

/// Whether instances of a wasi:http container serve more than one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reuse {
    /// A fresh instance per request.
    #[default]
    Never,
    /// An instance serves up to `max_requests`, then is replaced.
    Instances { max_requests: u32 },
}

#[derive(Clone)]
pub struct ContainerSpec {
    /// For logs and thread names: `namespace/pod/container`.
    pub name: String,
    pub module: Arc<Module>,
    /// argv, the program name first.
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub working_dir: Option<String>,
    pub mounts: Vec<Mount>,
    pub limits: Limits,
    pub network: Arc<dyn PodNetwork>,
    pub log: Arc<dyn LogWriter>,
    /// wasi:http containers listen here, on the pod's address.
    pub http_ports: Vec<u16>,
    pub reuse: Reuse,
    /// A command's standard input can be written to; without, it is empty.
    pub stdin: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitReason {
    /// Exit code 0.
    Completed,
    /// Another exit code, a trap, or it was stopped.
    Error,
    /// The memory limit was exceeded.
    OomKilled,
}

#[derive(Debug, Clone)]
pub struct ExitStatus {
    /// 0–255; 128 + signal number where it was ended from outside (143 a command that was stopped, 137 killed or out of
    /// memory), 134 for a trap.
    pub code: i32,
    pub reason: ExitReason,
    /// For a trap: what happened, with the wasm backtrace.
    pub message: String,
    pub finished_at: SystemTime,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Stats {
    pub cpu_usage: Duration,
    /// How often, and how long, the container waited because of its CPU limit.
    pub throttled_periods: u64,
    pub throttled: Duration,
    pub memory_bytes: u64,
    pub requests: u64,
    pub instances: u64,
}

/// A running (or ended) container. Clones share it; dropping the last one kills it.
#[derive(Clone)]
pub struct Container(Arc<Handle>);

/// What the last clone drops. Tasks of the container hold its [`Core`], not this.
struct Handle(Arc<Core>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.kill();
    }
}

/// What the tasks of a container share.
pub struct Core {
    pub name: String,
    pub engine: Engine,
    pub home: Home,
    pub environment: Arc<Environment>,
    pub reuse: Reuse,
    /// Instances between two requests. Guards a few lines without `.await`.
    pub kept: Mutex<Vec<Instance>>,
    pub sweeping: AtomicBool,
    pub stopping: CancellationToken,
    pub killed: CancellationToken,
    pub requests: AtomicU64,
    pub instances: AtomicU64,
    /// Requests and connections that a drain waits for.
    busy: AtomicUsize,
    became_idle: Notify,
    /// Where a command's input is written to, until it is closed.
    pub input: tokio::sync::Mutex<Option<DuplexStream>>,
    ended: watch::Sender<Option<ExitStatus>>,
}

impl Container {
    /// Starts it: a command runs at once, a wasi:http container listens on `http_ports` when this returns.
    ///
    /// # Errors
    /// A text for the user: the port that is taken, the mount that cannot be opened.
    pub async fn start(engine: &Engine, spec: ContainerSpec) -> Result<Self, String> {
        let ports = spec.http_ports.clone();
        let (stdin, input) = spec.stdin.then(Stdin::new).unzip();
        let streams = Streams { stdin, output: None };
        let core = Arc::new(Core::new(engine, spec, streams, input));
        if !core.environment.mounts.is_empty() {
            let environment = core.environment.clone();
            let checked = tokio::task::spawn_blocking(move || environment.check_mounts()).await;
            checked.unwrap_or_else(|panic| Err(panic.to_string()))?;
        }
        if core.is_http() {
            let address = core.environment.network.address();
            let listeners: Vec<_> =
                ports.iter().map(|port| listen::bind(address, *port)).collect::<Result<_, _>>()?;
            for listener in listeners {
                tokio::spawn(listen::accept(core.clone(), listener));
            }
        } else {
            let place = core.home.module().machine.try_instance();
            let place = place.ok_or("the node has no room for another wasm instance")?;
            engine.cpu().threads().spawn(command::run(core.clone(), place));
        }
        Ok(Self::of(core))
    }

    pub(crate) fn of(core: Arc<Core>) -> Self {
        Self(Arc::new(Handle(core)))
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.0.0
    }

    /// Writes to the standard input of a command that has one; waits while it does not read.
    ///
    /// # Errors
    /// It has no input, or takes no more of it.
    pub async fn write_stdin(&self, bytes: &[u8]) -> std::io::Result<()> {
        let closed = || std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        self.core().input.lock().await.as_mut().ok_or_else(closed)?.write_all(bytes).await
    }

    /// Ends the standard input.
    pub async fn close_stdin(&self) {
        *self.core().input.lock().await = None;
    }

    /// Serves one request without a TCP hop. Only wasi:http containers; others answer with an error.
    ///
    /// # Errors
    /// It is no wasi:http container, or it does not serve any more.
    pub async fn handle(&self, request: Request<HttpBody>) -> Result<Response<HttpBody>, NetworkError> {
        let core = &self.0.0;
        if !core.is_http() {
            return Err(NetworkError::Other(format!("{} does not serve HTTP", core.name)));
        }
        if core.stopping.is_cancelled() || core.killed.is_cancelled() {
            return Err(NetworkError::Refused(core.name.clone()));
        }
        Ok(serve::serve(core, request).await)
    }

    /// Serves HTTP/1.1 and HTTP/2 (prior knowledge) on a connection that somebody else accepted.
    pub async fn serve_connection<IO>(&self, io: IO)
    where
        IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        if self.is_http() {
            listen::serve_connection(self.0.0.clone(), io).await;
        }
    }

    /// Asks it to end: a wasi:http container stops accepting and drains, a command gets its exit request; after
    /// `grace` it is killed. Returns when it ended.
    pub async fn stop(&self, grace: Duration) -> ExitStatus {
        let core = &self.0.0;
        core.stopping.cancel();
        let ended = async {
            if core.is_http() {
                core.idle().await;
                core.end(&Ending::Exit(0));
            }
            self.wait().await
        };
        if let Ok(status) = tokio::time::timeout(grace, ended).await {
            return status;
        }
        core.kill();
        self.wait().await
    }

    /// Waits until it ended.
    pub async fn wait(&self) -> ExitStatus {
        let mut ended = self.0.0.ended.subscribe();
        let status =
            ended.wait_for(Option::is_some).await.expect("the sender lives as long as this container");
        status.clone().expect("waited for")
    }

    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.0.0.ended.borrow().clone()
    }

    pub fn is_http(&self) -> bool {
        self.0.0.is_http()
    }

    /// Changes the limits while it runs: CPU at once, memory where what is in use fits.
    ///
    /// # Errors
    /// A text for the user; then nothing has changed.
    pub fn set_limits(&self, limits: Limits) -> Result<(), String> {
        let core = &self.0.0;
        let Limits { memory_bytes, cpu_shares, cpu_limit_millis } = limits;
        let memory = memory_bytes.unwrap_or(core.engine.default_memory_limit());
        core.environment.memory.set_limit(memory).map_err(|used| {
            format!("the memory limit cannot be {memory} bytes: the container uses {used}, and WebAssembly memory does not shrink")
        })?;
        core.environment.cpu.set_limits(cpu_shares, cpu_limit_millis);
        Ok(())
    }

    pub fn stats(&self) -> Stats {
        let core = &self.0.0;
        let throttled = core.environment.cpu.throttled();
        Stats {
            cpu_usage: core.environment.cpu.used(),
            throttled_periods: throttled.periods,
            throttled: throttled.time,
            memory_bytes: core.environment.memory.used(),
            requests: core.requests.load(Relaxed),
            instances: core.instances.load(Relaxed),
        }
    }
}

impl Core {
    fn new(engine: &Engine, spec: ContainerSpec, streams: Streams, input: Option<DuplexStream>) -> Self {
        let Limits { memory_bytes, cpu_shares, cpu_limit_millis } = spec.limits;
        let environment = Environment {
            args: spec.args,
            env: spec.env,
            working_dir: spec.working_dir,
            mounts: spec.mounts,
            network: spec.network,
            log: spec.log,
            streams,
            memory: Arc::new(MemoryAccount::new(memory_bytes.unwrap_or(engine.default_memory_limit()))),
            cpu: Arc::new(CpuAccount::new(engine.cpu().clone(), cpu_shares, cpu_limit_millis)),
            killed: AtomicBool::new(false),
            sockets: AtomicU32::new(0),
        };
        let core = Self::of(
            spec.name,
            engine.clone(),
            spec.module,
            environment,
            (spec.reuse, CancellationToken::new()),
        );
        Self { input: tokio::sync::Mutex::new(input), ..core }
    }

    /// One that runs `args` within the limits of `of`, and no longer than that.
    pub fn beside(of: &Self, args: Vec<String>, streams: Streams) -> Self {
        let around = &of.environment;
        let environment = Environment {
            args,
            env: around.env.clone(),
            working_dir: around.working_dir.clone(),
            mounts: around.mounts.clone(),
            network: around.network.clone(),
            log: around.log.clone(),
            streams,
            memory: around.memory.clone(),
            cpu: around.cpu.clone(),
            killed: AtomicBool::new(false),
            sockets: AtomicU32::new(0),
        };
        let name = format!("{} (exec)", of.name);
        let killed = of.killed.child_token();
        Self::of(name, of.engine.clone(), of.home.module().clone(), environment, (Reuse::Never, killed))
    }

    fn of(
        name: String,
        engine: Engine,
        module: Arc<Module>,
        environment: Environment,
        (reuse, killed): (Reuse, CancellationToken),
    ) -> Self {
        Self {
            name,
            engine,
            home: Home::new(module),
            environment: Arc::new(environment),
            reuse,
            kept: Mutex::default(),
            sweeping: AtomicBool::new(false),
            stopping: CancellationToken::new(),
            killed,
            requests: AtomicU64::new(0),
            instances: AtomicU64::new(0),
            busy: AtomicUsize::new(0),
            became_idle: Notify::new(),
            input: tokio::sync::Mutex::default(),
            ended: watch::Sender::new(None),
        }
    }

    pub fn is_http(&self) -> bool {
        matches!(self.home.module().world, World::Http02(_) | World::Http03(_))
    }

    /// Ends all of its guests. A command reports its own end once its guest is gone.
    pub fn kill(&self) {
        self.environment.killed.store(true, Relaxed);
        if self.is_http() {
            self.end(&Ending::Killed);
        } else {
            self.killed.cancel();
        }
    }

    /// Records how the container ended, once, and ends whatever is left of it.
    pub fn end(&self, ending: &Ending) {
        let status = ExitStatus::of(ending);
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            if first {
                *ended = Some(status);
            }
            first
        });
        self.environment.killed.store(true, Relaxed);
        self.stopping.cancel();
        self.killed.cancel();
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Something that a drain waits for.
    pub fn begin(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, SeqCst);
        Busy(self.clone())
    }

    /// Whether there are others beside one connection and its request.
    pub fn is_shared(&self) -> bool {
        self.busy.load(Relaxed) > 2
    }

    async fn idle(&self) {
        let mut became_idle = std::pin::pin!(self.became_idle.notified());
        loop {
            became_idle.as_mut().enable();
            if self.busy.load(SeqCst) == 0 {
                return;
            }
            became_idle.as_mut().await;
            became_idle.set(self.became_idle.notified());
        }
    }

    /// A line of the runtime's own in the container's log.
    pub fn log(&self, text: &str) {
        self.environment.log.write(LogStream::Stderr, format!("naru: {text}\n").as_bytes());
    }
}

/// A request or a connection in progress.
pub struct Busy(Arc<Core>);

impl Drop for Busy {
    fn drop(&mut self) {
        if self.0.busy.fetch_sub(1, SeqCst) == 1 {
            self.0.became_idle.notify_waiters();
        }
    }
}

/// One live instance of a container: its place in the engine's pool, and counted.
pub struct Place {
    core: Arc<Core>,
    _permit: InstancePermit,
}

impl Place {
    pub fn new(core: &Arc<Core>, permit: InstancePermit) -> Self {
        core.instances.fetch_add(1, Relaxed);
        Self { core: core.clone(), _permit: permit }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.core.instances.fetch_sub(1, Relaxed);
    }
}

impl ExitStatus {
    fn of(ending: &Ending) -> Self {
        let (code, reason, message) = match ending {
            Ending::Exit(0) => (0, ExitReason::Completed, String::new()),
            Ending::Exit(code) => (code & 0xff, ExitReason::Error, String::new()),
            Ending::Trap(message) => (134, ExitReason::Error, message.clone()),
            Ending::OutOfMemory(message) => (137, ExitReason::OomKilled, message.clone()),
            Ending::Stopped => (143, ExitReason::Error, String::new()),
            Ending::Killed => (137, ExitReason::Error, String::new()),
        };
        Self { code, reason, message, finished_at: SystemTime::now() }
    }
}
