use std::time::Duration;

use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{Node, NodeCondition, NodeSpec, Pod, Taint, Toleration},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};

use super::{NodeIpam, NodeLifecycle, PodGc, TaintEviction, condition, ready_status};
use crate::{
    controllers::{
        framework::{Typed, key_of},
        testing::{World, pod},
    },
    store::Key,
};

fn lifecycle() -> Typed<NodeLifecycle> {
    Typed(NodeLifecycle { grace: Duration::from_secs(40) })
}

fn key(name: &str) -> Key {
    key_of::<Node>("", name)
}

fn add_node(world: &mut World, name: &str) {
    world.add(Node {
        metadata: ObjectMeta { name: Some(name.into()), ..Default::default() },
        ..Default::default()
    });
    beat(world, name, "True");
}

/// The kubelet posts its status.
fn beat(world: &mut World, name: &str, ready: &str) {
    let now = world.now;
    world.report::<Node>("", name, |node| {
        let condition = NodeCondition {
            type_: "Ready".into(),
            status: ready.into(),
            last_heartbeat_time: Some(Time(now)),
            last_transition_time: Some(Time(now)),
            ..Default::default()
        };
        node.status.get_or_insert_default().conditions = Some(vec![condition]);
    });
}

fn renew_lease(world: &mut World, name: &str) {
    let metadata = ObjectMeta {
        name: Some(name.into()),
        namespace: Some("kube-node-lease".into()),
        ..Default::default()
    };
    world.add(Lease { metadata, spec: None });
}

fn taints(world: &World, name: &str) -> Vec<(String, String)> {
    let node = world.get::<Node>("", name);
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints
        .map(|taint| (taint.key.trim_start_matches("node.kubernetes.io/").into(), taint.effect.clone()))
        .collect()
}

fn pair(key: &str, effect: &str) -> (String, String) {
    (key.into(), effect.into())
}

#[test]
fn a_silent_node_becomes_unknown_after_the_grace_period_and_not_before() {
    let mut world = World::default();
    add_node(&mut world, "amber");
    add_node(&mut world, "birch");
    world.advance(39);
    let plan = world.look(&lifecycle(), &key("amber"));
    assert!(plan.is_nothing());
    assert_eq!(plan.again, Some(Duration::from_secs(1)));
    world.advance(1);
    world.settle(&lifecycle(), &key("amber"));
    let node = world.get::<Node>("", "amber");
    let ready = condition(&node, "Ready").unwrap();
    assert_eq!((ready.status.as_str(), ready.reason.as_deref()), ("Unknown", Some("NodeStatusUnknown")));
    assert_eq!(ready.message.as_deref(), Some("Kubelet stopped posting node status."));
    assert_eq!(condition(&node, "DiskPressure").unwrap().reason.as_deref(), Some("NodeStatusNeverUpdated"));
    assert_eq!(
        taints(&world, "amber"),
        [pair("unreachable", "NoSchedule"), pair("unreachable", "NoExecute")]
    );
    let event = ("NodeNotReady".to_owned(), "Node amber status is now: NodeNotReady".to_owned());
    assert!(world.events.contains(&event));
}

#[test]
fn a_renewed_lease_keeps_a_node_alive() {
    let mut world = World::default();
    add_node(&mut world, "amber");
    world.advance(39);
    renew_lease(&mut world, "amber");
    world.advance(39);
    world.settle(&lifecycle(), &key("amber"));
    assert_eq!(ready_status(&world.get::<Node>("", "amber")), "True");
}

#[test]
fn a_node_that_speaks_again_loses_its_taints() {
    let mut world = World::default();
    add_node(&mut world, "amber");
    add_node(&mut world, "birch");
    world.advance(41);
    world.settle(&lifecycle(), &key("amber"));
    assert_eq!(taints(&world, "amber").len(), 2);
    beat(&mut world, "amber", "True");
    world.settle(&lifecycle(), &key("amber"));
    assert_eq!(taints(&world, "amber"), []);
}

