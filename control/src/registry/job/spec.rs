//! The spec of a job, as it stands in Jobs and in the templates of CronJobs.

use k8s_openapi::api::{
    batch::v1::JobSpec,
    core::v1::{Affinity, Container, PodSpec, PodTemplateSpec},
};
use naru_model::validation::{FieldErrors, Path, names};

use super::{MANY_AT_ONCE, MANY_COMPLETIONS, OrEmpty, check, podspec, policies};

const MAX_PARALLELISM_INDEXED: i32 = 100_000;
const MAX_FAILED_INDEXES: i32 = 100_000;
const MAX_MANAGED_BY: usize = 63;

pub(super) fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

/// A pattern of pod conditions is about true ones unless it says otherwise.
pub fn default_conditions(spec: &mut JobSpec) {
    let rules = spec.pod_failure_policy.iter_mut().flat_map(|policy| &mut policy.rules);
    for pattern in rules.flat_map(|rule| rule.on_pod_conditions.iter_mut().flatten()) {
        if pattern.status.or_empty().is_empty() {
            pattern.status = Some("True".into());
        }
    }
}

/// All but the selector.
pub fn validate_spec(spec: &JobSpec, path: &Path, errors: &mut FieldErrors) {
    for (name, count) in [
        ("parallelism", spec.parallelism.map(i64::from)),
        ("completions", spec.completions.map(Into::into)),
        ("activeDeadlineSeconds", spec.active_deadline_seconds),
        ("backoffLimit", spec.backoff_limit.map(Into::into)),
        ("ttlSecondsAfterFinished", spec.ttl_seconds_after_finished.map(Into::into)),
        ("backoffLimitPerIndex", spec.backoff_limit_per_index.map(Into::into)),
        ("maxFailedIndexes", spec.max_failed_indexes.map(Into::into)),
    ] {
        if let Some(count) = count {
            check::not_negative(count, &path.child(name), errors);
        }
    }
    if spec.max_failed_indexes.is_some() && spec.backoff_limit_per_index.is_none() {
        errors.required(&path.child("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
    if let Some(manager) = &spec.managed_by {
        managed_by(manager, &path.child("managedBy"), errors);
    }
    if let Some(mode) = &spec.completion_mode {
        check::one_of(mode, &["NonIndexed", "Indexed"], &path.child("completionMode"), errors);
    }
    if is_indexed(spec) {
        indexed(spec, path, errors);
    } else {
        for (name, value) in [
            ("backoffLimitPerIndex", spec.backoff_limit_per_index),
            ("maxFailedIndexes", spec.max_failed_indexes),
        ] {
            if let Some(value) = value {
                errors.invalid(&path.child(name), value, "requires indexed completion mode");
            }
        }
    }
    if spec.scheduling.is_some() {
        let detail = "may not be set while the feature gate WorkloadWithJob is disabled";
        errors.forbidden(&path.child("scheduling"), detail);
    }
    policies::validate(spec, path, errors);
    let template_path = path.child("template");
    podspec::validate_template(&spec.template, &template_path, errors);
    restart_policy(spec, &template_path.child("spec").child("restartPolicy"), errors);
}

fn restart_policy(spec: &JobSpec, path: &Path, errors: &mut FieldErrors) {
    let policy = spec.template.spec.as_ref().map(|spec| spec.restart_policy.or_empty()).unwrap_or_default();
    match policy {
        "" | "Always" => errors.required(path, "valid values: \"OnFailure\", \"Never\""),
        "OnFailure" if spec.pod_failure_policy.is_some() => {
            let detail = "only \"Never\" is supported when podFailurePolicy is specified";
            errors.invalid(path, policy, detail);
        }
        "OnFailure" | "Never" => (),
        _ => errors.not_supported(path, policy, &["OnFailure", "Never"]),
    }
}

/// `acme.io/foo`
fn managed_by(manager: &str, path: &Path, errors: &mut FieldErrors) {
    match manager.split_once('/') {
        _ if manager.is_empty() => errors.required(path, ""),
        None => errors.invalid(path, manager, "must be a domain-prefixed path (such as \"acme.io/foo\")"),
        Some((domain, rest)) if domain.is_empty() || rest.is_empty() => {
            errors.invalid(path, manager, "must be a domain-prefixed path (such as \"acme.io/foo\")");
        }
        Some((domain, rest)) => {
            for problem in names::dns1123_subdomain(domain) {
                errors.invalid(path, domain, &problem);
            }
            let is_path = |byte: u8| byte.is_ascii_alphanumeric() || b"/%:@-._~!$&'()*+,;=".contains(&byte);
            if !rest.bytes().all(is_path) {
                let detail = "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
                errors.invalid(path, rest, detail);
            }
        }
    }
    if manager.len() > MAX_MANAGED_BY {
        errors.too_long(path, MAX_MANAGED_BY);
    }
}

fn indexed(spec: &JobSpec, path: &Path, errors: &mut FieldErrors) {
    let (parallelism_path, failed_path) = (path.child("parallelism"), path.child("maxFailedIndexes"));
    if spec.completions.is_none() {
        errors.required(&path.child("completions"), "when completion mode is Indexed");
    }
    let too_many = |value: i32, most: i32, path: &Path, when: &str, errors: &mut FieldErrors| {
        if value > most {
            errors.invalid(path, value, &format!("must be less than or equal to {most}{when}"));
        }
    };
    let (parallelism, failed) = (spec.parallelism.unwrap_or(0), spec.max_failed_indexes.unwrap_or(0));
    let when = " when completion mode is Indexed";
    too_many(parallelism, MAX_PARALLELISM_INDEXED, &parallelism_path, when, errors);
    let Some(completions) = spec.completions else { return };
    if failed > completions {
        errors.invalid(&failed_path, failed, "must be less than or equal to completions");
    }
    too_many(failed, MAX_FAILED_INDEXES, &failed_path, "", errors);
    if completions > MANY_COMPLETIONS && spec.backoff_limit_per_index.is_some() {
        if spec.max_failed_indexes.is_none() {
            let detail = format!("must be specified when completions is above {MANY_COMPLETIONS}");
            errors.required(&failed_path, &detail);
        }
        let when =
            format!(" when completions are above {MANY_COMPLETIONS} and used with backoff limit per index");
        too_many(parallelism, MANY_AT_ONCE, &parallelism_path, &when, errors);
        too_many(failed, MANY_AT_ONCE, &failed_path, &when, errors);
    }
}

/// The old template with what may change of it taken from the new one: while a job rests, where and how large its pods
/// are.
pub(super) fn changeable_template(new: &PodTemplateSpec, old: &JobSpec, is_at_rest: bool) -> PodTemplateSpec {
    let mut template = old.template.clone();
    if !is_at_rest {
        return template;
    }
    let meta = template.metadata.get_or_insert_default();
    meta.labels = new.metadata.as_ref().and_then(|meta| meta.labels.clone());
    meta.annotations = new.metadata.as_ref().and_then(|meta| meta.annotations.clone());
    if new.metadata.is_none() {
        template.metadata = None;
    }
    if let (Some(spec), Some(new)) = (template.spec.as_mut(), new.spec.as_ref()) {
        spec.node_selector.clone_from(&new.node_selector);
        spec.tolerations.clone_from(&new.tolerations);
        spec.scheduling_gates.clone_from(&new.scheduling_gates);
        take_node_affinity(spec, new);
        take_resources(&mut spec.containers, &new.containers);
        take_resources(
            spec.init_containers.as_deref_mut().unwrap_or_default(),
            new.init_containers.or_empty(),
        );
    }
    template
}

fn take_node_affinity(spec: &mut PodSpec, new: &PodSpec) {
    let wanted = new.affinity.as_ref().and_then(|affinity| affinity.node_affinity.clone());
    let mut affinity = spec.affinity.clone().unwrap_or_default();
    affinity.node_affinity = wanted;
    let is_empty = affinity == Affinity::default();
    spec.affinity = (!is_empty || new.affinity.is_some()).then_some(affinity);
}

fn take_resources(containers: &mut [Container], new: &[Container]) {
    for container in containers {
        if let Some(new) = new.iter().find(|other| other.name == container.name) {
            container.resources.clone_from(&new.resources);
        }
    }
}
