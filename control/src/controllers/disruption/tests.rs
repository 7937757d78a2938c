use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
        core::v1::{Pod, ReplicationController},
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus},
    },
    apimachinery::pkg::apis::meta::v1::{OwnerReference, Time},
};
use naru_model::{Object, condition, owner::controller_reference};
use serde_json::{Value, json};

use super::{Budgets, StaleTargets};
use crate::{
    ApiClient,
    controllers::{
        framework::{Change, Controller, Typed, key_of},
        testing::{World, labels, pod},
    },
    store::Key,
};

fn controller() -> Typed<Budgets> {
    Typed(Budgets { registry: ApiClient::in_memory().registry().clone() })
}

fn key() -> Key {
    key_of::<PodDisruptionBudget>("default", "web")
}

fn from<T: Object>(value: Value) -> T {
    serde_json::from_value(value).expect("an object")
}

/// A budget for `app: web` with one bound, such as `"minAvailable": "50%"`.
fn budget(bound: &str, value: Value) -> PodDisruptionBudget {
    from(json!({
        "metadata": { "name": "web", "namespace": "default" },
        "spec": { bound: value, "selector": { "matchLabels": { "app": "web" } } },
    }))
}

fn workload<T: Object>(
    world: &mut World,
    name: &str,
    replicas: i32,
    owner: Option<OwnerReference>,
) -> OwnerReference {
    let labels = labels("app", "web");
    let spec = json!({
        "replicas": replicas,
        "selector": if T::KIND == "ReplicationController" { json!(labels) } else { json!({ "matchLabels": labels }) },
        "template": { "metadata": { "labels": labels }, "spec": { "containers": [] } },
    });
    let metadata = json!({ "name": name, "namespace": "default", "ownerReferences": owner.as_slice() });
    controller_reference(&*world.add::<T>(from(json!({ "metadata": metadata, "spec": spec }))))
}

/// The ReplicaSet of a new Deployment.
fn set_of_deployment(world: &mut World, replicas: i32) -> OwnerReference {
    let deployment = workload::<Deployment>(world, "web", replicas, None);
    workload::<ReplicaSet>(world, "web-1", replicas, Some(deployment))
}

fn ready_pods(world: &mut World, owner: Option<&OwnerReference>, names: &[&str]) {
    for name in names {
        let mut pod = pod(name, "web");
        pod.metadata.owner_references = owner.map(|owner| vec![owner.clone()]);
        world.add(pod);
        world.set_ready("default", name, true);
    }
}

fn status(world: &World) -> PodDisruptionBudgetStatus {
    world.get::<PodDisruptionBudget>("default", "web").status.clone().unwrap_or_default()
}

/// Expected, desired, healthy and allowed.
fn counts(world: &World) -> [i32; 4] {
    let status = status(world);
    [status.expected_pods, status.desired_healthy, status.current_healthy, status.disruptions_allowed]
        .map(|count| count.expect("every count is written"))
}

/// Status, reason and message of the condition.
fn condition_of(world: &World) -> [String; 3] {
    let status = status(world);
    let found = condition::find(status.conditions.as_ref(), "DisruptionAllowed").expect("the condition");
    [found.status.clone(), found.reason.clone(), found.message.clone()]
}

/// What a budget says of `healthy` ready pods of a Deployment with `replicas`.
fn check(bound: &str, value: Value, replicas: i32, healthy: usize, expected: [i32; 4]) {
    let mut world = World::default();
    world.add(budget(bound, value.clone()));
    let owner = set_of_deployment(&mut world, replicas);
    let names: Vec<String> = (0..healthy).map(|index| format!("web-{index:02}")).collect();
    ready_pods(&mut world, Some(&owner), &names.iter().map(String::as_str).collect::<Vec<_>>());
    world.settle(&controller(), &key());
    assert_eq!(counts(&world), expected, "{bound}: {value} of {healthy}/{replicas}");
    let reason =
        if expected[3] > 0 { ["True", "SufficientPods", ""] } else { ["False", "InsufficientPods", ""] };
    assert_eq!(condition_of(&world), reason);
    assert_eq!(status(&world).observed_generation, Some(1));
}

