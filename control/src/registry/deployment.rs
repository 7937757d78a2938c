//! Deployments.

use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentStatus, DeploymentStrategy},
    apimachinery::pkg::util::intstr::IntOrString,
    jiff::Timestamp,
};
use naru_model::{
    ResourceInfo,
    resource::ALL_VERBS,
    validation::{FieldErrors, Path, meta},
};
use serde_json::{Value, json};

use super::{
    Column, Kind, Scale,
    kind::{Context, age},
    podspec::{self, OrEmpty, check},
    replicaset::template_warnings,
    text, workload,
};

pub struct Deployments;

static RESOURCE: ResourceInfo = ResourceInfo {
    group: "apps",
    version: "v1",
    kind: "Deployment",
    plural: "deployments",
    singular: "deployment",
    short_names: &["deploy"],
    categories: &["all"],
    namespaced: true,
    subresources: &["scale", "status"],
    verbs: ALL_VERBS,
};

const DEFAULT_REVISION_HISTORY: i32 = 10;
const DEFAULT_PROGRESS_DEADLINE_SECONDS: i32 = 600;

const COLUMNS: &[Column] = &[
    text::NAME,
    text::column("Ready", "string", 0, "Number of the pod with ready state"),
    text::column(
        "Up-to-date",
        "string",
        0,
        "Total number of non-terminating pods targeted by this deployment that have the desired template spec.",
    ),
    text::column(
        "Available",
        "string",
        0,
        "Total number of available non-terminating pods (ready for at least minReadySeconds) targeted by this deployment.",
    ),
    text::AGE,
    text::CONTAINERS,
    text::IMAGES,
    text::column(
        "Selector",
        "string",
        1,
        "Label selector for pods. Existing ReplicaSets whose pods are selected by this will be the ones affected by this deployment. It must match the pod template's labels.",
    ),
];

impl Kind for Deployments {
    type Object = Deployment;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn default(&self, deployment: &mut Deployment) {
        let spec = &mut deployment.spec;
        spec.replicas.get_or_insert(1);
        spec.revision_history_limit.get_or_insert(DEFAULT_REVISION_HISTORY);
        spec.progress_deadline_seconds.get_or_insert(DEFAULT_PROGRESS_DEADLINE_SECONDS);
        spec.paused.take_if(|paused| !*paused);
        default_strategy(spec.strategy.get_or_insert_default());
        podspec::default_template(&mut spec.template);
    }

    fn prepare_create(&self, deployment: &mut Deployment, _context: &Context<'_>) {
        deployment.status = Some(DeploymentStatus::default());
    }

    fn prepare_update(&self, new: &mut Deployment, old: &Deployment, _context: &Context<'_>) {
        new.status.clone_from(&old.status);
    }

    fn prepare_status_update(&self, new: &mut Deployment, old: &Deployment, _context: &Context<'_>) {
        new.spec.clone_from(&old.spec);
        new.metadata.labels.clone_from(&old.metadata.labels);
    }

    fn validate(&self, deployment: &Deployment, errors: &mut FieldErrors) {
        let spec = &deployment.spec;
        let path = Path::new("spec");
        check::not_negative(spec.replicas.unwrap_or_default().into(), &path.child("replicas"), errors);
        if workload::selector(&spec.selector, "deployment", &path.child("selector"), errors) {
            workload::template(&spec.template, &spec.selector, "ReplicaSet", &path.child("template"), errors);
        }
        if let Some(strategy) = &spec.strategy {
            validate_strategy(strategy, &path.child("strategy"), errors);
        }
        let min_ready = spec.min_ready_seconds.unwrap_or_default();
        check::not_negative(min_ready.into(), &path.child("minReadySeconds"), errors);
        if let Some(limit) = spec.revision_history_limit {
            check::not_negative(limit.into(), &path.child("revisionHistoryLimit"), errors);
        }
        if let Some(deadline) = spec.progress_deadline_seconds {
            let path = path.child("progressDeadlineSeconds");
            check::not_negative(deadline.into(), &path, errors);
            if deadline <= min_ready {
                errors.invalid(&path, deadline, "must be greater than minReadySeconds");
            }
        }
    }

    fn validate_update(&self, new: &Deployment, old: &Deployment, errors: &mut FieldErrors) {
        let path = Path::new("spec").child("selector");
        meta::immutable_field(&path, &new.spec.selector, &old.spec.selector, errors);
    }

