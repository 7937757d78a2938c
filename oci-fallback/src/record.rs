//! One image's entry of the index on disk.
//!
//! Each image has a file of its own, replaced atomically, so that a damaged entry costs one image and a crash
//! none: content is renamed into place before the entry that names it.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::images::{Image, ImageKind};

/// What is written; `sequence` decides who has a name that two entries claim after a crash.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub digest: String,
    pub content_digest: String,
    pub content_size: u64,
    pub size: u64,
    pub names: Vec<String>,
    #[serde(default)]
    pub repo_digests: Vec<String>,
    #[serde(default)]
    pub entrypoint: Vec<String>,
    #[serde(default)]
    pub cmd: Vec<String>,
    #[serde(default)]
    pub env: Vec<String>,
    #[serde(default)]
    pub working_dir: Option<String>,
    #[serde(default)]
    pub user: Option<String>,
    pub sequence: u64,
}

impl Record {
    pub(crate) fn image(&self, folders: &Folders) -> Image {
        Image {
            digest: self.digest.clone(),
            content_digest: self.content_digest.clone(),
            names: self.names.clone(),
            repo_digests: self.repo_digests.clone(),
            size: self.size,
            kind: ImageKind::Wasm { file: folders.blob(&self.content_digest) },
            entrypoint: self.entrypoint.clone(),
            cmd: self.cmd.clone(),
            env: self.env.clone(),
            working_dir: self.working_dir.clone(),
            user: self.user.clone(),
        }
    }

    /// Durable when this returns.
    pub(crate) fn write(&self, folders: &Folders) -> io::Result<()> {
        let temporary = folders.temporary();
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        fs::rename(&temporary, folders.record(&self.digest))?;
        sync_folder(&folders.records)
    }

    /// The entries that can be used, in order of their writing. Damaged ones are reported and put aside.
    pub(crate) fn read_all(folders: &Folders) -> io::Result<Vec<Self>> {
        let mut records = Vec::new();
        for entry in fs::read_dir(&folders.records)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match Self::read(&path, folders) {
                Ok(record) => records.push(record),
                Err(reason) => {
                    tracing::warn!(entry = %path.display(), reason, "an image's entry is damaged and put aside");
                    fs::rename(&path, path.with_extension("damaged"))?;
                }
            }
        }
        records.sort_by_key(|record| record.sequence);
        Ok(records)
    }

    fn read(path: &Path, folders: &Folders) -> Result<Self, String> {
        let bytes = fs::read(path).map_err(|error| error.to_string())?;
        let record: Self = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
        if !is_digest(&record.digest) || !is_digest(&record.content_digest) {
            return Err("it names no valid digest".to_owned());
        }
        if folders.record(&record.digest) != path {
            return Err(format!("it describes {} and not the image it is filed under", record.digest));
        }
        let length = fs::metadata(folders.blob(&record.content_digest)).map(|metadata| metadata.len());
        match length {
            Ok(length) if length == record.content_size => Ok(record),
            Ok(length) => Err(format!("its content has {length} bytes instead of {}", record.content_size)),
            Err(error) => Err(format!("its content is not there: {error}")),
        }
    }
}

/// Where things are inside a store's folder.
#[derive(Debug)]
pub(crate) struct Folders {
    pub records: PathBuf,
    pub blobs: PathBuf,
    temporaries: PathBuf,
    next: std::sync::atomic::AtomicU64,
}

impl Folders {
    /// Makes what is missing and clears what an earlier process left half done.
    pub(crate) fn prepare(root: &Path) -> io::Result<Self> {
        let folders = Self {
            records: root.join("images"),
            blobs: root.join("blobs").join("sha256"),
            temporaries: root.join("tmp"),
            next: std::sync::atomic::AtomicU64::new(0),
        };
        if folders.temporaries.exists() {
            fs::remove_dir_all(&folders.temporaries)?;
        }
        for folder in [&folders.records, &folders.blobs, &folders.temporaries] {
            fs::create_dir_all(folder)?;
        }
        Ok(folders)
    }

    pub(crate) fn temporary(&self) -> PathBuf {
        let number = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.temporaries.join(number.to_string())
    }

    pub(crate) fn blob(&self, digest: &str) -> PathBuf {
        self.blobs.join(hexadecimal(digest))
    }

    pub(crate) fn record(&self, digest: &str) -> PathBuf {
        self.records.join(format!("{}.json", hexadecimal(digest)))
    }
}

/// Whether this is `sha256:` and 64 lower-case hexadecimal digits; nothing else becomes a file name.
pub(crate) fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn hexadecimal(digest: &str) -> &str {
    digest.strip_prefix("sha256:").unwrap_or(digest)
}
