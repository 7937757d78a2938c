//! Jobs: pods that run until enough of them succeed.

mod indexes; // `1,3-5`: the indexes of an indexed job.
mod policies; // What counts as failure, what as success.
mod spec; // Shared with CronJobs.
mod status;

use k8s_openapi::{
    api::{
        batch::v1::{Job, JobSpec, JobStatus},
        core::v1::PodTemplateSpec,
    },
    jiff::Timestamp,
};
use naru_model::{
    ResourceInfo, condition,
    selector::matches_api,
    validation::{FieldErrors, Path, meta, names},
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

use super::{
    Column, Kind,
    kind::Context,
    podspec::{self, OrEmpty, check},
    replicaset::template_warnings,
    text,
};

pub(super) use spec::{default_conditions, validate_spec};

pub struct Jobs;

static RESOURCE: ResourceInfo = ResourceInfo {
    group: "batch",
    categories: &["all"],
    subresources: &["status"],
    ..text::core_resource("Job", "jobs", "job", &[])
};

const DEFAULT_BACKOFF_LIMIT: i32 = 6;
/// Indexed jobs of more completions than this are restricted in how much may fail and run at once.
const MANY_COMPLETIONS: i32 = 100_000;
const MANY_AT_ONCE: i32 = 10_000;

const UID_LABEL: &str = "batch.kubernetes.io/controller-uid";
const NAME_LABEL: &str = "batch.kubernetes.io/job-name";
/// The same two before they had a prefix.
const OLD_UID_LABEL: &str = "controller-uid";
const OLD_NAME_LABEL: &str = "job-name";

const COLUMNS: &[Column] = &[
    text::NAME,
    text::column("Status", "string", 0, "Status of the job."),
    text::column(
        "Completions",
        "string",
        0,
        "The number of pods which reached phase Succeeded. The value increases monotonically for a given spec. However, it may decrease in reaction to scale down of elastic indexed jobs.",
    ),
    text::column("Duration", "string", 0, "Time required to complete the job."),
    text::AGE,
    text::CONTAINERS,
    text::IMAGES,
    text::column(
        "Selector",
        "string",
        1,
        "A label query over pods that should match the pod count. Normally, the system sets this field for you. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors",
    ),
];

impl Kind for Jobs {
    type Object = Job;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn default(&self, job: &mut Job) {
        let spec = job.spec.get_or_insert_default();
        if spec.completions.is_none() && spec.parallelism.is_none() {
            spec.completions = Some(1);
        }
        spec.parallelism.get_or_insert(1);
        let retries = if spec.backoff_limit_per_index.is_some() { i32::MAX } else { DEFAULT_BACKOFF_LIMIT };
        spec.backoff_limit.get_or_insert(retries);
        spec.completion_mode.get_or_insert_with(|| "NonIndexed".into());
        spec.suspend.get_or_insert(false);
        spec.manual_selector.get_or_insert(false);
        let replaced = if spec.pod_failure_policy.is_some() { "Failed" } else { "TerminatingOrFailed" };
        spec.pod_replacement_policy.get_or_insert_with(|| replaced.into());
        default_conditions(spec);
        podspec::default_template(&mut spec.template);
        default_labels(job);
    }

    fn prepare_create(&self, job: &mut Job, _context: &Context<'_>) {
        job.status = Some(JobStatus::default());
        let (name, uid) = (job.metadata.name.clone(), job.metadata.uid.clone());
        let spec = job.spec.get_or_insert_default();
        if spec.manual_selector != Some(true) {
            select_own_pods(spec, name.or_empty(), uid.or_empty());
        }
        // The pods' labels of this very job are the job's, too, where it has no others.
        default_labels(job);
    }

    fn prepare_update(&self, new: &mut Job, old: &Job, _context: &Context<'_>) {
        new.status.clone_from(&old.status);
    }

    fn prepare_status_update(&self, new: &mut Job, old: &Job, _context: &Context<'_>) {
        new.spec.clone_from(&old.spec);
    }

    fn validate(&self, job: &Job, errors: &mut FieldErrors) {
        let empty = JobSpec::default();
        let spec = job.spec.as_ref().unwrap_or(&empty);
        let path = Path::new("spec");
        generated_selector(job, spec, errors);
        validate_spec(spec, &path, errors);
        match &spec.selector {
            None => errors.required(&path.child("selector"), ""),
            Some(selector) => check::label_selector(Some(selector), &path.child("selector"), errors),
        }
        let labels = labels(&spec.template);
        if !spec.selector.as_ref().is_some_and(|selector| matches_api(selector, labels)) {
            let path = path.child("template").child("metadata").child("labels");
            errors.invalid(&path, json!(labels), "`selector` does not match template `labels`");
        }
        if spec::is_indexed(spec)
            && let Some(last) = spec.completions.filter(|count| *count > 0)
        {
            let name = job.metadata.name.or_empty();
            let host = format!("{name}-{}", last - 1);
            if !names::dns1123_label(&host).is_empty() {
                let detail = format!("will not able to create pod with invalid DNS label: {host}");
                errors.invalid(&Path::new("metadata").child("name"), name, &detail);
            }
        }
    }

    fn validate_update(&self, new: &Job, old: &Job, errors: &mut FieldErrors) {
        let empty = JobSpec::default();
        let (spec, before) = (new.spec.as_ref().unwrap_or(&empty), old.spec.as_ref().unwrap_or(&empty));
        let path = Path::new("spec");
        completions_update(spec, before, &path.child("completions"), errors);
        meta::immutable_field(&path.child("selector"), &spec.selector, &before.selector, errors);
        let allowed = spec::changeable_template(&spec.template, before, is_at_rest(old, before));
        meta::immutable_field(&path.child("template"), &spec.template, &allowed, errors);
        let mode_path = path.child("completionMode");
        meta::immutable_field(&mode_path, &spec.completion_mode, &before.completion_mode, errors);
        let policy_path = path.child("podFailurePolicy");
        meta::immutable_field(&policy_path, &spec.pod_failure_policy, &before.pod_failure_policy, errors);
        let limit_path = path.child("backoffLimitPerIndex");
        let (limit, old_limit) = (&spec.backoff_limit_per_index, &before.backoff_limit_per_index);
        meta::immutable_field(&limit_path, limit, old_limit, errors);
        meta::immutable_field(&path.child("managedBy"), &spec.managed_by, &before.managed_by, errors);
        let policy_path = path.child("successPolicy");
        meta::immutable_field(&policy_path, &spec.success_policy, &before.success_policy, errors);
    }

    fn validate_status_update(&self, new: &Job, old: &Job, errors: &mut FieldErrors) {
        status::validate(new, old, errors);
    }

    fn is_spec_changed(&self, new: &Job, old: &Job) -> bool {
        new.spec != old.spec
    }

    fn warnings(&self, job: &Job) -> Vec<String> {
        let mut texts = name_warning(job.metadata.name.or_empty());
        let Some(spec) = &job.spec else { return texts };
        let (completions, parallelism) = (spec.completions.unwrap_or(0), spec.parallelism.unwrap_or(0));
        if spec::is_indexed(spec) && completions > MANY_COMPLETIONS && parallelism > MANY_AT_ONCE {
            texts.push(
                "In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, \
                 Kubernetes might not be able to track completedIndexes when a big number of indexes fail"
                    .into(),
            );
        }
        texts.extend(template_warnings(&spec.template));
        texts
    }

    fn orphans_by_default(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, job: &Job, now: Timestamp) -> Vec<Value> {
        let empty = (JobSpec::default(), JobStatus::default());
        let (spec, status) = (job.spec.as_ref().unwrap_or(&empty.0), job.status.as_ref().unwrap_or(&empty.1));
        let (names, images) = text::containers(Some(&spec.template));
        let ran = status.start_time.as_ref().map(|start| {
            let end = status.completion_time.as_ref().map_or(now, |time| time.0);
            naru_model::duration::human(end.duration_since(start.0))
        });
        vec![
            text::name(&job.metadata),
            state(job, status).into(),
            completions(spec, status).into(),
            ran.unwrap_or_default().into(),
            text::age(&job.metadata, now),
            names.into(),
            images.into(),
            naru_model::selector::format_api(spec.selector.as_ref()).into(),
        ]
    }

    fn field_names(&self) -> &'static [&'static str] {
        &["status.successful"]
    }

    fn field(&self, job: &Job, name: &str) -> String {
        match name {
            "status.successful" => {
                job.status.as_ref().and_then(|status| status.succeeded).unwrap_or_default().to_string()
            }
            _ => String::new(),
        }
    }
}

