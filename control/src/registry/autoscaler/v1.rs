//! `autoscaling/v1`, which knows one metric, the CPU's utilization. What else there is stands in annotations, as JSON
//! of types that only they use.

use k8s_openapi::api::autoscaling::v1::HorizontalPodAutoscaler;
use naru_model::ResourceInfo;
use serde::de::Error as _;
use serde_json::{Map, Value, json};

use super::resource;
use crate::registry::{
    erased::{OnUnknown, decode_known},
    kinds::Conversion,
};

pub(in crate::registry) static V1: ResourceInfo = resource("v1");

pub(in crate::registry) const AS_V1: Conversion = Conversion {
    to_stored,
    to_served,
    add_schema: |generator| drop(generator.subschema_for::<HorizontalPodAutoscaler>()),
    fields: &[],
    validate: |_, _, _| (),
};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";

/// For each source: where a field is in v2, and its name in v1's annotation.
type Fields = &'static [(&'static str, &'static [(&'static str, &'static str)])];

const SPECS: Fields = &[
    (
        "resource",
        &[
            ("/name", "name"),
            ("/target/averageUtilization", "targetAverageUtilization"),
            ("/target/averageValue", "targetAverageValue"),
        ],
    ),
    (
        "containerResource",
        &[
            ("/name", "name"),
            ("/container", "container"),
            ("/target/averageUtilization", "targetAverageUtilization"),
            ("/target/averageValue", "targetAverageValue"),
        ],
    ),
    (
        "pods",
        &[
            ("/metric/name", "metricName"),
            ("/metric/selector", "selector"),
            ("/target/averageValue", "targetAverageValue"),
        ],
    ),
    (
        "object",
        &[
            ("/describedObject", "target"),
            ("/metric/name", "metricName"),
            ("/metric/selector", "selector"),
            ("/target/value", "targetValue"),
            ("/target/averageValue", "averageValue"),
        ],
    ),
    (
        "external",
        &[
            ("/metric/name", "metricName"),
            ("/metric/selector", "metricSelector"),
            ("/target/value", "targetValue"),
            ("/target/averageValue", "targetAverageValue"),
        ],
    ),
];

const STATUSES: Fields = &[
    (
        "resource",
        &[
            ("/name", "name"),
            ("/current/averageUtilization", "currentAverageUtilization"),
            ("/current/averageValue", "currentAverageValue"),
        ],
    ),
    (
        "containerResource",
        &[
            ("/name", "name"),
            ("/container", "container"),
            ("/current/averageUtilization", "currentAverageUtilization"),
            ("/current/averageValue", "currentAverageValue"),
        ],
    ),
    (
        "pods",
        &[
            ("/metric/name", "metricName"),
            ("/metric/selector", "selector"),
            ("/current/averageValue", "currentAverageValue"),
        ],
    ),
    (
        "object",
        &[
            ("/describedObject", "target"),
            ("/metric/name", "metricName"),
            ("/metric/selector", "selector"),
            ("/current/value", "currentValue"),
            ("/current/averageValue", "averageValue"),
        ],
    ),
    (
        "external",
        &[
            ("/metric/name", "metricName"),
            ("/metric/selector", "metricSelector"),
            ("/current/value", "currentValue"),
            ("/current/averageValue", "currentAverageValue"),
        ],
    ),
];

