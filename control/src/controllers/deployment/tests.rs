mod undone;

use k8s_openapi::{
    api::{
        apps::v1::{
            Deployment, DeploymentCondition, DeploymentSpec, DeploymentStrategy, ReplicaSet,
            RollingUpdateDeployment,
        },
        core::v1::Pod,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use naru_model::{Object, condition, pod::is_active};

use super::{Deployments, revision::REVISION};
use crate::controllers::{
    framework::{Controller, Typed, key_of},
    replica_set::ReplicaSets,
    testing::{World, named, selector, template},
};

const DEPLOYMENTS: Typed<Deployments> = Typed(Deployments);
const SETS: Typed<ReplicaSets> = Typed(ReplicaSets);

fn deployment(replicas: i32) -> Deployment {
    Deployment {
        metadata: named("web"),
        spec: DeploymentSpec {
            replicas: Some(replicas),
            selector: selector("web"),
            template: template("web", "hello:1"),
            strategy: Some(rolling(IntOrString::String("25%".into()), IntOrString::String("25%".into()))),
            progress_deadline_seconds: Some(600),
            revision_history_limit: Some(10),
            ..Default::default()
        },
        status: None,
    }
}

fn rolling(max_surge: IntOrString, max_unavailable: IntOrString) -> DeploymentStrategy {
    let rolling =
        RollingUpdateDeployment { max_surge: Some(max_surge), max_unavailable: Some(max_unavailable) };
    DeploymentStrategy { type_: Some("RollingUpdate".into()), rolling_update: Some(rolling) }
}

fn web(world: &World) -> std::sync::Arc<Deployment> {
    world.get::<Deployment>("default", "web")
}

fn set_image(world: &mut World, image: &str) {
    let template = template("web", image);
    world.edit::<Deployment>("default", "web", |deployment| deployment.spec.template = template);
}

fn progressing(world: &World) -> DeploymentCondition {
    let deployment = web(world);
    let conditions = deployment.status.as_ref().and_then(|status| status.conditions.as_ref());
    condition::find(conditions, "Progressing").expect("a Progressing condition").clone()
}

/// (image, desired replicas) of each set, by revision.
fn sets(world: &World) -> Vec<(String, i32)> {
    let mut sets = world.list::<ReplicaSet>();
    sets.sort_by_key(|set| revision(set).parse::<i32>().unwrap_or(0));
    sets.iter().map(|set| (image(set), set.spec.replicas.unwrap())).collect()
}

fn image(set: &ReplicaSet) -> String {
    set.spec.template.as_ref().unwrap().spec.as_ref().unwrap().containers[0].image.clone().unwrap()
}

fn revision(set: &ReplicaSet) -> String {
    set.metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(REVISION))
        .cloned()
        .unwrap_or_default()
}

/// One turn of both controllers over everything. Answers whether anything was written.
fn turn(world: &mut World) -> bool {
    let mut is_busy = !world.look(&DEPLOYMENTS, &key_of::<Deployment>("default", "web")).is_nothing();
    for set in world.list::<ReplicaSet>() {
        is_busy |= !world.look(&SETS, &key_of::<ReplicaSet>("default", set.name())).is_nothing();
    }
    is_busy
}

fn rest(world: &mut World) {
    for _ in 0..100 {
        if !turn(world) {
            return;
        }
    }
    panic!("the controllers do not come to rest: {:?}", sets(world));
}

/// Runs until nothing changes any more, with a kubelet that makes every pod ready.
fn complete(world: &mut World) {
    for _ in 0..200 {
        let is_busy = turn(world);
        let unready = world.list::<Pod>().iter().any(|pod| !naru_model::pod::is_ready(pod));
        world.make_all_ready();
        world.advance(1);
        if !is_busy && !unready {
            return;
        }
    }
    panic!("the rollout does not complete: {:?}", sets(world));
}

fn deployed(replicas: i32) -> World {
    let mut world = World::default();
    world.add(deployment(replicas));
    complete(&mut world);
    world
}

#[test]
fn a_new_deployment_makes_one_set_and_says_so() {
    let mut world = World::default();
    world.add(deployment(3));
    world.look(&DEPLOYMENTS, &key_of::<Deployment>("default", "web"));
    let set = world.list::<ReplicaSet>().remove(0);
    let hash = &set.metadata.labels.as_ref().unwrap()["pod-template-hash"];
    assert_eq!(set.name(), format!("web-{hash}"));
    assert_eq!(set.spec.selector.match_labels.as_ref().unwrap()["pod-template-hash"], *hash);
    assert_eq!(revision(&set), "1");
    assert_eq!(web(&world).metadata.annotations.as_ref().unwrap()[REVISION], "1");
    let condition = progressing(&world);
    assert_eq!(condition.reason.as_deref(), Some("NewReplicaSetCreated"));
    assert_eq!(condition.message, Some(format!("Created new replica set \"{}\"", set.name())));
    let event = ("ScalingReplicaSet".to_owned(), format!("Scaled up replica set {} from 0 to 3", set.name()));
    assert_eq!(world.events, [event]);
}

#[test]
fn a_complete_rollout_reports_what_kubectl_waits_for() {
    let world = deployed(3);
    let deployment = web(&world);
    let status = deployment.status.as_ref().unwrap();
    assert_eq!(
        (status.replicas, status.updated_replicas, status.available_replicas, status.unavailable_replicas),
        (Some(3), Some(3), Some(3), None)
    );
    assert_eq!(status.observed_generation, Some(1));
    let condition = progressing(&world);
    assert_eq!(condition.reason.as_deref(), Some("NewReplicaSetAvailable"));
    let set = world.list::<ReplicaSet>().remove(0);
    assert_eq!(
        condition.message,
        Some(format!("ReplicaSet \"{}\" has successfully progressed.", set.name()))
    );
    let available = condition::find(status.conditions.as_ref(), "Available").unwrap();
    assert_eq!(available.status.as_deref(), Some("True"));
    assert_eq!(available.reason.as_deref(), Some("MinimumReplicasAvailable"));
    assert_eq!(available.message.as_deref(), Some("Deployment has minimum availability."));
}

#[test]
fn a_change_of_image_ends_with_the_new_set_alone() {
    let mut world = deployed(4);
    set_image(&mut world, "hello:2");
    complete(&mut world);
    assert_eq!(sets(&world), [("hello:1".into(), 0), ("hello:2".into(), 4)]);
    assert_eq!(web(&world).metadata.annotations.as_ref().unwrap()[REVISION], "2");
}

#[test]
fn going_back_to_an_old_template_reuses_its_set_under_a_new_revision() {
    let mut world = deployed(2);
    set_image(&mut world, "hello:2");
    complete(&mut world);
    set_image(&mut world, "hello:1");
    complete(&mut world);
    assert_eq!(sets(&world), [("hello:2".into(), 0), ("hello:1".into(), 2)]);
    let set = world.list::<ReplicaSet>().into_iter().find(|set| image(set) == "hello:1").unwrap();
    assert_eq!(revision(&set), "3");
    assert_eq!(set.metadata.annotations.as_ref().unwrap()["deployment.kubernetes.io/revision-history"], "1");
}

#[test]
fn a_rollout_that_stands_still_exceeds_its_deadline() {
    let mut world = World::default();
    let mut deployment = deployment(2);
    deployment.spec.progress_deadline_seconds = Some(60);
    world.add(deployment);
    rest(&mut world);
    let again = world.look(&DEPLOYMENTS, &key_of::<Deployment>("default", "web")).again.unwrap();
    assert_eq!(again.as_secs(), 61);
    world.advance(61);
    rest(&mut world);
    let condition = progressing(&world);
    assert_eq!(
        (condition.status.as_deref(), condition.reason.as_deref()),
        (Some("False"), Some("ProgressDeadlineExceeded"))
    );
    let set = world.list::<ReplicaSet>().remove(0);
    assert_eq!(condition.message, Some(format!("ReplicaSet \"{}\" has timed out progressing.", set.name())));
    // It is not given up: progress later clears it.
    complete(&mut world);
    assert_eq!(progressing(&world).reason.as_deref(), Some("NewReplicaSetAvailable"));
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut world = deployed(2);
    world.edit::<Deployment>("default", "web", |deployment| deployment.spec.paused = Some(true));
    rest(&mut world);
    assert_eq!(progressing(&world).reason.as_deref(), Some("DeploymentPaused"));
    set_image(&mut world, "hello:2");
    world.edit::<Deployment>("default", "web", |deployment| deployment.spec.replicas = Some(5));
    complete(&mut world);
    assert_eq!(sets(&world), [("hello:1".into(), 5)]);
    world.edit::<Deployment>("default", "web", |deployment| deployment.spec.paused = Some(false));
    turn(&mut world);
    complete(&mut world);
    assert_eq!(sets(&world), [("hello:1".into(), 0), ("hello:2".into(), 5)]);
}

#[test]
fn recreate_starts_new_pods_only_when_no_old_pod_is_left() {
    let mut world = World { pods_end_slowly: true, ..World::default() };
    let mut deployment = deployment(3);
    deployment.spec.strategy =
        Some(DeploymentStrategy { type_: Some("Recreate".into()), rolling_update: None });
    world.add(deployment);
    complete(&mut world);
    set_image(&mut world, "hello:2");
    rest(&mut world);
    assert_eq!(sets(&world), [("hello:1".into(), 0)]);
    world.finish_pods();
    complete(&mut world);
    assert_eq!(sets(&world), [("hello:1".into(), 0), ("hello:2".into(), 3)]);
}

#[test]
fn scaling_during_a_rollout_is_shared_in_proportion() {
    let mut world = World::default();
    let mut deployment = deployment(10);
    deployment.spec.strategy = Some(rolling(IntOrString::Int(3), IntOrString::Int(2)));
    world.add(deployment);
    complete(&mut world);
    set_image(&mut world, "hello:broken");
    rest(&mut world);
    assert_eq!(sets(&world), [("hello:1".into(), 8), ("hello:broken".into(), 5)]);
    world.edit::<Deployment>("default", "web", |deployment| deployment.spec.replicas = Some(15));
    turn(&mut world);
    // The documentation's example: of five more, three go to the old set and two to the new one.
    assert_eq!(sets(&world), [("hello:1".into(), 11), ("hello:broken".into(), 7)]);
}

#[test]
fn history_beyond_the_limit_is_deleted_oldest_first() {
    let mut world = World::default();
    let mut deployment = deployment(1);
    deployment.spec.revision_history_limit = Some(1);
    world.add(deployment);
    complete(&mut world);
    for image in ["hello:2", "hello:3", "hello:4"] {
        set_image(&mut world, image);
        complete(&mut world);
    }
    assert_eq!(sets(&world), [("hello:3".into(), 0), ("hello:4".into(), 1)]);
}

#[test]
fn a_set_of_another_template_in_the_way_of_the_name_makes_another_name() {
    let mut world = World::default();
    let mut probe = World::default();
    probe.add(deployment(1));
    rest(&mut probe);
    let name = probe.list::<ReplicaSet>()[0].name().to_owned();
    let mut stranger = (*probe.list::<ReplicaSet>()[0]).clone();
    stranger.metadata = named(&name);
    stranger.spec.template = Some(template("other", "other"));
    stranger.spec.selector = selector("other");
    world.add(stranger);
    world.add(deployment(1));
    complete(&mut world);
    assert_eq!(web(&world).status.as_ref().unwrap().collision_count, Some(1));
    let ours = world.list::<ReplicaSet>().into_iter().filter(|set| set.name() != name).collect::<Vec<_>>();
    assert_eq!((ours.len(), ours[0].spec.replicas), (1, Some(1)));
}

#[test]
fn an_orphaned_set_of_the_same_template_is_adopted() {
    let mut world = deployed(2);
    let set = world.list::<ReplicaSet>().remove(0);
    world.edit::<ReplicaSet>("default", set.name(), |set| set.metadata.owner_references = None);
    rest(&mut world);
    assert_eq!(world.list::<ReplicaSet>().len(), 1);
    let set = world.get::<ReplicaSet>("default", set.name());
    assert!(naru_model::owner::is_controlled_by(&set.metadata, &*web(&world)));
}

#[test]
fn annotations_of_the_deployment_reach_its_sets_but_for_its_own() {
    let mut world = deployed(1);
    world.edit::<Deployment>("default", "web", |deployment| {
        let annotations = deployment.metadata.annotations.get_or_insert_default();
        annotations.insert("kubernetes.io/change-cause".into(), "because".into());
        annotations.insert("kubectl.kubernetes.io/last-applied-configuration".into(), "{}".into());
    });
    rest(&mut world);
    let set = world.list::<ReplicaSet>().remove(0);
    let annotations = set.metadata.annotations.as_ref().unwrap();
    assert_eq!(annotations["kubernetes.io/change-cause"], "because");
    assert!(!annotations.contains_key("kubectl.kubernetes.io/last-applied-configuration"));
}

/// A small generator: the same seed tells the same story.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides.max(1)
    }
}

