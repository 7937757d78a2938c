//! HorizontalPodAutoscalers: stored as v2, served as v1 as well.

mod columns;
mod metrics; // What is measured.
mod v1; // How v1 says the same.

use k8s_openapi::{
    api::autoscaling::v2::{
        CrossVersionObjectReference, HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscaler,
        HorizontalPodAutoscalerStatus, MetricSpec, MetricTarget, ResourceMetricSource,
    },
    jiff::Timestamp,
};
use naru_model::{
    ResourceInfo,
    quantity::Quantity,
    validation::{FieldErrors, Path, names},
};
use serde_json::Value;

use super::{
    Column, Kind,
    kind::Context,
    podspec::{OrEmpty, check},
    text, workload,
};

pub(super) use v1::{AS_V1, V1};

pub struct HorizontalPodAutoscalers;

static RESOURCE: ResourceInfo = resource("v2");

const fn resource(version: &'static str) -> ResourceInfo {
    ResourceInfo {
        group: "autoscaling",
        version,
        categories: &["all"],
        subresources: &["status"],
        ..text::core_resource(
            "HorizontalPodAutoscaler",
            "horizontalpodautoscalers",
            "horizontalpodautoscaler",
            &["hpa"],
        )
    }
}

const DEFAULT_CPU_PERCENT: i32 = 80;
const MAX_WINDOW_SECONDS: i32 = 3600;
const MAX_PERIOD_SECONDS: i32 = 1800;

impl Kind for HorizontalPodAutoscalers {
    type Object = HorizontalPodAutoscaler;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn default(&self, autoscaler: &mut HorizontalPodAutoscaler) {
        let spec = &mut autoscaler.spec;
        spec.min_replicas.get_or_insert(1);
        if spec.metrics.or_empty().is_empty() {
            spec.metrics = Some(vec![cpu_utilization()]);
        }
        metrics::canonicalize(spec.metrics.iter_mut().flatten());
        let Some(behavior) = &mut spec.behavior else { return };
        let up = behavior.scale_up.get_or_insert_default();
        up.stabilization_window_seconds.get_or_insert(0);
        default_rules(up, &[("Pods", 4), ("Percent", 100)]);
        default_rules(behavior.scale_down.get_or_insert_default(), &[("Percent", 100)]);
    }

    fn prepare_create(&self, autoscaler: &mut HorizontalPodAutoscaler, _context: &Context<'_>) {
        autoscaler.status =
            Some(HorizontalPodAutoscalerStatus { current_replicas: Some(0), ..Default::default() });
    }

    fn prepare_update(
        &self,
        new: &mut HorizontalPodAutoscaler,
        old: &HorizontalPodAutoscaler,
        _context: &Context<'_>,
    ) {
        new.status.clone_from(&old.status);
    }

    fn prepare_status_update(
        &self,
        new: &mut HorizontalPodAutoscaler,
        old: &HorizontalPodAutoscaler,
        _context: &Context<'_>,
    ) {
        new.spec.clone_from(&old.spec);
    }

    fn validate(&self, autoscaler: &HorizontalPodAutoscaler, errors: &mut FieldErrors) {
        let spec = &autoscaler.spec;
        let path = Path::new("spec");
        let (min, max_path) = (spec.min_replicas.unwrap_or(1), path.child("maxReplicas"));
        if min < 1 {
            errors.invalid(&path.child("minReplicas"), min, "must be greater than or equal to 1");
        }
        if spec.max_replicas < 1 {
            errors.invalid(&max_path, spec.max_replicas, "must be greater than 0");
        }
        if spec.max_replicas < min {
            errors.invalid(&max_path, spec.max_replicas, "must be greater than or equal to `minReplicas`");
        }
        reference(&spec.scale_target_ref, &path.child("scaleTargetRef"), errors);
        for (index, metric) in spec.metrics.or_empty().iter().enumerate() {
            metrics::validate(metric, &path.child("metrics").index(index), errors);
        }
        if let Some(behavior) = &spec.behavior {
            let path = path.child("behavior");
            for (name, rules) in [("scaleUp", &behavior.scale_up), ("scaleDown", &behavior.scale_down)] {
                if let Some(rules) = rules {
                    scaling_rules(rules, &path.child(name), errors);
                }
            }
        }
    }

