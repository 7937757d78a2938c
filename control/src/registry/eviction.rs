//! Evictions: deletions of pods that budgets may forbid.

use std::time::Duration;

use k8s_openapi::{
    api::{
        core::v1::{Pod, PodStatus},
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus},
    },
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use naru_model::{Object as _, condition, pod, selector::matches_api};

use super::{Call, Part, Registry, path::damaged};
use crate::{ApiError, client::Delete, store::Scope};

const BUDGETS: &str = "poddisruptionbudgets.policy";
/// Evictions that the budgets' controller has not confirmed yet.
const MAX_UNCONFIRMED: usize = 2000;
/// When a budget that its controller has not seen yet is asked for again.
const RETRY_AFTER: Duration = Duration::from_secs(10);
const CONDITION: &str = "DisruptionAllowed";

impl Registry {
    /// Deletes the pod named by `call` unless a budget forbids it. Whoever admits evictions was asked.
    pub async fn evict(&self, call: &Call<'_>, options: &Delete) -> Result<(), ApiError> {
        let entry = self.entry(call)?;
        let object = call.served.kind.load(&entry).map_err(|error| damaged(&entry, &error))?;
        let pod = object.get::<Pod>().ok_or(ApiError::MethodNotAllowed)?;
        let mut options = options.clone();
        if !is_free(pod) {
            let budgets = self.budgets_of(pod)?;
            match budgets.as_slice() {
                [] => (),
                [budget] if allows_unhealthy(pod, budget) => {
                    // It must still be unhealthy when it goes.
                    options.resource_version.get_or_insert_with(|| entry.revision.0.to_string());
                }
                [budget] => self.take_from(call, budget).await?,
                _ => {
                    return Err(ApiError::Internal(
                        "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
                            .into(),
                    ));
                }
            }
            if options.resource_version.is_none() && !call.dry_run {
                self.announce(call).await?;
            }
        }
        self.delete(call, &options).await.map(drop)
    }

    fn budgets_of(&self, pod: &Pod) -> Result<Vec<PodDisruptionBudget>, ApiError> {
        let view = self.store().snapshot();
        let mut budgets = Vec::new();
        for entry in view.range(&Scope::namespace(BUDGETS, pod.namespace()), None) {
            let budget = entry.typed::<PodDisruptionBudget>().map_err(|error| damaged(&entry, &error))?;
            let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            if selector.is_some_and(|selector| matches_api(selector, pod.metadata.labels.as_ref())) {
                budgets.push((*budget).clone());
            }
        }
        Ok(budgets)
    }

    /// Counts the eviction in the budget's status, or says why it may not be.
    async fn take_from(&self, call: &Call<'_>, budget: &PodDisruptionBudget) -> Result<(), ApiError> {
        let served = self.kinds().named(BUDGETS).ok_or(ApiError::NoSuchPath)?.clone();
        let of_budget = Call { served: &served, name: budget.name(), ..*call };
        let now = Timestamp::now();
        self.update(&of_budget, Part::Status, |entry| {
            let entry = entry.ok_or_else(|| of_budget.not_found())?;
            let mut object = served.kind.load(entry).map_err(|error| damaged(entry, &error))?.boxed();
            if let Some(budget) = object.get_mut::<PodDisruptionBudget>() {
                decrement(budget, call.name, now)?;
            }
            object.meta_mut().resource_version = None;
            Ok(object)
        })
        .await
        .map(drop)
    }

    /// Says in the pod's status why it goes.
    async fn announce(&self, call: &Call<'_>) -> Result<(), ApiError> {
        let now = Timestamp::now();
        self.update(call, Part::Status, |entry| {
            let entry = entry.ok_or_else(|| call.not_found())?;
            let mut object = call.served.kind.load(entry).map_err(|error| damaged(entry, &error))?.boxed();
            if let Some(pod) = object.get_mut::<Pod>() {
                let status = pod.status.get_or_insert_with(PodStatus::default);
                let message = Some("Eviction API: evicting");
                let target = condition::pod("DisruptionTarget", true, Some("EvictionByEvictionAPI"), message);
                condition::set(&mut status.conditions, target, now);
            }
            object.meta_mut().resource_version = None;
            Ok(object)
        })
        .await
        .map(drop)
    }
}

/// Pods that do not run, or go already, cost no budget.
fn is_free(pod: &Pod) -> bool {
    pod::is_terminal(pod) || pod::phase(pod) == "Pending" || pod.metadata.deletion_timestamp.is_some()
}

/// A pod that serves nobody may go while enough others do, or always where the budget says so.
fn allows_unhealthy(pod: &Pod, budget: &PodDisruptionBudget) -> bool {
    if pod::is_ready(pod) {
        return false;
    }
    let policy = budget.spec.as_ref().and_then(|spec| spec.unhealthy_pod_eviction_policy.as_deref());
    let (current, desired) = health(budget);
    policy == Some("AlwaysAllow") || (desired > 0 && current >= desired)
}

