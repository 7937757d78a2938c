//! The decision: which of the ways forward applies, and what to write for it.

use std::sync::Arc;

use k8s_openapi::api::{
    apps::v1::{Deployment, DeploymentSpec, ReplicaSet},
    core::v1::Pod,
};
use naru_model::{Object, owner, selector};

use super::{
    sets::{Sets, WorkingSet},
    status::Progress,
};
use crate::{
    controllers::{
        common::{adopt, is_deleting, reference, release, selects},
        framework::{
            Action, Cache, Change, ClusterView, Note, Plan, Reconciler, Report, Write, controller_of, key_of,
        },
    },
    store::Key,
};

/// Rolls each Deployment out.
pub struct Deployments;

/// One look at one Deployment: what is wanted, what is there, and what becomes of it.
pub(super) struct Look<'a> {
    pub deployment: &'a Deployment,
    pub spec: &'a DeploymentSpec,
    pub view: &'a ClusterView<'a>,
    /// `spec.replicas`, defaulted.
    pub replicas: i32,
    pub sets: Sets,
    pub progress: Progress,
    /// The revision annotation that the Deployment shall carry.
    pub revision: Option<String>,
    /// Old sets to delete, by the revision history limit.
    pub outdated: Vec<Arc<ReplicaSet>>,
}

impl Reconciler for Deployments {
    type Object = Deployment;

    fn name(&self) -> &'static str {
        "deployment-controller"
    }

    fn concerns(&self, change: &Change<'_>, cache: &Cache, look: &mut dyn FnMut(Key)) {
        if change.is::<ReplicaSet>() {
            for set in change.states() {
                match controller_of(&set.meta) {
                    Some(owner) if owner.kind == "Deployment" => {
                        look(key_of::<Deployment>(&set.meta.namespace, &owner.name));
                    }
                    Some(_) => (),
                    None if change.is_deleted => (),
                    None => cache
                        .list::<Deployment>(Some(&set.meta.namespace))
                        .filter(|deployment| {
                            selector::matches_api(&deployment.spec.selector, &*set.meta.labels)
                        })
                        .for_each(|deployment| {
                            look(key_of::<Deployment>(deployment.namespace(), deployment.name()));
                        }),
                }
            }
        }
        // A Recreate rollout waits for the last old pod to be gone; its set does not count those that are ending.
        if change.is_deleted && change.is::<Pod>() {
            let set = controller_of(&change.entry.meta)
                .filter(|owner| owner.kind == "ReplicaSet")
                .and_then(|owner| cache.get::<ReplicaSet>(&change.entry.meta.namespace, &owner.name));
            if let Some(owner) = set.as_ref().and_then(|set| owner::controller_of(&set.metadata))
                && owner.kind == "Deployment"
            {
                look(key_of::<Deployment>(&change.entry.meta.namespace, &owner.name));
            }
        }
    }

    fn reconcile(&self, deployment: &Deployment, view: &ClusterView<'_>) -> Plan {
        let spec = &deployment.spec;
        let is_empty = spec.selector.match_labels.as_ref().is_none_or(|labels| labels.is_empty())
            && spec.selector.match_expressions.as_ref().is_none_or(|terms| terms.is_empty());
        if is_empty {
            return complain_about_selector(deployment);
        }
        let mut plan = Plan::nothing();
        let sets = claim(deployment, spec, view.cache, &mut plan);
        let mut look = Look {
            deployment,
            spec,
            view,
            replicas: spec.replicas.unwrap_or(1),
            sets: Sets::sort(sets, spec),
            progress: Progress::start(deployment),
            revision: None,
            outdated: Vec::new(),
        };
        look.decide();
        look.write(plan)
    }

    fn pace(&self) -> std::time::Duration {
        std::time::Duration::from_millis(20)
    }
}

