//! Role-based access control: follows the cluster's roles and bindings, and answers from what it compiled of them.
//!
//! **Invariant:** a decision reads memory only. Changes arrive by watch, shortly after they were written, as in
//! Kubernetes. Not here: what the objects may contain (`registry`), who may write them (`admission`).

mod defaults;
mod policy;
mod rules;

pub use defaults::{AUTO_UPDATE, Defaults, defaults};
pub use rules::{Rule, missing};

use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding};
use naru_model::Object;
use tokio_util::sync::CancellationToken;

use super::{Attributes, User};
use crate::store::{Event, Lagged, Scope, Snapshot, Store, StoreError, Watch};
use policy::Policy;

pub const GROUP: &str = "rbac.authorization.k8s.io";
const ROLES: &str = "roles.rbac.authorization.k8s.io";
const ROLE_BINDINGS: &str = "rolebindings.rbac.authorization.k8s.io";
const CLUSTER_ROLES: &str = "clusterroles.rbac.authorization.k8s.io";
const CLUSTER_ROLE_BINDINGS: &str = "clusterrolebindings.rbac.authorization.k8s.io";
const RETRY: Duration = Duration::from_millis(100);

/// The policy in force.
#[derive(Debug, Default)]
pub struct Rbac {
    /// Read for every decision, written after changes; held for no longer than either takes.
    policy: RwLock<Arc<Policy>>,
}

/// The parts of the policy that a change touches.
#[derive(Default)]
struct Touched {
    /// Cluster roles, and so everything that may refer to one.
    roles: bool,
    cluster_bindings: bool,
    namespaces: BTreeSet<String>,
}

impl Rbac {
    /// The policy that every cluster begins with, over no store: for tests of the rooms above.
    pub fn of_defaults() -> Self {
        let defaults = defaults();
        let mut policy = Policy::default();
        policy.set_cluster_roles(defaults.cluster_roles.iter());
        policy.set_cluster_bindings(defaults.cluster_role_bindings.iter());
        for namespace in ["kube-system", "kube-public"] {
            let roles = defaults.roles.iter().filter(|role| role.namespace() == namespace);
            let bindings = defaults.role_bindings.iter().filter(|binding| binding.namespace() == namespace);
            policy.set_namespace(namespace, roles, bindings);
        }
        Self { policy: RwLock::new(Arc::new(policy)) }
    }

