//! RuntimeClasses: which handler of the nodes' runtime runs a pod, what it costs, and where it is.

use k8s_openapi::{api::node::v1::RuntimeClass, jiff::Timestamp};
use naru_model::{
    ResourceInfo,
    validation::{FieldErrors, Path, meta},
};
use serde_json::{Value, json};

use super::{
    Column, Kind,
    podspec::{OrEmpty, canonical_quantities, check, container_resource_name, resource_amount, tolerations},
    text,
};

pub struct RuntimeClasses;

static RESOURCE: ResourceInfo = ResourceInfo {
    group: "node.k8s.io",
    namespaced: false,
    ..text::core_resource("RuntimeClass", "runtimeclasses", "runtimeclass", &[])
};

const COLUMNS: &[Column] = &[
    text::NAME,
    text::column(
        "Handler",
        "string",
        0,
        "handler specifies the underlying runtime and configuration that the CRI implementation will use to handle pods of this class. The possible values are specific to the node & CRI configuration.  It is assumed that all handlers are available on every node, and handlers of the same name are equivalent on every node. For example, a handler called \"runc\" might specify that the runc OCI runtime (using native Linux containers) will be used to run the containers in a pod. The Handler must be lowercase, conform to the DNS Label (RFC 1123) requirements, and is immutable.",
    ),
    text::AGE,
];

impl Kind for RuntimeClasses {
    type Object = RuntimeClass;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn has_generation(&self) -> bool {
        false
    }

    fn default(&self, class: &mut RuntimeClass) {
        canonical_quantities(class.overhead.as_mut().and_then(|overhead| overhead.pod_fixed.as_mut()));
    }

    fn validate(&self, class: &RuntimeClass, errors: &mut FieldErrors) {
        let handler = Path::new("handler");
        if class.handler.is_empty() {
            errors.required(&handler, "");
        } else {
            check::dns_label(&class.handler, &handler, errors);
        }
        let costs = class.overhead.as_ref().and_then(|overhead| overhead.pod_fixed.as_ref());
        for (name, quantity) in costs.into_iter().flatten() {
            let path = Path::new("overhead").child("limits").key(name);
            container_resource_name(name, &path, errors);
            resource_amount(name, quantity, &path, errors);
        }
        let Some(scheduling) = &class.scheduling else { return };
        let path = Path::new("scheduling");
        check::labels(scheduling.node_selector.as_ref(), &path.child("nodeSelector"), errors);
        let path = path.child("tolerations");
        let list = scheduling.tolerations.or_empty();
        tolerations(list, &path, errors);
        for (index, toleration) in list.iter().enumerate() {
            if list[..index].contains(toleration) {
                errors.duplicate(&path.index(index), json!(toleration));
            }
        }
    }

    fn validate_update(&self, new: &RuntimeClass, old: &RuntimeClass, errors: &mut FieldErrors) {
        meta::immutable_field(&Path::new("handler"), &new.handler, &old.handler, errors);
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, class: &RuntimeClass, now: Timestamp) -> Vec<Value> {
        vec![text::name(&class.metadata), class.handler.as_str().into(), text::age(&class.metadata, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::testing::{check, check_update};

    #[test]
    fn the_handler_is_a_label_and_stays() {
        let good = "{metadata: {name: wasm}, handler: spin, overhead: {podFixed: {memory: 16Mi}}}";
        check(&RuntimeClasses, good, &[]);
        check(
            &RuntimeClasses,
            "{metadata: {name: wasm}, handler: Sp.in}",
            &["handler: Invalid value: \"Sp.in\": …"],
        );
        check(
            &RuntimeClasses,
            "{metadata: {name: wasm}, handler: spin, overhead: {podFixed: {pods: '1'}}, scheduling: {tolerations: [{operator: Exists}, {operator: Exists}]}}",
            &[
                "overhead.limits[pods]: Invalid value: \"pods\": must be a standard resource for containers",
                "scheduling.tolerations[1]: Duplicate value: {\"operator\":\"Exists\"}",
            ],
        );
        let changed = good.replace("spin", "other");
        check_update(
            &RuntimeClasses,
            good,
            &changed,
            &["handler: Invalid value: \"other\": field is immutable"],
        );
    }
}
