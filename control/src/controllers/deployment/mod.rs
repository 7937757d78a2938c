//! Deployments: move pods from one template to the next without a gap.
//!
//! Each template has a ReplicaSet of its own; a rollout shifts replicas from the old ones to the new one within
//! the bounds of the strategy. A look computes the wanted number of every set from what the sets report, so any
//! interruption is harmless: the next look computes on.
//!
//! **Invariant:** desired replicas of all sets never exceed `replicas + maxSurge` because of a rollout, and no
//! available pod is given up below `replicas - maxUnavailable`.

mod reconcile;
mod revision;
mod rollout;
mod scale;
mod sets;
mod status;
#[cfg(test)]
mod tests;

pub use reconcile::Deployments;
