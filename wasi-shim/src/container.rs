//! One container: a module that runs once (a command) or per request (wasi:http).

use std::{path::PathBuf, sync::Arc, time::{Duration, SystemTime}};

use http::{Request, Response};

use crate::{Engine, HttpBody, Module, NetworkError, PodNetwork};

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
    /// 0–255; 128 + signal number where it was ended from outside (143 stop, 137 kill or out of memory), 134 for a trap.
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
pub struct Container {}

impl Container {
    /// Starts it: a command runs at once, a wasi:http container listens on `http_ports` when this returns.
    ///
    /// # Errors
    /// A text for the user: the port that is taken, the mount that cannot be opened.
    pub async fn start(engine: &Engine, spec: ContainerSpec) -> Result<Self, String> {
        todo!("{}", engine as *const _ as usize + spec.args.len())
    }
    /// Serves one request without a TCP hop. Only wasi:http containers; others answer with an error.
    pub async fn handle(&self, request: Request<HttpBody>) -> Result<Response<HttpBody>, NetworkError> {
        todo!("{request:?}")
    }
    /// Serves HTTP/1.1 and HTTP/2 (prior knowledge) on a connection that somebody else accepted.
    pub async fn serve_connection<IO>(&self, io: IO)
    where
        IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        todo!("{}", std::mem::size_of_val(&io))
    }
    /// Asks it to end: a wasi:http container stops accepting and drains, a command gets its exit request; after
    /// `grace` it is killed. Returns when it ended.
    pub async fn stop(&self, grace: Duration) -> ExitStatus {
        todo!("{grace:?}")
    }
    /// Waits until it ended.
    pub async fn wait(&self) -> ExitStatus {
        todo!()
    }
    pub fn exit_status(&self) -> Option<ExitStatus> {
        todo!()
    }
    pub fn is_http(&self) -> bool {
        todo!()
    }
    pub fn stats(&self) -> Stats {
        todo!()
    }
}
