//! One table per part of the pod spec: a fragment of a pod, and what is wrong with it.

use crate::registry::{pod::Pods, testing};

mod containers;
mod defaults;
mod scheduling;
mod security;
mod volumes;
mod warnings;

/// A pod whose spec is `spec`, in flow or block style, indented by two.
fn pod(spec: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: p, namespace: d}}\nspec:\n{spec}\n")
}

/// Checks a pod with one good container and the given other fields of the spec.
fn check_spec(fields: &str, expected: &[&str]) {
    testing::check(&Pods, &pod(&format!("  containers: [{{name: a, image: i}}]\n  {fields}")), expected);
}

/// Checks a pod whose only container has the given fields.
fn check_container(fields: &str, expected: &[&str]) {
    testing::check(&Pods, &pod(&format!("  containers: [{{name: a, image: i, {fields}}}]")), expected);
}

/// Checks a pod with the volume `v` and a good container.
fn check_volume(source: &str, expected: &[&str]) {
    check_spec(&format!("volumes: [{{name: v, {source}}}]"), expected);
}
