//! What we report back: counts, and the conditions that `kubectl rollout status` waits for.

use std::time::Duration;

use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus},
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::{SignedDuration, Timestamp},
};
use naru_model::Object;

use super::{
    reconcile::Look,
    sets::{Sets, WorkingSet},
};
use crate::controllers::common::{nonzero, until};

const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const REPLICA_FAILURE: &str = "ReplicaFailure";

const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
const PAUSED: &str = "DeploymentPaused";

/// The status as it becomes, and when time alone may change it.
pub struct Progress {
    pub status: DeploymentStatus,
    pub look_again: Option<Duration>,
}

impl Progress {
    pub fn start(deployment: &Deployment) -> Self {
        Self { status: deployment.status.clone().unwrap_or_default(), look_again: None }
    }

    fn condition(&self, type_: &str) -> Option<&DeploymentCondition> {
        condition(&self.status, type_)
    }

    /// Sets the condition, unless it says the same already. It keeps its transition time while its status stays.
    fn set(&mut self, mut new: DeploymentCondition) {
        let type_ = new.type_.clone();
        let conditions = self.status.conditions.get_or_insert_default();
        if let Some(old) = conditions.iter().find(|old| old.type_ == type_) {
            if old.status == new.status && old.reason == new.reason {
                return;
            }
            if old.status == new.status {
                new.last_transition_time.clone_from(&old.last_transition_time);
            }
        }
        conditions.retain(|old| old.type_ != type_);
        conditions.push(new);
    }

    fn remove(&mut self, type_: &str) {
        if let Some(conditions) = &mut self.status.conditions {
            conditions.retain(|condition| named(condition) != type_);
        }
        self.status.conditions.take_if(|conditions| conditions.is_empty());
    }
}

