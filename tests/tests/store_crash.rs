//! The store is killed in the middle of its work, again and again, and must not have lost or torn anything.
//!
//! The store runs in a child process: this test's own executable, told to run one test that is otherwise ignored.
//! Sixteen writers work on slots of two objects each; every transaction changes both objects of a slot, and the
//! writer's head, which says how far it got. The child prints what was acknowledged. What a writer's operation number
//! `n` does follows from `n`, so the whole state must be that after `n` operations, for an `n` that is the last one
//! acknowledged or, if that one was in flight, the one after.

use std::{
    collections::BTreeMap,
    env,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use naru_control::store::{Change, Draft, Key, Op, Precondition, Scope, Snapshot, Store, StoreError};
use rand::Rng as _;

const WRITERS: usize = 16;
const SLOTS: u64 = 7;
const ROUNDS: usize = 22;
const RESOURCE: &str = "configmaps";
/// Every so many operations a slot is emptied instead of filled.
const DELETE_EVERY: u64 = 5;
const DIR: &str = "NARU_CRASH_TEST_DIR";
const MAX_FILE_BYTES: &str = "NARU_CRASH_TEST_MAX_FILE_BYTES";

#[test]
fn nothing_acknowledged_is_lost_when_the_process_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = rand::rng();
    let mut expected = Expected::default();
    let mut checkpoints = 0;
    for round in 0..ROUNDS {
        let mut child = Writer::start(dir.path(), None);
        let lifetime = Duration::from_millis(rng.random_range(20..400));
        let deadline = Instant::now() + lifetime;
        child.follow(&mut expected, |_| Instant::now() < deadline);
        child.kill(&mut expected);
        verify(dir.path(), &mut expected, round);
        checkpoints += usize::from(dir.path().join("state.redb").exists());
    }
    assert!(expected.acknowledged > 200, "only {} writes in all rounds", expected.acknowledged);
    assert!(checkpoints > 0, "no checkpoint was made while the store was killed");
}

#[test]
fn a_full_disk_is_reported_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = Expected::default();
    let mut child = Writer::start(dir.path(), Some(3 << 20));
    child.follow(&mut expected, |_| true);
    assert!(child.child.wait().unwrap().success());
    let failure = expected.failure.take().expect("the writer met the end of the disk");
    assert!(failure.contains("stopped writing") && failure.contains("File too large"), "{failure}");
    assert!(expected.acknowledged > 10);
    verify(dir.path(), &mut expected, 0);
}

/// What the child said so far.
#[derive(Default)]
struct Expected {
    /// Per writer, the last operation that was acknowledged.
    acknowledged_by: BTreeMap<usize, u64>,
    acknowledged: u64,
    revision: u64,
    failure: Option<String>,
}

impl Expected {
    /// `ack WRITER NUMBER REVISION` or `failed TEXT`
    fn take_in(&mut self, line: &str) {
        if let Some(text) = line.strip_prefix("failed ") {
            self.failure = Some(text.to_owned());
            return;
        }
        let Some(rest) = line.strip_prefix("ack ") else { return };
        let numbers: Vec<u64> = rest.split(' ').map(|word| word.parse().unwrap()).collect();
        let &[writer, number, revision] = &*numbers else { panic!("{line:?}") };
        self.acknowledged_by.insert(writer as usize, number);
        self.acknowledged += 1;
        self.revision = self.revision.max(revision);
    }
}

struct Writer {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Writer {
    fn start(dir: &Path, max_file_bytes: Option<u64>) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "store_writer", "--ignored", "--nocapture"]).env(DIR, dir);
        if let Some(bytes) = max_file_bytes {
            command.env(MAX_FILE_BYTES, bytes.to_string());
        }
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines.by_ref().find(|line| line.as_ref().unwrap() == "ready");
        assert!(ready.is_some(), "the writer did not start");
        Self { child, lines }
    }

    /// Takes in what the writer says, until it ends or `goes_on` says no.
    fn follow(&mut self, expected: &mut Expected, goes_on: impl Fn(&Expected) -> bool) {
        while goes_on(expected) {
            let Some(line) = self.lines.next() else { return };
            expected.take_in(&line.unwrap());
        }
    }

    /// What was said before the end counts, too; half a line does not.
    fn kill(mut self, expected: &mut Expected) {
        self.child.kill().unwrap();
        let mut rest: Vec<String> = self.lines.by_ref().map_while(Result::ok).collect();
        if rest.last().is_some_and(|line| line.split(' ').count() != 4 || !line.starts_with("ack ")) {
            rest.pop();
        }
        // The last line may be cut within its last number; without it the test is only more lenient.
        rest.pop();
        for line in &rest {
            expected.take_in(line);
        }
        self.child.wait().unwrap();
    }
}

