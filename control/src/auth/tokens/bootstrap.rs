//! Bootstrap tokens: Secrets of `kube-system` by which new nodes and admins come in.

use k8s_openapi::{api::core::v1::Secret, jiff::Timestamp};
use sha2::{Digest as _, Sha256};

use crate::{
    auth::User,
    store::{Key, Snapshot},
};

const TYPE: &str = "bootstrap.kubernetes.io/token";
const GROUP: &str = "system:bootstrappers";

/// The user of a token `abcdef.0123456789abcdef`, where its Secret allows to authenticate with it.
pub fn user(text: &str, view: &Snapshot, now: Timestamp) -> Option<User> {
    let (id, secret) = text.split_once('.')?;
    let is_word = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    if !is_word(id, 6) || !is_word(secret, 16) {
        return None;
    }
    let entry = view.get(&Key::new("secrets", "kube-system", &format!("bootstrap-token-{id}")))?;
    let object = entry.typed::<Secret>().ok()?;
    let data =
        |key: &str| object.data.as_ref()?.get(key).and_then(|value| std::str::from_utf8(&value.0).ok());
    if object.type_.as_deref() != Some(TYPE) || object.metadata.deletion_timestamp.is_some() {
        return None;
    }
    // Digests, so that the time taken tells nothing of how much is right.
    if data("token-id") != Some(id) || Sha256::digest(data("token-secret")?) != Sha256::digest(secret) {
        return None;
    }
    let is_live = match data("expiration") {
        None | Some("") => true,
        Some(text) => text.parse::<Timestamp>().is_ok_and(|ends| now < ends),
    };
    if !is_live || data("usage-bootstrap-authentication") != Some("true") {
        return None;
    }
    let mut groups = vec![GROUP.to_owned()];
    for group in data("auth-extra-groups").unwrap_or_default().split(',').filter(|group| !group.is_empty()) {
        if !is_extra_group(group) {
            return None;
        }
        groups.push(group.into());
    }
    Some(User::new(&format!("system:bootstrap:{id}"), groups))
}

/// `system:bootstrappers:` and something in lower case that ends in a letter or digit.
fn is_extra_group(group: &str) -> bool {
    let Some(rest) = group.strip_prefix(GROUP).and_then(|rest| rest.strip_prefix(':')) else { return false };
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    rest.len() <= 256
        && rest.bytes().last().is_some_and(is_plain)
        && rest.bytes().all(|byte| is_plain(byte) || byte == b':' || byte == b'-')
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::ApiClient;

    async fn user_of(text: &str, changes: Value) -> Option<String> {
        let client = ApiClient::in_memory();
        let namespace = json!({ "metadata": { "name": "kube-system" } });
        let namespace: k8s_openapi::api::core::v1::Namespace =
            serde_json::from_value(namespace).expect("a namespace");
        client.create(&namespace).await.expect("created");
        let mut secret = json!({
            "metadata": { "name": "bootstrap-token-abcdef", "namespace": "kube-system" },
            "type": TYPE,
            "stringData": {
                "token-id": "abcdef",
                "token-secret": "0123456789abcdef",
                "usage-bootstrap-authentication": "true",
                "auth-extra-groups": "system:bootstrappers:shop",
                "expiration": "2026-01-02T00:00:00Z",
            },
        });
        json_patch::merge(&mut secret, &changes);
        let secret: Secret = serde_json::from_value(secret).expect("a secret");
        client.create(&secret).await.expect("created");
        let now = "2026-01-01T00:00:00Z".parse().expect("a time");
        let user = user(text, &client.store().snapshot(), now)?;
        Some(format!("{} {}", user.name, user.groups.join(",")))
    }

    #[tokio::test]
    async fn a_token_counts_while_its_secret_says_so() {
        let good = "abcdef.0123456789abcdef";
        let expected =
            "system:bootstrap:abcdef system:bootstrappers,system:bootstrappers:shop,system:authenticated";
        assert_eq!(user_of(good, json!({})).await.as_deref(), Some(expected));
        let refused = [
            ("abcdef.0123456789abcdee", json!({})),
            ("abcdeg.0123456789abcdef", json!({})),
            ("ABCDEF.0123456789abcdef", json!({})),
            (good, json!({ "type": "Opaque" })),
            (good, json!({ "stringData": { "expiration": "2025-12-31T00:00:00Z" } })),
            (good, json!({ "stringData": { "expiration": "soon" } })),
            (good, json!({ "stringData": { "usage-bootstrap-authentication": "false" } })),
            (good, json!({ "stringData": { "auth-extra-groups": "system:masters" } })),
            (good, json!({ "stringData": { "token-id": "other1" } })),
        ];
        for (token, changes) in refused {
            assert_eq!(user_of(token, changes.clone()).await, None, "{token} {changes}");
        }
    }
}
