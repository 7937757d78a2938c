//! What a request for resources is about: which resource, object and subresource its path names, and what its method
//! means there.

use std::sync::Arc;

use http::Method;
use percent_encoding::percent_decode_str;

use super::{handler::Exchange, metrics::RequestKind, query::Query};
use crate::{ApiError, registry::Served};

/// What the path of a URL names.
pub struct Place {
    pub served: Arc<Served>,
    pub namespace: String,
    pub name: String,
    pub subresource: String,
    /// Whether the path itself asks for a watch: `/api/v1/watch/pods`, deprecated, but served by Kubernetes to this
    /// day.
    pub is_watch: bool,
    /// What follows a subresource that leads to somebody else, as it stands in the URL, with its slash.
    pub rest: String,
}

impl Place {
    /// Understands the path.
    pub fn find(exchange: &Exchange<'_>) -> Result<Self, ApiError> {
        let segments: Vec<String> = exchange
            .parts
            .uri
            .path()
            .trim_matches('/')
            .split('/')
            .map(|segment| percent_decode_str(segment).decode_utf8_lossy().into_owned())
            .collect();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let (group, version, rest) = match segments.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return Err(ApiError::NoSuchPath),
        };
        let (is_watch, rest) = match rest {
            ["watch", rest @ ..] if !rest.is_empty() => (true, rest),
            _ => (false, rest),
        };
        let (namespace, plural, name, subresource) = match rest {
            ["namespaces", namespace, plural, rest @ ..] if !matches!(*plural, "status" | "finalize") => {
                match rest {
                    [] => (*namespace, *plural, "", ""),
                    [name] => (*namespace, *plural, *name, ""),
                    [name, subresource] | [name, subresource @ "proxy", ..] => {
                        (*namespace, *plural, *name, *subresource)
                    }
                    _ => return Err(ApiError::NoSuchPath),
                }
            }
            [plural] => ("", *plural, "", ""),
            [plural, name] => ("", *plural, *name, ""),
            [plural, name, subresource] | [plural, name, subresource @ "proxy", ..] => {
                ("", *plural, *name, *subresource)
            }
            _ => return Err(ApiError::NoSuchPath),
        };
        let kinds = exchange.state.registry.kinds();
        let served = kinds.find(group, version, plural).ok_or(ApiError::NoSuchPath)?.clone();
        // A namespaced object is only found in its namespace, a cluster-scoped one in none.
        let is_misplaced = if served.info.namespaced {
            namespace.is_empty() && !name.is_empty()
        } else {
            !namespace.is_empty()
        };
        let has_subresource = subresource.is_empty() || (served.has_subresource(subresource) && !is_watch);
        if is_misplaced {
            return Err(ApiError::NoSuchPath);
        }
        if !has_subresource {
            // Where a definition made the kind, it is the object that is not there.
            return Err(if served.kind.is_custom() && !is_watch {
                ApiError::NotFound { resource: served.qualified.clone(), name: name.into() }
            } else {
                ApiError::NoSuchPath
            });
        }
        let path = exchange.parts.uri.path();
        let taken = if namespace.is_empty() { 3 } else { 5 };
        let rest = match subresource {
            "proxy" => after_segments(path, segments.len() - rest.len() + taken).into(),
            _ => String::new(),
        };
        let (namespace, name, subresource) = (namespace.into(), name.into(), subresource.into());
        Ok(Self { served, namespace, name, subresource, is_watch, rest })
    }

    /// What the method of a request means here.
    pub fn verb(&self, exchange: &Exchange<'_>) -> Result<&'static str, ApiError> {
        if self.subresource == "proxy" {
            return Ok(match exchange.parts.method {
                Method::GET | Method::HEAD => "get",
                Method::POST => "create",
                Method::PUT => "update",
                Method::PATCH => "patch",
                Method::DELETE => "delete",
                _ => "",
            });
        }
        let is_one = !self.name.is_empty();
        let verb = match (&exchange.parts.method, is_one) {
            (&Method::GET, _) if self.is_watch => "watch",
            (_, _) if self.is_watch => return Err(ApiError::MethodNotAllowed),
            (&Method::GET, true) => "get",
            (&Method::GET, false) if exchange.query.flag("watch") => "watch",
            (&Method::GET, false) => "list",
            (&Method::POST, false) => "create",
            (&Method::POST, true) if !self.subresource.is_empty() => "create",
            (&Method::PUT, true) => "update",
            (&Method::PATCH, true) => "patch",
            (&Method::DELETE, true) if self.subresource.is_empty() => "delete",
            (&Method::DELETE, false) => "deletecollection",
            _ => return Err(ApiError::MethodNotAllowed),
        };
        let needs_namespace = verb == "create" || verb == "deletecollection";
        if self.served.info.namespaced && self.namespace.is_empty() && needs_namespace {
            return Err(ApiError::MethodNotAllowed);
        }
        if self.subresource.is_empty() && !self.served.info.verbs.contains(&verb) {
            // A custom resource has every verb, until its definition goes.
            if self.served.kind.is_custom() {
                return Err(ApiError::NotAllowedNow {
                    resource: self.served.qualified.clone(),
                    message: format!("{verb} not allowed while custom resource definition is terminating"),
                });
            }
            return Err(ApiError::MethodNotAllowed);
        }
        Ok(verb)
    }

    /// What a request with this verb is called in metrics.
    pub fn label(&self, query: &Query<'_>, verb: &'static str) -> RequestKind {
        let info = self.served.info;
        let scope = match verb {
            "create" => "resource",
            _ if !self.name.is_empty() => "resource",
            _ if !self.namespace.is_empty() => "namespace",
            _ => "cluster",
        };
        let verb = match verb {
            _ if self.is_connection() => "CONNECT",
            // Logs may be followed for long, as watches are.
            "get" if self.subresource == "log" => "WATCH",
            "get" => "GET",
            "list" => "LIST",
            "watch" => "WATCH",
            "create" => "POST",
            "update" => "PUT",
            "patch" => "PATCH",
            "delete" => "DELETE",
            _ => "DELETECOLLECTION",
        };
        RequestKind {
            dry_run: if query.text("dryRun") == "All" { "All" } else { "" },
            group: info.group,
            resource: info.plural,
            scope,
            subresource: self.subresource.clone(),
            verb,
            version: info.version,
        }
    }

    /// Whether a subresource leads to somebody else, and has no object of its own.
    pub fn is_connection(&self) -> bool {
        matches!(self.subresource.as_str(), "attach" | "exec" | "portforward" | "proxy")
    }

    /// Whether a request takes no seat, as it may go on for as long as the client likes. A watch takes one until it has
    /// begun.
    pub fn is_long_running(&self, verb: &str) -> bool {
        self.is_connection() || (verb == "get" && self.subresource == "log")
    }
}

/// What follows the first `count` segments of a path.
fn after_segments(path: &str, count: usize) -> &str {
    let path = path.trim_start_matches('/');
    path.match_indices('/').nth(count - 1).map_or("", |(at, _)| &path[at..])
}
