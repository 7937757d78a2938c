//! Autoscalers by tables.

use serde_json::json;

use super::*;
use crate::registry::testing::{at, check, create, decode, now};

fn autoscaler(fields: &str) -> String {
    format!(
        "{{metadata: {{name: web, namespace: d}}, spec: {{scaleTargetRef: {{kind: Deployment, name: web}}, maxReplicas: 5, {fields}}}}}"
    )
}

#[test]
fn cpu_is_measured_unless_something_else_is() {
    let (object, errors) =
        create(&HorizontalPodAutoscalers, &autoscaler("behavior: {scaleDown: {selectPolicy: Disabled}}"));
    assert_eq!(errors, [] as [&str; 0]);
    assert_eq!(at(&object, "/spec/minReplicas"), 1);
    assert_eq!(at(&object, "/spec/metrics/0/resource/target/averageUtilization"), 80);
    let up = json!({
        "policies": [
            { "type": "Pods", "value": 4, "periodSeconds": 15 },
            { "type": "Percent", "value": 100, "periodSeconds": 15 },
        ],
        "selectPolicy": "Max", "stabilizationWindowSeconds": 0,
    });
    assert_eq!(at(&object, "/spec/behavior/scaleUp"), up);
    assert_eq!(at(&object, "/spec/behavior/scaleDown/selectPolicy"), "Disabled");
    let row = HorizontalPodAutoscalers.row(&object, now());
    assert_eq!(json!(row[1..6]), json!(["Deployment/web", "cpu: <unknown>/80%", "1", 5, 0]));
}

#[test]
fn wrong_specs_are_refused() {
    for (fields, expected) in [
        ("minReplicas: 0", &["spec.minReplicas: Invalid value: 0: must be greater than or equal to 1"][..]),
        (
            "minReplicas: 6",
            &["spec.maxReplicas: Invalid value: 5: must be greater than or equal to `minReplicas`"],
        ),
        (
            "metrics: [{type: Some}]",
            &[
                "spec.metrics[0].type: Unsupported value: \"Some\": supported values: \"ContainerResource\", \"External\", \"Object\", \"Pods\", \"Resource\"",
            ],
        ),
        (
            "metrics: [{type: Resource, pods: {metric: {name: ''}, target: {type: Some, averageValue: '0'}}}]",
            &[
                "spec.metrics[0].pods.metric.name: Required value: must specify a metric name",
                "spec.metrics[0].pods.target.type: Invalid value: \"Some\": must be either Utilization, Value, or AverageValue",
                "spec.metrics[0].pods.target.averageValue: Invalid value: \"0\": must be positive",
                "spec.metrics[0].resource: Required value: must populate information for the given metric source",
            ],
        ),
        (
            "behavior: {scaleUp: {stabilizationWindowSeconds: 3601, policies: [{type: Pods, value: 0, periodSeconds: 1801}]}}",
            &[
                "spec.behavior.scaleUp.stabilizationWindowSeconds: Invalid value: 3601: must be less than or equal to 3600",
                "spec.behavior.scaleUp.policies[0].value: Invalid value: 0: must be greater than zero",
                "spec.behavior.scaleUp.policies[0].periodSeconds: Invalid value: 1801: must be less than or equal to 1800",
            ],
        ),
    ] {
        check(&HorizontalPodAutoscalers, &autoscaler(fields), expected);
    }
}

#[test]
fn the_table_shows_two_metrics() {
    let object = decode::<HorizontalPodAutoscalers>(
        "{spec: {scaleTargetRef: {kind: Deployment, name: web}, maxReplicas: 3, metrics: [\
           {type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}}, \
           {type: External, external: {metric: {name: q}, target: {type: AverageValue, averageValue: '30'}}}, \
           {type: Pods, pods: {metric: {name: r}, target: {type: AverageValue, averageValue: '30'}}}]}, \
         status: {desiredReplicas: 1, currentReplicas: 2, currentMetrics: [\
           {type: Resource, resource: {name: cpu, current: {averageUtilization: 12}}}]}}",
    );
    let row = HorizontalPodAutoscalers.row(&object, now());
    assert_eq!(row[2], "cpu: 12%/80%, <unknown>/30 (avg) + 1 more...");
}