fn health(budget: &PodDisruptionBudget) -> (i32, i32) {
    let status = budget.status.as_ref();
    (
        status.and_then(|status| status.current_healthy).unwrap_or(0),
        status.and_then(|status| status.desired_healthy).unwrap_or(0),
    )
}

fn decrement(budget: &mut PodDisruptionBudget, pod: &str, now: Timestamp) -> Result<(), ApiError> {
    let name = budget.name().to_owned();
    let generation = budget.metadata.generation.unwrap_or(0);
    let (current, desired) = health(budget);
    let status = budget.status.get_or_insert_with(PodDisruptionBudgetStatus::default);
    if status.observed_generation.unwrap_or(0) < generation {
        let why = format!("The disruption budget {name} is still being processed by the server.");
        return Err(ApiError::EvictionRefused { why, retry_after: Some(RETRY_AFTER) });
    }
    let allowed = status.disruptions_allowed.unwrap_or(0);
    let forbidden = |message: &str| ApiError::Refused {
        resource: "poddisruptionbudget.policy".into(),
        name: name.clone(),
        message: message.into(),
        causes: Vec::new(),
    };
    if allowed < 0 {
        return Err(forbidden("pdb disruptions allowed is negative"));
    }
    if status.disrupted_pods.as_ref().map_or(0, |pods| pods.len()) > MAX_UNCONFIRMED {
        return Err(forbidden(
            "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
        ));
    }
    if allowed == 0 {
        let found = status.conditions.iter().flatten().find(|condition| condition.type_ == CONDITION);
        let failed = found.filter(|found| found.status == "False" && found.reason == "SyncFailed");
        let why = match failed.filter(|found| !found.message.is_empty()) {
            Some(found) => format!(
                "The disruption budget {name} does not allow evicting pods currently because it failed sync: {}",
                found.message
            ),
            None if current <= desired => {
                format!(
                    "The disruption budget {name} needs {desired} healthy pods and has {current} currently"
                )
            }
            None => format!("The disruption budget {name} does not allow evicting pods currently"),
        };
        return Err(ApiError::EvictionRefused { why, retry_after: None });
    }
    status.disruptions_allowed = Some(allowed - 1);
    status.disrupted_pods.get_or_insert_default().insert(pod.into(), Time(now));
    if allowed == 1 {
        let exhausted = Condition {
            type_: CONDITION.into(),
            status: "False".into(),
            reason: "InsufficientPods".into(),
            message: String::new(),
            last_transition_time: Time(now),
            observed_generation: status.observed_generation,
        };
        condition::set(&mut status.conditions, exhausted, now);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn taken(status: Value) -> (PodDisruptionBudget, Result<(), ApiError>) {
        let budget = json!({ "metadata": { "name": "web", "generation": 2 }, "status": status });
        let mut budget: PodDisruptionBudget = serde_json::from_value(budget).expect("a budget");
        let result = decrement(&mut budget, "one", Timestamp::UNIX_EPOCH);
        (budget, result)
    }

    fn refusal(status: Value) -> Value {
        serde_json::to_value(taken(status).1.expect_err("it is refused").to_status()).expect("JSON")
    }

    #[test]
    fn a_budget_that_nobody_counted_yet_asks_for_patience() {
        let status = refusal(json!({ "observedGeneration": 1, "disruptionsAllowed": 1 }));
        assert_eq!((&status["code"], &status["reason"]), (&json!(429), &json!("TooManyRequests")));
        assert_eq!(status["details"]["retryAfterSeconds"], 10);
        let cause = json!({
            "reason": "DisruptionBudget",
            "message": "The disruption budget web is still being processed by the server.",
        });
        assert_eq!(status["details"]["causes"], json!([cause]));
    }

    #[test]
    fn a_spent_budget_says_what_it_needs() {
        let spent = json!({ "observedGeneration": 2, "desiredHealthy": 2, "currentHealthy": 2 });
        let status = refusal(spent);
        assert_eq!(status["details"].get("retryAfterSeconds"), None);
        let message = &status["details"]["causes"][0]["message"];
        assert_eq!(message, "The disruption budget web needs 2 healthy pods and has 2 currently");
        let failed = json!({
            "type": "DisruptionAllowed", "status": "False", "reason": "SyncFailed", "message": "no scale",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        });
        let status = refusal(json!({ "observedGeneration": 2, "conditions": [failed] }));
        let message = status["details"]["causes"][0]["message"].as_str().expect("a message");
        assert!(message.ends_with("because it failed sync: no scale"), "{message}");
    }

    #[test]
    fn an_eviction_is_noted_until_it_is_confirmed() {
        let (budget, result) = taken(json!({ "observedGeneration": 2, "disruptionsAllowed": 2 }));
        result.expect("there is one to spare");
        let status = budget.status.expect("a status");
        assert_eq!(status.disruptions_allowed, Some(1));
        assert!(
            status.disrupted_pods.is_some_and(|pods| pods.contains_key("one")) && status.conditions.is_none()
        );
    }
}
