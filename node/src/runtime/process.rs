//! What makes this process the one runtime of its socket and data directory.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::{fd::OwnedFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Pid, PidfdFlags, Resource, Rlimit, getppid, getrlimit, pidfd_open, setrlimit},
};
use tokio::net::UnixListener;

use super::RuntimeError;

/// A file's lock, held until this is dropped or the process dies, however it dies.
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Waits for another holder to end until `deadline`.
    ///
    /// # Errors
    /// [`RuntimeError::Taken`] when another process still holds it then.
    pub(super) async fn take(path: &Path, what: &Path, deadline: Instant) -> Result<Self, RuntimeError> {
        let failed = |source| RuntimeError::Io { path: path.to_owned(), source };
        let file = File::options().create(true).append(true).open(path).map_err(failed)?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    // Another process: its lock gives no sign that it is free.
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                Err(TryLockError::WouldBlock) => return Err(RuntimeError::Taken(what.to_owned())),
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            }
        }
    }
}

/// The listening socket; its file goes with it.
pub(super) struct Socket {
    pub listener: Option<UnixListener>,
    path: PathBuf,
    _lock: Lock,
}

impl Socket {
    /// Replaces what a dead runtime left behind, never a living one's socket. Only this user may connect.
    /// Waits for a living one to end until `deadline`.
    pub(super) async fn bind(path: &Path, deadline: Instant) -> Result<Self, RuntimeError> {
        let failed = |source| RuntimeError::Io { path: path.to_owned(), source };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        let lock = Lock::take(&beside(path, ".lock"), path, deadline).await?;
        // Under a name of its own until its permissions are right; then it appears.
        let temporary = beside(path, ".new");
        let _ = fs::remove_file(&temporary);
        let listener = UnixListener::bind(&temporary).map_err(failed)?;
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        fs::rename(&temporary, path).map_err(failed)?;
        Ok(Self { listener: Some(listener), path: path.to_owned(), _lock: lock })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// Returns when the process that started this one is gone.
///
/// Watches the process and not, as `PR_SET_PDEATHSIG` does, the thread that started it: a parent with a thread pool
/// ends threads while it lives.
pub(super) async fn parent_is_gone() -> io::Result<()> {
    let Some(parent) = getppid().filter(|parent| *parent != Pid::INIT) else { return Ok(()) };
    let handle: OwnedFd = match pidfd_open(parent, PidfdFlags::empty()) {
        Ok(handle) => handle,
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    // It may have gone between the two calls, and its number to another.
    if getppid() != Some(parent) {
        return Ok(());
    }
    let (gone, wait) = tokio::sync::oneshot::channel();
    // A thread that does nothing but wait; the process does not wait for it when it ends.
    std::thread::Builder::new().name("parent".to_owned()).stack_size(64 << 10).spawn(move || {
        let _ = gone.send(wait_for_exit(&handle));
    })?;
    wait.await.unwrap_or_else(|_| Err(io::Error::other("the thread that watches the parent died")))
}

fn wait_for_exit(process: &OwnedFd) -> io::Result<()> {
    loop {
        match poll(&mut [PollFd::new(process, PollFlags::IN)], None) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Each pod takes a socket or two: as many files as the system lets this process have.
pub(super) fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum
        && let Err(error) =
            setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
    {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_belongs_to_one_runtime_and_to_its_user() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/naru.sock");
        let socket = Socket::bind(&path, Instant::now()).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let error = Socket::bind(&path, Instant::now()).await.err().expect("the socket is taken");
        assert!(matches!(&error, RuntimeError::Taken(taken) if *taken == path), "{error}");
        tokio::net::UnixStream::connect(&path).await.unwrap();
        // One that waits gets it as soon as it is free.
        let (next, ()) = tokio::join!(Socket::bind(&path, Instant::now() + Duration::from_mins(1)), async {
            drop(socket);
        });
        tokio::net::UnixStream::connect(&path).await.unwrap();
        drop(next);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_a_dead_runtime_left_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("naru.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists() && std::os::unix::net::UnixStream::connect(&path).is_err());
        let _socket = Socket::bind(&path, Instant::now()).await.unwrap();
        tokio::net::UnixStream::connect(&path).await.unwrap();
    }
}
