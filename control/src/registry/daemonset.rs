//! DaemonSets: one pod on each node that fits.

use k8s_openapi::{
    api::apps::v1::{DaemonSet, DaemonSetStatus, DaemonSetUpdateStrategy},
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
    jiff::Timestamp,
};
use naru_model::{
    ResourceInfo,
    validation::{FieldErrors, Path, meta},
};
use serde_json::{Value, json};

use super::{
    Column, Kind,
    kind::Context,
    podspec::{self, OrEmpty, check},
    replicaset::template_warnings,
    text, workload,
};

pub struct DaemonSets;

static RESOURCE: ResourceInfo = ResourceInfo {
    group: "apps",
    categories: &["all"],
    subresources: &["status"],
    ..text::core_resource("DaemonSet", "daemonsets", "daemonset", &["ds"])
};

const DEFAULT_REVISION_HISTORY: i32 = 10;
/// Counts the changes of the template, as a field did once.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

const COLUMNS: &[Column] = &[
    text::NAME,
    text::column(
        "Desired",
        "integer",
        0,
        "The total number of nodes that should be running the daemon pod (including nodes correctly running the daemon pod). More info: https://kubernetes.io/docs/concepts/workloads/controllers/daemonset/",
    ),
    text::column(
        "Current",
        "integer",
        0,
        "The number of nodes that are running at least 1 daemon pod and are supposed to run the daemon pod. More info: https://kubernetes.io/docs/concepts/workloads/controllers/daemonset/",
    ),
    text::column(
        "Ready",
        "integer",
        0,
        "numberReady is the number of nodes that should be running the daemon pod and have one or more of the daemon pod running with a Ready Condition.",
    ),
    text::column("Up-to-date", "integer", 0, "The total number of nodes that are running updated daemon pod"),
    text::column(
        "Available",
        "integer",
        0,
        "The number of nodes that should be running the daemon pod and have one or more of the daemon pod running and available (ready for at least spec.minReadySeconds)",
    ),
    text::column(
        "Node Selector",
        "string",
        0,
        "NodeSelector is a selector which must be true for the pod to fit on a node. Selector which must match a node's labels for the pod to be scheduled on that node. More info: https://kubernetes.io/docs/concepts/configuration/assign-pod-node/",
    ),
    text::AGE,
    text::CONTAINERS,
    text::IMAGES,
    text::column(
        "Selector",
        "string",
        1,
        "A label query over pods that are managed by the daemon set. Must match in order to be controlled. It must match the pod template's labels. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors",
    ),
];

impl Kind for DaemonSets {
    type Object = DaemonSet;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn default(&self, set: &mut DaemonSet) {
        let spec = &mut set.spec;
        default_strategy(spec.update_strategy.get_or_insert_default());
        spec.revision_history_limit.get_or_insert(DEFAULT_REVISION_HISTORY);
        podspec::default_template(&mut spec.template);
    }

    fn prepare_create(&self, set: &mut DaemonSet, _context: &Context<'_>) {
        set.status = Some(DaemonSetStatus::default());
        let asked = template_generation(set);
        set_template_generation(set, asked.max(1));
    }

    fn prepare_update(&self, new: &mut DaemonSet, old: &DaemonSet, _context: &Context<'_>) {
        new.status.clone_from(&old.status);
        let is_changed = new.spec.template != old.spec.template;
        set_template_generation(new, template_generation(old) + i64::from(is_changed));
    }

    fn prepare_status_update(&self, new: &mut DaemonSet, old: &DaemonSet, _context: &Context<'_>) {
        new.spec.clone_from(&old.spec);
        set_template_generation(new, template_generation(old));
    }

    fn validate(&self, set: &DaemonSet, errors: &mut FieldErrors) {
        let spec = &set.spec;
        let path = Path::new("spec");
        check::label_selector(Some(&spec.selector), &path.child("selector"), errors);
        if spec.selector == LabelSelector::default() {
            let detail = "empty selector is invalid for daemonset";
            errors.invalid(&path.child("selector"), json!(spec.selector), detail);
        }
        workload::template(&spec.template, &spec.selector, "DaemonSet", &path.child("template"), errors);
        let min_ready = spec.min_ready_seconds.unwrap_or_default();
        check::not_negative(min_ready.into(), &path.child("minReadySeconds"), errors);
        if let Some(strategy) = &spec.update_strategy {
            validate_strategy(strategy, &path.child("updateStrategy"), errors);
        }
        if let Some(limit) = spec.revision_history_limit {
            check::not_negative(limit.into(), &path.child("revisionHistoryLimit"), errors);
        }
    }

    fn validate_update(&self, new: &DaemonSet, old: &DaemonSet, errors: &mut FieldErrors) {
        let path = Path::new("spec").child("selector");
        meta::immutable_field(&path, &new.spec.selector, &old.spec.selector, errors);
    }

    fn validate_status_update(&self, new: &DaemonSet, old: &DaemonSet, errors: &mut FieldErrors) {
        let Some(status) = &new.status else { return };
        workload::counts(
            &[
                ("currentNumberScheduled", Some(status.current_number_scheduled.into())),
                ("numberMisscheduled", Some(status.number_misscheduled.into())),
                ("desiredNumberScheduled", Some(status.desired_number_scheduled.into())),
                ("numberReady", Some(status.number_ready.into())),
                ("observedGeneration", status.observed_generation),
                ("updatedNumberScheduled", status.updated_number_scheduled.map(Into::into)),
                ("numberAvailable", status.number_available.map(Into::into)),
                ("numberUnavailable", status.number_unavailable.map(Into::into)),
                ("collisionCount", status.collision_count.map(Into::into)),
            ],
            &Path::new("status"),
            errors,
        );
        let before = old.status.as_ref().and_then(|status| status.collision_count);
        workload::collisions(status.collision_count, before, errors);
    }

