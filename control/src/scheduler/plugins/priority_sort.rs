//! Higher priority goes first.

use crate::scheduler::{PodInfo, framework::QueueSort};

pub struct PrioritySort;

impl QueueSort for PrioritySort {
    fn rank(&self, pod: &PodInfo) -> i64 {
        pod.priority.into()
    }
}
