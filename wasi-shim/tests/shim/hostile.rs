//! Guests that mean harm: each ends with the right reason, and a neighbour goes on serving.

use std::time::{Duration, Instant};

use http::Request;
use naru_wasi_shim::{Container, ContainerSpec, ExitReason, ExitStatus, LogStream, Mount};

use crate::{
    commands::LOOPS,
    common::{MIB, Node, body, eventually, get, within},
};

/// Runs the hostile command beside a service that must answer all the while.
async fn check(
    text: &str,
    change: impl FnOnce(&mut ContainerSpec),
    end: impl AsyncFnOnce(&Container) -> ExitStatus,
) -> ExitStatus {
    let node = Node::new();
    let (neighbour, _) = node.start(node.guest("service02").await, |_| {}).await;
    let (hostile, _) = node.start(node.wat(text).await, change).await;
    let status = {
        let mut ended = std::pin::pin!(end(&hostile));
        loop {
            tokio::select! {
                biased;
                status = &mut ended => break status,
                answer = get(&neighbour, "/") => assert_eq!(answer, (200, "hello".into())),
            }
        }
    };
    assert_eq!(get(&neighbour, "/").await.0, 200);
    eventually("nothing of the hostile guest is left", || {
        hostile.stats().instances == 0 && hostile.stats().memory_bytes == 0
    })
    .await;
    status
}

#[tokio::test]
async fn an_endless_loop_is_killed() {
    let status = check(LOOPS, |_| {}, async |hostile| hostile.stop(Duration::from_millis(300)).await).await;
    assert_eq!((status.code, status.reason), (137, ExitReason::Error));
}

#[tokio::test]
async fn a_memory_bomb_is_out_of_memory() {
    let bomb = r#"(module (memory (export "memory") 1)
        (func (export "_start") (loop (drop (memory.grow (i32.const 16))) (br 0))))"#;
    let status = check(bomb, |_| {}, async |hostile| hostile.wait().await).await;
    assert_eq!((status.code, status.reason), (137, ExitReason::OomKilled));
    assert!(status.message.contains("the container may use 67108864 bytes"), "{}", status.message);
}

#[tokio::test]
async fn a_module_that_starts_beyond_the_limit_is_out_of_memory() {
    let big = r#"(module (memory (export "memory") 4096) (func (export "_start")))"#;
    let status = check(big, |_| {}, async |hostile| hostile.wait().await).await;
    assert_eq!((status.code, status.reason), (137, ExitReason::OomKilled));
}

#[tokio::test]
async fn endless_output_can_be_stopped() {
    let floods = r#"(module
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (func (export "_start")
            (i32.store (i32.const 4) (i32.const 60000))
            (loop (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))) (br 0))))"#;
    let status = check(floods, |_| {}, async |hostile| hostile.stop(Duration::from_millis(300)).await).await;
    assert_eq!(status.code, 137);
}

#[tokio::test]
async fn deep_recursion_is_a_trap() {
    let deep = r#"(module (func $down (export "_start") (call $down)))"#;
    let status = check(deep, |_| {}, async |hostile| hostile.wait().await).await;
    assert_eq!((status.code, status.reason), (134, ExitReason::Error));
    assert!(status.message.starts_with("wasm trap: call stack exhausted"), "{}", status.message);
}

#[tokio::test]
async fn a_service_out_of_memory_answers_500_and_ends() {
    let node = Node::new();
    for name in ["service02"] {
        let (container, log) = node.start(node.guest(name).await, |_| {}).await;
        assert_eq!(get(&container, "/bomb").await.0, 500);
        let status = within(container.wait()).await;
        assert_eq!((status.code, status.reason), (137, ExitReason::OomKilled));
        assert!(log.stream(LogStream::Stderr).contains("naru: GET /bomb: out of memory"));
    }
}

#[tokio::test]
async fn the_memory_of_all_requests_counts_against_one_limit() {
    let node = Node::new();
    let (container, _) =
        node.start(node.guest("service02").await, |spec| spec.limits.memory_bytes = Some(4 * MIB)).await;
    // Each takes more than one MiB while it runs.
    let spin = || Request::get("http://shop/spin").body(body("")).unwrap();
    let _answers = futures::future::join_all((0..8).map(|_| within(container.handle(spin())))).await;
    assert_eq!(within(container.wait()).await.reason, ExitReason::OomKilled);
}

#[tokio::test]
async fn thousands_of_sockets_are_refused_at_the_limit_and_closed_with_the_instance() {
    let node = Node::new();
    let (container, _) = node.start(node.guest("service02").await, |_| {}).await;
    for _ in 0..2 {
        let (status, answer) = get(&container, "/sockets").await;
        assert!(
            status == 200 && answer.starts_with("1024 ") && answer.contains("new-socket-limit"),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn files_outside_the_mounts_do_not_exist_for_a_guest() {
    let node = Node::new();
    let volume = node.dir.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(node.dir.path().join("secret"), "secret").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", volume.join("link")).unwrap();
    std::os::unix::fs::symlink("../secret", volume.join("up")).unwrap();
    let paths = [
        "/etc/passwd",
        "..",
        "/data/..",
        "/data/../secret",
        "/data/../../../../../../etc/passwd",
        "/data/link",
        "/data/up",
        "/proc/self/environ",
    ];
    let (container, log) = node
        .start(node.guest("command02").await, |spec| {
            spec.args.extend(paths.map(str::to_owned));
            spec.mounts =
                vec![Mount { host_path: volume.clone(), guest_path: "/data".into(), read_only: false }];
        })
        .await;
    within(container.wait()).await;
    let out = log.stream(LogStream::Stdout);
    for path in paths {
        assert!(out.contains(&format!("cannot read {path}: ")), "{path}: {out}");
    }
    assert!(!out.contains("secret\n") && !out.contains("root:"), "{out}");
}

#[tokio::test]
async fn a_guest_that_spins_does_not_slow_down_others_requests() {
    let node = Node::new();
    let (neighbour, _) = node.start(node.guest("service02").await, |_| {}).await;
    let module = node.wat(LOOPS).await;
    let mut hostile = Vec::new();
    for _ in 0..16 {
        hostile.push(node.start(module.clone(), |_| {}).await);
    }
    eventually("they all compute", || hostile.iter().all(|(guest, _)| !guest.stats().cpu_usage.is_zero()))
        .await;
    let started = Instant::now();
    for _ in 0..20 {
        assert_eq!(get(&neighbour, "/").await.0, 200);
    }
    // In turn with 16 loops of 5 ms each a single request would take longer than this.
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
}
