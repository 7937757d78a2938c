//! Facts about a pod's spec that decision, status and shell share.

use std::sync::{Arc, LazyLock};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, EphemeralContainer, Pod, PodSpec, PodStatus, Probe, ResourceRequirements,
};
use sha2::{Digest, Sha256};

use super::identity::PodIdentity;

/// A pod that is bound to this node: it has a spec.
#[derive(Debug, Clone)]
pub struct PodView {
    pub identity: PodIdentity,
    pod: Arc<Pod>,
    /// `spec.ephemeralContainers` in the form of the others.
    ephemeral: Vec<Container>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

/// Where in the spec a container stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Runs to completion before the next one.
    Init,
    /// An init container with `restartPolicy: Always`: runs beside the main containers.
    Sidecar,
    Main,
    /// Was added to debug the running pod: runs once, and the pod's fate does not depend on it.
    Ephemeral,
}

impl PodView {
    /// `None` for a pod without a spec, which no API server serves.
    pub fn new(pod: Arc<Pod>) -> Option<Self> {
        let ephemeral = pod.spec.as_ref()?.ephemeral_containers.iter().flatten().map(as_container).collect();
        Some(Self { identity: PodIdentity::of(&pod), ephemeral, pod })
    }

    /// Stands in for a pod whose content is kept elsewhere: it has nothing but its name.
    pub fn packed(identity: PodIdentity) -> Self {
        static EMPTY: LazyLock<Arc<Pod>> =
            LazyLock::new(|| Arc::new(Pod { spec: Some(PodSpec::default()), ..Pod::default() }));
        Self { identity, ephemeral: Vec::new(), pod: EMPTY.clone() }
    }

    pub fn pod(&self) -> &Arc<Pod> {
        &self.pod
    }

    pub fn spec(&self) -> &PodSpec {
        self.pod.spec.as_ref().expect("checked when the view was made")
    }

    pub fn status(&self) -> Option<&PodStatus> {
        self.pod.status.as_ref()
    }

    pub fn restart_policy(&self) -> RestartPolicy {
        RestartPolicy::parse(self.spec().restart_policy.as_deref())
    }

    /// The container's own policy where it has one, else the pod's.
    pub fn restart_policy_of(&self, container: &Container) -> RestartPolicy {
        match container.restart_policy.as_deref() {
            None => self.restart_policy(),
            own => RestartPolicy::parse(own),
        }
    }

    pub fn init_containers(&self) -> &[Container] {
        self.spec().init_containers.as_deref().unwrap_or_default()
    }

    pub fn containers(&self) -> &[Container] {
        &self.spec().containers
    }

    pub fn ephemeral_containers(&self) -> &[Container] {
        &self.ephemeral
    }

    pub fn all_containers(&self) -> impl DoubleEndedIterator<Item = (&Container, Role)> {
        let init = self.init_containers().iter().map(|container| (container, init_role(container)));
        let main = self.containers().iter().map(|container| (container, Role::Main));
        let ephemeral = self.ephemeral.iter().map(|container| (container, Role::Ephemeral));
        init.chain(main).chain(ephemeral)
    }

    pub fn container(&self, name: &str) -> Option<(&Container, Role)> {
        self.all_containers().find(|(container, _)| container.name == name)
    }

    /// The same pod with the resources that `size` knows for containers by name; others keep theirs.
    pub fn with_sizes(&self, size: impl Fn(&str) -> Option<Option<ResourceRequirements>>) -> Self {
        let mut pod = (*self.pod).clone();
        if let Some(spec) = &mut pod.spec {
            for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
                if let Some(resources) = size(&container.name) {
                    container.resources = resources;
                }
            }
        }
        Self { pod: Arc::new(pod), ..self.clone() }
    }

    pub fn generation(&self) -> Option<i64> {
        self.pod.metadata.generation
    }

    pub fn is_being_deleted(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
    }

    /// How long its containers may take to end.
    pub fn grace_seconds(&self) -> i64 {
        let spec_grace = self.spec().termination_grace_period_seconds.unwrap_or(30);
        if self.is_being_deleted() {
            self.pod.metadata.deletion_grace_period_seconds.unwrap_or(spec_grace)
        } else {
            spec_grace
        }
    }

    pub fn started_at(&self) -> Option<Timestamp> {
        self.status()?.start_time.as_ref().map(|time| time.0)
    }

    pub fn is_host_network(&self) -> bool {
        self.spec().host_network.unwrap_or(false)
    }
}

impl RestartPolicy {
    fn parse(policy: Option<&str>) -> Self {
        match policy {
            Some("Never") => Self::Never,
            Some("OnFailure") => Self::OnFailure,
            _ => Self::Always,
        }
    }

    pub fn restarts_after(self, exit_code: i32) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => exit_code != 0,
            Self::Never => false,
        }
    }
}

/// With the fields that an ephemeral container may have. The one whose processes it wants to see
/// (`targetContainerName`) has none to show: what runs as WebAssembly is alone with itself.
fn as_container(container: &EphemeralContainer) -> Container {
    let container = container.clone();
    Container {
        name: container.name,
        image: container.image,
        image_pull_policy: container.image_pull_policy,
        command: container.command,
        args: container.args,
        working_dir: container.working_dir,
        env: container.env,
        env_from: container.env_from,
        volume_mounts: container.volume_mounts,
        volume_devices: container.volume_devices,
        security_context: container.security_context,
        termination_message_path: container.termination_message_path,
        termination_message_policy: container.termination_message_policy,
        stdin: container.stdin,
        stdin_once: container.stdin_once,
        tty: container.tty,
        ..Container::default()
    }
}

pub fn init_role(container: &Container) -> Role {
    if container.restart_policy.as_deref() == Some("Always") { Role::Sidecar } else { Role::Init }
}

/// What makes a running container outdated when it changes: its name and image.
pub fn definition_hash(container: &Container) -> String {
    let mut hasher = Sha256::new();
    hasher.update(container.name.as_bytes());
    hasher.update([0]);
    hasher.update(container.image.as_deref().unwrap_or_default().as_bytes());
    hex::encode(&hasher.finalize()[..4])
}

/// `spec.containers{name}`, as events point at containers.
pub fn event_path(name: &str, role: Role) -> String {
    let list = match role {
        Role::Main => "containers",
        Role::Init | Role::Sidecar => "initContainers",
        Role::Ephemeral => "ephemeralContainers",
    };
    format!("spec.{list}{{{name}}}")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProbeKind {
    Startup,
    Liveness,
    Readiness,
}

impl ProbeKind {
    pub const ALL: [Self; 3] = [Self::Startup, Self::Liveness, Self::Readiness];

    pub fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
        }
    }

    pub fn title(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}
