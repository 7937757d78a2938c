//! The decision.

use std::sync::Arc;

use k8s_openapi::{
    api::{
        apps::v1::{ReplicaSet, ReplicaSetSpec},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use naru_model::{
    Object,
    owner::{self, controller_reference},
    selector::matches_api,
};

use super::{ranking, status};
use crate::{
    controllers::{
        common::{adopt, is_deleting, reference, release},
        framework::{
            Cache, Change, ClusterView, Member, Note, Plan, Reconciler, Report, Write, controller_of, key_of,
        },
    },
    store::{Key, Meta},
};

/// Pods that are created before the set is looked at again: a set of many must not hold all of them as wishes.
const BURST: usize = 1000;

/// Keeps each ReplicaSet at its number of pods.
pub struct ReplicaSets;

impl Reconciler for ReplicaSets {
    type Object = ReplicaSet;

    fn name(&self) -> &'static str {
        "replicaset-controller"
    }

    fn concerns(&self, change: &Change<'_>, cache: &Cache, look: &mut dyn FnMut(Key)) {
        if !change.is::<Pod>() {
            return;
        }
        for pod in change.states() {
            match controller_of(&pod.meta) {
                Some(owner) if owner.kind == "ReplicaSet" => {
                    look(key_of::<ReplicaSet>(&pod.meta.namespace, &owner.name));
                }
                Some(_) => (),
                None if change.is_deleted => (),
                None => selecting(&pod.meta, cache).for_each(&mut *look),
            }
        }
    }

    fn reconcile(&self, set: &ReplicaSet, view: &ClusterView<'_>) -> Plan {
        let spec = &set.spec;
        let mut plan = Plan::nothing();
        let pods = claim(set, spec, view.cache, &mut plan);
        let (active, inactive): (Vec<_>, Vec<_>) = pods.into_iter().partition(Member::is_active);
        if !is_deleting(set) {
            manage(set, spec, &active, view, &mut plan);
        }
        status::report(set, spec, &active, &inactive, view, &mut plan);
        plan
    }

    fn pace(&self) -> std::time::Duration {
        // A thousand pods becoming ready are a few status writes, not a thousand.
        std::time::Duration::from_millis(20)
    }
}

/// The sets that would adopt an object with these labels.
fn selecting<'a>(meta: &'a Meta, cache: &'a Cache) -> impl Iterator<Item = Key> + 'a {
    cache
        .list::<ReplicaSet>(Some(&meta.namespace))
        .filter(|set| matches_api(&set.spec.selector, &*meta.labels))
        .map(|set| key_of::<ReplicaSet>(set.namespace(), set.name()))
}

/// The set's pods, after those that match were adopted and those that do not were released.
fn claim(set: &ReplicaSet, spec: &ReplicaSetSpec, cache: &Cache, plan: &mut Plan) -> Vec<Member> {
    let selects = |pod: &Member| matches_api(&spec.selector, pod.labels());
    let (mut pods, strangers): (Vec<_>, Vec<_>) = cache.pods_controlled_by(set.uid()).partition(selects);
    if is_deleting(set) {
        return pods;
    }
    let staying = strangers.iter().filter(|pod| !pod.is_deleting());
    let mut claims: Vec<_> = staying.filter_map(Member::pod).map(|pod| release(set, &*pod)).collect();
    for orphan in cache.uncontrolled_pods(set.namespace()).filter(|pod| pod.is_active() && selects(pod)) {
        let Some(pod) = orphan.pod() else { continue };
        claims.push(adopt(set, &*pod));
        pods.push(orphan);
    }
    plan.then(claims);
    pods
}

fn manage(
    set: &ReplicaSet,
    spec: &ReplicaSetSpec,
    active: &[Member],
    view: &ClusterView<'_>,
    plan: &mut Plan,
) {
    let desired = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    if active.len() < desired {
        let create = Write::create(new_pod(set, spec)).reported(Report {
            about: reference(set),
            success: Some(Note::normal("SuccessfulCreate", "Created pod: {name}")),
            failure: Some(Note::warning("FailedCreate", "Error creating: {error}")),
        });
        plan.then_slowly(std::iter::repeat_n(create, (desired - active.len()).min(BURST)));
    } else if active.len() > desired {
        let surplus = active.len() - desired;
        let neighbours = neighbours(set, view.cache);
        let active: Vec<_> = active.iter().filter_map(Member::pod).collect();
        let victims = ranking::least_useful(&active, &neighbours, surplus, view.now);
        plan.then(victims.into_iter().map(|pod| delete(set, &pod)));
    }
}

fn delete(set: &ReplicaSet, pod: &Pod) -> Write {
    Write::delete(pod).reported(Report {
        about: reference(set),
        success: Some(Note::normal("SuccessfulDelete", format!("Deleted pod: {}", pod.name()))),
        failure: Some(Note::warning("FailedDelete", "Error deleting: {error}")),
    })
}

/// The active pods of all sets with the same controller, this one included: who shares nodes with whom.
fn neighbours(set: &ReplicaSet, cache: &Cache) -> Vec<Arc<Pod>> {
    let pods = |uid: &str| {
        cache
            .pods_controlled_by(uid)
            .filter(Member::is_active)
            .filter_map(|pod| pod.pod())
            .collect::<Vec<_>>()
    };
    match owner::controller_of(&set.metadata) {
        Some(owner) => {
            cache.controlled_by::<ReplicaSet>(&owner.uid).flat_map(|sibling| pods(sibling.uid())).collect()
        }
        None => pods(set.uid()),
    }
}

fn new_pod(set: &ReplicaSet, spec: &ReplicaSetSpec) -> Pod {
    let template = spec.template.clone().unwrap_or_default();
    let metadata = template.metadata.unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", set.name())),
            namespace: set.metadata.namespace.clone(),
            labels: metadata.labels,
            annotations: metadata.annotations,
            finalizers: metadata.finalizers,
            owner_references: Some(vec![controller_reference(set)]),
            ..Default::default()
        },
        spec: template.spec,
        status: None,
    }
}
