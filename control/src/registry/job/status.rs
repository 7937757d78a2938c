//! What a job's controller may report, and how that may change.

use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use naru_model::{
    condition,
    validation::{FieldErrors, Path},
};
use serde_json::json;
use std::collections::BTreeSet;

use super::{OrEmpty, check, indexes, spec::is_indexed};

pub(super) fn validate(new: &Job, old: &Job, errors: &mut FieldErrors) {
    let empty = (JobSpec::default(), JobStatus::default());
    let spec = new.spec.as_ref().unwrap_or(&empty.0);
    let status = new.status.as_ref().unwrap_or(&empty.1);
    let before = old.status.as_ref().unwrap_or(&empty.1);
    let path = Path::new("status");
    counts(status, &path, errors);
    conditions(spec, status, &path, errors);
    times(status, &path, errors);
    finished(status, &path, errors);
    index_lists(spec, status, &path, errors);
    if status.ready.unwrap_or(0) > status.active.unwrap_or(0) {
        errors.invalid(&path.child("ready"), status.ready, "cannot set more ready pods than active");
    }
    progress(spec, status, before, &path, errors);
}

fn is(status: &JobStatus, kind: &str) -> bool {
    condition::is_true(status.conditions.as_ref(), kind)
}

fn is_finished(status: &JobStatus) -> bool {
    is(status, "Complete") || is(status, "Failed")
}

fn counts(status: &JobStatus, path: &Path, errors: &mut FieldErrors) {
    for (name, count) in [
        ("active", status.active),
        ("succeeded", status.succeeded),
        ("failed", status.failed),
        ("ready", status.ready),
        ("terminating", status.terminating),
    ] {
        check::not_negative(count.unwrap_or_default().into(), &path.child(name), errors);
    }
    let Some(uncounted) = &status.uncounted_terminated_pods else { return };
    let path = path.child("uncountedTerminatedPods");
    let mut seen = BTreeSet::new();
    for (name, uids) in [("succeeded", &uncounted.succeeded), ("failed", &uncounted.failed)] {
        for (index, uid) in uids.or_empty().iter().enumerate() {
            let path = path.child(name).index(index);
            if uid.is_empty() {
                errors.invalid(&path, "", "must not be empty");
            } else if !seen.insert(uid) {
                errors.duplicate(&path, uid.as_str());
            }
        }
    }
}

