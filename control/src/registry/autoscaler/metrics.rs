//! The metrics of an autoscaler: one source each, with a target that fits it.

use k8s_openapi::api::autoscaling::v2::{MetricIdentifier, MetricSpec, MetricTarget};
use naru_model::{
    quantity::{self, Quantity},
    validation::{FieldErrors, Path},
};

use super::{check, path_segment, reference};
use crate::registry::podspec::container_resource_name;

const TYPES: &[&str] = &["ContainerResource", "External", "Object", "Pods", "Resource"];
const BOTH: &str = "may not set both a target raw value and a target utilization";

/// Rewrites quantities as the API shows them.
pub(super) fn canonicalize<'a>(metrics: impl Iterator<Item = &'a mut MetricSpec>) {
    for metric in metrics {
        for target in [
            metric.resource.as_mut().map(|source| &mut source.target),
            metric.container_resource.as_mut().map(|source| &mut source.target),
            metric.pods.as_mut().map(|source| &mut source.target),
            metric.object.as_mut().map(|source| &mut source.target),
            metric.external.as_mut().map(|source| &mut source.target),
        ]
        .into_iter()
        .flatten()
        {
            for value in [&mut target.value, &mut target.average_value].into_iter().flatten() {
                // What cannot be read is validation's to refuse.
                let _ = quantity::canonicalize(value);
            }
        }
    }
}

pub(super) fn validate(metric: &MetricSpec, path: &Path, errors: &mut FieldErrors) {
    let type_path = path.child("type");
    if metric.type_.is_empty() {
        errors.required(&type_path, "must specify a metric source type");
    }
    check::one_of(&metric.type_, TYPES, &type_path, errors);
    let sources = [
        ("object", "Object", metric.object.is_some()),
        ("external", "External", metric.external.is_some()),
        ("pods", "Pods", metric.pods.is_some()),
        ("resource", "Resource", metric.resource.is_some()),
        ("containerResource", "ContainerResource", metric.container_resource.is_some()),
    ];
    let mut present = sources.iter().filter(|(.., is_set)| *is_set).map(|(name, ..)| *name);
    if let Some(first) = present.next() {
        source(metric, first, &path.child(first), errors);
    }
    let expected = sources.iter().find(|(_, kind, _)| *kind == metric.type_);
    if let Some((name, _, false)) = expected {
        let detail = "must populate information for the given metric source";
        errors.required(&path.child(name), detail);
    }
    if sources.iter().filter(|(.., is_set)| *is_set).count() != 1 {
        for (name, kind, is_set) in sources {
            if is_set && kind != metric.type_ {
                errors.forbidden(&path.child(name), "must populate the given metric source only");
            }
        }
    }
}

/// Checks the source in the field `name`.
fn source(metric: &MetricSpec, name: &str, path: &Path, errors: &mut FieldErrors) {
    let target_path = path.child("target");
    match name {
        "object" => {
            let Some(source) = &metric.object else { return };
            reference(&source.described_object, &path.child("describedObject"), errors);
            identifier(&source.metric, &path.child("metric"), errors);
            target(&source.target, &target_path, errors);
            if source.target.value.is_none() && source.target.average_value.is_none() {
                let detail = "must set either a target value or averageValue";
                errors.required(&target_path.child("averageValue"), detail);
            }
        }
        "external" => {
            let Some(source) = &metric.external else { return };
            identifier(&source.metric, &path.child("metric"), errors);
            target(&source.target, &target_path, errors);
            match (&source.target.value, &source.target.average_value) {
                (None, None) => errors.required(
                    &target_path.child("averageValue"),
                    "must set either a target value for metric or a per-pod target",
                ),
                (Some(_), Some(_)) => errors.forbidden(
                    &target_path.child("value"),
                    "may not set both a target value for metric and a per-pod target",
                ),
                _ => (),
            }
        }
        "pods" => {
            let Some(source) = &metric.pods else { return };
            identifier(&source.metric, &path.child("metric"), errors);
            target(&source.target, &target_path, errors);
            if source.target.average_value.is_none() {
                let detail = "must specify a positive target averageValue";
                errors.required(&target_path.child("averageValue"), detail);
            }
        }
        "resource" => {
            let Some(source) = &metric.resource else { return };
            if source.name.is_empty() {
                errors.required(&path.child("name"), "must specify a resource name");
            }
            resource_target(&source.target, &target_path, errors);
        }
        _ => {
            let Some(source) = &metric.container_resource else { return };
            if source.name.is_empty() {
                errors.required(&path.child("name"), "must specify a resource name");
            } else {
                container_resource_name(&source.name, &path.child("name"), errors);
            }
            if source.container.is_empty() {
                errors.required(&path.child("container"), "must specify a container");
            } else {
                check::dns_label(&source.container, &path.child("container"), errors);
            }
            resource_target(&source.target, &target_path, errors);
        }
    }
}

fn identifier(metric: &MetricIdentifier, path: &Path, errors: &mut FieldErrors) {
    path_segment(&metric.name, "must specify a metric name", &path.child("name"), errors);
}

fn resource_target(of: &MetricTarget, path: &Path, errors: &mut FieldErrors) {
    target(of, path, errors);
    match (of.average_utilization, &of.average_value) {
        (None, None) => errors.required(
            &path.child("averageUtilization"),
            "must set either a target raw value or a target utilization",
        ),
        (Some(_), Some(_)) => errors.forbidden(&path.child("averageValue"), BOTH),
        _ => (),
    }
}

fn target(target: &MetricTarget, path: &Path, errors: &mut FieldErrors) {
    let type_path = path.child("type");
    if target.type_.is_empty() {
        errors.required(&type_path, "must specify a metric target type");
    }
    if !matches!(target.type_.as_str(), "Utilization" | "Value" | "AverageValue") {
        let detail = "must be either Utilization, Value, or AverageValue";
        errors.invalid(&type_path, target.type_.as_str(), detail);
    }
    for (name, value) in [("value", &target.value), ("averageValue", &target.average_value)] {
        let Some(value) = value else { continue };
        match Quantity::try_from(value) {
            Ok(parsed) if parsed <= Quantity::ZERO => {
                errors.invalid(&path.child(name), parsed.to_string(), "must be positive");
            }
            Ok(_) => (),
            Err(error) => errors.invalid(&path.child(name), value.0.as_str(), &error.to_string()),
        }
    }
    if let Some(percent) = target.average_utilization.filter(|percent| *percent < 1) {
        errors.invalid(&path.child("averageUtilization"), percent, "must be greater than 0");
    }
}
