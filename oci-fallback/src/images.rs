//! The node's image store: content by digest, names that point at it, and pulling from registries.

use std::path::{Path, PathBuf};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageKind {
    /// `file` is the module or component.
    Wasm { file: PathBuf },
    /// A Linux image.
    Linux,
}

#[derive(Debug, Clone)]
pub struct Image {
    /// `sha256:…` of the manifest, or of the file for imported wasm files: the image id.
    pub digest: String,
    /// Digest of the wasm file itself (the key of the compiled-module cache).
    pub content_digest: String,
    /// All names that point here, normalised (`docker.io/library/x:latest`) except for imported plain names.
    pub names: Vec<String>,
    pub size: u64,
    pub kind: ImageKind,
    /// Entrypoint, cmd, env, working dir from the image's config, where it has them.
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub env: Vec<String>,
    pub working_dir: Option<String>,
    pub user: Option<String>,
}

#[derive(Debug, Clone, Default)]
pub enum PullAuth {
    #[default]
    Anonymous,
    Basic { username: String, password: String },
    Bearer(String),
}

/// Why an image is not here, with the registry's own words.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error("couldn't parse image name \"{0}\": {1}")]
    InvalidName(String, String),
    #[error("{0}: not found")]
    NotFound(String),
    #[error("failed to pull {image}: {reason}")]
    Registry { image: String, reason: String },
    #[error("image {image} is not a wasm image and Linux containers are not available: {reason}")]
    Unsupported { image: String, reason: String },
    #[error("image store: {0}")]
    Io(#[from] std::io::Error),
}

/// A folder of images; several handles in one process share it.
#[derive(Clone)]
pub struct ImageStore {}

impl ImageStore {
    pub fn open(dir: &Path) -> Result<Self, PullError> {
        todo!("{dir:?}")
    }
    /// By name (as users write it) or digest.
    pub fn get(&self, reference: &str) -> Option<Image> {
        todo!("{reference}")
    }
    pub fn list(&self) -> Vec<Image> {
        todo!()
    }
    /// Pulls and verifies; what is there already is not fetched again.
    pub async fn pull(&self, reference: &str, auth: PullAuth) -> Result<Image, PullError> {
        todo!("{reference} {auth:?}")
    }
    /// Puts the wasm file at `file` under `name`, checking `digest` if it is given. Atomic.
    pub fn import(&self, name: &str, file: &Path, digest: Option<&str>) -> Result<Image, PullError> {
        todo!("{name} {file:?} {digest:?}")
    }
    /// Removes a name, and the content when no name is left.
    pub fn remove(&self, reference: &str) -> Result<(), PullError> {
        todo!("{reference}")
    }
}
