//! What a claim asks for: devices of a class, constraints between them, and configuration for them.

use k8s_openapi::api::resource::v1::{
    CapacityRequirements, DeviceClaim, DeviceConstraint, DeviceRequest, DeviceSelector, DeviceSubRequest,
    DeviceToleration, ExactDeviceRequest, OpaqueDeviceConfiguration,
};
use naru_model::validation::{FieldErrors, Path, names};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

use super::{
    EFFECTS, canonicalize, distinct, each, fully_qualified_name, is_quantity, qualified_name, raw_object,
};
use crate::registry::podspec::{OrEmpty, check};

pub const MAX_REQUESTS: usize = 32;
const MAX_CONSTRAINTS: usize = 32;
pub const MAX_CONFIGS: usize = 32;
const MAX_SELECTORS: usize = 32;
const MAX_ALTERNATIVES: usize = 8;
const MAX_TOLERATIONS: usize = 16;
const MAX_EXPRESSION: usize = 10 * 1024;
const MAX_PARAMETERS: usize = 10 * 1024;

/// The names of a claim's requests, each with those of its alternatives.
pub type RequestNames<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

pub fn default(claim: &mut DeviceClaim) {
    for request in claim.requests.iter_mut().flatten() {
        if let Some(exact) = &mut request.exactly {
            default_request(
                &mut exact.allocation_mode,
                &mut exact.count,
                &mut exact.tolerations,
                &mut exact.capacity,
            );
        }
        for one in request.first_available.iter_mut().flatten() {
            default_request(
                &mut one.allocation_mode,
                &mut one.count,
                &mut one.tolerations,
                &mut one.capacity,
            );
        }
    }
}

fn default_request(
    mode: &mut Option<String>,
    count: &mut Option<i64>,
    tolerations: &mut Option<Vec<DeviceToleration>>,
    capacity: &mut Option<CapacityRequirements>,
) {
    mode.take_if(|mode| mode.is_empty());
    if mode.get_or_insert_with(|| "ExactCount".into()) == "ExactCount" {
        count.take_if(|count| *count == 0);
        count.get_or_insert(1);
    }
    for toleration in tolerations.iter_mut().flatten() {
        toleration.operator.take_if(|operator| operator.is_empty());
        toleration.operator.get_or_insert_with(|| "Equal".into());
    }
    canonicalize(capacity.iter_mut().filter_map(|of| of.requests.as_mut()).flat_map(BTreeMap::values_mut));
}

pub fn names(claim: &DeviceClaim) -> RequestNames<'_> {
    let mut names = RequestNames::new();
    for request in claim.requests.or_empty() {
        let alternatives = request.first_available.or_empty().iter().map(|one| one.name.as_str());
        names.insert(&request.name, alternatives.collect());
    }
    names
}

pub fn validate(claim: &DeviceClaim, path: &Path, errors: &mut FieldErrors) {
    let names = names(claim);
    let (requests, at) = (claim.requests.or_empty(), path.child("requests"));
    each(requests, MAX_REQUESTS, &at, errors, validate_request);
    distinct(requests.iter().map(|request| request.name.as_str()), &at, errors);
    let constraints = claim.constraints.or_empty();
    each(constraints, MAX_CONSTRAINTS, &path.child("constraints"), errors, |constraint, path, errors| {
        validate_constraint(constraint, &names, path, errors);
    });
    each(claim.config.or_empty(), MAX_CONFIGS, &path.child("config"), errors, |config, path, errors| {
        validate_references(config.requests.or_empty(), &names, &path.child("requests"), errors);
        validate_configuration(config.opaque.as_ref(), path, errors);
    });
}

fn validate_request(request: &DeviceRequest, path: &Path, errors: &mut FieldErrors) {
    check::dns_label(&request.name, &path.child("name"), errors);
    let alternatives = request.first_available.or_empty();
    match (&request.exactly, alternatives.is_empty()) {
        (None, true) => {
            errors.required(path, "exactly one of `exactly` or `firstAvailable` is required");
        }
        (Some(_), false) => {
            let detail =
                "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
            errors.invalid(path, Value::Null, detail);
        }
        (Some(exact), true) => validate_exact(exact, &path.child("exactly"), errors),
        (None, false) => {
            let path = path.child("firstAvailable");
            each(alternatives, MAX_ALTERNATIVES, &path, errors, validate_alternative);
            distinct(alternatives.iter().map(|one| one.name.as_str()), &path, errors);
        }
    }
}

fn validate_exact(exact: &ExactDeviceRequest, path: &Path, errors: &mut FieldErrors) {
    validate_class(&exact.device_class_name, &path.child("deviceClassName"), errors);
    validate_selectors(exact.selectors.or_empty(), &path.child("selectors"), errors);
    validate_mode(exact.allocation_mode.or_empty(), exact.count.unwrap_or_default(), path, errors);
    validate_tolerations(exact.tolerations.or_empty(), &path.child("tolerations"), errors);
    validate_capacity(exact.capacity.as_ref(), &path.child("capacity"), errors);
}

