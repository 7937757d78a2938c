use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use futures::future::BoxFuture;
use k8s_openapi::{
    api::core::v1::{ConfigMap, Namespace, NamespaceSpec, Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
    kube_aggregator::pkg::apis::apiregistration::v1::APIService,
};
use naru_model::condition;
use serde_json::json;

use super::{Elsewhere, Found, Namespaces, OtherServers};
use crate::{
    controllers::{
        framework::{Typed, key_of},
        testing::{World, named, pod},
    },
    store::Key,
};

fn controller() -> Typed<Namespaces> {
    Typed(Namespaces { elsewhere: None })
}

/// A server of carts that has been asked so often, and what it will find.
#[derive(Default)]
struct Shop {
    asked: Mutex<Vec<Vec<String>>>,
    found: Mutex<Found>,
}

impl OtherServers for Shop {
    fn empty<'a>(&'a self, namespace: &'a str, versions: &'a [String]) -> BoxFuture<'a, Found> {
        assert_eq!(namespace, "default");
        self.asked.lock().unwrap().push(versions.to_vec());
        Box::pin(async { self.found.lock().unwrap().clone() })
    }
}

/// The controller beside a shop, at the time of a new world.
fn controller_beside(shop: &Arc<Shop>) -> Typed<Namespaces> {
    let elsewhere = Elsewhere::new(shop.clone(), || World::default().now);
    Typed(Namespaces { elsewhere: Some(elsewhere) })
}

/// An APIService of the shop, as the aggregator sees it.
fn api_service(available: &str) -> APIService {
    let service = json!({
        "metadata": { "name": "v1.shop.example.com" },
        "spec": {
            "group": "shop.example.com", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1,
            "service": { "name": "shop", "namespace": "shop" },
        },
        "status": { "conditions": [{ "type": "Available", "status": available }] },
    });
    serde_json::from_value(service).unwrap()
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

/// The message of a condition that is true, and why.
fn complaint(world: &World, kind: &str) -> (String, String) {
    let namespace = world.get::<Namespace>("", "default");
    let conditions = namespace.status.as_ref().and_then(|status| status.conditions.as_ref());
    let condition = condition::find(conditions, kind).expect("it is told of");
    assert_eq!(condition.status, "True", "{condition:?}");
    (condition.reason.clone().unwrap(), condition.message.clone().unwrap())
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

#[test]
fn resources_that_remain_are_named_with_their_groups() {
    let mut world = world();
    world.settle(&controller(), &key());
    let expected =
        "Some resources are remaining: configmaps. has 1 resource instances, pods. has 1 resource instances";
    assert_eq!(
        complaint(&world, "NamespaceContentRemaining"),
        ("SomeResourcesRemain".into(), expected.into())
    );
}

#[test]
fn what_other_servers_keep_holds_the_namespace() {
    let shop = Arc::new(Shop::default());
    let controller = controller_beside(&shop);
    let mut world = world();
    world.add(api_service("True"));
    *shop.found.lock().unwrap() = Found {
        undiscovered: Default::default(),
        failures: vec!["carts are locked".into()],
        remaining: BTreeMap::from([("carts.shop.example.com".into(), 2)]),
        finalizers: BTreeMap::from([("shop.example.com/checkout".into(), 2)]),
    };
    // While there are pods, nobody else is asked.
    world.settle(&controller, &key());
    assert!(shop.asked.lock().unwrap().is_empty());
    world.finish_pods();
    world.settle(&controller, &key());
    assert_eq!(*shop.asked.lock().unwrap(), [["shop.example.com/v1".to_owned()]]);
    let told = |world: &World, kind| complaint(world, kind).1;
    assert_eq!(
        complaint(&world, "NamespaceDeletionContentFailure"),
        (
            "ContentDeletionFailed".into(),
            "Failed to delete all resource types, 1 remaining: carts are locked".into()
        )
    );
    assert_eq!(
        told(&world, "NamespaceContentRemaining"),
        "Some resources are remaining: carts.shop.example.com has 2 resource instances"
    );
    assert_eq!(
        told(&world, "NamespaceFinalizersRemaining"),
        "Some content in the namespace has finalizers remaining: shop.example.com/checkout in 2 resource instances"
    );
    // It is asked again when that is old, and not before.
    assert!(world.plan(&controller, &key()).again.is_some_and(|again| !again.is_zero()));
    *shop.found.lock().unwrap() = Found::default();
    world.settle(&controller, &key());
    assert!(world.find::<Namespace>("", "default").is_some());
    world.advance(6);
    let again = world.look(&controller, &key()).again;
    assert_eq!((again, shop.asked.lock().unwrap().len()), (Some(std::time::Duration::ZERO), 2));
    world.now = World::default().now;
    world.settle(&controller, &key());
    assert!(world.find::<Namespace>("", "default").is_none());
}

#[test]
fn a_server_that_does_not_tell_what_it_serves_holds_every_namespace() {
    let shop = Arc::new(Shop::default());
    let controller = controller_beside(&shop);
    let mut world = world();
    world.finish_pods();
    world.add(api_service("False"));
    world.settle(&controller, &key());
    world.finish_pods();
    world.settle(&controller, &key());
    let version = "shop.example.com/v1";
    assert_eq!(
        complaint(&world, "NamespaceDeletionDiscoveryFailure"),
        (
            "DiscoveryFailed".into(),
            format!(
                "Discovery failed for some groups, 1 failing: unable to retrieve the complete list of server APIs: \
                 {version}: stale GroupVersion discovery: {version}"
            )
        )
    );
    assert!(world.find::<ConfigMap>("default", "prices").is_none());
    assert_eq!(*shop.asked.lock().unwrap(), [Vec::<String>::new()]);
    // When it is there again, it is asked at once.
    world.report::<APIService>("", "v1.shop.example.com", |service| {
        service.status = api_service("True").status;
    });
    world.settle(&controller, &key());
    assert!(world.find::<Namespace>("", "default").is_none());
}
