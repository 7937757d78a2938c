//! Pods of one workload go to different nodes, where there are any: losing a node loses few of them.
//!
//! A workload is what shares a controlling owner (a ReplicaSet, a StatefulSet, …), which is what Kubernetes'
//! default spreading finds by way of selectors. Not here: zones, and the constraints that a pod states itself.

use crate::scheduler::{
    PodInfo,
    framework::{NodeScore, Scale, Score},
};

pub struct EvenSpread;

/// Points are the workload's pods that are on the node already.
impl Score for EvenSpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn scale(&self) -> Scale {
        Scale::FewerIsBetter
    }

    fn prepare<'a>(&self, pod: &'a PodInfo) -> Option<NodeScore<'a>> {
        let workload = pod.workload.as_deref()?;
        Some(Box::new(move |node| i64::from(node.pods_of(workload))))
    }
}
