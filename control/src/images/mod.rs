//! The cluster's image store: wasm files that users put in by name, for every node to take.
//!
//! Content lies in `blobs/sha256/HEX`, names in `index.json`, which is replaced as a whole. A blob is complete when it
//! has its name, so a crash at any moment leaves either the old state or the new one.
//! Not here: what a node keeps of images (`oci-fallback`), and replication between control-plane members.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;

/// The largest image that is taken.
pub const MAX_IMAGE_BYTES: u64 = 512 << 20;

/// One name and what it points at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LibraryImage {
    pub name: String,
    /// `sha256:…` of the file.
    pub digest: String,
    /// In bytes.
    pub size: u64,
    pub created: Timestamp,
}

/// Why an image was not taken or given.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    #[error("image \"{0}\" not found")]
    NotFound(String),
    #[error("image name \"{name}\" is invalid: {reason}")]
    InvalidName { name: String, reason: &'static str },
    #[error("the file is not WebAssembly: it does not start with \\0asm")]
    NotWasm,
    #[error("the image is larger than {} MiB", MAX_IMAGE_BYTES >> 20)]
    TooLarge,
    #[error("the upload ended early: {0}")]
    Interrupted(String),
    #[error("the image store {path} cannot be used: {source}")]
    Io { path: PathBuf, source: io::Error },
}

/// The store. One per control-plane process.
#[derive(Debug)]
pub struct ImageLibrary {
    dir: PathBuf,
    /// By name. Held for a few lines, and for the short write of the index; never over an await.
    images: Mutex<BTreeMap<String, LibraryImage>>,
    uploads: AtomicU64,
}

impl ImageLibrary {
    /// Opens the store in `dir`, making it where there is none. Unfinished uploads of an earlier life are removed.
    pub fn open(dir: &Path) -> Result<Self, LibraryError> {
        let at = |path: PathBuf| move |source| LibraryError::Io { path, source };
        for folder in [dir.join("blobs/sha256"), dir.join("uploads")] {
            std::fs::create_dir_all(&folder).map_err(at(folder))?;
        }
        for stale in std::fs::read_dir(dir.join("uploads")).map_err(at(dir.join("uploads")))?.flatten() {
            let _ = std::fs::remove_file(stale.path());
        }
        let index = dir.join("index.json");
        let images = match std::fs::read(&index) {
            Ok(text) => {
                serde_json::from_slice::<Vec<LibraryImage>>(&text).map_err(|error| LibraryError::Io {
                    path: index,
                    source: io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("{error}; remove it to start with no images"),
                    ),
                })?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(LibraryError::Io { path: index, source }),
        };
        let images = images.into_iter().map(|image| (image.name.clone(), image)).collect();
        Ok(Self { dir: dir.to_owned(), images: Mutex::new(images), uploads: AtomicU64::new(0) })
    }

    /// All images in the order of their names.
    pub fn list(&self) -> Vec<LibraryImage> {
        self.lock().values().cloned().collect()
    }

    /// The image of a name as a pod says it: without a tag it also means `:latest`, and the other way round.
    pub fn resolve(&self, name: &str) -> Result<LibraryImage, LibraryError> {
        let images = self.lock();
        let other = match name.strip_suffix(":latest") {
            Some(bare) => Some(bare.to_owned()),
            None if !has_tag(name) => Some(format!("{name}:latest")),
            None => None,
        };
        let found = images.get(name).or_else(|| images.get(&other?));
        found.cloned().ok_or_else(|| LibraryError::NotFound(name.into()))
    }

