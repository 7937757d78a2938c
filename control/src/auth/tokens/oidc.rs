//! Tokens of an OpenID Connect provider: who it says its users are.
//!
//! The provider's keys are fetched over HTTPS when a token names one that is not known yet, at most every few seconds,
//! so that nobody can make us ask it often.

use std::{path::PathBuf, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;
use tokio::{sync::Mutex, time::Instant};

use super::{
    accounts::Audiences,
    jwt::{PublicKey, Token},
};
use crate::{auth::User, trust::believing};

const FETCH_PATIENCE: Duration = Duration::from_secs(10);
const FETCH_PACE: Duration = Duration::from_secs(5);
const MAX_DOCUMENT: usize = 1 << 20;
/// How far a provider's clock may be from ours.
const LEEWAY_SECONDS: i64 = 10;

/// Where users come from and how they are named, as the flags of kube-apiserver say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OidcSettings {
    /// `https://accounts.example.com`
    pub issuer: String,
    /// The audience that tokens must be for.
    pub client_id: String,
    pub username_claim: String,
    /// `None` is the issuer and `#`, unless the claim is `email`; `-` is no prefix.
    pub username_prefix: Option<String>,
    pub groups_claim: Option<String>,
    pub groups_prefix: String,
    /// Claims, with their values, that a token must have.
    pub required_claims: Vec<(String, String)>,
    /// Authorities that the provider is trusted by; those of this machine where there is none.
    pub ca_file: Option<PathBuf>,
    pub algorithms: Vec<String>,
}

impl OidcSettings {
    fn user_prefix(&self) -> String {
        match self.username_prefix.as_deref() {
            Some("-") => String::new(),
            Some(prefix) => prefix.into(),
            None if self.username_claim == "email" => String::new(),
            None => format!("{}#", self.issuer),
        }
    }

    /// The user that verified claims name.
    fn user(&self, claims: &Value) -> Result<User, String> {
        for (claim, wanted) in &self.required_claims {
            if claims[claim].as_str() != Some(wanted) {
                return Err(format!("oidc: required claim {claim} not present or of another value"));
            }
        }
        let name = claims[&self.username_claim].as_str().filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| format!("oidc: claim {:?} not present", self.username_claim))?;
        if self.username_claim == "email" && claims["email_verified"] == false {
            return Err("oidc: email not verified".into());
        }
        let groups = match self.groups_claim.as_ref().map(|claim| &claims[claim]) {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::String(one)) => vec![one.as_str()],
            Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).collect(),
            Some(_) => return Err("oidc: the groups claim is neither a text nor a list of texts".into()),
        };
        let groups = groups.into_iter().map(|group| format!("{}{group}", self.groups_prefix)).collect();
        Ok(User::new(&format!("{}{name}", self.user_prefix()), groups))
    }
}

/// The keys that the provider signs with.
#[derive(Default)]
struct Keys {
    known: Vec<(String, PublicKey)>,
    fetched: Option<Instant>,
}

/// Believes tokens of one provider.
pub struct Oidc {
    settings: OidcSettings,
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    /// Held while keys are fetched, so that they are once.
    keys: Mutex<Keys>,
}

