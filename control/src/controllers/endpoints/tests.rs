use k8s_openapi::{
    api::{
        core::v1::{ContainerPort, Endpoints, Pod, Service, ServicePort, ServiceSpec},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use naru_model::{Object, owner::controller_of};

use super::{EndpointSlices, LegacyEndpoints, slices::MAX_ENDPOINTS};
use crate::{
    controllers::{
        framework::{Action, Typed, key_of},
        testing::{World, labels, named, pod},
    },
    store::Key,
};

const SLICES: Typed<EndpointSlices> = Typed(EndpointSlices);

fn service(target_port: IntOrString) -> Service {
    let port = ServicePort { port: 80, target_port: Some(target_port), ..Default::default() };
    Service {
        metadata: named("web"),
        spec: Some(ServiceSpec {
            selector: Some(labels("app", "web")),
            ports: Some(vec![port]),
            cluster_ip: Some("127.4.0.9".into()),
            ..Default::default()
        }),
        status: None,
    }
}

fn key() -> Key {
    key_of::<Service>("default", "web")
}

/// A pod with an address and a port named `http`.
fn add_pod(world: &mut World, name: &str, address: &str, port: i32, is_ready: bool) {
    let mut pod = pod(name, "web");
    let spec = pod.spec.as_mut().unwrap();
    spec.node_name = Some("amber".into());
    let port = ContainerPort { container_port: port, name: Some("http".into()), ..Default::default() };
    spec.containers[0].ports = Some(vec![port]);
    pod.status.as_mut().unwrap().pod_ip = Some(address.into());
    world.add(pod);
    if is_ready {
        world.set_ready("default", name, true);
    }
}

fn world_with_pods(count: usize) -> World {
    let mut world = World::default();
    world.add(service(IntOrString::Int(8080)));
    for number in 0..count {
        add_pod(
            &mut world,
            &format!("p{number:04}"),
            &format!("127.5.{}.{}", number / 250, number % 250 + 1),
            8080,
            true,
        );
    }
    world.settle(&SLICES, &key());
    world
}

fn ready_addresses(world: &World) -> Vec<String> {
    let slices = world.list::<EndpointSlice>();
    let endpoints = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
    let ready = endpoints.filter(|endpoint| endpoint.conditions.as_ref().unwrap().ready == Some(true));
    let mut addresses = ready.map(|endpoint| endpoint.addresses[0].clone()).collect::<Vec<_>>();
    addresses.sort();
    addresses
}

#[test]
fn a_slice_names_pods_nodes_ports_and_its_service() {
    let mut world = World::default();
    let service = world.add(service(IntOrString::String("http".into())));
    add_pod(&mut world, "a", "127.5.0.1", 8080, true);
    add_pod(&mut world, "b", "127.5.0.2", 8080, false);
    world.settle(&SLICES, &key());
    let slice = world.list::<EndpointSlice>().remove(0);
    let labels = slice.metadata.labels.as_ref().unwrap();
    assert_eq!(labels["kubernetes.io/service-name"], "web");
    assert_eq!(labels["endpointslice.kubernetes.io/managed-by"], "endpointslice-controller.k8s.io");
    assert_eq!(controller_of(&slice.metadata).unwrap().uid, service.uid());
    let port = &slice.ports.as_ref().unwrap()[0];
    assert_eq!(
        (port.port, port.name.as_deref(), port.protocol.as_deref()),
        (Some(8080), Some(""), Some("TCP"))
    );
    let endpoints = slice.endpoints.as_ref().unwrap();
    let conditions = |index: usize| {
        let conditions = endpoints[index].conditions.as_ref().unwrap();
        (conditions.ready, conditions.serving, conditions.terminating)
    };
    assert_eq!(conditions(0), (Some(true), Some(true), Some(false)));
    assert_eq!(conditions(1), (Some(false), Some(false), Some(false)));
    assert_eq!(endpoints[0].node_name.as_deref(), Some("amber"));
    assert_eq!(endpoints[0].target_ref.as_ref().unwrap().name.as_deref(), Some("a"));
}

#[test]
fn a_terminating_pod_serves_but_is_not_ready() {
    let mut world = world_with_pods(1);
    world.pods_end_slowly = true;
    world.delete(&key_of::<Pod>("default", "p0000"), &Default::default());
    world.settle(&SLICES, &key());
    let slice = world.list::<EndpointSlice>().remove(0);
    let conditions = slice.endpoints.as_ref().unwrap()[0].conditions.clone().unwrap();
    assert_eq!(
        (conditions.ready, conditions.serving, conditions.terminating),
        (Some(false), Some(true), Some(true))
    );
}

#[test]
fn pods_that_are_not_ready_are_published_where_the_service_says_so() {
    let mut world = World::default();
    let mut service = service(IntOrString::Int(8080));
    service.spec.as_mut().unwrap().publish_not_ready_addresses = Some(true);
    world.add(service);
    add_pod(&mut world, "a", "127.5.0.1", 8080, false);
    world.settle(&SLICES, &key());
    assert_eq!(ready_addresses(&world), ["127.5.0.1"]);
}

#[test]
fn a_service_without_pods_has_one_empty_slice_and_without_selector_none() {
    let mut world = world_with_pods(0);
    let slices = world.list::<EndpointSlice>();
    assert_eq!((slices.len(), slices[0].endpoints.as_ref().map_or(0, |endpoints| endpoints.len())), (1, 0));
    let mut bare = service(IntOrString::Int(1));
    bare.metadata = named("bare");
    bare.spec.as_mut().unwrap().selector = None;
    world.add(bare);
    assert!(world.plan(&SLICES, &key_of::<Service>("default", "bare")).is_nothing());
}

#[test]
fn slices_hold_a_hundred_endpoints_and_together_all_of_them() {
    let world = world_with_pods(250);
    let mut sizes = world
        .list::<EndpointSlice>()
        .iter()
        .map(|slice| slice.endpoints.as_ref().unwrap().len())
        .collect::<Vec<_>>();
    sizes.sort_unstable();
    assert_eq!(sizes, [50, MAX_ENDPOINTS, MAX_ENDPOINTS]);
    assert_eq!(ready_addresses(&world).len(), 250);
}

#[test]
fn one_changed_pod_changes_one_slice() {
    let mut world = world_with_pods(250);
    world.set_ready("default", "p0007", false);
    let plan = world.look(&SLICES, &key());
    assert_eq!(plan.writes().count(), 1);
    assert_eq!(ready_addresses(&world).len(), 249);
    world.cache.remove(&key_of::<Pod>("default", "p0008"), world.now);
    add_pod(&mut world, "p9999", "127.5.9.9", 8080, true);
    let plan = world.look(&SLICES, &key());
    assert_eq!(plan.writes().count(), 1, "the newcomer takes the place of the one that left");
    assert!(matches!(plan.writes().next().unwrap().action, Action::Update(_)));
}

#[test]
fn slices_that_become_empty_go() {
    let mut world = world_with_pods(150);
    for number in 0..150 {
        world.cache.remove(&key_of::<Pod>("default", &format!("p{number:04}")), world.now);
    }
    world.settle(&SLICES, &key());
    assert_eq!(world.list::<EndpointSlice>().len(), 1);
    assert!(ready_addresses(&world).is_empty());
}

#[test]
fn pods_with_other_numbers_for_the_same_port_name_get_slices_of_their_own() {
    let mut world = World::default();
    world.add(service(IntOrString::String("http".into())));
    add_pod(&mut world, "a", "127.5.0.1", 8080, true);
    add_pod(&mut world, "b", "127.5.0.2", 9090, true);
    world.settle(&SLICES, &key());
    let mut ports = world
        .list::<EndpointSlice>()
        .iter()
        .map(|slice| slice.ports.as_ref().unwrap()[0].port.unwrap())
        .collect::<Vec<_>>();
    ports.sort_unstable();
    assert_eq!(ports, [8080, 9090]);
}

#[test]
fn endpoints_sort_addresses_into_ready_and_not_ready() {
    let mut world = World::default();
    world.add(service(IntOrString::Int(8080)));
    add_pod(&mut world, "a", "127.5.0.1", 8080, true);
    add_pod(&mut world, "b", "127.5.0.2", 8080, false);
    world.settle(&LegacyEndpoints, &key());
    let endpoints = world.get::<Endpoints>("default", "web");
    let subset = &endpoints.subsets.as_ref().unwrap()[0];
    assert_eq!(subset.addresses.as_ref().unwrap()[0].ip, "127.5.0.1");
    assert_eq!(subset.not_ready_addresses.as_ref().unwrap()[0].ip, "127.5.0.2");
    assert_eq!(subset.ports.as_ref().unwrap()[0].port, 8080);
}

#[test]
fn endpoints_go_with_their_service_unless_a_user_made_them() {
    let mut world = World::default();
    world.add(service(IntOrString::Int(8080)));
    world.settle(&LegacyEndpoints, &key());
    assert!(world.find::<Endpoints>("default", "web").is_some());
    world.delete(&key(), &Default::default());
    world.settle(&LegacyEndpoints, &key());
    assert!(world.find::<Endpoints>("default", "web").is_none());
    world.add(Endpoints { metadata: named("external"), subsets: None });
    let key = key_of::<Service>("default", "external");
    assert!(world.plan(&LegacyEndpoints, &key).is_nothing());
}
