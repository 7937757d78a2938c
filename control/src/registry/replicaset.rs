//! ReplicaSets.

use k8s_openapi::{
    api::{
        apps::v1::{ReplicaSet, ReplicaSetStatus},
        core::v1::PodTemplateSpec,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
    jiff::Timestamp,
};
use naru_model::{
    ResourceInfo,
    resource::ALL_VERBS,
    validation::{FieldErrors, Path, meta},
};
use serde_json::Value;

use super::{
    Column, Kind, Scale,
    kind::{Context, age},
    podspec::{self, OrEmpty, check, warnings},
    text, workload,
};

pub struct ReplicaSets;

static RESOURCE: ResourceInfo = ResourceInfo {
    group: "apps",
    version: "v1",
    kind: "ReplicaSet",
    plural: "replicasets",
    singular: "replicaset",
    short_names: &["rs"],
    categories: &["all"],
    namespaced: true,
    subresources: &["scale", "status"],
    verbs: ALL_VERBS,
};

const COLUMNS: &[Column] = &[
    text::NAME,
    text::column(
        "Desired",
        "integer",
        0,
        "Replicas is the number of desired pods. This is a pointer to distinguish between explicit zero and unspecified. Defaults to 1. More info: https://kubernetes.io/docs/concepts/workloads/controllers/replicaset",
    ),
    text::column(
        "Current",
        "integer",
        0,
        "Replicas is the most recently observed number of non-terminating pods. More info: https://kubernetes.io/docs/concepts/workloads/controllers/replicaset",
    ),
    text::column(
        "Ready",
        "integer",
        0,
        "The number of non-terminating pods targeted by this ReplicaSet with a Ready Condition.",
    ),
    text::AGE,
    text::CONTAINERS,
    text::IMAGES,
    text::column(
        "Selector",
        "string",
        1,
        "Selector is a label query over pods that should match the replica count. Label keys and values that must match in order to be controlled by this replica set. It must match the pod template's labels. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors",
    ),
];

impl Kind for ReplicaSets {
    type Object = ReplicaSet;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn default(&self, set: &mut ReplicaSet) {
        let spec = &mut set.spec;
        spec.replicas.get_or_insert(1);
        if let Some(template) = &mut spec.template {
            podspec::default_template(template);
        }
    }

    fn prepare_create(&self, set: &mut ReplicaSet, _context: &Context<'_>) {
        set.status = Some(ReplicaSetStatus::default());
    }

    fn prepare_update(&self, new: &mut ReplicaSet, old: &ReplicaSet, _context: &Context<'_>) {
        new.status.clone_from(&old.status);
    }

    fn prepare_status_update(&self, new: &mut ReplicaSet, old: &ReplicaSet, _context: &Context<'_>) {
        new.spec.clone_from(&old.spec);
    }

    fn validate(&self, set: &ReplicaSet, errors: &mut FieldErrors) {
        let spec = &set.spec;
        let path = Path::new("spec");
        check::not_negative(spec.replicas.unwrap_or_default().into(), &path.child("replicas"), errors);
        let min_ready = spec.min_ready_seconds.unwrap_or_default();
        check::not_negative(min_ready.into(), &path.child("minReadySeconds"), errors);
        let is_usable = workload::selector(&spec.selector, "deployment", &path.child("selector"), errors);
        match &spec.template {
            Some(_) if !is_usable => {}
            Some(template) => {
                workload::template(template, &spec.selector, "ReplicaSet", &path.child("template"), errors);
            }
            None => errors.required(&path.child("template"), ""),
        }
    }

    fn validate_update(&self, new: &ReplicaSet, old: &ReplicaSet, errors: &mut FieldErrors) {
        let path = Path::new("spec").child("selector");
        meta::immutable_field(&path, &new.spec.selector, &old.spec.selector, errors);
    }

    fn validate_status_update(&self, new: &ReplicaSet, _old: &ReplicaSet, errors: &mut FieldErrors) {
        let Some(status) = &new.status else { return };
        let counts = workload::ReplicaCounts {
            replicas: status.replicas,
            fully_labeled: status.fully_labeled_replicas,
            ready: status.ready_replicas,
            available: status.available_replicas,
            terminating: status.terminating_replicas,
            observed_generation: status.observed_generation,
        };
        counts.validate(errors);
    }

    fn is_spec_changed(&self, new: &ReplicaSet, old: &ReplicaSet) -> bool {
        new.spec != old.spec
    }

    fn warnings(&self, set: &ReplicaSet) -> Vec<String> {
        set.spec.template.as_ref().map(template_warnings).unwrap_or_default()
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, set: &ReplicaSet, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (&set.spec, set.status.as_ref());
        let (names, images) = text::containers(spec.template.as_ref());
        vec![
            set.metadata.name.or_empty().into(),
            spec.replicas.unwrap_or_default().into(),
            status.map(|status| status.replicas).unwrap_or_default().into(),
            status.and_then(|status| status.ready_replicas).unwrap_or_default().into(),
            age(set.metadata.creation_timestamp.as_ref(), now).into(),
            names.into(),
            images.into(),
            text::selector(&spec.selector).into(),
        ]
    }

    fn field_names(&self) -> &'static [&'static str] {
        &["status.replicas"]
    }

    fn field(&self, set: &ReplicaSet, name: &str) -> String {
        match name {
            "status.replicas" => {
                set.status.as_ref().map(|status| status.replicas).unwrap_or_default().to_string()
            }
            _ => String::new(),
        }
    }

    fn scale(&self, set: &ReplicaSet) -> Option<Scale> {
        let spec = &set.spec;
        Some(Scale {
            spec_replicas: spec.replicas.unwrap_or_default(),
            status_replicas: set.status.as_ref().map(|status| status.replicas).unwrap_or_default(),
            selector: text::selector(&spec.selector),
        })
    }

    fn set_scale(&self, set: &mut ReplicaSet, replicas: i32) {
        set.spec.replicas = Some(replicas);
    }
}

/// What a template's pods would be warned of.
pub(super) fn template_warnings(template: &PodTemplateSpec) -> Vec<String> {
    let empty = ObjectMeta::default();
    let Some(spec) = &template.spec else { return Vec::new() };
    let meta = template.metadata.as_ref().unwrap_or(&empty);
    warnings::warnings(meta, spec, &Path::new("spec").child("template"))
}
