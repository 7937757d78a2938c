//! Fills Secrets of type `kubernetes.io/service-account-token`, and removes those whose account is gone.

use std::sync::Arc;

use k8s_openapi::{
    ByteString,
    api::core::v1::{Secret, ServiceAccount},
};
use naru_model::Object;

use super::{
    common::is_deleting,
    framework::{Cache, Change, ClusterView, Controller, Plan, Write, key_of},
};
use crate::{auth::TokenIssuer, store::Key};

const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";

/// A key is a Secret.
pub struct TokenSecrets {
    pub issuer: Arc<TokenIssuer>,
    /// PEM.
    pub root_ca: String,
}

impl Controller for TokenSecrets {
    fn name(&self) -> &'static str {
        "tokens-controller"
    }

    fn concerns(&self, change: &Change<'_>, cache: &Cache, look: &mut dyn FnMut(Key)) {
        let key = &change.entry.key;
        if change.is::<Secret>() {
            if !change.is_deleted && change.entry.typed::<Secret>().is_ok_and(|secret| is_token(&secret)) {
                look(key.clone());
            }
        } else if change.is::<ServiceAccount>() {
            for secret in cache.list::<Secret>(Some(key.namespace())).filter(|secret| is_token(secret)) {
                look(key_of::<Secret>(key.namespace(), secret.name()));
            }
        }
    }

    fn reconcile(&self, key: &Key, view: &ClusterView<'_>) -> Plan {
        let mut plan = Plan::nothing();
        let Some(secret) = view.cache.get::<Secret>(key.namespace(), key.name()) else { return plan };
        if !is_token(&secret) || is_deleting(&*secret) {
            return plan;
        }
        let account = view.cache.get::<ServiceAccount>(key.namespace(), annotation(&secret, ACCOUNT_NAME));
        let uid = annotation(&secret, ACCOUNT_UID);
        match account.filter(|account| uid.is_empty() || uid == account.uid()) {
            None => plan.then([Write::delete(&*secret)]),
            Some(account) => {
                let filled = self.filled(&secret, &account);
                if filled != *secret {
                    plan.then([Write::update(filled)]);
                }
            }
        }
        plan
    }
}

impl TokenSecrets {
    fn filled(&self, secret: &Secret, account: &ServiceAccount) -> Secret {
        let mut filled = secret.clone();
        let annotations = filled.metadata.annotations.get_or_insert_default();
        annotations.insert(ACCOUNT_UID.into(), account.uid().into());
        let data = filled.data.get_or_insert_default();
        data.insert("ca.crt".into(), ByteString(self.root_ca.clone().into_bytes()));
        data.insert("namespace".into(), ByteString(secret.namespace().into()));
        if data.get("token").is_none_or(|token| token.0.is_empty()) {
            let token = self.issuer.issue_legacy(account, secret.name());
            data.insert("token".into(), ByteString(token.into_bytes()));
        }
        filled
    }
}

fn is_token(secret: &Secret) -> bool {
    secret.type_.as_deref() == Some(TYPE)
}

fn annotation<'a>(secret: &'a Secret, name: &str) -> &'a str {
    let annotations = secret.metadata.annotations.as_ref();
    annotations.and_then(|map| map.get(name)).map(String::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::controllers::testing::World;

    #[test]
    fn a_token_secret_is_filled_and_goes_with_its_account() {
        let folder = tempfile::tempdir().expect("a folder");
        let issuer = Arc::new(TokenIssuer::open(folder.path(), "cluster.local").expect("a key"));
        let controller = TokenSecrets { issuer, root_ca: "PEM".into() };
        let mut world = World::default();
        let account = json!({ "metadata": { "name": "ci", "namespace": "shop" } });
        world.add(serde_json::from_value::<ServiceAccount>(account).expect("an account"));
        let annotations = json!({ ACCOUNT_NAME: "ci" });
        let secret = json!({
            "metadata": { "name": "ci-token", "namespace": "shop", "annotations": annotations },
            "type": TYPE,
        });
        world.add(serde_json::from_value::<Secret>(secret).expect("a secret"));
        let key = key_of::<Secret>("shop", "ci-token");
        world.settle(&controller, &key);
        let secret = world.get::<Secret>("shop", "ci-token");
        let keys: Vec<&str> = secret.data.iter().flatten().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["ca.crt", "namespace", "token"]);
        assert_eq!(annotation(&secret, ACCOUNT_UID), world.get::<ServiceAccount>("shop", "ci").uid());
        world.delete(&key_of::<ServiceAccount>("shop", "ci"), &Default::default());
        world.settle(&controller, &key);
        assert!(world.find::<Secret>("shop", "ci-token").is_none());
    }
}
