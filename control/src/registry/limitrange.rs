//! LimitRanges: bounds and defaults for what pods, containers and claims in a namespace ask for.

use k8s_openapi::{
    api::core::v1::{LimitRange, LimitRangeItem},
    jiff::Timestamp,
};
use naru_model::{
    ResourceInfo,
    quantity::{Format, Quantity},
    validation::{FieldErrors, Path},
};
use serde_json::Value;
use std::collections::BTreeSet;

use super::{
    Column, Kind,
    podspec::{
        canonical_quantities, check, container_resource_name,
        resources::{ResourceList, allows_overcommit},
    },
    text,
};

pub struct LimitRanges;

static RESOURCE: ResourceInfo = text::core_resource("LimitRange", "limitranges", "limitrange", &["limits"]);

const TYPES: &[&str] = &["Pod", "Container", "PersistentVolumeClaim"];

const COLUMNS: &[Column] = &[text::NAME, text::CREATED_AT];

impl Kind for LimitRanges {
    type Object = LimitRange;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn has_generation(&self) -> bool {
        false
    }

    fn default(&self, range: &mut LimitRange) {
        for item in range.spec.iter_mut().flat_map(|spec| &mut spec.limits) {
            for list in [
                &mut item.max,
                &mut item.min,
                &mut item.default,
                &mut item.default_request,
                &mut item.max_limit_request_ratio,
            ] {
                canonical_quantities(list.as_mut());
            }
            if item.type_ == "Container" {
                fill(&mut item.default, item.max.as_ref());
                fill(&mut item.default_request, item.default.as_ref());
                fill(&mut item.default_request, item.min.as_ref());
            }
        }
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }

    fn validate(&self, range: &LimitRange, errors: &mut FieldErrors) {
        let path = Path::new("spec").child("limits");
        let mut types = BTreeSet::new();
        for (index, item) in range.spec.iter().flat_map(|spec| spec.limits.iter().enumerate()) {
            let path = path.index(index);
            type_name(&item.type_, &path.child("type"), errors);
            if !types.insert(item.type_.as_str()) {
                errors.duplicate(&path.child("type"), item.type_.as_str());
            }
            validate_item(item, &path, errors);
        }
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, range: &LimitRange, _now: Timestamp) -> Vec<Value> {
        vec![text::name(&range.metadata), text::created_at(&range.metadata)]
    }
}

/// Takes what is missing from another list.
fn fill(list: &mut Option<ResourceList>, from: Option<&ResourceList>) {
    for (name, quantity) in from.into_iter().flatten() {
        list.get_or_insert_default().entry(name.clone()).or_insert_with(|| quantity.clone());
    }
}

fn type_name(name: &str, path: &Path, errors: &mut FieldErrors) {
    let before = errors.0.len();
    check::qualified_name(name, path, errors);
    if errors.0.len() == before && !name.contains('/') && !TYPES.contains(&name) {
        errors.invalid(path, name, "must be a standard limit type or fully qualified");
    }
}

fn validate_item(item: &LimitRangeItem, path: &Path, errors: &mut FieldErrors) {
    let mut names = BTreeSet::new();
    let is_pod = item.type_ == "Pod";
    let defaults = [("default", &item.default), ("defaultRequest", &item.default_request)];
    for (field, list) in [("max", &item.max), ("min", &item.min)]
        .into_iter()
        .chain(defaults)
        .chain([("maxLimitRequestRatio", &item.max_limit_request_ratio)])
    {
        let path = path.child(field);
        if is_pod && field.starts_with("default") {
            if list.iter().flatten().next().is_some() {
                errors.forbidden(&path, "may not be specified when `type` is 'Pod'");
            }
            continue;
        }
        for name in list.iter().flatten().map(|(name, _)| name.as_str()) {
            let path = path.key(name);
            match item.type_.as_str() {
                "Pod" | "Container" => container_resource_name(name, &path, errors),
                _ => check::qualified_name(name, &path, errors),
            }
            names.insert(name);
        }
    }
    let has_storage =
        |list: &Option<ResourceList>| list.as_ref().is_some_and(|list| list.contains_key("storage"));
    if item.type_ == "PersistentVolumeClaim" && !has_storage(&item.min) && !has_storage(&item.max) {
        let detail = "either minimum or maximum storage value is required, but neither was provided";
        errors.required(&path.child("limits"), detail);
    }
    for name in names {
        bounds(item, name, path, errors);
    }
}

