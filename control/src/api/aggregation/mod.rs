//! API aggregation: groups and versions that another server serves, as their APIServices say.
//!
//! Such a request is authenticated and authorized here, and passed on with the user's name in headers that the other
//! server trusts, because of the certificate that comes with them. [`Follower`] keeps the list, and finds out who is
//! available. What does not concern it pays one look at an empty list.

mod contents; // What others keep in a namespace that goes.
mod discovery; // What others serve, beside what we serve.
mod documents; // How others describe what they serve.
mod fetch; // One document of another server.
mod follower; // Who is there.
mod local; // The APIServices of what is served here.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body as _;
use http_body_util::Empty;
use k8s_openapi::{
    api::{
        core::v1::Service,
        discovery::v1::{Endpoint, EndpointSlice},
    },
    kube_aggregator::pkg::apis::apiregistration::v1::APIServiceSpec,
};
use percent_encoding::percent_decode_str;
use rand::seq::IndexedRandom as _;
use rustls::{ClientConfig, pki_types::ServerName};
use serde_json::Value;
use tokio::sync::Notify;

pub use contents::Contents;
pub use follower::Follower;

use super::{
    body::{Body, MAX_BODY_BYTES},
    handler::Exchange,
    upstream::{self, Upstream},
};
use crate::{
    ApiError,
    auth::{Attributes, User, pki::Identity},
    store::{Entry, Key, Scope, Store},
};

const SERVICES: &str = "services";
const SLICES: &str = "endpointslices.discovery.k8s.io";
/// The label by which a slice is a Service's.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

const USER: HeaderName = HeaderName::from_static("x-remote-user");
const UID: HeaderName = HeaderName::from_static("x-remote-uid");
const GROUP: HeaderName = HeaderName::from_static("x-remote-group");
const EXTRA: &str = "x-remote-extra-";

/// The servers that serve beside this one.
pub struct Aggregator {
    remotes: ArcSwap<Vec<Arc<Remote>>>,
    /// Their parts of the OpenAPI v2 document.
    parts: ArcSwap<documents::Parts>,
    /// Rung when other servers are there than before.
    changed: Notify,
    /// What we show them, so that they believe who we say the user is.
    identity: Identity,
}

/// A group and version that another server serves.
pub struct Remote {
    pub name: String,
    pub spec: APIServiceSpec,
    tls: Result<Arc<ClientConfig>, String>,
    /// Its `APIResourceList` when it was asked last, or why it is not available.
    pub resources: Result<Value, Unavailable>,
    /// By which clients know its OpenAPI document; the same for as long as that does not change.
    pub openapi_hash: String,
}

/// Why requests for a group and version cannot be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unavailable {
    pub reason: &'static str,
    pub message: String,
}

impl Unavailable {
    fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

impl Aggregator {
    pub fn new(identity: Identity) -> Self {
        Self { remotes: ArcSwap::default(), parts: ArcSwap::default(), changed: Notify::new(), identity }
    }

    /// Who serves a group and version, if another server does.
    pub fn find(&self, group: &str, version: &str) -> Option<Arc<Remote>> {
        let remotes = self.remotes.load();
        remotes.iter().find(|remote| remote.group() == group && remote.version() == version).cloned()
    }

    /// Whether another server answers requests for this path.
    pub fn is_for(&self, path: &str) -> bool {
        let mut segments = path.trim_matches('/').splitn(4, '/');
        match (segments.next(), segments.next(), segments.next()) {
            (Some("apis"), Some(group), Some(version)) => self.find(group, version).is_some(),
            _ => false,
        }
    }

    pub fn remotes(&self) -> Arc<Vec<Arc<Remote>>> {
        self.remotes.load_full()
    }
}

impl Remote {
    pub fn group(&self) -> &str {
        self.spec.group.as_deref().unwrap_or_default()
    }

    pub fn version(&self) -> &str {
        self.spec.version.as_deref().unwrap_or_default()
    }

