//! The node's image store: content by digest, and names that point at it.
//!
//! Invariant: what the store hands out was whole and had its digest when it was filed; an image is either listed
//! with all of its content or not at all, whenever the process dies. Content that nothing names is removed.
//! Not here: talking to registries ([`crate::registry`]), compiled modules (the shim's cache).

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sha2::{Digest, Sha256};

use crate::{
    Incoming,
    incoming::Kept,
    record::{Folders, Record},
    reference::{candidates, digest_of},
    registry,
};

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
    /// `repository@sha256:…` for each registry it was pulled from; empty for imported files.
    pub repo_digests: Vec<String>,
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
    Basic {
        username: String,
        password: String,
    },
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
    /// The content is not what it should be: damaged, or no WebAssembly.
    #[error("image {image}: {reason}")]
    Invalid { image: String, reason: String },
    #[error("image {image} is not a wasm image and Linux containers are not available: {reason}")]
    Unsupported { image: String, reason: String },
    #[error("image store: {0}")]
    Io(#[from] std::io::Error),
}

/// A folder of images; several handles in one process share it.
#[derive(Clone)]
pub struct ImageStore {
    shared: Arc<Shared>,
}

struct Shared {
    folders: Arc<Folders>,
    /// Held while the index on disk changes, never over `.await`.
    index: Mutex<Index>,
    /// One download per image at a time; whoever comes second finds it done.
    downloads: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

#[derive(Default)]
struct Index {
    records: BTreeMap<String, Record>,
    names: HashMap<String, String>,
    sequence: u64,
    /// Digests whose content was read and compared since this process started.
    verified: HashSet<String>,
}

impl ImageStore {
    /// Opens the store in `dir`, and clears away what a crash left half done.
    pub fn open(dir: &Path) -> Result<Self, PullError> {
        let folders = Folders::prepare(dir)?;
        let mut index = Index::default();
        let losers: Vec<_> =
            Record::read_all(&folders)?.into_iter().flat_map(|record| index.insert(record)).collect();
        for digest in losers {
            settle(&folders, &mut index, &digest)?;
        }
        remove_orphans(&folders, &index)?;
        let shared =
            Shared { folders: Arc::new(folders), index: Mutex::new(index), downloads: Mutex::default() };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// By name (as users write it) or digest.
    pub fn get(&self, reference: &str) -> Option<Image> {
        let index = self.index();
        Some(index.find(reference)?.image(&self.shared.folders))
    }

    /// All images, by digest.
    pub fn list(&self) -> Vec<Image> {
        self.index().records.values().map(|record| record.image(&self.shared.folders)).collect()
    }

    /// Pulls and verifies; what is there already is not fetched again.
    pub async fn pull(&self, reference: &str, auth: PullAuth) -> Result<Image, PullError> {
        let turn = {
            let mut downloads = self.shared.downloads.lock().unwrap_or_else(PoisonError::into_inner);
            downloads.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(downloads.entry(reference.to_owned()).or_default())
        };
        let _turn = turn.lock().await;
        registry::pull(self, reference, auth).await
    }

    /// Puts the wasm file at `file` under `name`, checking `digest` if it is given. Atomic.
    pub fn import(&self, name: &str, file: &Path, digest: Option<&str>) -> Result<Image, PullError> {
        let mut incoming = self.receive()?;
        copy(&mut File::open(file)?, |bytes| incoming.write(bytes))?;
        incoming.finish(name, digest)
    }

    /// Begins to take a file whose bytes come one after the other.
    pub fn receive(&self) -> Result<Incoming, PullError> {
        Ok(Incoming::new(self.clone(), Arc::clone(&self.shared.folders))?)
    }

    /// Reads an image's content and compares its digest, once per process: disks rot. A damaged image is removed,
    /// so that the next pull or import brings it back.
    pub fn verify(&self, image: &Image) -> Result<(), PullError> {
        if self.is_verified(image) {
            return Ok(());
        }
        let mut hash = Sha256::new();
        let mut file = File::open(self.shared.folders.blob(&image.content_digest))?;
        copy(&mut file, |bytes| {
            hash.update(bytes);
            Ok(())
        })?;
        let digest = format!("sha256:{}", hex::encode(hash.finalize()));
        if digest == image.content_digest {
            self.index().verified.insert(digest);
            return Ok(());
        }
        let reason = format!("its content on this node is damaged (digest {digest}); it was removed");
        tracing::warn!(image = image.digest, reason);
        self.forget(&image.digest)?;
        let name = image.names.first().unwrap_or(&image.digest).clone();
        Err(PullError::Invalid { image: name, reason })
    }

    /// Whether [`Self::verify`] would be quick.
    pub fn is_verified(&self, image: &Image) -> bool {
        self.index().verified.contains(&image.content_digest)
    }

    /// Removes a name, and the content when no name is left. By digest, the image with all of its names.
    pub fn remove(&self, reference: &str) -> Result<(), PullError> {
        let (digest, left) = {
            let index = self.index();
            let record = index.find(reference).ok_or_else(|| PullError::NotFound(reference.to_owned()))?;
            let candidates = candidates(reference);
            let left: Vec<_> = match candidates.iter().find(|name| record.names.contains(name)) {
                Some(name) => record.names.iter().filter(|other| *other != name).cloned().collect(),
                None => Vec::new(),
            };
            (record.digest.clone(), left)
        };
        if left.is_empty() { self.forget(&digest) } else { self.rename(&digest, left) }
    }

    pub(crate) fn has_content(&self, content_digest: &str) -> bool {
        self.index().records.values().any(|record| record.content_digest == content_digest)
    }

    /// Makes an image known, with new content or with content that is in place; its names leave the images that
    /// had them.
    pub(crate) fn file(&self, mut record: Record, content: Option<Kept>) -> Result<Image, PullError> {
        let mut index = self.index();
        match content {
            Some(kept) => kept.settle()?,
            None => _ = fs::metadata(self.shared.folders.blob(&record.content_digest))?,
        }
        if let Some(known) = index.records.get(&record.digest) {
            merge(&mut record.names, &known.names);
            merge(&mut record.repo_digests, &known.repo_digests);
        }
        index.sequence += 1;
        record.sequence = index.sequence;
        record.write(&self.shared.folders)?;
        let image = record.image(&self.shared.folders);
        for digest in index.insert(record) {
            settle(&self.shared.folders, &mut index, &digest)?;
        }
        Ok(image)
    }

    fn rename(&self, digest: &str, names: Vec<String>) -> Result<(), PullError> {
        let mut index = self.index();
        if let Some(record) = index.records.get_mut(digest) {
            let gone: Vec<_> = record.names.iter().filter(|name| !names.contains(name)).cloned().collect();
            record.names = names;
            for name in gone {
                index.names.remove(&name);
            }
            settle(&self.shared.folders, &mut index, digest)?;
        }
        Ok(())
    }

    fn forget(&self, digest: &str) -> Result<(), PullError> {
        self.rename(digest, Vec::new())
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.shared.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index {
    fn find(&self, reference: &str) -> Option<&Record> {
        // Normalising a name costs more than everything else here, and 20 MB for its regular expression: it comes last.
        if let Some(digest) = self.names.get(reference) {
            return self.records.get(digest);
        }
        let Some(digest) = digest_of(reference) else {
            let digest = candidates(reference).into_iter().find_map(|name| self.names.get(&name))?;
            return self.records.get(digest);
        };
        self.records.get(&digest).or_else(|| {
            self.records
                .values()
                .find(|record| record.repo_digests.iter().any(|repo| repo.ends_with(&digest)))
        })
    }

    /// Returns the images that lost a name to this one.
    fn insert(&mut self, record: Record) -> Vec<String> {
        let mut losers = Vec::new();
        for name in &record.names {
            let Some(before) = self.names.insert(name.clone(), record.digest.clone()) else { continue };
            if before != record.digest
                && let Some(loser) = self.records.get_mut(&before)
            {
                loser.names.retain(|other| other != name);
                losers.push(before);
            }
        }
        self.sequence = self.sequence.max(record.sequence);
        self.records.insert(record.digest.clone(), record);
        losers
    }
}

/// Writes an entry whose names changed, or removes it when nothing names it any more.
fn settle(folders: &Folders, index: &mut Index, digest: &str) -> Result<(), PullError> {
    let Some(record) = index.records.get(digest) else { return Ok(()) };
    if !record.names.is_empty() {
        record.write(folders)?;
        return Ok(());
    }
    let content = record.content_digest.clone();
    remove_file(&folders.record(digest))?;
    index.records.remove(digest);
    if !index.records.values().any(|record| record.content_digest == content) {
        index.verified.remove(&content);
        remove_file(&folders.blob(&content))?;
    }
    Ok(())
}

/// Content without an entry: its import or its removal was cut off.
fn remove_orphans(folders: &Folders, index: &Index) -> std::io::Result<()> {
    let named: HashSet<_> =
        index.records.values().map(|record| folders.blob(&record.content_digest)).collect();
    for entry in fs::read_dir(&folders.blobs)? {
        let path = entry?.path();
        if !named.contains(&path) {
            remove_file(&path)?;
        }
    }
    Ok(())
}

fn remove_file(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn merge(names: &mut Vec<String>, known: &[String]) {
    for name in known {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
}

pub(crate) fn copy(
    from: &mut impl Read,
    mut to: impl FnMut(&[u8]) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => to(&buffer[..length])?,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wasm(text: &str) -> Vec<u8> {
        [b"\0asm\x01\0\0\0".as_slice(), text.as_bytes()].concat()
    }

    struct Files {
        dir: tempfile::TempDir,
    }

    impl Files {
        fn new() -> Self {
            Self { dir: tempfile::tempdir().unwrap() }
        }
        fn store(&self) -> ImageStore {
            ImageStore::open(&self.dir.path().join("store")).unwrap()
        }
        fn write(&self, bytes: &[u8]) -> PathBuf {
            let path = self.dir.path().join("input");
            fs::write(&path, bytes).unwrap();
            path
        }
        fn import(&self, store: &ImageStore, name: &str, text: &str) -> Image {
            store.import(name, &self.write(&wasm(text)), None).unwrap()
        }
        fn count(&self, folder: &str) -> usize {
            fs::read_dir(self.dir.path().join("store").join(folder)).unwrap().count()
        }
    }

    #[test]
    fn an_imported_file_is_found_by_name_and_digest_also_after_a_restart() {
        let files = Files::new();
        let image = files.import(&files.store(), "hello", "a");
        let store = files.store();
        for reference in ["hello", "hello:latest", &image.digest, image.digest.trim_start_matches("sha256:")]
        {
            assert_eq!(store.get(reference).expect(reference).digest, image.digest);
        }
        assert!(store.get("hello:v2").is_none());
        let ImageKind::Wasm { file } = store.get("hello").unwrap().kind else { panic!("not wasm") };
        assert_eq!(fs::read(file).unwrap(), wasm("a"));
    }

    #[test]
    fn a_name_moves_to_the_newer_image_and_the_older_goes() {
        let files = Files::new();
        let store = files.store();
        files.import(&store, "hello", "a");
        let newer = files.import(&store, "hello", "b");
        assert_eq!(store.get("hello").unwrap().digest, newer.digest);
        assert_eq!((store.list().len(), files.count("images"), files.count("blobs/sha256")), (1, 1, 1));
        assert_eq!(files.store().list().len(), 1);
    }

    #[test]
    fn content_stays_until_its_last_name_goes() {
        let files = Files::new();
        let store = files.store();
        files.import(&store, "one", "a");
        files.import(&store, "two", "a");
        assert_eq!(store.get("one").unwrap().names.len(), 2);
        store.remove("one").unwrap();
        assert!(store.get("one").is_none() && store.get("two").is_some());
        assert!(files.store().get("one").is_none());
        store.remove("two").unwrap();
        assert_eq!((files.count("images"), files.count("blobs/sha256")), (0, 0));
        assert!(matches!(store.remove("two"), Err(PullError::NotFound(_))));
    }

    #[test]
    fn removing_by_digest_removes_all_names() {
        let files = Files::new();
        let store = files.store();
        files.import(&store, "one", "a");
        let image = files.import(&store, "two", "a");
        store.remove(&image.digest).unwrap();
        assert!(store.list().is_empty());
    }

    #[test]
    fn what_is_not_what_was_announced_is_refused_and_leaves_nothing() {
        let files = Files::new();
        let store = files.store();
        let wrong = format!("sha256:{}", "0".repeat(64));
        let error = store.import("x", &files.write(&wasm("a")), Some(&wrong)).unwrap_err();
        assert!(error.to_string().contains("instead of sha256:0000"), "{error}");
        let error = store.import("x", &files.write(b"#!/bin/sh"), None).unwrap_err();
        assert!(error.to_string().contains("not a WebAssembly file"), "{error}");
        let error = store.import("x", &files.write(b""), None).unwrap_err();
        assert!(error.to_string().contains("empty"), "{error}");
        assert_eq!((files.count("images"), files.count("blobs/sha256"), files.count("tmp")), (0, 0, 0));
    }

    #[test]
    fn a_damaged_entry_costs_one_image_only() {
        let files = Files::new();
        let store = files.store();
        let damaged = files.import(&store, "damaged", "a");
        files.import(&store, "sound", "b");
        fs::write(store.shared.folders.record(&damaged.digest), b"{\"digest\":").unwrap();
        let store = files.store();
        assert!(store.get("damaged").is_none() && store.get("sound").is_some());
        // Its content went with it, and it can come again.
        assert_eq!(files.count("blobs/sha256"), 1);
        files.import(&store, "damaged", "a");
        assert!(files.store().get("damaged").is_some());
    }

    #[test]
    fn rotten_content_is_noticed_and_never_handed_out_again() {
        let files = Files::new();
        let image = files.import(&files.store(), "hello", "abc");
        let store = files.store();
        fs::write(store.shared.folders.blob(&image.digest), wasm("abd")).unwrap();
        assert!(store.verify(&image).unwrap_err().to_string().contains("damaged"));
        assert!(store.get("hello").is_none());
        // Truncated content is seen when the store opens.
        let image = files.import(&store, "hello", "abc");
        store.verify(&image).unwrap();
        fs::write(store.shared.folders.blob(&image.digest), b"\0asm").unwrap();
        assert!(files.store().get("hello").is_none());
    }

    #[test]
    fn a_crash_between_content_and_entry_leaves_nothing() {
        let files = Files::new();
        let store = files.store();
        let mut incoming = store.receive().unwrap();
        incoming.write(&wasm("a")).unwrap();
        let kept = incoming.keep("x", None).unwrap();
        let digest = kept.digest.clone();
        kept.settle().unwrap();
        let mut unfinished = store.receive().unwrap();
        unfinished.write(b"half").unwrap();
        std::mem::forget(unfinished);
        let store = files.store();
        assert!(store.get(&digest).is_none());
        assert_eq!((files.count("blobs/sha256"), files.count("tmp")), (0, 0));
    }

    #[test]
    fn of_two_entries_that_claim_a_name_the_later_has_it() {
        let files = Files::new();
        let store = files.store();
        let first = files.import(&store, "first", "a");
        let second = files.import(&store, "hello", "b");
        // As if the process died after the second entry was written and before the first lost its name.
        let mut record = store.index().records[&first.digest].clone();
        record.names.push("hello".to_owned());
        record.write(&store.shared.folders).unwrap();
        let store = files.store();
        assert_eq!(store.get("hello").unwrap().digest, second.digest);
        assert_eq!(store.get("first").unwrap().names, ["first"]);
    }

    #[test]
    fn many_threads_import_the_same_file_at_once() {
        let files = Files::new();
        let (store, path) = (files.store(), files.write(&wasm("a")));
        std::thread::scope(|scope| {
            for number in 0..8 {
                let (store, path) = (store.clone(), path.clone());
                scope.spawn(move || store.import(&format!("name-{number}"), &path, None).unwrap());
            }
        });
        assert_eq!(store.list()[0].names.len(), 8);
        assert_eq!(files.store().list()[0].names.len(), 8);
    }
}