    /// Puts the bytes of `body` under `name`; what the name pointed at before is forgotten.
    pub async fn import<E: std::fmt::Display>(
        &self,
        name: &str,
        body: impl Stream<Item = Result<Bytes, E>> + Unpin,
        now: Timestamp,
    ) -> Result<LibraryImage, LibraryError> {
        check_name(name)?;
        let upload = self.dir.join("uploads").join(self.uploads.fetch_add(1, Ordering::Relaxed).to_string());
        let received = self.receive(&upload, body).await;
        let (digest, size) = match received {
            Ok(received) => received,
            Err(error) => {
                let _ = tokio::fs::remove_file(&upload).await;
                return Err(error);
            }
        };
        let blob = self.blob_path(&digest);
        tokio::fs::rename(&upload, &blob).await.map_err(|source| LibraryError::Io { path: blob, source })?;
        let image = LibraryImage { name: name.into(), digest, size, created: now };
        self.change(|images| images.insert(image.name.clone(), image.clone()))?;
        Ok(image)
    }

    /// Removes a name, and its content when no other name points at it.
    pub fn remove(&self, name: &str) -> Result<(), LibraryError> {
        let image = self.resolve(name)?;
        self.change(|images| images.remove(&image.name))?;
        Ok(())
    }

    /// The file of a digest, if it is here.
    pub fn blob(&self, digest: &str) -> Option<PathBuf> {
        let is_digest = digest.strip_prefix("sha256:").is_some_and(|hex| {
            hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        });
        let path = self.blob_path(digest);
        (is_digest && path.exists()).then_some(path)
    }

    fn blob_path(&self, digest: &str) -> PathBuf {
        self.dir.join("blobs").join(digest.replacen(':', "/", 1))
    }

