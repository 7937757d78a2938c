//! Gathers the rules of aggregated ClusterRoles from those that their selectors find.

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use naru_model::Object;

use super::{
    common::selects,
    framework::{Cache, Change, ClusterView, Controller, Plan, Write},
};
use crate::store::Key;

pub struct ClusterRoleAggregation;

impl Controller for ClusterRoleAggregation {
    fn name(&self) -> &'static str {
        "clusterrole-aggregation-controller"
    }

    /// Any change may be a reason for any role that gathers: there are few.
    fn concerns(&self, change: &Change<'_>, cache: &Cache, look: &mut dyn FnMut(Key)) {
        if !change.is::<ClusterRole>() {
            return;
        }
        for role in cache.list::<ClusterRole>(None).filter(|role| role.aggregation_rule.is_some()) {
            look(super::framework::key_of::<ClusterRole>("", role.name()));
        }
    }

    fn reconcile(&self, key: &Key, view: &ClusterView<'_>) -> Plan {
        let mut plan = Plan::nothing();
        let Some(role) = view.cache.get::<ClusterRole>("", key.name()) else { return plan };
        let rules = gathered(&role, view.cache);
        if role.aggregation_rule.is_some() && role.rules.as_deref().unwrap_or_default() != rules {
            plan.then([Write::update(ClusterRole { rules: Some(rules), ..(*role).clone() })]);
        }
        plan
    }
}

/// The rules of every other role that is selected, in the order of their names, each once.
fn gathered(role: &ClusterRole, cache: &Cache) -> Vec<PolicyRule> {
    let selectors = role.aggregation_rule.as_ref().and_then(|rule| rule.cluster_role_selectors.as_ref());
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in selectors.into_iter().flatten() {
        let mut found: Vec<_> = cache
            .list::<ClusterRole>(None)
            .filter(|other| other.name() != role.name() && selects(selector, &**other))
            .collect();
        found.sort_by(|a, b| a.name().cmp(b.name()));
        for rule in found.iter().flat_map(|other| other.rules.iter().flatten()) {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::controllers::{framework::key_of, testing::World};

    fn role(name: &str, labels: Value, resources: Value) -> ClusterRole {
        let rules = json!([{ "verbs": ["get"], "apiGroups": [""], "resources": resources }]);
        let metadata = json!({ "name": name, "labels": labels });
        serde_json::from_value(json!({ "metadata": metadata, "rules": rules })).expect("a role")
    }

    #[test]
    fn rules_are_gathered_in_order_and_once_and_follow_changes() {
        let mut world = World::default();
        let mut view = role("view", json!({}), json!(["nonsense"]));
        let selector = json!({ "clusterRoleSelectors": [{ "matchLabels": { "to-view": "true" } }] });
        view.aggregation_rule = serde_json::from_value(selector).expect("a rule");
        world.add(view);
        world.add(role("b", json!({ "to-view": "true" }), json!(["pods"])));
        world.add(role("a", json!({ "to-view": "true" }), json!(["nodes"])));
        world.add(role("c", json!({ "to-view": "true" }), json!(["pods"])));
        world.add(role("d", json!({}), json!(["secrets"])));
        let key = key_of::<ClusterRole>("", "view");
        let resources = |world: &World| -> Vec<String> {
            let role = world.get::<ClusterRole>("", "view");
            role.rules.iter().flatten().flat_map(|rule| rule.resources.clone().unwrap_or_default()).collect()
        };
        world.settle(&ClusterRoleAggregation, &key);
        assert_eq!(resources(&world), ["nodes", "pods"]);
        world.delete(&key_of::<ClusterRole>("", "a"), &Default::default());
        world.settle(&ClusterRoleAggregation, &key);
        assert_eq!(resources(&world), ["pods"]);
    }
}
