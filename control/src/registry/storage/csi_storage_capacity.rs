//! CSIStorageCapacities: how much room a class has left in a part of the cluster.

use k8s_openapi::{api::storage::v1::CSIStorageCapacity, jiff::Timestamp};
use naru_model::{
    ResourceInfo, quantity,
    validation::{FieldErrors, Path, meta},
};
use serde_json::Value;

use crate::registry::{Column, Kind, podspec::check, text};

pub struct CsiStorageCapacities;

static RESOURCE: ResourceInfo = ResourceInfo {
    group: "storage.k8s.io",
    ..text::core_resource("CSIStorageCapacity", "csistoragecapacities", "csistoragecapacity", &[])
};

impl Kind for CsiStorageCapacities {
    type Object = CSIStorageCapacity;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn default(&self, capacity: &mut CSIStorageCapacity) {
        for quantity in capacity.capacity.iter_mut().chain(&mut capacity.maximum_volume_size) {
            // What is no quantity stays as it is for validation to report.
            let _ = quantity::canonicalize(quantity);
        }
    }

    fn has_generation(&self) -> bool {
        false
    }

    fn requires_resource_version(&self) -> bool {
        true
    }

    fn validate(&self, capacity: &CSIStorageCapacity, errors: &mut FieldErrors) {
        check::label_selector(capacity.node_topology.as_ref(), &Path::new("nodeTopology"), errors);
        check::subdomain(&capacity.storage_class_name, &Path::new("storageClassName"), errors);
        for (name, quantity) in
            [("capacity", &capacity.capacity), ("maximumVolumeSize", &capacity.maximum_volume_size)]
        {
            if let Some(quantity) = quantity {
                check::not_negative_quantity(quantity, &Path::new(name), errors);
            }
        }
    }

    fn validate_update(&self, new: &CSIStorageCapacity, old: &CSIStorageCapacity, errors: &mut FieldErrors) {
        let path = Path::new("nodeTopology");
        meta::immutable_field(&path, &new.node_topology, &old.node_topology, errors);
        let path = Path::new("storageClassName");
        meta::immutable_field(&path, &new.storage_class_name, &old.storage_class_name, errors);
    }

    fn columns(&self) -> &'static [Column] {
        text::NAME_AND_CREATION
    }

    fn row(&self, capacity: &CSIStorageCapacity, _now: Timestamp) -> Vec<Value> {
        text::name_and_creation(&capacity.metadata)
    }
}