#[test]
fn a_budget_allows_what_its_bound_leaves() {
    check("minAvailable", json!(2), 3, 3, [3, 2, 3, 1]);
    check("minAvailable", json!(3), 3, 3, [3, 3, 3, 0]);
    check("minAvailable", json!(0), 3, 3, [3, 0, 3, 3]);
    // A plain number is about the pods that are there, not about those that should be.
    check("minAvailable", json!(1), 5, 2, [2, 1, 2, 1]);
    check("maxUnavailable", json!(1), 3, 3, [3, 2, 3, 1]);
    check("maxUnavailable", json!(1), 3, 2, [3, 2, 2, 0]);
    check("maxUnavailable", json!(9), 3, 3, [3, 0, 3, 3]);
    // Percentages are of the scale, rounded up, whichever bound it is.
    check("minAvailable", json!("50%"), 5, 5, [5, 3, 5, 2]);
    check("maxUnavailable", json!("30%"), 5, 5, [5, 3, 5, 2]);
    check("minAvailable", json!("100%"), 3, 3, [3, 3, 3, 0]);
}

#[test]
fn unready_and_deleted_pods_are_not_healthy() {
    let mut world = World { pods_end_slowly: true, ..World::default() };
    world.add(budget("minAvailable", json!(1)));
    let owner = set_of_deployment(&mut world, 3);
    ready_pods(&mut world, Some(&owner), &["one", "two", "three"]);
    world.set_ready("default", "two", false);
    world.delete(&key_of::<Pod>("default", "three"), &Default::default());
    world.settle(&controller(), &key());
    assert_eq!(counts(&world), [3, 1, 1, 0]);
    world.finish_pods();
    world.set_ready("default", "two", true);
    world.settle(&controller(), &key());
    assert_eq!(counts(&world), [2, 1, 2, 1]);
    assert_eq!(condition_of(&world), ["True", "SufficientPods", ""]);
}

#[test]
fn no_pods_allow_nothing_and_are_told_of_once() {
    let mut world = World::default();
    world.add(budget("minAvailable", json!(0)));
    world.settle(&controller(), &key());
    assert_eq!(counts(&world), [0, 0, 0, 0]);
    assert_eq!(world.events, [("NoPods".into(), "No matching pods found".into())]);
}

#[test]
fn an_empty_selector_means_the_namespace_and_expressions_count() {
    let mut world = World::default();
    let mut all = budget("minAvailable", json!(1));
    all.spec.get_or_insert_default().selector = Some(Default::default());
    world.add(all);
    ready_pods(&mut world, None, &["one", "two"]);
    let mut elsewhere = pod("three", "web");
    elsewhere.metadata.namespace = Some("other".into());
    world.add(elsewhere);
    world.settle(&controller(), &key());
    assert_eq!(counts(&world), [2, 1, 2, 1]);
    let expression = json!([{ "key": "tier", "operator": "DoesNotExist" }]);
    world.edit::<PodDisruptionBudget>("default", "web", |budget| {
        let selector = json!({ "matchLabels": { "app": "web" }, "matchExpressions": expression });
        budget.spec.get_or_insert_default().selector = Some(serde_json::from_value(selector).expect("one"));
    });
    world.edit::<Pod>("default", "two", |pod| {
        pod.metadata.labels.get_or_insert_default().insert("tier".into(), "front".into());
    });
    world.settle(&controller(), &key());
    assert_eq!(counts(&world), [1, 1, 1, 0]);
    assert_eq!(status(&world).observed_generation, Some(2));
}

#[test]
fn every_controller_of_the_pods_counts_once() {
    let mut world = World::default();
    world.add(budget("maxUnavailable", json!(1)));
    // A rollout: two sets, one Deployment that speaks for both.
    let deployment = workload::<Deployment>(&mut world, "web", 4, None);
    let old = workload::<ReplicaSet>(&mut world, "web-1", 3, Some(deployment.clone()));
    let new = workload::<ReplicaSet>(&mut world, "web-2", 2, Some(deployment));
    let lone = workload::<ReplicaSet>(&mut world, "lone", 10, None);
    let stateful = workload::<StatefulSet>(&mut world, "db", 20, None);
    let replication = workload::<ReplicationController>(&mut world, "old", 40, None);
    for (index, owner) in [old, new, lone, stateful, replication].iter().enumerate() {
        ready_pods(&mut world, Some(owner), &[&format!("a-{index}"), &format!("b-{index}")]);
    }
    world.settle(&controller(), &key());
    assert_eq!(counts(&world), [74, 73, 10, 0]);
}

