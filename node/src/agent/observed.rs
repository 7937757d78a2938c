//! What the runtime says about one pod: its sandboxes and containers, newest first.

use jiff::Timestamp;
use k8s_cri::v1 as cri;

use super::{
    identity::{ANNOTATION_HASH, ANNOTATION_RESTART_COUNT},
    resize::Size,
};

/// One look at a pod in the runtime.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    pub sandboxes: Vec<Sandbox>,
    pub containers: Vec<ContainerRecord>,
    /// The runtime's clock at this look, in nanoseconds; 0 if it does not say. Older events are old news.
    pub timestamp: i64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Sandbox {
    pub id: String,
    pub attempt: u32,
    pub is_ready: bool,
    pub created_at: i64,
    pub ips: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    Created,
    Running,
    Exited,
    Unknown,
}

/// One run of a container.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerRecord {
    pub id: String,
    pub name: String,
    pub sandbox_id: String,
    pub state: RunState,
    pub restart_count: u32,
    pub created_at: i64,
    pub started_at: i64,
    pub finished_at: i64,
    pub exit_code: i32,
    pub reason: String,
    pub message: String,
    pub image: String,
    pub image_id: String,
    /// Of the container's definition when it was created.
    pub hash: String,
    pub log_path: String,
    /// What the runtime gives it; `None` where it does not say.
    pub size: Option<Size>,
}

impl Observed {
    pub fn new(mut sandboxes: Vec<Sandbox>, mut containers: Vec<ContainerRecord>, timestamp: i64) -> Self {
        sandboxes.sort_by_key(|sandbox| std::cmp::Reverse((sandbox.created_at, sandbox.attempt)));
        containers.sort_by_key(|record| std::cmp::Reverse((record.created_at, record.restart_count)));
        Self { sandboxes, containers, timestamp }
    }

    /// The newest sandbox, if it is usable.
    pub fn ready_sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.first().filter(|sandbox| sandbox.is_ready)
    }

    pub fn latest(&self, container: &str) -> Option<&ContainerRecord> {
        self.containers.iter().find(|record| record.name == container)
    }

    /// All runs of a container that the runtime remembers, newest first.
    pub fn records<'a>(&'a self, container: &'a str) -> impl Iterator<Item = &'a ContainerRecord> {
        self.containers.iter().filter(move |record| record.name == container)
    }

    pub fn has_running(&self) -> bool {
        self.containers.iter().any(|record| matches!(record.state, RunState::Running | RunState::Unknown))
    }

    pub fn container(&self, id: &str) -> Option<&ContainerRecord> {
        self.containers.iter().find(|record| record.id == id)
    }
}

impl Sandbox {
    pub fn from_status(status: &cri::PodSandboxStatus) -> Self {
        let network = status.network.clone().unwrap_or_default();
        let ips = std::iter::once(network.ip)
            .chain(network.additional_ips.into_iter().map(|address| address.ip))
            .filter(|ip| !ip.is_empty())
            .collect();
        Self {
            id: status.id.clone(),
            attempt: status.metadata.as_ref().map_or(0, |metadata| metadata.attempt),
            is_ready: status.state == cri::PodSandboxState::SandboxReady as i32,
            created_at: status.created_at,
            ips,
        }
    }
}

impl ContainerRecord {
    pub fn from_status(status: &cri::ContainerStatus, sandbox_id: &str) -> Self {
        let metadata = status.metadata.clone().unwrap_or_default();
        let restart_count =
            status.annotations.get(ANNOTATION_RESTART_COUNT).and_then(|text| text.parse().ok());
        Self {
            id: status.id.clone(),
            name: metadata.name,
            sandbox_id: sandbox_id.to_owned(),
            state: RunState::from_cri(status.state),
            restart_count: restart_count.unwrap_or(metadata.attempt),
            created_at: status.created_at,
            started_at: status.started_at,
            finished_at: status.finished_at,
            exit_code: status.exit_code,
            reason: status.reason.clone(),
            message: status.message.clone(),
            image: status.image.as_ref().map(user_image).unwrap_or_default(),
            image_id: if status.image_ref.is_empty() {
                status.image_id.clone()
            } else {
                status.image_ref.clone()
            },
            hash: status.annotations.get(ANNOTATION_HASH).cloned().unwrap_or_default(),
            log_path: status.log_path.clone(),
            size: status.resources.as_ref().and_then(|of| of.linux.as_ref()).map(Size::from_cri),
        }
    }

    pub fn is_running(&self) -> bool {
        self.state == RunState::Running
    }

    /// When it ended, for one that did.
    pub fn finished(&self) -> Option<Timestamp> {
        (self.state == RunState::Exited).then(|| timestamp(self.finished_at)).flatten()
    }

    pub fn started(&self) -> Option<Timestamp> {
        timestamp(self.started_at)
    }
}

impl RunState {
    fn from_cri(state: i32) -> Self {
        match cri::ContainerState::try_from(state) {
            Ok(cri::ContainerState::ContainerCreated) => Self::Created,
            Ok(cri::ContainerState::ContainerRunning) => Self::Running,
            Ok(cri::ContainerState::ContainerExited) => Self::Exited,
            _ => Self::Unknown,
        }
    }
}

/// The name as the user wrote it, where the runtime kept it.
fn user_image(spec: &cri::ImageSpec) -> String {
    if spec.user_specified_image.is_empty() { spec.image.clone() } else { spec.user_specified_image.clone() }
}

/// A CRI time; 0 means never.
pub fn timestamp(nanoseconds: i64) -> Option<Timestamp> {
    (nanoseconds > 0).then(|| Timestamp::from_nanosecond(i128::from(nanoseconds)).ok()).flatten()
}
