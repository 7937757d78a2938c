//! A directory of files that change all at once: readers see the old set or the new one, never a mixture.
//!
//! The files live in a directory with a timestamped name; `..data` is a symbolic link to it, and each file's name at
//! the top is a link through `..data`. Exchanging that one link changes everything; the kubelet does the same, and
//! programs that watch for such changes rely on these names.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Write as _},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Component, Path},
};

use jiff::Timestamp;

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    pub content: Vec<u8>,
    pub mode: u32,
}

/// Files by path relative to the volume.
pub type Payload = BTreeMap<String, File>;

/// A path must stay inside the volume and keep clear of the names used here.
pub fn is_safe(path: &str) -> bool {
    !path.is_empty()
        && !path.starts_with("..")
        && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

/// Makes the directory hold exactly the payload; true if anything changed.
pub fn write(directory: &Path, payload: &Payload) -> io::Result<bool> {
    fs::create_dir_all(directory)?;
    let data = directory.join(DATA);
    let old = fs::read_link(&data).ok();
    if let Some(old) = &old
        && is_current(&directory.join(old), payload)
    {
        return Ok(false);
    }
    let name = format!("..{}", Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S.%f"));
    let fresh = directory.join(&name);
    write_files(&fresh, payload)?;
    let link = directory.join(NEW_DATA);
    remove_if_there(&link)?;
    symlink(&name, &link)?;
    fs::rename(&link, &data)?;
    link_names(directory, payload, old.is_none())?;
    if let Some(old) = old {
        fs::remove_dir_all(directory.join(old))?;
    }
    Ok(true)
}

fn is_current(directory: &Path, payload: &Payload) -> bool {
    let matches = |(path, file): (&String, &File)| {
        let path = directory.join(path);
        let has_mode =
            fs::metadata(&path).is_ok_and(|metadata| metadata.permissions().mode() & 0o777 == file.mode);
        has_mode && fs::read(&path).is_ok_and(|content| content == file.content)
    };
    count_files(directory).is_ok_and(|count| count == payload.len()) && payload.iter().all(matches)
}

fn count_files(directory: &Path) -> io::Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        count += if entry.file_type()?.is_dir() { count_files(&entry.path())? } else { 1 };
    }
    Ok(count)
}

fn write_files(directory: &Path, payload: &Payload) -> io::Result<()> {
    fs::create_dir(directory)?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
    for (name, file) in payload {
        let path = directory.join(name);
        if let Some(parent) = path.parent().filter(|_| name.contains('/')) {
            fs::create_dir_all(parent)?;
        }
        let mut made = fs::File::create_new(&path)?;
        made.write_all(&file.content)?;
        made.set_permissions(fs::Permissions::from_mode(file.mode))?;
    }
    Ok(())
}

/// Links for what is new at the top, and none for what is gone.
fn link_names(directory: &Path, payload: &Payload, is_first: bool) -> io::Result<()> {
    let top = |path: &str| path.split('/').next().unwrap_or_default().to_owned();
    let wanted: BTreeSet<_> = payload.keys().map(|path| top(path)).collect();
    for name in &wanted {
        match symlink(Path::new(DATA).join(name), directory.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    if is_first {
        return Ok(());
    }
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let text = name.to_string_lossy();
        if !text.starts_with("..") && !wanted.contains(text.as_ref()) {
            remove_if_there(&directory.join(&name))?;
        }
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::fakes::TempDir;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |content: &str| File { content: content.into(), mode: 0o644 };
        files.iter().map(|(path, content)| ((*path).to_owned(), file(content))).collect()
    }

    #[test]
    fn a_volume_changes_all_at_once_and_only_when_it_must() {
        let directory = TempDir::new().unwrap();
        let volume = directory.path().join("v");
        assert!(write(&volume, &payload(&[("a", "1"), ("sub/b", "2")])).unwrap());
        assert_eq!(fs::read_to_string(volume.join("sub/b")).unwrap(), "2");
        assert!(fs::symlink_metadata(volume.join("a")).unwrap().is_symlink());
        let first = fs::read_link(volume.join(DATA)).unwrap();
        assert!(!write(&volume, &payload(&[("a", "1"), ("sub/b", "2")])).unwrap());
        assert_eq!(fs::read_link(volume.join(DATA)).unwrap(), first);

        assert!(write(&volume, &payload(&[("a", "3"), ("c", "4")])).unwrap());
        assert_eq!(fs::read_to_string(volume.join("a")).unwrap(), "3");
        assert!(fs::symlink_metadata(volume.join("sub")).is_err());
        assert!(!volume.join(first).exists());
    }

    #[test]
    fn a_changed_mode_is_a_change() {
        let directory = TempDir::new().unwrap();
        let mut files = payload(&[("a", "1")]);
        assert!(write(directory.path(), &files).unwrap());
        files.get_mut("a").unwrap().mode = 0o400;
        assert!(write(directory.path(), &files).unwrap());
    }

    #[test]
    fn paths_stay_inside_the_volume() {
        for (path, safe) in [
            ("a", true),
            ("a/b", true),
            ("../a", false),
            ("/a", false),
            ("a/../../b", false),
            ("..x", false),
            ("", false),
        ] {
            assert_eq!(is_safe(path), safe, "{path}");
        }
    }
}
