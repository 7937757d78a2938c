//! Single files that are mounted.
//!
//! WASI opens folders only: the files of one guest folder are linked (a hard link: what the guest writes is in the
//! file) into a folder of the container's own, which is mounted in their place. A file of another file system (text
//! from the API is kept in memory) cannot be linked: where it is read-only it is copied, as it would not follow the API
//! either way.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use naru_wasi_shim::Mount;

/// The folder with the links, removed when this goes.
pub(super) struct FileMounts {
    folder: Option<PathBuf>,
}

impl FileMounts {
    /// Replaces the files among `mounts` by folders below `folder`.
    ///
    /// # Errors
    /// A text for the user.
    pub(super) fn prepare(folder: PathBuf, mounts: Vec<Mount>) -> Result<(Vec<Mount>, Self), String> {
        let is_file = |mount: &Mount| mount.host_path.is_file();
        let (files, mut mounts): (Vec<_>, Vec<_>) = mounts.into_iter().partition(is_file);
        if files.is_empty() {
            return Ok((mounts, Self { folder: None }));
        }
        let made = Self { folder: Some(folder.clone()) };
        let mut by_parent = BTreeMap::<String, Vec<Mount>>::new();
        for file in files {
            let parent = Path::new(&file.guest_path).parent().unwrap_or(Path::new("/"));
            by_parent.entry(parent.display().to_string()).or_default().push(file);
        }
        for (index, (parent, files)) in by_parent.into_iter().enumerate() {
            let read_only = files[0].read_only;
            let refused =
                |reason: &str| Err(format!("cannot mount the file {}: {reason}", files[0].guest_path));
            if mounts.iter().any(|mount| Path::new(&mount.guest_path) == Path::new(&parent)) {
                return refused("a WebAssembly container cannot have it inside of another mount");
            }
            if files.iter().any(|file| file.read_only != read_only) {
                return refused(
                    "in one folder of a WebAssembly container all mounted files are read-only, or none",
                );
            }
            let links = folder.join(index.to_string());
            link_all(&links, &files)
                .map_err(|(file, error)| format!("cannot mount the file {file}: {error}"))?;
            mounts.push(Mount { host_path: links, guest_path: parent, read_only });
        }
        Ok((mounts, made))
    }
}

fn link_all(links: &Path, files: &[Mount]) -> Result<(), (String, io::Error)> {
    for file in files {
        let link = || {
            fs::create_dir_all(links)?;
            let name = Path::new(&file.guest_path).file_name().ok_or(io::ErrorKind::InvalidInput)?;
            let (source, link) = (file.host_path.canonicalize()?, links.join(name));
            match fs::hard_link(&source, &link) {
                Err(error) if error.kind() == io::ErrorKind::CrossesDevices && file.read_only => {
                    fs::copy(&source, &link).map(drop)
                }
                linked => linked,
            }
        };
        link().map_err(|error| (file.guest_path.clone(), error))?;
    }
    Ok(())
}

impl Drop for FileMounts {
    fn drop(&mut self) {
        if let Some(folder) = &self.folder {
            let _ = fs::remove_dir_all(folder); // What is left is removed at the next start.
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(host_path: PathBuf, guest_path: &str, read_only: bool) -> Mount {
        Mount { host_path, guest_path: guest_path.into(), read_only }
    }

    #[test]
    fn files_are_linked_into_folders_that_go_with_the_container() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = dir.path().join(name);
            fs::write(&path, name).unwrap();
            path
        };
        let wanted = vec![
            mount(dir.path().to_owned(), "/data", false),
            mount(file("a"), "/etc/app/one", true),
            mount(file("b"), "/etc/app/two", true),
            mount(file("c"), "/dev/termination-log", false),
        ];
        let (mounts, links) = FileMounts::prepare(dir.path().join("links"), wanted.clone()).unwrap();
        let paths: Vec<_> = mounts.iter().map(|mount| (mount.guest_path.as_str(), mount.read_only)).collect();
        assert_eq!(paths, [("/data", false), ("/dev", false), ("/etc/app", true)]);
        assert_eq!(fs::read_to_string(mounts[2].host_path.join("two")).unwrap(), "b");
        fs::write(mounts[1].host_path.join("termination-log"), "the end").unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("c")).unwrap(), "the end");
        drop(links);
        assert!(!dir.path().join("links").exists());

        let refused = |more: Mount| {
            let all = [wanted.clone(), vec![more]].concat();
            FileMounts::prepare(dir.path().join("refused"), all).err().unwrap()
        };
        let inside = refused(mount(file("d"), "/data/inside", false));
        assert!(inside.contains("/data/inside") && inside.contains("another mount"), "{inside}");
        let mixed = refused(mount(file("e"), "/etc/app/three", false));
        assert!(mixed.contains("read-only"), "{mixed}");
        assert!(!dir.path().join("refused").exists());
    }
}