#[test]
fn a_set_whose_deployment_is_gone_speaks_for_itself() {
    let mut world = World::default();
    world.add(budget("maxUnavailable", json!(1)));
    let owner = set_of_deployment(&mut world, 2);
    world.delete(&key_of::<Deployment>("default", "web"), &Default::default());
    ready_pods(&mut world, Some(&owner), &["one", "two"]);
    world.settle(&controller(), &key());
    assert_eq!(counts(&world), [2, 1, 2, 1]);
}

#[test]
fn pods_without_a_controller_are_left_out_of_the_scale_and_told_of() {
    let mut world = World::default();
    world.add(budget("maxUnavailable", json!(1)));
    ready_pods(&mut world, None, &["one", "two"]);
    world.settle(&controller(), &key());
    assert_eq!(counts(&world), [0, 0, 2, 0]);
    assert_eq!(condition_of(&world), ["False", "InsufficientPods", ""]);
    let [(reason, message)] = &world.events[..] else { panic!("{:?}", world.events) };
    assert_eq!(reason, "UnmanagedPods");
    assert!(message.contains("(selector: app=web)") && message.contains(".spec.minAvailable"), "{message}");
    // With a plain number they count.
    world.edit::<PodDisruptionBudget>("default", "web", |web| {
        web.spec = budget("minAvailable", json!(1)).spec;
    });
    world.settle(&controller(), &key());
    assert_eq!(counts(&world), [2, 1, 2, 1]);
}

#[test]
fn what_cannot_be_counted_allows_nothing_and_says_why() {
    let mut world = World::default();
    world.add(budget("minAvailable", json!("50%")));
    let owner = set_of_deployment(&mut world, 2);
    ready_pods(&mut world, Some(&owner), &["one", "two"]);
    world.settle(&controller(), &key());
    assert_eq!(counts(&world), [2, 1, 2, 1]);

    // One more pod, of a controller that has no scale.
    let daemons = workload::<DaemonSet>(&mut world, "all", 1, None);
    ready_pods(&mut world, Some(&daemons), &["web-daemon"]);
    world.events.clear();
    world.settle(&controller(), &key());
    let problem = "daemonsets.apps does not implement the scale subresource";
    assert_eq!(condition_of(&world), ["False", "SyncFailed", problem]);
    assert_eq!(counts(&world), [2, 1, 2, 0]);
    let message = format!("Failed to calculate the number of expected pods: {problem}");
    assert_eq!(world.events, [("CalculateExpectedPodCountFailed".into(), message)]);

    let other =
        |kind: &str, uid: &str| OwnerReference { kind: kind.into(), uid: uid.into(), ..daemons.clone() };
    for (owner, problem) in [
        (other("Rollout", "x"), "no matches for kind \"Rollout\" in version \"apps/v1\""),
        (other("StatefulSet", "gone"), "found no controllers for pod \"web-daemon\""),
    ] {
        world.edit::<Pod>("default", "web-daemon", |pod| pod.metadata.owner_references = Some(vec![owner]));
        world.settle(&controller(), &key());
        assert_eq!(condition_of(&world), ["False", "SyncFailed", problem]);
    }

    // It comes back by itself, and what was said is taken back.
    world.delete(&key_of::<Pod>("default", "web-daemon"), &Default::default());
    world.settle(&controller(), &key());
    assert_eq!(counts(&world), [2, 1, 2, 1]);
    assert_eq!(condition_of(&world), ["True", "SufficientPods", ""]);
}

#[test]
fn an_evicted_pod_counts_as_lost_until_it_goes_or_two_minutes_have_passed() {
    let mut world = World::default();
    world.add(budget("minAvailable", json!(1)));
    let owner = set_of_deployment(&mut world, 3);
    ready_pods(&mut world, Some(&owner), &["one", "two", "three"]);
    let now = world.now;
    world.report::<PodDisruptionBudget>("default", "web", |budget| {
        let evicted = ["one", "two", "long-gone"].map(|name| (name.to_owned(), Time(now)));
        budget.status.get_or_insert_default().disrupted_pods = Some(BTreeMap::from(evicted));
    });
    world.settle(&controller(), &key());
    assert_eq!(counts(&world), [3, 1, 1, 0]);
    let waiting =
        |world: &World| status(world).disrupted_pods.unwrap_or_default().into_keys().collect::<Vec<_>>();
    assert_eq!(waiting(&world), ["one", "two"]);

    // One goes, as it should.
    world.advance(20);
    world.delete(&key_of::<Pod>("default", "one"), &Default::default());
    world.settle(&controller(), &key());
    assert_eq!((waiting(&world), counts(&world)), (vec!["two".to_owned()], [2, 1, 1, 0]));
    assert_eq!(world.plan(&controller(), &key()).again, Some(Duration::from_secs(100)));

    // Two stays for too long.
    world.advance(100);
    world.events.clear();
    world.settle(&controller(), &key());
    assert_eq!((waiting(&world), counts(&world)), (Vec::new(), [2, 1, 2, 1]));
    let told = "Pod was expected by PDB default/web to be deleted but it wasn't";
    assert_eq!(world.events, [("NotDeleted".into(), told.into())]);
    assert_eq!(world.plan(&controller(), &key()).again, None);
}

