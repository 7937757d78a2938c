//! Where volumes with text from the API live: in memory. A secret has no business on a disk, and the files
//! of a thousand pods that start at once compete there with the store's log.
//!
//! One directory per agent below the machine's `/dev/shm`, named after the agent's data directory and readable by its
//! user only. It names its owner, so that whatever a killed agent left behind is removed once its data directory is
//! gone. Where there is no such file system, the volumes go to the data directory.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

const SHARED_MEMORY: &str = "/dev/shm";
const PREFIX: &str = "naru-";
/// The file that holds the path of the data directory to which all of it belongs.
const OWNER: &str = "data-dir";

/// The directory for the agent of `data_dir`, made if it isn't there; `None` where there is no memory to have.
pub fn open(data_dir: &Path) -> Option<PathBuf> {
    open_below(Path::new(SHARED_MEMORY), data_dir)
}

/// Removes the directory of an agent whose containers have all ended.
pub fn remove(data_dir: &Path) {
    if let Ok(directory) = path(Path::new(SHARED_MEMORY), data_dir) {
        let _ = fs::remove_dir_all(directory); // Absent where it could not be made.
    }
}

fn open_below(root: &Path, data_dir: &Path) -> Option<PathBuf> {
    if !root.is_dir() {
        return None;
    }
    remove_abandoned(root);
    make(root, data_dir)
        .inspect_err(
            |error| tracing::warn!(%error, "volumes with secrets go to the data directory, not to memory"),
        )
        .ok()
}

fn make(root: &Path, data_dir: &Path) -> io::Result<PathBuf> {
    let directory = path(root, data_dir)?;
    match fs::DirBuilder::new().mode(0o700).create(&directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    // Everybody may write to the root: what lies there under this name may be somebody else's.
    if !is_own(&directory)? {
        let text = format!("{} belongs to another user", directory.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    fs::write(directory.join(OWNER), data_dir.canonicalize()?.as_os_str().as_encoded_bytes())?;
    Ok(directory)
}

fn path(root: &Path, data_dir: &Path) -> io::Result<PathBuf> {
    let hash = Sha256::digest(data_dir.canonicalize()?.as_os_str().as_encoded_bytes());
    Ok(root.join(format!("{PREFIX}{}", hex::encode(&hash[..8]))))
}

/// A directory, not a link to one, of this process's user.
fn is_own(directory: &Path) -> io::Result<bool> {
    let metadata = fs::symlink_metadata(directory)?;
    Ok(metadata.is_dir() && metadata.uid() == rustix::process::geteuid().as_raw())
}

/// Directories of agents whose data directories are gone.
fn remove_abandoned(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let directory = entry.path();
        let is_agents = entry.file_name().to_string_lossy().starts_with(PREFIX);
        if !is_agents || !is_own(&directory).unwrap_or(false) {
            continue;
        }
        // Without the file it is just being made.
        if fs::read_to_string(directory.join(OWNER))
            .is_ok_and(|owner| !owner.is_empty() && !Path::new(&owner).exists())
        {
            let _ = fs::remove_dir_all(&directory); // The next start tries again.
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::fakes::TempDir;

    #[test]
    fn each_data_directory_has_one_of_its_own_which_ends_with_it() {
        let (root, one, two) = (TempDir::new().unwrap(), TempDir::new().unwrap(), TempDir::new().unwrap());
        let first = open_below(root.path(), one.path()).unwrap();
        let second = open_below(root.path(), two.path()).unwrap();
        assert_ne!(first, second);
        assert_eq!(fs::metadata(&first).unwrap().mode() & 0o777, 0o700);
        fs::write(first.join("kept"), "by a restart").unwrap();
        assert_eq!(open_below(root.path(), one.path()).unwrap(), first);
        assert!(first.join("kept").exists());

        drop(one);
        assert_eq!(open_below(root.path(), two.path()).unwrap(), second);
        assert!(!first.exists(), "nobody's any more");
    }

    #[test]
    fn a_link_laid_out_by_somebody_else_is_not_followed() {
        let (root, data, elsewhere) =
            (TempDir::new().unwrap(), TempDir::new().unwrap(), TempDir::new().unwrap());
        std::os::unix::fs::symlink(elsewhere.path(), path(root.path(), data.path()).unwrap()).unwrap();
        assert_eq!(open_below(root.path(), data.path()), None);
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    }

    #[test]
    fn without_shared_memory_there_is_none() {
        let data = TempDir::new().unwrap();
        assert_eq!(open_below(&data.path().join("missing"), data.path()), None);
    }
}
