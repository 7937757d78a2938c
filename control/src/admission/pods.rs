//! What every pod gets: a service account, a priority (see `priority`), and tolerations for nodes in trouble.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodSpec, Toleration};
use tokio::time::{Instant, timeout_at};

use crate::{
    ApiError,
    registry::Call,
    store::{Key, Scope, Store},
};

/// How long a pod may stay on a node that is not ready or cannot be reached.
const TOLERATED_SECONDS: i64 = 300;
/// How long a new namespace's `default` account is waited for: its controller is usually just behind.
const ACCOUNT_PATIENCE: Duration = Duration::from_secs(1);
const ACCOUNTS: &str = "serviceaccounts";

pub(super) async fn admit_create(store: &Store, call: &Call<'_>, pod: &mut Pod) -> Result<(), ApiError> {
    let is_mirror = pod
        .metadata
        .annotations
        .as_ref()
        .is_some_and(|annotations| annotations.contains_key("kubernetes.io/config.mirror"));
    if !is_mirror {
        let spec = pod.spec.get_or_insert_default();
        let account = name_account(spec);
        if !has_account(store, call.namespace, &account).await {
            return Err(ApiError::Refused {
                resource: call.served.qualified.clone(),
                name: pod.metadata.name.clone().unwrap_or_default(),
                message: format!(
                    "error looking up service account {}/{account}: serviceaccount \"{account}\" not found",
                    call.namespace
                ),
                causes: Vec::new(),
            });
        }
    }
    add_default_tolerations(pod);
    let name = pod.metadata.name.clone().unwrap_or_default();
    super::priority::of_pod(store, call, &name, pod.spec.get_or_insert_default())
}

/// The account's name, `default` where none is asked for; both of its fields say it.
fn name_account(spec: &mut PodSpec) -> String {
    let asked = [&spec.service_account_name, &spec.service_account];
    let asked = asked.into_iter().flatten().find(|name| !name.is_empty()).cloned();
    let account = asked.unwrap_or_else(|| "default".into());
    spec.service_account_name = Some(account.clone());
    spec.service_account = Some(account.clone());
    account
}

async fn has_account(store: &Store, namespace: &str, account: &str) -> bool {
    let key = Key::new(ACCOUNTS, namespace, account);
    let view = store.snapshot();
    if view.get(&key).is_some() {
        return true;
    }
    if account != "default" {
        return false;
    }
    let scope =
        Scope { resource: ACCOUNTS.into(), namespace: Some(namespace.into()), name: Some(account.into()) };
    let Ok(mut watch) = store.watch(scope, view.revision()) else { return false };
    let arrives = timeout_at(Instant::now() + ACCOUNT_PATIENCE, watch.next()).await;
    matches!(arrives, Ok(Ok(_))) && store.snapshot().get(&key).is_some()
}

/// Pods stay for a while on a node in trouble, unless they say otherwise.
pub(super) fn add_default_tolerations(pod: &mut Pod) {
    let Some(spec) = pod.spec.as_mut() else { return };
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerations = spec.tolerations.get_or_insert_default();
        let is_tolerated = tolerations.iter().any(|toleration| {
            toleration.key.as_deref().is_none_or(|of| of.is_empty() || of == key)
                && toleration.effect.as_deref().is_none_or(|of| of.is_empty() || of == "NoExecute")
        });
        if !is_tolerated {
            tolerations.push(Toleration {
                key: Some(key.into()),
                operator: Some("Exists".into()),
                effect: Some("NoExecute".into()),
                toleration_seconds: Some(TOLERATED_SECONDS),
                value: None,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(pod: &Pod) -> Vec<(String, Option<i64>)> {
        let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.clone()).unwrap_or_default();
        tolerations.into_iter().map(|of| (of.key.unwrap_or_default(), of.toleration_seconds)).collect()
    }

    #[test]
    fn only_troubles_that_a_pod_does_not_mention_are_tolerated_for_it() {
        let own = Toleration {
            key: Some("node.kubernetes.io/unreachable".into()),
            operator: Some("Exists".into()),
            toleration_seconds: Some(7),
            ..Toleration::default()
        };
        let spec = PodSpec { tolerations: Some(vec![own]), ..PodSpec::default() };
        let mut pod = Pod { spec: Some(spec), ..Pod::default() };
        add_default_tolerations(&mut pod);
        add_default_tolerations(&mut pod);
        let expected = [
            ("node.kubernetes.io/unreachable".to_owned(), Some(7)),
            ("node.kubernetes.io/not-ready".to_owned(), Some(300)),
        ];
        assert_eq!(keys(&pod), expected);
    }

    #[test]
    fn both_names_of_the_account_agree() {
        let mut spec = PodSpec { service_account: Some("builder".into()), ..PodSpec::default() };
        assert_eq!(name_account(&mut spec), "builder");
        assert_eq!(spec.service_account_name.as_deref(), Some("builder"));
        assert_eq!(name_account(&mut PodSpec::default()), "default");
    }
}
