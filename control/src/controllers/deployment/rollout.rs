//! Rolling and recreating: how many replicas each set shall have next.

use k8s_openapi::api::apps::v1::RollingUpdateDeployment;
use naru_model::{
    Object,
    intstr::{Rounding, scaled},
};

use super::{
    reconcile::Look,
    revision::annotate_sizes,
    sets::{Sets, WorkingSet},
};
use crate::controllers::framework::Member;

impl Look<'_> {
    /// Takes one step of a rolling update: up within `maxSurge`, else down within `maxUnavailable`.
    pub fn roll(&mut self) {
        self.ensure_new_set();
        if self.grow_new() || self.shrink_old() {
            return;
        }
        if self.is_complete(self.deployment.status.as_ref().unwrap_or(&Default::default())) {
            self.clean_up();
        }
    }

    /// First all old pods go, and only when none is left the new ones come.
    pub fn recreate(&mut self) {
        self.adopt_revision();
        let is_shrinking = self.sets.old.iter().any(|set| set.replicas() > 0);
        if is_shrinking {
            self.sets.old.iter_mut().for_each(|set| set.set_replicas(0));
            return;
        }
        if self.has_old_pods() {
            return;
        }
        self.ensure_new_set();
        self.grow_new();
        if self.is_complete(self.deployment.status.as_ref().unwrap_or(&Default::default())) {
            self.clean_up();
        }
    }

    /// The replicas that the new set shall have, given that it has `current`.
    pub fn wanted_of_new(&self, current: i32) -> i32 {
        if self.is_recreate() {
            return self.replicas;
        }
        // Kubernetes counts desired pods only, and so exceeds the surge while a shrinking set still has more.
        let total = self.sets.old.iter().map(|set| self.occupied(set)).sum::<i32>() + current;
        let room = self.replicas + self.max_surge() - total;
        if room <= 0 { current } else { current + room.min(self.replicas - current).max(0) }
    }

    /// Pods that the set shall have, or still has though it shall no longer.
    fn occupied(&self, set: &WorkingSet) -> i32 {
        let pods = self.view.cache.pods_controlled_by(set.set.uid()).filter(Member::is_active).count();
        set.replicas().max(i32::try_from(pods).unwrap_or(i32::MAX))
    }

    pub fn max_surge(&self) -> i32 {
        self.bounds().0
    }

    pub fn max_unavailable(&self) -> i32 {
        if self.is_recreate() || self.replicas == 0 { 0 } else { self.bounds().1.min(self.replicas) }
    }

    /// Deletes old sets beyond the revision history limit, lowest revision first, if they have no pods.
    pub fn clean_up(&mut self) {
        let Some(limit) = self.spec.revision_history_limit.filter(|limit| *limit < i32::MAX) else { return };
        let mut old = self
            .sets
            .old
            .iter()
            .filter(|set| set.set.metadata.deletion_timestamp.is_none())
            .collect::<Vec<_>>();
        let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        old.sort_by_key(|set| super::revision::revision_of(set));
        let outdated = old.into_iter().take(surplus).filter(|set| is_spent(set));
        self.outdated = outdated.filter_map(|set| set.original.clone()).collect();
    }

    fn grow_new(&mut self) -> bool {
        let Some(mut new) = self.sets.new.take() else { return false };
        let current = new.replicas();
        let wanted = if current > self.replicas { self.replicas } else { self.wanted_of_new(current) };
        let is_changed = wanted != current;
        if is_changed {
            new.set_replicas(wanted);
            annotate_sizes(&mut new, self.replicas, self.replicas + self.max_surge());
        }
        self.sets.new = Some(new);
        is_changed
    }

    /// Unhealthy old pods go first, as nobody misses them; then as many healthy ones as are to spare.
    fn shrink_old(&mut self) -> bool {
        if self.sets.old.iter().all(|set| set.replicas() == 0) {
            return false;
        }
        let least_available = self.replicas - self.max_unavailable();
        let new_unavailable = self.sets.new.as_ref().map_or(0, |new| new.replicas() - new.available());
        let may_go = self.sets.replicas() - least_available - new_unavailable;
        if may_go <= 0 {
            return false;
        }
        let unhealthy = shrink(&mut self.sets, may_go, |set| set.replicas() - set.available());
        let to_spare = self.sets.available() - least_available;
        let healthy = shrink(&mut self.sets, to_spare, WorkingSet::replicas);
        let (replicas, maximum) = (self.replicas, self.replicas + self.max_surge());
        for set in self.sets.old.iter_mut().filter(|set| set.replicas() != set.before()) {
            annotate_sizes(set, replicas, maximum);
        }
        unhealthy + healthy > 0
    }

    fn has_old_pods(&self) -> bool {
        let running = |set: &WorkingSet| {
            self.view.cache.pods_controlled_by(set.set.uid()).any(|pod| !pod.brief.is_terminal)
        };
        self.sets.old.iter().any(running)
    }

    /// `maxSurge` and `maxUnavailable` as numbers. Both zero would be a standstill, so then one may be missing.
    fn bounds(&self) -> (i32, i32) {
        if self.is_recreate() {
            return (0, 0);
        }
        let rolling = self.spec.strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
        let default = RollingUpdateDeployment::default();
        let RollingUpdateDeployment { max_surge, max_unavailable } = rolling.unwrap_or(&default);
        let scale = |value: &Option<_>, rounding| match value {
            Some(value) => scaled(value, self.replicas, rounding).unwrap_or(0),
            None => 0,
        };
        let surge = scale(max_surge, Rounding::Up);
        let unavailable = scale(max_unavailable, Rounding::Down);
        if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
    }
}

/// Takes up to `budget` replicas from the old sets, oldest first, of each at most what `spare` says.
fn shrink(sets: &mut Sets, budget: i32, spare: impl Fn(&WorkingSet) -> i32) -> i32 {
    let mut gone = 0;
    for set in &mut sets.old {
        let count = spare(set).min(budget - gone).min(set.replicas());
        if count > 0 {
            set.set_replicas(set.replicas() - count);
            gone += count;
        }
    }
    gone
}

/// Whether nothing is left of the set, as far as its own controller has seen.
fn is_spent(set: &WorkingSet) -> bool {
    let status = set.set.status.as_ref();
    let observed = status.and_then(|status| status.observed_generation).unwrap_or(0);
    set.replicas() == 0
        && status.is_none_or(|status| status.replicas == 0)
        && set.set.metadata.generation.unwrap_or(0) <= observed
        && !set.is_changed()
}
