//! Keeps log files within bounds: a file that has grown too large is renamed, the runtime opens a new one, and only the
//! newest few are kept.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{observed::ContainerRecord, pod_manager::Workers, shared::Shared};

const CHECK_EVERY: Duration = Duration::from_secs(10);
const MAX_BYTES: u64 = 10 << 20;
const MAX_FILES: usize = 5;

pub async fn run(shared: Arc<Shared>, workers: Workers, shutdown: CancellationToken) {
    while shutdown.run_until_cancelled(tokio::time::sleep(CHECK_EVERY)).await.is_some() {
        for (pod, observed) in workers.observed() {
            let directory = shared.directories.pod_logs(&pod);
            let running = observed.containers.iter().filter(|record| record.is_running());
            for record in running {
                if let Err(error) = rotate(&shared, &directory, record).await {
                    tracing::warn!(%error, container = record.id, "log file could not be rotated");
                }
            }
        }
    }
}

async fn rotate(shared: &Shared, directory: &Path, record: &ContainerRecord) -> std::io::Result<()> {
    let path = file_of(directory, &record.log_path);
    let Ok(metadata) = tokio::fs::metadata(&path).await else { return Ok(()) };
    if metadata.len() <= MAX_BYTES {
        return Ok(());
    }
    let suffix = Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string();
    let old = PathBuf::from(format!("{}.{suffix}", path.display()));
    tokio::fs::rename(&path, &old).await?;
    if let Err(error) = shared.runtime.reopen_log(&record.id).await {
        // Without a new file the runtime goes on writing to the old one: give it its name back.
        tokio::fs::rename(&old, &path).await?;
        return Err(std::io::Error::other(error.message));
    }
    tokio::task::spawn_blocking(move || remove_oldest(&path)).await.map_err(std::io::Error::other)?
}

/// The log's path: runtimes report it whole, or relative to the pod's directory.
pub fn file_of(directory: &Path, log_path: &str) -> PathBuf {
    directory.join(log_path) // An absolute path replaces the directory.
}

fn remove_oldest(path: &Path) -> std::io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let prefix = format!("{}.", name.to_string_lossy());
    let entries = std::fs::read_dir(parent)?.flatten();
    let mut rotated: Vec<_> = entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .collect();
    rotated.sort();
    let surplus = (rotated.len() + 1).saturating_sub(MAX_FILES);
    rotated.into_iter().take(surplus).try_for_each(std::fs::remove_file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::fakes::TempDir;

    #[test]
    fn the_newest_files_stay() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("0.log");
        std::fs::write(&path, "now").unwrap();
        for day in 1..=7 {
            std::fs::write(format!("{}.2026010{day}-000000", path.display()), "old").unwrap();
        }
        remove_oldest(&path).unwrap();
        let mut left: Vec<_> =
            std::fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left.len(), MAX_FILES);
        assert_eq!(left[0], "0.log");
        assert_eq!(left[1], "0.log.20260104-000000");
    }
}
