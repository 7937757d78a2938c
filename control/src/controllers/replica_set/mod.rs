//! ReplicaSets: as many Pods from one template as the set asks for.
//!
//! Pods belong to a set by owner reference. Matching pods without a controller are adopted, owned ones that
//! match no longer are released. Pods that ended or are being deleted count as gone, so they are replaced at
//! once; which ones a smaller set loses is decided in [`ranking`].

mod ranking;
mod reconcile;
mod status;
#[cfg(test)]
mod tests;

pub use reconcile::ReplicaSets;
