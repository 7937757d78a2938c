//! Short names for the shared rules, in the order of arguments that the checks of specs read best with: value,
//! path, errors.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use naru_model::validation::{FieldError, FieldErrorKind, FieldErrors, Path, meta, names, network, selector};
use std::collections::BTreeMap;

pub const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
pub const MUST_BE_POSITIVE: &str = "must be greater than zero";
pub const IMMUTABLE: &str = meta::IMMUTABLE;

pub fn dns_label(value: &str, path: &Path, errors: &mut FieldErrors) {
    errors.problems(path, value, names::dns1123_label(value));
}

pub fn subdomain(value: &str, path: &Path, errors: &mut FieldErrors) {
    errors.problems(path, value, names::dns1123_subdomain(value));
}

/// What resolvers accept as a search domain: underscores too.
pub fn subdomain_with_underscores(value: &str, path: &Path, errors: &mut FieldErrors) {
    let is_label = |label: &str| {
        let is_edge = |byte: Option<&u8>| {
            byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'_')
        };
        let bytes = label.as_bytes();
        is_edge(bytes.first())
            && bytes.last().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
            && bytes.iter().all(|byte| is_edge(Some(byte)) || *byte == b'-')
    };
    if value.len() > 253 {
        errors.invalid(path, value, "must be no more than 253 bytes");
    }
    if !value.split('.').all(is_label) {
        errors.invalid(
            path,
            value,
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-', '_', or '.', and \
             must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
             '[a-z0-9_]([-_a-z0-9]*[a-z0-9])?(\\.[a-z0-9_]([-_a-z0-9]*[a-z0-9])?)*')",
        );
    }
}

pub fn qualified_name(value: &str, path: &Path, errors: &mut FieldErrors) {
    errors.problems(path, value, names::qualified_name(value));
}

pub fn qualified_name_messages(value: &str) -> Vec<String> {
    names::qualified_name(value)
}

pub fn label_name(value: &str, path: &Path, errors: &mut FieldErrors) {
    selector::label_name(path, value, errors);
}

pub fn label_value(value: &str, path: &Path, errors: &mut FieldErrors) {
    errors.problems(path, value, names::label_value(value));
}

pub fn label_value_messages(value: &str) -> Vec<String> {
    names::label_value(value)
}

pub fn labels(labels: Option<&BTreeMap<String, String>>, path: &Path, errors: &mut FieldErrors) {
    if let Some(labels) = labels {
        selector::labels(path, labels, errors);
    }
}

pub fn annotations(annotations: Option<&BTreeMap<String, String>>, path: &Path, errors: &mut FieldErrors) {
    if let Some(annotations) = annotations {
        meta::annotations(path, annotations, errors);
    }
}

pub fn label_selector(value: Option<&LabelSelector>, path: &Path, errors: &mut FieldErrors) {
    if let Some(value) = value {
        selector::label_selector(path, value, errors);
    }
}

pub fn ip(value: &str, path: &Path, errors: &mut FieldErrors) {
    network::ip(path, value, errors);
}

pub fn cidr(value: &str, path: &Path, errors: &mut FieldErrors) {
    network::cidr(path, value, errors);
}

pub fn env_name(value: &str, path: &Path, errors: &mut FieldErrors) {
    errors.problems(path, value, names::env_var_name(value));
}

pub fn config_map_key(value: &str, path: &Path, errors: &mut FieldErrors) {
    errors.problems(path, value, names::config_map_key(value));
}

pub fn http_header_name(value: &str, path: &Path, errors: &mut FieldErrors) {
    errors.problems(path, value, names::http_header_name(value));
}

pub fn port_name(value: &str, path: &Path, errors: &mut FieldErrors) {
    errors.problems(path, value, names::port_name(value));
}

pub fn port(value: i32, path: &Path, errors: &mut FieldErrors) {
    for problem in names::port_number(value.into()) {
        errors.invalid(path, value, &problem);
    }
}

