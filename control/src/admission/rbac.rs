//! Nobody gives away rights that they do not hold, unless they may `escalate` roles or `bind` them.

use k8s_openapi::{
    api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use crate::{
    ApiError,
    auth::{Attributes, Authorizer, MASTERS, rbac::GROUP},
    registry::{AnyObject, Call},
    store::{Key, Store},
};

/// What a role or binding asks for.
enum Asked<'a> {
    Role { rules: &'a [PolicyRule], aggregates: bool },
    Binding(&'a RoleRef),
}

impl<'a> Asked<'a> {
    fn of(object: &'a dyn AnyObject) -> Option<Self> {
        let rules = |rules: &'a Option<Vec<PolicyRule>>| rules.as_deref().unwrap_or_default();
        if let Some(role) = object.get::<Role>() {
            Some(Self::Role { rules: rules(&role.rules), aggregates: false })
        } else if let Some(role) = object.get::<ClusterRole>() {
            Some(Self::Role { rules: rules(&role.rules), aggregates: role.aggregation_rule.is_some() })
        } else if let Some(binding) = object.get::<RoleBinding>() {
            Some(Self::Binding(&binding.role_ref))
        } else {
            object.get::<ClusterRoleBinding>().map(|binding| Self::Binding(&binding.role_ref))
        }
    }
}

pub(super) fn admit(
    store: &Store,
    authorizer: &Authorizer,
    call: &Call<'_>,
    new: &dyn AnyObject,
    old: Option<&dyn AnyObject>,
) -> Result<(), ApiError> {
    if call.served.info.group != GROUP || call.user.is_member(MASTERS) {
        return Ok(());
    }
    let Some(asked) = Asked::of(new) else { return Ok(()) };
    if old.is_some_and(|old| differs_for_the_collector_only(new, old)) {
        return Ok(());
    }
    let refuse = |message: String| ApiError::Refused {
        resource: call.served.qualified.clone(),
        name: new.name().into(),
        message,
        causes: Vec::new(),
    };
    let confirm = |rules: &[PolicyRule]| {
        authorizer.rbac.confirm_no_escalation(call.user, call.namespace, rules).map_err(refuse)
    };
    match asked {
        Asked::Role { rules, aggregates } => {
            let attributes = Attributes { name: new.name(), ..call.attributes("escalate", "") };
            if authorizer.is_allowed(call.user, &attributes) {
                return Ok(());
            }
            let did_aggregate = old
                .and_then(|old| old.get::<ClusterRole>())
                .is_some_and(|role| role.aggregation_rule.is_some());
            if aggregates || did_aggregate {
                // It may gather anything.
                let message = "must have cluster-admin privileges to use an aggregationRule";
                confirm(&everything()).map_err(|_| refuse(message.into()))?;
            }
            confirm(rules)
        }
        Asked::Binding(role) => {
            let plural = if role.kind == "Role" { "roles" } else { "clusterroles" };
            let attributes = Attributes { resource: plural, name: &role.name, ..call.attributes("bind", "") };
            if authorizer.is_allowed(call.user, &attributes) {
                return Ok(());
            }
            confirm(&rules_of(store, call.namespace, plural, role)?)
        }
    }
}

fn rules_of(
    store: &Store,
    namespace: &str,
    plural: &str,
    role: &RoleRef,
) -> Result<Vec<PolicyRule>, ApiError> {
    let resource = format!("{plural}.{GROUP}");
    let namespace = if plural == "roles" { namespace } else { "" };
    let entry = store.snapshot().get(&Key::new(&resource, namespace, &role.name));
    let entry = entry.ok_or_else(|| ApiError::NotFound { resource, name: role.name.clone() })?;
    let rules = if plural == "roles" {
        entry.typed::<Role>().map(|role| role.rules.clone())
    } else {
        entry.typed::<ClusterRole>().map(|role| role.rules.clone())
    };
    Ok(rules.map_err(|error| ApiError::Internal(error.to_string()))?.unwrap_or_default())
}

fn everything() -> [PolicyRule; 2] {
    let any = || Some(vec!["*".to_owned()]);
    let rule = || PolicyRule { verbs: vec!["*".into()], ..PolicyRule::default() };
    [
        PolicyRule { api_groups: any(), resources: any(), ..rule() },
        PolicyRule { non_resource_urls: any(), ..rule() },
    ]
}

/// Whether the update changes only what the garbage collector needs to change.
fn differs_for_the_collector_only(new: &dyn AnyObject, old: &dyn AnyObject) -> bool {
    let mut copy = new.boxed();
    let ObjectMeta { owner_references, finalizers, managed_fields, resource_version, .. } =
        old.meta().clone();
    let meta = copy.meta_mut();
    (meta.owner_references, meta.finalizers) = (owner_references, finalizers);
    (meta.managed_fields, meta.resource_version) = (managed_fields, resource_version);
    matches!((copy.to_value(), old.to_value()), (Ok(new), Ok(old)) if new == old)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::{ApiClient, auth::User, client::Patch, registry::Registry};

    const VIEWER: &str = "system:serviceaccount:kube-system:job-controller";
    const AGGREGATOR: &str = "system:serviceaccount:kube-system:clusterrole-aggregation-controller";

    fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).expect("a valid object")
    }

    fn role(rules: Value) -> ClusterRole {
        object(json!({ "metadata": { "name": "mine" }, "rules": rules }))
    }

    /// What the user is told that tries to do `change` past the authorizer of requests.
    async fn told(user: &str, change: impl AsyncFnOnce(&Registry, &User) -> Result<(), ApiError>) -> String {
        let client = ApiClient::in_memory();
        let powerful = role(json!([{ "verbs": ["get"], "apiGroups": [""], "resources": ["secrets"] }]));
        client.create(&powerful).await.expect("the server itself may");
        let outcome = change(client.registry(), &User::internal(user)).await;
        outcome.err().map(|error| error.to_string()).unwrap_or_default()
    }

    async fn create<T: naru_model::Object>(
        registry: &Registry,
        user: &User,
        object: T,
    ) -> Result<(), ApiError> {
        let served = registry.kinds().of::<T>().expect("it is served").clone();
        let call = Call::of(user, &served, object.namespace(), "");
        registry.create(&call, Box::new(object.clone())).await.map(drop)
    }

    fn other(rules: Value) -> ClusterRole {
        object(json!({ "metadata": { "name": "other" }, "rules": rules }))
    }

    fn binding() -> ClusterRoleBinding {
        let role = json!({ "apiGroup": GROUP, "kind": "ClusterRole", "name": "mine" });
        object(json!({ "metadata": { "name": "x" }, "roleRef": role }))
    }

    #[tokio::test]
    async fn rights_that_are_held_may_be_given() {
        let jobs = json!([{ "verbs": ["get", "list"], "apiGroups": ["batch"], "resources": ["jobs"] }]);
        assert_eq!(told(VIEWER, async |registry, user| create(registry, user, other(jobs)).await).await, "");
    }

    #[tokio::test]
    async fn rights_that_are_not_held_are_refused_in_roles_and_in_bindings() {
        let secrets = json!([{ "verbs": ["get", "list"], "apiGroups": [""], "resources": ["secrets"] }]);
        let groups = r#"groups=["system:serviceaccounts" "system:serviceaccounts:kube-system" "system:authenticated"]"#;
        let attempt = format!(
            "user {VIEWER:?} ({groups}) is attempting to grant RBAC permissions not currently held:\n"
        );
        assert_eq!(
            told(VIEWER, async |registry, user| create(registry, user, other(secrets)).await).await,
            format!(
                "clusterroles.rbac.authorization.k8s.io \"other\" is forbidden: {attempt}\
                 {{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"list\"]}}"
            )
        );
        assert_eq!(
            told(VIEWER, async |registry, user| create(registry, user, binding()).await).await,
            format!(
                "clusterrolebindings.rbac.authorization.k8s.io \"x\" is forbidden: {attempt}\
                 {{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\"]}}"
            )
        );
    }

    #[tokio::test]
    async fn who_may_escalate_may_write_any_role_but_not_bind_it() {
        let all = json!([{ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] }]);
        assert_eq!(
            told(AGGREGATOR, async |registry, user| create(registry, user, other(all)).await).await,
            ""
        );
        let refused = told(AGGREGATOR, async |registry, user| create(registry, user, binding()).await).await;
        assert!(refused.contains("not currently held"), "{refused}");
    }

    #[tokio::test]
    async fn an_aggregation_is_for_administrators() {
        let mut role = other(json!([]));
        role.aggregation_rule =
            Some(object(json!({ "clusterRoleSelectors": [{ "matchLabels": { "a": "b" } }] })));
        assert_eq!(
            told(VIEWER, async |registry, user| create(registry, user, role).await).await,
            "clusterroles.rbac.authorization.k8s.io \"other\" is forbidden: must have cluster-admin privileges to use \
             an aggregationRule"
        );
    }

    #[tokio::test]
    async fn the_collector_may_change_what_it_needs_to() {
        let patch = async |patch: Value| {
            told(VIEWER, async |registry, user| {
                let served = Arc::clone(registry.kinds().of::<ClusterRole>().expect("it is served"));
                let call = Call::of(user, &served, "", "mine");
                registry.patch(&call, crate::registry::Part::Whole, &Patch::Merge(patch), &[]).await.map(drop)
            })
            .await
        };
        assert_eq!(patch(json!({ "metadata": { "finalizers": ["a.b/c"] } })).await, "");
        assert!(
            patch(json!({ "metadata": { "labels": { "a": "b" } } })).await.contains("not currently held")
        );
    }
}
