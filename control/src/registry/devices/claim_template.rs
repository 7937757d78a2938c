//! ResourceClaimTemplates: claims that are made anew for each pod.

use k8s_openapi::{api::resource::v1::ResourceClaimTemplate, jiff::Timestamp};
use naru_model::{
    ResourceInfo,
    validation::{FieldErrors, Path, meta},
};
use serde_json::Value;

use super::{GROUP, claim};
use crate::registry::{
    Column, Kind,
    kind::age,
    podspec::{OrEmpty, check},
    text,
};

pub struct ResourceClaimTemplates;

static RESOURCE: ResourceInfo = ResourceInfo {
    group: GROUP,
    ..text::core_resource("ResourceClaimTemplate", "resourceclaimtemplates", "resourceclaimtemplate", &[])
};

const COLUMNS: &[Column] = &[text::NAME, text::AGE];

impl Kind for ResourceClaimTemplates {
    type Object = ResourceClaimTemplate;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn answers_deleted(&self) -> bool {
        true
    }

    fn default(&self, template: &mut ResourceClaimTemplate) {
        let spec = template.spec.get_or_insert_default();
        spec.metadata.get_or_insert_default();
        claim::default_spec(spec.spec.get_or_insert_default());
    }

    fn has_generation(&self) -> bool {
        false
    }

    fn validate_create(&self, template: &ResourceClaimTemplate, errors: &mut FieldErrors) {
        let Some(spec) = &template.spec else { return };
        let path = Path::new("spec");
        if let Some(metadata) = &spec.metadata {
            let path = path.child("metadata");
            check::labels(metadata.labels.as_ref(), &path.child("labels"), errors);
            check::annotations(metadata.annotations.as_ref(), &path.child("annotations"), errors);
        }
        if let Some(spec) = &spec.spec {
            claim::validate_spec(spec, &path.child("spec"), errors);
        }
    }

    fn validate_update(
        &self,
        new: &ResourceClaimTemplate,
        old: &ResourceClaimTemplate,
        errors: &mut FieldErrors,
    ) {
        meta::immutable_field(&Path::new("spec"), &new.spec, &old.spec, errors);
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, template: &ResourceClaimTemplate, now: Timestamp) -> Vec<Value> {
        let meta = &template.metadata;
        vec![meta.name.or_empty().into(), age(meta.creation_timestamp.as_ref(), now).into()]
    }
}
