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

/// How a runtime is started.
pub struct RuntimeSpec {
    pub socket: PathBuf,
    pub data_dir: PathBuf,
    /// Whether it ends with this process (`naru up`), or outlives it (`naru node`).
    pub exit_with_parent: bool,
    /// Its log; `None` is this process's standard error.
    pub log: Option<PathBuf>,
}

/// Starts a runtime; [`wait_for_socket`] says when it answers.
pub fn spawn_runtime(spec: &RuntimeSpec) -> anyhow::Result<Child> {
    let binary = std::env::current_exe().context("cannot find the naru binary")?;
    let mut command = Command::new(binary);
    command.arg("runtime").arg("--socket").arg(&spec.socket).arg("--data-dir").arg(&spec.data_dir);
    if spec.exit_with_parent {
        command.arg("--exit-with-parent");
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

/// Waits until the runtime of `child` answers on `socket`, or says why it won't.
pub async fn wait_for_socket(socket: &Path, child: &mut Child) -> anyhow::Result<()> {
    let started = Instant::now();
    loop {
        if UnixStream::connect(socket).await.is_ok() {
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

/// Ends a child as Ctrl-C would; kills it after `grace`.
pub async fn stop(child: &mut Child, grace: Duration) {
    let Some(pid) =
        child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw)
    else {
        return; // It ended already.
    };
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    if tokio::time::timeout(grace, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}