impl Look<'_> {
    fn decide(&mut self) {
        if is_deleting(self.deployment) {
            return self.report_counts();
        }
        self.note_pause();
        if self.spec.paused == Some(true) || self.is_being_scaled() {
            self.adopt_revision();
            self.scale();
            if self.spec.paused == Some(true) {
                self.clean_up();
            }
            return self.report_counts();
        }
        if self.is_recreate() {
            self.recreate();
        } else {
            self.roll();
        }
        self.report_rollout();
    }

    pub fn is_recreate(&self) -> bool {
        let strategy = self.spec.strategy.as_ref().and_then(|strategy| strategy.type_.as_deref());
        strategy == Some("Recreate")
    }

    /// The plan: sets that grow before sets that shrink, so that a failure to grow costs no capacity; the status
    /// last, or first where it has to tell of a failure that may strike again.
    fn write(self, mut plan: Plan) -> Plan {
        let about = reference(self.deployment);
        let (grow, shrink): (Vec<_>, Vec<_>) =
            self.sets.iter().filter(|set| set.is_changed()).partition(|set| set.replicas() >= set.before());
        let writes =
            |sets: Vec<&WorkingSet>| sets.into_iter().map(|set| write_set(set, &about)).collect::<Vec<_>>();
        let (grow, shrink) = (writes(grow), writes(shrink));
        let status = self.status_write();
        let is_status_first = self.view.last_failure.is_some();
        if is_status_first {
            plan.then(status.clone());
        }
        plan.then(grow);
        plan.then(shrink);
        plan.then(self.outdated.iter().map(|set| Write::delete(&**set)));
        if !is_status_first {
            plan.then(status);
        }
        if let Some(delay) = self.progress.look_again {
            plan.look_again(delay);
        }
        plan
    }

    fn status_write(&self) -> Option<Write> {
        let metadata = &self.deployment.metadata;
        let annotations = metadata.annotations.as_ref();
        let known = annotations.and_then(|annotations| annotations.get(super::revision::REVISION));
        let is_revision_new = self.revision.is_some() && self.revision.as_ref() != known;
        let is_status_new = self.deployment.status.as_ref() != Some(&self.progress.status);
        if !is_revision_new && !is_status_new {
            return None;
        }
        let mut deployment = self.deployment.clone();
        deployment.status = Some(self.progress.status.clone());
        if let Some(revision) = &self.revision {
            let annotations = deployment.metadata.annotations.get_or_insert_default();
            annotations.insert(super::revision::REVISION.into(), revision.clone());
        }
        Some(Write::update_status(deployment))
    }
}

fn write_set(set: &WorkingSet, about: &k8s_openapi::api::core::v1::ObjectReference) -> Write {
    let (before, after, name) = (set.before(), set.replicas(), set.set.name());
    let direction = if after > before { "up" } else { "down" };
    let success = (before != after).then(|| {
        Note::normal(
            "ScalingReplicaSet",
            format!("Scaled {direction} replica set {name} from {before} to {after}"),
        )
    });
    let is_new = set.original.is_none();
    let failure = is_new.then(|| {
        let message = format!("Failed to create new replica set \"{name}\": {{error}}");
        Note::warning("ReplicaSetCreateError", message)
    });
    let write = if is_new { Write::create(set.set.clone()) } else { Write::update(set.set.clone()) };
    write.reported(Report { about: about.clone(), success, failure })
}

/// The Deployment's sets, after those that match were adopted and those that do not were released.
fn claim(
    deployment: &Deployment,
    spec: &DeploymentSpec,
    cache: &Cache,
    plan: &mut Plan,
) -> Vec<Arc<ReplicaSet>> {
    let owned = cache.controlled_by::<ReplicaSet>(deployment.uid());
    let (mut sets, strangers): (Vec<_>, Vec<_>) = owned.partition(|set| selects(&spec.selector, &**set));
    if is_deleting(deployment) {
        return sets;
    }
    let mut claims = Vec::new();
    claims
        .extend(strangers.iter().filter(|set| !is_deleting(&***set)).map(|set| release(deployment, &**set)));
    let orphans = cache.uncontrolled::<ReplicaSet>(deployment.namespace());
    for set in orphans.filter(|set| !is_deleting(&**set) && selects(&spec.selector, &**set)) {
        claims.push(adopt(deployment, &*set));
        sets.push(set);
    }
    plan.then(claims);
    sets
}

fn complain_about_selector(deployment: &Deployment) -> Plan {
    let message = "This deployment is selecting all pods. A non-empty selector is required.";
    let report = Report {
        about: reference(deployment),
        success: Some(Note::warning("SelectingAll", message)),
        failure: None,
    };
    let mut plan = Plan::nothing();
    plan.then([Write::from(Action::Tell).reported(report)]);
    plan
}
