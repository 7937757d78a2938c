//! The roles and bindings that every cluster has, read from a table of facts.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::rbac::v1::{
        AggregationRule, ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};

use super::GROUP;

const TABLE: &str = include_str!("defaults.txt");
const CONTROLLER: &str = "system:controller:";
/// Where this annotation says `false`, an object stays as its owner left it.
pub const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// Every default object, in the table's order.
#[derive(Debug, Default)]
pub struct Defaults {
    pub cluster_roles: Vec<ClusterRole>,
    pub cluster_role_bindings: Vec<ClusterRoleBinding>,
    pub roles: Vec<Role>,
    pub role_bindings: Vec<RoleBinding>,
}

/// The role that the following rules belong to.
#[derive(Clone, Copy)]
enum Open {
    Cluster,
    Namespaced,
}

pub fn defaults() -> Defaults {
    let mut all = Defaults::default();
    let mut open = Open::Cluster;
    for line in TABLE.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if line.starts_with(' ') {
            all.add_rule(open, &words);
            continue;
        }
        match words.as_slice() {
            ["role", name, labels @ ..] => {
                open = Open::Cluster;
                let metadata = labelled("", name, labels.iter().map(|label| label.trim_start_matches('+')));
                all.cluster_roles.push(ClusterRole { metadata, ..ClusterRole::default() });
            }
            ["controller", name] => {
                open = Open::Cluster;
                let role = format!("{CONTROLLER}{name}");
                let metadata = labelled("", &role, [].into_iter());
                let account = format!("account:kube-system/{name}");
                all.cluster_role_bindings.push(cluster_binding(&role, &[&account]));
                all.cluster_roles.push(ClusterRole { metadata, ..ClusterRole::default() });
            }
            ["in", namespace, "role", name] => {
                open = Open::Namespaced;
                let metadata = labelled(namespace, name, [].into_iter());
                all.roles.push(Role { metadata, ..Role::default() });
            }
            ["bind", role, subjects @ ..] => all.cluster_role_bindings.push(cluster_binding(role, subjects)),
            ["in", namespace, "bind", name, role, subjects @ ..] => all.role_bindings.push(RoleBinding {
                metadata: labelled(namespace, name, [].into_iter()),
                role_ref: role_ref("Role", role),
                subjects: Some(subjects.iter().map(|text| subject(text)).collect()),
            }),
            _ => unreachable!("the table of defaults has lines of the forms above: {line}"),
        }
    }
    all
}

impl Defaults {
    fn add_rule(&mut self, open: Open, words: &[&str]) {
        let role = self.cluster_roles.last_mut().expect("the table begins with a role");
        if let ["aggregate", name] = words {
            let label = BTreeMap::from([(aggregation_label(name), "true".to_owned())]);
            let selector = LabelSelector { match_labels: Some(label), ..LabelSelector::default() };
            let rule = AggregationRule { cluster_role_selectors: Some(vec![selector]) };
            role.aggregation_rule = Some(rule);
            return;
        }
        let rules = match open {
            Open::Cluster => &mut role.rules,
            Open::Namespaced => &mut self.roles.last_mut().expect("a role is open").rules,
        };
        rules.get_or_insert_default().push(rule(words));
    }
}

fn rule(words: &[&str]) -> PolicyRule {
    let mut verbs = Vec::new();
    for verb in words[0].split(',') {
        match verb {
            "read" => verbs.extend(["get", "list", "watch"]),
            "write" => verbs.extend(["create", "delete", "deletecollection", "patch", "update"]),
            "change" => verbs.extend(["patch", "update"]),
            other => verbs.push(other),
        }
    }
    verbs.sort_unstable();
    verbs.dedup();
    let verbs = verbs.into_iter().map(str::to_owned).collect();
    let list = |text: &str| Some(text.split(',').map(str::to_owned).collect());
    if words[1] == "url" {
        return PolicyRule { verbs, non_resource_urls: list(words[2]), ..PolicyRule::default() };
    }
    let group = |text: &str| if text == "core" { String::new() } else { text.to_owned() };
    PolicyRule {
        verbs,
        api_groups: Some(words[1].split(',').map(group).collect()),
        resources: list(words[2]),
        resource_names: words.get(3).and_then(|names| list(names)),
        non_resource_urls: None,
    }
}

