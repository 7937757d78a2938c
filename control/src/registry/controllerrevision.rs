//! ControllerRevisions: snapshots of state that workload controllers can roll back to.

use k8s_openapi::{api::apps::v1::ControllerRevision, jiff::Timestamp};
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

pub struct ControllerRevisions;

static RESOURCE: ResourceInfo = ResourceInfo {
    group: "apps",
    ..text::core_resource("ControllerRevision", "controllerrevisions", "controllerrevision", &[])
};

const COLUMNS: &[Column] = &[
    text::NAME,
    text::column("Controller", "string", 0, "Controller of the object"),
    text::column(
        "Revision",
        "string",
        0,
        "revision indicates the revision of the state represented by Data.",
    ),
    text::AGE,
];

impl Kind for ControllerRevisions {
    type Object = ControllerRevision;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn has_generation(&self) -> bool {
        false
    }

    fn validate(&self, revision: &ControllerRevision, errors: &mut FieldErrors) {
        if revision.data.0.is_null() {
            errors.required(&Path::new("data"), "data is mandatory");
        }
        check::not_negative(revision.revision.unwrap_or_default(), &Path::new("revision"), errors);
    }

    fn validate_update(&self, new: &ControllerRevision, old: &ControllerRevision, errors: &mut FieldErrors) {
        if new.data != old.data {
            errors.invalid(&Path::new("data"), new.data.0.clone(), check::IMMUTABLE);
        }
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, revision: &ControllerRevision, now: Timestamp) -> Vec<Value> {
        let owners = revision.metadata.owner_references.or_empty();
        let controller = owners.iter().find(|owner| owner.controller == Some(true)).map(|owner| {
            let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
            let kind = owner.kind.to_lowercase();
            if group.is_empty() {
                format!("{kind}/{}", owner.name)
            } else {
                format!("{kind}.{group}/{}", owner.name)
            }
        });
        vec![
            revision.metadata.name.or_empty().into(),
            controller.unwrap_or_else(|| "<none>".into()).into(),
            revision.revision.unwrap_or_default().into(),
            age(revision.metadata.creation_timestamp.as_ref(), now).into(),
        ]
    }
}
