//! ResourceSlices: the devices of a pool, or a part of them.

use k8s_openapi::{
    api::resource::v1::{CounterSet, ResourceSlice, ResourceSliceSpec},
    jiff::Timestamp,
};
use naru_model::{
    ResourceInfo,
    validation::{FieldErrors, Path, meta},
};
use serde_json::{Value, json};

use super::{capacity, cluster_resource, date_taint, device, distinct, each, pool_name};
use crate::registry::{
    Column, Kind,
    kind::{Context, age},
    podspec::{self, OrEmpty, check},
    text,
};

pub struct ResourceSlices;

const MAX_DEVICES: usize = 128;
const MAX_COMPLEX_DEVICES: usize = 64;
const MAX_COUNTER_SETS: usize = 8;

static RESOURCE: ResourceInfo = cluster_resource("ResourceSlice", "resourceslices", "resourceslice");

const COLUMNS: &[Column] = &[
    text::NAME,
    text::column(
        "Node",
        "string",
        0,
        "NodeName identifies the node which provides the resources in this pool. A field selector can be used to list only ResourceSlice objects belonging to a certain node.",
    ),
    text::column(
        "Driver",
        "string",
        0,
        "Driver identifies the DRA driver providing the capacity information. A field selector can be used to list only ResourceSlice objects with a certain driver name.\n\nMust be a DNS subdomain and should end with a DNS domain owned by the vendor of the driver. It should use only lower case characters. This field is immutable.",
    ),
    text::column(
        "Pool",
        "string",
        0,
        "Name is used to identify the pool. For node-local devices, this is often the node name, but this is not required. A field selector can be used to list only ResourceSlice objects belonging to a certain pool.\n\nIt must not be longer than 253 characters and must consist of one or more DNS sub-domains separated by slashes. This field is immutable.",
    ),
    text::AGE,
];

impl Kind for ResourceSlices {
    type Object = ResourceSlice;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn answers_deleted(&self) -> bool {
        true
    }

    fn default(&self, slice: &mut ResourceSlice) {
        slice.spec.devices.iter_mut().flatten().for_each(device::canonicalize);
        let sets = slice.spec.shared_counters.iter_mut().flatten();
        sets.for_each(|set| capacity::canonicalize_counters(&mut set.counters));
    }

    fn prepare_create(&self, slice: &mut ResourceSlice, context: &Context<'_>) {
        date_taints(slice, context.now);
    }

    fn prepare_update(&self, new: &mut ResourceSlice, _old: &ResourceSlice, context: &Context<'_>) {
        date_taints(new, context.now);
    }

    fn validate(&self, slice: &ResourceSlice, errors: &mut FieldErrors) {
        validate_spec(&slice.spec, &Path::new("spec"), errors);
    }

    fn validate_update(&self, new: &ResourceSlice, old: &ResourceSlice, errors: &mut FieldErrors) {
        let (new, old, path) = (&new.spec, &old.spec, Path::new("spec"));
        let at = path.child("pool").child("name");
        meta::immutable_field(&at, &new.pool.name, &old.pool.name, errors);
        meta::immutable_field(&path.child("driver"), &new.driver, &old.driver, errors);
        meta::immutable_field(&path.child("nodeName"), &new.node_name, &old.node_name, errors);
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, slice: &ResourceSlice, now: Timestamp) -> Vec<Value> {
        vec![
            slice.metadata.name.or_empty().into(),
            slice.spec.node_name.or_empty().into(),
            slice.spec.driver.as_str().into(),
            slice.spec.pool.name.as_str().into(),
            age(slice.metadata.creation_timestamp.as_ref(), now).into(),
        ]
    }

    fn field_names(&self) -> &'static [&'static str] {
        &["spec.nodeName", "spec.driver", "spec.pool.name"]
    }

    fn field(&self, slice: &ResourceSlice, name: &str) -> String {
        match name {
            "spec.nodeName" => slice.spec.node_name.or_empty().into(),
            "spec.driver" => slice.spec.driver.clone(),
            "spec.pool.name" => slice.spec.pool.name.clone(),
            _ => String::new(),
        }
    }
}

