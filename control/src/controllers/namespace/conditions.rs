//! What a namespace on its way out says about what holds it.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Namespace, NamespaceCondition},
    jiff::Timestamp,
};
use naru_model::condition;

use super::{Found, Remains};
use crate::controllers::framework::Write;

/// The status, where it changes.
pub fn report(
    namespace: &Namespace,
    remains: &[Remains<'_>],
    found: &Found,
    now: Timestamp,
) -> Option<Write> {
    let mut namespace = namespace.clone();
    let status = namespace.status.get_or_insert_default();
    let mut is_changed = status.phase.as_deref() != Some("Terminating");
    status.phase = Some("Terminating".into());
    let conditions = [
        either(
            "NamespaceDeletionDiscoveryFailure",
            ("ResourcesDiscovered", "All resources successfully discovered"),
            ("DiscoveryFailed", undiscovered(found)),
        ),
        either(
            "NamespaceDeletionGroupVersionParsingFailure",
            ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
            ("", None),
        ),
        either(
            "NamespaceDeletionContentFailure",
            ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
            ("ContentDeletionFailed", undeleted(found)),
        ),
        either(
            "NamespaceContentRemaining",
            ("ContentRemoved", "All content successfully removed"),
            ("SomeResourcesRemain", content(remains, found)),
        ),
        either(
            "NamespaceFinalizersRemaining",
            ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
            ("SomeFinalizersRemain", held_by_finalizers(remains, found)),
        ),
    ];
    for condition in conditions {
        let old = condition::find(status.conditions.as_ref(), &condition.type_);
        // A message that only counts down is not worth a write per object; what it names is.
        let is_same = |old: &NamespaceCondition| {
            old.status == condition.status
                && old.reason == condition.reason
                && without_counts(old).eq(without_counts(&condition))
        };
        if !old.is_some_and(is_same) {
            is_changed |= condition::set(&mut status.conditions, condition, now);
        }
    }
    is_changed.then(|| Write::update_status(namespace))
}

/// The words of a condition's message, but for numbers.
fn without_counts(condition: &NamespaceCondition) -> impl Iterator<Item = &str> {
    let words = condition.message.iter().flat_map(|message| message.split(' '));
    words.filter(|word| word.parse::<u64>().is_err())
}

fn undiscovered(found: &Found) -> Option<String> {
    let failing = &found.undiscovered;
    let each: Vec<String> =
        failing.iter().map(|version| format!("{version}: stale GroupVersion discovery: {version}")).collect();
    (!each.is_empty()).then(|| {
        format!(
            "Discovery failed for some groups, {} failing: unable to retrieve the complete list of server APIs: {}",
            each.len(),
            each.join(", ")
        )
    })
}

fn undeleted(found: &Found) -> Option<String> {
    let mut why = found.failures.clone();
    why.sort();
    let (count, why) = (why.len(), why.join(", "));
    (count > 0).then(|| format!("Failed to delete all resource types, {count} remaining: {why}"))
}

fn content(remains: &[Remains<'_>], found: &Found) -> Option<String> {
    let here = remains.iter().map(|remains| (remains.resource, remains.entries.len()));
    let there = found.remaining.iter().map(|(resource, count)| (resource.as_str(), *count));
    let mut counts: Vec<String> = here
        .chain(there)
        // The group stands behind the dot, also where it has no name.
        .map(|(resource, count)| {
            let dot = if resource.contains('.') { "" } else { "." };
            format!("{resource}{dot} has {count} resource instances")
        })
        .collect();
    counts.sort();
    (!counts.is_empty()).then(|| format!("Some resources are remaining: {}", counts.join(", ")))
}

/// The finalizers that hold content, with how many objects each holds.
fn held_by_finalizers(remains: &[Remains<'_>], found: &Found) -> Option<String> {
    let mut counts: BTreeMap<&str, usize> =
        found.finalizers.iter().map(|(finalizer, count)| (finalizer.as_str(), *count)).collect();
    let ending = remains.iter().flat_map(|remains| &remains.entries);
    for entry in ending.filter(|entry| entry.meta.deletion_timestamp.is_some()) {
        for finalizer in &entry.meta.finalizers {
            *counts.entry(finalizer).or_default() += 1;
        }
    }
    let each: Vec<String> = counts
        .into_iter()
        .map(|(finalizer, count)| format!("{finalizer} in {count} resource instances"))
        .collect();
    (!each.is_empty())
        .then(|| format!("Some content in the namespace has finalizers remaining: {}", each.join(", ")))
}

/// The condition that all is well, or with what is `wrong`.
fn either(kind: &str, fine: (&str, &str), wrong: (&str, Option<String>)) -> NamespaceCondition {
    let (status, reason, message) = match wrong {
        (reason, Some(message)) => ("True", reason, message),
        (_, None) => ("False", fine.0, fine.1.to_owned()),
    };
    NamespaceCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_transition_time: None,
    }
}
