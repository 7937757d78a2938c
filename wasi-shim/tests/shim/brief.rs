//! Services that get an instance per request: what they reach of each other, and when they change the machine.

use std::fs;

use naru_wasi_shim::{Container, Engine, EngineSettings, Module, Reuse};

use crate::{
    common::{Node, eventually, get},
    guest::guest,
};

const FILLED: usize = 8 << 20;

fn node(harden: bool, max_instances: u32) -> Node {
    let dir = tempfile::tempdir().unwrap();
    let cache_dir = dir.path().join("cache");
    let settings = EngineSettings { cache_dir, max_instances: Some(max_instances), harden };
    Node { engine: Engine::new(settings).unwrap(), dir }
}

/// For how many machines something was compiled.
fn machines(node: &Node) -> usize {
    let files = fs::read_dir(node.dir.path().join("cache")).unwrap();
    files.filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|end| end == "cwasm")).count()
}

/// What traps is answered with 500, named in the log, and harms nobody.
async fn check_trap(path: &str, expected: &str) {
    for harden in [false, true] {
        let node = node(harden, 4);
        let (container, log) = node.start(node.guest("service02").await, |_| {}).await;
        assert_eq!(get(&container, path).await.0, 500, "{path}");
        assert!(log.text().contains(expected), "{path}: {}", log.text());
        assert_eq!(get(&container, "/").await, (200, "hello".into()));
    }
}

#[tokio::test]
async fn an_address_outside_of_the_memory_is_a_trap() {
    for address in [64 << 20, 1_usize << 31, u32::MAX as usize] {
        check_trap(&format!("/read/{address}"), "out of bounds memory access").await;
    }
}

#[tokio::test]
async fn a_function_that_is_not_there_is_a_trap() {
    check_trap("/call/0", "uninitialized element").await;
    check_trap("/call/4294967295", "out of bounds table access").await;
}

#[tokio::test]
async fn recursion_without_end_is_a_trap() {
    check_trap("/recurse", "call stack exhausted").await;
}

async fn number(container: &Container, path: &str) -> usize {
    let (status, text) = get(container, path).await;
    assert_eq!(status, 200, "{path}");
    text.parse().unwrap()
}

#[tokio::test]
async fn an_instance_reaches_nothing_that_the_one_before_wrote() {
    for harden in [false, true] {
        // One slot, which both get.
        let node = node(harden, 1);
        let (container, log) = node.start(node.guest("service02").await, |_| {}).await;
        for _ in 0..3 {
            let size = number(&container, &format!("/fill/{FILLED}")).await;
            assert!(size > FILLED);
            for address in [FILLED / 2, size - 1] {
                assert_eq!(get(&container, &format!("/read/{address}")).await.0, 500);
            }
            assert_eq!(number(&container, &format!("/grow/{FILLED}")).await, 0);
        }
        assert_eq!(log.text().matches("out of bounds memory access").count(), 6, "{}", log.text());
    }
}

async fn fresh(node: &Node) -> (Container, std::sync::Arc<Module>) {
    let module = node.engine.load(&guest("service02"), "sha256:s", Reuse::Never).await.unwrap();
    (node.start(module.clone(), |_| {}).await.0, module)
}

#[tokio::test]
async fn a_service_whose_requests_compute_for_long_moves_to_code_that_is_fast() {
    let node = node(false, 8);
    let (container, _module) = fresh(&node).await;
    for _ in 0..300 {
        assert_eq!(get(&container, "/").await.0, 200);
    }
    assert_eq!(machines(&node), 1, "short requests stay");
    let expected = get(&container, "/compute/1000000").await;
    for _ in 0..400 {
        assert_eq!(get(&container, "/compute/1000000").await, expected);
    }
    eventually("it moves", || machines(&node) == 2).await;
    for _ in 0..50 {
        assert_eq!(get(&container, "/compute/1000000").await, expected);
    }
}

#[tokio::test]
async fn a_service_with_more_requests_at_once_than_the_machine_holds_moves() {
    let node = node(false, 2);
    let (container, _module) = fresh(&node).await;
    let slow = || get(&container, "/compute/20000000");
    let (one, two, three) = tokio::join!(slow(), slow(), slow());
    assert!(one.0 == 200 && one == two && two == three);
    eventually("it moves", || machines(&node) == 2).await;
}

#[tokio::test]
async fn instances_that_are_kept_and_hardened_guests_have_one_machine() {
    let kept = Reuse::Instances { max_requests: 10 };
    for (harden, reuse) in [(false, kept), (true, kept), (true, Reuse::Never)] {
        let node = node(harden, 2);
        let module = node.engine.load(&guest("service02"), "sha256:s", reuse).await.unwrap();
        let (container, _) = node.start(module, |spec| spec.reuse = reuse).await;
        for _ in 0..130 {
            assert_eq!(get(&container, "/compute/1000000").await.0, 200);
        }
        assert_eq!(machines(&node), 1);
    }
}
