//! What a request is about by its URL alone, whether that is served or not: what is recorded of it, and what the
//! policy's rules are held against.

use std::borrow::Cow;

use http::{Method, request::Parts};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use crate::auth::Attributes;

const VERBS: &[&str] = &["create", "update", "patch", "delete"];

/// The words of an audit event for verb and object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    pub verb: &'static str,
    pub group: String,
    pub version: String,
    pub namespace: String,
    /// "" for paths that are no resource's.
    pub resource: String,
    pub name: String,
    pub subresource: String,
    pub path: String,
}

impl Target {
    pub fn of(parts: &Parts, is_watch: bool) -> Self {
        let path = parts.uri.path();
        let plain = || Self { verb: verb_of_path(&parts.method), path: path.to_owned(), ..Self::default() };
        let segments: Vec<Cow<'_, str>> = path
            .trim_matches('/')
            .split('/')
            .map(|segment| percent_decode_str(segment).decode_utf8_lossy())
            .collect();
        let segments: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
        let (group, version, rest) = match segments.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => ("", *version, rest),
            ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, *version, rest),
            _ => return plain(),
        };
        // Deprecated, but served: `/api/v1/watch/pods`.
        let (is_watch_path, rest) = match rest {
            ["watch", rest @ ..] if !rest.is_empty() => (true, rest),
            rest => (false, rest),
        };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, sub, ..] if !matches!(*sub, "status" | "finalize") => {
                (*namespace, &rest[2..])
            }
            ["namespaces", namespace, ..] => (*namespace, rest),
            _ => ("", rest),
        };
        let part = |at: usize| rest.get(at).copied().unwrap_or_default();
        let (resource, name, subresource) = (part(0), part(1), part(2));
        let of = Attributes { group, resource, subresource, namespace, name, ..Attributes::default() };
        let verb = match (&parts.method, name.is_empty()) {
            _ if is_watch_path => "watch",
            (&Method::GET | &Method::HEAD, true) if is_watch => "watch",
            (&Method::GET | &Method::HEAD, true) => "list",
            (&Method::GET | &Method::HEAD, false) => "get",
            (&Method::POST, _) => "create",
            (&Method::PUT, _) => "update",
            (&Method::PATCH, _) => "patch",
            (&Method::DELETE, true) => "deletecollection",
            (&Method::DELETE, false) => "delete",
            _ => "",
        };
        Self::new(verb, &of, version, path.into())
    }

    fn new(verb: &'static str, of: &Attributes<'_>, version: &str, path: String) -> Self {
        Self {
            verb,
            group: of.group.into(),
            version: version.into(),
            namespace: of.namespace.into(),
            resource: of.resource.into(),
            name: of.name.into(),
            subresource: of.subresource.into(),
            path,
        }
    }

    /// What a part of the control plane does, with the URL that it would have.
    pub fn named(attributes: &Attributes<'_>, version: &str) -> Self {
        let Attributes { group, resource, subresource, namespace, name, .. } = *attributes;
        let root = if group.is_empty() { "/api".to_owned() } else { format!("/apis/{group}") };
        let mut path = format!("{root}/{version}");
        let place = if resource == "namespaces" || namespace.is_empty() { "" } else { "namespaces" };
        for part in [place, if place.is_empty() { "" } else { namespace }, resource, name, subresource] {
            if !part.is_empty() {
                path.push('/');
                path.push_str(part);
            }
        }
        let verb = VERBS.iter().copied().find(|verb| *verb == attributes.verb).unwrap_or_default();
        Self::new(verb, attributes, version, path)
    }

    pub fn attributes(&self) -> Attributes<'_> {
        let is_resource = !self.resource.is_empty();
        Attributes {
            verb: self.verb,
            group: &self.group,
            resource: &self.resource,
            subresource: &self.subresource,
            namespace: &self.namespace,
            name: &self.name,
            path: if is_resource { "" } else { &self.path },
            field_selector: "",
        }
    }

    /// `objectRef` of an event; None for paths.
    pub fn object_ref(&self) -> Option<Value> {
        if self.resource.is_empty() {
            return None;
        }
        let mut reference = json!({ "resource": self.resource });
        for (key, text) in [
            ("namespace", &self.namespace),
            ("name", &self.name),
            ("apiGroup", &self.group),
            ("apiVersion", &self.version),
            ("subresource", &self.subresource),
        ] {
            if !text.is_empty() {
                reference[key] = text.as_str().into();
            }
        }
        Some(reference)
    }
}

fn verb_of_path(method: &Method) -> &'static str {
    match *method {
        Method::GET => "get",
        Method::HEAD => "head",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::OPTIONS => "options",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(method: &str, uri: &str) -> Target {
        let request = http::Request::builder().method(method).uri(uri).body(()).expect("a request");
        let is_watch = uri.contains("watch=true");
        Target::of(&request.into_parts().0, is_watch)
    }

    #[test]
    fn a_url_says_what_it_is_about() {
        let words = |method, uri| {
            let of = of(method, uri);
            [of.verb.to_owned(), of.group, of.version, of.namespace, of.resource, of.name, of.subresource]
                .join(" ")
        };
        assert_eq!(words("GET", "/api/v1/namespaces/shop/pods/web/log"), "get  v1 shop pods web log");
        assert_eq!(words("GET", "/apis/apps/v1/deployments?watch=true"), "watch apps v1  deployments  ");
        assert_eq!(words("GET", "/api/v1/watch/namespaces/shop/pods"), "watch  v1 shop pods  ");
        assert_eq!(words("GET", "/api/v1/watch/namespaces/shop/pods/web"), "watch  v1 shop pods web ");
        assert_eq!(words("GET", "/apis/apps/v1/watch/deployments"), "watch apps v1  deployments  ");
        assert_eq!(words("GET", "/api/v1/pods/web?watch=true"), "get  v1  pods web ");
        assert_eq!(
            words("DELETE", "/apis/apps/v1/namespaces/shop/deployments"),
            "deletecollection apps v1 shop deployments  "
        );
        assert_eq!(words("POST", "/api/v1/namespaces"), "create  v1  namespaces  ");
        assert_eq!(
            words("PUT", "/api/v1/namespaces/shop/finalize"),
            "update  v1 shop namespaces shop finalize"
        );
        assert_eq!(words("GET", "/api/v1/namespaces/shop"), "get  v1 shop namespaces shop ");
        assert_eq!(words("GET", "/api/v1"), "get      ");
        assert_eq!(words("GET", "/openapi/v3/apis/apps/v1"), "get      ");
        for (method, uri) in [
            ("POST", "/api/v1/namespaces/shop/pods/web/binding"),
            ("PATCH", "/apis/apps/v1/namespaces/shop/deployments/web/status"),
            ("DELETE", "/api/v1/namespaces/shop"),
            ("PUT", "/api/v1/nodes/amber"),
        ] {
            let of = of(method, uri);
            assert_eq!(Target::named(&of.attributes(), &of.version), of);
        }
        assert_eq!(of("GET", "/healthz").attributes().path, "/healthz");
        assert_eq!(of("GET", "/api/v1/pods").attributes().path, "");
        assert_eq!(of("GET", "/api/v1/nodes/a%2Fb").name, "a/b");
    }
}
