//! The strategic merge patch that turns the API's status of a pod into ours.

use k8s_openapi::api::core::v1::{PodCondition, PodStatus};
use serde_json::{Value, json};

use super::resize;

/// A patch of `status`, guarded by the pod's uid so that a namesake's status is never touched.
///
/// Conditions merge by type, so those of other writers stay; of ours, what is absent must be named as null. Lists that
/// merge by address (`podIPs`, `hostIPs`) are replaced where `old` has something else.
pub fn status_patch(uid: &str, old: Option<&PodStatus>, new: &PodStatus) -> Value {
    let mut status = serde_json::to_value(new).expect("a status is plain data");
    let fields = status.as_object_mut().expect("a struct becomes an object");
    for field in ["reason", "message"] {
        fields.entry(field).or_insert(Value::Null);
    }
    for condition in fields.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten() {
        let condition = condition.as_object_mut().expect("a struct becomes an object");
        for field in ["reason", "message", "lastProbeTime"] {
            condition.entry(field).or_insert(Value::Null);
        }
    }
    for kind in gone(old, new) {
        let conditions = fields.entry("conditions").or_insert_with(|| json!([]));
        if let Some(conditions) = conditions.as_array_mut() {
            conditions.push(json!({ "$patch": "delete", "type": kind }));
        }
    }
    let old_ips = old.and_then(|old| old.pod_ips.as_ref()).filter(|ips| !ips.is_empty());
    if old_ips.is_some() && old_ips != new.pod_ips.as_ref() {
        replace_list(fields.get_mut("podIPs"));
    }
    let old_ips = old.and_then(|old| old.host_ips.as_ref()).filter(|ips| !ips.is_empty());
    if old_ips.is_some() && old_ips != new.host_ips.as_ref() {
        replace_list(fields.get_mut("hostIPs"));
    }
    // The control plane's field; it never changes.
    fields.remove("qosClass");
    json!({ "metadata": { "uid": uid }, "status": status })
}

/// Whether writing `new` over `old` would change nothing; conditions of other writers don't count.
pub fn says_the_same(old: &PodStatus, new: &PodStatus) -> bool {
    let without_conditions = |status: &PodStatus| PodStatus {
        conditions: None,
        phase: status.phase.clone(),
        reason: status.reason.clone(),
        message: status.message.clone(),
        start_time: status.start_time.clone(),
        observed_generation: status.observed_generation,
        host_ip: status.host_ip.clone(),
        host_ips: status.host_ips.clone(),
        pod_ip: status.pod_ip.clone(),
        pod_ips: status.pod_ips.clone(),
        init_container_statuses: status.init_container_statuses.clone(),
        container_statuses: status.container_statuses.clone(),
        ephemeral_container_statuses: status.ephemeral_container_statuses.clone(),
        ..Default::default()
    };
    let has = |condition: &PodCondition| old.conditions.iter().flatten().any(|known| known == condition);
    without_conditions(old) == without_conditions(new)
        && new.conditions.iter().flatten().all(has)
        && gone(Some(old), new).next().is_none()
}

/// The conditions of ours that `old` has and `new` has not: all others are always there.
fn gone(old: Option<&PodStatus>, new: &PodStatus) -> impl Iterator<Item = &'static str> {
    let has = |status: &PodStatus, kind: &str| {
        status.conditions.iter().flatten().any(|condition| condition.type_ == kind)
    };
    resize::CONDITIONS
        .into_iter()
        .filter(move |kind| old.is_some_and(|old| has(old, kind)) && !has(new, kind))
}

fn replace_list(list: Option<&mut Value>) {
    if let Some(list) = list.and_then(Value::as_array_mut) {
        list.push(json!({ "$patch": "replace" }));
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodIP;

    use super::*;

    #[test]
    fn what_a_condition_no_longer_says_is_removed() {
        let ready = PodCondition { type_: "Ready".into(), status: "True".into(), ..Default::default() };
        let status = PodStatus { conditions: Some(vec![ready]), ..Default::default() };
        let patch = status_patch("u", None, &status);
        assert_eq!(patch["metadata"]["uid"], "u");
        let condition = patch["status"]["conditions"][0].as_object().unwrap();
        assert_eq!(condition["message"], Value::Null);
        assert!(condition.contains_key("reason"));
    }

    #[test]
    fn a_changed_address_replaces_the_old_one() {
        let with_ip =
            |ip: &str| PodStatus { pod_ips: Some(vec![PodIP { ip: ip.into() }]), ..Default::default() };
        let patch = status_patch("u", Some(&with_ip("127.5.0.1")), &with_ip("127.5.0.2"));
        assert_eq!(patch["status"]["podIPs"], json!([{ "ip": "127.5.0.2" }, { "$patch": "replace" }]));
        let patch = status_patch("u", Some(&with_ip("127.5.0.2")), &with_ip("127.5.0.2"));
        assert_eq!(patch["status"]["podIPs"], json!([{ "ip": "127.5.0.2" }]));
    }

    #[test]
    fn what_was_told_of_a_resize_is_taken_back() {
        let condition = |kind: &str| PodCondition { type_: kind.into(), ..Default::default() };
        let with = |kinds: &[&str]| PodStatus {
            conditions: Some(kinds.iter().map(|kind| condition(kind)).collect()),
            ..Default::default()
        };
        let (old, new) = (with(&["Ready", "PodResizePending", "Theirs"]), with(&["Ready"]));
        assert!(!says_the_same(&old, &new) && says_the_same(&with(&["Ready", "Theirs"]), &new));
        let patch = status_patch("u", Some(&old), &new);
        assert_eq!(
            patch["status"]["conditions"][1],
            json!({ "$patch": "delete", "type": "PodResizePending" })
        );
        assert_eq!(patch["status"]["conditions"].as_array().map(Vec::len), Some(2));
    }
}
