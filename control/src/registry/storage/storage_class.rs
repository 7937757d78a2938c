//! StorageClasses: how volumes are made for claims.

use k8s_openapi::{
    api::{core::v1::TopologySelectorTerm, storage::v1::StorageClass},
    jiff::Timestamp,
};
use naru_model::{
    ResourceInfo,
    validation::{FieldErrors, Path, meta},
};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

use super::{keep, validate_parameters, validate_provisioner};
use crate::registry::{
    Column, Kind,
    kind::age,
    podspec::{OrEmpty, check, warnings},
    text,
};

pub struct StorageClasses;

static RESOURCE: ResourceInfo = ResourceInfo {
    group: "storage.k8s.io",
    namespaced: false,
    ..text::core_resource("StorageClass", "storageclasses", "storageclass", &["sc"])
};

/// What marks the class of claims that name none.
const DEFAULT_CLASS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

const COLUMNS: &[Column] = &[
    text::NAME,
    text::column("Provisioner", "string", 0, "provisioner indicates the type of the provisioner."),
    text::column(
        "ReclaimPolicy",
        "string",
        0,
        "reclaimPolicy controls the reclaimPolicy for dynamically provisioned PersistentVolumes of this storage class. Defaults to Delete.",
    ),
    text::column(
        "VolumeBindingMode",
        "string",
        0,
        "volumeBindingMode indicates how PersistentVolumeClaims should be provisioned and bound.  When unset, VolumeBindingImmediate is used. This field is only honored by servers that enable the VolumeScheduling feature.",
    ),
    text::column(
        "AllowVolumeExpansion",
        "string",
        0,
        "allowVolumeExpansion shows whether the storage class allow volume expand.",
    ),
    text::AGE,
];

impl Kind for StorageClasses {
    type Object = StorageClass;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn answers_deleted(&self) -> bool {
        true
    }

    fn default(&self, class: &mut StorageClass) {
        class.reclaim_policy.get_or_insert_with(|| "Delete".into());
        class.volume_binding_mode.get_or_insert_with(|| "Immediate".into());
    }

    fn has_generation(&self) -> bool {
        false
    }

    fn validate(&self, class: &StorageClass, errors: &mut FieldErrors) {
        validate_provisioner(&class.provisioner, &Path::new("provisioner"), errors);
        validate_parameters(class.parameters.as_ref(), true, &Path::new("parameters"), errors);
        let policy = class.reclaim_policy.or_empty();
        if !policy.is_empty() {
            check::one_of(policy, &["Delete", "Retain"], &Path::new("reclaimPolicy"), errors);
        }
        let mode = class.volume_binding_mode.or_empty();
        let modes = ["Immediate", "WaitForFirstConsumer"];
        check::one_of(mode, &modes, &Path::new("volumeBindingMode"), errors);
        let topologies = class.allowed_topologies.or_empty();
        validate_topologies(topologies, &Path::new("allowedTopologies"), errors);
    }

    fn validate_update(&self, new: &StorageClass, old: &StorageClass, errors: &mut FieldErrors) {
        keep(&new.parameters, &old.parameters, "parameters", errors);
        keep(&new.provisioner, &old.provisioner, "provisioner", errors);
        keep(&new.reclaim_policy, &old.reclaim_policy, "reclaimPolicy", errors);
        let path = Path::new("volumeBindingMode");
        meta::immutable_field(&path, &new.volume_binding_mode, &old.volume_binding_mode, errors);
    }

    fn warnings(&self, class: &StorageClass) -> Vec<String> {
        let mut texts = Vec::new();
        for (term, topology) in class.allowed_topologies.or_empty().iter().enumerate() {
            let expressions = topology.match_label_expressions.or_empty().iter().enumerate();
            texts.extend(expressions.filter_map(|(index, expression)| {
                let message = warnings::deprecated(&expression.key)?;
                Some(format!("allowedTopologies[{term}].matchLabelExpressions[{index}].key: {message}"))
            }));
        }
        texts
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, class: &StorageClass, now: Timestamp) -> Vec<Value> {
        let annotations = class.metadata.annotations.as_ref();
        let is_default = DEFAULT_CLASS
            .iter()
            .any(|key| annotations.and_then(|of| of.get(*key)).is_some_and(|value| value == "true"));
        let name = class.metadata.name.or_empty();
        vec![
            if is_default { format!("{name} (default)") } else { name.into() }.into(),
            class.provisioner.as_str().into(),
            class.reclaim_policy.as_deref().unwrap_or("Delete").into(),
            class.volume_binding_mode.as_deref().unwrap_or("Immediate").into(),
            class.allow_volume_expansion.unwrap_or_default().into(),
            age(class.metadata.creation_timestamp.as_ref(), now).into(),
        ]
    }
}

fn validate_topologies(terms: &[TopologySelectorTerm], path: &Path, errors: &mut FieldErrors) {
    let mut seen = Vec::new();
    for (index, term) in terms.iter().enumerate() {
        let path = path.index(index).child("matchLabelExpressions");
        let mut wanted = BTreeMap::new();
        for (index, expression) in term.match_label_expressions.or_empty().iter().enumerate() {
            let path = path.index(index);
            if expression.values.is_empty() {
                errors.required(&path.child("values"), "");
            }
            let mut values = BTreeSet::new();
            for (index, value) in expression.values.iter().enumerate() {
                if !values.insert(value.as_str()) {
                    errors.duplicate(&path.child("values").index(index), value.as_str());
                }
            }
            check::label_name(&expression.key, &path.child("key"), errors);
            if wanted.insert(expression.key.as_str(), values).is_some() {
                errors.duplicate(&path.child("key"), expression.key.as_str());
            }
        }
        // A term that asks for nothing is refused in the same words.
        if wanted.is_empty() || seen.contains(&wanted) {
            errors.duplicate(&path, "");
        }
        seen.push(wanted);
    }
}
