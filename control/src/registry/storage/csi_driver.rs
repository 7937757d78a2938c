//! CSIDrivers: how the cluster shall treat a storage driver.

use k8s_openapi::{
    api::storage::v1::{CSIDriver, CSIDriverSpec, TokenRequest},
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

pub struct CsiDrivers;

const MIN_TOKEN_SECONDS: i64 = 600;
const MAX_TOKEN_SECONDS: i64 = 1 << 32;
const MIN_UPDATE_SECONDS: i64 = 10;

static RESOURCE: ResourceInfo = ResourceInfo {
    group: "storage.k8s.io",
    namespaced: false,
    ..text::core_resource("CSIDriver", "csidrivers", "csidriver", &[])
};

const COLUMNS: &[Column] = &[
    text::NAME,
    text::column(
        "AttachRequired",
        "boolean",
        0,
        "attachRequired indicates this CSI volume driver requires an attach operation.",
    ),
    text::column(
        "PodInfoOnMount",
        "boolean",
        0,
        "podInfoOnMount indicates this CSI volume driver requires additional pod information (like podName, podUID, etc.) during mount operations, if set to true.",
    ),
    text::column(
        "StorageCapacity",
        "boolean",
        0,
        "storageCapacity indicates that the CSI volume driver wants pod scheduling to consider the storage capacity that the driver deployment will report by creating CSIStorageCapacity objects with capacity information, if set to true.",
    ),
    text::column(
        "TokenRequests",
        "string",
        0,
        "tokenRequests indicates the CSI driver needs pods' service account tokens it is mounting volume for to do necessary authentication.",
    ),
    text::column(
        "RequiresRepublish",
        "boolean",
        0,
        "requiresRepublish indicates the CSI driver wants `NodePublishVolume` being periodically called to reflect any possible change in the mounted volume. This field defaults to false.",
    ),
    text::column(
        "Modes",
        "string",
        0,
        "volumeLifecycleModes defines what kind of volumes this CSI volume driver supports.",
    ),
    text::AGE,
];

impl Kind for CsiDrivers {
    type Object = CSIDriver;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn answers_deleted(&self) -> bool {
        true
    }

    fn default(&self, driver: &mut CSIDriver) {
        let spec = &mut driver.spec;
        spec.attach_required.get_or_insert(true);
        spec.pod_info_on_mount.get_or_insert(false);
        spec.storage_capacity.get_or_insert(false);
        spec.requires_republish.get_or_insert(false);
        spec.se_linux_mount.get_or_insert(false);
        spec.fs_group_policy.get_or_insert_with(|| "ReadWriteOnceWithFSType".into());
        if spec.volume_lifecycle_modes.or_empty().is_empty() {
            spec.volume_lifecycle_modes = Some(vec!["Persistent".into()]);
        }
    }

    fn requires_resource_version(&self) -> bool {
        true
    }

    fn validate(&self, driver: &CSIDriver, errors: &mut FieldErrors) {
        validate_spec(&driver.spec, &Path::new("spec"), errors);
    }

    fn validate_update(&self, new: &CSIDriver, old: &CSIDriver, errors: &mut FieldErrors) {
        let path = Path::new("spec");
        let (new, old) = (&new.spec, &old.spec);
        // The first path is not the field's name, as in Kubernetes.
        let at = path.child("attachedRequired");
        meta::immutable_field(&at, &new.attach_required, &old.attach_required, errors);
        let at = path.child("volumeLifecycleModes");
        meta::immutable_field(&at, &new.volume_lifecycle_modes, &old.volume_lifecycle_modes, errors);
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, driver: &CSIDriver, now: Timestamp) -> Vec<Value> {
        let spec = &driver.spec;
        let audiences = spec.token_requests.as_ref().map(|requests| {
            requests.iter().map(|request| request.audience.as_str()).collect::<Vec<_>>().join(",")
        });
        vec![
            driver.metadata.name.or_empty().into(),
            spec.attach_required.unwrap_or(true).into(),
            spec.pod_info_on_mount.unwrap_or(false).into(),
            spec.storage_capacity.unwrap_or(false).into(),
            audiences.unwrap_or_else(|| "<unset>".into()).into(),
            spec.requires_republish.unwrap_or(false).into(),
            text::or_none(&spec.volume_lifecycle_modes.or_empty().join(",")).into(),
            age(driver.metadata.creation_timestamp.as_ref(), now).into(),
        ]
    }
}

fn validate_spec(spec: &CSIDriverSpec, path: &Path, errors: &mut FieldErrors) {
    if let Some(policy) = &spec.fs_group_policy {
        let policies = ["File", "None", "ReadWriteOnceWithFSType"];
        check::one_of(policy, &policies, &path.child("fsGroupPolicy"), errors);
    }
    let requests = spec.token_requests.or_empty();
    validate_requests(requests, &path.child("tokenRequests"), errors);
    for mode in spec.volume_lifecycle_modes.or_empty() {
        check::one_of(mode, &["Persistent", "Ephemeral"], &path.child("volumeLifecycleModes"), errors);
    }
    if let Some(period) = spec.node_allocatable_update_period_seconds.filter(|it| *it < MIN_UPDATE_SECONDS) {
        let path = path.child("nodeAllocatableUpdatePeriodSeconds");
        errors.invalid(&path, period, "must be greater than or equal to 10 seconds");
    }
    if let Some(in_secrets) = spec.service_account_token_in_secrets
        && requests.is_empty()
    {
        let path = path.child("serviceAccountTokenInSecrets");
        let detail = "serviceAccountTokenInSecrets is set but no tokenRequests are specified";
        errors.invalid(&path, in_secrets, detail);
    }
}

fn validate_requests(requests: &[TokenRequest], path: &Path, errors: &mut FieldErrors) {
    let mut audiences = BTreeSet::new();
    for (index, request) in requests.iter().enumerate() {
        let path = path.index(index);
        if !audiences.insert(request.audience.as_str()) {
            errors.duplicate(&path.child("audience"), request.audience.as_str());
            continue;
        }
        let path = path.child("expirationSeconds");
        match request.expiration_seconds {
            Some(seconds) if seconds < MIN_TOKEN_SECONDS => {
                errors.invalid(&path, seconds, "may not specify a duration less than 10 minutes");
            }
            Some(seconds) if seconds > MAX_TOKEN_SECONDS => {
                errors.invalid(&path, seconds, "may not specify a duration larger than 2^32 seconds");
            }
            _ => (),
        }
    }
}
