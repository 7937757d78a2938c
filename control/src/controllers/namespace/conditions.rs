//! What a namespace on its way out says about what holds it.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Namespace, NamespaceCondition},
    jiff::Timestamp,
};
use naru_model::condition;

use super::Remains;
use crate::controllers::framework::Write;

/// The status, where it changes.
pub fn report(namespace: &Namespace, remains: &[Remains<'_>], now: Timestamp) -> Option<Write> {
    let mut namespace = namespace.clone();
    let status = namespace.status.get_or_insert_default();
    let mut is_changed = status.phase.as_deref() != Some("Terminating");
    status.phase = Some("Terminating".into());
    let held = held_by_finalizers(remains);
    let conditions = [
        fine(
            "NamespaceDeletionDiscoveryFailure",
            "ResourcesDiscovered",
            "All resources successfully discovered",
        ),
        fine(
            "NamespaceDeletionGroupVersionParsingFailure",
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
        ),
        fine(
            "NamespaceDeletionContentFailure",
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization",
        ),
        match remains {
            [] => fine("NamespaceContentRemaining", "ContentRemoved", "All content successfully removed"),
            _ => wrong("NamespaceContentRemaining", "SomeResourcesRemain", content(remains)),
        },
        match held.as_str() {
            "" => fine(
                "NamespaceFinalizersRemaining",
                "ContentHasNoFinalizers",
                "All content-preserving finalizers finished",
            ),
            _ => wrong("NamespaceFinalizersRemaining", "SomeFinalizersRemain", held),
        },
    ];
    for condition in conditions {
        let old = condition::find(status.conditions.as_ref(), &condition.type_);
        // A message that only counts down is not worth a write per object; the status is.
        if old.is_none_or(|old| old.status != condition.status || old.reason != condition.reason) {
            is_changed |= condition::set(&mut status.conditions, condition, now);
        }
    }
    is_changed.then(|| Write::update_status(namespace))
}

fn content(remains: &[Remains<'_>]) -> String {
    let counts = remains
        .iter()
        .map(|remains| format!("{} has {} resource instances", remains.resource, remains.entries.len()));
    format!("Some resources are remaining: {}", counts.collect::<Vec<_>>().join(", "))
}

/// The finalizers that hold content, with how many objects each holds; "" where none does.
fn held_by_finalizers(remains: &[Remains<'_>]) -> String {
    let mut counts = BTreeMap::<&str, usize>::new();
    let ending = remains.iter().flat_map(|remains| &remains.entries);
    for entry in ending.filter(|entry| entry.meta.deletion_timestamp.is_some()) {
        for finalizer in &entry.meta.finalizers {
            *counts.entry(finalizer).or_default() += 1;
        }
    }
    if counts.is_empty() {
        return String::new();
    }
    let counts =
        counts.into_iter().map(|(finalizer, count)| format!("{finalizer} in {count} resource instances"));
    format!(
        "Some content in the namespace has finalizers remaining: {}",
        counts.collect::<Vec<_>>().join(", ")
    )
}

fn fine(kind: &str, reason: &str, message: &str) -> NamespaceCondition {
    condition(kind, "False", reason, message.into())
}

fn wrong(kind: &str, reason: &str, message: String) -> NamespaceCondition {
    condition(kind, "True", reason, message)
}

fn condition(kind: &str, status: &str, reason: &str, message: String) -> NamespaceCondition {
    NamespaceCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_transition_time: None,
    }
}