impl Oidc {
    /// # Errors
    /// What is wrong with the settings.
    pub fn new(settings: OidcSettings) -> Result<Self, String> {
        if !settings.issuer.starts_with("https://") {
            return Err(format!("the OIDC issuer {:?} must begin with https://", settings.issuer));
        }
        if settings.client_id.is_empty() {
            return Err("an OIDC issuer needs a client id".into());
        }
        let tls =
            believing(&authority(&settings)?.unwrap_or_default()).map_err(|why| unusable(&settings, &why))?;
        let tls = tls.with_no_client_auth();
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_only()
            .enable_http1()
            .build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { settings, client, keys: Mutex::default() })
    }

    /// Whether the token says that it is this provider's.
    pub fn is_issuer_of(&self, token: &Token<'_>) -> bool {
        token.claims::<Value>().is_some_and(|claims| claims["iss"] == self.settings.issuer.as_str())
    }

    /// The user of a token, as of `now`; and until when it says so (seconds since 1970).
    ///
    /// # Errors
    /// Why it is not believed.
    pub async fn user(&self, token: &Token<'_>, now: Timestamp) -> Result<(User, i64), String> {
        if !self.settings.algorithms.iter().any(|of| of == token.algorithm()) {
            return Err(format!("oidc: unexpected signature algorithm {:?}", token.algorithm()));
        }
        let claims: Value = token.claims().ok_or("oidc: malformed claims")?;
        let audiences: Option<Audiences> = serde_json::from_value(claims["aud"].clone()).ok();
        let is_ours = |audiences: &Audiences| audiences.as_slice().contains(&self.settings.client_id);
        if !audiences.as_ref().is_some_and(is_ours) {
            return Err("oidc: the token is for another audience".into());
        }
        let expires = claims["exp"].as_i64().ok_or("oidc: the token has no expiry")?;
        if now.as_second() >= expires + LEEWAY_SECONDS {
            return Err("oidc: token is expired".into());
        }
        if claims["nbf"].as_i64().is_some_and(|from| now.as_second() + LEEWAY_SECONDS < from) {
            return Err("oidc: the token is not valid yet".into());
        }
        if !self.has_signed(token).await? {
            return Err("oidc: failed to verify signature".into());
        }
        Ok((self.settings.user(&claims)?, expires))
    }

    async fn has_signed(&self, token: &Token<'_>) -> Result<bool, String> {
        let mut keys = self.keys.lock().await;
        let is_wanted = |id: &str| token.key_id().is_empty() || token.key_id() == id;
        let is_pause_over = keys.fetched.is_none_or(|at| at.elapsed() > FETCH_PACE);
        if !keys.known.iter().any(|(id, _)| is_wanted(id)) && is_pause_over {
            keys.fetched = Some(Instant::now());
            keys.known = self.fetch_keys().await?;
        }
        let known: Vec<PublicKey> =
            keys.known.iter().filter(|(id, _)| is_wanted(id)).map(|(_, key)| key.clone()).collect();
        drop(keys);
        Ok(known.iter().any(|key| token.is_signed_by(key)))
    }

    async fn fetch_keys(&self) -> Result<Vec<(String, PublicKey)>, String> {
        let issuer = self.settings.issuer.trim_end_matches('/');
        let about = self.fetch(&format!("{issuer}/.well-known/openid-configuration")).await?;
        if about["issuer"] != self.settings.issuer.as_str() {
            return Err(format!("oidc: the provider calls itself {}", about["issuer"]));
        }
        let url = about["jwks_uri"].as_str().ok_or("oidc: the provider names no jwks_uri")?;
        let set = self.fetch(url).await?;
        let key = |jwk: &Value| {
            Some((jwk["kid"].as_str().unwrap_or_default().to_owned(), PublicKey::from_jwk(jwk)?))
        };
        Ok(set["keys"].as_array().into_iter().flatten().filter_map(key).collect())
    }

    async fn fetch(&self, url: &str) -> Result<Value, String> {
        let failed = |what: String| format!("oidc: cannot get {url}: {what}");
        let uri: http::Uri = url.parse().map_err(|_| failed("not a URL".into()))?;
        let exchange = async {
            let response = self.client.get(uri).await.map_err(|error| failed(chain(&error)))?;
            if !response.status().is_success() {
                return Err(failed(response.status().to_string()));
            }
            let body = Limited::new(response.into_body(), MAX_DOCUMENT).collect().await;
            let body = body.map_err(|error| failed(error.to_string()))?.to_bytes();
            serde_json::from_slice(&body).map_err(|error| failed(error.to_string()))
        };
        tokio::time::timeout(FETCH_PATIENCE, exchange)
            .await
            .map_err(|_| failed("no answer in time".into()))?
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// The PEM of the authorities that vouch for the provider, where they are not this machine's.
fn authority(settings: &OidcSettings) -> Result<Option<Vec<u8>>, String> {
    let Some(path) = &settings.ca_file else { return Ok(None) };
    match std::fs::read(path) {
        // Whoever names a file does not mean everybody.
        Ok(pem) if pem.is_empty() => Err(unusable(settings, "it is empty")),
        Ok(pem) => Ok(Some(pem)),
        Err(error) => Err(unusable(settings, &error.to_string())),
    }
}

fn unusable(settings: &OidcSettings, why: &str) -> String {
    let file = settings.ca_file.as_deref().unwrap_or_else(|| std::path::Path::new("of this machine"));
    format!("cannot use the OIDC authority {}: {why}", file.display())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use rcgen::{CertificateParams, KeyPair};
    use serde_json::json;
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::super::jwt::SigningKey;
    use super::*;

    /// A provider that serves the keys of `key` over HTTPS; its settings.
    async fn provider(key: &SigningKey, folder: &std::path::Path) -> OidcSettings {
        let pair = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["localhost".into()]).expect("a name");
        let certificate = params.self_signed(&pair).expect("a certificate");
        let ca_file = folder.join("ca.pem");
        std::fs::write(&ca_file, certificate.pem()).expect("written");
        let tls =
            rustls::ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
                .with_safe_default_protocol_versions()
                .expect("versions")
                .with_no_client_auth()
                .with_single_cert(
                    vec![certificate.der().clone()],
                    rustls::pki_types::PrivateKeyDer::try_from(pair.serialize_der()).expect("a key"),
                )
                .expect("an identity");
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let issuer = format!("https://localhost:{}", listener.local_addr().expect("an address").port());
        let about = json!({ "issuer": issuer, "jwks_uri": format!("{issuer}/keys") }).to_string();
        let keys = json!({ "keys": [key.jwk()] }).to_string();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(stream) = acceptor.accept(stream).await else { continue };
                let (about, keys) = (about.clone(), keys.clone());
                let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let text = if request.uri().path() == "/keys" { keys.clone() } else { about.clone() };
                    async move {
                        Ok::<_, std::convert::Infallible>(http::Response::new(http_body_util::Full::new(
                            Bytes::from(text),
                        )))
                    }
                });
                let builder = hyper::server::conn::http1::Builder::new();
                tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
            }
        });
        OidcSettings {
            issuer,
            client_id: "naru".into(),
            username_claim: "sub".into(),
            username_prefix: None,
            groups_claim: Some("groups".into()),
            groups_prefix: "oidc:".into(),
            required_claims: vec![("hd".into(), "shop.example".into())],
            ca_file: Some(ca_file),
            algorithms: vec!["ES256".into()],
        }
    }

    fn key() -> SigningKey {
        SigningKey::from_pem(&SigningKey::generate().expect("a key")).expect("usable")
    }

    #[tokio::test]
    async fn a_token_of_the_provider_names_its_user() {
        let (key, stranger) = (key(), key());
        let folder = tempfile::tempdir().expect("a folder");
        let settings = provider(&key, folder.path()).await;
        let issuer = settings.issuer.clone();
        let oidc = Oidc::new(settings).expect("usable");
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        let claims = |changes: Value| {
            let mut claims = json!({
                "iss": issuer,
                "aud": "naru",
                "exp": now.as_second() + 60,
                "sub": "jane",
                "groups": ["devs"],
                "hd": "shop.example",
            });
            json_patch::merge(&mut claims, &changes);
            claims
        };
        let ask = async |key: &SigningKey, changes: Value| {
            let text = key.sign(&claims(changes));
            let token = Token::parse(&text).expect("well-formed");
            assert!(oidc.is_issuer_of(&token));
            oidc.user(&token, now).await.map(|(user, _)| user)
        };
        let user = ask(&key, json!({})).await.expect("believed");
        assert_eq!(*user.name, format!("{issuer}#jane"));
        assert_eq!(*user.groups, ["oidc:devs", "system:authenticated"]);
        let refused = [
            (json!({ "aud": ["other"] }), "oidc: the token is for another audience"),
            (json!({ "exp": now.as_second() - 60 }), "oidc: token is expired"),
            (json!({ "exp": null }), "oidc: the token has no expiry"),
            (json!({ "nbf": now.as_second() + 60 }), "oidc: the token is not valid yet"),
            (json!({ "sub": null }), "oidc: claim \"sub\" not present"),
            (json!({ "hd": "else" }), "oidc: required claim hd not present or of another value"),
            (json!({ "groups": 7 }), "oidc: the groups claim is neither a text nor a list of texts"),
        ];
        for (changes, expected) in refused {
            assert_eq!(ask(&key, changes).await.expect_err("refused"), expected);
        }
        assert_eq!(ask(&stranger, json!({})).await.expect_err("refused"), "oidc: failed to verify signature");
    }

    #[test]
    fn prefixes_are_those_of_kubernetes() {
        let settings = |claim: &str, prefix: Option<&str>| OidcSettings {
            issuer: "https://a".into(),
            client_id: "naru".into(),
            username_claim: claim.into(),
            username_prefix: prefix.map(Into::into),
            groups_claim: None,
            groups_prefix: String::new(),
            required_claims: Vec::new(),
            ca_file: None,
            algorithms: vec!["RS256".into()],
        };
        assert_eq!(settings("sub", None).user_prefix(), "https://a#");
        assert_eq!(settings("email", None).user_prefix(), "");
        assert_eq!(settings("sub", Some("-")).user_prefix(), "");
        assert_eq!(settings("sub", Some("x:")).user_prefix(), "x:");
        let unverified = json!({ "email": "a@b", "email_verified": false });
        assert!(settings("email", None).user(&unverified).is_err());
        assert!(Oidc::new(OidcSettings { issuer: "http://a".into(), ..settings("sub", None) }).is_err());
    }
}
