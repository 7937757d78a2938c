use std::sync::Arc;

use k8s_openapi::api::{
    apps::v1::{ReplicaSet, ReplicaSetSpec},
    core::v1::{ContainerStatus, Pod},
};
use naru_model::{Object, owner::controller_of};

use super::{ReplicaSets, ranking};
use crate::{
    controllers::{
        framework::{Typed, key_of},
        testing::{World, named, pod, selector, template},
    },
    store::Key,
};

const CONTROLLER: Typed<ReplicaSets> = Typed(ReplicaSets);

fn set(replicas: i32) -> ReplicaSet {
    ReplicaSet {
        metadata: named("web"),
        spec: ReplicaSetSpec {
            replicas: Some(replicas),
            selector: selector("web"),
            template: Some(template("web", "hello")),
            min_ready_seconds: None,
        },
        status: None,
    }
}

fn key() -> Key {
    key_of::<ReplicaSet>("default", "web")
}

fn status(world: &World) -> (i32, i32, i32, i32) {
    let status = world.get::<ReplicaSet>("default", "web").status.clone().unwrap_or_default();
    let count = |count: Option<i32>| count.unwrap_or(0);
    (
        status.replicas,
        count(status.ready_replicas),
        count(status.available_replicas),
        count(status.terminating_replicas),
    )
}

#[test]
fn a_new_set_gets_its_pods_from_the_template_and_owns_them() {
    let mut world = World::default();
    let set = world.add(set(3));
    world.settle(&CONTROLLER, &key());
    let pods = world.list::<Pod>();
    assert_eq!(pods.len(), 3);
    for pod in pods {
        assert!(pod.name().starts_with("web-"));
        let owner = controller_of(&pod.metadata).unwrap();
        assert_eq!((owner.uid.as_str(), owner.block_owner_deletion), (set.uid(), Some(true)));
    }
    assert_eq!(status(&world), (3, 0, 0, 0));
    assert!(world.events.iter().all(|(reason, message)| {
        reason == "SuccessfulCreate" && message.starts_with("Created pod: web-")
    }));
}

#[test]
fn ended_and_ending_pods_are_replaced_at_once() {
    let mut world = World { pods_end_slowly: true, ..World::default() };
    world.add(set(3));
    world.settle(&CONTROLLER, &key());
    let pods = world.list::<Pod>();
    world.report::<Pod>("default", pods[0].name(), |pod| {
        pod.status.get_or_insert_default().phase = Some("Failed".into());
    });
    world.delete(&key_of::<Pod>("default", pods[1].name()), &Default::default());
    world.settle(&CONTROLLER, &key());
    assert_eq!(world.list::<Pod>().len(), 5);
    assert_eq!(status(&world), (3, 0, 0, 1));
}

#[test]
fn matching_pods_without_a_controller_are_adopted_instead_of_made() {
    let mut world = World::default();
    world.add(pod("stray", "web"));
    world.add(pod("other", "shop"));
    let set = world.add(set(2));
    world.settle(&CONTROLLER, &key());
    let stray = world.get::<Pod>("default", "stray");
    assert_eq!(controller_of(&stray.metadata).unwrap().uid, set.uid());
    assert!(controller_of(&world.get::<Pod>("default", "other").metadata).is_none());
    assert_eq!(world.list::<Pod>().len(), 3);
}

#[test]
fn a_pod_whose_label_changes_is_released_and_replaced() {
    let mut world = World::default();
    world.add(set(1));
    world.settle(&CONTROLLER, &key());
    let name = world.list::<Pod>()[0].name().to_owned();
    world.edit::<Pod>("default", &name, |pod| pod.metadata.labels = None);
    world.settle(&CONTROLLER, &key());
    assert!(controller_of(&world.get::<Pod>("default", &name).metadata).is_none());
    assert_eq!(world.list::<Pod>().len(), 2);
}

#[test]
fn a_set_that_is_being_deleted_makes_and_adopts_nothing() {
    let mut world = World::default();
    let mut set = set(2);
    set.metadata.finalizers = Some(vec!["foregroundDeletion".into()]);
    world.add(set);
    world.add(pod("stray", "web"));
    world.delete(&key(), &Default::default());
    world.settle(&CONTROLLER, &key());
    assert_eq!(world.list::<Pod>().len(), 1);
    assert!(controller_of(&world.get::<Pod>("default", "stray").metadata).is_none());
}

