//! The durable store through its front door: what survives, and what is said about what does not.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use super::*;
use crate::store::{
    Key, Precondition, Revision, Scope, Store,
    tests::{contents, delete, key, put},
};

async fn open(dir: &Path) -> Store {
    Store::open(dir).await.unwrap()
}

/// What opening says, which must be that the directory is unusable.
async fn refusal(dir: &Path) -> String {
    match Store::open(dir).await {
        Err(StoreError::Unusable(reason)) => reason,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it opened"),
    }
}

async fn write(store: &Store, ops: Vec<Op>) -> Vec<Revision> {
    store.transact(ops).await.unwrap().into_iter().flatten().map(|entry| entry.revision).collect()
}

/// Fills the store with `count` objects named `n0`, `n1`, … in transactions of 100.
async fn fill(store: &Store, count: usize, value: &str) {
    for start in (0..count).step_by(100) {
        let names = (start..count.min(start + 100)).map(|number| format!("n{number}"));
        store.transact(names.map(|name| put(&name, value, Precondition::Any)).collect()).await.unwrap();
    }
}

/// All files below `dir` with their contents.
fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.file_name().unwrap() != "lock" {
            found.push((path.clone(), fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}

fn newest_log(dir: &Path) -> PathBuf {
    let log = files(dir).into_iter().rev().find(|(path, _)| path.extension().is_some_and(|end| end == "log"));
    log.unwrap().0
}

#[tokio::test]
async fn what_was_written_is_there_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    write(&store, vec![put("a", "1", Precondition::Absent), put("b", "1", Precondition::Absent)]).await;
    write(&store, vec![put("a", "2", Precondition::At(Revision(1))), delete("b", Precondition::Present)])
        .await;
    let (before, revision) = (contents(&store.snapshot()), store.snapshot().revision());
    store.close().await;

    let store = open(dir.path()).await;
    assert_eq!((contents(&store.snapshot()), store.snapshot().revision()), (before, revision));
    assert_eq!(write(&store, vec![put("c", "1", Precondition::Absent)]).await, [Revision(5)]);
    // Even a watch that began before the restart can go on, for the log was applied again.
    let mut watch = store.watch(Scope::all("configmaps"), Revision(3)).unwrap();
    assert_eq!(watch.next().await.unwrap().revision, Revision(4));
    store.close().await;
}

#[tokio::test]
async fn a_checkpoint_takes_the_place_of_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    fill(&store, 300, "1").await;
    store.checkpoint().await.unwrap();
    write(&store, vec![delete("n7", Precondition::Present), put("n8", "2", Precondition::Present)]).await;
    store.checkpoint().await.unwrap();
    write(&store, vec![put("n9", "3", Precondition::Present)]).await;
    let before = contents(&store.snapshot());
    store.close().await;

    let store = open(dir.path()).await;
    assert_eq!(contents(&store.snapshot()), before);
    assert_eq!(store.snapshot().revision(), Revision(303));
    assert!(store.watch(Scope::all("configmaps"), Revision(301)).is_err());
    store.close().await;
}

#[tokio::test]
async fn the_log_is_purged_after_a_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    // More than two log files, in more entries than are kept.
    let large = "x".repeat(100_000);
    for number in 0..KEPT_ENTRIES + 250 {
        write(&store, vec![put(&format!("n{}", number % 5), &large, Precondition::Any)]).await;
    }
    let oldest = dir.path().join("log/0000000001.log");
    assert!(oldest.exists());
    store.checkpoint().await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while oldest.exists() {
        assert!(Instant::now() < deadline, "the oldest log file stays");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let before = contents(&store.snapshot());
    store.close().await;
    let store = open(dir.path()).await;
    assert_eq!(contents(&store.snapshot()), before);
    store.close().await;
}

