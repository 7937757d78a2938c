//! Commands: arguments, environment, files, output, exit codes, traps, and how they are stopped.

use std::time::{Duration, Instant};

use naru_wasi_shim::{Container, ContainerSpec, ExitReason, LogStream, ModuleKind, Mount};

use crate::{
    common::{Log, Node, spec, within},
    guest::guest,
};

/// Writes a text and exits.
fn says(text: &str, then: &str) -> String {
    format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1)
            (data (i32.const 100) "{text}")
            (func (export "_start")
                (i32.store (i32.const 0) (i32.const 100))
                (i32.store (i32.const 4) (i32.const {length}))
                (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
                {then}))"#,
        length = text.replace("\\n", "n").len(),
    )
}

/// Sleeps for an hour, in one call.
const SLEEPS: &str = r#"(module
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (func (export "_start")
        (i32.store (i32.const 16) (i32.const 1))
        (i64.store (i32.const 24) (i64.const 3600000000000))
        (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))))"#;

pub const LOOPS: &str = r#"(module (memory (export "memory") 1) (func (export "_start") (loop (br 0))))"#;

#[tokio::test]
async fn a_command_that_returns_has_completed_and_its_output_is_in_the_log() {
    let (status, log) = Node::new().run(&says("hello\\nworld", ""), |_| {}).await;
    assert_eq!((status.code, status.reason), (0, ExitReason::Completed));
    assert_eq!(log, "hello\nworld");
}

#[tokio::test]
async fn an_exit_code_keeps_its_number() {
    let (status, log) = Node::new().run(&says("bye\\n", "(call $exit (i32.const 7))"), |_| {}).await;
    assert_eq!((status.code, status.reason, status.message.as_str()), (7, ExitReason::Error, ""));
    assert_eq!(log, "bye\n");
}

#[tokio::test]
async fn a_trap_is_told_with_its_backtrace() {
    let text = r#"(module (func $deep unreachable) (func $start (export "_start") (call $deep)))"#;
    let (status, _) = Node::new().run(text, |_| {}).await;
    assert_eq!((status.code, status.reason), (134, ExitReason::Error));
    assert!(
        status.message.starts_with("wasm trap: wasm `unreachable` instruction executed"),
        "{}",
        status.message
    );
    assert!(status.message.contains("deep") && status.message.contains("start"), "{}", status.message);
}

#[tokio::test]
async fn a_component_command_sees_its_arguments_environment_and_mounts() {
    let node = Node::new();
    let module = node.guest("command02").await;
    assert_eq!(module.kind(), ModuleKind::Command02);
    let volume = node.dir.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("greeting"), "from a volume").unwrap();
    let (container, log) = node
        .start(module, |spec| {
            spec.args = vec!["program".into(), "/data/greeting".into()];
            spec.env = vec![("COLOUR".into(), "green".into())];
            spec.mounts = vec![Mount { host_path: volume, guest_path: "/data".into(), read_only: true }];
        })
        .await;
    assert_eq!(within(container.wait()).await.code, 0);
    let out = log.stream(LogStream::Stdout);
    assert!(out.contains("COLOUR=green\n"), "{out}");
    assert!(out.contains("/data/greeting: from a volume\n"), "{out}");
    assert!(out.contains("stdin: 0 bytes\n"), "{out}");
    assert!(out.contains("cannot write /data/new: "), "{out}");
    assert_eq!(log.stream(LogStream::Stderr), "done\n");
}

#[tokio::test]
async fn a_0_3_command_runs_and_fails_as_its_result_says() {
    let node = Node::new();
    let module = node.guest("command03").await;
    assert_eq!(module.kind(), ModuleKind::Command03);
    for (args, code) in [(vec!["program", "argument"], 0), (vec!["program"], 1)] {
        let expected = format!("{}\n", args.join(" "));
        let change = |spec: &mut ContainerSpec| spec.args = args.into_iter().map(str::to_owned).collect();
        let (container, log) = node.start(module.clone(), change).await;
        assert_eq!(within(container.wait()).await.code, code);
        assert_eq!(log.text(), expected);
    }
}

#[tokio::test]
async fn a_mount_that_does_not_exist_is_an_error_at_the_start() {
    let node = Node::new();
    let mut spec = spec(node.wat(LOOPS).await, Log::default().into());
    spec.mounts =
        vec![Mount { host_path: "/nowhere/at-all".into(), guest_path: "/data".into(), read_only: false }];
    let error = Container::start(&node.engine, spec).await.err().unwrap();
    assert!(error.starts_with("cannot open /nowhere/at-all for the mount /data: No such file"), "{error}");
}

#[tokio::test]
async fn a_command_that_waits_ends_at_once_when_asked_to() {
    let node = Node::new();
    let (container, _) = node.start(node.wat(SLEEPS).await, |_| {}).await;
    let started = Instant::now();
    let status = container.stop(Duration::from_secs(50)).await;
    assert_eq!((status.code, status.reason), (143, ExitReason::Error));
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn a_command_that_never_waits_is_killed_after_its_grace_period() {
    let node = Node::new();
    let (container, _) = node.start(node.wat(LOOPS).await, |_| {}).await;
    let grace = Duration::from_millis(200);
    let started = Instant::now();
    let status = container.stop(grace).await;
    assert_eq!((status.code, status.reason), (137, ExitReason::Error));
    assert!(started.elapsed() >= grace);
    assert!(container.stats().cpu_usage > Duration::ZERO);
}

#[tokio::test]
async fn dropping_the_last_handle_kills_the_guest() {
    let node = Node::with_instances(1);
    let module = node.wat(LOOPS).await;
    let (container, _) = node.start(module.clone(), |_| {}).await;
    let refused =
        Container::start(&node.engine, spec(module.clone(), Log::default().into())).await.err().unwrap();
    assert_eq!(refused, "the node has no room for another wasm instance");
    drop(container);
    within(async {
        while Container::start(&node.engine, spec(module.clone(), Log::default().into())).await.is_err() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

#[test]
fn guests_are_built_once() {
    assert_eq!(guest("command02"), guest("command02"));
}
