//! All roles and bindings of a cluster, compiled: who is granted what, by subject.
//!
//! A question looks up the user and each of its groups, cluster-wide and in one namespace, and asks the rules of what
//! it finds. Nothing is decoded or allocated for it.

use std::{collections::HashMap, sync::Arc};

use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};
use naru_model::Object;

use super::rules::Rule;
use crate::auth::{Attributes, User, user::account_user};

/// A binding as far as one of its subjects is concerned.
#[derive(Debug)]
pub struct Grant {
    /// `None` where the role does not exist.
    rules: Option<Arc<[Rule]>>,
    binding: Arc<Binding>,
    subject: Subject,
}

#[derive(Debug)]
struct Binding {
    /// "" where it counts everywhere.
    namespace: String,
    name: String,
    role: RoleRef,
}

impl Grant {
    pub fn rules(&self) -> &[Rule] {
        self.rules.as_deref().unwrap_or_default()
    }

    /// `ClusterRoleBinding "x" of ClusterRole "y" to User "z"`
    pub fn describe(&self) -> String {
        let Binding { namespace, name, role } = &*self.binding;
        let (kind, name) = match namespace.as_str() {
            "" => ("ClusterRoleBinding", name.clone()),
            namespace => ("RoleBinding", format!("{name}/{namespace}")),
        };
        let subject = match self.subject.kind.as_str() {
            "ServiceAccount" => {
                let of = self.subject.namespace.as_deref().filter(|of| !of.is_empty()).unwrap_or(namespace);
                format!("{}/{of}", self.subject.name)
            }
            _ => self.subject.name.clone(),
        };
        format!("{kind} {name:?} of {} {:?} to {} {subject:?}", role.kind, role.name, self.subject.kind)
    }

    /// What to tell where the role is missing.
    pub fn problem(&self) -> Option<String> {
        let role = &self.binding.role;
        let resource = if role.kind == "Role" { "role" } else { "clusterrole" };
        self.rules
            .is_none()
            .then(|| format!("{resource}.rbac.authorization.k8s.io {:?} not found", role.name))
    }
}

/// The grants of one namespace, or of the whole cluster.
#[derive(Debug, Default)]
pub struct Grants {
    users: HashMap<Box<str>, Vec<Arc<Grant>>>,
    groups: HashMap<Box<str>, Vec<Arc<Grant>>>,
}

impl Grants {
    fn add(&mut self, binding: Binding, subjects: Option<&[Subject]>, rules: Option<&Arc<[Rule]>>) {
        let binding = Arc::new(binding);
        for subject in subjects.unwrap_or_default() {
            let grant =
                Arc::new(Grant { rules: rules.cloned(), binding: binding.clone(), subject: subject.clone() });
            match subject.kind.as_str() {
                "User" => self.users.entry(subject.name.as_str().into()).or_default().push(grant),
                "Group" => self.groups.entry(subject.name.as_str().into()).or_default().push(grant),
                "ServiceAccount" => {
                    let of = subject.namespace.as_deref().filter(|of| !of.is_empty());
                    let of = of.unwrap_or(&binding.namespace);
                    if !of.is_empty() {
                        let user = account_user(of, &subject.name);
                        self.users.entry(user.into()).or_default().push(grant);
                    }
                }
                _ => (),
            }
        }
    }

    fn of<'a>(&'a self, user: &'a User) -> impl Iterator<Item = &'a Arc<Grant>> {
        let groups = user.groups.iter().filter_map(|group| self.groups.get(group.as_str()));
        self.users.get(&*user.name).into_iter().chain(groups).flatten()
    }
}

/// The compiled policy.
#[derive(Debug, Default, Clone)]
pub struct Policy {
    cluster_roles: HashMap<String, Arc<[Rule]>>,
    everywhere: Arc<Grants>,
    namespaces: HashMap<String, Arc<Grants>>,
}

fn compile(rules: Option<&Vec<PolicyRule>>) -> Arc<[Rule]> {
    rules.into_iter().flatten().cloned().map(Rule::new).collect()
}