    fn validate_status_update(&self, new: &Deployment, old: &Deployment, errors: &mut FieldErrors) {
        let Some(status) = &new.status else { return };
        let path = Path::new("status");
        workload::counts(
            &[
                ("observedGeneration", status.observed_generation),
                ("replicas", status.replicas.map(Into::into)),
                ("updatedReplicas", status.updated_replicas.map(Into::into)),
                ("readyReplicas", status.ready_replicas.map(Into::into)),
                ("availableReplicas", status.available_replicas.map(Into::into)),
                ("unavailableReplicas", status.unavailable_replicas.map(Into::into)),
                ("terminatingReplicas", status.terminating_replicas.map(Into::into)),
                ("collisionCount", status.collision_count.map(Into::into)),
            ],
            &path,
            errors,
        );
        let all = ("status.replicas", status.replicas.unwrap_or_default());
        workload::at_most(("updatedReplicas", status.updated_replicas), all, &path, errors);
        workload::at_most(("readyReplicas", status.ready_replicas), all, &path, errors);
        workload::at_most(("availableReplicas", status.available_replicas), all, &path, errors);
        let ready = ("readyReplicas", status.ready_replicas.unwrap_or_default());
        workload::at_most(("availableReplicas", status.available_replicas), ready, &path, errors);
        let before = old.status.as_ref().and_then(|status| status.collision_count);
        workload::collisions(status.collision_count, before, errors);
    }

    fn reset_fields(&self, subresource: &str) -> &'static [&'static str] {
        match subresource {
            "" => &["status"],
            "status" => &["spec", "metadata.labels"],
            _ => &[],
        }
    }

    /// Kubernetes counts a change of annotations too: they are copied to the ReplicaSets.
    fn is_spec_changed(&self, new: &Deployment, old: &Deployment) -> bool {
        new.spec != old.spec || new.metadata.annotations != old.metadata.annotations
    }

    fn warnings(&self, deployment: &Deployment) -> Vec<String> {
        template_warnings(&deployment.spec.template)
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, deployment: &Deployment, now: Timestamp) -> Vec<Value> {
        let (spec, empty) = (&deployment.spec, DeploymentStatus::default());
        let status = deployment.status.as_ref().unwrap_or(&empty);
        let (names, images) = text::containers(Some(&spec.template));
        let desired = spec.replicas.unwrap_or_default();
        vec![
            deployment.metadata.name.or_empty().into(),
            format!("{}/{desired}", status.ready_replicas.unwrap_or_default()).into(),
            status.updated_replicas.unwrap_or_default().into(),
            status.available_replicas.unwrap_or_default().into(),
            age(deployment.metadata.creation_timestamp.as_ref(), now).into(),
            names.into(),
            images.into(),
            text::selector(&spec.selector).into(),
        ]
    }

    fn scale(&self, deployment: &Deployment) -> Option<Scale> {
        let spec = &deployment.spec;
        Some(Scale {
            spec_replicas: spec.replicas.unwrap_or_default(),
            status_replicas: deployment
                .status
                .as_ref()
                .and_then(|status| status.replicas)
                .unwrap_or_default(),
            selector: text::selector(&spec.selector),
        })
    }

    fn set_scale(&self, deployment: &mut Deployment, replicas: i32) {
        deployment.spec.replicas = Some(replicas);
    }
}

fn default_strategy(strategy: &mut DeploymentStrategy) {
    if strategy.type_.or_empty().is_empty() {
        strategy.type_ = Some("RollingUpdate".into());
    }
    if strategy.type_.as_deref() == Some("RollingUpdate") {
        let quarter = || IntOrString::String("25%".into());
        let rolling = strategy.rolling_update.get_or_insert_default();
        rolling.max_unavailable.get_or_insert_with(quarter);
        rolling.max_surge.get_or_insert_with(quarter);
    }
}

fn validate_strategy(strategy: &DeploymentStrategy, path: &Path, errors: &mut FieldErrors) {
    let rolling_path = path.child("rollingUpdate");
    match strategy.type_.or_empty() {
        "Recreate" => {
            if strategy.rolling_update.is_some() {
                let detail = "may not be specified when strategy `type` is 'Recreate'";
                errors.forbidden(&rolling_path, detail);
            }
        }
        "RollingUpdate" => {
            let Some(rolling) = &strategy.rolling_update else {
                let detail = "this should be defaulted and never be nil";
                return errors.required(&rolling_path, detail);
            };
            let zero = IntOrString::Int(0);
            let unavailable = rolling.max_unavailable.as_ref().unwrap_or(&zero);
            let surge = rolling.max_surge.as_ref().unwrap_or(&zero);
            let unavailable_path = rolling_path.child("maxUnavailable");
            workload::positive_or_percent(unavailable, &unavailable_path, errors);
            workload::positive_or_percent(surge, &rolling_path.child("maxSurge"), errors);
            if workload::is_zero(unavailable) && workload::is_zero(surge) {
                let detail = "may not be 0 when `maxSurge` is 0";
                errors.invalid(&unavailable_path, workload::json(unavailable), detail);
            }
            workload::not_more_than_all(unavailable, &unavailable_path, errors);
        }
        other => {
            // Kubernetes means the strategy as a whole.
            let value = json!({ "Type": other, "RollingUpdate": strategy.rolling_update });
            errors.not_supported(path, value, &["Recreate", "RollingUpdate"]);
        }
    }
}

#[cfg(test)]
mod tests;
