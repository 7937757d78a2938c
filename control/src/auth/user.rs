//! Authenticated callers.

use std::{collections::BTreeMap, sync::Arc};

pub const ANONYMOUS: &str = "system:anonymous";
pub const AUTHENTICATED: &str = "system:authenticated";
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// Members may do everything, whatever the cluster's roles say.
pub const MASTERS: &str = "system:masters";
pub const NODES: &str = "system:nodes";
const NODE_PREFIX: &str = "system:node:";
const ACCOUNT_PREFIX: &str = "system:serviceaccount:";
const ALL_ACCOUNTS: &str = "system:serviceaccounts";

/// What an authenticator knows beside name, uid and groups: texts by key, such as the pod of a token.
pub type Extra = BTreeMap<String, Vec<String>>;

/// An authenticated caller. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub name: Arc<str>,
    /// "" where the authenticator knows none.
    pub uid: Arc<str>,
    pub groups: Arc<[String]>,
    pub extra: Arc<Extra>,
}

impl User {
    /// A user who proved to be one; `system:authenticated` is added to `groups`.
    pub fn new(name: &str, mut groups: Vec<String>) -> Self {
        if !groups.iter().any(|group| group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.into());
        }
        Self { name: name.into(), uid: "".into(), groups: groups.into(), extra: Arc::default() }
    }

    /// Who shows no credentials at all.
    pub fn anonymous() -> Self {
        let groups = Arc::new([UNAUTHENTICATED.to_owned()]);
        Self { name: ANONYMOUS.into(), uid: "".into(), groups, extra: Arc::default() }
    }

    /// A part of the control plane under its usual name: a controller's service account, the scheduler, or the server
    /// itself, which like its loopback client in Kubernetes may do everything.
    pub fn internal(name: &str) -> Self {
        if name == "system:apiserver" {
            return Self::new(name, vec![MASTERS.into()]);
        }
        match name.strip_prefix(ACCOUNT_PREFIX).and_then(|account| account.split_once(':')) {
            Some((namespace, account)) => Self::service_account(namespace, account, "", Extra::new()),
            None => Self::new(name, Vec::new()),
        }
    }

    pub fn service_account(namespace: &str, name: &str, uid: &str, extra: Extra) -> Self {
        let groups = vec![ALL_ACCOUNTS.to_owned(), format!("{ALL_ACCOUNTS}:{namespace}")];
        Self { uid: uid.into(), extra: Arc::new(extra), ..Self::new(&account_user(namespace, name), groups) }
    }

    pub fn is_member(&self, group: &str) -> bool {
        self.groups.iter().any(|of| of == group)
    }

    /// The node whose agent this is.
    pub fn node(&self) -> Option<&str> {
        let name = self.name.strip_prefix(NODE_PREFIX).filter(|name| !name.is_empty())?;
        self.is_member(NODES).then_some(name)
    }
}

/// `system:serviceaccount:NAMESPACE:NAME`
pub fn account_user(namespace: &str, name: &str) -> String {
    format!("{ACCOUNT_PREFIX}{namespace}:{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_is_its_service_account() {
        let user = User::internal("system:serviceaccount:kube-system:job-controller");
        assert_eq!(&*user.name, "system:serviceaccount:kube-system:job-controller");
        assert_eq!(
            *user.groups,
            ["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"]
        );
    }

    #[test]
    fn a_node_is_who_has_both_the_name_and_the_group() {
        let node = |name, group: &str| User::new(name, vec![group.into()]).node().map(str::to_owned);
        assert_eq!(node("system:node:amber", NODES), Some("amber".into()));
        assert_eq!(node("system:node:amber", "others"), None);
        assert_eq!(node("amber", NODES), None);
        assert_eq!(node("system:node:", NODES), None);
    }
}
