//! `metrics.k8s.io`: the figures of `crate::resource_metrics` as objects, one for each node or pod that has any.

use std::sync::Arc;

use http::{Response, StatusCode};
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};
use naru_model::quantity::Quantity;

use super::{
    body::Body,
    computed::{listed, unstored},
    handler::{Exchange, json_response},
    resources,
    select::Filter,
};
use crate::{
    ApiError,
    registry::{
        Call, Served,
        resource_metrics::{ContainerMetrics, NodeMetrics, PodMetrics, Usage, Window},
    },
    resource_metrics::{Amounts, Measured, Usages},
    store::{Entry, Key, Scope},
};

/// Answers a get or a list.
pub async fn answer(
    exchange: Exchange<'_>,
    served: &Arc<Served>,
    call: &Call<'_>,
    verb: &str,
) -> Result<Response<Body>, ApiError> {
    let (form, encoding) = resources::negotiate(&exchange, served)?;
    let state = exchange.state;
    // The resource of which figures are told: `nodes` or `pods`, too, but of the core group.
    let source = served.info.plural;
    let filter = Filter::new(served, call, &exchange.query)?;
    let view = state.registry.store().snapshot();
    if verb == "get" {
        let not_found = |resource: &str, name: String| ApiError::NotFound { resource: resource.into(), name };
        let of = view.get(&Key::new(source, call.namespace, call.name));
        let of = of.ok_or_else(|| not_found(source, call.name.into()))?;
        let usages = state.resource_metrics.usages().await;
        let entry = entry(served, &of, &usages).transpose()?.ok_or_else(|| match source {
            "nodes" => not_found("nodemetrics.metrics.k8s.io", call.name.into()),
            _ => not_found("podmetrics.metrics.k8s.io", format!("{}/{}", call.namespace, call.name)),
        })?;
        return Ok(json_response(StatusCode::OK, form.object(served, &entry)?));
    }
    let usages = state.resource_metrics.usages().await;
    let scope = Scope { resource: source.into(), ..filter.scope.clone() };
    let of = served.clone();
    // Much work for many pods, which must not hold up a thread that serves others.
    let made = tokio::task::spawn_blocking(move || {
        let chosen = view.range(&scope, None).filter(|of| filter.matches(of));
        chosen.filter_map(|source| entry(&of, &source, &usages)).collect::<Result<_, _>>()
    });
    let entries = made.await.map_err(|error| ApiError::Internal(error.to_string()))??;
    listed(served, (form, encoding), entries).await
}

/// What the node or pod `of` uses, if that is known.
fn entry(served: &Served, of: &Entry, usages: &Usages) -> Option<Result<Arc<Entry>, ApiError>> {
    let (namespace, name) = (of.meta.namespace.as_str(), of.meta.name.as_str());
    let metadata = ObjectMeta {
        name: Some(name.into()),
        namespace: Some(namespace.to_owned()).filter(|namespace| !namespace.is_empty()),
        labels: Some((*of.meta.labels).clone()).filter(|labels| !labels.is_empty()),
        creation_timestamp: Some(Time(Timestamp::now())),
        ..ObjectMeta::default()
    };
    let key = Key::new(&served.storage, namespace, name);
    Some(if served.info.plural == "nodes" {
        let measured = usages.node(name)?;
        unstored(key, &NodeMetrics::new(metadata, window(measured), usage(measured.value)))
    } else {
        let measured = usages.pod(namespace, name)?;
        let containers = measured.value.iter();
        let containers =
            containers.map(|of| ContainerMetrics { name: of.name.clone(), usage: usage(of.amounts) });
        unstored(key, &PodMetrics::new(metadata, window(measured), containers.collect()))
    })
}

fn window<T>(measured: &Measured<T>) -> Window {
    Window { end: measured.end, length: measured.length }
}

fn usage(amounts: Amounts) -> Usage {
    let cpu = i64::try_from(amounts.cpu_nanocores).unwrap_or(i64::MAX);
    let memory = i64::try_from(amounts.memory_bytes).unwrap_or(i64::MAX);
    [("cpu", Quantity::from_nano(cpu)), ("memory", Quantity::from_bytes(memory))]
        .map(|(name, amount)| (name.to_owned(), amount.into()))
        .into()
}
