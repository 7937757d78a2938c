//! Leases: who holds what, since when. Node agents renew one each as their heartbeat.

use k8s_openapi::{api::coordination::v1::Lease, jiff::Timestamp};
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

pub struct Leases;

static RESOURCE: ResourceInfo =
    ResourceInfo { group: "coordination.k8s.io", ..text::core_resource("Lease", "leases", "lease", &[]) };

const COLUMNS: &[Column] = &[
    text::NAME,
    text::column(
        "Holder",
        "string",
        0,
        "holderIdentity contains the identity of the holder of a current lease. If Coordinated Leader Election is used, the holder identity must be equal to the elected LeaseCandidate.metadata.name field.",
    ),
    text::AGE,
];

impl Kind for Leases {
    type Object = Lease;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn has_generation(&self) -> bool {
        false
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }

    fn validate(&self, lease: &Lease, errors: &mut FieldErrors) {
        let Some(spec) = &lease.spec else { return };
        let path = Path::new("spec");
        if let Some(seconds) = spec.lease_duration_seconds.filter(|seconds| *seconds <= 0) {
            errors.invalid(&path.child("leaseDurationSeconds"), seconds, "must be greater than 0");
        }
        if let Some(count) = spec.lease_transitions {
            check::not_negative(count.into(), &path.child("leaseTransitions"), errors);
        }
        let has_strategy = spec.strategy.as_ref().is_some_and(|strategy| !strategy.is_empty());
        if spec.preferred_holder.as_ref().is_some_and(|holder| !holder.is_empty()) && !has_strategy {
            let detail = "may only be specified if `strategy` is defined";
            errors.forbidden(&path.child("preferredHolder"), detail);
        }
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, lease: &Lease, now: Timestamp) -> Vec<Value> {
        let holder = lease.spec.as_ref().map(|spec| spec.holder_identity.or_empty()).unwrap_or_default();
        vec![
            lease.metadata.name.or_empty().into(),
            holder.into(),
            age(lease.metadata.creation_timestamp.as_ref(), now).into(),
        ]
    }
}
