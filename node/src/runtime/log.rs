//! A container's output, in the log format that CRI defines.
//!
//! `<RFC 3339 time> <stdout|stderr> <F|P> <text>`: F ends a line, P is a part of a long one. Invariant: a container
//! that never stops writing takes no more than twice [`MAX_FILE`] of disk and a line's length of memory. One that never
//! writes has no file.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use naru_wasi_shim::{LogStream, LogWriter};
use tokio::sync::mpsc;

/// A longer line is written in parts.
const MAX_LINE: usize = 16 * 1024;
/// A file that grows larger is put aside as `<path>.1`, in place of the one before it. The agent rotates earlier, with
/// more files, but looks only now and then.
const MAX_FILE: u64 = 16 << 20;
/// So many logs stay open between writes; the others are opened for each, so that file descriptors are left for
/// sockets when thousands of containers talk.
const MAX_OPEN: usize = 1024;
/// Writes that may wait for somebody who is attached; a container never waits for them.
const MAX_WAITING: usize = 256;

static OPEN: AtomicUsize = AtomicUsize::new(0);

pub(super) struct LogFile {
    /// Without one, nobody wants the output.
    path: Option<PathBuf>,
    max_file: u64,
    /// Held while lines are written to the file.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    file: Option<File>,
    size: u64,
    /// The beginnings of lines that did not end yet.
    unfinished: [Vec<u8>; 2],
    has_failed: bool,
    /// Who else wants what is written from now on.
    attached: Vec<mpsc::Sender<(LogStream, Vec<u8>)>>,
}

/// What a container writes, from the moment of attaching.
pub(super) struct Attached(mpsc::Receiver<(LogStream, Vec<u8>)>);

impl Attached {
    /// `None` when the reader was so slow that something was lost.
    pub(super) async fn next(&mut self) -> Option<(LogStream, Vec<u8>)> {
        self.0.recv().await
    }

    /// What came already.
    pub(super) fn take(&mut self) -> Option<(LogStream, Vec<u8>)> {
        self.0.try_recv().ok()
    }
}

impl LogFile {
    /// The file is made, with its folders, when there is something to write.
    ///
    /// # Errors
    /// What is at `path` cannot be looked at: a folder's name is a file's, for example.
    pub(super) fn new(path: PathBuf) -> io::Result<Self> {
        Self::with_max_file(path, MAX_FILE)
    }

    fn with_max_file(path: PathBuf, max_file: u64) -> io::Result<Self> {
        let state = State { size: size(&path)?, ..State::default() };
        Ok(Self { path: Some(path), max_file, state: Mutex::new(state) })
    }

    pub(super) fn discard() -> Self {
        Self { path: None, max_file: MAX_FILE, state: Mutex::default() }
    }

    /// Empty when nothing is kept.
    pub(super) fn path(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new(""))
    }

    /// Goes on in a new file at the same path: the old one was renamed.
    pub(super) fn reopen(&self) -> io::Result<()> {
        let mut state = self.state();
        state.close();
        if let Some(path) = &self.path {
            state.size = open(path)?.metadata()?.len();
        }
        Ok(())
    }

    pub(super) fn attach(&self) -> Attached {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        self.state().attached.push(sender);
        Attached(receiver)
    }

    /// Writes what no newline ended, and closes the file.
    pub(super) fn finish(&self) {
        let mut state = self.state();
        let mut lines = Vec::new();
        let now = timestamp();
        for stream in [LogStream::Stdout, LogStream::Stderr] {
            let text = std::mem::take(state.unfinished(stream));
            if !text.is_empty() {
                append(&mut lines, &now, stream, 'P', &text);
            }
        }
        self.put(&mut state, &lines);
        state.close();
    }

    fn put(&self, state: &mut State, lines: &[u8]) {
        if lines.is_empty() {
            return;
        }
        match self.try_put(state, lines) {
            Ok(()) => state.has_failed = false,
            // The container goes on; its output is lost until the disk takes it again.
            Err(error) if !state.has_failed => {
                tracing::warn!(path = %self.path().display(), %error, "a container's output is lost");
                state.has_failed = true;
            }
            Err(_) => {}
        }
    }

    fn try_put(&self, state: &mut State, lines: &[u8]) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        if state.size > 0 && state.size + lines.len() as u64 > self.max_file {
            state.close();
            let mut rotated = path.clone().into_os_string();
            rotated.push(".1");
            fs::rename(path, rotated)?;
            state.size = 0;
        }
        if let Some(file) = &mut state.file {
            file.write_all(lines)?;
        } else {
            let mut file = open(path)?;
            file.write_all(lines)?;
            if OPEN.fetch_add(1, Ordering::Relaxed) < MAX_OPEN {
                state.file = Some(file);
            } else {
                OPEN.fetch_sub(1, Ordering::Relaxed);
            }
        }
        state.size += lines.len() as u64;
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogWriter for LogFile {
    fn write(&self, stream: LogStream, bytes: &[u8]) {
        let mut state = self.state();
        state.attached.retain(|reader| reader.try_send((stream, bytes.to_vec())).is_ok());
        if self.path.is_none() {
            return;
        }
        let mut lines = Vec::with_capacity(bytes.len() + 64);
        let now = timestamp();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, is_end) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            let unfinished = state.unfinished(stream);
            let mut text = text;
            while unfinished.len() + text.len() > MAX_LINE {
                let (part, rest) = text.split_at(MAX_LINE - unfinished.len());
                unfinished.extend_from_slice(part);
                append(&mut lines, &now, stream, 'P', unfinished);
                unfinished.clear();
                text = rest;
            }
            if is_end && unfinished.is_empty() {
                append(&mut lines, &now, stream, 'F', text);
                continue;
            }
            unfinished.extend_from_slice(text);
            if is_end {
                append(&mut lines, &now, stream, 'F', unfinished);
                // Most containers write whole lines: no buffer stays behind.
                *unfinished = Vec::new();
            }
        }
        self.put(&mut state, &lines);
    }
}