#[tokio::test]
async fn checkpoints_are_made_as_the_log_grows() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let large = "x".repeat(1_000_000);
    for number in 0..CHECKPOINT_BYTES / 1_000_000 + 2 {
        write(&store, vec![put(&format!("n{}", number % 3), &large, Precondition::Any)]).await;
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while !dir.path().join("state.redb").exists() {
        assert!(Instant::now() < deadline, "no checkpoint was made");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    store.close().await;
    let store = open(dir.path()).await;
    assert_eq!(store.snapshot().count(&Scope::all("configmaps")), 3);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_increments_are_linearizable_and_leave_no_gap() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    write(&store, vec![put("counter", "0", Precondition::Absent)]).await;
    let increments = 16 * 20;
    let writers: Vec<_> = (0..16)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut seen = Vec::new();
                while seen.len() < 20 {
                    let current = store.snapshot().get(&key("counter")).unwrap();
                    let object = current.typed::<k8s_openapi::api::core::v1::ConfigMap>().unwrap();
                    let value: u64 = object.data.as_ref().unwrap()["value"].parse().unwrap();
                    let op = put("counter", &(value + 1).to_string(), Precondition::At(current.revision));
                    match store.transact(vec![op]).await {
                        Ok(answers) => seen.push(answers[0].as_ref().unwrap().revision),
                        Err(StoreError::Precondition { current: Some(found), .. }) => {
                            assert!(found.revision > current.revision);
                        }
                        Err(other) => panic!("{other:?}"),
                    }
                }
                assert!(seen.is_sorted_by(|a, b| a < b));
                seen
            })
        })
        .collect();
    let mut revisions = Vec::new();
    for writer in writers {
        revisions.extend(writer.await.unwrap());
    }
    revisions.sort();
    assert_eq!(revisions, (2..increments + 2).map(Revision).collect::<Vec<_>>());
    assert_eq!(contents(&store.snapshot()), [format!("counter={increments}@{}", increments + 1)]);
    store.close().await;
}

#[tokio::test]
async fn concurrent_writes_share_log_entries() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let metrics = store.member.as_ref().unwrap().raft.metrics();
    let before = metrics.borrow().last_log_index.unwrap();
    let writes = (0..200).map(|number| {
        let store = store.clone();
        async move { store.transact(vec![put(&format!("n{number}"), "1", Precondition::Absent)]).await }
    });
    futures::future::try_join_all(writes).await.unwrap();
    let entries = metrics.borrow().last_log_index.unwrap() - before;
    assert!(entries <= 4, "200 writes took {entries} log entries");
    store.close().await;
}

#[tokio::test]
async fn a_directory_is_used_by_one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let reason = refusal(dir.path()).await;
    let expected = format!("{} is in use by process {}", dir.path().display(), std::process::id());
    assert!(reason.contains(&expected), "{reason}");
    store.close().await;
    open(dir.path()).await.close().await;
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_to_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, "mine").unwrap();
    for path in [path.clone(), path.join("below")] {
        let reason = refusal(&path).await;
        let expected = format!("cannot write to the data directory {}: ", path.display());
        assert!(reason.starts_with(&expected), "{reason}");
    }
    assert_eq!(fs::read(&path).unwrap(), b"mine");
}

#[tokio::test]
async fn after_close_writes_are_refused_and_reads_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    write(&store, vec![put("a", "1", Precondition::Any)]).await;
    store.close().await;
    store.close().await;
    let refused = store.transact(vec![put("b", "1", Precondition::Any)]).await;
    assert!(
        matches!(&refused, Err(StoreError::Unusable(reason)) if reason == "the store is closed"),
        "{refused:?}"
    );
    assert_eq!(contents(&store.snapshot()), ["a=1@1"]);
}

#[tokio::test]
async fn space_that_the_disk_does_not_have_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("log")).unwrap();
    let log = Log::open(&dir.path().join("log"), false, Arc::default()).unwrap();
    let before = files(dir.path());
    let error = log.reserve(1 << 55).await.unwrap_err();
    assert!(error.to_string().contains("0000000001.log: "), "{error}");
    assert_eq!(files(dir.path()), before);
    // And what fits goes on.
    log.reserve(1000).await.unwrap();
}

#[tokio::test]
async fn an_interrupted_first_start_is_taken_up_again() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("log")).unwrap();
    fs::write(dir.path().join("log/next.new"), "half").unwrap();
    fs::write(dir.path().join("state.new"), "half").unwrap();
    let store = open(dir.path()).await;
    fill(&store, 10, "1").await;
    store.checkpoint().await.unwrap();
    store.close().await;
    let store = open(dir.path()).await;
    assert_eq!(store.snapshot().count(&Scope::all("configmaps")), 10);
    store.close().await;
}