    /// Where a request goes now, and the name that it is sent to.
    fn server(&self, store: &Store) -> Result<(Upstream, String), Unavailable> {
        let reference = self.spec.service.clone().unwrap_or_default();
        let (namespace, name) = (reference.namespace.unwrap_or_default(), reference.name.unwrap_or_default());
        let port = reference.port.unwrap_or(443);
        let (host, port) = endpoint(store, &namespace, &name, port)?;
        let authority = format!("{name}.{namespace}.svc");
        let failed = |why: String| Unavailable::new("FailedDiscoveryCheck", why);
        let config = self.tls.clone().map_err(failed)?;
        let server_name =
            ServerName::try_from(authority.clone()).map_err(|error| failed(error.to_string()))?;
        Ok((Upstream { host, port, tls: Some((config, server_name)) }, authority))
    }
}

/// One of the addresses behind a port of a Service.
fn endpoint(store: &Store, namespace: &str, name: &str, port: i32) -> Result<(String, u16), Unavailable> {
    let view = store.snapshot();
    let place = format!("service/{name} in {namespace:?}");
    let service: Option<Arc<Service>> =
        view.get(&Key::new(SERVICES, namespace, name)).and_then(|entry| entry.typed().ok());
    let Some(service) = service else {
        return Err(Unavailable::new("ServiceNotFound", format!("{place} is not present")));
    };
    let spec = service.spec.clone().unwrap_or_default();
    if let Some(external) = spec.external_name.filter(|_| spec.type_.as_deref() == Some("ExternalName")) {
        return Ok((external, port as u16));
    }
    let found = spec.ports.iter().flatten().find(|of| of.port == port);
    let Some(found) = found else {
        let message = format!("{place} is not listening on port {port}");
        return Err(Unavailable::new("ServicePortError", message));
    };
    let port_name = found.name.clone().unwrap_or_default();
    // By metadata first: a namespace may have many slices, and each request comes by here.
    let is_own = |slice: &Arc<Entry>| slice.meta.labels.get(SERVICE_NAME).is_some_and(|of| of == name);
    let slices = view.range(&Scope::namespace(SLICES, namespace), None).filter(is_own);
    let mut slices = slices.filter_map(|slice| slice.typed::<EndpointSlice>().ok()).peekable();
    if slices.peek().is_none() {
        let message = format!("cannot find endpointslices for {place}");
        return Err(Unavailable::new("EndpointsNotFound", message));
    }
    let candidates: Vec<(String, u16)> = slices.flat_map(|slice| ready(&slice, &port_name)).collect();
    candidates.choose(&mut rand::rng()).cloned().ok_or_else(|| {
        let message = format!("endpointslices for {place} have no addresses with port name {port_name:?}");
        Unavailable::new("MissingEndpoints", message)
    })
}

/// The addresses of a slice that serve, at its port of this name.
fn ready(slice: &EndpointSlice, port_name: &str) -> Vec<(String, u16)> {
    let ports = slice.ports.iter().flatten();
    let mut ports = ports.filter(|port| port.name.as_deref().unwrap_or_default() == port_name);
    let port = ports.find_map(|port| u16::try_from(port.port?).ok());
    let Some(port) = port else { return Vec::new() };
    let is_ready = |of: &&Endpoint| of.conditions.as_ref().and_then(|of| of.ready).unwrap_or(true);
    let endpoints = slice.endpoints.iter().flatten().filter(is_ready);
    endpoints.filter_map(|of| Some((of.addresses.first()?.clone(), port))).collect()
}

/// Answers a request below `/apis/GROUP/VERSION` of another server.
///
/// It takes a seat like any other, until the other server answers; one that becomes a stream does not. A body that is
/// not known to be short is passed on as it comes, and keeps no seat while it does.
pub async fn answer(mut exchange: Exchange<'_>, remote: &Remote) -> Result<Response<Body>, ApiError> {
    enter(&mut exchange).await?;
    let (method, resource) = (&exchange.parts.method, resource_of(exchange.parts.uri.path()));
    exchange.label.verb = match *method {
        _ if exchange.query.flag("watch") || upstream::is_upgrade(&exchange.parts.headers) => "CONNECT",
        Method::GET if resource.name.is_empty() => "LIST",
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        _ => "DELETE",
    };
    pass_on(exchange, remote).await
}

/// The same for a document of the other server, which was authorized as a path.
pub async fn pass_on(exchange: Exchange<'_>, remote: &Remote) -> Result<Response<Body>, ApiError> {
    let state = exchange.state;
    let unavailable = |message: &str| ApiError::Unavailable(format!("service unavailable: {message}"));
    if let Err(why) = &remote.resources {
        return Err(unavailable(&why.message));
    }
    let server = remote.server(state.registry.store());
    let (server, authority) = server.map_err(|why| unavailable(&why.message))?;
    let parts = exchange.parts;
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let mut request = Request::builder().method(&parts.method).uri(target).body(());
    if let Ok(request) = &mut request {
        let mut headers = upstream::passed_on(&parts.headers);
        headers.remove(header::EXPECT); // Answered here.
        identify(&mut headers, &exchange.user).map_err(ApiError::Unavailable)?;
        if let Ok(authority) = HeaderValue::try_from(authority) {
            headers.insert(header::HOST, authority);
        }
        *request.headers_mut() = headers;
    }
    let (head, ()) = request.map_err(|error| ApiError::BadRequest(error.to_string()))?.into_parts();
    let failed = |error| ApiError::Unavailable(format!("error trying to reach service: {error}"));
    if let Some(client) = upstream::upgrade_of(parts) {
        let request = Request::from_parts(head, Empty::<Bytes>::new());
        let answer = server.send(request, &state.shutdown).await.map_err(failed)?;
        return Ok(match answer.status() {
            StatusCode::SWITCHING_PROTOCOLS => upstream::tunnel(client, answer, state.shutdown.clone()),
            _ => upstream::pass_back(answer),
        });
    }
    let answer =
        server.send(Request::from_parts(head, exchange.body), &state.shutdown).await.map_err(failed)?;
    Ok(upstream::pass_back(answer))
}

/// Says who the user is, and takes away what the client itself said of that.
///
/// # Errors
/// A sentence, where headers cannot say it: what is not said in full would pass for somebody else.
fn identify(headers: &mut HeaderMap, user: &User) -> Result<(), String> {
    let claimed: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("x-remote-")).cloned().collect();
    for name in claimed {
        headers.remove(name);
    }
    let mut say = |name: HeaderName, value: &str| match HeaderValue::from_bytes(value.as_bytes()) {
        Ok(value) => {
            headers.append(name, value);
            Ok(())
        }
        Err(_) => Err(format!("error trying to reach service: no header can carry {name}: {value:?}")),
    };
    say(USER, &user.name)?;
    if !user.uid.is_empty() {
        say(UID, &user.uid)?;
    }
    for group in user.groups.iter() {
        say(GROUP, group)?;
    }
    let extra: &BTreeMap<_, _> = &user.extra;
    for (key, values) in extra {
        let key = percent_encoding::utf8_percent_encode(key, KEY);
        let name = HeaderName::try_from(format!("{EXTRA}{key}"));
        let name =
            name.map_err(|_| format!("error trying to reach service: no header is named {EXTRA}{key}"))?;
        for value in values {
            say(name.clone(), value)?;
        }
    }
    Ok(())
}

