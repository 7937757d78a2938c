//! ResourceClaims: devices for pods.

use k8s_openapi::{
    api::resource::v1::{ResourceClaim, ResourceClaimSpec, ResourceClaimStatus},
    jiff::Timestamp,
};
use naru_model::{
    ResourceInfo,
    validation::{FieldErrors, Path, meta},
};
use serde_json::Value;

use super::{GROUP, allocation, requests};
use crate::registry::{
    Column, Kind,
    kind::{Context, age},
    podspec::OrEmpty,
    text,
};

pub struct ResourceClaims;

static RESOURCE: ResourceInfo = ResourceInfo {
    group: GROUP,
    subresources: &["status"],
    ..text::core_resource("ResourceClaim", "resourceclaims", "resourceclaim", &[])
};

const COLUMNS: &[Column] = &[
    text::NAME,
    text::column(
        "State",
        "string",
        0,
        "A summary of the current state (allocated, pending, reserved, etc.).",
    ),
    text::AGE,
];

impl Kind for ResourceClaims {
    type Object = ResourceClaim;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn answers_deleted(&self) -> bool {
        true
    }

    fn default(&self, claim: &mut ResourceClaim) {
        default_spec(claim.spec.get_or_insert_default());
    }

    fn prepare_create(&self, claim: &mut ResourceClaim, _context: &Context<'_>) {
        claim.status = Some(ResourceClaimStatus::default());
    }

    fn prepare_update(&self, new: &mut ResourceClaim, old: &ResourceClaim, _context: &Context<'_>) {
        new.status.clone_from(&old.status);
    }

    fn prepare_status_update(&self, new: &mut ResourceClaim, old: &ResourceClaim, _context: &Context<'_>) {
        new.spec.clone_from(&old.spec);
        let (Some(status), Some(before)) = (new.status.as_mut(), old.status.as_ref()) else { return };
        forget_deallocated(status, before);
    }

    fn has_generation(&self) -> bool {
        false
    }

    fn validate_create(&self, claim: &ResourceClaim, errors: &mut FieldErrors) {
        if let Some(spec) = &claim.spec {
            validate_spec(spec, &Path::new("spec"), errors);
        }
    }

    fn validate_update(&self, new: &ResourceClaim, old: &ResourceClaim, errors: &mut FieldErrors) {
        meta::immutable_field(&Path::new("spec"), &new.spec, &old.spec, errors);
    }

    fn validate_status_update(&self, new: &ResourceClaim, old: &ResourceClaim, errors: &mut FieldErrors) {
        let empty = ResourceClaimStatus::default();
        let (status, before) = (new.status.as_ref().unwrap_or(&empty), old.status.as_ref().unwrap_or(&empty));
        let devices = new.spec.as_ref().and_then(|spec| spec.devices.as_ref());
        let names = devices.map(requests::names).unwrap_or_default();
        let is_deleted = new.metadata.deletion_timestamp.is_some();
        allocation::validate(status, before, is_deleted, &names, &Path::new("status"), errors);
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, claim: &ResourceClaim, now: Timestamp) -> Vec<Value> {
        let status = claim.status.as_ref();
        let is_deleted = claim.metadata.deletion_timestamp.is_some();
        let is_allocated = status.is_some_and(|status| status.allocation.is_some());
        let is_reserved = status.is_some_and(|status| !status.reserved_for.or_empty().is_empty());
        let states = [
            (is_deleted, "deleted"),
            (!is_allocated && !is_deleted, "pending"),
            (is_allocated, "allocated"),
            (is_allocated && is_reserved, "reserved"),
        ];
        let states = states.iter().filter(|(is_so, _)| *is_so).map(|(_, state)| *state);
        vec![
            claim.metadata.name.or_empty().into(),
            states.collect::<Vec<_>>().join(",").into(),
            age(claim.metadata.creation_timestamp.as_ref(), now).into(),
        ]
    }
}

pub(super) fn default_spec(spec: &mut ResourceClaimSpec) {
    requests::default(spec.devices.get_or_insert_default());
}

pub(super) fn validate_spec(spec: &ResourceClaimSpec, path: &Path, errors: &mut FieldErrors) {
    if let Some(devices) = &spec.devices {
        requests::validate(devices, &path.child("devices"), errors);
    }
}

/// What was said about a device ends with its allocation.
fn forget_deallocated(status: &mut ResourceClaimStatus, before: &ResourceClaimStatus) {
    let gone: Vec<_> = {
        let (old, new) = (allocation::allocated(before), allocation::allocated(status));
        let is_gone = |device| {
            let identity = allocation::identity(device);
            old.contains(&identity) && !new.contains(&identity)
        };
        status.devices.or_empty().iter().map(is_gone).collect()
    };
    let mut gone = gone.into_iter();
    if let Some(devices) = &mut status.devices {
        devices.retain(|_| gone.next() != Some(true));
    }
    status.devices.take_if(|devices| devices.is_empty());
}
