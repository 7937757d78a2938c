//! Conditions of a status: one list, many types. A condition's transition time moves only when its status does.

use k8s_openapi::{
    api::{
        apps::v1::{DaemonSetCondition, DeploymentCondition, ReplicaSetCondition, StatefulSetCondition},
        batch::v1::JobCondition,
        core::v1::{NamespaceCondition, NodeCondition, PersistentVolumeClaimCondition, PodCondition},
    },
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};

/// What all condition types have in common.
pub trait IsCondition: PartialEq {
    fn kind(&self) -> &str;
    fn status(&self) -> &str;
    fn reason(&self) -> &str;
    fn message(&self) -> &str;
    fn transition(&self) -> Option<&Time>;
    fn set_transition(&mut self, time: Option<Time>);
}

macro_rules! conditions {
    ($text:expr => $($name:ident),*) => {$(
        impl IsCondition for $name {
            fn kind(&self) -> &str {
                $text(&self.type_)
            }
            fn status(&self) -> &str {
                $text(&self.status)
            }
            fn reason(&self) -> &str {
                self.reason.as_deref().unwrap_or_default()
            }
            fn message(&self) -> &str {
                self.message.as_deref().unwrap_or_default()
            }
            fn transition(&self) -> Option<&Time> {
                self.last_transition_time.as_ref()
            }
            fn set_transition(&mut self, time: Option<Time>) {
                self.last_transition_time = time;
            }
        }
    )*};
}

conditions!(String::as_str => JobCondition, NamespaceCondition, NodeCondition, PersistentVolumeClaimCondition, PodCondition);
// The schema of `apps/v1` marks type and status as optional.
conditions!(optional => DaemonSetCondition, DeploymentCondition, ReplicaSetCondition, StatefulSetCondition);

#[allow(clippy::ref_option, reason = "it takes the place of a method of the field")]
fn optional(text: &Option<String>) -> &str {
    text.as_deref().unwrap_or_default()
}

impl IsCondition for Condition {
    fn kind(&self) -> &str {
        &self.type_
    }
    fn status(&self) -> &str {
        &self.status
    }
    fn reason(&self) -> &str {
        &self.reason
    }
    fn message(&self) -> &str {
        &self.message
    }
    fn transition(&self) -> Option<&Time> {
        Some(&self.last_transition_time)
    }
    fn set_transition(&mut self, time: Option<Time>) {
        if let Some(time) = time {
            self.last_transition_time = time;
        }
    }
}

/// The condition of this type.
pub fn find<'a, C: IsCondition>(conditions: Option<&'a Vec<C>>, kind: &str) -> Option<&'a C> {
    conditions?.iter().find(|condition| condition.kind() == kind)
}

/// Whether the condition is there and has the status `True`.
pub fn is_true<C: IsCondition>(conditions: Option<&Vec<C>>, kind: &str) -> bool {
    find(conditions, kind).is_some_and(|condition| condition.status() == "True")
}

/// Puts `condition` in the place of the one of its type, or at the end. If the status stays the same, so does
/// the transition time; else it is `now`. Answers whether anything but times changed.
pub fn set<C: IsCondition>(conditions: &mut Option<Vec<C>>, mut condition: C, now: Timestamp) -> bool {
    let list = conditions.get_or_insert_default();
    let Some(old) = list.iter_mut().find(|old| old.kind() == condition.kind()) else {
        condition.set_transition(Some(Time(now)));
        list.push(condition);
        return true;
    };
    let is_same_status = old.status() == condition.status();
    condition.set_transition(old.transition().filter(|_| is_same_status).cloned().or(Some(Time(now))));
    let is_changed =
        !is_same_status || old.reason() != condition.reason() || old.message() != condition.message();
    *old = condition;
    is_changed
}

/// Removes the condition of this type; answers whether there was one.
pub fn remove<C: IsCondition>(conditions: &mut Option<Vec<C>>, kind: &str) -> bool {
    let Some(list) = conditions else { return false };
    let before = list.len();
    list.retain(|condition| condition.kind() != kind);
    list.len() != before
}

/// A pod condition without times, for [`set`].
pub fn pod(kind: &str, is_true: bool, reason: Option<&str>, message: Option<&str>) -> PodCondition {
    PodCondition {
        type_: kind.into(),
        status: if is_true { "True" } else { "False" }.into(),
        reason: reason.map(Into::into),
        message: message.map(Into::into),
        ..PodCondition::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    #[test]
    fn the_transition_time_moves_only_with_the_status() {
        let mut conditions = None;
        assert!(set(&mut conditions, pod("Ready", false, Some("A"), None), at(1)));
        assert!(!set(&mut conditions, pod("Ready", false, Some("A"), None), at(2)));
        assert!(set(&mut conditions, pod("Ready", false, Some("B"), None), at(3)));
        assert_eq!(
            find(conditions.as_ref(), "Ready").and_then(|found| found.transition().cloned()),
            Some(Time(at(1)))
        );
        assert!(!is_true(conditions.as_ref(), "Ready"));
        assert!(set(&mut conditions, pod("Ready", true, None, None), at(4)));
        assert_eq!(
            find(conditions.as_ref(), "Ready").and_then(|found| found.transition().cloned()),
            Some(Time(at(4)))
        );
        assert!(is_true(conditions.as_ref(), "Ready") && !is_true(conditions.as_ref(), "Initialized"));
    }

    #[test]
    fn conditions_of_other_types_stay_in_place() {
        let mut conditions = Some(vec![pod("A", true, None, None), pod("B", true, None, None)]);
        set(&mut conditions, pod("A", false, None, None), at(1));
        let kinds: Vec<_> = conditions.iter().flatten().map(|condition| condition.type_.as_str()).collect();
        assert_eq!(kinds, ["A", "B"]);
        assert!(remove(&mut conditions, "A") && !remove(&mut conditions, "A"));
    }
}