fn to_stored(value: Value, unknown: OnUnknown<'_>) -> Result<Value, serde_json::Error> {
    let object: HorizontalPodAutoscaler = decode_known(value, unknown)?;
    let mut value = serde_json::to_value(object)?;
    value["apiVersion"] = "autoscaling/v2".into();
    let mut annotation = |name: &str| -> Result<Option<Value>, serde_json::Error> {
        let Some(annotations) = value.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut)
        else {
            return Ok(None);
        };
        let Some(Value::String(text)) = annotations.remove(name) else { return Ok(None) };
        serde_json::from_str(&text).map(Some)
    };
    let (metrics, behavior) = (annotation(METRICS)?, annotation(BEHAVIOR)?);
    let (conditions, current) = (annotation(CONDITIONS)?, annotation(CURRENT_METRICS)?);
    if let Some(spec) = value.get_mut("spec").and_then(Value::as_object_mut) {
        let mut list = converted(metrics, SPECS, from_v1)?;
        if let Some(percent) = spec.remove("targetCPUUtilizationPercentage") {
            let target = json!({ "type": "Utilization", "averageUtilization": percent });
            list.push(json!({ "type": "Resource", "resource": { "name": "cpu", "target": target } }));
        }
        if !list.is_empty() {
            spec.insert("metrics".into(), list.into());
        }
        if let Some(behavior) = behavior {
            spec.insert("behavior".into(), recased(behavior, char::to_ascii_lowercase));
        }
    }
    if let Some(status) = value.get_mut("status").and_then(Value::as_object_mut) {
        let percent = status.remove("currentCPUUtilizationPercentage");
        let mut list = converted(current, STATUSES, from_v1)?;
        if let Some(percent) = percent.filter(|_| list.is_empty()) {
            let current = json!({ "averageUtilization": percent });
            list.push(json!({ "type": "Resource", "resource": { "name": "cpu", "current": current } }));
        }
        if !list.is_empty() {
            status.insert("currentMetrics".into(), list.into());
        }
        if let Some(conditions) = conditions {
            status.insert("conditions".into(), conditions);
        }
    }
    Ok(value)
}

fn to_served(mut value: Value) -> Value {
    value["apiVersion"] = "autoscaling/v1".into();
    let mut annotations = Map::new();
    let mut annotate = |name: &str, value: Value| {
        annotations.insert(name.into(), value.to_string().into());
    };
    if let Some(spec) = value.get_mut("spec").and_then(Value::as_object_mut) {
        let metrics = list(spec.remove("metrics"));
        let (cpu, others): (Vec<_>, Vec<_>) = metrics.into_iter().partition(|metric| {
            is_cpu(metric) && metric.pointer("/resource/target/averageUtilization").is_some()
        });
        // Of several, the last one counts.
        if let Some(percent) =
            cpu.last().and_then(|metric| metric.pointer("/resource/target/averageUtilization"))
        {
            spec.insert("targetCPUUtilizationPercentage".into(), percent.clone());
        }
        if !others.is_empty() {
            annotate(METRICS, others.iter().map(|metric| to_v1(metric, SPECS)).collect());
        }
        if let Some(behavior) = spec.remove("behavior") {
            annotate(BEHAVIOR, recased(behavior, char::to_ascii_uppercase));
        }
    }
    if let Some(status) = value.get_mut("status").and_then(Value::as_object_mut) {
        let current = list(status.remove("currentMetrics"));
        let cpu = current.iter().rfind(|metric| is_cpu(metric));
        if let Some(percent) = cpu.and_then(|metric| metric.pointer("/resource/current/averageUtilization")) {
            status.insert("currentCPUUtilizationPercentage".into(), percent.clone());
        }
        if !current.is_empty() {
            annotate(CURRENT_METRICS, current.iter().map(|metric| to_v1(metric, STATUSES)).collect());
        }
        if let Some(conditions) =
            status.remove("conditions").filter(|list| list.as_array() != Some(&Vec::new()))
        {
            annotate(CONDITIONS, conditions);
        }
    }
    if !annotations.is_empty() {
        let all = &mut value["metadata"]["annotations"];
        let mut merged = all.take().as_object().cloned().unwrap_or_default();
        merged.extend(annotations);
        *all = merged.into();
    }
    value
}

fn list(value: Option<Value>) -> Vec<Value> {
    match value {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    }
}

fn is_cpu(metric: &Value) -> bool {
    metric["type"] == "Resource" && metric["resource"]["name"] == "cpu"
}

fn converted(
    annotation: Option<Value>,
    fields: Fields,
    convert: fn(&Value, Fields) -> Value,
) -> Result<Vec<Value>, serde_json::Error> {
    match annotation {
        None => Ok(Vec::new()),
        Some(Value::Array(items)) => Ok(items.iter().map(|item| convert(item, fields)).collect()),
        Some(_) => Err(serde_json::Error::custom("the annotation with metrics is not a list")),
    }
}

fn to_v1(metric: &Value, fields: Fields) -> Value {
    let mut converted = json!({ "type": metric["type"] });
    for (source, names) in fields {
        let Some(found) = metric.get(source) else { continue };
        for (path, name) in *names {
            if let Some(value) = found.pointer(path) {
                converted[source][name] = value.clone();
            }
        }
    }
    converted
}

