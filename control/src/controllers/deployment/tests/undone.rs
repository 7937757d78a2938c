//! Rollouts that are undone, driven by nothing but what the controllers are told.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::util::intstr::IntOrString};
use naru_model::{Object, pod::is_active};

use super::{DEPLOYMENTS, Dice, SETS, complete, deployment, progressing, rest, rolling, set_image, sets};
use crate::{
    controllers::{
        framework::{Change, Controller},
        testing::World,
    },
    store::{Entry, Key},
};

/// The controllers as they run: each looks at a key only because something that concerns it changed, or because it
/// said when it wants to look again.
struct Woken {
    seen: BTreeMap<Key, Arc<Entry>>,
    /// Which controller (0: Deployments) waits to look at which key.
    queue: BTreeSet<(usize, Key)>,
}

impl Woken {
    fn new() -> Self {
        Self { seen: BTreeMap::new(), queue: BTreeSet::new() }
    }

    fn controller(index: usize) -> &'static dyn Controller {
        [&DEPLOYMENTS as &dyn Controller, &SETS][index]
    }

    /// Queues what the changes since the last call concern.
    fn notice(&mut self, world: &World) {
        let resources = ["deployments.apps", "replicasets.apps", "pods"];
        let entries = resources.iter().flat_map(|resource| world.cache.entries(resource, None));
        let now: BTreeMap<_, _> = entries.map(|entry| (entry.key.clone(), entry.clone())).collect();
        let mut changes = Vec::new();
        for (key, entry) in &now {
            let previous = self.seen.get(key);
            if previous.is_none_or(|previous| previous.revision != entry.revision) {
                changes.push(Change { entry, previous, is_deleted: false });
            }
        }
        let gone = self.seen.iter().filter(|(key, _)| !now.contains_key(key));
        changes.extend(gone.map(|(_, entry)| Change { entry, previous: None, is_deleted: true }));
        for change in changes {
            for index in 0..2 {
                let queue = &mut self.queue;
                let look = &mut |key| {
                    queue.insert((index, key));
                };
                Self::controller(index).concerns(&change, &world.cache, look);
            }
        }
        self.seen = now;
    }

    /// Lets one of the controllers that were woken look; answers whether there was one.
    fn step(&mut self, world: &mut World, dice: &mut Dice) -> bool {
        self.notice(world);
        let count = self.queue.len() as u64;
        if count == 0 {
            return false;
        }
        let at = usize::try_from(dice.roll(count)).unwrap();
        let (index, key) = self.queue.iter().nth(at).unwrap().clone();
        self.queue.remove(&(index, key.clone()));
        world.look(Self::controller(index), &key);
        true
    }

    fn rest(&mut self, world: &mut World, dice: &mut Dice) {
        for _ in 0..2000 {
            if !self.step(world, dice) {
                return;
            }
        }
        panic!("the controllers do not come to rest: {:?}", sets(world));
    }
}

/// Rollouts of an image that never becomes ready, undone at any moment: nobody looks unless something woke them, so
/// what a controller left undone would stay.
#[test]
fn an_undone_rollout_of_pods_that_were_never_available_leaves_none_of_them() {
    for seed in 0..200 {
        let mut dice = Dice(seed);
        let replicas = i32::try_from(dice.roll(6)).unwrap() + 1;
        let (surge, unavailable) = (dice.roll(3), dice.roll(3));
        let mut world = World { pods_end_slowly: dice.roll(2) == 0, ..World::default() };
        let mut deployment = deployment(replicas);
        let [surge, unavailable] =
            [surge, unavailable].map(|count| IntOrString::Int(i32::try_from(count).unwrap()));
        deployment.spec.strategy = Some(rolling(surge, unavailable));
        world.add(deployment);
        let mut woken = Woken::new();
        // Sometimes not even the first image had become ready when the second came.
        let is_first_ready = dice.roll(3) > 0;
        let good_pods_get_ready = |world: &mut World| {
            for pod in world.list::<Pod>() {
                let is_good = pod.spec.as_ref().unwrap().containers[0].image.as_deref() == Some("hello:1");
                if is_good && is_active(&pod) && !naru_model::pod::is_ready(&pod) {
                    world.set_ready("default", pod.name(), true);
                }
            }
        };
        woken.rest(&mut world, &mut dice);
        if is_first_ready {
            good_pods_get_ready(&mut world);
            woken.rest(&mut world, &mut dice);
        }
        set_image(&mut world, "hello:broken");
        for _ in 0..dice.roll(30) {
            woken.step(&mut world, &mut dice);
        }
        set_image(&mut world, "hello:1");
        for _ in 0..20 {
            woken.rest(&mut world, &mut dice);
            good_pods_get_ready(&mut world);
            world.finish_pods();
        }
        woken.rest(&mut world, &mut dice);
        let left = sets(&world);
        assert!(
            left.iter().all(|(image, count)| *count == if image == "hello:1" { replicas } else { 0 }),
            "seed {seed}: {left:?}"
        );
        let pods = world.list::<Pod>();
        assert_eq!(pods.len(), usize::try_from(replicas).unwrap(), "seed {seed}");
        assert_eq!(progressing(&world).reason.as_deref(), Some("NewReplicaSetAvailable"), "seed {seed}");
    }
}

/// Kubernetes' own arithmetic: while the pods of the template that was gone back to are not available, none of the
/// other set's may go.
#[test]
fn an_undone_rollout_keeps_the_newer_pods_until_the_older_are_available() {
    let mut world = World::default();
    world.add(deployment(3));
    rest(&mut world);
    set_image(&mut world, "hello:2");
    rest(&mut world);
    assert_eq!(sets(&world), [("hello:1".into(), 3), ("hello:2".into(), 1)]);
    set_image(&mut world, "hello:1");
    rest(&mut world);
    assert_eq!(sets(&world), [("hello:2".into(), 1), ("hello:1".into(), 3)]);
    complete(&mut world);
    assert_eq!(sets(&world), [("hello:2".into(), 0), ("hello:1".into(), 3)]);
}