impl Look<'_> {
    /// Keeps the deadline's clock from running while the rollout is paused.
    pub fn note_pause(&mut self) {
        let (reason, is_paused) = match self.progress.condition(PROGRESSING) {
            Some(condition) => (condition.reason.clone(), condition.reason.as_deref() == Some(PAUSED)),
            None => (None, false),
        };
        if self.deadline().is_none() || reason.as_deref() == Some(TIMED_OUT) {
            return;
        }
        match (self.spec.paused == Some(true), is_paused) {
            (true, false) => self.set_progressing("Unknown", PAUSED, "Deployment is paused".into()),
            (false, true) => {
                self.set_progressing("Unknown", "DeploymentResumed", "Deployment is resumed".into());
            }
            _ => (),
        }
    }

    pub fn note_set_found(&mut self, name: &str) {
        if self.deadline().is_some() && self.progress.condition(PROGRESSING).is_none() {
            self.set_progressing("True", "FoundNewReplicaSet", format!("Found new replica set \"{name}\""));
        }
    }

    pub fn note_set_created(&mut self, name: &str) {
        if self.deadline().is_none() {
            return;
        }
        match self.view.last_failure {
            Some(error) => {
                let message = format!("Failed to create new replica set \"{name}\": {error}");
                self.set_progressing("False", "ReplicaSetCreateError", message);
            }
            None => self.set_progressing(
                "True",
                "NewReplicaSetCreated",
                format!("Created new replica set \"{name}\""),
            ),
        }
    }

    /// Counts and availability only: what a look reports that takes no step of a rollout.
    pub fn report_counts(&mut self) {
        self.count();
        let availability = self.availability();
        self.progress.set(availability);
    }

    /// Counts, availability, and how the rollout fares against its deadline.
    pub fn report_rollout(&mut self) {
        let old = self.deployment.status.clone().unwrap_or_default();
        let was_complete =
            self.progress.condition(PROGRESSING).and_then(|condition| condition.reason.as_deref())
                == Some(NEW_SET_AVAILABLE);
        self.report_counts();
        let status = &self.progress.status;
        let is_settled = was_complete && status.replicas == status.updated_replicas;
        if self.deadline().is_none() {
            self.progress.remove(PROGRESSING);
        } else if !is_settled {
            self.report_progress(&old);
        }
        match self.sets.iter().find_map(replica_failure) {
            Some(failure) => self.progress.set(failure),
            None => self.progress.remove(REPLICA_FAILURE),
        }
        self.progress.look_again = match self.progress.look_again {
            Some(soon) => Some(soon),
            None => self.next_deadline(),
        };
    }

    /// Whether everything runs the current template, and as much of it as is wanted.
    pub fn is_complete(&self, status: &DeploymentStatus) -> bool {
        let is_full = |count: Option<i32>| count.unwrap_or(0) == self.replicas;
        is_full(status.updated_replicas)
            && is_full(status.replicas)
            && is_full(status.available_replicas)
            && status.observed_generation.unwrap_or(0) >= self.deployment.metadata.generation.unwrap_or(0)
    }

    fn report_progress(&mut self, old: &DeploymentStatus) {
        let subject = match &self.sets.new {
            Some(new) => format!("ReplicaSet \"{}\"", new.set.name()),
            None => format!("Deployment \"{}\"", self.deployment.name()),
        };
        if self.is_complete(&self.progress.status) {
            let message = format!("{subject} has successfully progressed.");
            self.set_progressing("True", NEW_SET_AVAILABLE, message);
        } else if is_progressing(old, &self.progress.status) {
            // Removed first, so that the update time moves and with it the deadline.
            let since = self.progress.condition(PROGRESSING).filter(|old| is_true(old)).cloned();
            self.progress.remove(PROGRESSING);
            let mut condition =
                self.progressing("True", "ReplicaSetUpdated", format!("{subject} is progressing."));
            if let Some(since) = since {
                condition.last_transition_time = since.last_transition_time;
            }
            self.progress.set(condition);
        } else if self.is_timed_out() {
            self.set_progressing("False", TIMED_OUT, format!("{subject} has timed out progressing."));
        }
    }

    fn count(&mut self) {
        let actual = |set: &WorkingSet| set.set.status.as_ref().map_or(0, |status| status.replicas);
        let sum = |sets: &Sets, count: &dyn Fn(&WorkingSet) -> i32| sets.iter().map(count).sum::<i32>();
        let ready =
            |set: &WorkingSet| set.set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
        let terminating = |set: &WorkingSet| {
            set.set.status.as_ref().and_then(|status| status.terminating_replicas).unwrap_or(0)
        };
        let (sets, status) = (&self.sets, &mut self.progress.status);
        let available = sets.available();
        status.observed_generation = self.deployment.metadata.generation;
        status.replicas = nonzero(sum(sets, &actual));
        status.updated_replicas = nonzero(sets.new.as_ref().map_or(0, actual));
        status.ready_replicas = nonzero(sum(sets, &ready));
        status.available_replicas = nonzero(available);
        status.unavailable_replicas = nonzero((sets.replicas() - available).max(0));
        status.terminating_replicas = Some(sum(sets, &terminating));
    }

    fn availability(&self) -> DeploymentCondition {
        if self.sets.available() >= self.replicas - self.max_unavailable() {
            self.condition(
                AVAILABLE,
                "True",
                "MinimumReplicasAvailable",
                "Deployment has minimum availability.".into(),
            )
        } else {
            let message = "Deployment does not have minimum availability.".into();
            self.condition(AVAILABLE, "False", "MinimumReplicasUnavailable", message)
        }
    }

    fn deadline(&self) -> Option<SignedDuration> {
        let seconds = self.spec.progress_deadline_seconds.filter(|seconds| *seconds != i32::MAX)?;
        Some(SignedDuration::from_secs(seconds.into()))
    }

    /// When the rollout times out if nothing moves.
    fn expiry(&self) -> Option<Timestamp> {
        let condition = self.progress.condition(PROGRESSING)?;
        let since = condition.last_update_time.as_ref()?.0;
        since.checked_add(self.deadline()?).ok()
    }

    fn is_timed_out(&self) -> bool {
        match self.progress.condition(PROGRESSING).and_then(|condition| condition.reason.as_deref()) {
            Some(NEW_SET_AVAILABLE) | None => false,
            Some(TIMED_OUT) => true,
            Some(_) => self.expiry().is_some_and(|expiry| expiry < self.view.now),
        }
    }

    fn next_deadline(&self) -> Option<Duration> {
        let reason = self.progress.condition(PROGRESSING)?.reason.as_deref();
        let is_over = matches!(reason, Some(NEW_SET_AVAILABLE | TIMED_OUT | PAUSED));
        if is_over || self.is_complete(&self.progress.status) {
            return None;
        }
        Some(until(self.expiry()?, self.view.now) + Duration::from_secs(1))
    }

    fn set_progressing(&mut self, status: &str, reason: &str, message: String) {
        let condition = self.progressing(status, reason, message);
        self.progress.set(condition);
    }

    fn progressing(&self, status: &str, reason: &str, message: String) -> DeploymentCondition {
        self.condition(PROGRESSING, status, reason, message)
    }

    fn condition(&self, type_: &str, status: &str, reason: &str, message: String) -> DeploymentCondition {
        let now = Some(Time(self.view.now));
        DeploymentCondition {
            type_: Some(type_.into()),
            status: Some(status.into()),
            reason: Some(reason.into()),
            message: Some(message),
            last_update_time: now.clone(),
            last_transition_time: now,
        }
    }
}

fn is_progressing(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let count = |count: Option<i32>| count.unwrap_or(0);
    let outdated = |status: &DeploymentStatus| count(status.replicas) - count(status.updated_replicas);
    count(new.updated_replicas) > count(old.updated_replicas)
        || outdated(new) < outdated(old)
        || count(new.ready_replicas) > count(old.ready_replicas)
        || count(new.available_replicas) > count(old.available_replicas)
}

/// The set's own complaint, as the Deployment's.
fn replica_failure(set: &WorkingSet) -> Option<DeploymentCondition> {
    let conditions = set.set.status.as_ref()?.conditions.as_ref()?;
    let failure = conditions.iter().find(|condition| condition.type_.as_deref() == Some(REPLICA_FAILURE))?;
    Some(DeploymentCondition {
        type_: failure.type_.clone(),
        status: failure.status.clone(),
        reason: failure.reason.clone(),
        message: failure.message.clone(),
        last_transition_time: failure.last_transition_time.clone(),
        last_update_time: failure.last_transition_time.clone(),
    })
}

fn condition<'a>(status: &'a DeploymentStatus, type_: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.as_ref()?.iter().find(|condition| named(condition) == type_)
}

fn named(condition: &DeploymentCondition) -> &str {
    condition.type_.as_deref().unwrap_or_default()
}

fn is_true(condition: &DeploymentCondition) -> bool {
    condition.status.as_deref() == Some("True")
}
