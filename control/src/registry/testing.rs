//! Drives the hooks of a kind in the order in which the generic path calls them.

use k8s_openapi::jiff::Timestamp;
use naru_model::validation::FieldErrors;
use serde_json::Value;

use super::{Kind, kind::Context};
use crate::store::Snapshot;

pub fn decode<K: Kind>(yaml: &str) -> K::Object {
    serde_yaml::from_str(yaml).unwrap_or_else(|error| panic!("{error} in:\n{yaml}"))
}

pub fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().expect("a time")
}

/// The object as it would be stored, and what is wrong with it.
pub fn create<K: Kind>(kind: &K, yaml: &str) -> (K::Object, Vec<String>) {
    let mut object = decode::<K>(yaml);
    let view = Snapshot::default();
    kind.default(&mut object);
    kind.prepare_create(&mut object, &Context { now: now(), view: &view });
    let mut errors = FieldErrors::default();
    kind.validate(&object, &mut errors);
    kind.validate_create(&object, &mut errors);
    (object, errors.0.iter().map(ToString::to_string).collect())
}

/// What is wrong with replacing the valid object `old` by `new`.
pub fn update<K: Kind>(kind: &K, old: &str, new: &str) -> (K::Object, Vec<String>) {
    let (old, errors) = create(kind, old);
    assert_eq!(errors, [] as [&str; 0], "the old object is valid");
    update_object(kind, &old, decode::<K>(new))
}

pub fn update_object<K: Kind>(kind: &K, old: &K::Object, mut new: K::Object) -> (K::Object, Vec<String>) {
    let view = Snapshot::default();
    kind.default(&mut new);
    kind.prepare_update(&mut new, old, &Context { now: now(), view: &view });
    let mut errors = FieldErrors::default();
    kind.validate(&new, &mut errors);
    kind.validate_update(&new, old, &mut errors);
    (new, errors.0.iter().map(ToString::to_string).collect())
}

/// What is wrong with the status in `new`.
pub fn update_status<K: Kind>(kind: &K, old: &K::Object, mut new: K::Object) -> (K::Object, Vec<String>) {
    let view = Snapshot::default();
    kind.default(&mut new);
    kind.prepare_status_update(&mut new, old, &Context { now: now(), view: &view });
    let mut errors = FieldErrors::default();
    kind.validate_status_update(&new, old, &mut errors);
    (new, errors.0.iter().map(ToString::to_string).collect())
}

/// Compares errors; an expected text ending in `…` is a beginning.
pub fn assert_errors(found: &[String], expected: &[&str], input: &str) {
    let matches = |found: &String, expected: &&str| match expected.strip_suffix('…') {
        Some(beginning) => found.starts_with(beginning),
        None => found == expected,
    };
    let is_equal = found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| matches(a, b));
    assert!(is_equal, "\nfound:    {found:#?}\nexpected: {expected:#?}\nfor:\n{input}");
}

/// Creates the object and compares what is wrong.
pub fn check<K: Kind>(kind: &K, yaml: &str, expected: &[&str]) {
    assert_errors(&create(kind, yaml).1, expected, yaml);
}

pub fn check_update<K: Kind>(kind: &K, old: &str, new: &str, expected: &[&str]) {
    assert_errors(&update(kind, old, new).1, expected, new);
}

/// The value at a path such as `/spec/containers/0/name`.
pub fn at<T: serde::Serialize>(object: &T, pointer: &str) -> Value {
    let value = serde_json::to_value(object).expect("objects serialize");
    value.pointer(pointer).cloned().unwrap_or_default()
}

/// The cells of an object's row, after its name.
pub fn cells<K: Kind>(kind: &K, yaml: &str) -> Vec<Value> {
    let row = kind.row(&decode::<K>(yaml), now());
    assert_eq!(row.len(), kind.columns().len(), "one cell for each column");
    row[1..].to_vec()
}