#[test]
fn a_node_that_says_it_is_not_ready_is_tainted_so() {
    let mut world = World::default();
    add_node(&mut world, "amber");
    add_node(&mut world, "birch");
    beat(&mut world, "amber", "False");
    world.settle(&lifecycle(), &key("amber"));
    assert_eq!(taints(&world, "amber"), [pair("not-ready", "NoSchedule"), pair("not-ready", "NoExecute")]);
}

#[test]
fn nobody_is_evicted_while_every_node_is_silent() {
    let mut world = World::default();
    add_node(&mut world, "amber");
    world.advance(41);
    world.settle(&lifecycle(), &key("amber"));
    assert_eq!(taints(&world, "amber"), [pair("unreachable", "NoSchedule")]);
}

#[test]
fn all_evictions_end_when_the_last_node_falls_silent_and_go_on_when_one_is_back() {
    let mut world = World::default();
    for name in ["amber", "birch"] {
        add_node(&mut world, name);
    }
    beat(&mut world, "amber", "Unknown");
    world.settle(&lifecycle(), &key("amber"));
    let unreachable = [pair("unreachable", "NoSchedule"), pair("unreachable", "NoExecute")];
    assert_eq!(taints(&world, "amber"), unreachable);
    beat(&mut world, "birch", "False");
    for name in ["amber", "birch"] {
        world.settle(&lifecycle(), &key(name));
    }
    assert_eq!(taints(&world, "amber"), unreachable[..1]);
    assert_eq!(taints(&world, "birch"), [pair("not-ready", "NoSchedule")]);
    beat(&mut world, "birch", "True");
    for name in ["amber", "birch"] {
        world.settle(&lifecycle(), &key(name));
    }
    assert_eq!((taints(&world, "amber"), taints(&world, "birch")), (unreachable.into(), vec![]));
}

#[test]
fn a_node_that_is_excluded_from_disruption_does_not_count_among_the_ready_or_the_lost() {
    let mut world = World::default();
    for name in ["amber", "birch"] {
        add_node(&mut world, name);
    }
    world.edit::<Node>("", "birch", |node| {
        let label = ("node.kubernetes.io/exclude-disruption".to_owned(), String::new());
        node.metadata.labels = Some([label].into());
    });
    beat(&mut world, "amber", "Unknown");
    world.settle(&lifecycle(), &key("amber"));
    assert_eq!(taints(&world, "amber"), [pair("unreachable", "NoSchedule")], "birch does not save it");
}

#[test]
fn a_cordoned_node_and_foreign_taints_are_respected() {
    let mut world = World::default();
    add_node(&mut world, "amber");
    let foreign = Taint { key: "team".into(), effect: "NoExecute".into(), ..Default::default() };
    world.edit::<Node>("", "amber", |node| {
        node.spec =
            Some(NodeSpec { unschedulable: Some(true), taints: Some(vec![foreign]), ..Default::default() });
    });
    world.settle(&lifecycle(), &key("amber"));
    assert_eq!(taints(&world, "amber"), [pair("team", "NoExecute"), pair("unschedulable", "NoSchedule")]);
    world.edit::<Node>("", "amber", |node| node.spec.as_mut().unwrap().unschedulable = None);
    world.settle(&lifecycle(), &key("amber"));
    assert_eq!(taints(&world, "amber"), [pair("team", "NoExecute")]);
}

fn add_pod_on(world: &mut World, name: &str, node: &str, toleration_seconds: Option<i64>) {
    let mut pod = pod(name, "web");
    let spec = pod.spec.as_mut().unwrap();
    spec.node_name = Some(node.into());
    spec.tolerations = toleration_seconds.map(|seconds| {
        vec![Toleration {
            key: Some("node.kubernetes.io/unreachable".into()),
            operator: Some("Exists".into()),
            effect: Some("NoExecute".into()),
            toleration_seconds: (seconds >= 0).then_some(seconds),
            value: None,
        }]
    });
    world.add(pod);
}

