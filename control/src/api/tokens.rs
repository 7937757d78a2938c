//! `serviceaccounts/token`: tokens on request, bound to what their user names.

use std::sync::Arc;

use http::{Response, StatusCode};
use k8s_openapi::{
    api::{
        authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestStatus},
        core::v1::ServiceAccount,
    },
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use naru_model::{
    PodBrief,
    validation::{FieldErrors, Path},
};
use serde::Deserialize;
use serde_json::json;

use super::{
    body::Body,
    form::{self, Form},
    handler::{Exchange, json_response},
};
use crate::{
    ApiError,
    admission::matching::Operation,
    auth::{Binding, Order, Reference, bound_to_pod},
    registry::Call,
    store::{Entry, Key, Snapshot},
};

const DEFAULT_SECONDS: i64 = 3600;
const MIN_SECONDS: i64 = 600;
const MAX_SECONDS: i64 = 1 << 32;

pub async fn answer(exchange: Exchange<'_>, call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let state = exchange.state.clone();
    let form = negotiate(&exchange)?;
    let default = |request: &mut TokenRequest| {
        request.spec.get_or_insert_default().expiration_seconds.get_or_insert(DEFAULT_SECONDS);
    };
    let request = exchange.read_message("TokenRequest", default).await?;
    check_identity(call, &request)?;
    let to = (Operation::Create, "token");
    let check = |request: &TokenRequest| check_seconds(call, seconds_of(request));
    let mut request = state.registry.admit_message(call, to, request, check).await?;
    let entry = state.registry.entry(call)?;
    let account = entry.typed::<ServiceAccount>().map_err(|error| ApiError::Internal(error.to_string()))?;
    let seconds = seconds_of(&request);
    let spec = request.spec.get_or_insert_default();
    spec.expiration_seconds = Some(seconds);
    let view = state.registry.store().snapshot();
    let binding = match &spec.bound_object_ref {
        Some(reference) => binding(call, reference, &view)?,
        None => Binding::default(),
    };
    check_node(call, spec.bound_object_ref.as_ref(), &view)?;
    let issuer = state.authenticator.issuer();
    let audiences = spec.audiences.get_or_insert_default();
    if audiences.is_empty() {
        *audiences = issuer.api_audiences();
    }
    let (now, audiences) = (Timestamp::now(), audiences.clone());
    let (token, expires) = issuer.issue(Order { account: &account, audiences, seconds, binding }, now);
    request.metadata.name = Some(call.name.into());
    request.metadata.namespace = Some(call.namespace.into());
    request.metadata.creation_timestamp = Some(Time(now));
    let expires = Timestamp::from_second(expires).map_err(|error| ApiError::Internal(error.to_string()))?;
    request.status =
        Some(TokenRequestStatus { token: Some(token), expiration_timestamp: Some(Time(expires)) });
    let body = match form {
        Form::Metadata { version, .. } => form::to_bytes(&json!({
            "kind": form::METADATA_KIND,
            "apiVersion": version.api_version(),
            "metadata": request.metadata,
        })),
        Form::Plain | Form::Table { .. } => form::to_bytes(&request),
    };
    Ok(json_response(StatusCode::CREATED, body))
}

/// The form of the answer. There are no tables of tokens: who asks for one gets what else it accepts.
fn negotiate(exchange: &Exchange<'_>) -> Result<Form, ApiError> {
    let accept = exchange.accept();
    let others: Vec<&str> = accept.split(',').filter(|clause| !clause.contains("as=Table")).collect();
    if others.is_empty() {
        return Err(Form::unacceptable(true));
    }
    let (form, _) = Form::negotiate(&others.join(","), "", true)?;
    form.check(false, || "*authentication.TokenRequest".into())?;
    Ok(form)
}

fn seconds_of(request: &TokenRequest) -> i64 {
    request.spec.as_ref().and_then(|spec| spec.expiration_seconds).unwrap_or(DEFAULT_SECONDS)
}

fn check_seconds(call: &Call<'_>, seconds: i64) -> Result<(), ApiError> {
    let mut errors = FieldErrors::default();
    let path = Path::new("spec").child("expirationSeconds");
    if seconds < MIN_SECONDS {
        errors.invalid(&path, seconds, "may not specify a duration less than 10 minutes");
    }
    if seconds > MAX_SECONDS {
        errors.invalid(&path, seconds, "may not specify a duration larger than 2^32 seconds");
    }
    judge(call, errors)
}

