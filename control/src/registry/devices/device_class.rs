//! DeviceClasses: devices that are alike, and how they are configured.

use k8s_openapi::{api::resource::v1::DeviceClass, jiff::Timestamp};
use naru_model::{
    ResourceInfo,
    validation::{FieldErrors, Path, names},
};
use serde_json::Value;

use super::{cluster_resource, each, requests};
use crate::registry::{Column, Kind, kind::age, podspec::OrEmpty, text};

pub struct DeviceClasses;

static RESOURCE: ResourceInfo = cluster_resource("DeviceClass", "deviceclasses", "deviceclass");

const COLUMNS: &[Column] = &[text::NAME, text::AGE];

impl Kind for DeviceClasses {
    type Object = DeviceClass;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn answers_deleted(&self) -> bool {
        true
    }

    fn default(&self, class: &mut DeviceClass) {
        class.spec.get_or_insert_default();
    }

    fn validate(&self, class: &DeviceClass, errors: &mut FieldErrors) {
        let Some(spec) = &class.spec else { return };
        let path = Path::new("spec");
        requests::validate_selectors(spec.selectors.or_empty(), &path.child("selectors"), errors);
        let config = spec.config.or_empty();
        each(config, requests::MAX_CONFIGS, &path.child("config"), errors, |config, path, errors| {
            requests::validate_configuration(config.opaque.as_ref(), path, errors);
        });
        if let Some(name) = spec.extended_resource_name.as_deref().filter(|name| !is_extended(name)) {
            let path = path.child("extendedResourceName");
            errors.invalid(&path, name, "must be a valid extended resource name");
        }
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, class: &DeviceClass, now: Timestamp) -> Vec<Value> {
        let meta = &class.metadata;
        vec![meta.name.or_empty().into(), age(meta.creation_timestamp.as_ref(), now).into()]
    }
}

/// A qualified name of somebody's own, as quotas would count it.
fn is_extended(name: &str) -> bool {
    name.contains('/')
        && !name.contains("kubernetes.io/")
        && !name.starts_with("requests.")
        && names::qualified_name(&format!("requests.{name}")).is_empty()
}