#[tokio::test]
async fn a_torn_last_record_is_cut_off_silently() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    write(&store, vec![put("a", "1", Precondition::Any)]).await;
    write(&store, vec![put("a", "2", Precondition::Any)]).await;
    store.close().await;
    let log = newest_log(dir.path());
    let text = fs::read(&log).unwrap();
    fs::write(&log, &text[..text.len() - 3]).unwrap();
    let store = open(dir.path()).await;
    assert_eq!(contents(&store.snapshot()), ["a=1@1"]);
    assert_eq!(write(&store, vec![put("a", "3", Precondition::At(Revision(1)))]).await, [Revision(2)]);
    store.close().await;
}

/// Damages the files of a store with a checkpoint and a log in every way that `damage` knows, and expects one
/// sentence that names `named` and says what to do, with nothing changed.
async fn expect_refusals(named: &str, damage: impl Fn(&Path) -> Vec<(PathBuf, Option<Vec<u8>>)>) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    fill(&store, 200, "1").await;
    store.checkpoint().await.unwrap();
    fill(&store, 100, "2").await;
    store.close().await;
    for (path, replacement) in damage(dir.path()) {
        let original = fs::read(&path).unwrap();
        match replacement {
            Some(bytes) => fs::write(&path, bytes).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let before = files(dir.path());
        let reason = refusal(dir.path()).await;
        assert!(reason.contains(named) && reason.contains("restore the data directory"), "{reason}");
        assert!(
            !reason.contains('\n') && reason.matches(&*dir.path().to_string_lossy()).count() >= 1,
            "{reason}"
        );
        assert_eq!(files(dir.path()), before, "{reason}");
        fs::write(&path, original).unwrap();
    }
    // Whole again, it opens.
    let store = open(dir.path()).await;
    assert_eq!(store.snapshot().revision(), Revision(300));
    store.close().await;
}

#[tokio::test]
async fn a_corrupted_log_is_refused() {
    expect_refusals("0000000001.log is corrupted at byte", |dir| {
        let path = newest_log(dir);
        let text = fs::read(&path).unwrap();
        let mut damaged = Vec::new();
        for at in [0, 5, 30, text.len() / 2, text.len() - 2] {
            let mut bytes = text.clone();
            bytes[at] ^= 0x10;
            damaged.push((path.clone(), Some(bytes)));
        }
        damaged.push((path, Some(Vec::new())));
        damaged
    })
    .await;
}

#[tokio::test]
async fn a_log_that_lost_what_the_state_has_is_refused() {
    expect_refusals("log ends before what state.redb holds", |dir| {
        // Up to the end of the first frame: as if nothing had ever been appended.
        let path = newest_log(dir);
        let text = fs::read(&path).unwrap();
        let len = u32::from_le_bytes(text[4..8].try_into().unwrap()) as usize;
        vec![(path, Some(text[..=16 + len].to_vec()))]
    })
    .await;
}

#[tokio::test]
async fn a_missing_log_is_refused() {
    expect_refusals("holds no log files", |dir| vec![(newest_log(dir), None)]).await;
}

#[tokio::test]
async fn a_corrupted_or_truncated_state_is_refused() {
    expect_refusals("state.redb is corrupted", |dir| {
        let path = dir.join("state.redb");
        let text = fs::read(&path).unwrap();
        let mut damaged: Vec<_> = [0, 1, 100, 4096, text.len() / 2, text.len() - 1]
            .into_iter()
            .map(|len| (path.clone(), Some(text[..len].to_vec())))
            .collect();
        damaged.push((path.clone(), Some(vec![0; text.len()])));
        damaged.push((path.clone(), Some(b"not a database".repeat(1000))));
        // One bit in the middle of an object.
        let needle = b"\"value\":\"1\"";
        let at = text.windows(needle.len()).position(|window| window == needle).unwrap();
        let mut bytes = text.clone();
        bytes[at + 9] ^= 1;
        damaged.push((path, Some(bytes)));
        damaged
    })
    .await;
}

