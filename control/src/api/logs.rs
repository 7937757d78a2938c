//! Container logs: fetched from the agent of the pod's node, passed on as they come.

use std::sync::Arc;

use futures::StreamExt;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::BodyDataStream;
use k8s_openapi::api::core::v1::Pod;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::{
    body::Body,
    handler::{Exchange, json_response},
    nodes::container,
    query::Query,
    upstream,
};
use crate::{ApiError, registry::Call};

/// Answers `GET …/pods/NAME/log`.
pub async fn answer(exchange: Exchange<'_>, call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let state = exchange.state;
    let entry = state.registry.entry(call)?;
    let pod: Arc<Pod> = entry.typed().map_err(|error| ApiError::Internal(error.to_string()))?;
    let spec = pod.spec.clone().unwrap_or_default();
    check_options(&exchange.query)?;
    let container = container(call.name, &spec, exchange.query.text("container"), true)?;
    let Some(node) = spec.node_name.as_deref().filter(|node| !node.is_empty()) else {
        // A pod that runs nowhere has said nothing.
        return Ok(text(Body::Full(None)));
    };
    let path = log_path(call, &container, &exchange.query);
    let response = state.nodes.get(state.registry.store(), node, &path, &state.shutdown).await?;
    if !response.status().is_success() {
        return Err(upstream::refusal(response).await);
    }
    let shutdown = state.shutdown.clone();
    let pieces = BodyDataStream::new(response.into_body())
        .take_while(|piece| std::future::ready(piece.is_ok()))
        .filter_map(|piece| std::future::ready(piece.ok()))
        .take_until(async move { shutdown.cancelled().await });
    Ok(text(Body::stream(pieces)))
}

fn text(body: Body) -> Response<Body> {
    let mut response = json_response(StatusCode::OK, body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

fn check_options(query: &Query<'_>) -> Result<(), ApiError> {
    let mut errors = naru_model::validation::FieldErrors::default();
    let path = naru_model::validation::Path::new;
    for (name, least) in [("tailLines", 0), ("sinceSeconds", 1), ("limitBytes", 1)] {
        if let Some(value) = query.number(name)?.filter(|value| *value < least) {
            let detail =
                if least == 0 { "must be greater than or equal to 0" } else { "must be greater than 0" };
            errors.invalid(&path(name), value, detail);
        }
    }
    if query.has("sinceSeconds") && query.has("sinceTime") {
        errors.forbidden(&path(""), "at most one of `sinceTime` or `sinceSeconds` may be specified");
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::Invalid { kind: "PodLogOptions".into(), name: String::new(), errors: errors.0 })
}

fn log_path(call: &Call<'_>, container: &str, query: &Query<'_>) -> String {
    let options = [
        "follow",
        "previous",
        "timestamps",
        "tailLines",
        "sinceSeconds",
        "sinceTime",
        "limitBytes",
        "stream",
    ];
    let options: Vec<String> = options
        .into_iter()
        .filter(|name| query.has(name))
        .map(|name| format!("{name}={}", utf8_percent_encode(query.text(name), NON_ALPHANUMERIC)))
        .collect();
    format!("/containerLogs/{}/{}/{container}?{}", call.namespace, call.name, options.join("&"))
}
