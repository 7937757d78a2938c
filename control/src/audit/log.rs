//! The audit log's file: lines are handed over by requests and written by a thread of their own.
//!
//! What waits to be written is bounded in bytes. When the disk cannot keep up, requests wait: no event is dropped to
//! be faster, as in Kubernetes' blocking mode. A write that fails is another matter, as refusing every request would
//! make a full disk an outage: the events are lost, and the server's own log says how many.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use k8s_openapi::jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::rarely::Rarely;

/// What may wait to be written.
const WAITING_KIB: u32 = 64 << 10;

/// Where the log goes, and how old files are kept; as kube-apiserver's flags.
#[derive(Debug, Clone, Default)]
pub struct LogSettings {
    /// `-` for standard output.
    pub path: PathBuf,
    /// A file is closed and the next begun at this size; 0 for never.
    pub max_size_mb: u64,
    /// Old files that are kept; 0 for all.
    pub max_backups: usize,
    /// Old files are removed after so many days; 0 for never.
    pub max_age_days: u64,
}

/// A handle on the log; clones share it.
#[derive(Clone)]
pub struct Log {
    room: Arc<Semaphore>,
    lines: mpsc::UnboundedSender<Message>,
}

enum Message {
    /// A line without its end; the permit is its share of the room.
    Line(Vec<u8>, OwnedSemaphorePermit),
    Flush(oneshot::Sender<()>),
}

impl Log {
    /// Opens the file and starts the thread, which ends with the last handle.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub fn open(settings: LogSettings) -> Result<Self, String> {
        let shown = settings.path.display().to_string();
        let mut output = Output::new(settings);
        output.file().map_err(|error| {
            format!("cannot write the audit log {shown}: {error}; choose another file with --audit-log-path")
        })?;
        let (lines, received) = mpsc::unbounded_channel();
        std::thread::Builder::new()
            .name("naru-audit".into())
            .spawn(move || write_all(received, output))
            .map_err(|error| format!("cannot start the audit log's thread: {error}"))?;
        Ok(Self { room: Arc::new(Semaphore::new(WAITING_KIB as usize)), lines })
    }

    /// Hands a line over, waiting for room if need be.
    pub async fn write(&self, line: Vec<u8>) {
        let share = (line.len().div_ceil(1024) as u32).clamp(1, WAITING_KIB);
        if let Ok(permit) = self.room.clone().acquire_many_owned(share).await {
            // The thread lives as long as this handle.
            let _ = self.lines.send(Message::Line(line, permit));
        }
    }

    /// Waits until all that was handed over is in the file.
    pub async fn flush(&self) {
        let (done, wait) = oneshot::channel();
        let _ = self.lines.send(Message::Flush(done));
        let _ = wait.await;
    }
}

fn write_all(mut lines: mpsc::UnboundedReceiver<Message>, mut output: Output) {
    let trouble = Rarely::default();
    while let Some(first) = lines.blocking_recv() {
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Line(line, _share) => note(&trouble, output.write(&line)),
                Message::Flush(done) => {
                    note(&trouble, output.flush());
                    let _ = done.send(());
                }
            }
            next = lines.try_recv().ok();
        }
        note(&trouble, output.flush());
    }
}

fn note(trouble: &Rarely, written: io::Result<()>) {
    if let Err(error) = written
        && let Some(lost) = trouble.happened()
    {
        tracing::error!(%error, lost, "audit events were lost: the audit log cannot be written");
    }
}

/// The file that is written to.
struct Output {
    settings: LogSettings,
    open: Option<(Box<dyn Write + Send>, u64)>,
}

impl Output {
    fn new(settings: LogSettings) -> Self {
        Self { settings, open: None }
    }

    fn file(&mut self) -> io::Result<&mut (Box<dyn Write + Send>, u64)> {
        if self.open.is_none() {
            self.open = Some(if self.settings.path == Path::new("-") {
                (Box::new(io::stdout()), 0)
            } else {
                let file = open_private(&self.settings.path)?;
                let len = file.metadata()?.len();
                (Box::new(BufWriter::new(file)), len)
            });
        }
        Ok(self.open.as_mut().expect("it was opened just now"))
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let limit = self.settings.max_size_mb << 20;
        let len = line.len() as u64 + 1;
        let (_, size) = self.file()?;
        if limit > 0 && *size > 0 && *size + len > limit {
            self.rotate()?;
        }
        let (file, size) = self.file()?;
        *size += len;
        let written = file.write_all(line).and_then(|()| file.write_all(b"\n"));
        if written.is_err() {
            self.open = None;
        }
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.open.as_mut().map_or(Ok(()), |(file, _)| file.flush());
        if flushed.is_err() {
            self.open = None;
        }
        flushed
    }

