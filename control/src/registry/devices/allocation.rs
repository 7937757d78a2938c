//! The status of a claim: which devices it was given, who uses them, and how they are.

use k8s_openapi::api::resource::v1::{
    AllocatedDeviceStatus, AllocationResult, DeviceAllocationConfiguration, DeviceRequestAllocationResult,
    NetworkDeviceData, ResourceClaimStatus,
};
use naru_model::validation::{FieldErrors, Path, conditions, meta, network::parse_cidr};
use std::collections::BTreeSet;

use super::{
    distinct, each, pool_name, raw_object,
    requests::{
        MAX_CONFIGS, RequestNames, validate_configuration, validate_reference, validate_references,
        validate_tolerations,
    },
    validate_binding_conditions,
};
use crate::registry::podspec::{self, OrEmpty, check};

const MAX_RESERVED: usize = 256;
const MAX_RESULTS: usize = 32;
const MAX_CONDITIONS: usize = 8;
const MAX_DATA: usize = 10 * 1024;
const MAX_INTERFACE_NAME: usize = 256;
const MAX_HARDWARE_ADDRESS: usize = 128;
const MAX_ADDRESSES: usize = 16;

/// Driver, pool, device, and the share of it.
type Device<'a> = (&'a str, &'a str, &'a str, &'a str);

pub fn allocated(status: &ResourceClaimStatus) -> BTreeSet<Device<'_>> {
    results(status)
        .iter()
        .map(|of| (of.driver.as_str(), of.pool.as_str(), of.device.as_str(), of.share_id.or_empty()))
        .collect()
}

fn results(status: &ResourceClaimStatus) -> &[DeviceRequestAllocationResult] {
    let devices = status.allocation.as_ref().and_then(|allocation| allocation.devices.as_ref());
    devices.map(|devices| devices.results.or_empty()).unwrap_or_default()
}

pub fn identity(device: &AllocatedDeviceStatus) -> Device<'_> {
    (&device.driver, &device.pool, &device.device, device.share_id.or_empty())
}

pub fn validate(
    new: &ResourceClaimStatus,
    old: &ResourceClaimStatus,
    is_deleted: bool,
    names: &RequestNames<'_>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    validate_reserved(new, old, is_deleted, &path.child("reservedFor"), errors);
    let allocated = allocated(new);
    let (devices, at) = (new.devices.or_empty(), path.child("devices"));
    for (index, device) in devices.iter().enumerate() {
        validate_device(device, &allocated, &at.index(index), errors);
    }
    distinct(devices.iter().map(|device| Key(identity(device))), &at, errors);
    let path = path.child("allocation");
    match (&new.allocation, &old.allocation) {
        (Some(new), Some(old)) => meta::immutable_field(&path, new, old, errors),
        (Some(new), None) => validate_allocation(new, names, &path, errors),
        _ => (),
    }
}

/// A device as messages show it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key<'a>(Device<'a>);

impl From<Key<'_>> for serde_json::Value {
    fn from(Key((driver, pool, device, share)): Key<'_>) -> Self {
        let parts = [driver, pool, device, share];
        parts.iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join("/").into()
    }
}

fn validate_reserved(
    new: &ResourceClaimStatus,
    old: &ResourceClaimStatus,
    is_deleted: bool,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let consumers = new.reserved_for.or_empty();
    each(consumers, MAX_RESERVED, path, errors, |consumer, path, errors| {
        check::required_text(&consumer.resource, &path.child("resource"), errors);
        check::required_text(&consumer.name, &path.child("name"), errors);
        check::required_text(&consumer.uid, &path.child("uid"), errors);
    });
    distinct(consumers.iter().map(|consumer| consumer.uid.as_str()), path, errors);
    if consumers.is_empty() {
        return;
    }
    if new.allocation.is_none() {
        errors.forbidden(path, "may not be specified when `allocated` is not set");
    } else if is_deleted && !consumers.iter().all(|of| old.reserved_for.or_empty().contains(of)) {
        let detail =
            "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
        errors.forbidden(path, detail);
    }
}

