//! Finds out who asks: by the connection's certificate, else by a bearer token, else nobody in particular.

use std::{
    borrow::Cow,
    collections::HashSet,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use http::{HeaderMap, header};
use k8s_openapi::jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::{
    User,
    tokens::{Believed, Oidc, OidcSettings, TokenFile, TokenIssuer, bootstrap_user, jwt::Token},
};
use crate::{
    rarely::Rarely,
    store::{Snapshot, Store},
};

/// How many tokens' signatures are remembered as good.
const REMEMBERED: usize = 16 * 1024;

/// How users may prove who they are, beside certificates and the cluster's own tokens.
#[derive(Debug, Clone, Default)]
pub struct AuthenticationSettings {
    /// Whether requests without credentials are refused rather than taken as `system:anonymous`.
    pub refuses_anonymous: bool,
    /// A file of lines `token,user,uid,"group1,group2"`.
    pub token_file: Option<PathBuf>,
    pub oidc: Option<OidcSettings>,
}

/// Nobody that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unauthenticated;

pub struct Authenticator {
    anonymous: Option<Arc<User>>,
    token_file: TokenFile,
    oidc: Option<Oidc>,
    refused_oidc: Rarely,
    issuer: Arc<TokenIssuer>,
    /// Digests of tokens that we have signed. Whether they still count is looked up each time, which is cheap.
    signed: Mutex<HashSet<[u8; 32]>>,
}

impl Authenticator {
    /// # Errors
    /// What is wrong with the settings.
    pub fn new(settings: &AuthenticationSettings, issuer: Arc<TokenIssuer>) -> Result<Self, String> {
        let token_file = match &settings.token_file {
            None => TokenFile::default(),
            Some(path) => {
                let failed = |why: String| format!("cannot use the token file {}: {why}", path.display());
                let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
                TokenFile::parse(&text).map_err(failed)?
            }
        };
        Ok(Self {
            anonymous: (!settings.refuses_anonymous).then(|| Arc::new(User::anonymous())),
            token_file,
            oidc: settings.oidc.clone().map(Oidc::new).transpose()?,
            refused_oidc: Rarely::default(),
            issuer,
            signed: Mutex::default(),
        })
    }

    pub fn issuer(&self) -> &Arc<TokenIssuer> {
        &self.issuer
    }

    /// Who a request is from. `certified` is the user of the connection's certificate.
    ///
    /// # Errors
    /// Where a token is shown that nobody believes, or nothing is shown and that is not enough.
    pub async fn authenticate(
        &self,
        certified: Option<&Arc<User>>,
        headers: &HeaderMap,
        store: &Store,
    ) -> Result<Arc<User>, Unauthenticated> {
        if let Some(user) = certified {
            return Ok(user.clone());
        }
        let Some(token) = bearer(headers) else { return self.anonymous.clone().ok_or(Unauthenticated) };
        let audiences = self.issuer.api_audiences();
        match self.believe(&token, &audiences, store).await {
            Ok(believed) => Ok(Arc::new(believed.user)),
            Err(why) => {
                tracing::debug!(%why, "a token is not believed");
                Err(Unauthenticated)
            }
        }
    }

    /// Whom a token speaks for, towards at least one of `audiences`; the answer's are those of the token among them.
    ///
    /// # Errors
    /// Why it is not believed.
    pub async fn believe(&self, text: &str, audiences: &[String], store: &Store) -> Result<Believed, String> {
        let now = Timestamp::now();
        let of_the_api = |user: User| Believed { user, audiences: self.issuer.api_audiences() };
        let believed = if let Some(user) = self.token_file.user(text) {
            of_the_api(user.clone())
        } else if let Some(token) = Token::parse(text) {
            self.believe_signed(&token, text, &store.snapshot(), now).await?
        } else {
            let user = bootstrap_user(text, &store.snapshot(), now);
            of_the_api(user.ok_or("the token is of no known kind")?)
        };
        let common: Vec<String> =
            believed.audiences.iter().filter(|of| audiences.contains(of)).cloned().collect();
        if common.is_empty() {
            return Err(format!(
                "token audiences {:?} is invalid for the target audiences {audiences:?}",
                believed.audiences
            ));
        }
        Ok(Believed { audiences: common, ..believed })
    }

    async fn believe_signed(
        &self,
        token: &Token<'_>,
        text: &str,
        view: &Snapshot,
        now: Timestamp,
    ) -> Result<Believed, String> {
        if let Some(oidc) = self.oidc.as_ref().filter(|oidc| oidc.is_issuer_of(token)) {
            let (user, _) = oidc.user(token, now).await.inspect_err(|why| self.refused_oidc(why))?;
            return Ok(Believed { user, audiences: self.issuer.api_audiences() });
        }
        if !self.has_signed(token, text) {
            return Err("invalid signature".into());
        }
        self.issuer.believe(token, text, view, now)
    }

    /// Says why a token of the provider is not believed, now and then: whoever set the provider up finds no other
    /// trace, as users are only told that they are not authorized. Every time it is told at debug.
    fn refused_oidc(&self, why: &str) {
        if let Some(count) = self.refused_oidc.happened() {
            tracing::warn!(count, why, "tokens of the OIDC provider are not believed, the last one because");
        }
    }

    fn has_signed(&self, token: &Token<'_>, text: &str) -> bool {
        let digest = Sha256::digest(text).into();
        let signed = || self.signed.lock().unwrap_or_else(PoisonError::into_inner);
        if signed().contains(&digest) {
            return true;
        }
        let is_ours = self.issuer.has_signed(token);
        if is_ours {
            let mut signed = signed();
            if signed.len() >= REMEMBERED {
                signed.clear();
            }
            signed.insert(digest);
        }
        is_ours
    }
}

/// The token of a request, which may be of any bytes: one that is no text is a token that nobody believes, and not none.
/// It ends at a space, and begins after the first, as Kubernetes has it.
fn bearer(headers: &HeaderMap) -> Option<Cow<'_, str>> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes().trim_ascii();
    let mut parts = value.split(|byte| *byte == b' ');
    let (scheme, token) = (parts.next()?, parts.next()?);
    (scheme.eq_ignore_ascii_case(b"bearer") && !token.is_empty()).then(|| String::from_utf8_lossy(token))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(authorization: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if !authorization.is_empty() {
            let value = HeaderValue::from_bytes(authorization.as_bytes());
            headers.insert(header::AUTHORIZATION, value.expect("a value"));
        }
        headers
    }

    #[tokio::test]
    async fn a_request_is_from_whom_its_credentials_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let token_file = folder.path().join("tokens");
        std::fs::write(&token_file, "t1,jane,7,devs\n").expect("written");
        let issuer = Arc::new(TokenIssuer::open(folder.path(), "cluster.local").expect("a key"));
        let settings = |refuses_anonymous| AuthenticationSettings {
            refuses_anonymous,
            token_file: Some(token_file.clone()),
            oidc: None,
        };
        let open = Authenticator::new(&settings(false), issuer.clone()).expect("usable");
        let strict = Authenticator::new(&settings(true), issuer).expect("usable");
        let root = Arc::new(User::new("root", vec![]));
        let store = Store::in_memory();
        let cases = [
            (&open, None, "", Some("system:anonymous")),
            (&strict, None, "", None),
            (&open, None, "Basic abc", Some("system:anonymous")),
            (&open, None, "Bearer t1", Some("jane")),
            (&strict, None, "bearer t1", Some("jane")),
            (&open, None, "Bearer t1 more", Some("jane")),
            (&open, None, "Bearer  t1", Some("system:anonymous")),
            (&open, None, "Bearer t2", None),
            (&open, None, "Bearer tü", None),
            (&open, None, "Bearer a.b.c", None),
            (&open, None, "Bearer abcdef.0123456789abcdef", None),
            (&open, Some(&root), "", Some("root")),
            (&open, Some(&root), "Bearer t2", Some("root")),
        ];
        for (authenticator, certified, authorization, expected) in cases {
            let user = authenticator.authenticate(certified, &headers(authorization), &store).await;
            assert_eq!(user.ok().map(|user| user.name.to_string()).as_deref(), expected, "{authorization}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let issuer = Arc::new(TokenIssuer::open(folder.path(), "cluster.local").expect("a key"));
        let token_file = Some(folder.path().join("none"));
        let settings = AuthenticationSettings { token_file, ..AuthenticationSettings::default() };
        assert!(Authenticator::new(&settings, issuer).is_err());
    }
}