/// Opens the store and compares all of it with what must be there.
fn verify(dir: &Path, expected: &mut Expected, round: usize) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = Store::open(dir).await.unwrap();
        let view = store.snapshot();
        assert!(view.revision().0 >= expected.revision, "round {round}: revisions went back");
        expected.revision = view.revision().0;
        for writer in 0..WRITERS {
            let acknowledged = expected.acknowledged_by.get(&writer).copied().unwrap_or_default();
            let head = head(&view, writer);
            assert!(head >= acknowledged, "round {round}: writer {writer} lost what came after {head}");
            expected.acknowledged_by.insert(writer, head);
            for slot in 0..SLOTS {
                let number = last_operation_on(slot, head);
                let value = number.filter(|number| !deletes(*number)).map(|number| value(writer, number));
                for half in ["a", "b"] {
                    let found = read(&view, &slot_key(writer, slot, half));
                    assert_eq!(
                        found, value,
                        "round {round}: writer {writer}, slot {slot}{half}, after {head}"
                    );
                }
            }
        }
        store.close().await;
    });
}

/// The last of the operations 1 to `head` that was on `slot`.
fn last_operation_on(slot: u64, head: u64) -> Option<u64> {
    (1..=head).rev().take(SLOTS as usize).find(|number| number % SLOTS == slot)
}

fn deletes(number: u64) -> bool {
    number.is_multiple_of(DELETE_EVERY)
}

/// Different for every operation, and of different length.
fn value(writer: usize, number: u64) -> String {
    format!("{writer}-{number}-").repeat(20 + 7 * (number % 300) as usize)
}

fn key(name: &str) -> Key {
    Key::new(RESOURCE, "default", name)
}

fn slot_key(writer: usize, slot: u64, half: &str) -> Key {
    key(&format!("w{writer}-{slot}{half}"))
}

fn read(view: &Snapshot, key: &Key) -> Option<String> {
    let object = view.get(key)?.typed::<ConfigMap>().unwrap();
    assert_eq!(object.metadata.resource_version, view.get(key).map(|entry| entry.revision.0.to_string()));
    Some(object.data.as_ref().unwrap()["value"].clone())
}

fn head(view: &Snapshot, writer: usize) -> u64 {
    read(view, &key(&format!("w{writer}-head"))).map_or(0, |number| number.parse().unwrap())
}

/// The child: writes until it is killed, or the store fails.
#[test]
#[ignore = "is started by the other tests of this file"]
fn store_writer() {
    let dir = env::var(DIR).expect("the parent says where");
    if let Ok(bytes) = env::var(MAX_FILE_BYTES) {
        limit_file_size(bytes.parse().unwrap());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let failure = runtime.block_on(async {
        let store = Store::open(Path::new(&dir)).await.unwrap();
        assert_eq!(store.snapshot().count(&Scope::namespace(RESOURCE, "other")), 0);
        println!("\nready");
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            let (store, head) = (store.clone(), head(&store.snapshot(), writer));
            writers.spawn(async move { write(&store, writer, head).await });
        }
        let mut failure = None;
        while let Some(ended) = writers.join_next().await {
            failure = Some(ended.unwrap());
        }
        failure
    });
    println!("failed {}", failure.expect("a writer ended"));
}

/// One operation after the other, from the one after `head` on; answers why it ended.
async fn write(store: &Store, writer: usize, head: u64) -> String {
    for number in head + 1.. {
        let slot = number % SLOTS;
        let change = |half| {
            let key = slot_key(writer, slot, half);
            let change = if deletes(number) {
                Change::Delete
            } else {
                Change::Put(draft(key.name(), &value(writer, number)))
            };
            Op { key, precondition: Precondition::Any, change }
        };
        let head_key = key(&format!("w{writer}-head"));
        let head_draft = draft(head_key.name(), &number.to_string());
        let head = Op { key: head_key, precondition: Precondition::Any, change: Change::Put(head_draft) };
        match store.transact(vec![change("a"), head, change("b")]).await {
            Ok(answers) => {
                let revision = answers.iter().flatten().map(|entry| entry.revision.0).max().unwrap();
                let line = format!("ack {writer} {number} {revision}\n");
                std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
            }
            // The next operation says why.
            Err(StoreError::OutcomeUnknown) => {
                let probe = Op { key: key("probe"), precondition: Precondition::Any, change: Change::Check };
                return store.transact(vec![probe]).await.unwrap_err().to_string();
            }
            Err(error) => return error.to_string(),
        }
    }
    unreachable!("numbers do not end")
}

fn draft(name: &str, value: &str) -> Draft {
    let object = ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.into()),
            namespace: Some("default".into()),
            ..Default::default()
        },
        data: Some([("value".to_owned(), value.to_owned())].into()),
        ..Default::default()
    };
    Draft::new(&object).unwrap()
}

/// Makes writes beyond `bytes` of a file fail, as on a full disk.
#[allow(unsafe_code, reason = "ignoring a signal has no safe interface")]
fn limit_file_size(bytes: u64) {
    // SAFETY: nothing else in this process handles SIGXFSZ; by default it would end the process.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let limit = rustix::process::Rlimit { current: Some(bytes), maximum: Some(bytes) };
    rustix::process::setrlimit(rustix::process::Resource::Fsize, limit).unwrap();
}
