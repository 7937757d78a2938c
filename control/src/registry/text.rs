//! Cells of tables and facts of discovery that several kinds share.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::{
    api::resource::Quantity,
    apis::meta::v1::{LabelSelector, ObjectMeta, Time},
};
use k8s_openapi::jiff::Timestamp;
use naru_model::{ResourceInfo, resource::ALL_VERBS};
use serde_json::{Value, json};
use std::collections::BTreeMap;

use super::Column;

pub const NAME: Column = Column {
    name: "Name",
    kind: "string",
    format: "name",
    priority: 0,
    description: "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request the generation of an appropriate name automatically. Name is primarily intended for creation idempotence and configuration definition. Cannot be updated. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names",
};

pub const AGE: Column = Column {
    name: "Age",
    kind: "string",
    format: "",
    priority: 0,
    description: "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed to be set in happens-before order across separate operations. Clients may not set this value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata",
};

/// The one column that kinds without a table of their own have beside their name.
pub const CREATED_AT: Column = Column { name: "Created At", kind: "date", ..AGE };

/// Wide columns of what has a pod template.
pub const CONTAINERS: Column = column("Containers", "string", 1, "Names of each container in the template.");
pub const IMAGES: Column =
    column("Images", "string", 1, "Images referenced by each container in the template.");

/// The columns of kinds that Kubernetes shows without any of their own.
pub const NAME_AND_CREATION: &[Column] = &[NAME, Column { name: "Created At", kind: "date", ..AGE }];

/// The row to [`NAME_AND_CREATION`].
pub fn name_and_creation(meta: &ObjectMeta) -> Vec<Value> {
    let created = meta.creation_timestamp.as_ref().map_or_else(|| json!("<unknown>"), |time| json!(time));
    vec![meta.name.clone().unwrap_or_default().into(), created]
}

/// A column of the usual shape.
pub const fn column(
    name: &'static str,
    kind: &'static str,
    priority: i32,
    description: &'static str,
) -> Column {
    Column { name, kind, format: "", priority, description }
}

/// The cell of [`NAME`].
pub fn name(meta: &ObjectMeta) -> Value {
    meta.name.as_deref().unwrap_or_default().into()
}

/// The cell of [`AGE`].
pub fn age(meta: &ObjectMeta, now: Timestamp) -> Value {
    super::kind::age(meta.creation_timestamp.as_ref(), now).into()
}

/// The cell of [`CREATED_AT`].
pub fn created_at(meta: &ObjectMeta) -> Value {
    let time =
        meta.creation_timestamp.as_ref().map(|Time(time)| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    time.unwrap_or_default().into()
}

pub fn or_none(text: &str) -> &str {
    if text.is_empty() { "<none>" } else { text }
}

/// `a=b,c=d`, or `<none>`.
pub fn labels(labels: Option<&BTreeMap<String, String>>) -> String {
    let pairs: Vec<String> =
        labels.into_iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
    or_none(&pairs.join(",")).into()
}

pub fn selector(selector: &LabelSelector) -> String {
    naru_model::selector::format_api(Some(selector))
}

/// The names and the images of a template's containers, each joined by commas.
pub fn containers(template: Option<&PodTemplateSpec>) -> (String, String) {
    let containers =
        template.and_then(|template| template.spec.as_ref()).map(|spec| spec.containers.as_slice());
    let containers = containers.unwrap_or_default();
    let join = |texts: Vec<&str>| texts.join(",");
    (
        join(containers.iter().map(|container| container.name.as_str()).collect()),
        join(containers.iter().map(|container| container.image.as_deref().unwrap_or_default()).collect()),
    )
}

/// `3Gi`, or "" where there is none.
pub fn quantity(quantity: Option<&Quantity>) -> &str {
    quantity.map_or("", |quantity| quantity.0.as_str())
}

/// A namespaced resource of the core group with all verbs.
pub const fn core_resource(
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    short_names: &'static [&'static str],
) -> ResourceInfo {
    ResourceInfo {
        group: "",
        version: "v1",
        kind,
        plural,
        singular,
        short_names,
        categories: &[],
        namespaced: true,
        subresources: &[],
        verbs: ALL_VERBS,
    }
}

/// `a,b,c + 2 more...`, or "" for none.
pub fn first_three(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    let shown = items[..items.len().min(3)].join(",");
    if items.len() > 3 { format!("{shown} + {} more...", items.len() - 3) } else { shown }
}
