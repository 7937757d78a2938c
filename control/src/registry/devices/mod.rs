//! The kinds of resource.k8s.io: devices that nodes offer and pods claim.
//!
//! Expressions that select devices are only required to be there and not too long.

mod allocation;
mod capacity;
mod claim;
mod claim_template;
mod device;
mod device_class;
mod requests;
mod slice;
mod taint_rule;

#[cfg(test)]
mod tests;

use k8s_openapi::{
    api::resource::v1::DeviceTaint,
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::Time, runtime::RawExtension},
    jiff::Timestamp,
};
use naru_model::{
    ResourceInfo, quantity,
    validation::{FieldErrors, Path, names},
};
use serde_json::Value;
use std::collections::BTreeSet;

use super::{
    Kinds,
    podspec::{OrEmpty, check},
    text,
};

const GROUP: &str = "resource.k8s.io";
const EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "None"];
const MAX_IDENTIFIER: usize = 32;
const MAX_POOL_NAME: usize = 253;

/// Adds all of them.
pub(super) fn add(kinds: &mut Kinds) {
    kinds.add(claim::ResourceClaims);
    kinds.add(claim_template::ResourceClaimTemplates);
    kinds.add(device_class::DeviceClasses);
    kinds.add(slice::ResourceSlices);
    kinds.add(taint_rule::DeviceTaintRules);
}

const fn cluster_resource(kind: &'static str, plural: &'static str, singular: &'static str) -> ResourceInfo {
    ResourceInfo { group: GROUP, namespaced: false, ..text::core_resource(kind, plural, singular, &[]) }
}

fn canonicalize<'a>(quantities: impl IntoIterator<Item = &'a mut Quantity>) {
    for quantity in quantities {
        // What is no quantity stays as it is for validation to report.
        let _ = quantity::canonicalize(quantity);
    }
}

fn is_quantity(value: &Quantity, path: &Path, errors: &mut FieldErrors) {
    if let Err(error) = quantity::Quantity::try_from(value) {
        errors.invalid(path, value.0.as_str(), &error.to_string());
    }
}

/// Checks each item, unless there are too many to look at.
fn each<T>(
    items: &[T],
    max: usize,
    path: &Path,
    errors: &mut FieldErrors,
    mut check: impl FnMut(&T, &Path, &mut FieldErrors),
) {
    if items.len() > max {
        return errors.too_many(path, items.len(), max);
    }
    for (index, item) in items.iter().enumerate() {
        check(item, &path.index(index), errors);
    }
}

/// No two items have the same key.
fn distinct<K: Ord + Clone + Into<Value>>(
    keys: impl Iterator<Item = K>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let mut seen = BTreeSet::new();
    for (index, key) in keys.enumerate() {
        if !seen.insert(key.clone()) {
            errors.duplicate(&path.index(index), key);
        }
    }
}

/// `pool`, or `rack/pool`: each part a domain name.
fn pool_name(name: &str, path: &Path, errors: &mut FieldErrors) {
    if name.is_empty() {
        return errors.required(path, "");
    }
    if name.len() > MAX_POOL_NAME {
        errors.too_long(path, MAX_POOL_NAME);
    }
    for part in name.split('/') {
        check::subdomain(part, path, errors);
    }
}

/// `name` or `domain/name`, where the name is a C identifier.
fn qualified_name(name: &str, path: &Path, errors: &mut FieldErrors) {
    let (domain, identifier) = match name.split_once('/') {
        Some((domain, identifier)) => (Some(domain), identifier),
        None => (None, name),
    };
    match domain {
        Some("") => errors.invalid(path, "", "the domain must not be empty"),
        Some(domain) => check::csi_driver(domain, path, errors),
        None => (),
    }
    if domain.is_some() && identifier.is_empty() {
        return errors.invalid(path, "", "the name must not be empty");
    }
    if identifier.len() > MAX_IDENTIFIER {
        errors.too_long(path, MAX_IDENTIFIER);
    }
    let is_word = |byte: u8| byte == b'_' || byte.is_ascii_alphanumeric();
    if identifier.is_empty()
        || identifier.starts_with(|first: char| first.is_ascii_digit())
        || !identifier.bytes().all(is_word)
    {
        let detail = "a valid C identifier must start with alphabetic character or '_', followed by a string of \
                      alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for \
                      validation is '[A-Za-z_][A-Za-z0-9_]*')";
        errors.invalid(path, identifier, detail);
    }
}

fn fully_qualified_name(name: &str, path: &Path, errors: &mut FieldErrors) {
    qualified_name(name, path, errors);
    if !name.contains('/') {
        let detail = "a fully qualified name must be a domain and a name separated by a slash";
        errors.invalid(path, name, detail);
    }
}

/// Parameters and data of drivers: an object, not too large.
fn raw_object(raw: &RawExtension, max: usize, path: &Path, errors: &mut FieldErrors) {
    match &raw.0 {
        Value::Null => errors.required(path, ""),
        Value::Object(_) if raw.0.to_string().len() > max => errors.too_long(path, max),
        Value::Object(_) => (),
        _ => errors.invalid(path, "<value omitted>", "must be a valid JSON object"),
    }
}

/// When a taint was added is now where nobody says.
fn date_taint(taint: &mut DeviceTaint, now: Timestamp) {
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    taint.time_added.get_or_insert(Time(now));
}

fn validate_taint(taint: &DeviceTaint, path: &Path, errors: &mut FieldErrors) {
    check::label_name(&taint.key, &path.child("key"), errors);
    let value = taint.value.or_empty();
    errors.problems(&path.child("value"), value, names::label_value(value));
    check::required_one_of(&taint.effect, EFFECTS, &path.child("effect"), errors);
}

/// What must be true, and what must not, before a pod is bound to a node with the device.
fn validate_binding_conditions(
    conditions: &[String],
    failures: &[String],
    path: &Path,
    errors: &mut FieldErrors,
) {
    const MAX: usize = 4;
    let paths = [path.child("bindingConditions"), path.child("bindingFailureConditions")];
    for (texts, path) in [conditions, failures].into_iter().zip(&paths) {
        each(texts, MAX, path, errors, |text, path, errors| check::label_name(text, path, errors));
        distinct(texts.iter().map(String::as_str), path, errors);
    }
    for (index, failure) in failures.iter().enumerate().filter(|(_, failure)| conditions.contains(failure)) {
        let detail = "bindingFailureConditions must not overlap with bindingConditions";
        errors.invalid(&paths[1].index(index), failure.as_str(), detail);
    }
    if conditions.is_empty() && !failures.is_empty() {
        let detail = "bindingConditions are required to use bindingFailureConditions";
        errors.invalid(&paths[0], Value::Null, detail);
    }
    if failures.is_empty() && !conditions.is_empty() {
        let detail = "bindingFailureConditions are required to use bindingConditions";
        errors.invalid(&paths[1], Value::Null, detail);
    }
}