fn from_v1(metric: &Value, fields: Fields) -> Value {
    let mut converted = json!({ "type": metric["type"] });
    for (source, names) in fields {
        let Some(found) = metric.get(source) else { continue };
        let made = &mut converted[source];
        for (path, name) in *names {
            if let Some(value) = found.get(name) {
                let place = path.split('/').skip(1).fold(&mut *made, |at, step| &mut at[step]);
                *place = value.clone();
            }
        }
        if made.get("current").is_none() {
            let kind = match () {
                () if !made["target"]["averageUtilization"].is_null() => "Utilization",
                () if !made["target"]["averageValue"].is_null() => "AverageValue",
                () => "Value",
            };
            made["target"]["type"] = kind.into();
            if let Some(target) = made["target"].as_object_mut() {
                target.retain(|_, value| !value.is_null());
            }
        }
    }
    converted
}

/// The same with the first letter of each field's name changed: the annotation writes them as Go does.
fn recased(value: Value, case: fn(&char) -> char) -> Value {
    match value {
        Value::Object(map) => map
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| {
                let mut characters = name.chars();
                let first = characters.next().map(|first| case(&first));
                (first.into_iter().chain(characters).collect::<String>(), recased(value, case))
            })
            .collect::<Map<_, _>>()
            .into(),
        Value::Array(items) => items.into_iter().map(|item| recased(item, case)).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back(stored: &Value) -> Value {
        let served = to_served(stored.clone());
        let mut unknown = Vec::new();
        let back = to_stored(served, &mut |path| unknown.push(path)).expect("it converts");
        assert_eq!(unknown, [] as [String; 0]);
        back
    }

    #[test]
    fn nothing_is_lost_between_the_versions() {
        let stored = json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": { "name": "web", "annotations": { "a": "b" } },
            "spec": {
                "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "web" },
                "minReplicas": 2, "maxReplicas": 9,
                "metrics": [
                    { "type": "Pods", "pods": { "metric": { "name": "rps", "selector": { "matchLabels": { "a": "b" } } }, "target": { "type": "AverageValue", "averageValue": "100" } } },
                    { "type": "Object", "object": { "describedObject": { "kind": "Service", "name": "s" }, "metric": { "name": "hits" }, "target": { "type": "Value", "value": "3" } } },
                    { "type": "External", "external": { "metric": { "name": "queue" }, "target": { "type": "AverageValue", "averageValue": "30" } } },
                    { "type": "ContainerResource", "containerResource": { "name": "memory", "container": "c", "target": { "type": "Utilization", "averageUtilization": 60 } } },
                    { "type": "Resource", "resource": { "name": "cpu", "target": { "type": "Utilization", "averageUtilization": 50 } } },
                ],
                "behavior": { "scaleUp": { "stabilizationWindowSeconds": 0, "policies": [{ "type": "Pods", "value": 4, "periodSeconds": 15 }], "selectPolicy": "Max" } },
            },
            "status": {
                "currentReplicas": 3, "desiredReplicas": 4,
                "conditions": [{ "type": "AbleToScale", "status": "True" }],
                "currentMetrics": [{ "type": "Resource", "resource": { "name": "cpu", "current": { "averageUtilization": 40, "averageValue": "400m" } } }],
            },
        });
        let served = to_served(stored.clone());
        assert_eq!(served["spec"]["targetCPUUtilizationPercentage"], 50);
        assert_eq!(served["status"]["currentCPUUtilizationPercentage"], 40);
        assert!(served["spec"].get("metrics").is_none());
        assert_eq!(there_and_back(&stored), stored);
    }

    #[test]
    fn fields_of_the_other_version_are_unknown() {
        let served = json!({
            "metadata": { "name": "web" },
            "spec": { "scaleTargetRef": { "kind": "Deployment", "name": "web" }, "maxReplicas": 3, "metrics": [] },
        });
        let mut unknown = Vec::new();
        let stored = to_stored(served, &mut |path| unknown.push(path)).expect("it converts");
        assert_eq!(unknown, ["spec.metrics"]);
        assert!(stored["spec"].get("metrics").is_none());
    }
}
