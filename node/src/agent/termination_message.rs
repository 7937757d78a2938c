//! What a container says of its own end: a file that it may write, or the end of its log.

use std::{
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::Container;
use tokio::sync::mpsc;

use super::{
    identity::{ANNOTATION_MESSAGE_PATH, ANNOTATION_MESSAGE_POLICY},
    logs::{self, LogOptions},
};

/// The kubelet's limits.
const MAX_MESSAGE: u64 = 4096;
const MAX_LOG_BYTES: usize = 2048;
const MAX_LOG_LINES: u64 = 80;

pub const DEFAULT_PATH: &str = "/dev/termination-log";

/// Where a run's file is mounted. The runtime makes it, for containers that can write to it: most wasm services cannot,
/// and folders and files that stay empty are a good part of what starting a pod costs a disk.
pub fn mount(container: &Container, file: &Path) -> cri::Mount {
    cri::Mount {
        container_path: container.termination_message_path.clone().unwrap_or_else(|| DEFAULT_PATH.into()),
        host_path: file.display().to_string(),
        ..Default::default()
    }
}

/// The message of a run that ended: the runtime's own, then what the container left behind.
pub async fn of(status: &cri::ContainerStatus) -> String {
    let annotation = |key: &str| status.annotations.get(key).map(String::as_str).unwrap_or_default();
    let path = annotation(ANNOTATION_MESSAGE_PATH);
    let mount = status.mounts.iter().find(|mount| mount.container_path == path);
    let written = match mount {
        Some(mount) => end_of_file(Path::new(&mount.host_path)),
        None => String::new(),
    };
    let falls_back =
        annotation(ANNOTATION_MESSAGE_POLICY) == "FallbackToLogsOnError" && status.exit_code != 0;
    let left_behind = if written.is_empty() && falls_back {
        end_of_log(PathBuf::from(&status.log_path)).await
    } else {
        written
    };
    match (status.message.is_empty(), left_behind.is_empty()) {
        (_, true) => status.message.clone(),
        (true, false) => left_behind,
        (false, false) => format!("{}: {left_behind}", status.message),
    }
}

/// The last bytes of a file; nothing where there is none.
fn end_of_file(path: &Path) -> String {
    let read = || {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(MAX_MESSAGE)))?;
        let mut end = Vec::new();
        file.take(MAX_MESSAGE).read_to_end(&mut end)?;
        Ok(String::from_utf8_lossy(&end).into_owned())
    };
    read().unwrap_or_else(|error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => String::new(),
        _ => format!("Error on reading termination log {}: {error}", path.display()),
    })
}

async fn end_of_log(path: PathBuf) -> String {
    let options = LogOptions { tail_lines: Some(MAX_LOG_LINES), ..LogOptions::default() };
    let (sender, mut pieces) = mpsc::channel(4);
    let reading = tokio::spawn(logs::read(path, options, || false, sender));
    let mut text = Vec::new();
    while let Some(piece) = pieces.recv().await {
        text.extend_from_slice(&piece);
    }
    match reading.await {
        Ok(Ok(())) => String::from_utf8_lossy(&text[text.len().saturating_sub(MAX_LOG_BYTES)..]).into_owned(),
        Ok(Err(error)) => format!("Error on reading termination message from logs: {error}"),
        Err(error) => format!("Error on reading termination message from logs: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::fakes::TempDir;

    /// A run that ended with `exit_code`, said `own` by the runtime, wrote `file` and logged `log`.
    async fn check(exit_code: i32, policy: &str, (own, file, log): (&str, &str, &str), expected: &str) {
        let dir = TempDir::new().unwrap();
        let container = Container::default();
        let mount = mount(&container, &dir.path().join("message"));
        assert_eq!(mount.container_path, DEFAULT_PATH);
        std::fs::write(&mount.host_path, file).unwrap();
        let log_path = dir.path().join("0.log");
        let lines: Vec<_> =
            log.lines().map(|line| format!("2026-11-21T10:00:00Z stdout F {line}\n")).collect();
        std::fs::write(&log_path, lines.concat()).unwrap();
        let status = cri::ContainerStatus {
            exit_code,
            message: own.into(),
            mounts: vec![mount],
            log_path: log_path.display().to_string(),
            annotations: [(ANNOTATION_MESSAGE_PATH, DEFAULT_PATH), (ANNOTATION_MESSAGE_POLICY, policy)]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            ..Default::default()
        };
        assert_eq!(of(&status).await, expected);
    }

    #[tokio::test]
    async fn a_file_comes_before_the_log_and_after_the_runtime_s_own_words() {
        check(1, "File", ("", "out of ideas", "log"), "out of ideas").await;
        check(0, "File", ("", "all done", ""), "all done").await;
        check(134, "File", ("wasm trap", "out of ideas", ""), "wasm trap: out of ideas").await;
        check(1, "File", ("", "", "log"), "").await;
    }

    #[tokio::test]
    async fn the_log_speaks_for_a_container_that_failed_and_left_no_file() {
        let policy = "FallbackToLogsOnError";
        check(1, policy, ("", "", "one\ntwo"), "one\ntwo\n").await;
        check(0, policy, ("", "", "one\ntwo"), "").await;
        check(1, policy, ("", "a file", "one\ntwo"), "a file").await;
        let long = (0..100).map(|number| format!("{number:03}\n")).collect::<Vec<_>>().concat();
        check(1, policy, ("", "", &long), &long[20 * 4..]).await;
        let wide = "x".repeat(3000);
        check(1, policy, ("", "", &wide), &format!("{}\n", &wide[..MAX_LOG_BYTES - 1])).await;
    }

    #[tokio::test]
    async fn of_a_large_file_the_end_counts() {
        let (begin, end) = ("a".repeat(5000), "b".repeat(4096));
        check(1, "File", ("", &format!("{begin}{end}"), ""), &end).await;
    }
}
