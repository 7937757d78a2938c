//! Resources that are not stored: worked out, or carried out, when asked for.

use std::sync::Arc;

use http::{Response, StatusCode};
use k8s_openapi::{
    api::core::v1::{Binding, ComponentCondition, ComponentStatus},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use naru_model::Object;
use serde_json::json;

use super::{
    body::Body,
    encoding::Encoding,
    form::{self, Form},
    handler::{Exchange, State, json_response},
    list, resource_metrics, resources, reviews,
    select::Filter,
};
use crate::{
    ApiError,
    registry::{Call, Served},
    store::{Draft, Entry, Key, Revision},
};

/// Answers a request for an object or the collection of a resource that is not stored.
pub async fn answer(
    exchange: Exchange<'_>,
    served: &Arc<Served>,
    call: &Call<'_>,
    verb: &str,
) -> Result<Response<Body>, ApiError> {
    match (served.qualified.as_str(), verb) {
        ("componentstatuses", _) => components(exchange, served, call, verb).await,
        ("nodes.metrics.k8s.io" | "pods.metrics.k8s.io", _) => {
            resource_metrics::answer(exchange, served, call, verb).await
        }
        ("bindings", "create") => bind(exchange, call).await,
        _ => reviews::answer(exchange, call).await,
    }
}

/// A Binding in the collection names its pod itself.
async fn bind(exchange: Exchange<'_>, call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let registry = exchange.state.registry.clone();
    let pods = registry.kinds().named("pods").ok_or(ApiError::NoSuchPath)?.clone();
    let binding: Binding = exchange.read_message("Binding", |_| ()).await?;
    let name = binding.metadata.name.clone().unwrap_or_default();
    if name.is_empty() {
        return Err(ApiError::BadRequest("name is required".into()));
    }
    registry.bind(&Call { served: &pods, name: &name, ..*call }, binding).await?;
    Ok(resources::created())
}

async fn components(
    exchange: Exchange<'_>,
    served: &Arc<Served>,
    call: &Call<'_>,
    verb: &str,
) -> Result<Response<Body>, ApiError> {
    let (form, encoding) = resources::negotiate(&exchange, served)?;
    form.check(verb != "get", || form::go_type(served, verb != "get"))?;
    let entries = entries(exchange.state).await?;
    if verb == "get" {
        let entry = entries.iter().find(|entry| entry.meta.name == call.name);
        let entry = entry.ok_or_else(|| call.not_found())?;
        return Ok(json_response(StatusCode::OK, form.object(served, entry)?));
    }
    let filter = Filter::new(served, call, &exchange.query)?;
    let chosen = entries.into_iter().filter(|entry| filter.matches(entry)).collect();
    listed(served, (form, encoding), chosen).await
}

/// The answer to a list of what is not stored.
pub(super) async fn listed(
    served: &Served,
    (form, encoding): (Form, Encoding),
    entries: Vec<Arc<Entry>>,
) -> Result<Response<Body>, ApiError> {
    let body = list::answer(served, (form, encoding), entries, json!({})).await?;
    Ok(resources::list_response(encoding, body))
}

/// `object` as it would be if it were stored under `key`; what is not has no revision.
pub(super) fn unstored<T: Object>(key: Key, object: &T) -> Result<Arc<Entry>, ApiError> {
    unstored_draft(key, Draft::new(object))
}

/// The same of an object that was serialized already.
pub(super) fn unstored_draft(
    key: Key,
    draft: Result<Draft, serde_json::Error>,
) -> Result<Arc<Entry>, ApiError> {
    let mut draft = draft.map_err(|error| ApiError::Internal(error.to_string()))?;
    draft.revision_at = 0;
    Ok(Arc::new(Entry::new(key, Revision(0), &draft)))
}

/// The parts of this process, and its store, under the names that Kubernetes gives them.
async fn entries(state: &State) -> Result<Vec<Arc<Entry>>, ApiError> {
    let stopping = state.shutdown.is_cancelled().then(|| "the server is shutting down".to_owned());
    let store = state.registry.store().read_index().await.err().map(|error| error.to_string());
    let parts = [("controller-manager", stopping.clone()), ("scheduler", stopping), ("etcd-0", store)];
    parts.into_iter().map(|(name, failure)| entry(name, failure)).collect()
}

fn entry(name: &str, failure: Option<String>) -> Result<Arc<Entry>, ApiError> {
    let condition = ComponentCondition {
        type_: "Healthy".into(),
        status: if failure.is_none() { "True" } else { "False" }.into(),
        message: failure.is_none().then(|| "ok".into()),
        error: failure,
    };
    let object = ComponentStatus {
        metadata: ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() },
        conditions: Some(vec![condition]),
    };
    unstored(Key::new("componentstatuses", "", name), &object)
}
