//! Nodes: their pod ranges, whether they are alive, and what becomes of their pods when they are not.
//!
//! A node that falls silent becomes Unknown ([`lifecycle`]) and is tainted; pods that do not tolerate the taint
//! long enough are deleted ([`eviction`]); pods whose node is gone for good are removed by force ([`pod_gc`]).
//!
//! **Deliberately absent:** eviction rates per zone. Only the case that matters most is kept: when every node is
//! silent, the fault is more likely ours, and nobody is evicted.

mod eviction;
mod ipam;
mod lifecycle;
mod pod_gc;
#[cfg(test)]
mod tests;

pub use eviction::TaintEviction;
pub use ipam::NodeIpam;
pub use lifecycle::NodeLifecycle;
pub use pod_gc::PodGc;

use k8s_openapi::api::core::v1::{Node, NodeCondition};

/// The status of the node's Ready condition, "" where it has none yet.
fn ready_status(node: &Node) -> &str {
    condition(node, "Ready").map_or("", |condition| condition.status.as_str())
}

fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    naru_model::condition::find(node.status.as_ref()?.conditions.as_ref(), kind)
}
