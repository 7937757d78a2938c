//! VolumeAttributesClasses: what may be changed about a volume while it is used.

use k8s_openapi::{api::storage::v1::VolumeAttributesClass, jiff::Timestamp};
use naru_model::{
    ResourceInfo,
    validation::{FieldErrors, Path},
};
use serde_json::Value;

use super::{keep, validate_parameters, validate_provisioner};
use crate::registry::{Column, Kind, kind::age, podspec::OrEmpty, text};

pub struct VolumeAttributesClasses;

/// What marks the class of claims that name none.
const DEFAULT_CLASS: &str = "volumeattributesclass.kubernetes.io/is-default-class";

static RESOURCE: ResourceInfo = ResourceInfo {
    group: "storage.k8s.io",
    namespaced: false,
    ..text::core_resource(
        "VolumeAttributesClass",
        "volumeattributesclasses",
        "volumeattributesclass",
        &["vac"],
    )
};

const COLUMNS: &[Column] = &[
    text::NAME,
    text::column(
        "DriverName",
        "string",
        0,
        "driverName is the name of the CSI driver This field is immutable.",
    ),
    text::AGE,
];

impl Kind for VolumeAttributesClasses {
    type Object = VolumeAttributesClass;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn answers_deleted(&self) -> bool {
        true
    }

    fn has_generation(&self) -> bool {
        false
    }

    fn validate(&self, class: &VolumeAttributesClass, errors: &mut FieldErrors) {
        validate_provisioner(&class.driver_name, &Path::new("driverName"), errors);
        validate_parameters(class.parameters.as_ref(), false, &Path::new("parameters"), errors);
    }

    fn validate_update(
        &self,
        new: &VolumeAttributesClass,
        old: &VolumeAttributesClass,
        errors: &mut FieldErrors,
    ) {
        keep(&new.driver_name, &old.driver_name, "driverName", errors);
        keep(&new.parameters, &old.parameters, "parameters", errors);
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, class: &VolumeAttributesClass, now: Timestamp) -> Vec<Value> {
        let annotations = class.metadata.annotations.as_ref();
        let is_default =
            annotations.and_then(|of| of.get(DEFAULT_CLASS)).is_some_and(|value| value == "true");
        let name = class.metadata.name.or_empty();
        vec![
            if is_default { format!("{name} (default)") } else { name.into() }.into(),
            class.driver_name.as_str().into(),
            age(class.metadata.creation_timestamp.as_ref(), now).into(),
        ]
    }
}