fn labels(template: &PodTemplateSpec) -> Option<&BTreeMap<String, String>> {
    template.metadata.as_ref()?.labels.as_ref()
}

fn default_labels(job: &mut Job) {
    let template = job.spec.as_ref().and_then(|spec| spec.template.metadata.as_ref());
    let labels = template.and_then(|meta| meta.labels.clone());
    if job.metadata.labels.iter().flatten().next().is_none() && labels.is_some() {
        job.metadata.labels = labels;
    }
}

/// Labels the pods with the job's name and uid, and selects them by the uid.
fn select_own_pods(spec: &mut JobSpec, name: &str, uid: &str) {
    let labels = spec.template.metadata.get_or_insert_default().labels.get_or_insert_default();
    for (key, value) in [(OLD_NAME_LABEL, name), (NAME_LABEL, name), (OLD_UID_LABEL, uid), (UID_LABEL, uid)] {
        labels.entry(key.into()).or_insert_with(|| value.into());
    }
    let selected = spec.selector.get_or_insert_default().match_labels.get_or_insert_default();
    selected.entry(UID_LABEL.into()).or_insert_with(|| uid.into());
}

/// That nobody else's labels got in the way of the generated ones.
fn generated_selector(job: &Job, spec: &JobSpec, errors: &mut FieldErrors) {
    let Some(selector) = spec.selector.as_ref().filter(|_| spec.manual_selector != Some(true)) else {
        return;
    };
    let (name, uid) = (job.metadata.name.or_empty(), job.metadata.uid.or_empty());
    if uid.is_empty() {
        errors.required(&Path::new("metadata").child("uid"), "");
    }
    let path = Path::new("spec").child("template").child("metadata").child("labels");
    let expected = [(OLD_UID_LABEL, uid), (OLD_NAME_LABEL, name), (UID_LABEL, uid), (NAME_LABEL, name)];
    for (key, value) in expected {
        match labels(&spec.template).and_then(|labels| labels.get(key)) {
            None => errors.required(&path.key(key), &format!("must be '{value}'")),
            Some(found) if found != value => {
                errors.invalid(&path.key(key), json!(labels(&spec.template)), &format!("must be '{value}'"));
            }
            Some(_) => (),
        }
    }
    let expected = expected.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    if !matches_api(selector, Some(&expected)) {
        errors.invalid(
            &Path::new("spec").child("selector"),
            json!(selector),
            "`selector` not auto-generated",
        );
    }
}

