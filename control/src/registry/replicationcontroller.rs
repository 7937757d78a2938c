//! ReplicationControllers: what ReplicaSets were before selectors had expressions.

use k8s_openapi::{
    api::core::v1::{ReplicationController, ReplicationControllerSpec, ReplicationControllerStatus},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
    jiff::Timestamp,
};
use naru_model::{
    ResourceInfo,
    validation::{FieldErrors, Path},
};
use serde_json::Value;

use super::{
    Column, Kind, Scale,
    kind::Context,
    podspec::{self, check},
    replicaset::template_warnings,
    text, workload,
};

pub struct ReplicationControllers;

static RESOURCE: ResourceInfo = ResourceInfo {
    categories: &["all"],
    subresources: &["scale", "status"],
    ..text::core_resource("ReplicationController", "replicationcontrollers", "replicationcontroller", &["rc"])
};

const COLUMNS: &[Column] = &[
    text::NAME,
    text::column(
        "Desired",
        "integer",
        0,
        "Replicas is the number of desired replicas. This is a pointer to distinguish between explicit zero and unspecified. Defaults to 1. More info: https://kubernetes.io/docs/concepts/workloads/controllers/replicationcontroller#what-is-a-replicationcontroller",
    ),
    text::column(
        "Current",
        "integer",
        0,
        "Replicas is the most recently observed number of replicas. More info: https://kubernetes.io/docs/concepts/workloads/controllers/replicationcontroller#what-is-a-replicationcontroller",
    ),
    text::column("Ready", "integer", 0, "The number of ready replicas for this replication controller."),
    text::AGE,
    text::CONTAINERS,
    text::IMAGES,
    text::column(
        "Selector",
        "string",
        1,
        "Selector is a label query over pods that should match the Replicas count. If Selector is empty, it is defaulted to the labels present on the Pod template. Label keys and values that must match in order to be controlled by this replication controller, if empty defaulted to labels on Pod template. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors",
    ),
];

impl Kind for ReplicationControllers {
    type Object = ReplicationController;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    /// Without a selector or labels of its own, those of the template are taken.
    fn default(&self, controller: &mut ReplicationController) {
        let spec = controller.spec.get_or_insert_default();
        let labels = spec.template.as_ref().and_then(|template| template.metadata.as_ref()?.labels.clone());
        if let Some(labels) = labels {
            if spec.selector.iter().flatten().next().is_none() {
                spec.selector = Some(labels.clone());
            }
            if controller.metadata.labels.iter().flatten().next().is_none() {
                controller.metadata.labels = Some(labels);
            }
        }
        spec.replicas.get_or_insert(1);
        if let Some(template) = &mut spec.template {
            podspec::default_template(template);
        }
    }

    fn prepare_create(&self, controller: &mut ReplicationController, _context: &Context<'_>) {
        controller.status = Some(ReplicationControllerStatus::default());
    }

    fn prepare_update(
        &self,
        new: &mut ReplicationController,
        old: &ReplicationController,
        _context: &Context<'_>,
    ) {
        new.status.clone_from(&old.status);
    }

    fn prepare_status_update(
        &self,
        new: &mut ReplicationController,
        old: &ReplicationController,
        _context: &Context<'_>,
    ) {
        new.spec.clone_from(&old.spec);
    }

    fn validate(&self, controller: &ReplicationController, errors: &mut FieldErrors) {
        let empty = ReplicationControllerSpec::default();
        let spec = controller.spec.as_ref().unwrap_or(&empty);
        let path = Path::new("spec");
        let min_ready = spec.min_ready_seconds.unwrap_or_default();
        check::not_negative(min_ready.into(), &path.child("minReadySeconds"), errors);
        if spec.selector.iter().flatten().next().is_none() {
            errors.required(&path.child("selector"), "");
        }
        check::not_negative(spec.replicas.unwrap_or_default().into(), &path.child("replicas"), errors);
        match &spec.template {
            Some(template) => {
                let selector = selector(spec);
                let path = path.child("template");
                workload::template(template, &selector, "ReplicationController", &path, errors);
            }
            None => errors.required(&path.child("template"), ""),
        }
    }

