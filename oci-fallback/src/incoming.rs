//! A file on its way into the store: hashed as it is written, visible only when it is whole.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::PathBuf,
    sync::Arc,
};

use sha2::{Digest, Sha256};

use crate::{
    Image, ImageStore, PullError,
    record::{Folders, Record, sync_folder},
};

/// The first bytes of every WebAssembly file, module or component.
const MAGIC: &[u8] = b"\0asm";

/// A file that is being received. Dropped before it is finished, it leaves nothing behind.
pub struct Incoming {
    store: ImageStore,
    folders: Arc<Folders>,
    path: PathBuf,
    file: File,
    hash: Sha256,
    head: Vec<u8>,
    size: u64,
}

impl Incoming {
    pub(crate) fn new(store: ImageStore, folders: Arc<Folders>) -> io::Result<Self> {
        let path = folders.temporary();
        let file = File::create_new(&path)?;
        Ok(Self { store, folders, path, file, hash: Sha256::new(), head: Vec::new(), size: 0 })
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
        if self.head.len() < MAGIC.len() {
            let missing = MAGIC.len() - self.head.len();
            self.head.extend_from_slice(&bytes[..missing.min(bytes.len())]);
        }
        Ok(())
    }

    /// Files what was received as an image of its own: a wasm file under `name`.
    ///
    /// # Errors
    /// When it is no wasm file, or not the one that `expected` announces.
    pub fn finish(self, name: &str, expected: Option<&str>) -> Result<Image, PullError> {
        let kept = self.keep(name, expected)?;
        let (digest, size) = (kept.digest.clone(), kept.size);
        let store = kept.incoming.store.clone();
        let record = Record {
            digest: digest.clone(),
            content_digest: digest,
            content_size: size,
            size,
            names: vec![name.to_owned()],
            repo_digests: Vec::new(),
            entrypoint: Vec::new(),
            cmd: Vec::new(),
            env: Vec::new(),
            working_dir: None,
            user: None,
            sequence: 0,
        };
        store.file(record, Some(kept))
    }

    /// Checks the content and makes it durable; it is not in its place yet.
    pub(crate) fn keep(mut self, name: &str, expected: Option<&str>) -> Result<Kept, PullError> {
        let invalid = |reason: String| PullError::Invalid { image: name.to_owned(), reason };
        let digest = self.digest();
        if let Some(expected) = expected.filter(|expected| *expected != digest) {
            return Err(invalid(format!("the content's digest is {digest} instead of {expected}")));
        }
        if self.head != MAGIC {
            return Err(invalid(if self.size == 0 {
                "the file is empty".to_owned()
            } else {
                "not a WebAssembly file: it does not begin with the bytes 00 61 73 6d".to_owned()
            }));
        }
        self.file.sync_all()?;
        Ok(Kept { digest, size: self.size, incoming: self })
    }

    /// The digest of what came so far; the hash begins anew.
    pub(crate) fn digest(&mut self) -> String {
        format!("sha256:{}", hex::encode(self.hash.finalize_reset()))
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        &self.path
    }
}

/// Content that is whole and durable, still under its temporary name.
pub(crate) struct Kept {
    pub digest: String,
    pub size: u64,
    incoming: Incoming,
}

impl Kept {
    /// Moves it to its place. Called under the index's lock, so that no removal comes between.
    pub(crate) fn settle(self) -> io::Result<()> {
        fs::rename(&self.incoming.path, self.incoming.folders.blob(&self.digest))?;
        sync_folder(&self.incoming.folders.blobs)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // Gone already when it was kept.
        let _ = fs::remove_file(&self.path);
    }
}