pub fn port_number_or_name(value: &IntOrString, path: &Path, errors: &mut FieldErrors) {
    match value {
        IntOrString::Int(number) => port(*number, path, errors),
        IntOrString::String(name) => port_name(name, path, errors),
    }
}

pub fn not_negative(value: i64, path: &Path, errors: &mut FieldErrors) {
    if value < 0 {
        errors.invalid(path, value, NOT_NEGATIVE);
    }
}

/// A quantity as quantities are written, of nothing or more.
pub fn not_negative_quantity(value: &Quantity, path: &Path, errors: &mut FieldErrors) {
    match naru_model::quantity::Quantity::try_from(value) {
        Ok(amount) if amount.is_negative() => errors.invalid(path, amount.to_string(), NOT_NEGATIVE),
        Ok(_) => (),
        Err(error) => errors.invalid(path, value.0.as_str(), &error.to_string()),
    }
}

pub fn one_of(value: &str, supported: &[&str], path: &Path, errors: &mut FieldErrors) {
    if !supported.contains(&value) {
        errors.not_supported(path, value, supported);
    }
}

/// Like [`one_of`], but says that an empty value is missing.
pub fn required_one_of(value: &str, supported: &[&str], path: &Path, errors: &mut FieldErrors) {
    if value.is_empty() {
        errors.required(path, "");
    } else {
        one_of(value, supported, path, errors);
    }
}

pub fn not_found(path: &Path, value: &str, errors: &mut FieldErrors) {
    errors.not_found(path, value);
}

pub fn not_found_with(path: &Path, value: &str, detail: &str, errors: &mut FieldErrors) {
    let message = format!("Not found: {value:?}: {detail}");
    errors.0.push(FieldError { kind: FieldErrorKind::NotFound, field: path.as_str().into(), message });
}

pub fn required_text(value: &str, path: &Path, errors: &mut FieldErrors) {
    if value.is_empty() {
        errors.required(path, "");
    }
}

/// The name of a storage or device driver: a domain name in any case.
pub fn csi_driver(value: &str, path: &Path, errors: &mut FieldErrors) {
    const MAX: usize = 63;
    required_text(value, path, errors);
    if value.len() > MAX {
        errors.too_long(path, MAX);
    }
    for problem in names::dns1123_subdomain(&value.to_lowercase()) {
        errors.invalid(path, value, &problem);
    }
}

/// A name that must be there and fit into a URL.
pub fn path_segment(value: &str, path: &Path, errors: &mut FieldErrors) {
    required_text(value, path, errors);
    errors.problems(path, value, names::path_segment_name(value, false));
}

/// A path below the place it is mounted at.
pub fn local_path(value: &str, path: &Path, errors: &mut FieldErrors) {
    names::local_descending_path(path, value, errors);
}

/// A [`local_path`] that also keeps clear of the names that atomic writers use for themselves.
pub fn local_unreserved_path(value: &str, path: &Path, errors: &mut FieldErrors) {
    local_path(value, path, errors);
    if value.starts_with("..") && !value.starts_with("../") && value != ".." {
        errors.invalid(path, value, "must not start with '..'");
    }
}

pub fn no_backsteps(value: &str, path: &Path, errors: &mut FieldErrors) {
    names::path_no_backsteps(path, value, errors);
}

pub fn has_backstep(value: &str) -> bool {
    value.split('/').any(|part| part == "..")
}

/// File modes: permission bits only.
pub fn file_mode(mode: Option<i32>, path: &Path, errors: &mut FieldErrors) {
    if let Some(mode) = mode.filter(|mode| !(0..=0o777).contains(mode)) {
        errors.invalid(path, mode, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}

pub fn duplicate_with(path: &Path, value: serde_json::Value, detail: &str, errors: &mut FieldErrors) {
    let message = format!("Duplicate value: {value}: {detail}");
    errors.0.push(FieldError { kind: FieldErrorKind::Duplicate, field: path.as_str().into(), message });
}