#[test]
fn failing_creates_show_as_a_condition_until_they_succeed() {
    let mut world = World::default();
    world.add(set(2));
    world.create_failures.push_back("pods \"web-\" is forbidden: exceeded quota".into());
    world.look(&CONTROLLER, &key());
    assert!(world.events.iter().any(|(reason, message)| {
        reason == "FailedCreate" && message == "Error creating: pods \"web-\" is forbidden: exceeded quota"
    }));
    world.create_failures.push_back("pods \"web-\" is forbidden: exceeded quota".into());
    world.look(&CONTROLLER, &key());
    let conditions = world.get::<ReplicaSet>("default", "web").status.clone().unwrap().conditions.unwrap();
    assert_eq!(conditions[0].type_.as_deref(), Some("ReplicaFailure"));
    assert_eq!(conditions[0].reason.as_deref(), Some("FailedCreate"));
    world.settle(&CONTROLLER, &key());
    let set = world.get::<ReplicaSet>("default", "web");
    assert_eq!(set.status.clone().unwrap().conditions, None);
    assert_eq!(world.list::<Pod>().len(), 2);
}

#[test]
fn pods_are_available_only_after_min_ready_seconds_and_somebody_looks_then() {
    let mut world = World::default();
    let mut set = set(1);
    set.spec.min_ready_seconds = Some(10);
    world.add(set);
    world.settle(&CONTROLLER, &key());
    world.make_all_ready();
    world.settle(&CONTROLLER, &key());
    assert_eq!(status(&world), (1, 1, 0, 0));
    world.advance(4);
    assert_eq!(world.look(&CONTROLLER, &key()).again.unwrap().as_secs(), 6);
    world.advance(6);
    world.settle(&CONTROLLER, &key());
    assert_eq!(status(&world), (1, 1, 1, 0));
}

#[test]
fn an_observed_generation_follows_the_spec() {
    let mut world = World::default();
    world.add(set(0));
    world.settle(&CONTROLLER, &key());
    world.edit::<ReplicaSet>("default", "web", |set| set.spec.replicas = Some(1));
    world.settle(&CONTROLLER, &key());
    let set = world.get::<ReplicaSet>("default", "web");
    assert_eq!(set.status.as_ref().unwrap().observed_generation, Some(2));
}

/// Two pods that differ in one thing: the first is missed less.
fn check_order(world: &World, less: Pod, more: Pod) {
    let pods = [Arc::new(more), Arc::new(less.clone())];
    let victims = ranking::least_useful(&pods, &pods, 1, world.now);
    assert_eq!(victims[0].name(), less.name());
    let pods = [pods[1].clone(), pods[0].clone()];
    let victims = ranking::least_useful(&pods, &pods, 1, world.now);
    assert_eq!(victims[0].name(), less.name());
}

#[test]
fn a_shrinking_set_loses_its_least_useful_pods_first() {
    let world = &mut World::default();
    let make = |world: &mut World, name: &str, ready_for: Option<i64>, change: &dyn Fn(&mut Pod)| {
        let mut pod = pod(name, "web");
        pod.spec.as_mut().unwrap().node_name = Some(format!("node-of-{name}"));
        world.add(pod);
        if let Some(seconds) = ready_for {
            world.advance(-seconds);
            world.set_ready("default", name, true);
            world.advance(seconds);
        }
        let mut pod = (*world.get::<Pod>("default", name)).clone();
        change(&mut pod);
        pod
    };
    let same = &|_: &mut Pod| ();
    let a = make(world, "unassigned", Some(60), &|pod| pod.spec.as_mut().unwrap().node_name = None);
    let b = make(world, "pending", None, same);
    check_order(world, a, b.clone());
    let unready = make(world, "unready", Some(60), &|pod| {
        pod.status.as_mut().unwrap().conditions.as_mut().unwrap()[0].status = "False".into();
    });
    check_order(world, b, unready.clone());
    let ready = make(world, "ready", Some(60), same);
    check_order(world, unready, ready.clone());
    let dear = make(world, "dear", Some(60), &|pod| {
        let cost = ("controller.kubernetes.io/pod-deletion-cost".to_owned(), "10".to_owned());
        pod.metadata.annotations = Some([cost].into());
    });
    check_order(world, ready.clone(), dear);
    let young = make(world, "young", Some(1), same);
    check_order(world, young, ready.clone());
    let restarting = make(world, "restarting", Some(60), &|pod| {
        let status = ContainerStatus { restart_count: 3, ..Default::default() };
        pod.status.as_mut().unwrap().container_statuses = Some(vec![status]);
    });
    check_order(world, restarting, ready.clone());
    let old = make(world, "old", Some(60), &|pod| {
        let created = pod.metadata.creation_timestamp.as_mut().unwrap();
        created.0 -= k8s_openapi::jiff::SignedDuration::from_hours(5);
    });
    check_order(world, ready, old);
}

#[test]
fn pods_that_share_a_node_go_before_those_that_are_alone() {
    let mut world = World::default();
    let pods = ["a", "b", "c"].map(|name| {
        let mut pod = pod(name, "web");
        pod.spec.as_mut().unwrap().node_name = Some(if name == "a" { "birch" } else { "amber" }.into());
        world.add(pod);
        world.set_ready("default", name, true);
        world.get::<Pod>("default", name)
    });
    let victims = ranking::least_useful(&pods, &pods, 1, world.now);
    assert_ne!(victims[0].name(), "a");
}