fn validate_alternative(one: &DeviceSubRequest, path: &Path, errors: &mut FieldErrors) {
    check::dns_label(&one.name, &path.child("name"), errors);
    validate_class(&one.device_class_name, &path.child("deviceClassName"), errors);
    validate_selectors(one.selectors.or_empty(), &path.child("selectors"), errors);
    validate_mode(one.allocation_mode.or_empty(), one.count.unwrap_or_default(), path, errors);
    validate_tolerations(one.tolerations.or_empty(), &path.child("tolerations"), errors);
    validate_capacity(one.capacity.as_ref(), &path.child("capacity"), errors);
}

fn validate_class(name: &str, path: &Path, errors: &mut FieldErrors) {
    if name.is_empty() {
        errors.required(path, "");
    } else {
        check::subdomain(name, path, errors);
    }
}

pub fn validate_selectors(selectors: &[DeviceSelector], path: &Path, errors: &mut FieldErrors) {
    each(selectors, MAX_SELECTORS, path, errors, |selector, path, errors| {
        let path = path.child("cel");
        let Some(cel) = &selector.cel else { return errors.required(&path, "") };
        let path = path.child("expression");
        if cel.expression.len() > MAX_EXPRESSION {
            errors.too_long(&path, MAX_EXPRESSION);
        }
        check::required_text(cel.expression.trim(), &path, errors);
    });
}

fn validate_mode(mode: &str, count: i64, path: &Path, errors: &mut FieldErrors) {
    let at = path.child("count");
    match mode {
        "All" if count != 0 => {
            errors.invalid(&at, count, "must not be specified when allocationMode is 'All'");
        }
        "ExactCount" if count <= 0 => errors.invalid(&at, count, check::MUST_BE_POSITIVE),
        "All" | "ExactCount" => (),
        other => errors.not_supported(&path.child("allocationMode"), other, &["All", "ExactCount"]),
    }
}

pub fn validate_tolerations(tolerations: &[DeviceToleration], path: &Path, errors: &mut FieldErrors) {
    each(tolerations, MAX_TOLERATIONS, path, errors, |toleration, path, errors| {
        let (key, value) = (toleration.key.or_empty(), toleration.value.or_empty());
        if !key.is_empty() {
            check::label_name(key, &path.child("key"), errors);
        }
        let at = path.child("value");
        match toleration.operator.or_empty() {
            "Exists" if !value.is_empty() => {
                errors.invalid(&at, value, "must be empty for operator `Exists`");
            }
            "Exists" => (),
            "Equal" => errors.problems(&at, value, names::label_value(value)),
            "" => errors.required(&path.child("operator"), ""),
            other => errors.not_supported(&path.child("operator"), other, &["Equal", "Exists"]),
        }
        if !toleration.effect.or_empty().is_empty() {
            check::one_of(toleration.effect.or_empty(), EFFECTS, &path.child("effect"), errors);
        }
    });
}

fn validate_capacity(capacity: Option<&CapacityRequirements>, path: &Path, errors: &mut FieldErrors) {
    for (name, amount) in capacity.and_then(|of| of.requests.as_ref()).into_iter().flatten() {
        let path = path.child("requests").key(name);
        qualified_name(name, &path, errors);
        is_quantity(amount, &path, errors);
    }
}

fn validate_constraint(
    constraint: &DeviceConstraint,
    names: &RequestNames<'_>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    validate_references(constraint.requests.or_empty(), names, &path.child("requests"), errors);
    match (&constraint.match_attribute, &constraint.distinct_attribute) {
        (Some(name), _) => fully_qualified_name(name, &path.child("matchAttribute"), errors),
        (None, Some(name)) => fully_qualified_name(name, &path.child("distinctAttribute"), errors),
        (None, None) => {
            let detail = "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
            errors.required(path, detail);
        }
    }
}

pub fn validate_references(
    references: &[String],
    names: &RequestNames<'_>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    each(references, MAX_REQUESTS, path, errors, |reference, path, errors| {
        validate_reference(reference, names, path, errors);
    });
    distinct(references.iter().map(String::as_str), path, errors);
}

/// `request`, or `request/alternative`.
pub fn validate_reference(reference: &str, names: &RequestNames<'_>, path: &Path, errors: &mut FieldErrors) {
    let parts: Vec<&str> = reference.split('/').collect();
    if parts.len() <= 2 {
        for part in &parts {
            check::dns_label(part, path, errors);
        }
    }
    let is_known = match parts.as_slice() {
        [request] => names.contains_key(request),
        [request, one] => names.get(request).is_some_and(|alternatives| alternatives.contains(one)),
        _ => false,
    };
    if !is_known {
        let detail = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
        errors.invalid(path, reference, detail);
    }
}

pub fn validate_configuration(
    opaque: Option<&OpaqueDeviceConfiguration>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let path = path.child("opaque");
    let Some(opaque) = opaque else { return errors.required(&path, "") };
    check::csi_driver(&opaque.driver, &path.child("driver"), errors);
    raw_object(&opaque.parameters, MAX_PARAMETERS, &path.child("parameters"), errors);
}