    fn read(&self) -> Arc<Policy> {
        self.policy.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn is_allowed(&self, user: &User, asked: &Attributes<'_>) -> bool {
        self.read().find(user, asked).is_some()
    }

    /// Why it is allowed, as Kubernetes' audit annotations say it, or `None`.
    pub fn why_allowed(&self, user: &User, asked: &Attributes<'_>) -> Option<String> {
        self.read().find(user, asked).map(|grant| format!("RBAC: allowed by {}", grant.describe()))
    }

    /// What stands in the way of a decision: bindings to roles that do not exist. "" for nothing.
    pub fn problems(&self, user: &User, namespace: &str) -> String {
        let policy = self.read();
        let problems: Vec<String> =
            policy.grants(user, namespace).filter_map(|grant| grant.problem()).collect();
        match problems.as_slice() {
            [] => String::new(),
            [one] => format!("RBAC: {one}"),
            many => format!("RBAC: [{}]", many.join(", ")),
        }
    }

    /// Every rule that counts for `user` in `namespace`.
    pub fn rules(&self, user: &User, namespace: &str) -> Vec<PolicyRule> {
        let policy = self.read();
        let grants = policy.grants(user, namespace);
        grants.flat_map(|grant| grant.rules()).map(|rule| rule.source.clone()).collect()
    }

    /// Refuses to let `user` give away rights that it does not hold in `namespace`.
    ///
    /// # Errors
    /// What is missing, in Kubernetes' words.
    pub fn confirm_no_escalation(
        &self,
        user: &User,
        namespace: &str,
        wanted: &[PolicyRule],
    ) -> Result<(), String> {
        let held = self.rules(user, namespace);
        let missing = rules::missing(held.iter(), wanted);
        if missing.is_empty() {
            return Ok(());
        }
        Err(format!(
            "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
            user.name,
            rules::quoted(&user.groups),
            rules::describe(&missing)
        ))
    }

    /// Takes the whole policy from `view`.
    pub fn refresh(&self, view: &Snapshot) {
        self.bring_up_to_date(view, Touched { roles: true, ..Touched::default() });
    }

    /// Keeps the policy up to date until `shutdown`.
    pub async fn follow(&self, store: &Store, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            tokio::select! {
                () = shutdown.cancelled() => return,
                outcome = self.watch(store) => {
                    if let Err(error) = outcome {
                        tracing::warn!(%error, "the access rules cannot be watched; trying again");
                    }
                    // A store that refuses every watch must not be asked in a tight loop.
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Lists, then follows until a watch lags.
    async fn watch(&self, store: &Store) -> Result<(), StoreError> {
        let view = store.snapshot();
        let watch = |resource| store.watch(Scope::all(resource), view.revision());
        let mut watches =
            [watch(CLUSTER_ROLES)?, watch(CLUSTER_ROLE_BINDINGS)?, watch(ROLES)?, watch(ROLE_BINDINGS)?];
        self.refresh(&view);
        loop {
            let [roles, bindings, local_roles, local_bindings] = &mut watches;
            let event = tokio::select! {
                event = roles.next() => event,
                event = bindings.next() => event,
                event = local_roles.next() => event,
                event = local_bindings.next() => event,
            };
            let mut touched = Touched::default();
            let Ok(()) = event.and_then(|event| touched.take_in(&event, &mut watches)) else { return Ok(()) };
            self.bring_up_to_date(&store.snapshot(), touched);
        }
    }

    fn bring_up_to_date(&self, view: &Snapshot, mut touched: Touched) {
        let mut policy = Policy::clone(&self.read());
        if touched.roles {
            policy = Policy::default();
            let roles = view.list::<ClusterRole>(&Scope::all(CLUSTER_ROLES));
            policy.set_cluster_roles(roles.iter().map(AsRef::as_ref));
            let bindings = view.range(&Scope::all(ROLE_BINDINGS), None);
            touched.namespaces = bindings.map(|entry| entry.meta.namespace.clone()).collect();
        }
        if touched.roles || touched.cluster_bindings {
            let bindings = view.list::<ClusterRoleBinding>(&Scope::all(CLUSTER_ROLE_BINDINGS));
            policy.set_cluster_bindings(bindings.iter().map(AsRef::as_ref));
        }
        for namespace in &touched.namespaces {
            let roles = view.list::<Role>(&Scope::namespace(ROLES, namespace));
            let bindings = view.list::<RoleBinding>(&Scope::namespace(ROLE_BINDINGS, namespace));
            let (roles, bindings) = (roles.iter().map(AsRef::as_ref), bindings.iter().map(AsRef::as_ref));
            policy.set_namespace(namespace, roles, bindings);
        }
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
    }
}

impl Touched {
    /// `first`, and all else that has happened already: changes come in crowds.
    fn take_in(&mut self, first: &Event, watches: &mut [Watch]) -> Result<(), Lagged> {
        self.add(first);
        for watch in watches {
            while let Some(event) = watch.try_next()? {
                self.add(&event);
            }
        }
        Ok(())
    }

    fn add(&mut self, event: &Event) {
        let key = &event.entry.key;
        match key.resource() {
            CLUSTER_ROLES => self.roles = true,
            CLUSTER_ROLE_BINDINGS => self.cluster_bindings = true,
            _ => drop(self.namespaces.insert(key.namespace().into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ApiClient;
    use serde_json::json;

    #[tokio::test]
    async fn a_binding_counts_as_soon_as_it_was_seen_and_no_longer_than_it_exists() {
        let client = ApiClient::in_memory();
        let rbac = Arc::new(Rbac::default());
        let (shutdown, store) = (CancellationToken::new(), client.store().clone());
        let (follower, ends) = (rbac.clone(), shutdown.clone());
        let task = tokio::spawn(async move { follower.follow(&store, ends).await });
        let jane = User::new("jane", vec![]);
        let asked = Attributes { verb: "get", resource: "pods", namespace: "shop", ..Attributes::default() };
        let becomes = async |expected: bool| {
            let seen = async {
                while rbac.is_allowed(&jane, &asked) != expected {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(10), seen).await.expect("the change is seen");
        };
        let role = serde_json::from_value::<ClusterRole>(json!({
            "metadata": { "name": "look" },
            "rules": [{ "verbs": ["get"], "apiGroups": [""], "resources": ["pods"] }],
        }));
        client.create(&role.expect("a role")).await.expect("created");
        let binding = serde_json::from_value::<ClusterRoleBinding>(json!({
            "metadata": { "name": "jane" },
            "roleRef": { "apiGroup": GROUP, "kind": "ClusterRole", "name": "look" },
            "subjects": [{ "kind": "User", "name": "jane" }],
        }));
        client.create(&binding.expect("a binding")).await.expect("created");
        becomes(true).await;
        client.delete::<ClusterRole>("", "look", Default::default()).await.expect("deleted");
        becomes(false).await;
        assert_eq!(
            rbac.problems(&jane, "shop"),
            r#"RBAC: clusterrole.rbac.authorization.k8s.io "look" not found"#
        );
        shutdown.cancel();
        task.await.expect("no panic");
    }
}
