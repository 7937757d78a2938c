//! Scaling outside of rollout steps: while paused, and when `spec.replicas` itself changed.

use super::{
    reconcile::Look,
    revision::{annotate_sizes, desired_of, maximum_of},
    sets::WorkingSet,
};

impl Look<'_> {
    /// Whether some set was scaled for another size of the Deployment than it has now.
    pub fn is_being_scaled(&self) -> bool {
        let mut active = self.sets.iter().filter(|set| set.replicas() > 0);
        active.any(|set| desired_of(set).is_some_and(|desired| desired != self.replicas))
    }

    /// Gives the one active set the size of the Deployment; during a rollout, shares the difference among all
    /// active sets in proportion, so that a bad rollout does not grow faster than the good pods around it.
    pub fn scale(&mut self) {
        let (replicas, maximum) = (self.replicas, self.replicas + self.max_surge());
        if let Some(set) = self.sets.active_or_latest() {
            if set.replicas() != replicas {
                set.set_replicas(replicas);
                annotate_sizes(set, replicas, maximum);
            }
            return;
        }
        if self.is_saturated() {
            for set in self.sets.old.iter_mut().filter(|set| set.replicas() > 0) {
                set.set_replicas(0);
                annotate_sizes(set, replicas, maximum);
            }
            return;
        }
        if !self.is_recreate() {
            self.scale_in_proportion();
        }
    }

    /// Whether the new set has reached the size of the Deployment, all of it available.
    fn is_saturated(&self) -> bool {
        self.sets.new.as_ref().is_some_and(|new| {
            desired_of(new) == Some(self.replicas)
                && new.replicas() == self.replicas
                && new.available() == self.replicas
        })
    }

    fn scale_in_proportion(&mut self) {
        let (total, replicas) = (self.sets.replicas(), self.replicas);
        let allowed = if self.replicas > 0 { self.replicas + self.max_surge() } else { 0 };
        let to_add = allowed - total;
        let maximum = self.replicas + self.max_surge();
        let status_replicas = self.deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or(0);
        let (is_zero, mut added) = (self.replicas == 0, 0);
        let mut active = self.sets.active_by_size(to_add > 0);
        for set in &mut active {
            let share = match to_add - added {
                0 => 0,
                rest if to_add > 0 => fraction(set, is_zero, maximum, status_replicas).min(rest),
                rest => fraction(set, is_zero, maximum, status_replicas).max(rest),
            };
            added += share;
            set.set_replicas(set.replicas() + share);
        }
        if let Some(largest) = active.first_mut() {
            // What rounding left over.
            let size = largest.replicas() + to_add - added;
            largest.set_replicas(size.max(0));
        }
        for set in active {
            annotate_sizes(set, replicas, maximum);
        }
    }
}

/// By how much the set would change if it kept its share of the Deployment.
fn fraction(set: &WorkingSet, is_zero: bool, maximum: i32, status_replicas: i32) -> i32 {
    if is_zero {
        return -set.replicas();
    }
    let before = maximum_of(set).filter(|maximum| *maximum != 0).unwrap_or(status_replicas);
    if before == 0 {
        return 0;
    }
    let size = f64::from(set.replicas()) * f64::from(maximum) / f64::from(before);
    size.round() as i32 - set.replicas()
}
