//! CRI log files, as `kubectl logs` wants them.
//!
//! A line of the file is `TIME STREAM TAG TEXT`; tag `P` marks a piece of a longer line, `F` its end. Following waits
//! at the end of the file while the container runs, and goes on in the new file after a rotation.

use std::{
    io::SeekFrom,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};
use tokio::{
    fs::File,
    io::{AsyncBufReadExt, AsyncReadExt, AsyncSeekExt, BufReader},
    sync::mpsc,
};

use super::pod_status;

const POLL_EVERY: Duration = Duration::from_millis(100);
const BLOCK: u64 = 64 << 10;
/// Output is sent in pieces of about this size.
const FLUSH_AT: usize = 32 << 10;

/// What of a log is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    pub follow: bool,
    pub previous: bool,
    pub timestamps: bool,
    pub tail_lines: Option<u64>,
    pub limit_bytes: Option<u64>,
    pub since: Option<Timestamp>,
}

impl LogOptions {
    /// From a query string's pairs.
    ///
    /// # Errors
    /// A sentence that names the parameter.
    pub fn parse<'a>(
        pairs: impl Iterator<Item = (&'a str, &'a str)>,
        now: Timestamp,
    ) -> Result<Self, String> {
        let mut options = Self::default();
        for (name, value) in pairs {
            let invalid = || format!("invalid value {value:?} for query parameter {name}");
            let flag = || value.is_empty() || matches!(value, "true" | "1");
            let number = || value.parse::<u64>().map_err(|_| invalid());
            match name {
                "follow" => options.follow = flag(),
                "previous" => options.previous = flag(),
                "timestamps" => options.timestamps = flag(),
                "tailLines" => options.tail_lines = Some(number()?),
                "limitBytes" => options.limit_bytes = Some(number()?),
                "sinceSeconds" => {
                    let seconds = i64::try_from(number()?).map_err(|_| invalid())?;
                    options.since = Some(now - jiff::SignedDuration::from_secs(seconds));
                }
                "sinceTime" => options.since = Some(value.parse().map_err(|_| invalid())?),
                _ => (),
            }
        }
        Ok(options)
    }
}

/// The id of the run whose log is meant, or why there is none, in the kubelet's words.
pub fn choose_run(status: &PodStatus, pod: &str, container: &str, previous: bool) -> Result<String, String> {
    let statuses = pod_status::by_name(status);
    let none = || format!("container {container:?} in pod {pod:?} is not available");
    let status: &ContainerStatus = statuses.get(container).ok_or_else(none)?;
    let state = status.state.clone().unwrap_or_default();
    let last = status.last_state.as_ref().and_then(|last| last.terminated.as_ref());
    let last_id = last.and_then(|last| last.container_id.clone()).filter(|id| !id.is_empty());
    let url = if previous {
        last_id
            .ok_or_else(|| format!("previous terminated container {container:?} in pod {pod:?} not found"))?
    } else if state.running.is_some() {
        status.container_id.clone().ok_or_else(none)?
    } else if let Some(end) = state.terminated {
        let own = end.container_id.filter(|id| !id.is_empty());
        own.or(last_id).ok_or_else(|| format!("container {container:?} in pod {pod:?} is terminated"))?
    } else if last.is_some() {
        last_id.ok_or_else(|| format!("container {container:?} in pod {pod:?} is terminated"))?
    } else {
        let reason = state.waiting.and_then(|waiting| waiting.reason);
        let what = match reason.as_deref() {
            Some("ErrImagePull") => ": image can't be pulled".into(),
            Some("ImagePullBackOff") => ": trying and failing to pull image".into(),
            Some(reason) => format!(": {reason}"),
            None => " - no logs yet".into(),
        };
        return Err(format!("container {container:?} in pod {pod:?} is waiting to start{what}"));
    };
    Ok(url.split_once("://").map_or(url.clone(), |(_, id)| id.to_owned()))
}

/// Sends the log to `output` until its end, or, when following, until `is_running` says no.
pub async fn read(
    path: PathBuf,
    options: LogOptions,
    is_running: impl Fn() -> bool,
    output: mpsc::Sender<Bytes>,
) -> std::io::Result<()> {
    let mut writer = LineWriter::new(&options, output);
    if options.tail_lines == Some(0) && !options.follow {
        return Ok(());
    }
    let Some(mut reader) = open(&path, options.follow, &is_running).await? else { return Ok(()) };
    if let Some(lines) = options.tail_lines {
        let start = tail_start(reader.get_mut(), lines).await?;
        reader.seek(SeekFrom::Start(start)).await?;
    }
    let mut line = Vec::new();
    loop {
        // Whether it runs is asked before reading: what it writes last is still read.
        let may_grow = options.follow && is_running();
        let count = reader.read_until(b'\n', &mut line).await?;
        if line.ends_with(b"\n") || (count == 0 && !line.is_empty() && !may_grow) {
            let is_enough = !writer.line(&line).await;
            line.clear();
            if is_enough {
                return Ok(());
            }
            continue;
        }
        if count > 0 {
            continue; // A line that is being written.
        }
        if !writer.flush().await {
            return Ok(());
        }
        if let Some(next) = rotated(&path, reader.get_ref()).await? {
            reader = next;
        } else if may_grow {
            tokio::time::sleep(POLL_EVERY).await;
        } else {
            return Ok(());
        }
        if writer.is_closed() {
            return Ok(());
        }
    }
}

