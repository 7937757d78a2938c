//! The table of autoscalers: what each metric is and should be.

use k8s_openapi::{
    api::autoscaling::v2::{
        HorizontalPodAutoscaler, MetricSpec, MetricStatus, MetricTarget, MetricValueStatus,
    },
    apimachinery::pkg::api::resource::Quantity,
    jiff::Timestamp,
};
use serde_json::Value;

use super::OrEmpty;
use crate::registry::{Column, text};

const SHOWN: usize = 2;

pub(super) const COLUMNS: &[Column] = &[
    text::NAME,
    text::column(
        "Reference",
        "string",
        0,
        "scaleTargetRef points to the target resource to scale, and is used to the pods for which metrics should be collected, as well as to actually change the replica count.",
    ),
    text::column(
        "Targets",
        "string",
        0,
        "metrics contains the specifications for which to use to calculate the desired replica count (the maximum replica count across all metrics will be used).  The desired replica count is calculated multiplying the ratio between the target value and the current value by the current number of pods.  Ergo, metrics used must decrease as the pod count is increased, and vice-versa.  See the individual metric source types for more information about how each type of metric must respond. If not set, the default metric will be set to 80% average CPU utilization.",
    ),
    text::column(
        "MinPods",
        "string",
        0,
        "minReplicas is the lower limit for the number of replicas to which the autoscaler can scale down.  It defaults to 1 pod.  minReplicas is allowed to be 0 if the alpha feature gate HPAScaleToZero is enabled and at least one Object or External metric is configured.  Scaling is active as long as at least one metric value is available.",
    ),
    text::column(
        "MaxPods",
        "string",
        0,
        "maxReplicas is the upper limit for the number of replicas to which the autoscaler can scale up. It cannot be less that minReplicas.",
    ),
    text::column(
        "Replicas",
        "string",
        0,
        "currentReplicas is current number of replicas of pods managed by this autoscaler, as last seen by the autoscaler.",
    ),
    text::AGE,
];

pub(super) fn row(autoscaler: &HorizontalPodAutoscaler, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&autoscaler.spec, autoscaler.status.as_ref());
    let current = status.map(|status| status.current_metrics.or_empty()).unwrap_or_default();
    let target = &spec.scale_target_ref;
    vec![
        text::name(&autoscaler.metadata),
        format!("{}/{}", target.kind, target.name).into(),
        metrics(spec.metrics.or_empty(), current).into(),
        spec.min_replicas.map_or_else(|| "<unset>".into(), |count| count.to_string()).into(),
        spec.max_replicas.into(),
        status.and_then(|status| status.current_replicas).unwrap_or_default().into(),
        text::age(&autoscaler.metadata, now),
    ]
}

/// `cpu: 12%/80%, 3/10 (avg) + 1 more...`
fn metrics(specs: &[MetricSpec], statuses: &[MetricStatus]) -> String {
    if specs.is_empty() {
        return "<none>".into();
    }
    let texts: Vec<String> =
        specs.iter().enumerate().take(SHOWN).map(|(index, spec)| metric(spec, statuses.get(index))).collect();
    let shown = texts.join(", ");
    if specs.len() > SHOWN { format!("{shown} + {} more...", specs.len() - SHOWN) } else { shown }
}

fn metric(spec: &MetricSpec, status: Option<&MetricStatus>) -> String {
    match spec.type_.as_str() {
        "External" => {
            let current = status.and_then(|status| status.external.as_ref()).map(|of| &of.current);
            spec.external.as_ref().map(|of| whole_or_average(&of.target, current))
        }
        "Object" => {
            let current = status.and_then(|status| status.object.as_ref()).map(|of| &of.current);
            spec.object.as_ref().map(|of| whole_or_average(&of.target, current))
        }
        "Pods" => {
            let current = status.and_then(|status| status.pods.as_ref()).map(|of| &of.current);
            let current = current.and_then(|current| current.average_value.as_ref());
            spec.pods
                .as_ref()
                .map(|of| format!("{}/{}", known(current), amount(of.target.average_value.as_ref())))
        }
        "Resource" => {
            let current = status.and_then(|status| status.resource.as_ref()).map(|of| &of.current);
            spec.resource.as_ref().map(|of| resource(&of.name, &of.target, current))
        }
        "ContainerResource" => {
            let current = status.and_then(|status| status.container_resource.as_ref()).map(|of| &of.current);
            spec.container_resource.as_ref().map(|of| resource(&of.name, &of.target, current))
        }
        _ => None,
    }
    .unwrap_or_else(|| "<unknown type>".into())
}

fn whole_or_average(target: &MetricTarget, current: Option<&MetricValueStatus>) -> String {
    match &target.average_value {
        Some(average) => {
            let current = current.and_then(|current| current.average_value.as_ref());
            format!("{}/{} (avg)", known(current), average.0)
        }
        None => {
            let current = current.and_then(|current| current.value.as_ref());
            format!("{}/{}", known(current), amount(target.value.as_ref()))
        }
    }
}

fn resource(name: &str, target: &MetricTarget, current: Option<&MetricValueStatus>) -> String {
    if let Some(average) = &target.average_value {
        let current = current.and_then(|current| current.average_value.as_ref());
        return format!("{name}: {}/{}", known(current), average.0);
    }
    let percent = |percent: Option<i32>, otherwise: &str| {
        percent.map_or_else(|| otherwise.to_owned(), |percent| format!("{percent}%"))
    };
    let current = percent(current.and_then(|current| current.average_utilization), "<unknown>");
    format!("{name}: {current}/{}", percent(target.average_utilization, "<auto>"))
}

fn known(quantity: Option<&Quantity>) -> &str {
    quantity.map_or("<unknown>", |quantity| quantity.0.as_str())
}

fn amount(quantity: Option<&Quantity>) -> &str {
    quantity.map_or("0", |quantity| quantity.0.as_str())
}
