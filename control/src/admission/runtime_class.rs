//! RuntimeClass: pods that name a class get its overhead, and go to the nodes that have it. A class that nobody defined
//! is refused, unless it is one of those that every node knows by name.

use k8s_openapi::api::{
    core::v1::{Pod, PodSpec},
    node::v1::RuntimeClass,
};

use naru_model::pod::RUNTIME_HANDLERS;

use super::chain::{Plugin, Write};
use crate::{ApiError, registry::AnyObject, store::Key};

const CLASSES: &str = "runtimeclasses.node.k8s.io";

pub(super) struct RuntimeClasses;

impl Plugin for RuntimeClasses {
    fn mutate(&self, write: &Write<'_>, object: &mut dyn AnyObject) -> Result<(), ApiError> {
        let Some(spec) =
            object.get_mut::<Pod>().filter(|_| write.is_create()).and_then(|pod| pod.spec.as_mut())
        else {
            return Ok(());
        };
        let outcome = match spec.runtime_class_name.as_deref() {
            None | Some("") => apply(None, spec),
            Some(name) => {
                let entry = write.view.get(&Key::new(CLASSES, "", name));
                let class = entry.and_then(|entry| entry.typed::<RuntimeClass>().ok());
                if class.is_none() && !RUNTIME_HANDLERS.contains(&name) {
                    Err(format!("pod rejected: RuntimeClass {name:?} not found"))
                } else {
                    apply(class.as_deref(), spec)
                }
            }
        };
        outcome.map_err(|message| write.refuse(object, message))
    }
}

fn apply(class: Option<&RuntimeClass>, spec: &mut PodSpec) -> Result<(), String> {
    let overhead = class.and_then(|class| class.overhead.as_ref()?.pod_fixed.clone());
    match (&overhead, &spec.overhead) {
        (None, Some(given)) if !given.is_empty() => {
            return Err(
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead".into()
            );
        }
        (Some(defined), Some(given)) if defined != given => {
            return Err("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead".into());
        }
        (Some(_), _) => spec.overhead = overhead,
        (None, _) => (),
    }
    let Some(scheduling) = class.and_then(|class| class.scheduling.as_ref()) else { return Ok(()) };
    for (key, value) in scheduling.node_selector.iter().flatten() {
        let given = spec.node_selector.get_or_insert_default().insert(key.clone(), value.clone());
        if let Some(given) = given.filter(|given| given != value) {
            return Err(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; pod.spec.nodeSelector[{key}] = {given}"
            ));
        }
    }
    for toleration in scheduling.tolerations.iter().flatten() {
        let tolerations = spec.tolerations.get_or_insert_default();
        if !tolerations.contains(toleration) {
            tolerations.push(toleration.clone());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_pod_gets_what_its_class_says_and_may_not_contradict_it() {
        let class = json!({
            "metadata": { "name": "sealed" }, "handler": "sealed",
            "overhead": { "podFixed": { "cpu": "10m" } },
            "scheduling": { "nodeSelector": { "sealed": "yes" }, "tolerations": [{ "key": "sealed" }] },
        });
        let class: RuntimeClass = serde_json::from_value(class).expect("a class");
        let filled = json!({
            "containers": [], "overhead": { "cpu": "10m" }, "nodeSelector": { "sealed": "yes" },
            "tolerations": [{ "key": "sealed" }],
        });
        let cases = [
            (Some(&class), json!({}), Ok(&filled)),
            (Some(&class), filled.clone(), Ok(&filled)),
            (
                Some(&class),
                json!({ "overhead": { "cpu": "1" } }),
                Err("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"),
            ),
            (
                Some(&class),
                json!({ "nodeSelector": { "sealed": "no" } }),
                Err(
                    "conflict: runtimeClass.scheduling.nodeSelector[sealed] = yes; pod.spec.nodeSelector[sealed] = no",
                ),
            ),
            (
                None,
                json!({ "overhead": { "cpu": "1" } }),
                Err("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"),
            ),
        ];
        for (class, mut given, expected) in cases {
            given["containers"] = json!([]);
            let mut spec: PodSpec = serde_json::from_value(given).expect("a spec");
            let outcome = apply(class, &mut spec);
            match expected {
                Ok(expected) => {
                    assert_eq!(outcome, Ok(()));
                    let value: Value = serde_json::to_value(&spec).expect("specs serialize");
                    assert_eq!(value, *expected);
                }
                Err(expected) => assert_eq!(outcome, Err(expected.to_owned())),
            }
        }
    }
}