#[test]
fn pods_of_a_silent_node_stop_being_ready_and_are_evicted_when_they_tolerate_it_no_longer() {
    let mut world = World::default();
    add_node(&mut world, "amber");
    add_node(&mut world, "birch");
    for (name, seconds) in [("patient", Some(300)), ("endless", Some(-1)), ("strict", None)] {
        add_pod_on(&mut world, name, "amber", seconds);
        world.set_ready("default", name, true);
    }
    world.advance(41);
    beat(&mut world, "birch", "True");
    world.settle(&lifecycle(), &key("amber"));
    assert!(!naru_model::pod::is_ready(&world.get::<Pod>("default", "patient")));
    for name in ["patient", "endless", "strict"] {
        world.look(&TaintEviction, &key_of::<Pod>("default", name));
    }
    assert!(world.find::<Pod>("default", "strict").is_none());
    assert!(
        world
            .events
            .contains(&("TaintManagerEviction".into(), "Marking for deletion Pod default/strict".into()))
    );
    let plan = world.plan(&TaintEviction, &key_of::<Pod>("default", "patient"));
    assert_eq!((plan.is_nothing(), plan.again), (true, Some(Duration::from_mins(5))));
    world.advance(301);
    world.look(&TaintEviction, &key_of::<Pod>("default", "patient"));
    world.look(&TaintEviction, &key_of::<Pod>("default", "endless"));
    assert!(world.find::<Pod>("default", "patient").is_none());
    assert!(world.find::<Pod>("default", "endless").is_some());
}

#[test]
fn pods_of_a_deleted_node_are_removed_after_a_quarantine() {
    let mut world = World { pods_end_slowly: true, ..World::default() };
    add_node(&mut world, "amber");
    add_pod_on(&mut world, "web", "amber", None);
    world.advance(100);
    world.delete(&key("amber"), &Default::default());
    let pod = key_of::<Pod>("default", "web");
    assert_eq!(world.look(&PodGc, &pod).again, Some(Duration::from_secs(40)));
    world.advance(40);
    world.look(&PodGc, &pod);
    assert!(world.find::<Pod>("default", "web").is_none());
}

#[test]
fn a_pod_may_be_there_before_its_node() {
    let mut world = World::default();
    add_node(&mut world, "amber");
    world.advance(100);
    let mut early = pod("early", "web");
    early.spec.as_mut().unwrap().node_name = Some("birch".into());
    early.metadata.creation_timestamp = Some(Time(world.now));
    world.add(early);
    let pod = key_of::<Pod>("default", "early");
    assert_eq!(world.look(&PodGc, &pod).again, Some(Duration::from_secs(40)));
    world.advance(40);
    world.look(&PodGc, &pod);
    assert!(world.find::<Pod>("default", "early").is_none());
}

#[test]
fn a_node_that_registers_again_keeps_its_pods() {
    let mut world = World::default();
    add_node(&mut world, "amber");
    add_pod_on(&mut world, "web", "amber", None);
    world.delete(&key("amber"), &Default::default());
    world.advance(30);
    add_node(&mut world, "amber");
    world.advance(30);
    assert!(world.plan(&PodGc, &key_of::<Pod>("default", "web")).is_nothing());
}

#[test]
fn every_node_gets_a_range_of_its_own_and_no_two_overlap() {
    let ipam = NodeIpam { pool: vec!["127.5.0.0/16".into()], node_prefix: 18 };
    let all = Key::new("nodes", "", "");
    let mut world = World::default();
    let range = |world: &World, name: &str| {
        world.get::<Node>("", name).spec.as_ref().and_then(|spec| spec.pod_cidr.clone())
    };
    add_node(&mut world, "taken");
    world.edit::<Node>("", "taken", |node| {
        node.spec = Some(NodeSpec { pod_cidr: Some("127.5.64.0/20".into()), ..Default::default() });
    });
    for name in ["amber", "birch", "cedar", "dune"] {
        add_node(&mut world, name);
    }
    world.look(&ipam, &all);
    assert_eq!(range(&world, "amber").as_deref(), Some("127.5.0.0/18"));
    assert_eq!(range(&world, "birch").as_deref(), Some("127.5.128.0/18"));
    assert_eq!(range(&world, "cedar").as_deref(), Some("127.5.192.0/18"));
    assert_eq!(range(&world, "dune"), None);
    assert!(world.events.iter().any(|(reason, _)| reason == "CIDRNotAvailable"));
    world.delete(&key("taken"), &Default::default());
    world.look(&ipam, &all);
    assert_eq!(range(&world, "dune").as_deref(), Some("127.5.64.0/18"));
}
