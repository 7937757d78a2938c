//! Compiled modules on disk, by content digest and engine.
//!
//! `DIR/KEY.cwasm` is what wasmtime maps into memory, `DIR/KEY.seal` says how long it is and its SHA-256. wasmtime
//! trusts such a file blindly, so nothing is loaded that is not exactly what was written here: a file without seal,
//! of another length or content is removed and made again. The directory is private to the user; files appear under
//! their name only when complete and are never written to again, as they may be mapped; the key names the engine's
//! version and settings, so that an upgrade finds nothing rather than something foreign.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use sha2::{Digest, Sha256};

pub struct Cache {
    dir: PathBuf,
    /// Engine version, settings and target in one.
    engine: String,
    temporary: AtomicU64,
}

impl Cache {
    pub fn open(dir: PathBuf, engine: &wasmtime::Engine) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let cache = Self { dir, engine: format!("{:016x}", hasher.finish()), temporary: AtomicU64::new(0) };
        cache.remove_unfinished();
        Ok(cache)
    }

    /// The file to map for `digest`, after its seal was checked. `None` if there is none that can be trusted.
    pub fn find(&self, digest: &str) -> Option<PathBuf> {
        let code = self.code(digest);
        let seal = fs::read_to_string(self.seal(digest)).ok()?;
        match seal_of_file(&code) {
            Ok(actual) if actual == seal => Some(code),
            Ok(_) => {
                tracing::warn!(file = %code.display(), "a compiled module is not what was written: compiling again");
                self.remove(digest);
                None
            }
            Err(_) => None,
        }
    }

    /// Keeps `code` for `digest`; from now on [`Cache::find`] finds it, after a crash too.
    pub fn put(&self, digest: &str, code: &[u8]) -> io::Result<PathBuf> {
        // The seal goes first and comes last: at no time does it fit code that is not complete.
        let _ = fs::remove_file(self.seal(digest));
        let path = self.code(digest);
        self.write(&path, code)?;
        self.write(&self.seal(digest), seal_of(code).as_bytes())?;
        Ok(path)
    }

    pub fn remove(&self, digest: &str) {
        let _ = fs::remove_file(self.seal(digest));
        let _ = fs::remove_file(self.code(digest));
    }

    fn code(&self, digest: &str) -> PathBuf {
        self.dir.join(format!("{}.cwasm", self.key(digest)))
    }

    fn seal(&self, digest: &str) -> PathBuf {
        self.dir.join(format!("{}.seal", self.key(digest)))
    }

    /// Hashed once more: the digest is a caller's text, and this is a file name.
    fn key(&self, digest: &str) -> String {
        format!("{}-{}", hex::encode(&Sha256::digest(digest)[..20]), self.engine)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let number = self.temporary.fetch_add(1, Relaxed);
        let temporary = self.dir.join(format!("{}-{number}.tmp", std::process::id()));
        let written = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_data()))
            .and_then(|()| fs::rename(&temporary, path));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    /// What a process that was killed left behind.
    fn remove_unfinished(&self) {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        for path in
            entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "tmp"))
        {
            let _ = fs::remove_file(path);
        }
    }
}

fn seal_of(code: &[u8]) -> String {
    format!("{} {}\n", code.len(), hex::encode(Sha256::digest(code)))
}

fn seal_of_file(path: &Path) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let (mut hasher, mut length, mut buffer) = (Sha256::new(), 0, vec![0; 256 << 10]);
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(format!("{length} {}\n", hex::encode(hasher.finalize())));
        }
        hasher.update(&buffer[..read]);
        length += read;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (tempfile::TempDir, Cache) {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path().join("cache"), &wasmtime::Engine::default()).unwrap();
        (dir, cache)
    }

    #[test]
    fn what_was_put_is_found_and_nobody_else_can_read_it() {
        let (_dir, cache) = cache();
        assert!(cache.find("sha256:1").is_none());
        let path = cache.put("sha256:1", b"code").unwrap();
        assert_eq!(cache.find("sha256:1"), Some(path));
        assert!(cache.find("../sha256:2").is_none());
        assert_eq!(fs::metadata(&cache.dir).unwrap().permissions().mode() & 0o777, 0o700);
    }

    fn check_untrusted(damage: impl Fn(&Path, &Path)) {
        let (_dir, cache) = cache();
        let path = cache.put("sha256:1", b"some code").unwrap();
        damage(&path, &cache.seal("sha256:1"));
        assert!(cache.find("sha256:1").is_none());
        cache.put("sha256:1", b"some code").unwrap();
        assert!(cache.find("sha256:1").is_some());
    }

    #[test]
    fn a_damaged_truncated_or_unsealed_file_is_not_trusted() {
        check_untrusted(|code, _| fs::write(code, b"same len!").unwrap());
        check_untrusted(|code, _| fs::write(code, b"some").unwrap());
        check_untrusted(|code, _| fs::remove_file(code).unwrap());
        check_untrusted(|_, seal| fs::remove_file(seal).unwrap());
        check_untrusted(|_, seal| fs::write(seal, b"junk").unwrap());
    }
}
