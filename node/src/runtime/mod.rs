//! The CRI server: pods' sandboxes, and the wasm containers in them.
//!
//! [`serve`] is a process of its own: CRI v1 and the data plane's service on a Unix socket, images and compiled
//! modules under a data directory, containers and listeners in memory. Invariant: it needs nobody to go on; the
//! agent may die and come back and finds its pods as they are. What a container is, its image says
//! (`backend`); Linux images are recognised and refused so far.
//! Not here: restart policies, probes, volumes (the agent), Kubernetes objects of any kind.

mod backend; // What kind of container an image makes.
mod container; // One container's record.
mod cri_images; // ImageService.
mod cri_pods; // RuntimeService.
mod data_plane; // The agent's second service.
mod error; // Errors and their gRPC codes.
mod events; // GetContainerEvents.
mod file_mounts; // Single files that are mounted.
mod locals; // Containers that are a function call away.
mod log; // CRI log files.
mod messages; // Records as CRI messages.
mod outgoing; // HTTP that guests send.
mod pod_network; // The shim's view of a pod's network.
mod pods; // All sandboxes and containers.
mod process; // Locks, socket, parent.
mod sandbox; // One pod.
mod streams; // exec and attach.
mod wasm; // Wasm containers.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_cri::v1::{image_service_server::ImageServiceServer, runtime_service_server::RuntimeServiceServer};
use naru_oci_fallback::{ImageStore, PullError};
use naru_wasi_shim::{Engine, EngineSettings};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use crate::{dataplane::data_plane_server::DataPlaneServer, network::Network};
use cri_images::CriImages;
use cri_pods::CriPods;
use data_plane::DataPlaneService;
use pods::Pods;
use process::{Lock, Socket};

/// Containers that still run when the process is asked to end get so long.
const LAST_GRACE: Duration = Duration::from_secs(2);
/// Calls under way at that time, likewise.
const LAST_CALLS: Duration = Duration::from_secs(1);
/// How long the runtime of a dead parent may take to end: twice what the two above allow.
const PREDECESSOR: Duration = Duration::from_secs(6);
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// Settings of the runtime process.
#[derive(Debug, Clone)]
pub struct RuntimeSettings {
    /// The Unix socket that serves CRI v1 and the data plane.
    pub socket: PathBuf,
    /// Images and compiled modules.
    pub data_dir: PathBuf,
    /// End when the process that started this one is gone.
    pub exit_with_parent: bool,
    /// How many wasm instances may exist at once. `None` is as many as fit below the kernel's limit of mappings, up
    /// to a default.
    pub max_instances: Option<u32>,
    /// As in [`EngineSettings`].
    pub harden_guests: bool,
}

impl RuntimeSettings {
    pub fn new(socket: impl Into<PathBuf>, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            data_dir: data_dir.into(),
            exit_with_parent: false,
            max_instances: None,
            harden_guests: false,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error("another runtime serves {0}; stop it or choose another path")]
    Taken(PathBuf),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("cannot open the image store: {0}")]
    Images(PullError),
    #[error("{0}")]
    Engine(io::Error),
    #[error("the CRI server failed: {0}")]
    Server(#[from] tonic::transport::Error),
}

/// Serves until `shutdown` (or, if so set, until the parent process is gone), then ends all containers.
pub async fn serve(
    settings: RuntimeSettings,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), RuntimeError> {
    process::raise_file_limit();
    let images_dir = settings.data_dir.join("images");
    create_dir(&settings.data_dir)?;
    // One whose parent was killed ends its containers first, while the next `naru up` starts already.
    let patience = if settings.exit_with_parent { PREDECESSOR } else { Duration::ZERO };
    let deadline = Instant::now() + patience;
    let _data_lock =
        Lock::take(&settings.data_dir.join("runtime.lock"), &settings.data_dir, deadline).await?;
    let mut socket = Socket::bind(&settings.socket, deadline).await?;
    let listener = socket.listener.take().expect("a socket that was just bound has its listener");
    write_pid(&settings.data_dir)?;

    let pods = Arc::new(open(&settings, &images_dir).await?);
    let closing = CancellationToken::new();
    let server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .add_service(RuntimeServiceServer::new(CriPods { pods: Arc::clone(&pods), closing: closing.clone() }))
        .add_service(ImageServiceServer::new(CriImages { pods: Arc::clone(&pods), folder: images_dir }))
        .add_service(DataPlaneServer::new(DataPlaneService {
            pods: Arc::clone(&pods),
            closing: closing.clone(),
        }))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), closing.clone().cancelled_owned());
    tracing::info!(socket = %settings.socket.display(), "the runtime serves");

    let mut server = std::pin::pin!(server);
    tokio::select! {
        result = &mut server => result?,
        () = shutdown => {}
        () = parent_is_gone(settings.exit_with_parent) => tracing::info!("the parent process is gone"),
    }
    closing.cancel();
    let (ended, ()) = tokio::join!(tokio::time::timeout(LAST_CALLS, server), pods.shut_down(LAST_GRACE));
    if let Ok(result) = ended {
        result?;
    }
    Ok(())
}

/// The engine's pool and the store's index take milliseconds each: at the same time, off the async threads.
async fn open(settings: &RuntimeSettings, images_dir: &Path) -> Result<Pods, RuntimeError> {
    let engine_settings = EngineSettings {
        cache_dir: settings.data_dir.join("modules"),
        max_instances: settings.max_instances,
        harden: settings.harden_guests,
    };
    let engine = tokio::task::spawn_blocking(move || Engine::new(engine_settings));
    let images_dir = images_dir.to_owned();
    let images = tokio::task::spawn_blocking(move || ImageStore::open(&images_dir));
    let engine =
        engine.await.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(RuntimeError::Engine)?;
    let images = images.await.unwrap_or_else(|error| Err(PullError::Io(io::Error::other(error))));
    // Containers end with this process; what the last one left of theirs is of no use.
    let containers = settings.data_dir.join("containers");
    let _ = fs::remove_dir_all(&containers);
    Ok(Pods::new(engine, images.map_err(RuntimeError::Images)?, Network::new(), containers))
}

async fn parent_is_gone(is_watched: bool) {
    if is_watched {
        match process::parent_is_gone().await {
            Ok(()) => return,
            Err(error) => tracing::warn!(%error, "the parent process cannot be watched"),
        }
    }
    std::future::pending::<()>().await;
}

fn create_dir(path: &Path) -> Result<(), RuntimeError> {
    fs::create_dir_all(path).map_err(|source| RuntimeError::Io { path: path.to_owned(), source })
}

fn write_pid(data_dir: &Path) -> Result<(), RuntimeError> {
    let path = data_dir.join("runtime.pid");
    fs::write(&path, format!("{}\n", std::process::id())).map_err(|source| RuntimeError::Io { path, source })
}

#[cfg(test)]
mod tests;