#[tokio::test]
async fn a_missing_state_is_rebuilt_from_a_whole_log() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    fill(&store, 200, "1").await;
    store.checkpoint().await.unwrap();
    let before = contents(&store.snapshot());
    store.close().await;
    fs::remove_file(dir.path().join("state.redb")).unwrap();
    let store = open(dir.path()).await;
    assert_eq!(contents(&store.snapshot()), before);
    store.close().await;
}

#[tokio::test]
async fn a_snapshot_replaces_another_members_state() {
    use openraft::storage::{RaftSnapshotBuilder as _, RaftStateMachine as _};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    fill(&store, 50, "1").await;
    let mut leader = store.member.as_ref().unwrap().machine.clone();
    let mut snapshot = leader.build_snapshot().await.unwrap();
    let mut bytes = Vec::new();
    snapshot.snapshot.read_to_end(&mut bytes).await.unwrap();

    let other = tempfile::tempdir().unwrap();
    let cache = Arc::new(Cache::new(Snapshot::default()));
    let mut follower = Machine::new(cache.clone(), Checkpoint::new(other.path(), Arc::default()), None);
    let mut image = follower.begin_receiving_snapshot().await.unwrap();
    image.write_all(&bytes).await.unwrap();
    follower.install_snapshot(&snapshot.meta, image).await.unwrap();
    assert_eq!(contents(&cache.snapshot()), contents(&store.snapshot()));
    assert_eq!(cache.revision(), Revision(50));
    assert_eq!(follower.applied_state().await.unwrap().0, snapshot.meta.last_log_id);
    let (view, position) = Checkpoint::new(other.path(), Arc::default()).load().unwrap().unwrap();
    assert_eq!((contents(&view), position.is_installed), (contents(&store.snapshot()), true));

    // A damaged one changes nothing.
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let mut image = follower.begin_receiving_snapshot().await.unwrap();
    image.write_all(&bytes).await.unwrap();
    assert!(follower.install_snapshot(&snapshot.meta, image).await.is_err());
    assert_eq!(cache.revision(), Revision(50));
    store.close().await;
}

#[tokio::test]
async fn a_snapshot_that_was_overtaken_says_so() {
    use openraft::storage::{RaftSnapshotBuilder as _, RaftStateMachine as _};
    use tokio::io::AsyncReadExt as _;

    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let mut machine = store.member.as_ref().unwrap().machine.clone();
    machine.build_snapshot().await.unwrap();
    let mut old = machine.get_current_snapshot().await.unwrap().unwrap();
    fill(&store, 1, "1").await;
    store.checkpoint().await.unwrap();
    let error = old.snapshot.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert!(error.to_string().contains("a newer snapshot"), "{error}");
    store.close().await;
}

#[tokio::test]
async fn a_store_of_ten_thousand_objects_opens_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let value = "x".repeat(1000);
    fill(&store, 10_000, &value).await;
    store.checkpoint().await.unwrap();
    fill(&store, 3_000, "later").await;
    let revision = store.snapshot().revision();
    store.close().await;
    let store = open(dir.path()).await;
    assert_eq!(store.snapshot().revision(), revision);
    assert_eq!(store.snapshot().count(&Scope::all("configmaps")), 10_000);
    assert!(store.snapshot().get(&Key::new("configmaps", "default", "n9999")).is_some());
    store.close().await;
}

/// openraft's own tests of a log and a state machine, on ours.
mod conformance {
    use std::sync::Arc;

    use openraft::{
        StorageError,
        testing::{StoreBuilder, Suite},
    };
    use tempfile::TempDir;

    use super::super::*;

    struct Builder;

    impl StoreBuilder<Types, Log, Machine, TempDir> for Builder {
        async fn build(&self) -> Result<(TempDir, Log, Machine), StorageError<u64>> {
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir(dir.path().join("log")).unwrap();
            let log = Log::open(&dir.path().join("log"), false, Arc::default()).unwrap();
            let cache = Arc::new(Cache::new(Snapshot::default()));
            let machine = Machine::new(cache, Checkpoint::new(dir.path(), Arc::default()), None);
            Ok((dir, log, machine))
        }
    }

    #[test]
    fn log_and_state_machine_do_what_openraft_expects() {
        Suite::test_all(Builder).unwrap();
    }
}