/// What a header's name cannot hold is written as in a URL.
const KEY: &percent_encoding::AsciiSet =
    &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_');

/// What a path below `/apis/GROUP/VERSION` names, without knowing what is served there.
#[derive(Debug, Default, PartialEq, Eq)]
struct Named {
    group: String,
    namespace: String,
    resource: String,
    name: String,
    subresource: String,
}

fn resource_of(path: &str) -> Named {
    let decoded = |segment: &str| percent_decode_str(segment).decode_utf8_lossy().into_owned();
    let segments: Vec<String> = path.trim_matches('/').split('/').map(decoded).collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let (group, rest) = match segments.as_slice() {
        ["apis", group, _, rest @ ..] => (*group, rest),
        _ => ("", &[][..]),
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
        rest => ("", rest),
    };
    let part = |index: usize| rest.get(index).copied().unwrap_or_default().to_owned();
    Named {
        group: group.into(),
        namespace: namespace.into(),
        resource: part(0),
        name: part(1),
        subresource: part(2),
    }
}

/// Authorizes the request and seats it.
async fn enter(exchange: &mut Exchange<'_>) -> Result<(), ApiError> {
    let named = resource_of(exchange.parts.uri.path());
    if named.resource.is_empty() {
        return exchange.enter_path().await;
    }
    let is_one = !named.name.is_empty();
    let verb = match exchange.parts.method {
        Method::GET | Method::HEAD if exchange.query.flag("watch") => "watch",
        Method::GET | Method::HEAD if is_one => "get",
        Method::GET | Method::HEAD => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if is_one => "delete",
        Method::DELETE => "deletecollection",
        _ => "",
    };
    let attributes = Attributes {
        verb,
        group: &named.group,
        resource: &named.resource,
        subresource: &named.subresource,
        namespace: &named.namespace,
        name: &named.name,
        ..Attributes::default()
    };
    let user = exchange.user.clone();
    if upstream::is_upgrade(&exchange.parts.headers) {
        return exchange.authorize(&user, &attributes);
    }
    let is_short = exchange.body.size_hint().upper().is_some_and(|len| len <= MAX_BODY_BYTES as u64);
    if is_short {
        return exchange.enter(&user, &attributes, 1).await;
    }
    let path = exchange.parts.uri.path();
    exchange.flow.take_seat(exchange.state, &user, &attributes, (1, path)).await?;
    exchange.flow.stand_up();
    exchange.authorize(&user, &attributes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_understood_without_its_kind() {
        let named = |path| {
            let Named { group, namespace, resource, name, subresource } = resource_of(path);
            [group, namespace, resource, name, subresource].join("|")
        };
        assert_eq!(named("/apis/g.io/v1"), "g.io||||");
        assert_eq!(named("/apis/g.io/v1/things"), "g.io||things||");
        assert_eq!(named("/apis/g.io/v1/namespaces/a/things/b/status"), "g.io|a|things|b|status");
        assert_eq!(named("/apis/g.io/v1/things/b%2Fc"), "g.io||things|b/c|");
    }

    #[test]
    fn who_the_user_is_is_said_here_alone() {
        let mut headers = HeaderMap::new();
        headers.insert(USER, HeaderValue::from_static("root"));
        headers.insert("x-remote-extra-scopes", HeaderValue::from_static("all"));
        identify(&mut headers, &User::new("jane", vec!["devs".into()])).expect("it can be said");
        assert_eq!(headers[USER], "jane");
        let groups: Vec<_> = headers.get_all(GROUP).into_iter().collect();
        assert_eq!(groups, ["devs", "system:authenticated"]);
        assert!(!headers.contains_key("x-remote-extra-scopes"));
        // Whoever has a name from elsewhere is not left out: the other server would believe our certificate instead.
        identify(&mut headers, &User::new("jörg", vec!["böse".into()])).expect("it can be said");
        assert_eq!(
            (headers[USER].as_bytes(), headers[GROUP].as_bytes()),
            ("jörg".as_bytes(), "böse".as_bytes())
        );
        identify(&mut headers, &User::new("jane\nroot", Vec::new())).expect_err("it cannot");
    }
}
