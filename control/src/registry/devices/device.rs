//! One device of a slice.

use k8s_openapi::api::resource::v1::{Device, DeviceAttribute, NodeAllocatableResource};
use naru_model::validation::{FieldErrors, Path};
use serde_json::{Value, json};
use std::collections::BTreeMap;

use super::{
    canonicalize as canonicalize_all, capacity, distinct, each, is_quantity, qualified_name,
    validate_binding_conditions, validate_taint,
};
use crate::registry::podspec::{self, OrEmpty, check};

const MAX_ATTRIBUTES: usize = 32;
const MAX_ATTRIBUTE_VALUES: usize = 48;
const MAX_VALUE: usize = 64;
const MAX_TAINTS: usize = 16;
const MAX_CONSUMPTIONS: usize = 2;

pub fn canonicalize(device: &mut Device) {
    device.capacity.iter_mut().flat_map(BTreeMap::values_mut).for_each(capacity::canonicalize);
    let consumed = device.consumes_counters.iter_mut().flatten();
    consumed.for_each(|of| capacity::canonicalize_counters(&mut of.counters));
    for resource in device.node_allocatable_resources.iter_mut().flat_map(BTreeMap::values_mut) {
        let mapping = resource.mapping.iter_mut();
        canonicalize_all(
            mapping.flat_map(|of| of.capacity_multiplier.iter_mut().chain(&mut of.device_multiplier)),
        );
        let overhead = resource.overhead.iter_mut();
        canonicalize_all(overhead.flat_map(|of| of.per_container.iter_mut().chain(&mut of.per_pod)));
    }
}

/// A slice holds fewer of these.
pub fn is_complex(device: &Device) -> bool {
    !device.taints.or_empty().is_empty() || !device.consumes_counters.or_empty().is_empty()
}

pub fn validate(device: &Device, is_per_device: bool, path: &Path, errors: &mut FieldErrors) {
    check::dns_label(&device.name, &path.child("name"), errors);
    let (attributes, capacities) = (device.attributes.iter().flatten(), device.capacity.iter().flatten());
    let count = attributes.clone().count() + capacities.clone().count();
    if count > MAX_ATTRIBUTES {
        let detail =
            format!("the total number of attributes and capacities must not exceed {MAX_ATTRIBUTES}");
        errors.invalid(path, count, &detail);
    }
    if attributes.clone().map(|(_, attribute)| values(attribute)).sum::<usize>() > MAX_ATTRIBUTE_VALUES {
        let detail = format!("the total number of attribute values must not exceed {MAX_ATTRIBUTE_VALUES}");
        errors.invalid(&path.child("attributes"), json!(device.attributes), &detail);
    }
    for (name, attribute) in attributes {
        let path = path.child("attributes").key(name);
        qualified_name(name, &path, errors);
        validate_attribute(attribute, &path, errors);
    }
    let is_shared = device.allow_multiple_allocations == Some(true);
    for (name, capacity) in capacities {
        let path = path.child("capacity").key(name);
        qualified_name(name, &path, errors);
        capacity::validate(capacity, is_shared, &path, errors);
    }
    each(device.taints.or_empty(), MAX_TAINTS, &path.child("taints"), errors, validate_taint);
    let (consumed, at) = (device.consumes_counters.or_empty(), path.child("consumesCounters"));
    each(consumed, MAX_CONSUMPTIONS, &at, errors, |of, path, errors| {
        capacity::validate_counters(&of.counter_set, "counterSet", &of.counters, path, errors);
    });
    distinct(consumed.iter().map(|of| of.counter_set.as_str()), &at, errors);
    validate_place(device, is_per_device, path, errors);
    let (conditions, failures) =
        (device.binding_conditions.or_empty(), device.binding_failure_conditions.or_empty());
    validate_binding_conditions(conditions, failures, path, errors);
    for (name, resource) in device.node_allocatable_resources.iter().flatten() {
        validate_allocatable(resource, &path.child("nodeAllocatableResources").key(name), errors);
    }
}

/// How many values it has; a list counts with all of its items.
fn values(attribute: &DeviceAttribute) -> usize {
    let one = [
        attribute.bool.is_some(),
        attribute.int.is_some(),
        attribute.string.is_some(),
        attribute.version.is_some(),
    ];
    one.iter().filter(|is_set| **is_set).count()
        + attribute.bools.or_empty().len()
        + attribute.ints.or_empty().len()
        + attribute.strings.or_empty().len()
        + attribute.versions.or_empty().len()
}

