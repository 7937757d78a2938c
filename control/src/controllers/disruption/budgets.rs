//! Counts the pods of a budget, and reports what that leaves for evictions.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    api::{
        core::v1::Pod,
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus},
    },
    apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time},
    jiff::{SignedDuration, Timestamp},
};
use naru_model::{
    Object, condition,
    selector::{format_api, matches_api},
};

use super::{
    NAME,
    expected::{Expected, expected},
};
use crate::{
    controllers::{
        common::{reference, until},
        framework::{
            Action, Cache, Change, ClusterView, Member, Note, Plan, Reconciler, Report, Write, brief,
            controller_of, decoded,
        },
    },
    registry::Registry,
    store::Key,
};

const CONDITION: &str = "DisruptionAllowed";
/// How long an evicted pod counts as lost while nothing shows that it goes.
const DELETION_TIMEOUT: SignedDuration = SignedDuration::from_mins(2);
/// A count takes a look at every pod of the budget, and a thousand of them may change at once.
const PACE: Duration = Duration::from_millis(100);

/// Keeps the status of each budget.
pub struct Budgets {
    /// Knows which kinds have a scale.
    pub registry: Registry,
}

impl Reconciler for Budgets {
    type Object = PodDisruptionBudget;

    fn name(&self) -> &'static str {
        NAME
    }

    /// Only pods: a workload that is scaled shows in its pods, too.
    fn concerns(&self, change: &Change<'_>, cache: &Cache, look: &mut dyn FnMut(Key)) {
        if !cache.has_budgets() || !change.is::<Pod>() || !matters(change) {
            return;
        }
        for entry in cache.budgets_in(change.entry.key.namespace()) {
            let Some(budget) = decoded::<PodDisruptionBudget>(entry) else { continue };
            let Some(selector) = selector_of(&budget) else { continue };
            if change.states().any(|pod| matches_api(selector, &*pod.meta.labels)) {
                look(entry.key.clone());
            }
        }
    }

    fn reconcile(&self, budget: &PodDisruptionBudget, view: &ClusterView<'_>) -> Plan {
        let pods = pods_of(budget, view.cache);
        let mut news = Vec::new();
        if pods.is_empty() {
            news.push(about(budget, Note::normal("NoPods", "No matching pods found")));
        }
        let mut plan = Plan::nothing();
        let status = match expected(budget, &pods, view.cache, &self.registry.kinds()) {
            Ok(expected) => {
                if expected.has_unmanaged {
                    news.push(about(budget, unmanaged(budget)));
                }
                let disrupted = Disrupted::of(budget, &pods, view.now);
                news.extend(
                    disrupted
                        .overdue
                        .iter()
                        .filter_map(Member::pod)
                        .map(|pod| about(&*pod, not_deleted(budget))),
                );
                if let Some(next) = disrupted.next_expiry {
                    plan.look_again(until(next, view.now));
                }
                counted(budget, &pods, &expected, disrupted.waiting, view.now)
            }
            Err(problem) => {
                let message = format!("Failed to calculate the number of expected pods: {problem}");
                news.push(about(budget, Note::warning("CalculateExpectedPodCountFailed", message)));
                failed(budget, problem, view.now)
            }
        };
        if budget.status.as_ref() != Some(&status) {
            let budget = PodDisruptionBudget { status: Some(status), ..budget.clone() };
            plan.then([Write::update_status(budget)]);
            // With what changed, not with each look: the same news at every change of a pod would tell nothing.
            plan.then(news);
        }
        plan
    }

    fn pace(&self) -> Duration {
        PACE
    }
}

/// Whether a count may come out differently after this change of a pod.
fn matters(change: &Change<'_>) -> bool {
    let Some(previous) = change.previous.filter(|_| !change.is_deleted) else { return true };
    let (old, new) = (&previous.meta, &change.entry.meta);
    let owner = |meta| controller_of(meta).map(|owner| &owner.uid);
    if old.uid != new.uid || old.labels != new.labels || owner(old) != owner(new) {
        return true;
    }
    let is_ready = |entry| brief(entry).is_some_and(|pod| pod.is_ready);
    old.deletion_timestamp.is_some() != new.deletion_timestamp.is_some()
        || is_ready(previous) != is_ready(change.entry)
}

fn selector_of(budget: &PodDisruptionBudget) -> Option<&LabelSelector> {
    budget.spec.as_ref()?.selector.as_ref()
}

