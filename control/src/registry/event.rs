//! Events, which are one kind under two names: core `events`, which is stored, and `events.k8s.io`, a view of it
//! in which some fields are called otherwise.

use k8s_openapi::{
    api::{core::v1::Event, events},
    apimachinery::pkg::apis::meta::v1::{MicroTime, Time},
    jiff::Timestamp,
};
use naru_model::{ResourceInfo, duration, validation::FieldErrors};
use serde_json::{Map, Value};

use super::{Column, Kind, kinds::Conversion, podspec::OrEmpty, text};

mod rules; // What an event must say.

pub struct Events;

static RESOURCE: ResourceInfo = text::core_resource("Event", "events", "event", &["ev"]);

pub(super) static EVENTS_V1: ResourceInfo =
    ResourceInfo { group: "events.k8s.io", ..text::core_resource("Event", "events", "event", &["ev"]) };

pub(super) const AS_EVENTS_V1: Conversion = Conversion {
    to_stored: |value, _| Ok(event_to_core(value)),
    to_served: event_to_v1,
    add_schema: |generator| drop(generator.subschema_for::<events::v1::Event>()),
    fields: &[
        ("regarding.kind", "involvedObject.kind"),
        ("regarding.namespace", "involvedObject.namespace"),
        ("regarding.name", "involvedObject.name"),
        ("regarding.uid", "involvedObject.uid"),
        ("regarding.apiVersion", "involvedObject.apiVersion"),
        ("regarding.resourceVersion", "involvedObject.resourceVersion"),
        ("regarding.fieldPath", "involvedObject.fieldPath"),
        ("reason", "reason"),
        ("reportingController", "reportingComponent"),
        ("type", "type"),
    ],
    validate: |new, old, errors| {
        let (new, old) = (new.get::<Event>(), old.and_then(|old| old.get::<Event>()));
        match (new, old) {
            (Some(new), Some(old)) => rules::validate_update(new, old, errors),
            (Some(new), None) => rules::validate_create(new, errors),
            (None, _) => (),
        }
    },
};

const COLUMNS: &[Column] = &[
    text::column(
        "Last Seen",
        "string",
        0,
        "The time at which the most recent occurrence of this event was recorded.",
    ),
    text::column(
        "Type",
        "string",
        0,
        "Type of this event (Normal, Warning), new types could be added in the future",
    ),
    text::column(
        "Reason",
        "string",
        0,
        "This should be a short, machine understandable string that gives the reason for the transition into the object's current status.",
    ),
    text::column("Object", "string", 0, "The object that this event is about."),
    text::column(
        "Subobject",
        "string",
        1,
        "If referring to a piece of an object instead of an entire object, this string should contain a valid JSON/Go field access statement, such as desiredState.manifest.containers[2]. For example, if the object reference is to a container within a pod, this would take on a value like: \"spec.containers{name}\" (where \"name\" refers to the name of the container that triggered the event) or if no container name is specified \"spec.containers[2]\" (container with index 2 in this pod). This syntax is chosen only to have some well-defined way of referencing a part of an object.",
    ),
    text::column(
        "Source",
        "string",
        1,
        "The component reporting this event. Should be a short machine understandable string.",
    ),
    text::column("Message", "string", 0, "A human-readable description of the status of this operation."),
    text::column(
        "First Seen",
        "string",
        1,
        "The time at which the event was first recorded. (Time of server receipt is in TypeMeta.)",
    ),
    text::column("Count", "string", 1, "The number of times this event has occurred."),
    Column { priority: 1, ..text::NAME },
];

impl Kind for Events {
    type Object = Event;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn has_generation(&self) -> bool {
        false
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }

    fn validate(&self, event: &Event, errors: &mut FieldErrors) {
        rules::validate(event, errors);
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, event: &Event, now: Timestamp) -> Vec<Value> {
        let since = |time: Option<Timestamp>| {
            time.map_or_else(|| "<unknown>".into(), |time| duration::human(now.duration_since(time)))
        };
        let micro = |time: &Option<MicroTime>| time.as_ref().map(|MicroTime(time)| *time);
        let whole = |time: &Option<Time>| time.as_ref().map(|Time(time)| *time);
        let first = whole(&event.first_timestamp).or_else(|| micro(&event.event_time));
        let mut last = whole(&event.last_timestamp).or(first);
        let mut count = event.count.unwrap_or_default().max(1);
        if let Some(series) = &event.series {
            last = micro(&series.last_observed_time);
            count = series.count.unwrap_or_default();
        }
        let object = &event.involved_object;
        let kind = object.kind.or_empty().to_lowercase();
        let target = if object.name.or_empty().is_empty() {
            kind
        } else {
            format!("{kind}/{}", object.name.or_empty())
        };
        vec![
            since(last).into(),
            event.type_.or_empty().into(),
            event.reason.or_empty().into(),
            target.into(),
            object.field_path.or_empty().into(),
            source(event).into(),
            event.message.or_empty().trim().into(),
            since(first).into(),
            count.into(),
            event.metadata.name.or_empty().into(),
        ]
    }

    fn field_names(&self) -> &'static [&'static str] {
        &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ]
    }

    fn field(&self, event: &Event, name: &str) -> String {
        let object = &event.involved_object;
        let component = event.source.as_ref().map(|source| source.component.or_empty()).unwrap_or_default();
        let value = match name {
            "involvedObject.kind" => object.kind.or_empty(),
            "involvedObject.namespace" => object.namespace.or_empty(),
            "involvedObject.name" => object.name.or_empty(),
            "involvedObject.uid" => object.uid.or_empty(),
            "involvedObject.apiVersion" => object.api_version.or_empty(),
            "involvedObject.resourceVersion" => object.resource_version.or_empty(),
            "involvedObject.fieldPath" => object.field_path.or_empty(),
            "reason" => event.reason.or_empty(),
            "reportingComponent" => event.reporting_component.or_empty(),
            "source" if component.is_empty() => event.reporting_component.or_empty(),
            "source" => component,
            "type" => event.type_.or_empty(),
            _ => "",
        };
        value.into()
    }
}

/// `kubelet, node-1`
fn source(event: &Event) -> String {
    let source = event.source.as_ref();
    let or_else = |text: Option<&String>, other: &Option<String>| {
        text.filter(|text| !text.is_empty()).map_or_else(|| other.or_empty().to_owned(), Clone::clone)
    };
    let component = or_else(source.and_then(|source| source.component.as_ref()), &event.reporting_component);
    let host = or_else(source.and_then(|source| source.host.as_ref()), &event.reporting_instance);
    if host.is_empty() { component } else { format!("{component}, {host}") }
}

/// Fields that the two Event kinds name differently: `events.k8s.io` first, core second.
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

fn event_to_core(mut value: Value) -> Value {
    if let Some(map) = value.as_object_mut() {
        rename(map, EVENT_FIELDS.iter().copied());
        map.insert("apiVersion".into(), "v1".into());
    }
    value
}

fn event_to_v1(mut value: Value) -> Value {
    if let Some(map) = value.as_object_mut() {
        rename(map, EVENT_FIELDS.iter().map(|(v1, core)| (*core, *v1)));
        map.insert("apiVersion".into(), "events.k8s.io/v1".into());
    }
    value
}

fn rename(map: &mut Map<String, Value>, names: impl Iterator<Item = (&'static str, &'static str)>) {
    for (from, to) in names {
        if let Some(value) = map.remove(from) {
            map.insert(to.into(), value);
        }
    }
}