/// That the amounts of one resource are in order: min ≤ default request ≤ default ≤ max.
fn bounds(item: &LimitRangeItem, name: &str, path: &Path, errors: &mut FieldErrors) {
    let amount = |list: &Option<ResourceList>| -> Option<Quantity> {
        list.as_ref()?.get(name).and_then(|quantity| quantity.try_into().ok())
    };
    let (min, max) = (amount(&item.min), amount(&item.max));
    let defaults = if item.type_ == "Pod" {
        (None, None)
    } else {
        (amount(&item.default), amount(&item.default_request))
    };
    let (limit, request) = defaults;
    for (low, high, field, what) in [
        (min, max, "min", "min value {} is greater than max value {}"),
        (min, request, "defaultRequest", "min value {} is greater than default request value {}"),
        (request, max, "defaultRequest", "default request value {} is greater than max value {}"),
        (request, limit, "defaultRequest", "default request value {} is greater than default limit value {}"),
        (min, limit, "default", "min value {} is greater than default value {}"),
        (limit, max, "default", "default value {} is greater than max value {}"),
    ] {
        let (Some(low), Some(high)) = (low, high) else { continue };
        if low > high {
            let detail = what.replacen("{}", &low.to_string(), 1).replacen("{}", &high.to_string(), 1);
            let shown = match (field, what.starts_with("default value"), what.starts_with("min value")) {
                ("defaultRequest", ..) => request.unwrap_or(low),
                ("default", true, _) => high,
                _ => low,
            };
            errors.invalid(&path.child(field).key(name), shown.to_string(), &detail);
        }
    }
    ratio(
        amount(&item.max_limit_request_ratio),
        min,
        max,
        &path.child("maxLimitRequestRatio").key(name),
        errors,
    );
    if let (Some(limit), Some(request)) = (limit, request)
        && limit != request
        && !allows_overcommit(name)
    {
        let detail = format!("default value {limit} must equal to defaultRequest value {request} in {name}");
        errors.invalid(&path.child("defaultRequest").key(name), request.to_string(), &detail);
    }
}

fn ratio(
    ratio: Option<Quantity>,
    min: Option<Quantity>,
    max: Option<Quantity>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let Some(ratio) = ratio else { return };
    if ratio < Quantity::from_units(1, Format::DecimalSi) {
        errors.invalid(path, ratio.to_string(), &format!("ratio {ratio} is less than 1"));
    }
    if let (Some(min), Some(max)) = (min, max) {
        let most = max.nanos() as f64 / min.nanos() as f64;
        if ratio.milli_value() as f64 / 1000.0 > most {
            errors.invalid(
                path,
                ratio.to_string(),
                &format!("ratio {ratio} is greater than max/min = {most:.6}"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registry::testing::{at, check, create};

    fn range(item: &str) -> String {
        format!("{{metadata: {{name: r, namespace: d}}, spec: {{limits: [{{{item}}}]}}}}")
    }

    #[test]
    fn defaults_follow_from_bounds() {
        let (object, errors) = create(
            &LimitRanges,
            &range(
                "type: Container, max: {cpu: '2', memory: 1Gi}, min: {cpu: 100m}, default: {memory: 512Mi}",
            ),
        );
        assert_eq!(errors, [] as [&str; 0]);
        assert_eq!(at(&object, "/spec/limits/0/default"), json!({ "cpu": "2", "memory": "512Mi" }));
        assert_eq!(at(&object, "/spec/limits/0/defaultRequest"), json!({ "cpu": "2", "memory": "512Mi" }));
    }

    #[test]
    fn bounds_are_in_order() {
        for (item, expected) in [
            (
                "type: Some",
                "spec.limits[0].type: Invalid value: \"Some\": must be a standard limit type or fully qualified",
            ),
            (
                "type: Pod, default: {cpu: '1'}",
                "spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'",
            ),
            (
                "type: PersistentVolumeClaim",
                "spec.limits[0].limits: Required value: either minimum or maximum storage value is required, but neither was provided",
            ),
            (
                "type: Pod, max: {cpu: '1'}, min: {cpu: '2'}",
                "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1",
            ),
            (
                "type: Container, max: {cpu: '1'}, default: {cpu: '2'}, defaultRequest: {cpu: '1'}",
                "spec.limits[0].default[cpu]: Invalid value: \"1\": default value 2 is greater than max value 1",
            ),
            (
                "type: Pod, max: {cpu: '4'}, min: {cpu: '2'}, maxLimitRequestRatio: {cpu: '3'}",
                "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"3\": ratio 3 is greater than max/min = 2.000000",
            ),
            (
                "type: Pod, max: {pods: '4'}",
                "spec.limits[0].max[pods]: Invalid value: \"pods\": must be a standard resource for containers",
            ),
        ] {
            check(&LimitRanges, &range(item), &[expected]);
        }
    }
}
