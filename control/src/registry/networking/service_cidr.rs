//! ServiceCIDRs: the ranges that service addresses come from.
//!
//! The range of the cluster's settings is there from the first start, under [`DEFAULT`]. Others can be made and
//! read; addresses are given out of the default one only.

use k8s_openapi::{
    api::networking::v1::{ServiceCIDR, ServiceCIDRSpec},
    jiff::Timestamp,
};
use naru_model::{
    ResourceInfo,
    validation::{FieldErrors, Path, network::parse_cidr},
};
use serde_json::{Value, json};

use crate::registry::{
    Column, Kind,
    kind::{Context, age},
    podspec::{OrEmpty, check},
    text,
};

pub struct ServiceCidrs;

/// The name of the cluster's own range.
pub const DEFAULT: &str = "kubernetes";

static RESOURCE: ResourceInfo = ResourceInfo {
    group: "networking.k8s.io",
    namespaced: false,
    subresources: &["status"],
    ..text::core_resource("ServiceCIDR", "servicecidrs", "servicecidr", &[])
};

const COLUMNS: &[Column] = &[
    text::NAME,
    text::column(
        "CIDRs",
        "string",
        0,
        "cidrs defines the IP blocks in CIDR notation (e.g. \"192.168.0.0/24\" or \"2001:db8::/64\") from which to assign service cluster IPs. Max of two CIDRs is allowed, one of each IP family. This field is immutable.",
    ),
    text::AGE,
];

impl Kind for ServiceCidrs {
    type Object = ServiceCIDR;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn default(&self, range: &mut ServiceCIDR) {
        range.status.get_or_insert_default();
    }

    fn prepare_status_update(&self, new: &mut ServiceCIDR, old: &ServiceCIDR, _context: &Context<'_>) {
        new.spec.clone_from(&old.spec);
    }

    fn has_generation(&self) -> bool {
        false
    }

    fn validate_create(&self, range: &ServiceCIDR, errors: &mut FieldErrors) {
        validate_cidrs(range, errors);
    }

    fn validate_update(&self, new: &ServiceCIDR, old: &ServiceCIDR, errors: &mut FieldErrors) {
        let path = Path::new("spec").child("cidrs");
        match (cidrs(old), cidrs(new)) {
            (before, after) if before.len() == after.len() => {
                let changed = after.iter().enumerate().filter(|(index, cidr)| before[*index] != **cidr);
                for (index, cidr) in changed {
                    errors.invalid(&path.index(index), cidr.as_str(), check::IMMUTABLE);
                }
            }
            // A second family may be added.
            ([before], [first, _]) => {
                if first != before {
                    errors.invalid(&path.index(0), first.as_str(), check::IMMUTABLE);
                }
                validate_cidrs(new, errors);
            }
            (_, after) => errors.invalid(&path, json!(after), check::IMMUTABLE),
        }
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, range: &ServiceCIDR, now: Timestamp) -> Vec<Value> {
        vec![
            range.metadata.name.or_empty().into(),
            cidrs(range).join(",").into(),
            age(range.metadata.creation_timestamp.as_ref(), now).into(),
        ]
    }
}

fn cidrs(range: &ServiceCIDR) -> &[String] {
    range.spec.as_ref().map(|spec: &ServiceCIDRSpec| spec.cidrs.or_empty()).unwrap_or_default()
}

fn validate_cidrs(range: &ServiceCIDR, errors: &mut FieldErrors) {
    let path = Path::new("spec").child("cidrs");
    let cidrs = cidrs(range);
    match cidrs.len() {
        0 => return errors.required(&path, "at least one CIDR required"),
        1 | 2 => (),
        _ => return errors.invalid(&path, json!(range.spec), "may only hold up to 2 values"),
    }
    for (index, cidr) in cidrs.iter().enumerate() {
        check::cidr(cidr, &path.index(index), errors);
    }
    if let [first, second] = cidrs
        && let (Some((first, _)), Some((second, _))) = (parse_cidr(first), parse_cidr(second))
        && first.is_ipv4() == second.is_ipv4()
    {
        let detail =
            "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        errors.invalid(&path, json!(cidrs), detail);
    }
}
