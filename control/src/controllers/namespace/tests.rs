use k8s_openapi::{
    api::core::v1::{ConfigMap, Namespace, NamespaceSpec, Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use naru_model::condition;

use super::Namespaces;
use crate::{
    controllers::{
        framework::{Typed, key_of},
        testing::{World, named, pod},
    },
    store::Key,
};

fn controller() -> Typed<Namespaces> {
    Typed(Namespaces)
}

fn key() -> Key {
    key_of::<Namespace>("", "default")
}

/// The namespace `default` with a pod and a map, being deleted.
fn world() -> World {
    let mut world = World { pods_end_slowly: true, ..World::default() };
    world.add(Namespace {
        metadata: ObjectMeta { name: Some("default".into()), ..Default::default() },
        spec: Some(NamespaceSpec { finalizers: Some(vec!["kubernetes".into()]) }),
        status: Some(Default::default()),
    });
    world.add(pod("web", "web"));
    world.add(ConfigMap { metadata: named("prices"), ..Default::default() });
    world.delete(&key(), &Default::default());
    world
}

fn reason(world: &World, kind: &str) -> Option<String> {
    let namespace = world.get::<Namespace>("", "default");
    condition::find(namespace.status.as_ref()?.conditions.as_ref(), kind)?.reason.clone()
}

#[test]
fn pods_go_first_and_the_rest_when_they_are_gone() {
    let mut world = world();
    world.settle(&controller(), &key());
    assert!(world.get::<Pod>("default", "web").metadata.deletion_timestamp.is_some());
    assert!(world.find::<ConfigMap>("default", "prices").is_some());
    assert_eq!(reason(&world, "NamespaceContentRemaining").as_deref(), Some("SomeResourcesRemain"));
    world.finish_pods();
    world.settle(&controller(), &key());
    assert!(world.find::<ConfigMap>("default", "prices").is_none());
    assert!(world.find::<Namespace>("", "default").is_none());
}

#[test]
fn content_with_finalizers_is_named_and_waited_for() {
    let mut world = world();
    world.edit::<ConfigMap>("default", "prices", |map| {
        map.metadata.finalizers = Some(vec!["shop.example/audit".into()]);
    });
    world.settle(&controller(), &key());
    world.finish_pods();
    world.settle(&controller(), &key());
    let namespace = world.get::<Namespace>("", "default");
    let conditions = namespace.status.as_ref().unwrap().conditions.as_ref();
    let held = condition::find(conditions, "NamespaceFinalizersRemaining").unwrap();
    let message =
        "Some content in the namespace has finalizers remaining: shop.example/audit in 1 resource instances";
    assert_eq!((held.status.as_str(), held.message.as_deref()), ("True", Some(message)));
}

#[test]
fn a_namespace_that_is_not_being_deleted_is_left_alone() {
    let mut world = World::default();
    world.add(Namespace {
        metadata: ObjectMeta { name: Some("default".into()), ..Default::default() },
        ..Default::default()
    });
    world.add(pod("web", "web"));
    assert!(world.plan(&controller(), &key()).is_nothing());
}
