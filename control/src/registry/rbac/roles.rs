//! Roles and ClusterRoles: lists of rules.

use k8s_openapi::{
    api::rbac::v1::{ClusterRole, PolicyRule, Role},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
    jiff::Timestamp,
};
use naru_model::{
    ResourceInfo,
    validation::{FieldErrors, Path, selector},
};
use serde_json::{Value, json};

use super::super::{Column, Kind, podspec::OrEmpty, text};

pub struct Roles;
pub struct ClusterRoles;

static ROLES: ResourceInfo = super::resource("Role", "roles", "role", true);
static CLUSTER_ROLES: ResourceInfo = super::resource("ClusterRole", "clusterroles", "clusterrole", false);

const COLUMNS: &[Column] = &[text::NAME, text::column("Created At", "date", 0, text::AGE.description)];

fn row(metadata: &ObjectMeta) -> Vec<Value> {
    let created = metadata.creation_timestamp.as_ref();
    vec![metadata.name.or_empty().into(), created.map_or(Value::Null, |time| json!(time))]
}

impl Kind for Roles {
    type Object = Role;

    fn resource(&self) -> &'static ResourceInfo {
        &ROLES
    }
    fn has_generation(&self) -> bool {
        false
    }
    fn allows_create_on_update(&self) -> bool {
        true
    }
    fn validate_name(&self, name: &str, errors: &mut FieldErrors) {
        super::validate_name(name, errors);
    }
    fn validate(&self, role: &Role, errors: &mut FieldErrors) {
        validate_rules(role.rules.or_empty(), true, errors);
    }
    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }
    fn row(&self, role: &Role, _now: Timestamp) -> Vec<Value> {
        row(&role.metadata)
    }
}

impl Kind for ClusterRoles {
    type Object = ClusterRole;

    fn resource(&self) -> &'static ResourceInfo {
        &CLUSTER_ROLES
    }
    fn has_generation(&self) -> bool {
        false
    }
    fn allows_create_on_update(&self) -> bool {
        true
    }
    fn validate_name(&self, name: &str, errors: &mut FieldErrors) {
        super::validate_name(name, errors);
    }
    fn validate(&self, role: &ClusterRole, errors: &mut FieldErrors) {
        validate_rules(role.rules.or_empty(), false, errors);
        let Some(rule) = &role.aggregation_rule else { return };
        let path = Path::new("aggregationRule").child("clusterRoleSelectors");
        if rule.cluster_role_selectors.or_empty().is_empty() {
            errors.required(&path, "at least one clusterRoleSelector required if aggregationRule is non-nil");
        }
        for (index, of) in rule.cluster_role_selectors.or_empty().iter().enumerate() {
            selector::label_selector(&path.index(index), of, errors);
        }
    }
    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }
    fn row(&self, role: &ClusterRole, _now: Timestamp) -> Vec<Value> {
        row(&role.metadata)
    }
}

fn validate_rules(rules: &[PolicyRule], is_namespaced: bool, errors: &mut FieldErrors) {
    for (index, rule) in rules.iter().enumerate() {
        validate_rule(rule, is_namespaced, &Path::new("rules").index(index), errors);
    }
}

fn validate_rule(rule: &PolicyRule, is_namespaced: bool, path: &Path, errors: &mut FieldErrors) {
    if rule.verbs.is_empty() {
        errors.required(&path.child("verbs"), "verbs must contain at least one value");
    }
    let (groups, resources, names) =
        (rule.api_groups.or_empty(), rule.resources.or_empty(), rule.resource_names.or_empty());
    let urls = rule.non_resource_urls.or_empty();
    if !urls.is_empty() {
        let path = path.child("nonResourceURLs");
        if is_namespaced {
            errors.invalid(&path, json!(urls), "namespaced rules cannot apply to non-resource URLs");
        }
        if !groups.is_empty() || !resources.is_empty() || !names.is_empty() {
            let detail = "rules cannot apply to both regular resources and non-resource URLs";
            errors.invalid(&path, json!(urls), detail);
        }
        return;
    }
    if groups.is_empty() {
        errors.required(&path.child("apiGroups"), "resource rules must supply at least one api group");
    }
    if resources.is_empty() {
        errors.required(&path.child("resources"), "resource rules must supply at least one resource");
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::check;
    use super::*;

    #[test]
    fn rules_are_of_resources_or_of_urls() {
        let cases: &[(&str, &[&str])] = &[
            ("{verbs: [get], apiGroups: [''], resources: [pods], resourceNames: [a]}", &[]),
            ("{verbs: [get], nonResourceURLs: [/metrics]}", &[]),
            (
                "{}",
                &[
                    "rules[0].verbs: Required value: verbs must contain at least one value",
                    "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
                    "rules[0].resources: Required value: resource rules must supply at least one resource",
                ],
            ),
            (
                "{verbs: [get], nonResourceURLs: [/a], resources: [pods]}",
                &[
                    r#"rules[0].nonResourceURLs: Invalid value: ["/a"]: rules cannot apply to both regular resources and non-resource URLs"#,
                ],
            ),
        ];
        for (rule, expected) in cases {
            check(&ClusterRoles, &format!("metadata: {{name: a}}\nrules: [{}]", with_verbs(rule)), expected);
        }
        check(
            &Roles,
            "metadata: {name: a}\nrules: [{verbs: [get], nonResourceURLs: [/a]}]",
            &[
                r#"rules[0].nonResourceURLs: Invalid value: ["/a"]: namespaced rules cannot apply to non-resource URLs"#,
            ],
        );
    }

    /// `verbs` is required by the type, empty by these rules.
    fn with_verbs(rule: &str) -> String {
        if rule == "{}" { "{verbs: []}".into() } else { rule.into() }
    }

    #[test]
    fn an_aggregation_selects_something() {
        check(
            &ClusterRoles,
            "metadata: {name: a}\naggregationRule: {}",
            &[
                "aggregationRule.clusterRoleSelectors: Required value: at least one clusterRoleSelector required if aggregationRule is non-nil",
            ],
        );
        check(
            &ClusterRoles,
            "metadata: {name: a}\naggregationRule: {clusterRoleSelectors: [{matchLabels: {a: b}}]}",
            &[],
        );
    }
}
