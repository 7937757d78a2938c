//! `pods/proxy`, `services/proxy` and `nodes/proxy`: HTTP to what runs in the cluster, as `kubectl proxy` uses it.
//!
//! The name in the path says where to: `NAME`, `NAME:PORT` or `SCHEME:NAME:PORT`. What follows `proxy` is passed on as
//! it is, and so are method, query, body and answer. Credentials stay here, and the answer's `Location` is made one
//! that works from outside. Clients that upgrade get a tunnel.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::Empty;
use k8s_openapi::api::core::v1::{EndpointAddress, Endpoints, Pod, Service};
use naru_model::Object;
use rand::seq::IndexedRandom as _;

use super::{
    body::Body,
    handler::Exchange,
    upstream::{self, Upstream},
};
use crate::{
    ApiError,
    registry::Call,
    store::{Key, Store},
};

/// Answers `…/NAME/proxy` and all below; `asked` is what follows in the URL, with its slash, and `path` what the server
/// is asked for.
pub async fn answer(
    exchange: Exchange<'_>,
    call: &Call<'_>,
    asked: &str,
    path: &str,
) -> Result<Response<Body>, ApiError> {
    let state = exchange.state;
    let target = Target::parse(call.name)?;
    let server = target.server(&exchange, call)?;
    let parts = exchange.parts;
    if asked.is_empty() && matches!(parts.method, Method::GET | Method::HEAD) {
        return redirect_to_root(&parts.uri);
    }

    let host = exchange.host().to_owned();
    let path_and_query = match (path, parts.uri.query()) {
        ("", None) => "/".to_owned(),
        ("", Some(query)) => format!("/?{query}"),
        (path, None) => path.to_owned(),
        (path, Some(query)) => format!("{path}?{query}"),
    };
    let mut head = Request::builder().method(&parts.method).uri(path_and_query).body(());
    if let Ok(request) = &mut head {
        let mut headers = upstream::passed_on(&parts.headers);
        headers.remove(header::EXPECT); // Answered here.
        if let Ok(host) = HeaderValue::from_str(&host) {
            headers.insert(header::HOST, host);
        }
        if let Ok(uri) = HeaderValue::from_str(parts.uri.path()) {
            headers.insert("x-forwarded-uri", uri);
        }
        *request.headers_mut() = headers;
    }
    let (head, ()) = head.map_err(|error| ApiError::BadRequest(error.to_string()))?.into_parts();

    let unreachable = |error| ApiError::Unavailable(format!("error trying to reach service: {error}"));
    if let Some(client) = upstream::upgrade_of(parts) {
        let request = Request::from_parts(head, Empty::<Bytes>::new());
        let answer = server.send(request, &state.shutdown).await.map_err(unreachable)?;
        return Ok(match answer.status() {
            StatusCode::SWITCHING_PROTOCOLS => upstream::tunnel(client, answer, state.shutdown.clone()),
            _ => upstream::pass_back(answer),
        });
    }
    let request = Request::from_parts(head, exchange.body);
    let answer = server.send(request, &state.shutdown).await.map_err(unreachable)?;
    let mut response = upstream::pass_back(answer);
    let prefix = parts.uri.path().strip_suffix(asked).unwrap_or_default();
    let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
    let rewritten =
        location.and_then(|location| seen_from_outside(location, prefix, &server.address(), &host));
    if let Some(Ok(location)) = rewritten.map(HeaderValue::try_from) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// Relative links of a page need a folder to be relative to.
fn redirect_to_root(uri: &Uri) -> Result<Response<Body>, ApiError> {
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let location = HeaderValue::try_from(format!("{}/{query}", uri.path()));
    let location = location.map_err(|error| ApiError::BadRequest(error.to_string()))?;
    let mut response = Response::new(Body::Full(None));
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

/// Where a redirection of the server leads for a client outside; `None` where it is right as it is.
fn seen_from_outside(location: &str, prefix: &str, server: &str, host: &str) -> Option<String> {
    let (authority, path) = match location.split_once("://") {
        Some((_, rest)) => rest.find(['/', '?']).map_or((rest, ""), |slash| rest.split_at(slash)),
        None => ("", location),
    };
    let is_elsewhere = !authority.is_empty() && authority != server && authority != host;
    let is_relative = authority.is_empty() && !path.starts_with('/') || path.starts_with("//");
    if is_elsewhere || is_relative || path.starts_with(prefix) {
        return None;
    }
    Some(format!("{prefix}{path}"))
}

/// What the name in the URL says.
#[derive(Debug, PartialEq, Eq)]
struct Target<'a> {
    is_tls: bool,
    name: &'a str,
    /// A number, or a port's name; "" for the first or only one.
    port: &'a str,
}

impl<'a> Target<'a> {
    fn parse(text: &'a str) -> Result<Self, ApiError> {
        let invalid = || ApiError::BadRequest(format!("invalid proxy request {text:?}"));
        let parts: Vec<&str> = text.split(':').collect();
        let (scheme, name, port) = match parts.as_slice() {
            [name] => ("", *name, ""),
            [name, port] => ("", *name, *port),
            [scheme @ ("" | "http" | "https"), name, port] => (*scheme, *name, *port),
            _ => return Err(invalid()),
        };
        if name.is_empty() {
            return Err(invalid());
        }
        Ok(Self { is_tls: scheme == "https", name, port })
    }

    fn server(&self, exchange: &Exchange<'_>, call: &Call<'_>) -> Result<Upstream, ApiError> {
        let (nodes, store) = (&exchange.state.nodes, exchange.state.registry.store());
        match call.served.info.plural {
            "nodes" => {
                let agent = nodes.agent(store, self.name)?;
                match self.port {
                    "" => Ok(agent),
                    port if port.parse() == Ok(agent.port) => Ok(agent),
                    port => Ok(nodes.other(&agent.host, number(port)?, self.is_tls)),
                }
            }
            "pods" => {
                let (address, port) = self.of_pod(store, call)?;
                Ok(nodes.other(&address, port, self.is_tls))
            }
            _ => {
                let (address, port) = self.of_service(store, call)?;
                Ok(nodes.other(&address, port, self.is_tls))
            }
        }
    }

    fn of_pod(&self, store: &Store, call: &Call<'_>) -> Result<(String, u16), ApiError> {
        let pod: Arc<Pod> = get(store, "pods", call.namespace, self.name)?;
        let status = pod.status.clone().unwrap_or_default();
        let address = status.pod_ip.filter(|address| !address.is_empty());
        let address = address.ok_or_else(|| {
            ApiError::BadRequest(format!("pod {} has no address yet: it was not started", self.name))
        })?;
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        let first = containers.flat_map(|container| container.ports.iter().flatten()).next();
        let port = match (self.port, first) {
            ("", Some(port)) => u16::try_from(port.container_port).unwrap_or_default(),
            ("", None) => default_port(self.is_tls),
            (port, _) => number(port)?,
        };
        Ok((address, port))
    }

    /// One of the service's ready pods, as its Endpoints have them.
    fn of_service(&self, store: &Store, call: &Call<'_>) -> Result<(String, u16), ApiError> {
        let none = || ApiError::Unavailable(format!("no endpoints available for service {:?}", self.name));
        let service: Arc<Service> = get(store, "services", call.namespace, self.name)?;
        let named;
        let port = match self.port.parse::<i32>() {
            Err(_) => self.port,
            Ok(number) => {
                let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
                let found = ports.into_iter().find(|port| port.port == number).ok_or_else(|| {
                    ApiError::Unavailable(format!(
                        "no service port {number} found for service {:?}",
                        self.name
                    ))
                })?;
                named = found.name.clone().unwrap_or_default();
                &named
            }
        };
        let endpoints: Arc<Endpoints> =
            get(store, "endpoints", call.namespace, self.name).map_err(|_| none())?;
        let mut candidates = Vec::new();
        for subset in endpoints.subsets.iter().flatten() {
            let ports = subset.ports.iter().flatten();
            let Some(port) = ports.into_iter().find(|of| of.name.as_deref().unwrap_or_default() == port)
            else {
                continue;
            };
            let port = u16::try_from(port.port).unwrap_or_default();
            let addresses = subset.addresses.iter().flatten();
            candidates.extend(
                addresses
                    .filter(|address| is_of_pod(store, call.namespace, address))
                    .map(|address| (address.ip.clone(), port)),
            );
        }
        candidates.choose(&mut rand::rng()).cloned().ok_or_else(none)
    }
}

/// Whoever may write Endpoints must not reach, through here, what only the API server reaches.
fn is_of_pod(store: &Store, namespace: &str, address: &EndpointAddress) -> bool {
    let Some(target) = address.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"))
    else {
        return false;
    };
    let name = target.name.as_deref().unwrap_or_default();
    if target.namespace.as_deref() != Some(namespace) {
        return false;
    }
    let pod: Result<Arc<Pod>, _> = get(store, "pods", namespace, name);
    pod.is_ok_and(|pod| pod.status.as_ref().and_then(|status| status.pod_ip.as_ref()) == Some(&address.ip))
}

fn get<T: Object>(store: &Store, resource: &str, namespace: &str, name: &str) -> Result<Arc<T>, ApiError> {
    let entry = store.snapshot().get(&Key::new(resource, namespace, name));
    let entry = entry.ok_or_else(|| ApiError::NotFound { resource: resource.into(), name: name.into() })?;
    entry.typed().map_err(|error| ApiError::Internal(error.to_string()))
}

fn number(port: &str) -> Result<u16, ApiError> {
    let number = port.parse().ok().filter(|port| *port != 0);
    number.ok_or_else(|| {
        ApiError::BadRequest(format!("invalid port {port:?}: a number from 1 to 65535 is wanted"))
    })
}

fn default_port(is_tls: bool) -> u16 {
    if is_tls { 443 } else { 80 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_say_scheme_and_port() {
        let parse = |text| Target::parse(text).ok().map(|target| (target.is_tls, target.name, target.port));
        assert_eq!(parse("web"), Some((false, "web", "")));
        assert_eq!(parse("web:80"), Some((false, "web", "80")));
        assert_eq!(parse("https:web:main"), Some((true, "web", "main")));
        assert_eq!(parse("http:web:"), Some((false, "web", "")));
        assert_eq!(parse(":web:80"), Some((false, "web", "80")));
        for wrong in ["ftp:web:21", "a:b:c:d", ":80", ""] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn redirections_lead_back_through_the_proxy() {
        let check = |location, expected: Option<&str>| {
            let seen = seen_from_outside(location, "/proxy", "10.0.0.1:80", "api:6443");
            assert_eq!(seen.as_deref(), expected, "{location}");
        };
        check("/login?next=%2F", Some("/proxy/login?next=%2F"));
        check("http://10.0.0.1:80/login", Some("/proxy/login"));
        check("https://api:6443/login", Some("/proxy/login"));
        check("/proxy/login", None);
        check("login", None);
        check("https://example.org/login", None);
        check("//example.org/login", None);
    }
}