    fn validate_status_update(
        &self,
        new: &ReplicationController,
        _old: &ReplicationController,
        errors: &mut FieldErrors,
    ) {
        let Some(status) = &new.status else { return };
        let counts = workload::ReplicaCounts {
            replicas: status.replicas,
            fully_labeled: status.fully_labeled_replicas,
            ready: status.ready_replicas,
            available: status.available_replicas,
            terminating: None,
            observed_generation: status.observed_generation,
        };
        counts.validate(errors);
    }

    fn is_spec_changed(&self, new: &ReplicationController, old: &ReplicationController) -> bool {
        new.spec != old.spec
    }

    fn warnings(&self, controller: &ReplicationController) -> Vec<String> {
        let template = controller.spec.as_ref().and_then(|spec| spec.template.as_ref());
        template.map(template_warnings).unwrap_or_default()
    }

    fn orphans_by_default(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, controller: &ReplicationController, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (controller.spec.as_ref(), controller.status.as_ref());
        let (names, images) = text::containers(spec.and_then(|spec| spec.template.as_ref()));
        vec![
            text::name(&controller.metadata),
            spec.and_then(|spec| spec.replicas).unwrap_or_default().into(),
            status.map(|status| status.replicas).unwrap_or_default().into(),
            status.and_then(|status| status.ready_replicas).unwrap_or_default().into(),
            text::age(&controller.metadata, now),
            names.into(),
            images.into(),
            text::labels(spec.and_then(|spec| spec.selector.as_ref())).into(),
        ]
    }

    fn field_names(&self) -> &'static [&'static str] {
        &["status.replicas"]
    }

    fn field(&self, controller: &ReplicationController, name: &str) -> String {
        match name {
            "status.replicas" => {
                controller.status.as_ref().map(|status| status.replicas).unwrap_or_default().to_string()
            }
            _ => String::new(),
        }
    }

    fn scale(&self, controller: &ReplicationController) -> Option<Scale> {
        let spec = controller.spec.as_ref()?;
        Some(Scale {
            spec_replicas: spec.replicas.unwrap_or_default(),
            status_replicas: controller.status.as_ref().map(|status| status.replicas).unwrap_or_default(),
            selector: text::selector(&selector(spec)),
        })
    }

    fn set_scale(&self, controller: &mut ReplicationController, replicas: i32) {
        controller.spec.get_or_insert_default().replicas = Some(replicas);
    }
}

fn selector(spec: &ReplicationControllerSpec) -> LabelSelector {
    LabelSelector { match_labels: spec.selector.clone(), ..LabelSelector::default() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registry::testing::{at, check, create};

    #[test]
    fn the_template_says_what_is_selected() {
        let yaml = "{metadata: {name: web, namespace: shop}, spec: {template: {metadata: {labels: {app: web}}, \
                    spec: {containers: [{name: c, image: hello}]}}}}";
        let (controller, errors) = create(&ReplicationControllers, yaml);
        assert_eq!(errors, [] as [&str; 0]);
        assert_eq!(at(&controller, "/spec/selector"), json!({ "app": "web" }));
        assert_eq!(at(&controller, "/metadata/labels"), json!({ "app": "web" }));
        let row = ReplicationControllers.row(&controller, crate::registry::testing::now());
        assert_eq!(row[1..4], [json!(1), json!(0), json!(0)]);
        assert_eq!(row[5..], [json!("c"), json!("hello"), json!("app=web")]);
        assert_eq!(ReplicationControllers.scale(&controller).expect("a scale").selector, "app=web");
    }

    #[test]
    fn selector_and_template_are_needed() {
        check(
            &ReplicationControllers,
            "{metadata: {name: web}, spec: {replicas: -1}}",
            &[
                "spec.selector: Required value",
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
                "spec.template: Required value",
            ],
        );
    }
}
