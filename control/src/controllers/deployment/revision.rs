//! The ReplicaSet of the current template: its name, its revision number and its annotations.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{ReplicaSet, ReplicaSetSpec},
        core::v1::PodTemplateSpec,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use naru_model::{
    Object,
    owner::{controller_reference, is_controlled_by},
};

use super::{
    reconcile::Look,
    sets::{WorkingSet, is_same_template},
};

pub const HASH_LABEL: &str = "pod-template-hash";
pub const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAXIMUM: &str = "deployment.kubernetes.io/max-replicas";
const HISTORY_LENGTH: usize = 2000;

/// Annotations of a Deployment that its sets do not inherit.
const OWN_ANNOTATIONS: [&str; 6] =
    ["kubectl.kubernetes.io/last-applied-configuration", REVISION, HISTORY, DESIRED, MAXIMUM, ROLLBACK_TO];
const ROLLBACK_TO: &str = "deprecated.deployment.rollback.to";

impl Look<'_> {
    /// Brings the new set's revision and annotations up to date, where there is a new set.
    pub fn adopt_revision(&mut self) {
        let revision = self.next_revision();
        let Some(mut new) = self.sets.new.take() else { return };
        self.inherit_annotations(&mut new);
        raise_revision(&mut new, revision);
        let min_ready_seconds = self.spec.min_ready_seconds.filter(|seconds| *seconds != 0);
        let spec = &mut new.set.spec;
        if spec.min_ready_seconds.filter(|seconds| *seconds != 0) != min_ready_seconds {
            spec.min_ready_seconds = min_ready_seconds;
        }
        self.revision = new.annotation(REVISION).map(Into::into);
        self.note_set_found(new.set.name());
        self.sets.new = Some(new);
    }

    /// The same, and creates the new set where there is none. A set of another template in the way of the name
    /// raises the collision count, so that the next look tries another name.
    pub fn ensure_new_set(&mut self) {
        if self.sets.new.is_some() {
            return self.adopt_revision();
        }
        let collisions = self.progress.status.collision_count;
        let hash = hash(&self.spec.template, collisions);
        let name = format!("{}-{hash}", self.deployment.name());
        if let Some(other) = self.view.cache.get::<ReplicaSet>(self.deployment.namespace(), &name) {
            let template = other.spec.template.as_ref();
            let is_ours = is_controlled_by(&other.metadata, self.deployment)
                && template.is_some_and(|template| is_same_template(template, &self.spec.template));
            if !is_ours {
                self.progress.status.collision_count = Some(collisions.unwrap_or(0) + 1);
                self.progress.look_again = Some(std::time::Duration::ZERO);
            }
            return; // Ours, but not adopted or on its way out: the next change decides.
        }
        let revision = self.next_revision();
        let mut new = WorkingSet { set: self.blank_set(name, &hash), original: None };
        self.inherit_annotations(&mut new);
        raise_revision(&mut new, revision);
        let replicas = self.wanted_of_new(0);
        new.set_replicas(replicas);
        annotate_sizes(&mut new, self.replicas, self.replicas + self.max_surge());
        self.revision = Some(revision.to_string());
        self.note_set_created(new.set.name());
        self.sets.new = Some(new);
    }

    fn next_revision(&self) -> i64 {
        self.sets.old.iter().map(revision_of).max().unwrap_or(0) + 1
    }

    fn inherit_annotations(&self, set: &mut WorkingSet) {
        for (name, value) in self.deployment.metadata.annotations.iter().flatten() {
            if !OWN_ANNOTATIONS.contains(&name.as_str()) {
                set.annotate(name, value);
            }
        }
    }

    fn blank_set(&self, name: String, hash: &str) -> ReplicaSet {
        let mut template = self.spec.template.clone();
        let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
        labels.insert(HASH_LABEL.into(), hash.into());
        let labels = labels.clone();
        let mut selector = self.spec.selector.clone();
        selector.match_labels.get_or_insert_default().insert(HASH_LABEL.into(), hash.into());
        ReplicaSet {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: self.deployment.metadata.namespace.clone(),
                labels: Some(labels),
                annotations: Some(BTreeMap::new()),
                owner_references: Some(vec![controller_reference(self.deployment)]),
                ..Default::default()
            },
            spec: ReplicaSetSpec {
                min_ready_seconds: self.spec.min_ready_seconds.filter(|seconds| *seconds != 0),
                replicas: Some(0),
                selector,
                template: Some(template),
            },
            status: None,
        }
    }
}

/// Writes down what the set was scaled for: what proportional scaling starts from.
pub fn annotate_sizes(set: &mut WorkingSet, desired: i32, maximum: i32) {
    set.annotate(DESIRED, &desired.to_string());
    set.annotate(MAXIMUM, &maximum.to_string());
}

/// The number of the rollout that the set stems from; 0 where it carries none.
pub fn revision_of(set: &WorkingSet) -> i64 {
    set.annotation(REVISION).and_then(|revision| revision.parse().ok()).unwrap_or(0)
}

/// The size that the set's Deployment had when the set was scaled last.
pub fn desired_of(set: &WorkingSet) -> Option<i32> {
    set.annotation(DESIRED)?.parse().ok()
}

pub fn maximum_of(set: &WorkingSet) -> Option<i32> {
    set.annotation(MAXIMUM)?.parse().ok()
}

/// Gives the set a higher revision and keeps the one it had in its history: a rolled-back set has several.
fn raise_revision(set: &mut WorkingSet, revision: i64) {
    let old = set.annotation(REVISION).map(ToOwned::to_owned);
    if old.as_deref().is_some_and(|old| old.parse::<i64>().map_or(true, |old| old >= revision)) {
        return;
    }
    set.annotate(REVISION, &revision.to_string());
    let Some(old) = old else { return };
    let history = match set.annotation(HISTORY) {
        Some(history) if !history.is_empty() => format!("{history},{old}"),
        _ => old,
    };
    let mut history = history.as_str();
    while history.len() > HISTORY_LENGTH {
        history = history.split_once(',').map_or("", |(_, rest)| rest);
    }
    let history = history.to_owned();
    set.annotate(HISTORY, &history);
}

/// A short name for a template. It need not be the hash that another implementation computes: a set is found by
/// comparing templates, and the hash only makes names differ.
fn hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut text = serde_json::to_vec(template).unwrap_or_default();
    if let Some(collisions) = collisions {
        text.extend(collisions.to_le_bytes());
    }
    let fnv = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    let hash = text.iter().fold(0x811c_9dc5, fnv);
    // Digits become letters that spell no words.
    hash.to_string().bytes().map(|digit| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()])).collect()
}
