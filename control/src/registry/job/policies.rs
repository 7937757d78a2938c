//! `podFailurePolicy`, `successPolicy` and `podReplacementPolicy`.

use k8s_openapi::api::batch::v1::{
    JobSpec, PodFailurePolicyOnExitCodesRequirement as OnExitCodes,
    PodFailurePolicyOnPodConditionsPattern as OnPodConditions, PodFailurePolicyRule, SuccessPolicyRule,
};
use naru_model::validation::{FieldErrors, Path};
use std::collections::BTreeSet;

use super::{OrEmpty, check, indexes, spec::is_indexed};

const ACTIONS: &[&str] = &["Count", "FailIndex", "FailJob", "Ignore"];
const OPERATORS: &[&str] = &["In", "NotIn"];
const STATUSES: &[&str] = &["False", "True", "Unknown"];
const MAX_RULES: usize = 20;
const MAX_PATTERNS: usize = 20;
const MAX_EXIT_CODES: usize = 255;
const MAX_INDEXES_BYTES: usize = 64 * 1024;

pub(super) fn validate(spec: &JobSpec, path: &Path, errors: &mut FieldErrors) {
    if let Some(policy) = &spec.pod_failure_policy {
        let path = path.child("podFailurePolicy").child("rules");
        if policy.rules.len() > MAX_RULES {
            errors.too_many(&path, policy.rules.len(), MAX_RULES);
        }
        let pod = spec.template.spec.as_ref();
        let init = pod.map(|pod| pod.init_containers.or_empty()).unwrap_or_default();
        let containers = pod.map(|pod| pod.containers.as_slice()).unwrap_or_default();
        let names: BTreeSet<&str> =
            containers.iter().chain(init).map(|container| container.name.as_str()).collect();
        for (index, rule) in policy.rules.iter().enumerate() {
            failure_rule(spec, rule, &names, &path.index(index), errors);
        }
    }
    if let Some(policy) = &spec.success_policy {
        let path = path.child("successPolicy");
        if is_indexed(spec) {
            success_rules(spec, &policy.rules, &path.child("rules"), errors);
        } else {
            let value = serde_json::to_value(policy).unwrap_or_default();
            errors.invalid(&path, value, "requires indexed completion mode");
        }
    }
    if let Some(policy) = &spec.pod_replacement_policy {
        let known: &[&str] =
            if spec.pod_failure_policy.is_some() { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
        check::one_of(policy, known, &path.child("podReplacementPolicy"), errors);
    }
}

/// `valid values: ["a" "b"]`
fn one_of(value: &str, known: &[&str], path: &Path, errors: &mut FieldErrors) {
    if value.is_empty() {
        let list = known.iter().map(|value| format!("{value:?}")).collect::<Vec<_>>().join(" ");
        errors.required(path, &format!("valid values: [{list}]"));
    } else {
        check::one_of(value, known, path, errors);
    }
}

fn failure_rule(
    spec: &JobSpec,
    rule: &PodFailurePolicyRule,
    containers: &BTreeSet<&str>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    one_of(&rule.action, ACTIONS, &path.child("action"), errors);
    if rule.action == "FailIndex" && spec.backoff_limit_per_index.is_none() {
        let detail = "requires the backoffLimitPerIndex to be set";
        errors.invalid(&path.child("action"), rule.action.as_str(), detail);
    }
    let conditions = rule.on_pod_conditions.or_empty();
    if let Some(codes) = &rule.on_exit_codes {
        exit_codes(codes, containers, &path.child("onExitCodes"), errors);
    }
    pod_conditions(conditions, &path.child("onPodConditions"), errors);
    match (rule.on_exit_codes.is_some(), conditions.is_empty()) {
        (true, false) => {
            errors.invalid_whole(path, "specifying both OnExitCodes and OnPodConditions is not supported");
        }
        (false, true) => {
            errors.invalid_whole(path, "specifying one of OnExitCodes and OnPodConditions is required");
        }
        _ => (),
    }
}

fn pod_conditions(patterns: &[OnPodConditions], path: &Path, errors: &mut FieldErrors) {
    if patterns.len() > MAX_PATTERNS {
        errors.too_many(path, patterns.len(), MAX_PATTERNS);
    }
    for (index, pattern) in patterns.iter().enumerate() {
        let path = path.index(index);
        check::qualified_name(&pattern.type_, &path.child("type"), errors);
        one_of(pattern.status.or_empty(), STATUSES, &path.child("status"), errors);
    }
}

fn exit_codes(codes: &OnExitCodes, containers: &BTreeSet<&str>, path: &Path, errors: &mut FieldErrors) {
    one_of(&codes.operator, OPERATORS, &path.child("operator"), errors);
    if let Some(name) = codes.container_name.as_deref().filter(|name| !containers.contains(name)) {
        let detail = "must be one of the container or initContainer names in the pod template";
        errors.invalid(&path.child("containerName"), name, detail);
    }
    let (path, values) = (path.child("values"), &codes.values);
    if values.is_empty() {
        errors.invalid(&path, values.as_slice(), "at least one value is required");
    } else if values.len() > MAX_EXIT_CODES {
        errors.too_many(&path, values.len(), MAX_EXIT_CODES);
    }
    let mut seen = BTreeSet::new();
    for (index, value) in values.iter().enumerate() {
        let path = path.index(index);
        if *value == 0 && codes.operator == "In" {
            errors.invalid(&path, 0, "must not be 0 for the In operator");
        }
        if !seen.insert(value) {
            errors.duplicate(&path, *value);
        }
    }
    if !values.is_sorted() {
        errors.invalid(&path, values.as_slice(), "must be ordered");
    }
}

fn success_rules(spec: &JobSpec, rules: &[SuccessPolicyRule], path: &Path, errors: &mut FieldErrors) {
    if rules.is_empty() {
        errors.required(path, "at least one rules must be specified when the successPolicy is specified");
    }
    if rules.len() > MAX_RULES {
        errors.too_many(path, rules.len(), MAX_RULES);
    }
    for (index, rule) in rules.iter().enumerate() {
        success_rule(spec.completions.unwrap_or_default(), rule, &path.index(index), errors);
    }
}

fn success_rule(completions: i32, rule: &SuccessPolicyRule, path: &Path, errors: &mut FieldErrors) {
    if rule.succeeded_count.is_none() && rule.succeeded_indexes.is_none() {
        let detail = "at least one of succeededCount or succeededIndexes must be specified";
        errors.required(path, detail);
    }
    let mut listed = None;
    if let Some(text) = &rule.succeeded_indexes {
        let path = path.child("succeededIndexes");
        if text.len() > MAX_INDEXES_BYTES {
            errors.too_long(&path, MAX_INDEXES_BYTES);
        }
        match indexes::parse(text, completions) {
            Ok(intervals) => listed = Some(indexes::count(&intervals)),
            Err(why) => {
                errors.invalid(&path, text.as_str(), &format!("error parsing succeededIndexes: {why}"));
                listed = Some(0);
            }
        }
    }
    let Some(count) = rule.succeeded_count else { return };
    let path = path.child("succeededCount");
    check::not_negative(count.into(), &path, errors);
    for (most, what) in [
        (Some(completions), "the number of specified completions"),
        (listed, "the number of indexes in the specified succeededIndexes field"),
    ] {
        if let Some(most) = most.filter(|most| count > *most) {
            errors.invalid(&path, count, &format!("must be less than or equal to {most} ({what})"));
        }
    }
}
