//! What an event must say. Those that tell when they happened (`eventTime`) say more, and those that are written as
//! `events.k8s.io` most: fields of the old form are not for them, and only their series changes.

use k8s_openapi::api::core::v1::{Event, EventSource};
use naru_model::validation::{FieldErrors, Path, meta::immutable_field, names};

use crate::registry::podspec::OrEmpty;

const MAX_TEXT_BYTES: usize = 128;
const MAX_MESSAGE_BYTES: usize = 1024;

/// What holds for every event, in whatever form it was sent.
pub(super) fn validate(event: &Event, errors: &mut FieldErrors) {
    let (own, of) = (event.metadata.namespace.or_empty(), event.involved_object.namespace.or_empty());
    let is_new = event.event_time.is_some();
    // It lives beside what it is about; events about cluster-scoped objects live in `default`.
    let is_beside = match (is_new, of) {
        (false, "") => matches!(own, "" | "default"),
        (false, of) => own == of,
        (true, "") => matches!(own, "default" | "kube-system"),
        (true, _) => true,
    };
    if !is_beside {
        let path = Path::new("involvedObject").child("namespace");
        errors.invalid(&path, of, "does not match event.namespace");
    }
    if !is_new {
        return;
    }
    let controller = event.reporting_component.or_empty();
    let path = Path::new("reportingController");
    if controller.is_empty() {
        errors.required(&path, "");
    }
    errors.problems(&path, controller, names::qualified_name(controller));
    for (field, text) in [
        ("reportingInstance", event.reporting_instance.or_empty()),
        ("action", event.action.or_empty()),
        ("reason", event.reason.or_empty()),
    ] {
        if text.is_empty() {
            errors.required(&Path::new(field), "");
        }
        at_most(field, text, MAX_TEXT_BYTES, errors);
    }
    at_most("message", event.message.or_empty(), MAX_MESSAGE_BYTES, errors);
}

fn at_most(field: &str, text: &str, max: usize, errors: &mut FieldErrors) {
    if text.len() > max {
        errors.invalid(&Path::new(field), "", &format!("can have at most {max} characters"));
    }
}

/// What is asked of a new event that is sent as `events.k8s.io`.
pub(super) fn validate_create(event: &Event, errors: &mut FieldErrors) {
    series(event, errors);
    if event.event_time.is_none() {
        errors.required(&Path::new("eventTime"), "");
    }
    let kind = event.type_.or_empty();
    if !matches!(kind, "Normal" | "Warning") {
        errors.invalid(&Path::new("type"), "", &format!("has invalid value: {kind}"));
    }
    let source = event.source.as_ref();
    let has_source = source
        .is_some_and(|source| !source.component.or_empty().is_empty() || !source.host.or_empty().is_empty());
    for (field, is_set) in [
        ("firstTimestamp", event.first_timestamp.is_some()),
        ("lastTimestamp", event.last_timestamp.is_some()),
        ("count", event.count.unwrap_or_default() != 0),
        ("source", has_source),
    ] {
        if is_set {
            errors.invalid(&Path::new(field), "", "needs to be unset");
        }
    }
}

/// What is asked of a change that is sent as `events.k8s.io`.
pub(super) fn validate_update(new: &Event, old: &Event, errors: &mut FieldErrors) {
    if new.series != old.series {
        series(new, errors);
    }
    let source = |event: &Event| event.source.clone().filter(|source| *source != EventSource::default());
    let path = Path::new;
    immutable_field(&path("involvedObject"), &new.involved_object, &old.involved_object, errors);
    immutable_field(&path("source"), &source(new), &source(old), errors);
    immutable_field(&path("firstTimestamp"), &new.first_timestamp, &old.first_timestamp, errors);
    immutable_field(&path("lastTimestamp"), &new.last_timestamp, &old.last_timestamp, errors);
    immutable_field(&path("count"), &new.count.unwrap_or_default(), &old.count.unwrap_or_default(), errors);
    immutable_field(&path("eventTime"), &new.event_time, &old.event_time, errors);
    immutable_field(&path("related"), &new.related, &old.related, errors);
    for (field, new, old) in [
        ("reason", &new.reason, &old.reason),
        ("message", &new.message, &old.message),
        ("type", &new.type_, &old.type_),
        ("action", &new.action, &old.action),
        ("reportingController", &new.reporting_component, &old.reporting_component),
        ("reportingInstance", &new.reporting_instance, &old.reporting_instance),
    ] {
        immutable_field(&path(field), &new.or_empty(), &old.or_empty(), errors);
    }
}

fn series(event: &Event, errors: &mut FieldErrors) {
    let Some(series) = &event.series else { return };
    if series.count.unwrap_or_default() < 2 {
        errors.invalid(&Path::new("series.count"), "", "should be at least 2");
    }
    if series.last_observed_time.is_none() {
        errors.required(&Path::new("series.lastObservedTime"), "");
    }
}
