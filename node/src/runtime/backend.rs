//! What runs a container: decided container by container, by its image, so that one pod may mix kinds.

use std::{path::PathBuf, sync::Arc, time::Duration};

use k8s_cri::v1::{ContainerConfig, LinuxContainerResources, PodSandboxConfig};
use naru_oci_fallback::{Image, ImageKind, ImageStore};
use naru_wasi_shim::{Engine, Exec, ExecError, ExitStatus, PodNetwork, Stats};

use super::{
    error::PodError,
    locals::Locals,
    log::LogFile,
    wasm::{PreparedWasm, RunningWasm},
};

/// What a container gets from its sandbox and its node.
pub(super) struct Surroundings<'a> {
    pub engine: &'a Engine,
    pub images: &'a ImageStore,
    pub locals: &'a Arc<Locals>,
    pub network: Arc<dyn PodNetwork>,
    pub log: Arc<LogFile>,
    pub sandbox: &'a PodSandboxConfig,
    /// The container may make this folder, for what it needs on disk.
    pub folder: PathBuf,
}

/// A container that could start now: its image is loaded and fits.
pub(super) enum Prepared {
    Wasm(Box<PreparedWasm>),
}

/// A container that was started.
#[derive(Clone)]
pub(super) enum Running {
    Wasm(RunningWasm),
}

impl Prepared {
    pub(super) async fn new(
        image: &Image,
        config: &mut ContainerConfig,
        around: Surroundings<'_>,
    ) -> Result<Self, PodError> {
        match &image.kind {
            ImageKind::Wasm { file } => {
                Ok(Self::Wasm(Box::new(PreparedWasm::new(image, file, config, around).await?)))
            }
            ImageKind::Linux => Err(PodError::LinuxUnavailable { image: image.digest.clone() }),
        }
    }

    /// # Errors
    /// A text for the user.
    pub(super) async fn start(self, resources: Option<&LinuxContainerResources>) -> Result<Running, String> {
        match self {
            Self::Wasm(prepared) => prepared.start(resources).await.map(Running::Wasm),
        }
    }
}

impl Running {
    pub(super) async fn wait(&self) -> ExitStatus {
        match self {
            Self::Wasm(container) => container.wait().await,
        }
    }

    pub(super) async fn stop(&self, grace: Duration) {
        match self {
            Self::Wasm(container) => container.stop(grace).await,
        }
    }

    /// # Errors
    /// A text for the user.
    pub(super) fn set_resources(&self, resources: &LinuxContainerResources) -> Result<(), String> {
        match self {
            Self::Wasm(container) => container.set_resources(resources),
        }
    }

    /// Runs another program in the container.
    pub(super) fn exec(&self, command: Vec<String>, with_stdin: bool) -> Result<Exec, ExecError> {
        match self {
            Self::Wasm(container) => container.exec(command, with_stdin),
        }
    }

    pub(super) async fn write_stdin(&self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Wasm(container) => container.write_stdin(bytes).await,
        }
    }

    pub(super) async fn close_stdin(&self) {
        match self {
            Self::Wasm(container) => container.close_stdin().await,
        }
    }

    pub(super) fn stats(&self) -> Stats {
        match self {
            Self::Wasm(container) => container.stats(),
        }
    }
}
