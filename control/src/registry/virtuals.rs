//! The kinds of core that are not stored: ComponentStatuses are worked out when asked for, a Binding is carried out.
//! What they do is in `api::computed`.

use k8s_openapi::{
    api::core::v1::{Binding, ComponentStatus},
    jiff::Timestamp,
};
use naru_model::ResourceInfo;
use serde_json::Value;

use super::{Column, Kind, podspec::OrEmpty, text};

pub struct ComponentStatuses;
pub struct Bindings;

static COMPONENT_STATUSES: ResourceInfo = ResourceInfo {
    namespaced: false,
    verbs: &["get", "list"],
    ..text::core_resource("ComponentStatus", "componentstatuses", "componentstatus", &["cs"])
};

static BINDINGS: ResourceInfo =
    ResourceInfo { verbs: &["create"], ..text::core_resource("Binding", "bindings", "binding", &[]) };

const COLUMNS: &[Column] = &[
    text::NAME,
    text::column("Status", "string", 0, "Status of the component conditions"),
    text::column("Message", "string", 0, "Message of the component conditions"),
    text::column("Error", "string", 0, "Error of the component conditions"),
];

impl Kind for ComponentStatuses {
    type Object = ComponentStatus;

    fn resource(&self) -> &'static ResourceInfo {
        &COMPONENT_STATUSES
    }

    fn deprecation(&self) -> Option<&str> {
        Some("v1 ComponentStatus is deprecated in v1.19+")
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, component: &ComponentStatus, _now: Timestamp) -> Vec<Value> {
        let healthy = component.conditions.or_empty().iter().find(|condition| condition.type_ == "Healthy");
        let (status, message, error) = match healthy {
            None => ("Unknown", "", ""),
            Some(condition) => (
                if condition.status == "True" { "Healthy" } else { "Unhealthy" },
                condition.message.or_empty(),
                condition.error.or_empty(),
            ),
        };
        vec![text::name(&component.metadata), status.into(), message.into(), error.into()]
    }
}

impl Kind for Bindings {
    type Object = Binding;

    fn resource(&self) -> &'static ResourceInfo {
        &BINDINGS
    }
}
