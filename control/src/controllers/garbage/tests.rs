use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet},
        core::v1::{ConfigMap, Node, Pod},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use naru_model::owner::{controller_reference, reference};

use super::GarbageCollector;
use crate::{
    client::Delete,
    controllers::{
        framework::{Controller, key_of},
        testing::{World, named, pod},
    },
    store::Key,
};

/// Looks at everything until nothing changes.
fn collect(world: &mut World) {
    let collector = GarbageCollector;
    for _ in 0..20 {
        let keys = world.cache.keys().cloned().collect::<Vec<_>>();
        let writes = keys.iter().map(|key| world.look(&collector, key).writes().count()).sum::<usize>();
        if writes == 0 {
            return;
        }
    }
    panic!("the collector does not come to rest");
}

/// A Deployment that owns a set that owns a pod.
fn family() -> World {
    let mut world = World::default();
    let deployment = world.add(Deployment { metadata: named("web"), ..Default::default() });
    let mut set = ReplicaSet { metadata: named("web-1"), ..Default::default() };
    set.metadata.owner_references = Some(vec![controller_reference(&*deployment)]);
    let set = world.add(set);
    let mut child = pod("web-1-a", "web");
    child.metadata.owner_references = Some(vec![controller_reference(&*set)]);
    world.add(child);
    world
}

fn delete(world: &mut World, key: &Key, policy: &str) {
    let options = Delete { propagation_policy: Some(policy.into()), ..Delete::default() };
    world.delete(key, &options);
}

fn names(world: &World) -> Vec<String> {
    world.cache.keys().map(|key| key.name().to_owned()).collect()
}

#[test]
fn dependents_of_living_owners_stay() {
    let mut world = family();
    collect(&mut world);
    assert_eq!(names(&world), ["web", "web-1-a", "web-1"]);
}

#[test]
fn in_the_background_dependents_follow_their_owner() {
    let mut world = family();
    delete(&mut world, &key_of::<Deployment>("default", "web"), "Background");
    assert_eq!(names(&world).len(), 2);
    collect(&mut world);
    assert_eq!(names(&world), Vec::<String>::new());
}

#[test]
fn in_the_foreground_the_owner_goes_last() {
    let mut world = family();
    world.pods_end_slowly = true;
    delete(&mut world, &key_of::<Deployment>("default", "web"), "Foreground");
    collect(&mut world);
    assert_eq!(names(&world).len(), 3, "all wait for the pod");
    assert!(world.get::<Pod>("default", "web-1-a").metadata.deletion_timestamp.is_some());
    world.finish_pods();
    collect(&mut world);
    assert_eq!(names(&world), Vec::<String>::new());
}

#[test]
fn a_dependent_that_does_not_block_is_not_waited_for() {
    let mut world = family();
    world.pods_end_slowly = true;
    world.edit::<Pod>("default", "web-1-a", |pod| {
        pod.metadata.owner_references.as_mut().unwrap()[0].block_owner_deletion = None;
    });
    delete(&mut world, &key_of::<ReplicaSet>("default", "web-1"), "Foreground");
    collect(&mut world);
    assert!(world.find::<ReplicaSet>("default", "web-1").is_none());
}

#[test]
fn orphaned_dependents_stay_without_their_owner() {
    let mut world = family();
    delete(&mut world, &key_of::<Deployment>("default", "web"), "Orphan");
    collect(&mut world);
    assert_eq!(names(&world), ["web-1-a", "web-1"]);
    assert_eq!(world.get::<ReplicaSet>("default", "web-1").metadata.owner_references, None);
}

#[test]
fn an_owner_of_the_same_name_is_not_the_owner() {
    let mut world = family();
    delete(&mut world, &key_of::<ReplicaSet>("default", "web-1"), "Orphan");
    world.cache.remove(&key_of::<ReplicaSet>("default", "web-1"), world.now);
    world.add(ReplicaSet { metadata: named("web-1"), ..Default::default() });
    collect(&mut world);
    assert!(world.find::<Pod>("default", "web-1-a").is_none());
}

