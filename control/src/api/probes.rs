//! `/healthz`, `/livez`, `/readyz`, each with `?verbose`, `?exclude=` and single checks as `/livez/CHECK`.

use std::time::Duration;

use http::{Response, StatusCode};

use super::{
    body::Body,
    handler::{State, text_response},
    health::{Check, Health, report, single},
    query::Query,
};
use crate::ApiError;

const PLAIN: &str = "text/plain; charset=utf-8";
const PATIENCE: Duration = Duration::from_secs(2);

/// Answers `/ENDPOINT` or `/ENDPOINT/CHECK`.
pub async fn answer(
    state: &State,
    endpoint: &str,
    check: Option<&str>,
    query: &Query<'_>,
) -> Result<Response<Body>, ApiError> {
    let checks = checks(state, endpoint == "readyz").await;
    let excluded: Vec<&str> = query.all("exclude").collect();
    let health = match check {
        None => report(endpoint, &checks, &excluded, query.has("verbose")),
        Some(name) => single(&checks, name).ok_or(ApiError::NoSuchPath)?,
    };
    let Health { is_healthy, text } = health;
    let status = if is_healthy { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
    Ok(text_response(status, PLAIN, text))
}

async fn checks(state: &State, for_readiness: bool) -> Vec<Check> {
    let store = match tokio::time::timeout(PATIENCE, state.registry.store().read_index()).await {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some("no answer in time".into()),
    };
    // `etcd` is the name under which tools for Kubernetes ask for the store.
    let mut checks = vec![Check { name: "ping", failure: None }, Check { name: "etcd", failure: store }];
    if for_readiness {
        let failure = state.shutdown.is_cancelled().then(|| "the server is shutting down".into());
        checks.push(Check { name: "shutdown", failure });
    }
    checks
}
