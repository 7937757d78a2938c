//! Says of each PodDisruptionBudget how many of its pods may be evicted now, which is what evictions go by.
//!
//! **Invariant:** an eviction that was allowed is not allowed again before the pod is seen to go: the pod waits in
//! `status.disruptedPods` and counts as lost, for two minutes at most.
//! **Deliberately absent:** the decision about one eviction, `unhealthyPodEvictionPolicy` with it. That is made where
//! evictions come in (`registry/eviction.rs`), as it must be made in the same write.

mod budgets; // The counts of a budget.
mod expected; // How many pods there should be.
mod stale; // Pods that were to go and stayed.
#[cfg(test)]
mod tests;

pub use budgets::Budgets;
pub use stale::StaleTargets;

/// The user that both act as, with the rights of Kubernetes' controller of that name.
const NAME: &str = "disruption-controller";