/// That the request names no other account than its URL, if it names one.
fn check_identity(call: &Call<'_>, request: &TokenRequest) -> Result<(), ApiError> {
    let mut errors = FieldErrors::default();
    let path = Path::new("metadata");
    for (field, said, expected) in [
        ("name", request.metadata.name.as_deref(), call.name),
        ("namespace", request.metadata.namespace.as_deref(), call.namespace),
    ] {
        let said = said.unwrap_or_default();
        if !said.is_empty() && said != expected {
            let why = format!("must match the service account {field} if specified");
            errors.invalid(&path.child(field), said, &why);
        }
    }
    judge(call, errors)
}

fn judge(call: &Call<'_>, errors: FieldErrors) -> Result<(), ApiError> {
    if errors.is_empty() {
        return Ok(());
    }
    let kind = "TokenRequest.authentication.k8s.io".into();
    Err(ApiError::Invalid { kind, name: call.name.into(), errors: errors.0 })
}

/// A node's agent gets tokens for the pods that are bound to its node.
fn check_node(
    call: &Call<'_>,
    reference: Option<&BoundObjectReference>,
    view: &Snapshot,
) -> Result<(), ApiError> {
    let Some(node) = call.user.node() else { return Ok(()) };
    let refuse = |message: &str| {
        let (resource, name) = (call.served.qualified.clone(), call.name.into());
        Err(ApiError::Refused { resource, name, message: message.into(), causes: Vec::new() })
    };
    let Some(reference) = reference.filter(|of| of.kind.as_deref() == Some("Pod")) else {
        return refuse("node requested token not bound to a pod");
    };
    if reference.uid.as_deref().unwrap_or_default().is_empty() {
        return refuse("node requested token with a pod binding without a uid");
    }
    let pod = bound("pods", call.namespace, reference, view)?;
    if brief(&pod)?.node_name.as_deref() != Some(node) {
        return refuse("node requested token bound to a pod scheduled on a different node");
    }
    Ok(())
}

fn binding(call: &Call<'_>, reference: &BoundObjectReference, view: &Snapshot) -> Result<Binding, ApiError> {
    let kind = reference.kind.as_deref().unwrap_or_default();
    let version = reference.api_version.as_deref().unwrap_or_default();
    match (version, kind) {
        ("v1" | "", "Pod") => {
            let pod = bound("pods", call.namespace, reference, view)?;
            if account_of(&pod)? != call.name {
                return Err(ApiError::BadRequest(format!(
                    "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                    call.name
                )));
            }
            Ok(bound_to_pod(&pod, brief(&pod)?.node_name.as_deref(), view))
        }
        ("v1" | "", "Secret") => {
            let secret = bound("secrets", call.namespace, reference, view)?;
            Ok(Binding { secret: Some(Reference::of(&secret.meta)), ..Binding::default() })
        }
        ("v1" | "", "Node") => {
            let node = bound("nodes", "", reference, view)?;
            Ok(Binding { node: Some(Reference::of(&node.meta)), ..Binding::default() })
        }
        _ => Err(ApiError::BadRequest(format!("cannot bind token to object of type {version}, Kind={kind}"))),
    }
}

/// The object that `reference` names. It stays as it is stored: agents ask for a token for each pod that they start,
/// and what would be decoded for them is used for nothing else.
fn bound(
    resource: &str,
    namespace: &str,
    reference: &BoundObjectReference,
    view: &Snapshot,
) -> Result<Arc<Entry>, ApiError> {
    let name = reference.name.clone().unwrap_or_default();
    let entry = view.get(&Key::new(resource, namespace, &name));
    let entry = entry.ok_or_else(|| ApiError::NotFound { resource: resource.into(), name: name.clone() })?;
    let uid = reference.uid.as_deref().unwrap_or_default();
    if !uid.is_empty() && uid != entry.meta.uid {
        return Err(ApiError::Conflict {
            resource: reference.kind.clone().unwrap_or_default(),
            name,
            message: format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might \
                 have been deleted and then recreated"
            ),
        });
    }
    Ok(entry)
}

fn brief(pod: &Entry) -> Result<Arc<PodBrief>, ApiError> {
    pod.brief().map_err(|error| ApiError::Internal(error.to_string()))
}

/// The name of the ServiceAccount that `pod` runs as.
fn account_of(pod: &Entry) -> Result<String, ApiError> {
    #[derive(Deserialize)]
    struct Pod {
        spec: Option<Spec>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Spec {
        service_account_name: Option<String>,
    }
    let pod: Pod =
        serde_json::from_slice(&pod.json).map_err(|error| ApiError::Internal(error.to_string()))?;
    Ok(pod.spec.and_then(|spec| spec.service_account_name).unwrap_or_default())
}
