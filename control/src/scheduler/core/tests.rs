use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{Node, Pod};
use naru_model::PodBrief;
use serde_json::{Value, json};

use super::{BindResult, Core, Decision};
use crate::{
    scheduler::{PodInfo, plugins::default_profile},
    store::Meta,
};

/// A scheduler with a clock that the test moves.
struct Simulation {
    core: Core,
    now: Duration,
}

fn node(name: &str, cpu: &str) -> Arc<Node> {
    let value = json!({"metadata": {"name": name}, "status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "110"}}});
    Arc::new(serde_json::from_value(value).expect("a node"))
}

fn pod_value(name: &str, cpu: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "d", "uid": name}, "spec": {"schedulerName": "default-scheduler",
        "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
}

fn pod(value: Value) -> Arc<Pod> {
    Arc::new(serde_json::from_value(value).expect("a pod"))
}

impl Simulation {
    fn new(nodes: &[Arc<Node>]) -> Self {
        let mut simulation = Self { core: Core::new(default_profile(), 1), now: Duration::ZERO };
        for node in nodes {
            simulation.core.node_added_or_changed(node.clone());
        }
        simulation
    }

    fn put(&mut self, value: Value) {
        self.core.pod_added_or_changed(&pod(value), self.now);
    }

    fn put_bound(&mut self, name: &str, cpu: &str, node: &str) {
        let mut value = pod_value(name, cpu);
        value["spec"]["nodeName"] = node.into();
        self.put(value);
    }

    /// `pod -> node`, `pod: why not`, or "" if there is nothing to do.
    fn step(&mut self) -> String {
        match self.core.next(self.now) {
            None => String::new(),
            Some(Decision::Bind { pod, node }) => format!("{} -> {node}", pod.name()),
            Some(Decision::Unschedulable { pod, message }) => format!("{}: {message}", pod.name()),
        }
    }

    fn ends(&mut self, name: &str, node: &str, result: BindResult) {
        let info = PodInfo::new(pod(pod_value(name, "1")));
        self.core.bound(&info, node, result, self.now);
    }
}

#[test]
fn pods_are_placed_without_waiting_for_the_api() {
    let mut simulation = Simulation::new(&[node("n", "2")]);
    for name in ["a", "b", "c"] {
        simulation.put(pod_value(name, "1"));
    }
    assert_eq!(simulation.step(), "a -> n");
    assert_eq!(simulation.step(), "b -> n");
    assert_eq!(simulation.step(), "c: 0/1 nodes are available: 1 Insufficient cpu.");
    assert_eq!(simulation.step(), "");
}

#[test]
fn a_failed_bind_gives_its_room_back_and_is_tried_again_later() {
    let mut simulation = Simulation::new(&[node("n", "1")]);
    simulation.put(pod_value("a", "1"));
    assert_eq!(simulation.step(), "a -> n");
    simulation.put(pod_value("b", "1"));
    assert_eq!(simulation.step(), "b: 0/1 nodes are available: 1 Insufficient cpu.");
    simulation.ends("a", "n", BindResult::Failed);
    assert_eq!(simulation.step(), "b -> n");
    simulation.now += Duration::from_millis(999);
    assert_eq!(simulation.step(), "");
    simulation.now += Duration::from_millis(1);
    assert_eq!(simulation.step(), "a: 0/1 nodes are available: 1 Insufficient cpu.");
}

#[test]
fn a_bind_of_unknown_outcome_keeps_its_room_until_it_is_tried_again() {
    let mut simulation = Simulation::new(&[node("n", "1")]);
    simulation.put(pod_value("a", "1"));
    assert_eq!(simulation.step(), "a -> n");
    simulation.ends("a", "n", BindResult::Unknown);
    simulation.put(pod_value("b", "1"));
    assert_eq!(simulation.step(), "b: 0/1 nodes are available: 1 Insufficient cpu.");
    simulation.now += Duration::from_secs(1);
    assert_eq!(simulation.step(), "a -> n");
}

#[test]
fn the_watch_confirms_a_bind_before_or_after_its_answer() {
    for watch_first in [true, false] {
        let mut simulation = Simulation::new(&[node("n", "1")]);
        simulation.put(pod_value("a", "1"));
        assert_eq!(simulation.step(), "a -> n");
        if watch_first {
            simulation.put_bound("a", "1", "n");
            simulation.ends("a", "n", BindResult::Done);
        } else {
            simulation.ends("a", "n", BindResult::Done);
            // News from before the bind may still come.
            simulation.put(pod_value("a", "1"));
            assert_eq!(simulation.step(), "");
            simulation.put_bound("a", "1", "n");
        }
        assert_eq!(simulation.core.waiting(), 0);
        simulation.put(pod_value("b", "1"));
        assert_eq!(simulation.step(), "b: 0/1 nodes are available: 1 Insufficient cpu.");
    }
}

#[test]
fn unschedulable_pods_wake_when_a_node_appears_that_fits() {
    let mut simulation = Simulation::new(&[]);
    simulation.put(pod_value("a", "2"));
    assert_eq!(simulation.step(), "a: no nodes available to schedule pods");
    simulation.core.node_added_or_changed(node("small", "1"));
    assert_eq!(simulation.step(), "", "a node that does not help is no reason");
    simulation.core.node_added_or_changed(node("big", "2"));
    assert_eq!(simulation.step(), "a -> big");
}

#[test]
fn unschedulable_pods_wake_when_room_is_made() {
    let mut simulation = Simulation::new(&[node("n", "2")]);
    simulation.put_bound("x", "1", "n");
    simulation.put_bound("y", "1", "n");
    simulation.put(pod_value("a", "1"));
    assert_eq!(simulation.step(), "a: 0/1 nodes are available: 1 Insufficient cpu.");
    // A heartbeat is no reason.
    simulation.core.node_added_or_changed(node("n", "2"));
    assert_eq!(simulation.step(), "");
    let mut finished = pod_value("x", "1");
    finished["spec"]["nodeName"] = "n".into();
    finished["status"] = json!({"phase": "Succeeded"});
    simulation.put(finished);
    assert_eq!(simulation.step(), "a -> n");
    simulation.put(pod_value("b", "1"));
    assert_eq!(simulation.step(), "b: 0/1 nodes are available: 1 Insufficient cpu.");
    simulation.core.pod_removed("d/y");
    assert_eq!(simulation.step(), "b -> n");
}

#[test]
fn uncordoning_and_untainting_wake() {
    let mut cordoned = (*node("n", "2")).clone();
    cordoned.spec = serde_json::from_value(json!({"unschedulable": true})).expect("a spec");
    let mut simulation = Simulation::new(&[Arc::new(cordoned)]);
    simulation.put(pod_value("a", "1"));
    assert_eq!(simulation.step(), "a: 0/1 nodes are available: 1 node(s) were unschedulable.");
    simulation.core.node_added_or_changed(node("n", "2"));
    assert_eq!(simulation.step(), "a -> n");
}

#[test]
fn only_our_pods_are_placed() {
    let mut simulation = Simulation::new(&[node("n", "8")]);
    let with = |name: &str, path: &str, value: Value| {
        let mut pod = pod_value(name, "1");
        *pod.pointer_mut(path).expect("the parent is there") = value;
        pod
    };
    simulation.put(with("other", "/spec/schedulerName", "mine".into()));
    simulation.put(with(
        "going",
        "/metadata",
        json!({"name": "going", "namespace": "d", "uid": "1", "deletionTimestamp": "2026-01-01T00:00:00Z"}),
    ));
    let mut gated = pod_value("gated", "1");
    gated["spec"]["schedulingGates"] = json!([{"name": "x"}]);
    simulation.put(gated);
    let mut failed = pod_value("failed", "1");
    failed["status"] = json!({"phase": "Failed"});
    simulation.put(failed);
    assert_eq!(simulation.step(), "");
    simulation.put(pod_value("gated", "1"));
    assert_eq!(simulation.step(), "gated -> n");
}

#[test]
fn a_pod_that_is_deleted_while_it_waits_is_dropped() {
    let mut simulation = Simulation::new(&[node("n", "1")]);
    simulation.put(pod_value("a", "1"));
    simulation.core.pod_removed("d/a");
    assert_eq!((simulation.step().as_str(), simulation.core.waiting()), ("", 0));
    simulation.put(pod_value("b", "1"));
    assert_eq!(simulation.step(), "b -> n");
    // It goes away while its bind is under way; the bind then fails.
    simulation.core.pod_removed("d/b");
    simulation.ends("b", "n", BindResult::Failed);
    simulation.put(pod_value("c", "1"));
    assert_eq!(simulation.step(), "c -> n");
}

#[test]
fn a_fresh_list_replaces_what_was_known() {
    let mut simulation = Simulation::new(&[node("gone", "4"), node("n", "2")]);
    simulation.put_bound("x", "2", "n");
    simulation.put(pod_value("old", "1"));
    let (kept, listed) = (pod(pod_value("a", "2")), vec![node("n", "2")]);
    simulation.core.resync(listed, &[kept], Duration::ZERO);
    assert_eq!(simulation.step(), "a -> n");
    assert_eq!(simulation.step(), "");
}

#[test]
fn higher_priority_is_placed_first() {
    let mut simulation = Simulation::new(&[node("n", "1")]);
    simulation.put(pod_value("low", "1"));
    let mut high = pod_value("high", "1");
    high["spec"]["priority"] = 1000.into();
    simulation.put(high);
    assert_eq!(simulation.step(), "high -> n");
    assert_eq!(simulation.step(), "low: 0/1 nodes are available: 1 Insufficient cpu.");
}

#[test]
fn a_thousand_pods_never_overcommit_a_node() {
    let nodes: Vec<_> = (0..20).map(|number| node(&format!("n{number}"), "4")).collect();
    let mut simulation = Simulation::new(&nodes);
    for number in 0..1_000 {
        simulation.put(pod_value(&format!("p{number}"), ["100m", "250m", "500m"][number % 3]));
    }
    let mut placed = std::collections::BTreeMap::<String, i64>::new();
    while let Some(decision) = simulation.core.next(simulation.now) {
        if let Decision::Bind { pod, node } = decision {
            *placed.entry(node.to_string()).or_default() += pod.requests.milli_cpu;
        }
    }
    assert!(placed.len() == 20 && placed.values().all(|used| (3_700..=4_000).contains(used)), "{placed:?}");
}

#[test]
fn a_bound_pod_is_known_until_it_may_take_another_amount() {
    let mut simulation = Simulation::new(&[node("n", "2")]);
    let state = |generation: i64, node: &str, phase: &str| {
        let mut value = pod_value("x", "1");
        value["metadata"]["generation"] = generation.into();
        value["spec"]["nodeName"] = node.into();
        value["status"] = json!({ "phase": phase });
        value
    };
    let known = |simulation: &mut Simulation, value: &Value| {
        let of = &value["metadata"];
        let meta = Meta {
            name: "x".into(),
            namespace: "d".into(),
            uid: of["uid"].as_str().expect("a uid").into(),
            generation: of["generation"].as_i64(),
            ..Default::default()
        };
        let brief = PodBrief::from(&*pod(value.clone()));
        simulation.core.take_known(&meta, &brief)
    };
    let mut waiting = pod_value("x", "1");
    waiting["metadata"]["generation"] = 1.into();
    assert!(!known(&mut simulation, &waiting), "nobody has heard of it");
    simulation.put(waiting.clone());
    assert_eq!(simulation.step(), "x -> n");
    assert!(!known(&mut simulation, &waiting), "it waits for a node");
    assert!(known(&mut simulation, &state(1, "n", "Pending")), "it was bound as decided");
    assert!(known(&mut simulation, &state(1, "n", "Running")));
    assert!(!known(&mut simulation, &state(2, "n", "Running")), "its spec changed");
    assert!(!known(&mut simulation, &state(1, "n", "Failed")), "it takes nothing any more");
    let mut other = state(1, "n", "Running");
    other["metadata"]["uid"] = "another".into();
    assert!(!known(&mut simulation, &other), "it is another pod of this name");
    // What was learnt without decoding counts as much as what was decoded.
    simulation.put(pod_value("y", "1"));
    assert_eq!(simulation.step(), "y -> n");
    simulation.put(pod_value("z", "1"));
    assert_eq!(simulation.step(), "z: 0/1 nodes are available: 1 Insufficient cpu.");
}