#[test]
fn of_two_owners_the_one_that_lives_keeps_the_object() {
    let mut world = World::default();
    let [first, second] =
        ["first", "second"].map(|name| world.add(ConfigMap { metadata: named(name), ..Default::default() }));
    let mut child = ConfigMap { metadata: named("child"), ..Default::default() };
    child.metadata.owner_references = Some(vec![reference(&*first), reference(&*second)]);
    world.add(child);
    delete(&mut world, &key_of::<ConfigMap>("default", "first"), "Background");
    collect(&mut world);
    let owners = world.get::<ConfigMap>("default", "child").metadata.owner_references.clone().unwrap();
    assert_eq!(owners, [reference(&*second)]);
    delete(&mut world, &key_of::<ConfigMap>("default", "second"), "Background");
    collect(&mut world);
    assert_eq!(names(&world), Vec::<String>::new());
}

#[test]
fn namespaced_objects_may_belong_to_cluster_scoped_ones_but_not_across_namespaces() {
    let mut world = World::default();
    let node = world.add(Node {
        metadata: ObjectMeta { name: Some("amber".into()), ..Default::default() },
        ..Default::default()
    });
    let elsewhere = ObjectMeta { namespace: Some("elsewhere".into()), ..named("owner") };
    let owner = world.add(ConfigMap { metadata: elsewhere, ..Default::default() });
    for (name, owner) in [("of-node", reference(&*node)), ("of-elsewhere", reference(&*owner))] {
        let mut child = ConfigMap { metadata: named(name), ..Default::default() };
        child.metadata.owner_references = Some(vec![owner]);
        world.add(child);
    }
    collect(&mut world);
    assert!(world.find::<ConfigMap>("default", "of-node").is_some());
    assert!(world.find::<ConfigMap>("default", "of-elsewhere").is_none());
    assert!(world.events.iter().any(|(reason, _)| reason == "OwnerRefInvalidNamespace"));
}

#[test]
fn owners_of_kinds_that_are_not_served_are_given_the_benefit_of_the_doubt() {
    let mut world = World::default();
    let mut child = ConfigMap { metadata: named("child"), ..Default::default() };
    let mut owner = reference(&child);
    (owner.api_version, owner.kind, owner.uid) = ("example.com/v1".into(), "Shop".into(), "1".into());
    child.metadata.owner_references = Some(vec![owner]);
    world.add(child);
    collect(&mut world);
    assert_eq!(names(&world), ["child"]);
}

#[test]
fn two_that_own_each_other_do_not_wait_for_ever() {
    let mut world = World::default();
    let first = world.add(ConfigMap { metadata: named("first"), ..Default::default() });
    let mut second = ConfigMap { metadata: named("second"), ..Default::default() };
    second.metadata.owner_references = Some(vec![controller_reference(&*first)]);
    let second = world.add(second);
    world.edit::<ConfigMap>("default", "first", |first| {
        first.metadata.owner_references = Some(vec![controller_reference(&*second)]);
    });
    delete(&mut world, &key_of::<ConfigMap>("default", "first"), "Foreground");
    collect(&mut world);
    assert_eq!(names(&world), Vec::<String>::new());
}

/// The keys that a change makes the collector look at.
#[test]
fn a_status_that_changes_is_no_reason_to_look() {
    let mut world = family();
    let key = key_of::<Pod>("default", "web-1-a");
    let before = world.cache.entry(&key).unwrap().clone();
    world.set_ready("default", "web-1-a", true);
    let after = world.cache.entry(&key).unwrap().clone();
    let change =
        crate::controllers::framework::Change { entry: &after, previous: Some(&before), is_deleted: false };
    let mut looks = Vec::new();
    GarbageCollector.concerns(&change, &world.cache, &mut |key| looks.push(key));
    assert_eq!(looks, []);
}
