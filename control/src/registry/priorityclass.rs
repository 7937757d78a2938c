//! PriorityClasses: names for the priorities of pods.

use k8s_openapi::{api::scheduling::v1::PriorityClass, jiff::Timestamp};
use naru_model::{
    ResourceInfo,
    validation::{FieldErrors, Path, meta},
};
use serde_json::Value;

use super::{
    Column, Kind,
    podspec::{OrEmpty, check},
    text,
};

pub struct PriorityClasses;

static RESOURCE: ResourceInfo = ResourceInfo {
    group: "scheduling.k8s.io",
    namespaced: false,
    ..text::core_resource("PriorityClass", "priorityclasses", "priorityclass", &["pc"])
};

const HIGHEST_OF_USERS: i32 = 1_000_000_000;
/// The classes that every cluster has: name, value, description.
pub const SYSTEM_CLASSES: [(&str, i32, &str); 2] = [
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
];

const COLUMNS: &[Column] = &[
    text::NAME,
    text::column(
        "Value",
        "integer",
        0,
        "value represents the integer value of this priority class. This is the actual priority that pods receive when they have the name of this class in their pod spec.",
    ),
    text::column(
        "Global-Default",
        "boolean",
        0,
        "globalDefault specifies whether this PriorityClass should be considered as the default priority for pods that do not have any priority class. Only one PriorityClass can be marked as `globalDefault`. However, if more than one PriorityClasses exists with their `globalDefault` field set to true, the smallest value of such global default PriorityClasses will be used as the default priority.",
    ),
    text::AGE,
    text::column(
        "PreemptionPolicy",
        "string",
        0,
        "preemptionPolicy is the Policy for preempting pods with lower priority. One of Never, PreemptLowerPriority. Defaults to PreemptLowerPriority if unset.",
    ),
];

impl Kind for PriorityClasses {
    type Object = PriorityClass;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn default(&self, class: &mut PriorityClass) {
        class.preemption_policy.get_or_insert_with(|| "PreemptLowerPriority".into());
        class.value.get_or_insert(0);
    }

    fn validate(&self, class: &PriorityClass, errors: &mut FieldErrors) {
        let (name, value) = (class.metadata.name.or_empty(), class.value.unwrap_or_default());
        if name.starts_with("system-") {
            if let Err(why) = system_class(class, name, value) {
                let detail = format!(
                    "priority class names with 'system-' prefix are reserved for system use only. error: {why}"
                );
                errors.forbidden(&Path::new("metadata").child("name"), &detail);
            }
        } else if value > HIGHEST_OF_USERS {
            let detail = format!("maximum allowed value of a user defined priority is {HIGHEST_OF_USERS}");
            errors.forbidden(&Path::new("value"), &detail);
        }
        let policy = class.preemption_policy.or_empty();
        let policies = &["Never", "PreemptLowerPriority"];
        check::required_one_of(policy, policies, &Path::new("preemptionPolicy"), errors);
    }

    fn validate_update(&self, new: &PriorityClass, old: &PriorityClass, errors: &mut FieldErrors) {
        if new.value != old.value {
            errors.forbidden(&Path::new("value"), "may not be changed in an update.");
        }
        let path = Path::new("preemptionPolicy");
        meta::immutable_field(&path, &new.preemption_policy, &old.preemption_policy, errors);
    }

    fn is_spec_changed(&self, _new: &PriorityClass, _old: &PriorityClass) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, class: &PriorityClass, now: Timestamp) -> Vec<Value> {
        vec![
            text::name(&class.metadata),
            class.value.unwrap_or_default().into(),
            class.global_default.unwrap_or_default().into(),
            text::age(&class.metadata, now),
            class.preemption_policy.or_empty().into(),
        ]
    }
}

fn system_class(class: &PriorityClass, name: &str, value: i32) -> Result<(), String> {
    let Some((_, expected, _)) = SYSTEM_CLASSES.iter().find(|(known, ..)| *known == name) else {
        return Err(format!("{name} is not a known system priority class"));
    };
    if value != *expected {
        return Err(format!("value of {name} PriorityClass must be {expected}"));
    }
    if class.global_default == Some(true) {
        return Err(format!("globalDefault of {name} PriorityClass must be false"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registry::testing::{check, check_update, create, now};

    #[test]
    fn values_are_bounded_and_stay() {
        let (class, errors) = create(&PriorityClasses, "{metadata: {name: high}, value: 1000}");
        assert_eq!(errors, [] as [&str; 0]);
        let expected = json!([1000, false, "<unknown>", "PreemptLowerPriority"]);
        assert_eq!(json!(PriorityClasses.row(&class, now())[1..]), expected);
        for (yaml, expected) in [
            (
                "{metadata: {name: high}, value: 1000000001}",
                "value: Forbidden: maximum allowed value of a user defined priority is 1000000000",
            ),
            (
                "{metadata: {name: system-mine}, value: 1}",
                "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: system-mine is not a known system priority class",
            ),
            (
                "{metadata: {name: high}, preemptionPolicy: Some}",
                "preemptionPolicy: Unsupported value: \"Some\": …",
            ),
        ] {
            check(&PriorityClasses, yaml, &[expected]);
        }
        check(&PriorityClasses, "{metadata: {name: system-node-critical}, value: 2000001000}", &[]);
        check_update(
            &PriorityClasses,
            "{metadata: {name: high}, value: 1}",
            "{metadata: {name: high}, value: 2, preemptionPolicy: Never}",
            &[
                "value: Forbidden: may not be changed in an update.",
                "preemptionPolicy: Invalid value: \"Never\": field is immutable",
            ],
        );
    }
}