impl Drop for LogFile {
    fn drop(&mut self) {
        self.state().close();
    }
}

impl State {
    fn unfinished(&mut self, stream: LogStream) -> &mut Vec<u8> {
        &mut self.unfinished[usize::from(stream == LogStream::Stderr)]
    }

    fn close(&mut self) {
        if self.file.take().is_some() {
            OPEN.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    let open = || OpenOptions::new().append(true).create(true).open(path);
    match (open(), path.parent()) {
        (Err(error), Some(folder)) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(folder)?;
            open()
        }
        (opened, _) => opened,
    }
}

/// What an earlier runtime left there; 0 where nothing is.
fn size(path: &Path) -> io::Result<u64> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(metadata.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

fn append(lines: &mut Vec<u8>, now: &str, stream: LogStream, tag: char, text: &[u8]) {
    let name = match stream {
        LogStream::Stdout => "stdout",
        LogStream::Stderr => "stderr",
    };
    let _ = write!(lines, "{now} {name} {tag} ");
    lines.extend_from_slice(text);
    lines.push(b'\n');
}

fn timestamp() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%9fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(max_file: u64) -> (tempfile::TempDir, LogFile) {
        let dir = tempfile::tempdir().unwrap();
        let log = LogFile::with_max_file(dir.path().join("pod/main/0.log"), max_file).unwrap();
        (dir, log)
    }

    /// The lines without their times, which are checked.
    fn lines(path: &Path) -> Vec<String> {
        let text = fs::read_to_string(path).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'));
        text.lines()
            .map(|line| {
                let (time, rest) = line.split_once(' ').unwrap();
                assert!(time.parse::<jiff::Timestamp>().is_ok() && time.len() == 30, "{time}");
                rest.to_owned()
            })
            .collect()
    }

    #[test]
    fn lines_are_whole_however_they_are_written() {
        let (dir, log) = log(MAX_FILE);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is there before the first line");
        log.write(LogStream::Stdout, b"one\ntwo ");
        log.write(LogStream::Stderr, b"oh");
        log.write(LogStream::Stdout, b"halves\n\n");
        assert_eq!(lines(log.path()), ["stdout F one", "stdout F two halves", "stdout F "]);
        log.finish();
        assert_eq!(lines(log.path())[3], "stderr P oh");
    }

    #[test]
    fn long_lines_come_in_parts() {
        let (_dir, log) = log(MAX_FILE);
        log.write(LogStream::Stdout, &vec![b'a'; MAX_LINE - 1]);
        log.write(LogStream::Stdout, &vec![b'b'; MAX_LINE - 1]);
        log.write(LogStream::Stdout, b"end\n");
        let lines = lines(log.path());
        let shape = lines.iter().map(|line| (&line[..9], line.len() - 9)).collect::<Vec<_>>();
        assert_eq!(shape, [("stdout P ", MAX_LINE), ("stdout P ", MAX_LINE), ("stdout F ", 1)]);
        let text: String = lines.iter().map(|line| &line[9..]).collect();
        assert!(text.ends_with("bbend") && text.starts_with("aaa"));
    }

    #[test]
    fn endless_output_keeps_two_files() {
        let (dir, log) = log(1000);
        for number in 0..500 {
            log.write(LogStream::Stdout, format!("line {number}\n").as_bytes());
        }
        let folder = dir.path().join("pod/main");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
        assert!(fs::metadata(log.path()).unwrap().len() <= 1000);
        let older = lines(&folder.join("0.log.1"));
        let newer = lines(log.path());
        assert_eq!(newer.last().unwrap(), "stdout F line 499");
        assert_eq!(older.len() + newer.len(), 500 - older[0][14..].parse::<usize>().unwrap());
    }

    #[test]
    fn after_a_rename_it_goes_on_in_a_new_file() {
        let (dir, log) = log(MAX_FILE);
        log.write(LogStream::Stdout, b"before\n");
        let aside = dir.path().join("aside");
        fs::rename(log.path(), &aside).unwrap();
        log.write(LogStream::Stdout, b"between\n");
        log.reopen().unwrap();
        log.write(LogStream::Stdout, b"after\n");
        assert_eq!(lines(&aside), ["stdout F before", "stdout F between"]);
        assert_eq!(lines(log.path()), ["stdout F after"]);
    }

    #[test]
    fn a_path_that_can_never_be_a_file_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(LogFile::new(dir.path().join("file/0.log")).is_err());
    }
}