impl Policy {
    /// Takes the cluster roles anew; what refers to them must be bound anew, too.
    pub fn set_cluster_roles<'a>(&mut self, roles: impl Iterator<Item = &'a ClusterRole>) {
        let compiled = roles.map(|role| (role.name().to_owned(), compile(role.rules.as_ref())));
        self.cluster_roles = compiled.collect();
    }

    pub fn set_cluster_bindings<'a>(&mut self, bindings: impl Iterator<Item = &'a ClusterRoleBinding>) {
        let mut grants = Grants::default();
        for ClusterRoleBinding { metadata, role_ref, subjects } in bindings {
            let name = metadata.name.clone().unwrap_or_default();
            let binding = Binding { namespace: String::new(), name, role: role_ref.clone() };
            grants.add(binding, subjects.as_deref(), self.cluster_roles.get(&role_ref.name));
        }
        self.everywhere = Arc::new(grants);
    }

    /// Takes one namespace anew.
    pub fn set_namespace<'a>(
        &mut self,
        namespace: &str,
        roles: impl Iterator<Item = &'a Role>,
        bindings: impl Iterator<Item = &'a RoleBinding>,
    ) {
        let roles: HashMap<&str, Arc<[Rule]>> =
            roles.map(|role| (role.name(), compile(role.rules.as_ref()))).collect();
        let mut grants = Grants::default();
        for RoleBinding { metadata, role_ref, subjects } in bindings {
            let name = metadata.name.clone().unwrap_or_default();
            let rules = match role_ref.kind.as_str() {
                "Role" => roles.get(role_ref.name.as_str()),
                _ => self.cluster_roles.get(&role_ref.name),
            };
            let binding = Binding { namespace: namespace.into(), name, role: role_ref.clone() };
            grants.add(binding, subjects.as_deref(), rules);
        }
        if grants.users.is_empty() && grants.groups.is_empty() {
            self.namespaces.remove(namespace);
        } else {
            self.namespaces.insert(namespace.into(), Arc::new(grants));
        }
    }

    /// Everything that `user` is granted in `namespace`; only what counts everywhere where that is "".
    pub fn grants<'a>(&'a self, user: &'a User, namespace: &str) -> impl Iterator<Item = &'a Arc<Grant>> {
        let here = self.namespaces.get(namespace).filter(|_| !namespace.is_empty());
        self.everywhere.of(user).chain(here.into_iter().flat_map(|grants| grants.of(user)))
    }

    /// The first grant that allows what is asked.
    pub fn find<'a>(&'a self, user: &'a User, asked: &Attributes<'_>) -> Option<&'a Arc<Grant>> {
        self.grants(user, asked.namespace).find(|grant| grant.rules().iter().any(|rule| rule.allows(asked)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).expect("a valid object")
    }

    fn binding(name: &str, kind: &str, role: &str, subjects: Value) -> Value {
        let group = "rbac.authorization.k8s.io";
        json!({
            "metadata": { "name": name },
            "roleRef": { "apiGroup": group, "kind": kind, "name": role },
            "subjects": subjects,
        })
    }

    fn policy() -> Policy {
        let rules = json!([{ "verbs": ["get"], "apiGroups": [""], "resources": ["pods"] }]);
        let cluster_role: ClusterRole = object(json!({ "metadata": { "name": "look" }, "rules": rules }));
        let role: Role = object(json!({ "metadata": { "name": "peek" }, "rules": rules }));
        let everywhere: ClusterRoleBinding =
            object(binding("all", "ClusterRole", "look", json!([{ "kind": "User", "name": "root" }])));
        let subjects = json!([
            { "kind": "Group", "name": "devs" },
            { "kind": "ServiceAccount", "name": "ci" },
            { "kind": "ServiceAccount", "name": "bot", "namespace": "tools" },
        ]);
        let here: RoleBinding = object(binding("some", "Role", "peek", subjects));
        let dangling: RoleBinding =
            object(binding("none", "Role", "gone", json!([{ "kind": "User", "name": "jane" }])));
        let of_cluster: RoleBinding =
            object(binding("look", "ClusterRole", "look", json!([{ "kind": "User", "name": "joe" }])));
        let mut policy = Policy::default();
        policy.set_cluster_roles([&cluster_role].into_iter());
        policy.set_cluster_bindings([&everywhere].into_iter());
        policy.set_namespace("shop", [&role].into_iter(), [&here, &dangling, &of_cluster].into_iter());
        policy
    }

    #[test]
    fn a_grant_counts_where_its_binding_is() {
        let cases = [
            ("root", "", "shop", Some(r#"ClusterRoleBinding "all" of ClusterRole "look" to User "root""#)),
            ("root", "", "", Some(r#"ClusterRoleBinding "all" of ClusterRole "look" to User "root""#)),
            ("jane", "devs", "shop", Some(r#"RoleBinding "some/shop" of Role "peek" to Group "devs""#)),
            ("jane", "devs", "else", None),
            ("jane", "", "shop", None),
            ("joe", "", "shop", Some(r#"RoleBinding "look/shop" of ClusterRole "look" to User "joe""#)),
            ("joe", "", "", None),
            (
                "system:serviceaccount:shop:ci",
                "",
                "shop",
                Some(r#"RoleBinding "some/shop" of Role "peek" to ServiceAccount "ci/shop""#),
            ),
            ("system:serviceaccount:else:ci", "", "shop", None),
            (
                "system:serviceaccount:tools:bot",
                "",
                "shop",
                Some(r#"RoleBinding "some/shop" of Role "peek" to ServiceAccount "bot/tools""#),
            ),
        ];
        let policy = policy();
        for (name, group, namespace, expected) in cases {
            let user = User::new(name, vec![group.into()]);
            let asked = Attributes { verb: "get", resource: "pods", namespace, ..Attributes::default() };
            let found = policy.find(&user, &asked).map(|grant| grant.describe());
            assert_eq!(found.as_deref(), expected, "{name} {group} {namespace}");
        }
    }

    #[test]
    fn a_missing_role_is_told() {
        let policy = policy();
        let jane = User::new("jane", vec![]);
        let problems: Vec<_> = policy.grants(&jane, "shop").filter_map(|grant| grant.problem()).collect();
        assert_eq!(problems, [r#"role.rbac.authorization.k8s.io "gone" not found"#]);
    }
}
