//! How the raft log should be kept, and how fast the whole store is on top of it.
//!
//! `cargo bench -p naru-control --bench raft_log [-- DIR]` writes below DIR (a temporary directory by default) and
//! prints two tables: batches appended durably to segments and to redb, and transactions of the store by writers.
//! The redb log exists here only: it is what lost.

#[allow(dead_code, reason = "the benchmark uses a part of the module")]
#[path = "../src/store/raft/segments.rs"]
mod segments;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use naru_control::store::{Change, Draft, Key, Op, Precondition, Store};
use redb::{Database, TableDefinition};
use segments::Segments;

const OBJECT_BYTES: usize = 1000;
const WINDOW: Duration = Duration::from_secs(2);
const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");

/// Appends batches of a size below a directory, and answers how many per second.
type Append = fn(&Path, usize) -> f64;

fn main() {
    // Cargo passes `--bench`; what is not an option is the directory.
    let dir = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).map(PathBuf::from);
    let dir = dir.unwrap_or_else(std::env::temp_dir);
    let scratch = || tempfile::tempdir_in(&dir).expect("a scratch directory");

    println!(
        "| durable appends/s, batches of | 1 × 1 kB | 16 × 1 kB | 64 × 1 kB |\n| --- | --- | --- | --- |"
    );
    let rows: [(&str, Append); 3] = [
        ("segments, one frame and one fdatasync", append_to_segments),
        ("redb, one entry per record, one durable commit", |dir, batch| append_to_redb(dir, batch, false)),
        ("redb, one entry per batch, one durable commit", |dir, batch| append_to_redb(dir, batch, true)),
    ];
    for (name, append) in rows {
        let rates = [1, 16, 64].map(|batch| format!("{:.0}", append(scratch().path(), batch)));
        println!("| {name} | {} |", rates.join(" | "));
    }

    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    println!("\n| store | 1 writer | 16 writers | 64 writers |\n| --- | --- | --- | --- |");
    let measured = [1, 16, 64].map(|writers| runtime.block_on(transact(scratch().path(), writers)));
    let row = |cell: fn(&Measured) -> String| measured.iter().map(cell).collect::<Vec<_>>().join(" | ");
    println!("| transactions/s | {} |", row(|measured| format!("{:.0}", measured.rate)));
    println!("| latency p50 | {} |", row(|measured| format!("{:.2?}", measured.median)));
    println!("| latency p99 | {} |", row(|measured| format!("{:.2?}", measured.p99)));

    let (empty, full, objects) = runtime.block_on(open(scratch().path()));
    println!("\nopening an empty directory takes {empty:.1?}, one with {objects} objects of 1 kB {full:.1?}");
}

/// Batches per second.
fn append_to_segments(dir: &Path, batch: usize) -> f64 {
    let mut log = Segments::create(dir, b"start").expect("a log");
    let payload = vec![b'x'; OBJECT_BYTES * batch];
    rate(|| {
        log.reserve(payload.len()).expect("space");
        log.append(&payload).expect("an append");
        if log.is_full() {
            log.roll(b"start").expect("a new file");
            log.remove_before(log.segment()).expect("old files go");
        }
    })
}

fn append_to_redb(dir: &Path, batch: usize, is_packed: bool) -> f64 {
    let database = Database::create(dir.join("log.redb")).expect("a database");
    let record = vec![b'x'; if is_packed { OBJECT_BYTES * batch } else { OBJECT_BYTES }];
    let records = if is_packed { 1 } else { batch as u64 };
    let mut next = 0;
    rate(|| {
        let transaction = database.begin_write().expect("a transaction");
        {
            let mut table = transaction.open_table(LOG).expect("a table");
            for _ in 0..records {
                table.insert(next, &*record).expect("an insert");
                next += 1;
            }
            // As a log is purged, so that it does not grow for ever.
            table.retain_in(..next.saturating_sub(1000 * records), |_, _| false).expect("a purge");
        }
        transaction.commit().expect("a commit");
    })
}

fn rate(mut step: impl FnMut()) -> f64 {
    (0..20).for_each(|_| step());
    let (start, mut steps) = (Instant::now(), 0);
    while start.elapsed() < WINDOW {
        step();
        steps += 1;
    }
    f64::from(steps) / start.elapsed().as_secs_f64()
}

struct Measured {
    rate: f64,
    median: Duration,
    p99: Duration,
}

/// Single-op transactions by `writers` at a time, each on objects of its own.
async fn transact(dir: &Path, writers: usize) -> Measured {
    let store = Store::open(dir).await.expect("the store opens");
    let start = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                for number in 0_u64.. {
                    let before = Instant::now();
                    if start.elapsed() > WINDOW {
                        break;
                    }
                    let op = put(&format!("w{writer}-{}", number % 100));
                    store.transact(vec![op]).await.expect("a write");
                    latencies.push(before.elapsed());
                }
                latencies
            })
        })
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.expect("a writer"));
    }
    let rate = latencies.len() as f64 / start.elapsed().as_secs_f64();
    latencies.sort_unstable();
    store.close().await;
    Measured { rate, median: latencies[latencies.len() / 2], p99: latencies[latencies.len() * 99 / 100] }
}

/// How long it takes to open a store that is empty, and one that is not, and how much that one holds.
async fn open(dir: &Path) -> (Duration, Duration, usize) {
    let objects = 10_000;
    let start = Instant::now();
    let store = Store::open(dir).await.expect("the store opens");
    let empty = start.elapsed();
    for first in (0..objects).step_by(500) {
        let ops = (first..first + 500).map(|number| put(&format!("n{number}"))).collect();
        store.transact(ops).await.expect("a write");
    }
    store.checkpoint().await.expect("a checkpoint");
    store.close().await;
    let start = Instant::now();
    let store = Store::open(dir).await.expect("the store opens again");
    let full = start.elapsed();
    store.close().await;
    (empty, full, objects)
}

fn put(name: &str) -> Op {
    let object = ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.into()),
            namespace: Some("default".into()),
            labels: Some([("app".to_owned(), "bench".to_owned())].into()),
            ..ObjectMeta::default()
        },
        data: Some([("value".to_owned(), "x".repeat(OBJECT_BYTES - 150))].into()),
        ..ConfigMap::default()
    };
    let draft = Draft::new(&object).expect("it serializes");
    Op {
        key: Key::new("configmaps", "default", name),
        precondition: Precondition::Any,
        change: Change::Put(draft),
    }
}
