//! Acting as somebody else: `kubectl --as`. Each thing that is claimed must be allowed to the user who asks.

use std::{collections::BTreeMap, sync::Arc};

use http::HeaderMap;
use percent_encoding::percent_decode_str;

use crate::{
    ApiError,
    auth::{ANONYMOUS, AUTHENTICATED, Attributes, Authorizer, Extra, UNAUTHENTICATED, User},
};

const USER: &str = "impersonate-user";
const UID: &str = "impersonate-uid";
const GROUP: &str = "impersonate-group";
const EXTRA: &str = "impersonate-extra-";
const IDENTITIES: &str = "authentication.k8s.io";

/// Whom the request is made as, where its headers say somebody else than `user`.
pub fn impersonated(
    user: &Arc<User>,
    headers: &HeaderMap,
    authorizer: &Authorizer,
) -> Result<Option<Arc<User>>, ApiError> {
    let texts = |name: &str| headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let name = texts(USER).next().unwrap_or_default();
    let uid = texts(UID).next().unwrap_or_default();
    let mut groups: Vec<String> = texts(GROUP).map(str::to_owned).collect();
    let extra = extra(headers);
    if name.is_empty() {
        if !uid.is_empty() || !groups.is_empty() || !extra.is_empty() {
            let what = "requested to impersonate without impersonating a user";
            return Err(ApiError::BadRequest(what.into()));
        }
        return Ok(None);
    }
    let may = |attributes: Attributes<'_>| {
        authorizer.authorize(user, &Attributes { verb: "impersonate", ..attributes })
    };
    let account = name.strip_prefix("system:serviceaccount:").and_then(|account| account.split_once(':'));
    match account {
        Some((namespace, name)) => {
            may(Attributes { resource: "serviceaccounts", namespace, name, ..Attributes::default() })?;
        }
        None => may(Attributes { resource: "users", name, ..Attributes::default() })?,
    }
    for name in &groups {
        may(Attributes { resource: "groups", name, ..Attributes::default() })?;
    }
    for (key, values) in &extra {
        for name in values {
            may(Attributes {
                group: IDENTITIES,
                resource: "userextras",
                subresource: key,
                name,
                ..Attributes::default()
            })?;
        }
    }
    if !uid.is_empty() {
        may(Attributes { group: IDENTITIES, resource: "uids", name: uid, ..Attributes::default() })?;
    }
    if groups.is_empty()
        && let Some((namespace, _)) = account
    {
        groups = vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")];
    }
    if !groups.iter().any(|group| group == AUTHENTICATED || group == UNAUTHENTICATED) {
        groups.push(if name == ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED }.into());
    }
    Ok(Some(Arc::new(User {
        name: name.into(),
        uid: uid.into(),
        groups: groups.into(),
        extra: Arc::new(extra),
    })))
}

fn extra(headers: &HeaderMap) -> Extra {
    let mut extra: Extra = BTreeMap::new();
    for (name, value) in headers {
        // Header names are in lower case already.
        let Some(key) = name.as_str().strip_prefix(EXTRA) else { continue };
        let key = percent_decode_str(key).decode_utf8_lossy().to_lowercase();
        if let Ok(value) = value.to_str() {
            extra.entry(key).or_default().push(value.into());
        }
    }
    extra
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn act(user: &User, headers: &[(&str, &str)]) -> Result<Option<Arc<User>>, String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: HeaderName = name.parse().expect("a name");
            map.append(name, HeaderValue::from_str(value).expect("a value"));
        }
        let authorizer = Authorizer::of_defaults();
        impersonated(&Arc::new(user.clone()), &map, &authorizer).map_err(|error| error.to_string())
    }

    fn root() -> User {
        User::new("root", vec!["system:masters".into()])
    }

    #[test]
    fn headers_name_another_user() {
        let acted = |headers: &[(&str, &str)]| act(&root(), headers).expect("allowed");
        assert_eq!(acted(&[]), None);
        let jane = acted(&[
            ("Impersonate-User", "jane"),
            ("Impersonate-Group", "devs"),
            ("Impersonate-Group", "ops"),
            ("Impersonate-Uid", "7"),
            ("Impersonate-Extra-shop.example%2Frole", "Cook"),
        ])
        .expect("jane");
        assert_eq!((&*jane.name, &*jane.uid), ("jane", "7"));
        assert_eq!(*jane.groups, ["devs", "ops", "system:authenticated"]);
        assert_eq!(jane.extra["shop.example/role"], ["Cook"]);
        let account = acted(&[("Impersonate-User", "system:serviceaccount:shop:ci")]).expect("an account");
        assert_eq!(
            *account.groups,
            ["system:serviceaccounts", "system:serviceaccounts:shop", "system:authenticated"]
        );
        let nobody = acted(&[("Impersonate-User", "system:anonymous")]).expect("nobody");
        assert_eq!(*nobody.groups, ["system:unauthenticated"]);
    }

    #[test]
    fn each_claim_must_be_allowed() {
        let joe = User::new("joe", vec![]);
        let refused = |headers: &[(&str, &str)]| act(&joe, headers).expect_err("refused");
        assert_eq!(
            refused(&[("Impersonate-User", "jane")]),
            r#"users "jane" is forbidden: User "joe" cannot impersonate resource "users" in API group "" at the cluster scope"#
        );
        assert_eq!(
            refused(&[("Impersonate-User", "system:serviceaccount:shop:ci")]),
            r#"serviceaccounts "ci" is forbidden: User "joe" cannot impersonate resource "serviceaccounts" in API group "" in the namespace "shop""#
        );
        assert_eq!(
            refused(&[("Impersonate-Group", "system:masters")]),
            "requested to impersonate without impersonating a user"
        );
    }
}