    fn validate_status_update(
        &self,
        new: &HorizontalPodAutoscaler,
        _old: &HorizontalPodAutoscaler,
        errors: &mut FieldErrors,
    ) {
        let Some(status) = &new.status else { return };
        workload::counts(
            &[
                ("currentReplicas", status.current_replicas.map(Into::into)),
                ("desiredReplicas", Some(status.desired_replicas.into())),
            ],
            &Path::new("status"),
            errors,
        );
    }

    fn is_spec_changed(&self, new: &HorizontalPodAutoscaler, old: &HorizontalPodAutoscaler) -> bool {
        new.spec != old.spec
    }

    fn columns(&self) -> &'static [Column] {
        columns::COLUMNS
    }

    fn row(&self, autoscaler: &HorizontalPodAutoscaler, now: Timestamp) -> Vec<Value> {
        columns::row(autoscaler, now)
    }
}

fn cpu_utilization() -> MetricSpec {
    let target = MetricTarget {
        type_: "Utilization".into(),
        average_utilization: Some(DEFAULT_CPU_PERCENT),
        ..MetricTarget::default()
    };
    let resource = Some(ResourceMetricSource { name: "cpu".into(), target });
    MetricSpec { type_: "Resource".into(), resource, ..MetricSpec::default() }
}

fn default_rules(rules: &mut HPAScalingRules, policies: &[(&str, i32)]) {
    rules.select_policy.get_or_insert_with(|| "Max".into());
    rules.policies.get_or_insert_with(|| {
        let policy = |(kind, value): &(&str, i32)| HPAScalingPolicy {
            type_: (*kind).into(),
            value: *value,
            period_seconds: 15,
        };
        policies.iter().map(policy).collect()
    });
}

/// What the autoscaler scales, or an object whose metric it reads.
fn reference(reference: &CrossVersionObjectReference, path: &Path, errors: &mut FieldErrors) {
    for (name, value) in [("kind", &reference.kind), ("name", &reference.name)] {
        path_segment(value, "", &path.child(name), errors);
    }
}

fn path_segment(value: &str, missing: &str, path: &Path, errors: &mut FieldErrors) {
    if value.is_empty() {
        errors.required(path, missing);
    } else {
        errors.problems(path, value, names::path_segment_name(value, false));
    }
}

fn scaling_rules(rules: &HPAScalingRules, path: &Path, errors: &mut FieldErrors) {
    if let Some(seconds) = rules.stabilization_window_seconds {
        let path = path.child("stabilizationWindowSeconds");
        if seconds < 0 {
            errors.invalid(&path, seconds, "must be greater than or equal to zero");
        }
        if seconds > MAX_WINDOW_SECONDS {
            errors.invalid(&path, seconds, &format!("must be less than or equal to {MAX_WINDOW_SECONDS}"));
        }
    }
    if let Some(policy) = &rules.select_policy {
        check::one_of(policy, &["Disabled", "Max", "Min"], &path.child("selectPolicy"), errors);
    }
    let policies_path = path.child("policies");
    if rules.policies.or_empty().is_empty() {
        errors.required(&policies_path, "must specify at least one Policy");
    }
    for (index, policy) in rules.policies.or_empty().iter().enumerate() {
        let path = policies_path.index(index);
        check::one_of(&policy.type_, &["Percent", "Pods"], &path.child("type"), errors);
        if policy.value <= 0 {
            errors.invalid(&path.child("value"), policy.value, check::MUST_BE_POSITIVE);
        }
        let (period, path) = (policy.period_seconds, path.child("periodSeconds"));
        if period <= 0 {
            errors.invalid(&path, period, check::MUST_BE_POSITIVE);
        }
        if period > MAX_PERIOD_SECONDS {
            errors.invalid(&path, period, &format!("must be less than or equal to {MAX_PERIOD_SECONDS}"));
        }
    }
    if let Some(tolerance) = &rules.tolerance
        && Quantity::try_from(tolerance).is_ok_and(Quantity::is_negative)
    {
        let detail = "must be greater than or equal to zero";
        errors.invalid(&path.child("tolerance"), tolerance.0.as_str(), detail);
    }
}

#[cfg(test)]
mod tests;
