//! The data directory: one process at a time.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
};

use crate::store::StoreError;

/// A directory that is locked for this process until this is dropped.
#[derive(Debug)]
pub struct Directory {
    _lock: File,
}

impl Directory {
    /// Makes the directory if need be, and locks it.
    pub fn lock(dir: &Path) -> Result<Self, StoreError> {
        let refuse = |error: std::io::Error| {
            StoreError::Unusable(format!(
                "cannot write to the data directory {}: {error}; make it writable for this user, or choose another",
                dir.display()
            ))
        };
        fs::create_dir_all(log_dir(dir)).map_err(refuse)?;
        let path = dir.join("lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(refuse)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::Error(error)) => return Err(refuse(error)),
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                let _ = lock.read_to_string(&mut owner);
                let owner = match owner.trim() {
                    "" => "another process".to_owned(),
                    id => format!("process {id}"),
                };
                return Err(StoreError::Unusable(format!(
                    "the data directory {} is in use by {owner}; stop it, or choose another directory",
                    dir.display()
                )));
            }
        }
        // Who holds it, for the message above.
        let note = |lock: &mut File| {
            lock.set_len(0)?;
            lock.rewind()?;
            writeln!(lock, "{}", std::process::id())
        };
        note(&mut lock).map_err(refuse)?;
        Ok(Self { _lock: lock })
    }
}

pub fn log_dir(dir: &Path) -> PathBuf {
    dir.join("log")
}
