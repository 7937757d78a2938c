//! The Deployment's ReplicaSets, sorted into new and old, as they are and as they shall be.

use std::{cmp::Reverse, sync::Arc};

use k8s_openapi::{
    api::{
        apps::v1::{DeploymentSpec, ReplicaSet},
        core::v1::PodTemplateSpec,
    },
    jiff::Timestamp,
};
use naru_model::Object;

use super::revision::HASH_LABEL;

/// One ReplicaSet that is being decided on.
#[derive(Debug, Clone)]
pub struct WorkingSet {
    /// As it shall be.
    pub set: ReplicaSet,
    /// As it is; `None` where it is to be created.
    pub original: Option<Arc<ReplicaSet>>,
}

/// The set of the current template, if there is one, and all others, oldest first.
#[derive(Debug, Default)]
pub struct Sets {
    pub new: Option<WorkingSet>,
    pub old: Vec<WorkingSet>,
}

impl Sets {
    /// The new set is the oldest whose template is the Deployment's; two can exist after an adoption.
    pub fn sort(sets: Vec<Arc<ReplicaSet>>, spec: &DeploymentSpec) -> Self {
        let mut old = sets.into_iter().map(WorkingSet::of).collect::<Vec<_>>();
        old.sort_by_cached_key(|set| (set.created(), set.set.name().to_owned()));
        let new = old.iter().position(|set| {
            let template = set.set.spec.template.as_ref();
            template.is_some_and(|template| is_same_template(template, &spec.template))
        });
        let new = new.map(|index| old.remove(index));
        Self { new, old }
    }

    /// All sets, the old ones first.
    pub fn iter(&self) -> impl Iterator<Item = &WorkingSet> {
        self.old.iter().chain(&self.new)
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut WorkingSet> {
        self.old.iter_mut().chain(&mut self.new)
    }

    /// Desired replicas of all sets together.
    pub fn replicas(&self) -> i32 {
        self.iter().map(WorkingSet::replicas).sum()
    }

    pub fn available(&self) -> i32 {
        self.iter().map(WorkingSet::available).sum()
    }

    /// The only set with replicas; or, where none has any, the newest one. `None` where several have some.
    pub fn active_or_latest(&mut self) -> Option<&mut WorkingSet> {
        match self.iter().filter(|set| set.replicas() > 0).count() {
            0 if self.new.is_some() => self.new.as_mut(),
            0 => self.old.iter_mut().max_by_key(|set| set.created()),
            1 => self.iter_mut().find(|set| set.replicas() > 0),
            _ => None,
        }
    }

    /// Sets that have replicas: larger ones first, and among equals the newer first, or the older.
    pub fn active_by_size(&mut self, is_newer_first: bool) -> Vec<&mut WorkingSet> {
        let mut sets = self.iter_mut().filter(|set| set.replicas() > 0).collect::<Vec<_>>();
        sets.sort_by_key(|set| set.created());
        if is_newer_first {
            sets.reverse();
        }
        sets.sort_by_key(|set| Reverse(set.replicas()));
        sets
    }
}

impl WorkingSet {
    pub fn of(set: Arc<ReplicaSet>) -> Self {
        Self { set: (*set).clone(), original: Some(set) }
    }

    pub fn replicas(&self) -> i32 {
        self.set.spec.replicas.unwrap_or(1)
    }

    /// Desired replicas before this look.
    pub fn before(&self) -> i32 {
        self.original.as_ref().map_or(0, |set| set.spec.replicas.unwrap_or(1))
    }

    pub fn set_replicas(&mut self, replicas: i32) {
        if self.replicas() != replicas {
            self.set.spec.replicas = Some(replicas);
        }
    }

    /// Available pods that stay: the set may still report those that it has already been told to give up, and
    /// counting on them would give up as many again.
    pub fn available(&self) -> i32 {
        let reported = self.set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0);
        reported.min(self.replicas())
    }

    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.set.metadata.annotations.as_ref()?.get(name).map(String::as_str)
    }

    /// Sets an annotation; answers whether that changed anything.
    pub fn annotate(&mut self, name: &str, value: &str) -> bool {
        if self.annotation(name) == Some(value) {
            return false;
        }
        self.set.metadata.annotations.get_or_insert_default().insert(name.into(), value.into());
        true
    }

    pub fn created(&self) -> Option<Timestamp> {
        // A set that is only about to be created is the newest of all.
        let far = self.original.is_none().then_some(Timestamp::MAX);
        far.or(self.set.metadata.creation_timestamp.as_ref().map(|time| time.0))
    }

    pub fn is_changed(&self) -> bool {
        self.original.as_ref().is_none_or(|original| **original != self.set)
    }
}

/// Whether the templates are the same but for the hash label, which only the sets' carry.
pub fn is_same_template(left: &PodTemplateSpec, right: &PodTemplateSpec) -> bool {
    let metadata = |template: &PodTemplateSpec| {
        let mut metadata = template.metadata.clone().unwrap_or_default();
        if let Some(labels) = &mut metadata.labels {
            labels.remove(HASH_LABEL);
        }
        metadata.labels.take_if(|labels| labels.is_empty());
        metadata.annotations.take_if(|annotations| annotations.is_empty());
        metadata
    };
    left.spec == right.spec && metadata(left) == metadata(right)
}
