//! How much of something a device has, and how it is shared out.

use k8s_openapi::{
    api::resource::v1::{CapacityRequestPolicy, CapacityRequestPolicyRange, Counter, DeviceCapacity},
    apimachinery::pkg::api::resource::Quantity as ApiQuantity,
};
use naru_model::{
    quantity::Quantity,
    validation::{FieldErrors, Path},
};
use std::collections::BTreeMap;

use super::{canonicalize as canonicalize_all, is_quantity};
use crate::registry::podspec::{OrEmpty, check};

const MAX_COUNTERS: usize = 32;
const MAX_OPTIONS: usize = 10;

pub fn canonicalize(capacity: &mut DeviceCapacity) {
    canonicalize_all([&mut capacity.value]);
    let Some(policy) = &mut capacity.request_policy else { return };
    canonicalize_all(policy.default.iter_mut().chain(policy.valid_values.iter_mut().flatten()));
    if let Some(range) = &mut policy.valid_range {
        canonicalize_all(range.max.iter_mut().chain(&mut range.step).chain([&mut range.min]));
    }
}

pub fn canonicalize_counters(counters: &mut BTreeMap<String, Counter>) {
    canonicalize_all(counters.values_mut().map(|counter| &mut counter.value));
}

/// A named set of counters; `field` is where its name stands.
pub fn validate_counters(
    name: &str,
    field: &str,
    counters: &BTreeMap<String, Counter>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    if name.is_empty() {
        errors.required(&path.child(field), "");
    } else {
        check::dns_label(name, &path.child(field), errors);
    }
    let path = path.child("counters");
    if counters.is_empty() {
        return errors.required(&path, "");
    }
    if counters.len() > MAX_COUNTERS {
        return errors.too_many(&path, counters.len(), MAX_COUNTERS);
    }
    for (name, counter) in counters {
        let path = path.key(name);
        check::dns_label(name, &path, errors);
        is_quantity(&counter.value, &path.child("value"), errors);
    }
}

pub fn validate(capacity: &DeviceCapacity, is_shared: bool, path: &Path, errors: &mut FieldErrors) {
    is_quantity(&capacity.value, &path.child("value"), errors);
    let Some(policy) = &capacity.request_policy else { return };
    let path = path.child("requestPolicy");
    if !is_shared {
        return errors.forbidden(&path, "allowMultipleAllocations must be true");
    }
    let Ok(most) = Quantity::try_from(&capacity.value) else { return };
    validate_policy(policy, most, &path, errors);
}

fn validate_policy(policy: &CapacityRequestPolicy, most: Quantity, path: &Path, errors: &mut FieldErrors) {
    let values = policy.valid_values.or_empty();
    let parse = |quantity: &ApiQuantity| Quantity::try_from(quantity).ok();
    let (field, is_chosen) = match (values.is_empty(), &policy.valid_range) {
        (false, Some(_)) => {
            let detail = "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the \
                          same time";
            return errors.forbidden(path, detail);
        }
        (false, None) => ("validValues", true),
        (true, Some(_)) => ("validRange", true),
        (true, None) => ("", false),
    };
    if !is_chosen {
        return;
    }
    let Some(default) = policy.default.as_ref().and_then(parse) else {
        return errors.required(&path.child("default"), &format!("required when {field} is defined"));
    };
    let path = path.child(field);
    match &policy.valid_range {
        Some(range) => validate_range(range, default, most, &path, errors),
        None => {
            let values: Vec<Quantity> = values.iter().filter_map(parse).collect();
            validate_values(&values, default, most, &path, errors);
        }
    }
}

fn validate_values(
    values: &[Quantity],
    default: Quantity,
    most: Quantity,
    path: &Path,
    errors: &mut FieldErrors,
) {
    for (index, pair) in values.windows(2).enumerate() {
        let at = path.index(index + 1);
        if pair[0] > pair[1] {
            errors.invalid(&at, pair[1].to_string(), "values must be sorted in ascending order");
        } else if pair[0] == pair[1] {
            errors.duplicate(&at, pair[1].to_string());
        }
    }
    if values.len() > MAX_OPTIONS {
        errors.too_many(path, values.len(), MAX_OPTIONS);
    }
    for (index, value) in values.iter().enumerate().filter(|(_, value)| **value > most) {
        let detail = format!("option is larger than capacity value: {most}");
        errors.invalid(&path.index(index), value.to_string(), &detail);
    }
    if !values.contains(&default) {
        let detail = "default value is not valid according to the requestPolicy";
        errors.invalid(path, default.to_string(), detail);
    }
}

fn validate_range(
    range: &CapacityRequestPolicyRange,
    default: Quantity,
    most: Quantity,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let Ok(min) = Quantity::try_from(&range.min) else {
        return errors.required(&path.child("min"), "required when validRange is defined");
    };
    let at = path.child("min");
    if min > most {
        errors.invalid(&at, min.to_string(), &format!("min is larger than capacity value: {most}"));
    }
    if default < min {
        errors.invalid(&at, default.to_string(), &format!("default is less than min: {min}"));
    }
    let max = range.max.as_ref().and_then(|max| Quantity::try_from(max).ok());
    if let Some(max) = max {
        let at = path.child("max");
        if min > max {
            errors.invalid(&at, min.to_string(), &format!("min is larger than max: {max}"));
        }
        if max > most {
            errors.invalid(&at, max.to_string(), &format!("max is larger than capacity value: {most}"));
        }
        if default > max {
            errors.invalid(&at, default.to_string(), &format!("default is more than max: {max}"));
        }
    }
    let Some(step) = range.step.as_ref().and_then(|step| Quantity::try_from(step).ok()) else { return };
    let at = path.child("step");
    if step.value() <= 0 {
        return errors.invalid(&at, step.to_string(), check::MUST_BE_POSITIVE);
    }
    let first = min.value().saturating_add(step.value());
    if first > most.value() {
        let detail = format!("one step {first} is larger than capacity value: {most}");
        errors.invalid(&at, step.to_string(), &detail);
    }
    for value in std::iter::once(default).chain(max) {
        if value.value().saturating_sub(min.value()) % step.value() != 0 {
            let detail = format!("value is not a multiple of a given step ({step}) from ({min})");
            errors.invalid(&at, value.to_string(), &detail);
        }
    }
}