/// The file, waiting for it to appear while the container runs and the reader follows.
async fn open(
    path: &Path,
    follow: bool,
    is_running: &impl Fn() -> bool,
) -> std::io::Result<Option<BufReader<File>>> {
    loop {
        match File::open(path).await {
            Ok(file) => return Ok(Some(BufReader::with_capacity(BLOCK as usize, file))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                if !follow || !is_running() {
                    return Ok(None);
                }
                tokio::time::sleep(POLL_EVERY).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// The new file at the path, if it is another one than the one being read.
async fn rotated(path: &Path, current: &File) -> std::io::Result<Option<BufReader<File>>> {
    let Ok(there) = tokio::fs::metadata(path).await else { return Ok(None) };
    if there.ino() == current.metadata().await?.ino() {
        return Ok(None);
    }
    Ok(Some(BufReader::with_capacity(BLOCK as usize, File::open(path).await?)))
}

/// Where the last `lines` lines begin.
async fn tail_start(file: &mut File, lines: u64) -> std::io::Result<u64> {
    let size = file.metadata().await?.len();
    if lines == 0 {
        return Ok(size);
    }
    let mut position = size;
    let mut found = 0;
    let mut block = vec![0; BLOCK as usize];
    while position > 0 {
        let start = position.saturating_sub(BLOCK);
        let length = (position - start) as usize;
        file.seek(SeekFrom::Start(start)).await?;
        file.read_exact(&mut block[..length]).await?;
        for index in (0..length).rev() {
            let offset = start + index as u64;
            // The newline that ends the file ends the last line; it begins none.
            if block[index] == b'\n' && offset + 1 < size {
                found += 1;
                if found == lines {
                    return Ok(offset + 1);
                }
            }
        }
        position = start;
    }
    Ok(0)
}

/// Turns lines of the file into output.
struct LineWriter<'a> {
    options: &'a LogOptions,
    output: mpsc::Sender<Bytes>,
    buffer: Vec<u8>,
    left: u64,
    /// The last entry ended a line: the next one begins with its time.
    is_at_line_start: bool,
}

impl<'a> LineWriter<'a> {
    fn new(options: &'a LogOptions, output: mpsc::Sender<Bytes>) -> Self {
        let left = options.limit_bytes.unwrap_or(u64::MAX);
        Self { options, output, buffer: Vec::new(), left, is_at_line_start: true }
    }

    /// False when there is enough, or nobody reads any more.
    async fn line(&mut self, raw: &[u8]) -> bool {
        let Some(entry) = Entry::parse(raw) else { return true };
        let is_old = self.options.since.is_some_and(|since| entry.time().is_some_and(|time| time < since));
        if is_old {
            return true;
        }
        if self.options.timestamps && self.is_at_line_start {
            self.push(entry.timestamp);
            self.push(b" ");
        }
        self.push(entry.text);
        if entry.is_full {
            self.push(b"\n");
        }
        self.is_at_line_start = entry.is_full;
        if self.left == 0 || self.buffer.len() >= FLUSH_AT {
            self.flush().await && self.left > 0
        } else {
            true
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        let count = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.buffer.extend_from_slice(&bytes[..count]);
        self.left -= count as u64;
    }

    async fn flush(&mut self) -> bool {
        self.buffer.is_empty()
            || self.output.send(Bytes::from(std::mem::take(&mut self.buffer))).await.is_ok()
    }

    fn is_closed(&self) -> bool {
        self.output.is_closed()
    }
}

/// One line of a log file.
struct Entry<'a> {
    timestamp: &'a [u8],
    text: &'a [u8],
    is_full: bool,
}

impl<'a> Entry<'a> {
    /// `None` for what is no log line: a file cut off in the middle.
    fn parse(raw: &'a [u8]) -> Option<Self> {
        let raw = raw.strip_suffix(b"\n").unwrap_or(raw);
        let mut fields = raw.splitn(4, |byte| *byte == b' ');
        let (timestamp, _stream, tags) = (fields.next()?, fields.next()?, fields.next()?);
        let is_full = tags.split(|byte| *byte == b':').next() != Some(b"P");
        Some(Self { timestamp, text: fields.next().unwrap_or_default(), is_full })
    }

    fn time(&self) -> Option<Timestamp> {
        std::str::from_utf8(self.timestamp).ok()?.parse().ok()
    }
}

#[cfg(test)]
#[path = "logs_tests.rs"]
mod tests;
