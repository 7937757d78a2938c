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
    connections::{self, Options},
    handler::Exchange,
    nodes::{self, container},
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
    let options = connections::admit(&state.registry, call, subresource, &exchange.query, "").await?;
    let entry = state.registry.entry(call)?;
    let pod: Arc<Pod> = entry.typed().map_err(|error| ApiError::Internal(error.to_string()))?;
    let spec = pod.spec.clone().unwrap_or_default();
    let path = match subresource {
        "portforward" => {
            format!("/portForward/{}/{}?{}", call.namespace, call.name, ports(&options))
        }
        _ => {
            let container = container(call.name, &spec, &options.container, false)?;
            let streams = streams(&options);
            format!("/{subresource}/{}/{}/{container}?{streams}", call.namespace, call.name)
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
fn ports(options: &Options) -> String {
    join(options.ports.iter().map(|port| ("port", port.to_string())))
}

fn streams(options: &Options) -> String {
    let Options { stdin, stdout, stderr, tty, .. } = options;
    let flags = [(stdin, "input"), (stdout, "output"), (stderr, "error"), (tty, "tty")];
    let flags = flags.into_iter().filter(|(is_asked, _)| **is_asked).map(|(_, told)| (told, "1".to_owned()));
    join(flags.chain(options.command.iter().map(|argument| ("command", argument.clone()))))
}

fn join<'a>(pairs: impl Iterator<Item = (&'a str, String)>) -> String {
    let pairs: Vec<String> = pairs
        .map(|(name, value)| format!("{name}={}", utf8_percent_encode(&value, NON_ALPHANUMERIC)))
        .collect();
    pairs.join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_told_in_the_kubelet_s_words() {
        let command = ["sh", "-c", "a b&c"].map(Into::into).to_vec();
        let options =
            Options { stdin: true, stdout: true, command, ports: vec![80, 81], ..Options::default() };
        assert_eq!(streams(&options), "input=1&output=1&command=sh&command=%2Dc&command=a%20b%26c");
        assert_eq!(ports(&options), "port=80&port=81");
        assert_eq!(ports(&Options::default()), "");
    }
}