    /// Gives the file a name with the time, and removes old ones.
    fn rotate(&mut self) -> io::Result<()> {
        if self.settings.path == Path::new("-") {
            return Ok(());
        }
        self.flush()?;
        self.open = None;
        let path = &self.settings.path;
        let mut old = backup_path(path, Timestamp::now());
        while old.exists() {
            old = backup_path(path, Timestamp::now());
        }
        fs::rename(path, old)?;
        self.prune()
    }

    fn prune(&self) -> io::Result<()> {
        let LogSettings { path, max_backups, max_age_days, .. } = &self.settings;
        let mut backups = backups(path)?;
        backups.sort_unstable();
        let surplus = if *max_backups == 0 { 0 } else { backups.len().saturating_sub(*max_backups) };
        for (index, backup) in backups.iter().enumerate() {
            let age = fs::metadata(backup).and_then(|of| of.modified()).ok();
            let age = age.and_then(|when| SystemTime::now().duration_since(when).ok()).unwrap_or_default();
            let is_old = *max_age_days > 0 && age > Duration::from_hours(24 * max_age_days);
            if index < surplus || is_old {
                fs::remove_file(backup)?;
            }
        }
        Ok(())
    }
}

/// Bodies may hold secrets: nobody else may read the file.
fn open_private(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// `audit-2026-01-31T10-20-30.123.log` for `audit.log`.
fn backup_path(path: &Path, now: Timestamp) -> PathBuf {
    let (stem, extension) = name_parts(path);
    path.with_file_name(format!("{stem}-{}{extension}", now.strftime("%Y-%m-%dT%H-%M-%S%.3f")))
}

fn name_parts(path: &Path) -> (String, String) {
    let text = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let extension = text(path.extension());
    (text(path.file_stem()), if extension.is_empty() { extension } else { format!(".{extension}") })
}

fn backups(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (stem, extension) = name_parts(path);
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let middle = name.strip_prefix(&format!("{stem}-")).and_then(|rest| rest.strip_suffix(&extension));
        if middle
            .is_some_and(|time| time.len() == "2026-01-31T10-20-30.123".len() && time.as_bytes()[10] == b'T')
        {
            found.push(entry.path());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(dir: &Path) -> LogSettings {
        LogSettings { path: dir.join("audit.log"), ..LogSettings::default() }
    }

    #[tokio::test]
    async fn lines_are_in_the_file_after_a_flush_and_again_after_a_restart() {
        let dir = tempfile::tempdir().expect("a folder");
        for _ in 0..2 {
            let log = Log::open(settings(dir.path())).expect("a log");
            for number in 0..100 {
                log.write(format!("line {number}").into_bytes()).await;
            }
            log.flush().await;
        }
        let text = fs::read_to_string(dir.path().join("audit.log")).expect("the log");
        assert_eq!(text.lines().count(), 200);
        assert!(text.lines().enumerate().all(|(at, line)| line == format!("line {}", at % 100)));
    }

    #[tokio::test]
    async fn files_change_at_their_size_and_old_ones_go() {
        let dir = tempfile::tempdir().expect("a folder");
        let unrelated = dir.path().join("audit-notes.log");
        fs::write(&unrelated, "mine").expect("a file");
        let log =
            Log::open(LogSettings { max_size_mb: 1, max_backups: 2, ..settings(dir.path()) }).expect("a log");
        let line = vec![b'x'; 300 << 10];
        for _ in 0..20 {
            log.write(line.clone()).await;
        }
        log.flush().await;
        let backups = backups(&dir.path().join("audit.log")).expect("a listing");
        assert_eq!(backups.len(), 2);
        for file in backups.iter().chain([&dir.path().join("audit.log")]) {
            let len = fs::metadata(file).expect("a file").len();
            assert!(len > 0 && len <= 1 << 20, "{len}");
        }
        assert!(unrelated.exists());
    }

    #[tokio::test]
    async fn more_than_fits_waits_and_is_not_lost() {
        let dir = tempfile::tempdir().expect("a folder");
        let log = Log::open(settings(dir.path())).expect("a log");
        // Larger than all the room there is.
        log.write(vec![b'x'; (WAITING_KIB as usize + 1) << 10]).await;
        log.write(b"next".to_vec()).await;
        log.flush().await;
        let text = fs::read_to_string(dir.path().join("audit.log")).expect("the log");
        assert!(text.ends_with("x\nnext\n"));
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let error =
            Log::open(LogSettings { path: "/nonexistent/audit.log".into(), ..LogSettings::default() });
        assert!(error.err().expect("no folder").contains("/nonexistent/audit.log"));
    }
}
