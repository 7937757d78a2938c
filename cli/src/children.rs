//! The processes that a command starts: runtimes, as children of this very binary.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use tokio::{
    net::UnixStream,
    process::{Child, Command},
};

/// How long a runtime may take until it answers on its socket.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// A runtime that ended is started again after this, after twice as long when it ends again soon, and so on.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(10);
/// Ended later than this after its start, it counts as one that ended for the first time.
const STABLE_AFTER: Duration = Duration::from_secs(30);

/// A runtime that is a child of this process.
pub struct Runtime {
    spec: RuntimeSpec,
    child: Child,
}

impl Runtime {
    /// Starts it; [`Self::wait_for_socket`] says when it answers.
    pub fn start(spec: RuntimeSpec) -> anyhow::Result<Self> {
        let child = spawn_runtime(&spec)?;
        Ok(Self { spec, child })
    }

    pub async fn wait_for_socket(&mut self) -> anyhow::Result<()> {
        wait_for_socket(&self.spec.socket, &mut self.child).await
    }

    /// Starts it again whenever it ends, until dropped. What ran in it is gone; the agent starts it anew.
    pub async fn keep_running(&mut self, node: &str) {
        let mut delay = FIRST_DELAY;
        let mut started = Instant::now();
        loop {
            let status =
                self.child.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string());
            if started.elapsed() > STABLE_AFTER {
                delay = FIRST_DELAY;
            }
            let log = self.spec.log.as_ref().map(|log| log.display().to_string()).unwrap_or_default();
            tracing::error!(node, status, log, ?delay, "the runtime ended by itself and is started again");
            // Back-off: one that dies at once must not take the CPU. Dropping this future ends the wait.
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(LONGEST_DELAY);
            started = Instant::now();
            match spawn_runtime(&self.spec) {
                Ok(child) => self.child = child,
                Err(error) => tracing::error!(node, "{error:#}"),
            }
        }
    }

    /// Ends it as Ctrl-C would; kills it after `grace`.
    pub async fn stop(&mut self, grace: Duration) {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok());
        let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) else {
            return; // It ended already.
        };
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        if tokio::time::timeout(grace, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

/// How a runtime is started.
pub struct RuntimeSpec {
    pub socket: PathBuf,
    pub data_dir: PathBuf,
    /// Whether it ends with this process (`naru up`), or outlives it (`naru node`).
    pub exit_with_parent: bool,
    pub harden_guests: bool,
    /// Its log; `None` is this process's standard error.
    pub log: Option<PathBuf>,
}

fn spawn_runtime(spec: &RuntimeSpec) -> anyhow::Result<Child> {
    let binary = std::env::current_exe().context("cannot find the naru binary")?;
    let mut command = Command::new(binary);
    command.arg("runtime").arg("--socket").arg(&spec.socket).arg("--data-dir").arg(&spec.data_dir);
    if spec.exit_with_parent {
        command.arg("--exit-with-parent");
    }
    if spec.harden_guests {
        command.arg("--harden-guests");
    }
    // wasmtime makes and drops errors on its way, and would capture a backtrace for each: a tenth of a request.
    if std::env::var_os("RUST_LIB_BACKTRACE").is_none() {
        command.env("RUST_LIB_BACKTRACE", "0");
    }
    // Ctrl-C in a terminal reaches the whole group, but a runtime ends after its pods, when it is told to.
    command.stdin(Stdio::null()).process_group(0);
    match &spec.log {
        Some(log) => {
            let file = std::fs::File::options().create(true).append(true).open(log);
            let file = file.with_context(|| format!("cannot write the runtime's log {}", log.display()))?;
            command.stdout(file.try_clone()?).stderr(file);
        }
        None => {
            command.stdout(Stdio::null());
        }
    }
    command.spawn().context("cannot start the runtime")
}

/// Waits until the runtime of `child` answers on `socket`, or says why it won't. One of a parent that was killed may
/// still answer there while it ends.
async fn wait_for_socket(socket: &Path, child: &mut Child) -> anyhow::Result<()> {
    let started = Instant::now();
    loop {
        let server = UnixStream::connect(socket).await.and_then(|stream| stream.peer_cred());
        let server = server.ok().and_then(|server| server.pid()).and_then(|pid| u32::try_from(pid).ok());
        if server.is_some() && server == child.id() {
            return Ok(());
        }
        if let Some(status) = child.try_wait()? {
            bail!(
                "the runtime ended before it answered on {} ({status}); its log says why",
                socket.display()
            );
        }
        if started.elapsed() > START_DEADLINE {
            bail!("the runtime does not answer on {} within {START_DEADLINE:?}", socket.display());
        }
        // Another process: its socket gives no sign before it is there.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