/// The pods that the budget is about: all of the namespace for an empty selector, none without one.
fn pods_of(budget: &PodDisruptionBudget, cache: &Cache) -> Vec<Member> {
    let Some(selector) = selector_of(budget) else { return Vec::new() };
    let matches = |pod: &Member| matches_api(selector, pod.labels());
    match &selector.match_labels {
        Some(labels) if !labels.is_empty() => {
            cache.pods_with_labels(budget.namespace(), labels).filter(matches).collect()
        }
        _ => cache.pods_in(budget.namespace()).filter(matches).collect(),
    }
}

/// What became of the pods whose eviction the budget has paid for.
struct Disrupted {
    /// Those that have not gone yet, and since when they should.
    waiting: BTreeMap<String, Time>,
    /// Those that stayed for too long.
    overdue: Vec<Member>,
    /// When the first of those that wait is overdue.
    next_expiry: Option<Timestamp>,
}

impl Disrupted {
    fn of(budget: &PodDisruptionBudget, pods: &[Member], now: Timestamp) -> Self {
        let mut disrupted = Self { waiting: BTreeMap::new(), overdue: Vec::new(), next_expiry: None };
        let Some(known) = budget.status.as_ref().and_then(|status| status.disrupted_pods.as_ref()) else {
            return disrupted;
        };
        for pod in pods.iter().filter(|pod| !pod.is_deleting()) {
            let Some(since) = known.get(pod.name()) else { continue };
            let expiry = since.0.saturating_add(DELETION_TIMEOUT).unwrap_or(Timestamp::MAX);
            if expiry <= now {
                disrupted.overdue.push(pod.clone());
            } else {
                disrupted.next_expiry = Some(disrupted.next_expiry.map_or(expiry, |next| next.min(expiry)));
                disrupted.waiting.insert(pod.name().into(), since.clone());
            }
        }
        disrupted
    }
}

/// The status with new counts.
fn counted(
    budget: &PodDisruptionBudget,
    pods: &[Member],
    expected: &Expected,
    waiting: BTreeMap<String, Time>,
    now: Timestamp,
) -> PodDisruptionBudgetStatus {
    let is_healthy =
        |pod: &&Member| !pod.is_deleting() && !waiting.contains_key(pod.name()) && pod.brief.is_ready;
    let healthy = i32::try_from(pods.iter().filter(is_healthy).count()).unwrap_or(i32::MAX);
    // A budget without pods allows nothing, or its first pods could go before they are counted.
    let allowed = if expected.pods > 0 { healthy.saturating_sub(expected.desired_healthy).max(0) } else { 0 };
    let old = budget.status.as_ref();
    let mut status = PodDisruptionBudgetStatus {
        conditions: old.and_then(|status| status.conditions.clone()),
        current_healthy: Some(healthy),
        desired_healthy: Some(expected.desired_healthy),
        disrupted_pods: (!waiting.is_empty()).then_some(waiting),
        disruptions_allowed: Some(allowed),
        expected_pods: Some(expected.pods),
        observed_generation: budget.metadata.generation,
    };
    let reason = if allowed > 0 { "SufficientPods" } else { "InsufficientPods" };
    report(&mut status, allowed > 0, reason, String::new(), now);
    status
}

/// The status of a budget that cannot be counted: nothing is allowed. It does not claim to have seen the spec.
fn failed(budget: &PodDisruptionBudget, problem: String, now: Timestamp) -> PodDisruptionBudgetStatus {
    let mut status = budget.status.clone().unwrap_or_default();
    status.disruptions_allowed = Some(0);
    report(&mut status, false, "SyncFailed", problem, now);
    status
}

fn report(
    status: &mut PodDisruptionBudgetStatus,
    is_allowed: bool,
    reason: &str,
    message: String,
    now: Timestamp,
) {
    let condition = Condition {
        type_: CONDITION.into(),
        status: if is_allowed { "True" } else { "False" }.into(),
        reason: reason.into(),
        message,
        last_transition_time: Time(now),
        observed_generation: status.observed_generation,
    };
    condition::set(&mut status.conditions, condition, now);
}

fn about<T: Object>(object: &T, note: Note) -> Write {
    let report = Report { about: reference(object), success: Some(note), failure: None };
    Write::from(Action::Tell).reported(report)
}

fn unmanaged(budget: &PodDisruptionBudget) -> Note {
    let selector = format_api(selector_of(budget));
    Note::warning(
        "UnmanagedPods",
        format!(
            "Pods selected by this PodDisruptionBudget (selector: {selector}) have no controller, so they are not \
             counted as expected and its status may not say what it should; to count them, set \
             \".spec.minAvailable\" to an integer"
        ),
    )
}

fn not_deleted(budget: &PodDisruptionBudget) -> Note {
    let (namespace, name) = (budget.namespace(), budget.name());
    Note::warning(
        "NotDeleted",
        format!("Pod was expected by PDB {namespace}/{name} to be deleted but it wasn't"),
    )
}
