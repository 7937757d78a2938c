//! CSINodes: which storage drivers a node has, and how they are.

use k8s_openapi::{
    api::storage::v1::{CSINode, CSINodeDriver, StorageHealth},
    jiff::Timestamp,
};
use naru_model::{
    ResourceInfo,
    validation::{FieldErrors, Path, meta},
};
use serde_json::Value;
use std::collections::BTreeSet;

use crate::registry::{
    Column, Kind,
    kind::age,
    podspec::{OrEmpty, check},
    text,
};

pub struct CsiNodes;

const MAX_NODE_ID: usize = 256;
const MAX_HEALTH_CONDITIONS: usize = 16;
const MAX_REASON: usize = 256;
const MAX_MESSAGE: usize = 1024;

static RESOURCE: ResourceInfo = ResourceInfo {
    group: "storage.k8s.io",
    namespaced: false,
    ..text::core_resource("CSINode", "csinodes", "csinode", &[])
};

const COLUMNS: &[Column] = &[
    text::NAME,
    text::column(
        "Drivers",
        "integer",
        0,
        "Drivers indicates the number of CSI drivers registered on the node",
    ),
    text::AGE,
];

impl Kind for CsiNodes {
    type Object = CSINode;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn answers_deleted(&self) -> bool {
        true
    }

    fn has_generation(&self) -> bool {
        false
    }

    fn requires_resource_version(&self) -> bool {
        true
    }

    fn validate(&self, node: &CSINode, errors: &mut FieldErrors) {
        let path = Path::new("spec").child("drivers");
        let mut names = BTreeSet::new();
        for (index, driver) in node.spec.drivers.iter().enumerate() {
            let path = path.index(index);
            validate_driver(driver, &path, errors);
            if !names.insert(driver.name.as_str()) {
                errors.duplicate(&path.child("name"), driver.name.as_str());
            }
        }
        let health = node.status.as_ref().map(|status| status.storage_health.or_empty()).unwrap_or_default();
        for (index, health) in health.iter().enumerate() {
            validate_health(health, &Path::new("status").child("storageHealth").index(index), errors);
        }
    }

    fn validate_update(&self, new: &CSINode, old: &CSINode, errors: &mut FieldErrors) {
        let path = Path::new("spec").child("drivers");
        // How many volumes fit may change, what the driver is may not.
        let fixed = |driver: &CSINodeDriver| CSINodeDriver { allocatable: None, ..driver.clone() };
        for before in &old.spec.drivers {
            for driver in new.spec.drivers.iter().filter(|driver| driver.name == before.name) {
                meta::immutable_field(&path, &fixed(driver), &fixed(before), errors);
            }
        }
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, node: &CSINode, now: Timestamp) -> Vec<Value> {
        vec![
            node.metadata.name.or_empty().into(),
            node.spec.drivers.len().into(),
            age(node.metadata.creation_timestamp.as_ref(), now).into(),
        ]
    }
}

fn validate_driver(driver: &CSINodeDriver, path: &Path, errors: &mut FieldErrors) {
    check::csi_driver(&driver.name, &path.child("name"), errors);
    check::required_text(&driver.node_id, &path.child("nodeID"), errors);
    if driver.node_id.len() > MAX_NODE_ID {
        let detail = format!("must be {MAX_NODE_ID} characters or less");
        errors.invalid(&path.child("nodeID"), driver.node_id.as_str(), &detail);
    }
    if let Some(count) = driver.allocatable.as_ref().and_then(|of| of.count) {
        check::not_negative(count.into(), &path.child("allocatable").child("count"), errors);
    }
    let mut keys = BTreeSet::new();
    for key in driver.topology_keys.or_empty() {
        check::required_text(key, path, errors);
        if !keys.insert(key.as_str()) {
            errors.duplicate(path, key.as_str());
        }
        check::qualified_name(key, path, errors);
    }
}

fn validate_health(health: &StorageHealth, path: &Path, errors: &mut FieldErrors) {
    check::csi_driver(&health.name, &path.child("name"), errors);
    let (conditions, path) = (health.health_conditions.or_empty(), path.child("healthConditions"));
    if conditions.len() > MAX_HEALTH_CONDITIONS {
        errors.too_many(&path, conditions.len(), MAX_HEALTH_CONDITIONS);
    }
    for (index, condition) in conditions.iter().enumerate() {
        let path = path.index(index);
        let states = ["StorageDegraded", "StorageUnreachable"];
        check::required_one_of(&condition.status, &states, &path.child("status"), errors);
        check::required_text(&condition.reason, &path.child("reason"), errors);
        if condition.reason.len() > MAX_REASON {
            errors.too_long(&path.child("reason"), MAX_REASON);
        }
        if condition.message.or_empty().len() > MAX_MESSAGE {
            errors.too_long(&path.child("message"), MAX_MESSAGE);
        }
    }
}
