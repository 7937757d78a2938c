//! Pods get the priority of their class; one class at most is the default.

use k8s_openapi::api::{core::v1::PodSpec, scheduling::v1::PriorityClass};
use naru_model::Object as _;

use crate::{
    ApiError,
    registry::{AnyObject, Call, priorityclass::SYSTEM_CLASSES},
    store::{Key, Scope, Store},
};

const CLASSES: &str = "priorityclasses.scheduling.k8s.io";
const PREEMPTS: &str = "PreemptLowerPriority";

/// Sets name, value and preemption policy of the pod's class, or of the default one.
pub(super) fn of_pod(store: &Store, call: &Call<'_>, name: &str, spec: &mut PodSpec) -> Result<(), ApiError> {
    let refuse = |message: String| ApiError::Refused {
        resource: call.served.qualified.clone(),
        name: name.into(),
        message,
        causes: Vec::new(),
    };
    let asked = spec.priority_class_name.clone().unwrap_or_default();
    let (class, value, policy) = if asked.is_empty() {
        let default = default_class(store);
        let class = default.as_ref().map(|class| class.name().to_owned());
        let policy = default.as_ref().and_then(|class| class.preemption_policy.clone());
        (class, default.and_then(|class| class.value).unwrap_or(0), policy)
    } else {
        let (value, policy) = find(store, &asked)
            .ok_or_else(|| refuse(format!("no PriorityClass with name {asked} was found")))?;
        (Some(asked), value, policy)
    };
    let policy = policy.unwrap_or_else(|| PREEMPTS.into());
    if let Some(given) = spec.priority.filter(|given| *given != value) {
        return Err(refuse(format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller \
             computed {value} from the given PriorityClass name"
        )));
    }
    if let Some(given) = spec.preemption_policy.as_ref().filter(|given| **given != policy) {
        return Err(refuse(format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission \
             controller computed {policy} from the given PriorityClass name"
        )));
    }
    spec.priority_class_name = class;
    spec.priority = Some(value);
    spec.preemption_policy = Some(policy);
    Ok(())
}

/// Refuses a second default class.
pub(super) fn of_class(store: &Store, call: &Call<'_>, object: &dyn AnyObject) -> Result<(), ApiError> {
    let Some(class) = object.get::<PriorityClass>().filter(|class| class.global_default == Some(true)) else {
        return Ok(());
    };
    match default_class(store).filter(|other| other.name() != class.name()) {
        None => Ok(()),
        Some(other) => Err(ApiError::Refused {
            resource: call.served.qualified.clone(),
            name: class.name().into(),
            message: format!(
                "PriorityClass {} is already marked as default. Only one default can exist",
                other.name()
            ),
            causes: Vec::new(),
        }),
    }
}

fn find(store: &Store, name: &str) -> Option<(i32, Option<String>)> {
    let stored = store.snapshot().get(&Key::new(CLASSES, "", name));
    if let Some(class) = stored.and_then(|entry| entry.typed::<PriorityClass>().ok()) {
        return Some((class.value.unwrap_or(0), class.preemption_policy.clone()));
    }
    // The system's own exist before the first write.
    let (_, value, _) = SYSTEM_CLASSES.iter().find(|(known, ..)| *known == name)?;
    Some((*value, None))
}

/// Of several defaults, which only a race can make, the lowest.
fn default_class(store: &Store) -> Option<PriorityClass> {
    let view = store.snapshot();
    let classes =
        view.range(&Scope::all(CLASSES), None).filter_map(|entry| entry.typed::<PriorityClass>().ok());
    let defaults = classes.filter(|class| class.global_default == Some(true));
    defaults.min_by_key(|class| class.value).map(|class| (*class).clone())
}
