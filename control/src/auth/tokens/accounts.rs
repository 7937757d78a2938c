//! Tokens of ServiceAccounts: issuing and believing them.
//!
//! A token is believed while its account, and what it is bound to, exist as they did when it was issued. The key
//! lives in the data directory, so tokens outlive restarts.

use std::{fs, io, path::Path};

use k8s_openapi::{
    api::core::v1::{Secret, ServiceAccount},
    jiff::Timestamp,
};
use naru_model::Object;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::jwt::{PublicKey, SigningKey, Token};
use crate::{
    auth::{
        User,
        pki::{PkiError, write_file},
        user::{Extra, account_user},
    },
    store::{Entry, Key, Meta, Snapshot},
};

const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";
/// How long a token outlives the deletion mark of its pod, for what the pod does at its end.
const LEEWAY_SECONDS: i64 = 60;
/// What kubelets ask for; such a token is good for a year, and its early user is warned past the hour.
const KUBELET_SECONDS: i64 = 3607;
const EXTENDED_SECONDS: i64 = 365 * 24 * 3600;

/// An object that a token or its pod refers to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    pub name: String,
    #[serde(default)]
    pub uid: String,
}

impl Reference {
    pub fn to<T: Object>(object: &T) -> Self {
        Self { name: object.name().into(), uid: object.uid().into() }
    }
    pub fn of(meta: &Meta) -> Self {
        Self { name: meta.name.clone(), uid: meta.uid.clone() }
    }
}

/// What the token is bound to beside its account.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<Reference>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Private {
    namespace: String,
    serviceaccount: Reference,
    #[serde(flatten)]
    binding: Binding,
    #[serde(skip_serializing_if = "Option::is_none")]
    warnafter: Option<i64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    aud: Audiences,
    exp: i64,
    iat: i64,
    iss: String,
    #[serde(default)]
    jti: String,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Private,
    nbf: i64,
    sub: String,
}

/// One or several: both are in use.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Audiences {
    Many(Vec<String>),
    One(String),
}

impl Audiences {
    pub fn as_slice(&self) -> &[String] {
        match self {
            Self::Many(many) => many,
            Self::One(one) => std::slice::from_ref(one),
        }
    }
}

/// What a token of a Secret says.
#[derive(Debug, Serialize, Deserialize)]
struct LegacyClaims {
    iss: String,
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    namespace: String,
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    secret: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    account: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    uid: String,
    sub: String,
}

/// A user whom a token names, and for which audiences it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Believed {
    pub user: User,
    pub audiences: Vec<String>,
}

/// A request for a token.
pub struct Order<'a> {
    pub account: &'a ServiceAccount,
    /// Empty for the API's own.
    pub audiences: Vec<String>,
    pub seconds: i64,
    pub binding: Binding,
}

/// Makes tokens and believes them.
pub struct TokenIssuer {
    key: SigningKey,
    public: PublicKey,
    /// `https://kubernetes.default.svc.cluster.local`; also the API's audience.
    issuer: String,
}