/// Many rollouts, with a kubelet that takes its time and users who change their minds, in any order of looks.
#[test]
fn no_rollout_ever_leaves_its_bounds() {
    for seed in 0..60 {
        let mut dice = Dice(seed);
        let replicas = i32::try_from(dice.roll(12)).unwrap() + 1;
        let surge = i32::try_from(dice.roll(4)).unwrap();
        let unavailable = i32::try_from(dice.roll(4)).unwrap();
        let mut world = World { pods_end_slowly: dice.roll(2) == 0, ..World::default() };
        let mut deployment = deployment(replicas);
        deployment.spec.strategy = Some(rolling(IntOrString::Int(surge), IntOrString::Int(unavailable)));
        world.add(deployment);
        complete(&mut world);
        world.finish_pods();
        complete(&mut world);
        let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable.min(replicas) };
        for version in 2..5 {
            set_image(&mut world, &format!("hello:{version}"));
            for _ in 0..dice.roll(60) {
                one_thing_happens(&mut world, &mut dice);
                let active =
                    i32::try_from(world.list::<Pod>().iter().filter(|pod| is_active(pod)).count()).unwrap();
                let ready = world.list::<Pod>();
                let ready =
                    ready.iter().filter(|pod| is_active(pod) && naru_model::pod::is_ready(pod)).count();
                assert!(active <= replicas + surge, "seed {seed}: {active} pods for {replicas}+{surge}");
                let least = replicas - unavailable;
                assert!(
                    i32::try_from(ready).unwrap() >= least,
                    "seed {seed}: {ready} ready, {least} are due"
                );
            }
        }
        for _ in 0..3 {
            world.finish_pods();
            complete(&mut world);
        }
        let last = sets(&world).pop().unwrap();
        assert_eq!(last, ("hello:4".into(), replicas), "seed {seed}");
        assert_eq!(progressing(&world).reason.as_deref(), Some("NewReplicaSetAvailable"), "seed {seed}");
    }
}

fn one_thing_happens(world: &mut World, dice: &mut Dice) {
    let pick = |dice: &mut Dice, count: usize| usize::try_from(dice.roll(count as u64)).unwrap();
    match dice.roll(5) {
        0 | 1 => drop(world.look(&DEPLOYMENTS as &dyn Controller, &key_of::<Deployment>("default", "web"))),
        2 | 3 => {
            let sets = world.list::<ReplicaSet>();
            let set = &sets[pick(dice, sets.len())];
            world.look(&SETS, &key_of::<ReplicaSet>("default", set.name()));
        }
        _ => {
            let pods = world.list::<Pod>();
            if let Some(pod) = pods.get(pick(dice, pods.len())).filter(|pod| !naru_model::pod::is_ready(pod))
            {
                world.set_ready("default", pod.name(), true);
            }
            if dice.roll(3) == 0 {
                world.finish_pods();
            }
        }
    }
    world.advance(1);
}