#[test]
fn a_budget_is_looked_at_only_for_changes_of_its_own_pods_that_count() {
    let mut world = World::default();
    world.add(budget("minAvailable", json!(1)));
    let looked = |world: &World, before: &World, is_deleted: bool| {
        let pod = key_of::<Pod>("default", "one");
        let entry = world.cache.entry(&pod).or_else(|| before.cache.entry(&pod)).expect("the pod");
        let change = Change { entry, previous: before.cache.entry(&pod), is_deleted };
        let mut keys = Vec::new();
        controller().concerns(&change, &world.cache, &mut |key| keys.push(key));
        keys
    };
    let copy = |world: &World| {
        let mut copy = World::default();
        for key in world.cache.keys() {
            copy.cache.put(world.cache.entry(key).expect("it is there").clone(), world.now);
        }
        copy
    };
    let mut step = |change: &dyn Fn(&mut World)| {
        let before = copy(&world);
        change(&mut world);
        let is_deleted = world.find::<Pod>("default", "one").is_none();
        looked(&world, &before, is_deleted)
    };
    let none: Vec<Key> = Vec::new();
    assert_eq!(step(&|world| ready_pods(world, None, &["one"])), [key()], "a new pod");
    assert_eq!(step(&|world| world.set_ready("default", "one", false)), [key()], "it is ready no longer");
    let touched = |world: &mut World| {
        world.report::<Pod>("default", "one", |pod| {
            pod.status.get_or_insert_default().message = Some("still pulling".into());
        });
    };
    assert_eq!(step(&touched), none, "a status that says nothing of health");
    let relabel = |app: &'static str| {
        move |world: &mut World| {
            world.edit::<Pod>("default", "one", |pod| pod.metadata.labels = Some(labels("app", app)));
        }
    };
    assert_eq!(step(&relabel("other")), [key()], "it was one of ours");
    assert_eq!(step(&|world| world.set_ready("default", "one", true)), none, "it is nobody's");
    assert_eq!(step(&relabel("web")), [key()], "it is ours again");
    let delete = |world: &mut World| world.delete(&key_of::<Pod>("default", "one"), &Default::default());
    assert_eq!(step(&delete), [key()], "it is gone");
}

#[test]
fn a_pod_that_was_to_go_and_stayed_is_no_target_any_longer() {
    let mut world = World::default();
    ready_pods(&mut world, None, &["one", "two"]);
    let now = world.now;
    for (name, reason) in [("one", "EvictionByEvictionAPI"), ("two", "TerminationByKubelet")] {
        world.report::<Pod>("default", name, |pod| {
            let conditions = &mut pod.status.get_or_insert_default().conditions;
            condition::set(
                conditions,
                condition::pod("DisruptionTarget", true, Some(reason), Some("why")),
                now,
            );
        });
    }
    let is_target = |world: &World, name: &str| {
        let pod = world.get::<Pod>("default", name);
        condition::is_true(
            pod.status.as_ref().and_then(|status| status.conditions.as_ref()),
            "DisruptionTarget",
        )
    };
    let one = key_of::<Pod>("default", "one");
    world.advance(30);
    let plan = world.look(&StaleTargets, &one);
    assert_eq!((plan.is_nothing(), plan.again), (true, Some(Duration::from_secs(90))));
    world.advance(90);
    for name in ["one", "two"] {
        world.settle(&StaleTargets, &key_of::<Pod>("default", name));
    }
    assert!(!is_target(&world, "one"));
    assert!(is_target(&world, "two"), "its kubelet takes its time");
    assert!(naru_model::pod::is_ready(&world.get::<Pod>("default", "one")), "the other conditions stay");
}