/// Conditions that exclude or need each other.
fn conditions(spec: &JobSpec, status: &JobStatus, path: &Path, errors: &mut FieldErrors) {
    let (complete, failed) = (is(status, "Complete"), is(status, "Failed"));
    let (failing, succeeding) = (is(status, "FailureTarget"), is(status, "SuccessCriteriaMet"));
    for (is_wrong, detail) in [
        (complete && failed, "cannot set Complete=True and Failed=true conditions"),
        (complete && failing, "cannot set Complete=True and FailureTarget=true conditions"),
        (failed && !failing, "cannot set Failed=True condition without the FailureTarget=true condition"),
        (
            complete && !succeeding,
            "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
        ),
        (succeeding && failed, "cannot set SuccessCriteriaMet=True and Failed=true conditions"),
        (succeeding && failing, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions"),
        (
            spec.success_policy.is_some() && complete && !succeeding,
            "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True",
        ),
    ] {
        if is_wrong {
            errors.invalid_whole(&path.child("conditions"), detail);
        }
    }
}

fn times(status: &JobStatus, path: &Path, errors: &mut FieldErrors) {
    let path = path.child("completionTime");
    match (&status.completion_time, is(status, "Complete")) {
        (Some(time), false) => {
            let detail = "cannot set completionTime when there is no Complete=True condition";
            errors.invalid(&path, json!(time), detail);
        }
        (None, true) => errors.required(&path, "completionTime is required for Complete jobs"),
        _ => (),
    }
    if let (Some(start), Some(end)) = (&status.start_time, &status.completion_time)
        && end.0 < start.0
    {
        errors.invalid(&path, json!(end), "completionTime cannot be set before startTime");
    }
}

fn finished(status: &JobStatus, path: &Path, errors: &mut FieldErrors) {
    if !is_finished(status) {
        return;
    }
    if status.active.unwrap_or(0) > 0 {
        errors.invalid(&path.child("active"), status.active, "active>0 is invalid for finished job");
    }
    if status.start_time.is_none() {
        errors.required(&path.child("startTime"), "startTime is required for finished job");
    }
    let uncounted = status.uncounted_terminated_pods.as_ref();
    if uncounted
        .is_some_and(|pods| !pods.failed.or_empty().is_empty() || !pods.succeeded.or_empty().is_empty())
    {
        let detail = "uncountedTerminatedPods needs to be empty for finished job";
        errors.invalid(&path.child("uncountedTerminatedPods"), json!(uncounted), detail);
    }
    if status.terminating.unwrap_or(0) > 0 {
        let detail = "terminating>0 is invalid for finished job";
        errors.invalid(&path.child("terminating"), status.terminating, detail);
    }
}

fn index_lists(spec: &JobSpec, status: &JobStatus, path: &Path, errors: &mut FieldErrors) {
    let (completed, failed) = (status.completed_indexes.or_empty(), status.failed_indexes.as_deref());
    let (completed_path, failed_path) = (path.child("completedIndexes"), path.child("failedIndexes"));
    if let Some(completions) = spec.completions {
        let parsed = indexes::parse(completed, completions);
        if let Err(why) = &parsed {
            errors.invalid(&completed_path, completed, &format!("error parsing completedIndexes: {why}"));
        }
        let failing = failed.filter(|_| spec.backoff_limit_per_index.is_some());
        let failing = failing.map(|failed| indexes::parse(failed, completions));
        if let Some(Err(why)) = &failing {
            errors.invalid(&failed_path, failed, &format!("error parsing failedIndexes: {why}"));
        }
        if let (Ok(completed), Some(Ok(failing))) = (parsed, failing)
            && let Some(index) = indexes::overlap(&completed, &failing)
        {
            let detail = format!("failedIndexes and completedIndexes overlap at index: {index}");
            errors.invalid(&failed_path, failed, &detail);
        }
    }
    if !completed.is_empty() && !is_indexed(spec) {
        let detail = "cannot set non-empty completedIndexes when non-indexed completion mode";
        errors.invalid(&completed_path, completed, detail);
    }
    if failed.is_some() && spec.backoff_limit_per_index.is_none() {
        let detail = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
        errors.invalid(&failed_path, failed, detail);
    }
}

/// What is never taken back.
fn progress(spec: &JobSpec, status: &JobStatus, before: &JobStatus, path: &Path, errors: &mut FieldErrors) {
    let conditions_path = path.child("conditions");
    for kind in ["Failed", "Complete", "FailureTarget"] {
        if is(before, kind) && !is(status, kind) {
            let detail = format!("cannot disable the terminal {kind}=True condition");
            errors.invalid_whole(&conditions_path, &detail);
        }
    }
    if status.failed.unwrap_or(0) < before.failed.unwrap_or(0) {
        let detail = "cannot decrease the failed counter";
        errors.invalid(&path.child("failed"), status.failed.unwrap_or(0), detail);
    }
    // An indexed job that shrinks forgets the indexes beyond its end.
    let may_shrink = is_indexed(spec) && spec.completions == spec.parallelism;
    if !may_shrink && status.succeeded.unwrap_or(0) < before.succeeded.unwrap_or(0) {
        let detail = "cannot decrease the succeeded counter";
        errors.invalid(&path.child("succeeded"), status.succeeded.unwrap_or(0), detail);
    }
    let (end, old_end) = (&status.completion_time, &before.completion_time);
    if end.is_some() && old_end.is_some() && end != old_end {
        errors.invalid(&path.child("completionTime"), json!(end), "completionTime cannot be mutated");
    }
    let is_restarted = before.start_time.is_some() && before.start_time != status.start_time;
    if is_restarted && spec.suspend != Some(true) {
        errors.required(&path.child("startTime"), "startTime cannot be removed for unsuspended job");
    }
    let (was_met, is_met) = (is(before, "SuccessCriteriaMet"), is(status, "SuccessCriteriaMet"));
    if was_met && !is_met {
        errors.invalid_whole(&conditions_path, "cannot disable the SuccessCriteriaMet=True condition");
    }
    if is(before, "Complete") && !was_met && is_met {
        let detail = "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions";
        errors.invalid_whole(&conditions_path, detail);
    }
}