fn validate_attribute(attribute: &DeviceAttribute, path: &Path, errors: &mut FieldErrors) {
    let fields = [
        attribute.bool.is_some(),
        attribute.int.is_some(),
        attribute.string.is_some(),
        attribute.version.is_some(),
        attribute.bools.is_some(),
        attribute.ints.is_some(),
        attribute.strings.is_some(),
        attribute.versions.is_some(),
    ];
    match fields.iter().filter(|is_set| **is_set).count() {
        0 => errors.invalid(path, "", "exactly one value must be specified"),
        1 => (),
        _ => errors.invalid(path, json!(attribute), "exactly one value must be specified"),
    }
    let strings = attribute.string.iter().map(|text| (path.child("string"), text));
    let listed = attribute.strings.or_empty().iter().enumerate();
    for (path, text) in strings.chain(listed.map(|(index, text)| (path.child("strings").index(index), text)))
    {
        limit(text, &path, errors);
    }
    let versions = attribute.version.iter().map(|text| (path.child("version"), text));
    let listed = attribute.versions.or_empty().iter().enumerate();
    for (path, text) in
        versions.chain(listed.map(|(index, text)| (path.child("versions").index(index), text)))
    {
        if !is_semantic_version(text) {
            errors.invalid(&path, text.as_str(), "must be a string compatible with semver.org spec 2.0.0");
        }
        limit(text, &path, errors);
    }
}

fn limit(text: &str, path: &Path, errors: &mut FieldErrors) {
    if text.len() > MAX_VALUE {
        errors.too_long(path, MAX_VALUE);
    }
}

/// `1.2.3-rc.1+build.5`
fn is_semantic_version(text: &str) -> bool {
    let (text, build) = text.split_once('+').map_or((text, None), |(text, build)| (text, Some(build)));
    let (core, release) = text.split_once('-').map_or((text, None), |(core, release)| (core, Some(release)));
    let is_number = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_digit())
            && (part == "0" || !part.starts_with('0'))
    };
    let is_word = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte == b'-' || byte.is_ascii_alphanumeric())
    };
    let is_release =
        |part: &str| is_number(part) || (is_word(part) && part.bytes().any(|byte| !byte.is_ascii_digit()));
    core.split('.').count() == 3
        && core.split('.').all(is_number)
        && release.is_none_or(|release| release.split('.').all(is_release))
        && build.is_none_or(|build| build.split('.').all(is_word))
}

/// Devices of one slice may be on different nodes, if the slice says so.
fn validate_place(device: &Device, is_per_device: bool, path: &Path, errors: &mut FieldErrors) {
    if !is_per_device {
        if device.node_name.is_some() || device.node_selector.is_some() || device.all_nodes.is_some() {
            let detail = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set \
                          to true in the ResourceSlice spec";
            errors.invalid(path, Value::Null, detail);
        }
        return;
    }
    let mut ways = Vec::new();
    match device.node_name.as_deref() {
        Some("") => errors.invalid(&path.child("nodeName"), "", "must not be empty"),
        Some(name) => {
            ways.push("`nodeName`");
            check::subdomain(name, &path.child("nodeName"), errors);
        }
        None => (),
    }
    if let Some(selector) = &device.node_selector {
        ways.push("`nodeSelector`");
        podspec::node_selector(selector, &path.child("nodeSelector"), errors);
    }
    match device.all_nodes {
        Some(true) => ways.push("`allNodes`"),
        Some(false) => {
            errors.invalid(&path.child("allNodes"), false, "must be either unset or set to true");
        }
        None => (),
    }
    let detail = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is \
                  set to true in the ResourceSlice spec";
    match ways.len() {
        0 => errors.required(path, detail),
        1 => (),
        _ => errors.invalid(path, format!("{{{}}}", ways.join(", ")), detail),
    }
}

fn validate_allocatable(resource: &NodeAllocatableResource, path: &Path, errors: &mut FieldErrors) {
    if resource.mapping.is_none() && resource.overhead.is_none() {
        errors.required(path, "at least one of `mapping` or `overhead` is required");
    }
    if let Some(mapping) = &resource.mapping {
        let path = path.child("mapping");
        for (field, amount) in [
            ("capacityMultiplier", &mapping.capacity_multiplier),
            ("deviceMultiplier", &mapping.device_multiplier),
        ] {
            if let Some(amount) = amount {
                is_quantity(amount, &path.child(field), errors);
            }
        }
        if mapping.capacity_key.is_some() != mapping.capacity_multiplier.is_some() {
            errors.required(&path, "`capacityKey` and `capacityMultiplier` must be set together");
        }
    }
    if let Some(overhead) = &resource.overhead {
        let path = path.child("overhead");
        for (field, amount) in [("perContainer", &overhead.per_container), ("perPod", &overhead.per_pod)] {
            if let Some(amount) = amount {
                check::not_negative_quantity(amount, &path.child(field), errors);
            }
        }
    }
}