    fn is_spec_changed(&self, new: &DaemonSet, old: &DaemonSet) -> bool {
        new.spec != old.spec
    }

    fn warnings(&self, set: &DaemonSet) -> Vec<String> {
        template_warnings(&set.spec.template)
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, set: &DaemonSet, now: Timestamp) -> Vec<Value> {
        let empty = DaemonSetStatus::default();
        let status = set.status.as_ref().unwrap_or(&empty);
        let (names, images) = text::containers(Some(&set.spec.template));
        let nodes = set.spec.template.spec.as_ref().and_then(|spec| spec.node_selector.as_ref());
        vec![
            text::name(&set.metadata),
            status.desired_number_scheduled.into(),
            status.current_number_scheduled.into(),
            status.number_ready.into(),
            status.updated_number_scheduled.unwrap_or_default().into(),
            status.number_available.unwrap_or_default().into(),
            text::labels(nodes).into(),
            text::age(&set.metadata, now),
            names.into(),
            images.into(),
            text::selector(&set.spec.selector).into(),
        ]
    }
}

fn template_generation(set: &DaemonSet) -> i64 {
    let text = set.metadata.annotations.as_ref().and_then(|map| map.get(TEMPLATE_GENERATION));
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn set_template_generation(set: &mut DaemonSet, generation: i64) {
    let annotations = set.metadata.annotations.get_or_insert_default();
    annotations.insert(TEMPLATE_GENERATION.into(), generation.to_string());
}

fn default_strategy(strategy: &mut DaemonSetUpdateStrategy) {
    if strategy.type_.or_empty().is_empty() {
        strategy.type_ = Some("RollingUpdate".into());
    }
    if strategy.type_.as_deref() == Some("RollingUpdate") {
        let rolling = strategy.rolling_update.get_or_insert_default();
        rolling.max_unavailable.get_or_insert(IntOrString::Int(1));
        rolling.max_surge.get_or_insert(IntOrString::Int(0));
    }
}

fn validate_strategy(strategy: &DaemonSetUpdateStrategy, path: &Path, errors: &mut FieldErrors) {
    match strategy.type_.or_empty() {
        "OnDelete" => (),
        "RollingUpdate" => {
            let path = path.child("rollingUpdate");
            let Some(rolling) = &strategy.rolling_update else { return errors.required(&path, "") };
            let (one, zero) = (IntOrString::Int(1), IntOrString::Int(0));
            let unavailable = rolling.max_unavailable.as_ref().unwrap_or(&one);
            let surge = rolling.max_surge.as_ref().unwrap_or(&zero);
            let (unavailable_path, surge_path) = (path.child("maxUnavailable"), path.child("maxSurge"));
            workload::positive_or_percent(unavailable, &unavailable_path, errors);
            workload::positive_or_percent(surge, &surge_path, errors);
            workload::not_more_than_all(unavailable, &unavailable_path, errors);
            workload::not_more_than_all(surge, &surge_path, errors);
            match (workload::is_zero(unavailable), workload::is_zero(surge)) {
                (false, false) => {
                    let detail = "may not be set when maxUnavailable is non-zero";
                    errors.invalid(&surge_path, workload::json(surge), detail);
                }
                (true, true) => errors.required(&unavailable_path, "cannot be 0 when maxSurge is 0"),
                _ => (),
            }
        }
        _ => errors.not_supported(path, json!(strategy), &["RollingUpdate", "OnDelete"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::testing::{at, check, check_update, create, update};

    const LOGS: &str = "
metadata: {name: logs, namespace: shop}
spec:
  selector: {matchLabels: {app: logs}}
  template:
    metadata: {labels: {app: logs}}
    spec: {nodeSelector: {disk: fast}, containers: [{name: logs, image: logs:v1}]}
";

    #[test]
    fn defaults_and_columns() {
        let (set, errors) = create(&DaemonSets, LOGS);
        assert_eq!(errors, [] as [&str; 0]);
        let expected =
            json!({ "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 0, "maxUnavailable": 1 } });
        assert_eq!(at(&set, "/spec/updateStrategy"), expected);
        assert_eq!(at(&set, "/spec/revisionHistoryLimit"), 10);
        assert_eq!(DaemonSets.row(&set, crate::registry::testing::now())[6], "disk=fast");
    }

    #[test]
    fn changes_of_the_template_are_counted() {
        let generation = |new: &str| {
            let (set, errors) = update(&DaemonSets, LOGS, new);
            assert_eq!(errors, [] as [&str; 0]);
            template_generation(&set)
        };
        assert_eq!(generation(LOGS), 1);
        assert_eq!(generation(&LOGS.replace("logs:v1", "logs:v2")), 2);
    }

    #[test]
    fn wrong_sets_are_refused() {
        check(
            &DaemonSets,
            &LOGS.replace("spec:\n  sel", "spec:\n  updateStrategy: {rollingUpdate: {maxSurge: 10%}}\n  sel"),
            &[
                "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: \"10%\": may not be set when maxUnavailable is non-zero",
            ],
        );
        check(
            &DaemonSets,
            &LOGS.replace("spec:\n  sel", "spec:\n  updateStrategy: {type: Never}\n  sel"),
            &[
                "spec.updateStrategy: Unsupported value: {\"type\":\"Never\"}: supported values: \"RollingUpdate\", \"OnDelete\"",
            ],
        );
        check_update(
            &DaemonSets,
            LOGS,
            &LOGS.replace("app: logs", "app: other"),
            &["spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"other\"}}: field is immutable"],
        );
    }
}