/// Only an indexed job may change how much it completes, together with how much it runs at once.
fn completions_update(spec: &JobSpec, before: &JobSpec, path: &Path, errors: &mut FieldErrors) {
    if !spec::is_indexed(spec) {
        return meta::immutable_field(path, &spec.completions, &before.completions, errors);
    }
    if spec.completions.is_some()
        && spec.completions != before.completions
        && spec.completions != spec.parallelism
    {
        errors.invalid(path, spec.completions, "can only be modified in tandem with spec.parallelism");
    }
}

/// Suspended, and without pods that run already.
fn is_at_rest(job: &Job, spec: &JobSpec) -> bool {
    let status = job.status.as_ref();
    let has_started = status.is_some_and(|status| status.start_time.is_some());
    let is_suspended = condition::is_true(status.and_then(|status| status.conditions.as_ref()), "Suspended");
    spec.suspend == Some(true) && (!has_started || is_suspended)
}

/// Pods are named after the job.
fn name_warning(name: &str) -> Vec<String> {
    let problems = names::dns1123_label(name);
    if name.is_empty() || problems.is_empty() {
        return Vec::new();
    }
    vec![format!(
        "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [{}]",
        problems.join(" ")
    )]
}

fn state(job: &Job, status: &JobStatus) -> &'static str {
    let is = |kind: &str| condition::is_true(status.conditions.as_ref(), kind);
    match () {
        () if is("Complete") => "Complete",
        () if is("Failed") => "Failed",
        () if job.metadata.deletion_timestamp.is_some() => "Terminating",
        () if is("Suspended") => "Suspended",
        () if is("FailureTarget") => "FailureTarget",
        () => "Running",
    }
}

fn completions(spec: &JobSpec, status: &JobStatus) -> String {
    let succeeded = status.succeeded.unwrap_or_default();
    match (spec.completions, spec.parallelism.unwrap_or_default()) {
        (Some(all), _) => format!("{succeeded}/{all}"),
        (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    }
}

#[cfg(test)]
mod tests;
