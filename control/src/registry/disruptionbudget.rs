//! PodDisruptionBudgets: how many pods of a set may be evicted at once. The eviction itself is in `eviction`.

use k8s_openapi::{
    api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus},
    apimachinery::pkg::util::intstr::IntOrString,
    jiff::Timestamp,
};
use naru_model::{
    ResourceInfo,
    validation::{FieldErrors, Path},
};
use serde_json::{Value, json};

use super::{Column, Kind, kind::Context, podspec::check, text, workload};

pub struct PodDisruptionBudgets;

static RESOURCE: ResourceInfo = ResourceInfo {
    group: "policy",
    subresources: &["status"],
    ..text::core_resource("PodDisruptionBudget", "poddisruptionbudgets", "poddisruptionbudget", &["pdb"])
};

const COLUMNS: &[Column] = &[
    text::NAME,
    text::column("Min Available", "string", 0, "The minimum number of pods that must be available."),
    text::column("Max Unavailable", "string", 0, "The maximum number of pods that may be unavailable."),
    text::column(
        "Allowed Disruptions",
        "integer",
        0,
        "Calculated number of pods that may be disrupted at this time.",
    ),
    text::AGE,
];

impl Kind for PodDisruptionBudgets {
    type Object = PodDisruptionBudget;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn prepare_create(&self, budget: &mut PodDisruptionBudget, _context: &Context<'_>) {
        budget.status = Some(PodDisruptionBudgetStatus {
            current_healthy: Some(0),
            desired_healthy: Some(0),
            disruptions_allowed: Some(0),
            expected_pods: Some(0),
            ..PodDisruptionBudgetStatus::default()
        });
    }

    fn prepare_update(
        &self,
        new: &mut PodDisruptionBudget,
        old: &PodDisruptionBudget,
        _context: &Context<'_>,
    ) {
        new.status.clone_from(&old.status);
    }

    fn prepare_status_update(
        &self,
        new: &mut PodDisruptionBudget,
        old: &PodDisruptionBudget,
        _context: &Context<'_>,
    ) {
        new.spec.clone_from(&old.spec);
    }

    fn validate(&self, budget: &PodDisruptionBudget, errors: &mut FieldErrors) {
        let Some(spec) = &budget.spec else { return };
        let path = Path::new("spec");
        if spec.min_available.is_some() && spec.max_unavailable.is_some() {
            errors.invalid(&path, json!(spec), "minAvailable and maxUnavailable cannot be both set");
        }
        for (name, value) in
            [("minAvailable", &spec.min_available), ("maxUnavailable", &spec.max_unavailable)]
        {
            if let Some(value) = value {
                workload::positive_or_percent(value, &path.child(name), errors);
                workload::not_more_than_all(value, &path.child(name), errors);
            }
        }
        check::label_selector(spec.selector.as_ref(), &path.child("selector"), errors);
        if let Some(policy) = &spec.unhealthy_pod_eviction_policy {
            let path = path.child("unhealthyPodEvictionPolicy");
            check::one_of(policy, &["AlwaysAllow", "IfHealthyBudget"], &path, errors);
        }
    }

    fn validate_status_update(
        &self,
        new: &PodDisruptionBudget,
        _old: &PodDisruptionBudget,
        errors: &mut FieldErrors,
    ) {
        let Some(status) = &new.status else { return };
        workload::counts(
            &[
                ("disruptionsAllowed", status.disruptions_allowed.map(Into::into)),
                ("currentHealthy", status.current_healthy.map(Into::into)),
                ("desiredHealthy", status.desired_healthy.map(Into::into)),
                ("expectedPods", status.expected_pods.map(Into::into)),
            ],
            &Path::new("status"),
            errors,
        );
    }

    fn is_spec_changed(&self, new: &PodDisruptionBudget, old: &PodDisruptionBudget) -> bool {
        new.spec != old.spec
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, budget: &PodDisruptionBudget, now: Timestamp) -> Vec<Value> {
        let spec = budget.spec.as_ref();
        let cell = |value: Option<&IntOrString>| match value {
            None => "N/A".to_owned(),
            Some(IntOrString::Int(number)) => number.to_string(),
            Some(IntOrString::String(text)) => text.clone(),
        };
        vec![
            text::name(&budget.metadata),
            cell(spec.and_then(|spec| spec.min_available.as_ref())).into(),
            cell(spec.and_then(|spec| spec.max_unavailable.as_ref())).into(),
            budget.status.as_ref().and_then(|status| status.disruptions_allowed).unwrap_or_default().into(),
            text::age(&budget.metadata, now),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::testing::{check, create, now};

    #[test]
    fn a_budget_has_one_bound() {
        let yaml = "{metadata: {name: web, namespace: d}, spec: {minAvailable: 50%, selector: {matchLabels: {app: web}}}}";
        let (budget, errors) = create(&PodDisruptionBudgets, yaml);
        assert_eq!(errors, [] as [&str; 0]);
        assert_eq!(json!(PodDisruptionBudgets.row(&budget, now())[1..4]), json!(["50%", "N/A", 0]));
        check(
            &PodDisruptionBudgets,
            "{metadata: {name: web}, spec: {minAvailable: 1, maxUnavailable: 101%, unhealthyPodEvictionPolicy: Some}}",
            &[
                "spec: Invalid value: {\"maxUnavailable\":\"101%\",\"minAvailable\":1,…",
                "spec.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%",
                "spec.unhealthyPodEvictionPolicy: Unsupported value: \"Some\": supported values: \"AlwaysAllow\", \"IfHealthyBudget\"",
            ],
        );
    }
}
