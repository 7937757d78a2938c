//! One container's record: what it was asked to be, and how far it came.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use k8s_cri::v1::{
    self as cri, ContainerMetadata, ContainerState, ImageSpec, LinuxContainerResources, Mount,
};
use naru_wasi_shim::{ExitReason, ExitStatus};
use tokio::sync::Notify;

use super::{
    backend::{Prepared, Running},
    log::LogFile,
    sandbox::Sandbox,
};

type Map = std::collections::HashMap<String, String>;

pub(super) struct Container {
    pub id: String,
    pub sandbox: Arc<Sandbox>,
    pub metadata: ContainerMetadata,
    pub labels: Map,
    pub annotations: Map,
    pub image: ImageSpec,
    /// What the image is called with its digest.
    pub image_ref: String,
    pub image_id: String,
    pub mounts: Vec<Mount>,
    /// It has an input, and whether that ends with the first client that attaches to it.
    pub stdin: bool,
    pub stdin_once: bool,
    pub log: Arc<LogFile>,
    pub created_at: i64,
    /// Each guards a few lines without `.await`.
    resources: Mutex<Option<LinuxContainerResources>>,
    phase: Mutex<Phase>,
    changed: Notify,
}

pub(super) enum Phase {
    Created(Prepared),
    Starting,
    Running { since: i64, running: Running },
    Exited(Exited),
}

#[derive(Debug, Clone)]
pub(super) struct Exited {
    pub started_at: i64,
    pub finished_at: i64,
    pub code: i32,
    pub reason: &'static str,
    pub message: String,
}

/// What [`Container::new`] is given beside the prepared container.
pub(super) struct NewContainer {
    pub id: String,
    pub sandbox: Arc<Sandbox>,
    pub config: cri::ContainerConfig,
    pub image_ref: String,
    pub image_id: String,
    pub log: Arc<LogFile>,
}

impl Container {
    pub(super) fn new(new: NewContainer, prepared: Prepared) -> Self {
        let NewContainer { id, sandbox, config, image_ref, image_id, log } = new;
        Self {
            id,
            sandbox,
            metadata: config.metadata.unwrap_or_default(),
            labels: config.labels,
            annotations: config.annotations,
            image: config.image.unwrap_or_default(),
            image_ref,
            image_id,
            mounts: config.mounts,
            stdin: config.stdin,
            stdin_once: config.stdin_once,
            log,
            created_at: now(),
            resources: Mutex::new(config.linux.and_then(|linux| linux.resources)),
            phase: Mutex::new(Phase::Created(prepared)),
            changed: Notify::new(),
        }
    }

    /// Takes what was prepared, once. Otherwise says in which state it is.
    pub(super) fn begin_start(&self) -> Result<Prepared, &'static str> {
        let mut phase = self.phase();
        match std::mem::replace(&mut *phase, Phase::Starting) {
            Phase::Created(prepared) => Ok(prepared),
            other => {
                let name = match &other {
                    Phase::Created(_) | Phase::Starting => "starting",
                    Phase::Running { .. } => "running",
                    Phase::Exited(_) => "exited",
                };
                *phase = other;
                Err(name)
            }
        }
    }

    pub(super) fn runs(&self, running: Running) {
        *self.phase() = Phase::Running { since: now(), running };
        self.changed.notify_waiters();
    }

    pub(super) fn failed_to_start(&self, message: String) {
        self.exited(Exited { started_at: 0, finished_at: now(), code: 128, reason: "StartError", message });
    }

    /// The log is complete before anybody sees that the container ended.
    pub(super) fn ended(&self, status: ExitStatus) {
        self.log.finish();
        let started_at = match &*self.phase() {
            Phase::Running { since, .. } => *since,
            _ => self.created_at,
        };
        let reason = match status.reason {
            ExitReason::Completed => "Completed",
            ExitReason::Error => "Error",
            ExitReason::OomKilled => "OOMKilled",
        };
        let finished_at = nanoseconds(status.finished_at).max(started_at);
        self.exited(Exited { started_at, finished_at, code: status.code, reason, message: status.message });
    }

    pub(super) fn running(&self) -> Option<Running> {
        match &*self.phase() {
            Phase::Running { running, .. } => Some(running.clone()),
            _ => None,
        }
    }

    pub(super) fn state(&self) -> ContainerState {
        match &*self.phase() {
            Phase::Created(_) | Phase::Starting => ContainerState::ContainerCreated,
            Phase::Running { .. } => ContainerState::ContainerRunning,
            Phase::Exited(_) => ContainerState::ContainerExited,
        }
    }

    /// When it runs or ran, and how it ended.
    pub(super) fn history(&self) -> (i64, Option<Exited>) {
        match &*self.phase() {
            Phase::Created(_) | Phase::Starting => (0, None),
            Phase::Running { since, .. } => (*since, None),
            Phase::Exited(exited) => (exited.started_at, Some(exited.clone())),
        }
    }

    /// Returns when its end is recorded.
    pub(super) async fn wait_ended(&self) {
        self.wait_until(|phase| matches!(phase, Phase::Exited(_))).await;
    }

    /// Returns when it is not just being started.
    pub(super) async fn wait_started(&self) {
        self.wait_until(|phase| !matches!(phase, Phase::Starting)).await;
    }

    async fn wait_until(&self, is_so: impl Fn(&Phase) -> bool) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Before the look, so that no change slips between.
            changed.as_mut().enable();
            if is_so(&self.phase()) {
                return;
            }
            changed.await;
        }
    }

    pub(super) fn resources(&self) -> Option<LinuxContainerResources> {
        self.resources.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Of what `update` leaves out, the container keeps what it has.
    ///
    /// # Errors
    /// A text for the user; then nothing has changed.
    pub(super) fn update_resources(&self, update: &LinuxContainerResources) -> Result<(), String> {
        let mut resources = self.resources.lock().unwrap_or_else(PoisonError::into_inner);
        let updated = merged(resources.clone().unwrap_or_default(), update);
        if let Some(running) = self.running() {
            running.set_resources(&updated)?;
        }
        *resources = Some(updated);
        Ok(())
    }

    fn exited(&self, exited: Exited) {
        *self.phase() = Phase::Exited(exited);
        self.changed.notify_waiters();
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `resources` with what `update` says; 0 or nothing in it means: as it is.
fn merged(
    mut resources: LinuxContainerResources,
    update: &LinuxContainerResources,
) -> LinuxContainerResources {
    for (old, new) in [
        (&mut resources.cpu_period, update.cpu_period),
        (&mut resources.cpu_quota, update.cpu_quota),
        (&mut resources.cpu_shares, update.cpu_shares),
        (&mut resources.memory_limit_in_bytes, update.memory_limit_in_bytes),
        (&mut resources.memory_swap_limit_in_bytes, update.memory_swap_limit_in_bytes),
        (&mut resources.oom_score_adj, update.oom_score_adj),
    ] {
        if new != 0 {
            *old = new;
        }
    }
    for (old, new) in
        [(&mut resources.cpuset_cpus, &update.cpuset_cpus), (&mut resources.cpuset_mems, &update.cpuset_mems)]
    {
        if !new.is_empty() {
            old.clone_from(new);
        }
    }
    if !update.hugepage_limits.is_empty() {
        resources.hugepage_limits.clone_from(&update.hugepage_limits);
    }
    resources.unified.extend(update.unified.clone());
    resources
}

/// Nanoseconds since 1970, as CRI counts.
pub(super) fn now() -> i64 {
    nanoseconds(SystemTime::now())
}

fn nanoseconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}