fn validate_allocation(
    allocation: &AllocationResult,
    names: &RequestNames<'_>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    if let Some(devices) = &allocation.devices {
        let path = path.child("devices");
        each(devices.results.or_empty(), MAX_RESULTS, &path.child("results"), errors, |of, path, errors| {
            validate_result(of, names, path, errors);
        });
        // Those of the class and those of the claim.
        let max = 2 * MAX_CONFIGS;
        each(devices.config.or_empty(), max, &path.child("config"), errors, |of, path, errors| {
            validate_config(of, names, path, errors);
        });
    }
    if let Some(selector) = &allocation.node_selector {
        podspec::node_selector(selector, &path.child("nodeSelector"), errors);
    }
}

fn validate_result(
    result: &DeviceRequestAllocationResult,
    names: &RequestNames<'_>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    validate_reference(&result.request, names, &path.child("request"), errors);
    check::csi_driver(&result.driver, &path.child("driver"), errors);
    pool_name(&result.pool, &path.child("pool"), errors);
    check::dns_label(&result.device, &path.child("device"), errors);
    let (conditions, failures) =
        (result.binding_conditions.or_empty(), result.binding_failure_conditions.or_empty());
    validate_binding_conditions(conditions, failures, path, errors);
    validate_share(result.share_id.as_deref(), &path.child("shareID"), errors);
    validate_tolerations(result.tolerations.or_empty(), &path.child("tolerations"), errors);
}

fn validate_share(share: Option<&str>, path: &Path, errors: &mut FieldErrors) {
    let Some(share) = share else { return };
    if uuid::Uuid::parse_str(share).map_or(true, |uuid| uuid.to_string() != share) {
        let detail = "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase \
                      hexadecimal characters";
        errors.invalid(path, share, detail);
    }
}

fn validate_config(
    config: &DeviceAllocationConfiguration,
    names: &RequestNames<'_>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    check::required_one_of(&config.source, &["FromClaim", "FromClass"], &path.child("source"), errors);
    validate_references(config.requests.or_empty(), names, &path.child("requests"), errors);
    validate_configuration(config.opaque.as_ref(), path, errors);
}

fn validate_device(
    device: &AllocatedDeviceStatus,
    allocated: &BTreeSet<Device<'_>>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    check::csi_driver(&device.driver, &path.child("driver"), errors);
    pool_name(&device.pool, &path.child("pool"), errors);
    check::dns_label(&device.device, &path.child("device"), errors);
    validate_share(device.share_id.as_deref(), &path.child("shareID"), errors);
    let identity = identity(device);
    if !allocated.contains(&identity) {
        errors.invalid(path, Key(identity), "must be an allocated device in the claim");
    }
    let (states, at) = (device.conditions.or_empty(), path.child("conditions"));
    if states.len() > MAX_CONDITIONS {
        errors.too_many(&at, states.len(), MAX_CONDITIONS);
    }
    conditions::conditions(&at, states, errors);
    if let Some(data) = &device.data {
        raw_object(data, MAX_DATA, &path.child("data"), errors);
    }
    if let Some(data) = &device.network_data {
        validate_network(data, &path.child("networkData"), errors);
    }
}

fn validate_network(data: &NetworkDeviceData, path: &Path, errors: &mut FieldErrors) {
    for (field, text, max) in [
        ("interfaceName", data.interface_name.or_empty(), MAX_INTERFACE_NAME),
        ("hardwareAddress", data.hardware_address.or_empty(), MAX_HARDWARE_ADDRESS),
    ] {
        if text.len() > max {
            errors.too_long(&path.child(field), max);
        }
    }
    let (addresses, path) = (data.ips.or_empty(), path.child("ips"));
    each(addresses, MAX_ADDRESSES, &path, errors, |address, path, errors| {
        let Some((ip, length)) = parse_cidr(address) else {
            let detail = "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)";
            return errors.invalid(path, address.as_str(), detail);
        };
        if format!("{ip}/{length}") != *address {
            errors.invalid(path, address.as_str(), &format!("must be in canonical form (\"{ip}/{length}\")"));
        }
    });
    distinct(addresses.iter().map(String::as_str), &path, errors);
}
