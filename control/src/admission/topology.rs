//! PodTopologyLabels: pods are told by labels in which zone and region they are, so that they may read it through the
//! downward API. A pod's own labels stay as they are.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Binding, Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::chain::{Plugin, Write};
use crate::{
    ApiError,
    registry::AnyObject,
    store::{Key, Snapshot},
};

/// What is copied from nodes.
const LABELS: [&str; 2] = ["topology.kubernetes.io/region", "topology.kubernetes.io/zone"];

/// Pods that are created on their node; others get the labels from their binding.
pub(super) struct PodTopologyLabels;

impl Plugin for PodTopologyLabels {
    fn mutate(&self, write: &Write<'_>, object: &mut dyn AnyObject) -> Result<(), ApiError> {
        let Some(pod) = object.get_mut::<Pod>().filter(|_| write.is_create()) else { return Ok(()) };
        if let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) {
            add(&mut pod.metadata, of_node(write.view, node));
        }
        Ok(())
    }
}

/// Adds the labels of the node to its binding, from which the pod gets them.
pub fn label_binding(view: &Snapshot, binding: &mut Binding) {
    if binding.target.kind.as_deref() == Some("Node") {
        let labels = of_node(view, binding.target.name.as_deref().unwrap_or_default());
        add(&mut binding.metadata, labels);
    }
}

/// Adds `labels` that are not there yet.
pub fn add(meta: &mut ObjectMeta, labels: BTreeMap<String, String>) {
    if labels.is_empty() {
        return;
    }
    let present = meta.labels.get_or_insert_default();
    for (key, value) in labels {
        present.entry(key).or_insert(value);
    }
}

fn of_node(view: &Snapshot, name: &str) -> BTreeMap<String, String> {
    let Some(node) = view.get(&Key::new("nodes", "", name)) else { return BTreeMap::new() };
    let labels =
        LABELS.iter().filter_map(|key| Some(((*key).to_owned(), node.meta.labels.get(*key)?.clone())));
    labels.collect()
}
