//! `pods/exec`, `pods/attach` and `pods/portforward`: connections that become streams.
//!
//! Whoever may do so gets a tunnel to the agent of the pod's node, which speaks the protocols (WebSocket or SPDY,
//! with channels in them); not a byte of them is read here.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response, StatusCode, header};
use http_body_util::Empty;
use k8s_openapi::api::core::v1::Pod;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::{
    body::Body,
    connections,
    handler::Exchange,
    nodes::{self, container},
    query::Query,
    upstream,
};
use crate::{ApiError, registry::Call};

/// The headers that the client and the agent agree by.
const NEGOTIATION: [HeaderName; 7] = [
    header::CONNECTION,
    header::UPGRADE,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    header::SEC_WEBSOCKET_PROTOCOL,
    header::SEC_WEBSOCKET_EXTENSIONS,
    HeaderName::from_static("x-stream-protocol-version"),
];

/// Answers `…/pods/NAME/SUBRESOURCE`.
pub async fn answer(
    exchange: Exchange<'_>,
    call: &Call<'_>,
    verb: &str,
    subresource: &str,
) -> Result<Response<Body>, ApiError> {
    let state = exchange.state;
    if verb == "get" {
        // WebSockets can only begin with GET; that must not make of a right to read one to run things.
        state.registry.authorize(&exchange.user, &call.attributes("create", subresource))?;
    }
    connections::admit(&state.registry, call, subresource, &exchange.query, "").await?;
    let entry = state.registry.entry(call)?;
    let pod: Arc<Pod> = entry.typed().map_err(|error| ApiError::Internal(error.to_string()))?;
    let spec = pod.spec.clone().unwrap_or_default();
    let path = match subresource {
        "portforward" => {
            format!("/portForward/{}/{}?{}", call.namespace, call.name, ports(&exchange.query))
        }
        _ => {
            let container = container(call.name, &spec, exchange.query.text("container"), false)?;
            let options = streams(&exchange.query);
            format!("/{subresource}/{}/{}/{container}?{options}", call.namespace, call.name)
        }
    };
    let Some(node) = spec.node_name.as_deref().filter(|node| !node.is_empty()) else {
        return Err(ApiError::BadRequest(format!("pod {} does not have a host assigned", call.name)));
    };
    let client = upstream::upgrade_of(exchange.parts);
    let client = client.ok_or_else(|| ApiError::BadRequest("Upgrade request required".into()))?;

    let mut request = Request::builder().method(&exchange.parts.method).uri(path).body(Empty::<Bytes>::new());
    if let Ok(request) = &mut request {
        *request.headers_mut() = negotiation(&exchange.parts.headers);
    }
    let request = request.map_err(|error| ApiError::BadRequest(error.to_string()))?;
    let agent = state.nodes.agent(state.registry.store(), node)?;
    let answer = nodes::send(&agent, request, &state.shutdown).await?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(upstream::refusal(answer).await);
    }
    Ok(upstream::tunnel(client, answer, state.shutdown.clone()))
}

fn negotiation(headers: &HeaderMap) -> HeaderMap {
    let passed = upstream::passed_on(headers);
    let known = passed.iter().filter(|(name, _)| NEGOTIATION.contains(name));
    known.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// What the agent is told in the kubelet's words.
fn ports(query: &Query<'_>) -> String {
    let ports = query.all("ports").flat_map(|ports| ports.split(','));
    join(ports.map(|port| ("port", port)))
}

fn streams(query: &Query<'_>) -> String {
    let flags = [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")];
    let flags = flags.into_iter().filter(|(asked, _)| query.flag(asked)).map(|(_, told)| (told, "1"));
    join(flags.chain(query.all("command").map(|argument| ("command", argument))))
}

fn join<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let pairs: Vec<String> = pairs
        .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)))
        .collect();
    pairs.join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_told_in_the_kubelet_s_words() {
        let query =
            Query::parse(Some("command=sh&command=-c&command=a+b%26c&stdin=true&stdout=true&tty=false"));
        assert_eq!(streams(&query), "input=1&output=1&command=sh&command=%2Dc&command=a%20b%26c");
        assert_eq!(ports(&Query::parse(Some("ports=80&ports=81,82"))), "port=80&port=81&port=82");
        assert_eq!(ports(&Query::parse(None)), "");
    }
}