    /// Writes the upload to its file, durably, and answers its digest and size.
    async fn receive<E: std::fmt::Display>(
        &self,
        upload: &Path,
        mut body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<(String, u64), LibraryError> {
        let at = |source| LibraryError::Io { path: upload.to_owned(), source };
        let mut file = tokio::fs::File::create(upload).await.map_err(at)?;
        let (mut hash, mut size, mut head) = (Sha256::new(), 0u64, Vec::<u8>::new());
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|error| LibraryError::Interrupted(error.to_string()))?;
            size += chunk.len() as u64;
            if size > MAX_IMAGE_BYTES {
                return Err(LibraryError::TooLarge);
            }
            if head.len() < 4 {
                head.extend(chunk.iter().take(4 - head.len()));
            }
            hash.update(&chunk);
            file.write_all(&chunk).await.map_err(at)?;
        }
        if head.as_slice() != b"\0asm" {
            return Err(LibraryError::NotWasm);
        }
        file.sync_all().await.map_err(at)?;
        Ok((format!("sha256:{}", hex::encode(hash.finalize())), size))
    }

    /// Changes the index in memory and on disk, or neither, and removes blobs that no name points at any more.
    fn change<T>(
        &self,
        change: impl FnOnce(&mut BTreeMap<String, LibraryImage>) -> T,
    ) -> Result<T, LibraryError> {
        let mut images = self.lock();
        let mut new = images.clone();
        let answer = change(&mut new);
        let list: Vec<&LibraryImage> = new.values().collect();
        let text = serde_json::to_vec_pretty(&list).expect("images serialize");
        replace_file(&self.dir.join("index.json"), &text)?;
        for old in images.values() {
            if !new.values().any(|image| image.digest == old.digest) {
                let _ = std::fs::remove_file(self.blob_path(&old.digest));
            }
        }
        *images = new;
        Ok(answer)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, LibraryImage>> {
        self.images.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Replaces a file so that a crash leaves the old or the new one.
fn replace_file(path: &Path, text: &[u8]) -> Result<(), LibraryError> {
    let at = |source| LibraryError::Io { path: path.to_owned(), source };
    let new = path.with_extension("new");
    let mut file = std::fs::File::create(&new).map_err(at)?;
    io::Write::write_all(&mut file, text).map_err(at)?;
    file.sync_all().map_err(at)?;
    std::fs::rename(&new, path).map_err(at)
}

fn has_tag(name: &str) -> bool {
    name.contains('@') || name.rsplit('/').next().is_some_and(|last| last.contains(':'))
}

fn check_name(name: &str) -> Result<(), LibraryError> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"./:_-@".contains(&byte);
    let reason = match name {
        "" => "it is empty",
        _ if name.len() > 255 => "it is longer than 255 characters",
        _ if !name.bytes().all(is_allowed) => "only letters, digits and ./:_-@ may stand in it",
        _ if !name.as_bytes()[0].is_ascii_alphanumeric() => "it must start with a letter or digit",
        _ if name.contains("..") || name.contains("//") => "it has an empty part",
        _ => return Ok(()),
    };
    Err(LibraryError::InvalidName { name: name.into(), reason })
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    type Chunk = Result<Bytes, String>;

    async fn import(
        library: &ImageLibrary,
        name: &str,
        text: &'static [u8],
    ) -> Result<LibraryImage, LibraryError> {
        let chunks: Vec<Chunk> = text.chunks(3).map(|chunk| Ok(Bytes::from_static(chunk))).collect();
        library.import(name, stream::iter(chunks), Timestamp::UNIX_EPOCH).await
    }

    fn folder(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("naru-images-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        dir
    }

    #[tokio::test]
    async fn an_image_is_found_again_after_a_restart() {
        let dir = folder("restart");
        let image = import(&ImageLibrary::open(&dir).unwrap(), "web:v1", b"\0asm one").await.unwrap();
        let library = ImageLibrary::open(&dir).unwrap();
        assert_eq!(library.list(), std::slice::from_ref(&image));
        assert_eq!(std::fs::read(library.blob(&image.digest).unwrap()).unwrap(), b"\0asm one");
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[tokio::test]
    async fn a_name_without_tag_means_latest() {
        let dir = folder("latest");
        let library = ImageLibrary::open(&dir).unwrap();
        import(&library, "web", b"\0asm").await.unwrap();
        import(&library, "host:5000/job:latest", b"\0asm").await.unwrap();
        assert_eq!(library.resolve("web:latest").unwrap().name, "web");
        assert_eq!(library.resolve("host:5000/job").unwrap().name, "host:5000/job:latest");
        assert!(matches!(library.resolve("web:v2"), Err(LibraryError::NotFound(_))));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[tokio::test]
    async fn content_goes_with_its_last_name() {
        let dir = folder("last");
        let library = ImageLibrary::open(&dir).unwrap();
        let digest = import(&library, "a", b"\0asm").await.unwrap().digest;
        import(&library, "b", b"\0asm").await.unwrap();
        library.remove("a").unwrap();
        assert!(library.blob(&digest).is_some());
        import(&library, "b", b"\0asm two").await.unwrap();
        assert!(library.blob(&digest).is_none());
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[tokio::test]
    async fn what_is_no_wasm_or_breaks_off_leaves_nothing_behind() {
        let dir = folder("bad");
        let library = ImageLibrary::open(&dir).unwrap();
        assert!(matches!(import(&library, "a", b"\x7fELF").await, Err(LibraryError::NotWasm)));
        assert!(matches!(import(&library, "a", b"").await, Err(LibraryError::NotWasm)));
        assert!(matches!(import(&library, "../a", b"\0asm").await, Err(LibraryError::InvalidName { .. })));
        let broken: [Chunk; 2] = [Ok(Bytes::from_static(b"\0asm")), Err("connection reset".into())];
        let error = library.import("a", stream::iter(broken), Timestamp::UNIX_EPOCH).await.unwrap_err();
        assert_eq!(error.to_string(), "the upload ended early: connection reset");
        assert_eq!(library.list(), []);
        assert_eq!(std::fs::read_dir(dir.join("uploads")).unwrap().count(), 0);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn only_digests_name_blobs() {
        let dir = folder("digest");
        let library = ImageLibrary::open(&dir).unwrap();
        assert_eq!(library.blob("sha256:../../index.json"), None);
        assert_eq!(library.blob("../index.json"), None);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