impl TokenIssuer {
    /// Opens the key in `folder`, or makes it. `domain` is the cluster's.
    pub fn open(folder: &Path, domain: &str) -> Result<Self, PkiError> {
        let path = folder.join("service-account.key");
        let pem = match fs::read_to_string(&path) {
            Ok(pem) => pem,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let failed = |source| PkiError::Issue { subject: "service account tokens".into(), source };
                let pem = SigningKey::generate().map_err(failed)?;
                write_file(&path, &pem, 0o600)?;
                pem
            }
            Err(source) => return Err(PkiError::File { path, source }),
        };
        let key = SigningKey::from_pem(&pem).map_err(|why| PkiError::Damaged { path, why })?;
        let public = key.public();
        Ok(Self { key, public, issuer: format!("https://kubernetes.default.svc.{domain}") })
    }

    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The audiences that make a token one for this API.
    pub fn api_audiences(&self) -> Vec<String> {
        vec![self.issuer.clone()]
    }

    /// `/.well-known/openid-configuration`; `url` is where the API is reached.
    pub fn discovery(&self, url: &str) -> Value {
        json!({
            "issuer": self.issuer,
            "jwks_uri": format!("{url}/openid/v1/jwks"),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }

    pub fn key_set(&self) -> Value {
        json!({ "keys": [self.key.jwk()] })
    }

    /// A token, and when its user should come for a new one (seconds since 1970).
    pub fn issue(&self, order: Order<'_>, now: Timestamp) -> (String, i64) {
        let now = now.as_second();
        let is_kubelets = order.seconds == KUBELET_SECONDS && order.binding.pod.is_some();
        let seconds = if is_kubelets { EXTENDED_SECONDS } else { order.seconds };
        let (namespace, name) = (order.account.namespace(), order.account.name());
        let audiences = if order.audiences.is_empty() { self.api_audiences() } else { order.audiences };
        let claims = Claims {
            aud: Audiences::Many(audiences),
            exp: now + seconds,
            iat: now,
            iss: self.issuer.clone(),
            jti: uuid::Uuid::new_v4().to_string(),
            kubernetes: Private {
                namespace: namespace.into(),
                serviceaccount: Reference::to(order.account),
                binding: order.binding,
                warnafter: is_kubelets.then_some(now + order.seconds),
            },
            nbf: now,
            sub: account_user(namespace, name),
        };
        (self.key.sign(&claims), now + order.seconds)
    }

    /// A token that lives in `secret` and as long as that does.
    pub fn issue_legacy(&self, account: &ServiceAccount, secret: &str) -> String {
        self.key.sign(&LegacyClaims {
            iss: LEGACY_ISSUER.into(),
            namespace: account.namespace().into(),
            secret: secret.into(),
            account: account.name().into(),
            uid: account.uid().into(),
            sub: account_user(account.namespace(), account.name()),
        })
    }

    /// Whether the token has our signature: the costly part, true for ever once it is.
    pub fn has_signed(&self, token: &Token<'_>) -> bool {
        token.is_signed_by(&self.public)
    }

    /// Who a token with our signature speaks for, as of `now` and `view`.
    ///
    /// # Errors
    /// Why it is not believed.
    pub fn believe(
        &self,
        token: &Token<'_>,
        text: &str,
        view: &Snapshot,
        now: Timestamp,
    ) -> Result<Believed, String> {
        match token.claims::<Claims>() {
            Some(claims) => self.believe_bound(claims, view, now),
            None => self.believe_legacy(token, text, view),
        }
    }

    fn believe_bound(&self, claims: Claims, view: &Snapshot, now: Timestamp) -> Result<Believed, String> {
        if claims.iss != self.issuer {
            return Err("the token has another issuer".into());
        }
        if now.as_second() < claims.nbf {
            return Err("the token is not valid yet".into());
        }
        if now.as_second() >= claims.exp {
            return Err("service account token has expired".into());
        }
        let Private { namespace, serviceaccount: account, binding, .. } = claims.kubernetes;
        check_account(view, &namespace, &account)?;
        let is_gone = |deleted: Option<Timestamp>| {
            deleted.is_some_and(|at| at.as_second() + LEEWAY_SECONDS < now.as_second())
        };
        let mut extra = Extra::new();
        if !claims.jti.is_empty() {
            extra.insert(
                "authentication.kubernetes.io/credential-id".into(),
                vec![format!("JTI={}", claims.jti)],
            );
        }
        let kinds = [
            ("pods", "pod", namespace.as_str(), &binding.pod),
            ("secrets", "secret", namespace.as_str(), &binding.secret),
            ("nodes", "node", "", &binding.node),
        ];
        for (resource, kind, namespace, reference) in kinds {
            let Some(Reference { name, uid }) = reference else { continue };
            // Of a token bound to a pod, the node is only told.
            if kind != "node" || binding.pod.is_none() {
                let entry = view.get(&Key::new(resource, namespace, name));
                let entry = entry.filter(|entry| entry.meta.uid == *uid);
                let entry = entry.ok_or_else(|| format!("{kind} {name} was deleted"))?;
                if is_gone(entry.meta.deletion_timestamp) {
                    return Err(format!("{kind} {name} was deleted"));
                }
            }
            if kind != "secret" {
                extra.insert(format!("authentication.kubernetes.io/{kind}-name"), vec![name.clone()]);
                if !uid.is_empty() {
                    extra.insert(format!("authentication.kubernetes.io/{kind}-uid"), vec![uid.clone()]);
                }
            }
        }
        let user = User::service_account(&namespace, &account.name, &account.uid, extra);
        Ok(Believed { user, audiences: claims.aud.as_slice().to_vec() })
    }

    fn believe_legacy(&self, token: &Token<'_>, text: &str, view: &Snapshot) -> Result<Believed, String> {
        let claims = token.claims::<LegacyClaims>().filter(|claims| claims.iss == LEGACY_ISSUER);
        let claims = claims.ok_or("the token's claims are not those of a service account")?;
        let account = Reference { name: claims.account, uid: claims.uid };
        check_account(view, &claims.namespace, &account)?;
        let gone = "service account token has been invalidated";
        let secret = view.get(&Key::new("secrets", &claims.namespace, &claims.secret)).ok_or(gone)?;
        let secret = secret.typed::<Secret>().map_err(|_| gone)?;
        let held = secret.data.as_ref().and_then(|data| data.get("token"));
        if secret.metadata.deletion_timestamp.is_some() || held.is_none_or(|held| held.0 != text.as_bytes()) {
            return Err(gone.into());
        }
        let user = User::service_account(&claims.namespace, &account.name, &account.uid, Extra::new());
        Ok(Believed { user, audiences: self.api_audiences() })
    }
}

fn check_account(view: &Snapshot, namespace: &str, account: &Reference) -> Result<(), String> {
    let entry = view.get(&Key::new("serviceaccounts", namespace, &account.name));
    match entry {
        Some(entry) if entry.meta.uid == account.uid && entry.meta.deletion_timestamp.is_none() => Ok(()),
        _ => Err(format!("service account {namespace}/{} has been deleted", account.name)),
    }
}

/// What a token for `pod`, which runs on `node` if on any, is bound to: the pod, and the node.
pub fn bound_to_pod(pod: &Entry, node: Option<&str>, view: &Snapshot) -> Binding {
    let node = node.and_then(|node| view.get(&Key::new("nodes", "", node)));
    let node = node.map(|node| Reference::of(&node.meta));
    Binding { pod: Some(Reference::of(&pod.meta)), node, secret: None }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use super::*;
    use crate::{ApiClient, client::Delete};

    struct World {
        client: ApiClient,
        issuer: TokenIssuer,
        account: ServiceAccount,
        _folder: tempfile::TempDir,
    }

    fn object<T: Object>(value: Value) -> T {
        serde_json::from_value(value).expect("a valid object")
    }

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().expect("a time")
    }

    impl World {
        async fn new() -> Self {
            let client = ApiClient::in_memory();
            let namespace = json!({ "metadata": { "name": "shop" } });
            client
                .create(&object::<k8s_openapi::api::core::v1::Namespace>(namespace))
                .await
                .expect("created");
            let account = json!({ "metadata": { "name": "default", "namespace": "shop" } });
            let entry = client.create(&object::<ServiceAccount>(account)).await.expect("created");
            let folder = tempfile::tempdir().expect("a folder");
            let issuer = TokenIssuer::open(folder.path(), "cluster.local").expect("a key");
            let account = ServiceAccount::clone(&entry.typed().expect("typed"));
            Self { client, issuer, account, _folder: folder }
        }

        fn issue(&self, binding: Binding) -> String {
            let order = Order { account: &self.account, audiences: vec![], seconds: 600, binding };
            self.issuer.issue(order, now()).0
        }

        fn believe(&self, text: &str, later: i64) -> Result<Believed, String> {
            let token = Token::parse(text).expect("well-formed");
            assert!(self.issuer.has_signed(&token));
            let now = Timestamp::from_second(now().as_second() + later).expect("a time");
            self.issuer.believe(&token, text, &self.client.store().snapshot(), now)
        }
    }

    #[tokio::test]
    async fn a_token_speaks_for_its_account_until_it_expires() {
        let world = World::new().await;
        let token = world.issue(Binding::default());
        let believed = world.believe(&token, 1).expect("believed");
        assert_eq!(&*believed.user.name, "system:serviceaccount:shop:default");
        assert_eq!(&*believed.user.uid, world.account.uid());
        assert_eq!(believed.audiences, ["https://kubernetes.default.svc.cluster.local"]);
        assert_eq!(world.believe(&token, 600), Err("service account token has expired".into()));
        assert_eq!(world.believe(&token, -1), Err("the token is not valid yet".into()));
    }

    #[tokio::test]
    async fn a_token_ends_with_its_account() {
        let world = World::new().await;
        let token = world.issue(Binding::default());
        world.client.delete::<ServiceAccount>("shop", "default", Delete::default()).await.expect("deleted");
        let gone = Err("service account shop/default has been deleted".to_owned());
        assert_eq!(world.believe(&token, 1), gone);
        let again = json!({ "metadata": { "name": "default", "namespace": "shop" } });
        world.client.create(&object::<ServiceAccount>(again)).await.expect("another of the same name");
        assert_eq!(world.believe(&token, 1), gone);
    }

    #[tokio::test]
    async fn a_token_ends_with_its_pod() {
        let world = World::new().await;
        let pod = json!({
            "metadata": { "name": "web", "namespace": "shop" },
            "spec": { "containers": [{ "name": "web", "image": "web" }] },
        });
        let entry = world.client.create(&object::<Pod>(pod)).await.expect("created");
        let pod: std::sync::Arc<Pod> = entry.typed().expect("typed");
        let token = world.issue(bound_to_pod(&entry, None, &world.client.store().snapshot()));
        let user = world.believe(&token, 1).expect("believed").user;
        assert_eq!(user.extra["authentication.kubernetes.io/pod-name"], ["web"]);
        assert_eq!(user.extra["authentication.kubernetes.io/pod-uid"], [pod.uid()]);
        let now_gone = Delete { grace_period_seconds: Some(0), ..Delete::default() };
        world.client.delete::<Pod>("shop", "web", now_gone).await.expect("deleted");
        assert_eq!(world.believe(&token, 1), Err("pod web was deleted".into()));
    }

    #[tokio::test]
    async fn a_kubelets_token_outlives_the_hour_it_asked_for() {
        let world = World::new().await;
        let pod = Some(Reference { name: "web".into(), uid: "1".into() });
        let binding = Binding { pod, ..Binding::default() };
        let order = Order { account: &world.account, audiences: vec![], seconds: 3607, binding };
        let (token, refresh) = world.issuer.issue(order, now());
        let claims: Claims = Token::parse(&token).and_then(|token| token.claims()).expect("claims");
        assert_eq!(refresh, now().as_second() + 3607);
        assert_eq!(claims.exp, now().as_second() + EXTENDED_SECONDS);
        assert_eq!(claims.kubernetes.warnafter, Some(refresh));
    }

    #[tokio::test]
    async fn a_secrets_token_ends_with_the_secret() {
        let world = World::new().await;
        let token = world.issuer.issue_legacy(&world.account, "old");
        let gone = Err("service account token has been invalidated".to_owned());
        assert_eq!(world.believe(&token, 1), gone);
        let secret = json!({
            "metadata": {
                "name": "old",
                "namespace": "shop",
                "annotations": { "kubernetes.io/service-account.name": "default" },
            },
            "type": "kubernetes.io/service-account-token",
            "stringData": { "token": token },
        });
        world.client.create(&object::<Secret>(secret)).await.expect("created");
        assert_eq!(
            &*world.believe(&token, 1).expect("believed").user.name,
            "system:serviceaccount:shop:default"
        );
        world.client.delete::<Secret>("shop", "old", Delete::default()).await.expect("deleted");
        assert_eq!(world.believe(&token, 1), gone);
    }

    #[test]
    fn the_key_is_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let open = || TokenIssuer::open(folder.path(), "cluster.local").expect("a key").key_set();
        assert_eq!(open(), open());
    }
}
