//! IPAddresses: one per service address, named after it. They guard the address against a second owner.

use k8s_openapi::{api::networking::v1::IPAddress, jiff::Timestamp};
use naru_model::{
    ResourceInfo,
    validation::{FieldErrors, Path, meta, names},
};
use serde_json::Value;

use crate::registry::{
    Column, Kind,
    podspec::{OrEmpty, check},
    text,
};

pub struct IpAddresses;

static RESOURCE: ResourceInfo = ResourceInfo {
    group: "networking.k8s.io",
    namespaced: false,
    ..text::core_resource("IPAddress", "ipaddresses", "ipaddress", &["ip"])
};

const COLUMNS: &[Column] = &[
    text::NAME,
    text::column(
        "ParentRef",
        "string",
        0,
        "ParentRef references the resource that an IPAddress is attached to. An IPAddress must reference a parent object.",
    ),
];

impl Kind for IpAddresses {
    type Object = IPAddress;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn has_generation(&self) -> bool {
        false
    }

    fn validate_name(&self, name: &str, errors: &mut FieldErrors) {
        check::ip(name, &Path::new("metadata").child("name"), errors);
    }

    fn validate(&self, address: &IPAddress, errors: &mut FieldErrors) {
        let parent = &address.spec.parent_ref;
        let path = Path::new("spec").child("parentRef");
        if parent.resource.is_empty() && parent.name.is_empty() {
            return errors.required(&path, "");
        }
        if !parent.group.or_empty().is_empty() {
            check::subdomain(parent.group.or_empty(), &path.child("group"), errors);
        }
        check::path_segment(&parent.resource, &path.child("resource"), errors);
        check::path_segment(&parent.name, &path.child("name"), errors);
        let namespace = parent.namespace.or_empty();
        let problems = names::path_segment_name(namespace, false);
        errors.problems(&path.child("namespace"), namespace, problems);
    }

    fn validate_update(&self, new: &IPAddress, old: &IPAddress, errors: &mut FieldErrors) {
        let path = Path::new("spec").child("parentRef");
        meta::immutable_field(&path, &new.spec.parent_ref, &old.spec.parent_ref, errors);
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, address: &IPAddress, _now: Timestamp) -> Vec<Value> {
        let parent = &address.spec.parent_ref;
        let group = parent.group.or_empty();
        let resource =
            if group.is_empty() { parent.resource.clone() } else { format!("{}.{group}", parent.resource) };
        let place = match parent.namespace.or_empty() {
            "" => parent.name.clone(),
            namespace => format!("{namespace}/{}", parent.name),
        };
        vec![address.metadata.name.or_empty().into(), format!("{resource}/{place}").into()]
    }
}
