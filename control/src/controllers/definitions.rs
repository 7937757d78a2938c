//! CustomResourceDefinitions: decides which names a definition gets, says so in its status, and removes its objects
//! with it.

use std::collections::BTreeSet;

use k8s_openapi::{
    apiextensions_apiserver::pkg::apis::apiextensions::v1::{
        CustomResourceDefinition, CustomResourceDefinitionCondition as Condition,
        CustomResourceDefinitionNames, CustomResourceDefinitionStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use naru_model::Object;
use serde_json::json;
use std::time::Duration;

use super::{
    common::is_deleting,
    framework::{Action, Cache, Change, ClusterView, Plan, Reconciler, Write, key_of},
};
use crate::{
    client::Delete,
    registry::crd::{CLEANUP, is_true},
    store::Key,
};

/// How long until it is looked again whether the cache follows a definition's objects.
const PATIENCE: Duration = Duration::from_millis(50);

pub struct Definitions;

impl Reconciler for Definitions {
    type Object = CustomResourceDefinition;

    fn name(&self) -> &'static str {
        "custom-resource-definition-controller"
    }

    fn concerns(&self, change: &Change<'_>, cache: &Cache, look: &mut dyn FnMut(Key)) {
        // A definition that goes may leave names that others wait for.
        if change.is::<CustomResourceDefinition>() {
            let others = cache.list::<CustomResourceDefinition>(None);
            let waiting = others.filter(|other| !is_true(other, "NamesAccepted"));
            waiting.for_each(|other| look(key_of::<CustomResourceDefinition>("", other.name())));
            return;
        }
        if change.is_deleted {
            let key = key_of::<CustomResourceDefinition>("", change.entry.key.resource());
            if cache.entry(&key).is_some_and(|entry| entry.meta.deletion_timestamp.is_some()) {
                look(key);
            }
        }
    }

    fn reconcile(&self, definition: &CustomResourceDefinition, view: &ClusterView<'_>) -> Plan {
        let mut plan = Plan::nothing();
        if is_deleting(definition) {
            clean_up(definition, view, &mut plan);
            return plan;
        }
        let mut status = definition.status.clone().unwrap_or_default();
        let (names, conflict) = accepted(definition, view.cache);
        status.accepted_names = Some(names);
        let accepted = match &conflict {
            None => ("True", "NoConflicts", "no conflicts found"),
            Some((reason, message)) => ("False", *reason, message.as_str()),
        };
        set(&mut status, "NamesAccepted", accepted, view.now);
        if conflict.is_none() {
            set(
                &mut status,
                "Established",
                ("True", "InitialNamesAccepted", "the initial names have been accepted"),
                view.now,
            );
        } else if !is_true(definition, "Established") {
            set(&mut status, "Established", ("False", "NotAccepted", "not all names are accepted"), view.now);
        }
        report(definition, status, &mut plan);
        plan
    }
}

/// Removes the definition's objects; lets go of it when there are none.
fn clean_up(definition: &CustomResourceDefinition, view: &ClusterView<'_>, plan: &mut Plan) {
    let finalizers = definition.metadata.finalizers.clone().unwrap_or_default();
    if !finalizers.iter().any(|finalizer| finalizer == CLEANUP) {
        return;
    }
    let is_served = is_true(definition, "Established");
    if is_served && view.cache.resource(definition.name()).is_none() {
        // There may be objects that are not in the cache yet.
        plan.look_again(PATIENCE);
        return;
    }
    let remains: Vec<_> = view.cache.entries(definition.name(), None).collect();
    if remains.is_empty() {
        let others: Vec<_> = finalizers.iter().filter(|finalizer| *finalizer != CLEANUP).collect();
        let metadata = json!({
            "uid": definition.uid(),
            "resourceVersion": definition.metadata.resource_version,
            "finalizers": others,
        });
        let key = key_of::<CustomResourceDefinition>("", definition.name());
        plan.then([Write::merge_patch(key, "", json!({ "metadata": metadata }))]);
        return;
    }
    let mut status = definition.status.clone().unwrap_or_default();
    set(
        &mut status,
        "Terminating",
        ("True", "InstanceDeletionInProgress", "CustomResource deletion is in progress"),
        view.now,
    );
    report(definition, status, plan);
    let alive = remains.into_iter().filter(|entry| entry.meta.deletion_timestamp.is_none());
    plan.then(alive.map(|entry| {
        let options = Delete { uid: Some(entry.meta.uid.clone()), ..Delete::default() };
        Action::Delete { key: entry.key.clone(), options }.into()
    }));
}

/// Writes the status where it differs.
fn report(definition: &CustomResourceDefinition, status: CustomResourceDefinitionStatus, plan: &mut Plan) {
    if definition.status.as_ref() == Some(&status) {
        return;
    }
    let metadata =
        json!({ "uid": definition.uid(), "resourceVersion": definition.metadata.resource_version });
    let key = key_of::<CustomResourceDefinition>("", definition.name());
    plan.then([Write::merge_patch(key, "status", json!({ "metadata": metadata, "status": status }))]);
}

fn set(
    status: &mut CustomResourceDefinitionStatus,
    type_: &str,
    (value, reason, message): (&str, &str, &str),
    now: Timestamp,
) {
    let conditions = status.conditions.get_or_insert_default();
    let index = conditions.iter().position(|condition| condition.type_ == type_);
    let condition = match index {
        Some(index) => &mut conditions[index],
        None => {
            conditions.push(Condition { type_: type_.into(), ..Condition::default() });
            conditions.last_mut().expect("it was just added")
        }
    };
    if condition.status != value {
        condition.last_transition_time = Some(Time(now));
    }
    condition.status = value.into();
    condition.reason = Some(reason.into());
    condition.message = Some(message.into());
}

/// The names that the definition may use, and why not all that it asks for: a name of each sort belongs, within a
/// group, to whom it was given first.
fn accepted(
    definition: &CustomResourceDefinition,
    cache: &Cache,
) -> (CustomResourceDefinitionNames, Option<(&'static str, String)>) {
    let (mut resources, mut kinds) = (BTreeSet::new(), BTreeSet::new());
    for other in cache.list::<CustomResourceDefinition>(None) {
        let names = other.status.as_ref().and_then(|status| status.accepted_names.as_ref());
        let Some(names) = names.filter(|_| other.spec.group == definition.spec.group) else { continue };
        if other.name() != definition.name() {
            resources.insert(names.plural.clone());
            resources.extend(names.singular.clone());
            resources.extend(names.short_names.clone().unwrap_or_default());
            kinds.insert(names.kind.clone());
            kinds.extend(names.list_kind.clone());
        }
    }
    let asked = &definition.spec.names;
    let held = definition.status.as_ref().and_then(|status| status.accepted_names.clone());
    let mut names = held.unwrap_or_default();
    let mut conflict = None;
    // Of several conflicts the last one is told, as by Kubernetes.
    let mut are_free = |taken: &BTreeSet<String>, names: &[&str], reason: &'static str| {
        let mut used: Vec<String> = Vec::new();
        for name in names.iter().filter(|name| taken.contains(**name)) {
            let problem = format!("{name:?} is already in use");
            if !used.contains(&problem) {
                used.push(problem);
            }
        }
        match used.as_slice() {
            [] => return true,
            [one] => conflict = Some((reason, one.clone())),
            many => conflict = Some((reason, format!("[{}]", many.join(", ")))),
        }
        false
    };
    if are_free(&resources, &[&asked.plural], "PluralConflict") {
        names.plural.clone_from(&asked.plural);
    }
    if are_free(&resources, &[asked.singular.as_deref().unwrap_or_default()], "SingularConflict") {
        names.singular.clone_from(&asked.singular);
    }
    let short_names: Vec<&str> = asked.short_names.iter().flatten().map(String::as_str).collect();
    if are_free(&resources, &short_names, "ShortNamesConflict") {
        names.short_names.clone_from(&asked.short_names);
    }
    if are_free(&kinds, &[&asked.kind], "KindConflict") {
        names.kind.clone_from(&asked.kind);
    }
    if are_free(&kinds, &[asked.list_kind.as_deref().unwrap_or_default()], "ListKindConflict") {
        names.list_kind.clone_from(&asked.list_kind);
    }
    names.categories.clone_from(&asked.categories);
    (names, conflict)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::{framework::Typed, testing::World};

    fn definition(plural: &str, short_names: &[&str], kind: &str) -> CustomResourceDefinition {
        let singular = kind.to_lowercase();
        let list_kind = format!("{kind}List");
        let definition = json!({
            "metadata": { "name": format!("{plural}.shop.example.com") },
            "spec": {
                "group": "shop.example.com", "scope": "Namespaced", "versions": [],
                "names": {
                    "plural": plural, "singular": singular, "kind": kind, "listKind": list_kind, "shortNames": short_names,
                },
            },
        });
        serde_json::from_value(definition).expect("a definition")
    }

    #[test]
    fn of_names_in_use_the_last_sort_is_told_with_all_its_names() {
        let mut world = World::default();
        let mut look = |definition: CustomResourceDefinition| {
            let key = key_of::<CustomResourceDefinition>("", definition.name());
            let name = definition.name().to_owned();
            world.add(definition);
            world.settle(&Typed(Definitions), &key);
            let stored = world.get::<CustomResourceDefinition>("", &name);
            let conditions = stored.status.clone().and_then(|status| status.conditions).unwrap_or_default();
            let accepted = conditions.into_iter().find(|condition| condition.type_ == "NamesAccepted");
            let accepted = accepted.expect("it is told");
            (accepted.reason.unwrap_or_default(), accepted.message.unwrap_or_default())
        };
        let fine = ("NoConflicts".into(), "no conflicts found".into());
        assert_eq!(look(definition("carts", &["ct", "crt"], "Cart")), fine);
        assert_eq!(
            look(definition("trolleys", &["ct", "tr", "crt"], "Trolley")),
            ("ShortNamesConflict".into(), r#"["ct" is already in use, "crt" is already in use]"#.into())
        );
        assert_eq!(
            look(definition("barrows", &["ct"], "Barrow")),
            ("ShortNamesConflict".into(), r#""ct" is already in use"#.into())
        );
        assert_eq!(
            look(definition("wagons", &["ct"], "Cart")),
            ("ListKindConflict".into(), r#""CartList" is already in use"#.into())
        );
    }
}