fn date_taints(slice: &mut ResourceSlice, now: Timestamp) {
    let devices = slice.spec.devices.iter_mut().flatten();
    devices.flat_map(|device| device.taints.iter_mut().flatten()).for_each(|taint| date_taint(taint, now));
}

fn validate_spec(spec: &ResourceSliceSpec, path: &Path, errors: &mut FieldErrors) {
    check::csi_driver(&spec.driver, &path.child("driver"), errors);
    let at = path.child("pool");
    pool_name(&spec.pool.name, &at.child("name"), errors);
    if spec.pool.resource_slice_count <= 0 {
        let count = spec.pool.resource_slice_count;
        errors.invalid(&at.child("resourceSliceCount"), count, check::MUST_BE_POSITIVE);
    }
    if spec.pool.generation < 0 {
        let detail = "must be greater than or equal to zero";
        errors.invalid(&at.child("generation"), spec.pool.generation, detail);
    }
    validate_place(spec, path, errors);
    if spec.shared_counters.is_some() && spec.devices.is_some() {
        errors.invalid(path, "", "only one of `sharedCounters` or `devices` is allowed");
    }
    let (devices, at) = (spec.devices.or_empty(), path.child("devices"));
    let is_complex = devices.iter().any(device::is_complex);
    let max = if is_complex { MAX_COMPLEX_DEVICES } else { MAX_DEVICES };
    let is_per_device = spec.per_device_node_selection == Some(true);
    each(devices, max, &at, errors, |device, path, errors| {
        device::validate(device, is_per_device, path, errors);
    });
    distinct(devices.iter().map(|device| device.name.as_str()), &at, errors);
    let (sets, at) = (spec.shared_counters.or_empty(), path.child("sharedCounters"));
    each(sets, MAX_COUNTER_SETS, &at, errors, validate_counter_set);
    distinct(sets.iter().map(|set| set.name.as_str()), &at, errors);
}

/// From which nodes the devices can be reached: one way to say it.
fn validate_place(spec: &ResourceSliceSpec, path: &Path, errors: &mut FieldErrors) {
    const WAYS: &str =
        "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    let mut ways = Vec::new();
    let at = path.child("nodeName");
    match spec.node_name.as_deref() {
        Some("") => errors.invalid(&at, "", "must be either unset or set to a non-empty string"),
        Some(name) => {
            ways.push("`nodeName`");
            check::subdomain(name, &at, errors);
        }
        None => (),
    }
    if let Some(selector) = &spec.node_selector {
        ways.push("`nodeSelector`");
        let at = path.child("nodeSelector");
        podspec::node_selector(selector, &at, errors);
        if selector.node_selector_terms.len() != 1 {
            let terms = json!(selector.node_selector_terms);
            let detail = "must have exactly one node selector term";
            errors.invalid(&at.child("nodeSelectorTerms"), terms, detail);
        }
    }
    for (field, shown, value) in [
        ("allNodes", "`allNodes`", spec.all_nodes),
        ("perDeviceNodeSelection", "`perDeviceNodeSelection`", spec.per_device_node_selection),
    ] {
        match value {
            Some(true) => ways.push(shown),
            Some(false) => {
                errors.invalid(&path.child(field), false, "must be either unset or set to true");
            }
            None => (),
        }
    }
    match ways.len() {
        0 => errors.required(path, WAYS),
        1 => (),
        _ => {
            let shown = format!("{{{}}}", ways.join(", "));
            errors.invalid(path, shown, &format!("{WAYS}, but multiple fields are set"));
        }
    }
}

fn validate_counter_set(set: &CounterSet, path: &Path, errors: &mut FieldErrors) {
    capacity::validate_counters(&set.name, "name", &set.counters, path, errors);
}
