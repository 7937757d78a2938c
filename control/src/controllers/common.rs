//! What several controllers need to know of pods, owners and times.

use std::time::Duration;

use k8s_openapi::{
    api::core::v1::{ObjectReference, Pod},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
    jiff::Timestamp,
};
use naru_model::{Object, condition, owner::controller_reference, selector};
use serde_json::json;

use super::framework::{Write, key_of};

/// The reference by which events and endpoints name an object.
pub fn reference<T: Object>(object: &T) -> ObjectReference {
    let metadata = object.metadata();
    ObjectReference {
        api_version: Some(T::API_VERSION.into()),
        kind: Some(T::KIND.into()),
        namespace: metadata.namespace.clone(),
        name: metadata.name.clone(),
        uid: metadata.uid.clone(),
        resource_version: metadata.resource_version.clone(),
        field_path: None,
    }
}

pub fn is_deleting<T: Object>(object: &T) -> bool {
    object.metadata().deletion_timestamp.is_some()
}

/// Whether the selector, which must not be empty, matches the object's labels.
pub fn selects<T: Object>(selector: &LabelSelector, object: &T) -> bool {
    selector::matches_api(selector, object.metadata().labels.as_ref())
}

/// Makes `owner` the controller of `object`, if that is still the object that was decided on.
pub fn adopt<O: Object, T: Object>(owner: &O, object: &T) -> Write {
    let patch = json!({"metadata": {"uid": object.uid(), "ownerReferences": [controller_reference(owner)]}});
    Write::strategic_patch(key_of::<T>(object.namespace(), object.name()), patch)
}

/// Takes `owner` off the owners of `object`.
pub fn release<O: Object, T: Object>(owner: &O, object: &T) -> Write {
    let gone = json!({"$patch": "delete", "uid": owner.uid()});
    let patch = json!({"metadata": {"uid": object.uid(), "ownerReferences": [gone]}});
    Write::strategic_patch(key_of::<T>(object.namespace(), object.name()), patch)
}

/// Since when the pod is ready, where it is.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let conditions = pod.status.as_ref()?.conditions.as_ref();
    let condition = condition::find(conditions, "Ready").filter(|condition| condition.status == "True")?;
    condition.last_transition_time.as_ref().map(|time| time.0)
}

/// Time from `now` until `then`, zero where that is past.
pub fn until(then: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(then.duration_since(now)).unwrap_or_default()
}

/// `None` for zero: counts that the API omits when they are zero.
pub fn nonzero(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}
