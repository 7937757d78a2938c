//! ConfigMaps.

use k8s_openapi::{api::core::v1::ConfigMap, jiff::Timestamp};
use naru_model::{
    ResourceInfo,
    validation::{FieldErrors, Path},
};
use serde_json::Value;

use super::{
    Column, Kind,
    kind::age,
    podspec::{OrEmpty, check},
    text,
};

pub struct ConfigMaps;

/// What one ConfigMap or Secret may hold.
pub(super) const MAX_SIZE: usize = 1024 * 1024;
const FROZEN: &str = "field is immutable when `immutable` is set";

static RESOURCE: ResourceInfo = text::core_resource("ConfigMap", "configmaps", "configmap", &["cm"]);

const COLUMNS: &[Column] = &[
    text::NAME,
    text::column(
        "Data",
        "string",
        0,
        "Data contains the configuration data. Each key must consist of alphanumeric characters, '-', '_' or '.'. Values with non-UTF-8 byte sequences must use the BinaryData field. The keys stored in Data must not overlap with the keys in the BinaryData field, this is enforced during validation process.",
    ),
    text::AGE,
];

impl Kind for ConfigMaps {
    type Object = ConfigMap;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn has_generation(&self) -> bool {
        false
    }

    fn validate(&self, map: &ConfigMap, errors: &mut FieldErrors) {
        let mut size = 0;
        for (key, value) in map.data.iter().flatten() {
            let path = Path::new("data").key(key);
            check::config_map_key(key, &path, errors);
            if map.binary_data.as_ref().is_some_and(|binary| binary.contains_key(key)) {
                errors.invalid(&path, key.as_str(), "duplicate of key present in binaryData");
            }
            size += value.len();
        }
        for (key, value) in map.binary_data.iter().flatten() {
            check::config_map_key(key, &Path::new("binaryData").key(key), errors);
            size += value.0.len();
        }
        if size > MAX_SIZE {
            errors.too_long(&Path::new(""), MAX_SIZE);
        }
    }

    fn validate_update(&self, new: &ConfigMap, old: &ConfigMap, errors: &mut FieldErrors) {
        if old.immutable != Some(true) {
            return;
        }
        for (name, has_changed) in [
            ("immutable", new.immutable != Some(true)),
            ("data", new.data.iter().flatten().ne(old.data.iter().flatten())),
            ("binaryData", new.binary_data.iter().flatten().ne(old.binary_data.iter().flatten())),
        ] {
            if has_changed {
                errors.forbidden(&Path::new(name), FROZEN);
            }
        }
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, map: &ConfigMap, now: Timestamp) -> Vec<Value> {
        let count = map.data.iter().flatten().count() + map.binary_data.iter().flatten().count();
        vec![
            map.metadata.name.or_empty().into(),
            count.into(),
            age(map.metadata.creation_timestamp.as_ref(), now).into(),
        ]
    }
}
