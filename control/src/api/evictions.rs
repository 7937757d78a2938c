//! `pods/eviction`: a client asks for a pod to go, as far as budgets allow.

use http::Response;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::{body::Body, handler::Exchange, options::DeleteOptions, resources};
use crate::{ApiError, admission::matching::Operation, registry::Call};

/// An `Eviction` of `policy/v1`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Eviction {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    metadata: ObjectMeta,
    #[serde(skip_serializing_if = "Option::is_none")]
    delete_options: Option<DeleteOptions>,
}

/// Answers `POST …/pods/NAME/eviction`.
pub async fn answer(exchange: Exchange<'_>, call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let registry = &exchange.state.registry;
    let typed = |eviction: &mut Eviction| {
        (eviction.api_version, eviction.kind) = ("policy/v1".into(), "Eviction".into());
    };
    let mut eviction = exchange.read_message("Eviction", typed).await?;
    let metadata = &mut eviction.metadata;
    metadata.name.get_or_insert_with(|| call.name.into());
    call.settle_namespace(metadata)?;
    let check = |eviction: &Eviction| call.check_name_of("Eviction", &eviction.metadata);
    let eviction = registry.admit_message(call, (Operation::Create, "eviction"), eviction, check).await?;
    let (options, dry_run) = eviction.delete_options.unwrap_or_default().check()?;
    let call = Call { dry_run: dry_run || call.dry_run, ..*call };
    registry.evict(&call, &options).await?;
    Ok(resources::created())
}