fn aggregation_label(role: &str) -> String {
    format!("{GROUP}/aggregate-to-{role}")
}

fn labelled<'a>(namespace: &str, name: &str, aggregated_to: impl Iterator<Item = &'a str>) -> ObjectMeta {
    let mut labels = BTreeMap::from([("kubernetes.io/bootstrapping".to_owned(), "rbac-defaults".to_owned())]);
    labels.extend(aggregated_to.map(|role| (aggregation_label(role), "true".to_owned())));
    ObjectMeta {
        name: Some(name.into()),
        namespace: (!namespace.is_empty()).then(|| namespace.into()),
        labels: Some(labels),
        annotations: Some([(AUTO_UPDATE.to_owned(), "true".to_owned())].into()),
        ..ObjectMeta::default()
    }
}

fn role_ref(kind: &str, name: &str) -> RoleRef {
    RoleRef { api_group: Some(GROUP.into()), kind: kind.into(), name: name.into() }
}

fn cluster_binding(role: &str, subjects: &[&str]) -> ClusterRoleBinding {
    let subjects: Vec<Subject> = subjects.iter().map(|text| subject(text)).collect();
    ClusterRoleBinding {
        metadata: labelled("", role, [].into_iter()),
        role_ref: role_ref("ClusterRole", role),
        subjects: (!subjects.is_empty()).then_some(subjects),
    }
}

/// `group:NAME`, `user:NAME` or `account:NAMESPACE/NAME`.
fn subject(text: &str) -> Subject {
    let (kind, name) = text.split_once(':').expect("a subject has a kind");
    let of = |kind: &str| Subject {
        api_group: Some(GROUP.into()),
        kind: kind.into(),
        name: name.into(),
        namespace: None,
    };
    match kind {
        "group" => of("Group"),
        "user" => of("User"),
        _ => {
            let (namespace, name) = name.split_once('/').expect("an account has a namespace");
            Subject {
                api_group: None,
                kind: "ServiceAccount".into(),
                name: name.into(),
                namespace: Some(namespace.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use naru_model::Object;

    use super::*;

    #[test]
    fn the_table_reads_as_meant() {
        let all = defaults();
        let edit = all.cluster_roles.iter().find(|role| role.name() == "edit").expect("edit");
        assert_eq!(
            edit.metadata.labels.as_ref().unwrap()["rbac.authorization.k8s.io/aggregate-to-admin"],
            "true"
        );
        assert!(edit.rules.is_none() && edit.aggregation_rule.is_some());
        let admin = all.cluster_roles.iter().find(|role| role.name() == "cluster-admin").expect("admin");
        assert_eq!(admin.rules.as_ref().unwrap().len(), 2);
        let reader = &all.roles[0].rules.as_ref().unwrap()[0];
        assert_eq!(reader.verbs, ["get", "list", "watch"]);
        assert_eq!(reader.resource_names.as_deref().unwrap(), ["extension-apiserver-authentication"]);
        let dns = all.cluster_role_bindings.iter().find(|of| of.name() == "system:kube-dns").unwrap();
        let subject = &dns.subjects.as_ref().unwrap()[0];
        assert_eq!((subject.namespace.as_deref(), &*subject.name), (Some("kube-system"), "kube-dns"));
    }

    #[test]
    fn nothing_is_there_twice_and_every_binding_has_its_role() {
        let all = defaults();
        let names: BTreeSet<&str> = all.cluster_roles.iter().map(Object::name).collect();
        assert_eq!(names.len(), all.cluster_roles.len());
        let bound: BTreeSet<&str> = all.cluster_role_bindings.iter().map(Object::name).collect();
        assert_eq!(bound.len(), all.cluster_role_bindings.len());
        assert!(all.cluster_role_bindings.iter().all(|of| names.contains(of.role_ref.name.as_str())));
        for binding in &all.role_bindings {
            let is_of = |role: &&Role| {
                role.name() == binding.role_ref.name && role.namespace() == binding.namespace()
            };
            assert!(all.roles.iter().any(|role| is_of(&role)), "{}", binding.name());
        }
    }
}
