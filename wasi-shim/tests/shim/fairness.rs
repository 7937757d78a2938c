//! CPU: shares under contention, caps, and what is counted.

use std::time::Duration;

use naru_wasi_shim::Container;

use crate::{
    commands::LOOPS,
    common::{Node, eventually},
};

async fn loops(node: &Node, shares: u64, limit: Option<u64>) -> Container {
    let module = node.wat(LOOPS).await;
    let (container, _) = node
        .start(module, |spec| {
            spec.limits.cpu_shares = shares;
            spec.limits.cpu_limit_millis = limit;
        })
        .await;
    container
}

fn used(container: &Container) -> f64 {
    container.stats().cpu_usage.as_secs_f64()
}

/// More of each than there are CPUs, so that none has one to itself.
async fn pairs(node: &Node, shares: [u64; 2]) -> [Vec<Container>; 2] {
    let cpus = std::thread::available_parallelism().unwrap().get();
    let mut containers = [Vec::new(), Vec::new()];
    for _ in 0..cpus {
        for (kind, shares) in shares.into_iter().enumerate() {
            containers[kind].push(loops(node, shares, None).await);
        }
    }
    containers
}

async fn check_ratio(shares: [u64; 2], expected: std::ops::Range<f64>) {
    let node = Node::new();
    let [some, others] = pairs(&node, shares).await;
    let total = |containers: &[Container]| containers.iter().map(used).sum::<f64>();
    // From here on all of them compute.
    eventually("they all compute", || some.iter().chain(&others).all(|container| used(container) > 0.0))
        .await;
    let (some_before, others_before) = (total(&some), total(&others));
    let shared = || (total(&some) - some_before, total(&others) - others_before);
    eventually("enough time was shared", || shared().0 + shared().1 > 2.0).await;
    let ratio = shared().0 / shared().1;
    assert!(expected.contains(&ratio), "{ratio}");
}

#[tokio::test]
async fn loops_of_equal_weight_get_equal_time() {
    check_ratio([1024, 1024], 0.7..1.4).await;
}

#[tokio::test]
async fn loops_share_by_weight() {
    // Four to one; on a busy machine the clock that ends slices comes late, and they are uneven.
    check_ratio([4096, 1024], 2.2..8.0).await;
}

#[tokio::test]
async fn a_container_over_its_limit_waits_and_it_shows() {
    let node = Node::new();
    let container = loops(&node, 1024, Some(100)).await;
    let started = std::time::Instant::now();
    eventually("it was throttled", || container.stats().throttled_periods >= 10).await;
    let share = used(&container) / started.elapsed().as_secs_f64();
    assert!(share < 0.2, "a tenth of a CPU was allowed: {share}");
    // On a busy machine a period's share comes late, and the wait for the next one is short.
    assert!(container.stats().throttled > Duration::from_millis(50));
}
