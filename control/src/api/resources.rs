//! Requests for resources: verbs on collections, objects and their subresources.

use bytes::Bytes;
use http::{Response, StatusCode};
use naru_model::selector::FieldSelector;
use serde_json::{Value, json};

use super::{
    body::Body,
    computed, connections,
    encoding::Encoding,
    evictions,
    form::{self, Form},
    handler::{Exchange, encoded_response, json_response, success},
    list, logs, managers,
    options::{self, WriteOptions},
    place::Place,
    proxy, recording, streams, tokens, watch,
};
use crate::{
    ApiError,
    audit::{Level, Target},
    auth::Attributes,
    client::Patch,
    fairness, protobuf,
    registry::{Call, Deleted, Outcome, Part, Served, checks::check_name, decode},
    store::{Entry, Scope},
};

/// Answers a request below `/api/v1/` or `/apis/GROUP/VERSION/`.
pub async fn answer(mut exchange: Exchange<'_>) -> Result<Response<Body>, ApiError> {
    let place = match Place::find(&exchange) {
        Ok(place) => place,
        Err(error) => {
            // Who may not ask for something does not learn whether it is there.
            let target = Target::of(exchange.parts, exchange.query.flag("watch"));
            exchange.authorize(&exchange.user, &target.attributes())?;
            return Err(error);
        }
    };
    let served = &*place.served;
    let verb = place.verb(&exchange)?;
    *exchange.label = place.label(&exchange.query, verb);
    // Where nothing suits, the refusal is JSON.
    *exchange.encoding = negotiate(&exchange, served).map_or(Encoding::Json, |(_, encoding)| encoding);
    let user = exchange.user.clone();
    // Where somebody else answers, parameters are theirs.
    let verb_of_options = if place.is_connection() { "" } else { verb };
    let options = WriteOptions::parse(&exchange, verb_of_options)?;
    let call = Call {
        user: &user,
        served,
        namespace: &place.namespace,
        name: &place.name,
        manager: &options.manager,
        dry_run: options.dry_run,
        validation: options.validation,
        notes: Some(exchange.notes),
    };
    let field_selector = match verb {
        "list" | "watch" | "deletecollection" => exchange.query.text("fieldSelector").to_owned(),
        _ => String::new(),
    };
    let named = FieldSelector::parse(&field_selector).unwrap_or_default();
    let name = named.required("metadata.name").filter(|_| verb != "deletecollection");
    let attributes = call.attributes(verb, &place.subresource);
    let name = name.unwrap_or(attributes.name);
    let attributes = Attributes { name, field_selector: &field_selector, ..attributes };
    if place.is_long_running(verb) {
        exchange.authorize(&user, &attributes)?;
    } else {
        let width = width(&exchange, &call, verb);
        exchange.enter(&user, &attributes, width).await?;
    }
    if let Some(text) = served.kind.deprecation() {
        call.warn([text]);
        call.annotate(Level::Metadata, || ("k8s.io/deprecated".into(), "true".into()));
    }
    match place.subresource.as_str() {
        "" if served.is_virtual => computed::answer(exchange, &place.served, &call, verb).await,
        "" => whole(exchange, &place, &call, verb).await,
        "status" => part(exchange, &call, Part::Status, verb).await,
        "approval" => part(exchange, &call, Part::Approval, verb).await,
        "finalize" => part(exchange, &call, Part::Finalize, verb).await,
        "ephemeralcontainers" => part(exchange, &call, Part::Spec("ephemeralcontainers"), verb).await,
        "resize" => part(exchange, &call, Part::Spec("resize"), verb).await,
        "scale" => scale(exchange, &call, verb).await,
        "binding" if verb == "create" => bind(exchange, &call).await,
        "token" if verb == "create" => tokens::answer(exchange, &call).await,
        "eviction" if verb == "create" => evictions::answer(exchange, &call).await,
        "log" if verb == "get" => logs::answer(exchange, &call).await,
        "attach" | "exec" | "portforward" if matches!(verb, "get" | "create") => {
            streams::answer(exchange, &call, verb, &place.subresource).await
        }
        "proxy" => {
            let registry = &exchange.state.registry;
            let options = connections::admit(registry, &call, "proxy", &exchange.query, &place.rest).await?;
            proxy::answer(exchange, &call, &place.rest, &options.path).await
        }
        _ => Err(ApiError::MethodNotAllowed),
    }
}

/// How many seats the request takes.
fn width(exchange: &Exchange<'_>, call: &Call<'_>, verb: &str) -> u32 {
    if verb != "list" || call.served.is_virtual {
        return 1;
    }
    let storage = &call.served.storage;
    let objects = exchange.state.registry.store().snapshot().count(&Scope::all(storage));
    let limit = exchange.query.number("limit").ok().flatten().and_then(|limit| usize::try_from(limit).ok());
    fairness::width_of_list(limit.filter(|limit| *limit > 0).map_or(objects, |limit| limit.min(objects)))
}

/// The form and the encoding that `Accept` asks for.
pub fn negotiate(exchange: &Exchange<'_>, served: &Served) -> Result<(Form, Encoding), ApiError> {
    let accept = exchange.accept();
    let has_message =
        accept.contains("protobuf") && protobuf::has_message(&served.api_version, served.info.kind);
    Form::negotiate(accept, exchange.query.text("includeObject"), has_message)
}

async fn whole(
    exchange: Exchange<'_>,
    place: &Place,
    call: &Call<'_>,
    verb: &str,
) -> Result<Response<Body>, ApiError> {
    let state = exchange.state;
    let registry = &state.registry;
    let (form, encoding) = negotiate(&exchange, call.served)?;
    // Before anything is done: Kubernetes would say so only when it is done.
    if verb != "watch" {
        let is_list = matches!(verb, "list" | "deletecollection");
        form.check(is_list, || form::go_type(call.served, is_list))?;
    }
    match verb {
        "get" => {
            match exchange.query.text("resourceVersion") {
                "" => drop(registry.store().read_index().await?),
                version => list::wait_for(registry.store(), list::revision_of(version)?).await?,
            }
            let entry = registry.entry(call)?;
            Ok(json_response(StatusCode::OK, form.object(call.served, &entry)?))
        }
        "list" => {
            let body = list::list(registry, &place.served, call, (form, encoding), &exchange.query).await?;
            Ok(list_response(encoding, body))
        }
        "watch" => watch_collection(&exchange, place, call, (form, encoding)).await,
        "create" => {
            let record = exchange.record;
            let text = exchange.read_object(!call.served.kind.is_custom()).await?;
            let (object, warnings) = decode::object(call.served, &text, call.validation)?;
            recording::object(record, call.served, &*object);
            call.warn(warnings);
            write_response(call, form, registry.create(call, object).await?)
        }
        "delete" => {
            let (options, dry_run) = options::of_delete(exchange).await?;
            let call = Call { dry_run: dry_run || call.dry_run, ..*call };
            let deleted = registry.delete(&call, &options).await?;
            delete_response(&call, form, deleted)
        }
        "deletecollection" => {
            let entries = list::entries(registry, &place.served, call, &exchange.query).await?;
            let (options, dry_run) = options::of_delete(exchange).await?;
            for entry in &entries {
                let dry_run = dry_run || call.dry_run;
                let (namespace, name) = (entry.meta.namespace.as_str(), entry.meta.name.as_str());
                let call = Call { namespace, name, dry_run, ..*call };
                match registry.delete(&call, &options).await {
                    // Somebody else removed it in between: that is what the client wants.
                    Ok(_) | Err(ApiError::NotFound { .. }) => (),
                    Err(error) => return Err(error),
                }
            }
            let metadata = json!({ "resourceVersion": registry.store().snapshot().revision().0.to_string() });
            let body = list::answer(call.served, (form, encoding), entries, metadata).await?;
            Ok(list_response(encoding, body))
        }
        _ => part(exchange, call, Part::Whole, verb).await,
    }
}

/// The answer to a list, of which `body` is encoded already where that is worth its while.
pub(super) fn list_response(encoding: Encoding, body: Body) -> Response<Body> {
    match encoding {
        Encoding::Protobuf => encoded_response(encoding.content_type(), body),
        Encoding::Json | Encoding::Yaml => json_response(StatusCode::OK, body),
    }
}

async fn watch_collection(
    exchange: &Exchange<'_>,
    place: &Place,
    call: &Call<'_>,
    (form, encoding): (Form, Encoding),
) -> Result<Response<Body>, ApiError> {
    if encoding == Encoding::Yaml {
        return Err(ApiError::NotAcceptable("watches come as JSON or protobuf".into()));
    }
    let state = exchange.state;
    let shutdown = state.shutdown.child_token();
    let body =
        watch::watch(&state.registry, &place.served, call, (form, encoding), &exchange.query, shutdown)
            .await?;
    Ok(encoded_response(encoding.stream_content_type(), body))
}

/// Get, update and patch of the whole object or a part of it that has the same form.
async fn part(
    exchange: Exchange<'_>,
    call: &Call<'_>,
    part: Part,
    verb: &str,
) -> Result<Response<Body>, ApiError> {
    let registry = &exchange.state.registry;
    let (form, _) = negotiate(&exchange, call.served)?;
    form.check(false, || form::go_type(call.served, false))?;
    match verb {
        "get" => {
            let entry = registry.entry(call)?;
            Ok(json_response(StatusCode::OK, form.object(call.served, &entry)?))
        }
        "update" => {
            let record = exchange.record;
            let text = exchange.read_object(!call.served.kind.is_custom()).await?;
            let (mut object, warnings) = decode::object(call.served, &text, call.validation)?;
            recording::object(record, call.served, &*object);
            call.warn(warnings);
            call.settle_namespace(object.meta_mut())?;
            check_name(call, object.name())?;
            let outcome = registry.update(call, part, |_| Ok(object.boxed())).await?;
            write_response(call, form, outcome)
        }
        "patch" => {
            let outcome = if exchange.content_type() == managers::APPLY {
                let config = managers::read_configuration(exchange, call).await?;
                registry.apply(call, part, &config).await?
            } else {
                let (patch, problems) = read_patch(exchange, call).await?;
                registry.patch(call, part, &patch, &problems).await?
            };
            write_response(call, form, outcome)
        }
        _ => Err(ApiError::MethodNotAllowed),
    }
}

async fn scale(exchange: Exchange<'_>, call: &Call<'_>, verb: &str) -> Result<Response<Body>, ApiError> {
    let registry = &exchange.state.registry;
    let (form, _) = negotiate(&exchange, call.served)?;
    form.check(false, || "*autoscaling.Scale".into())?;
    let value = match verb {
        "get" => registry.scale(call)?,
        "update" => {
            let scale = exchange.read_message("Scale", |_| ()).await?;
            registry.update_scale(call, &scale).await?
        }
        "patch" if exchange.content_type() == managers::APPLY => {
            let config = managers::read_configuration(exchange, call).await?;
            registry.apply_scale(call, &config).await?
        }
        "patch" => {
            let (patch, _) = read_patch(exchange, call).await?;
            registry.patch_scale(call, &patch).await?
        }
        _ => return Err(ApiError::MethodNotAllowed),
    };
    Ok(json_response(StatusCode::OK, form::scale(form, &value)))
}

async fn bind(exchange: Exchange<'_>, call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let registry = &exchange.state.registry;
    let binding = exchange.read_message("Binding", |_| ()).await?;
    registry.bind(call, binding).await?;
    Ok(created())
}

/// The answer to something that was done and has no object to show.
pub(super) fn created() -> Response<Body> {
    let status =
        json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201 });
    json_response(StatusCode::CREATED, form::to_bytes(&status))
}

pub(super) fn decode_as<T: serde::de::DeserializeOwned>(kind: &str, json: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(json).map_err(|error| {
        ApiError::BadRequest(format!("{kind} in version \"v1\" cannot be handled as a {kind}: {error}"))
    })
}

/// The answer to a write: the object in the form that the client wants.
fn write_response(call: &Call<'_>, form: Form, outcome: Outcome) -> Result<Response<Body>, ApiError> {
    let status = if outcome.is_created { StatusCode::CREATED } else { StatusCode::OK };
    let bytes = match (&outcome.entry, call.served.conversion) {
        (Some(entry), _) if form != Form::Plain => form.object(call.served, entry)?,
        (_, None) if call.served.kind.is_custom() => {
            let served = call.served.kind.as_served(&outcome.json);
            served.map_err(|error| ApiError::Internal(error.to_string()))?
        }
        (_, None) => outcome.json,
        (_, Some(conversion)) => {
            let value: Value = serde_json::from_slice(&outcome.json)
                .map_err(|error| ApiError::Internal(error.to_string()))?;
            form::to_bytes(&(conversion.to_served)(value))
        }
    };
    Ok(json_response(status, bytes))
}

/// The answer to a delete: the object while it is still there, and of some kinds its last state; else a `Status`, which
/// is the same in every form.
fn delete_response(call: &Call<'_>, form: Form, deleted: Deleted) -> Result<Response<Body>, ApiError> {
    match deleted {
        Deleted::Pending(outcome) => write_response(call, form, Outcome { is_created: false, ..outcome }),
        Deleted::Gone(entry) if call.served.kind.answers_deleted() => {
            Ok(json_response(StatusCode::OK, form.object(call.served, &entry)?))
        }
        Deleted::Gone(entry) => Ok(json_response(StatusCode::OK, gone(call, &entry))),
    }
}

fn gone(call: &Call<'_>, entry: &Entry) -> Bytes {
    let mut details =
        json!({ "name": entry.meta.name, "kind": call.served.info.plural, "uid": entry.meta.uid });
    if !call.served.info.group.is_empty() {
        details["group"] = call.served.info.group.into();
    }
    success(details)
}

/// The patch, and what is wrong with its text but does not keep it from being applied.
async fn read_patch(exchange: Exchange<'_>, call: &Call<'_>) -> Result<(Patch, Vec<String>), ApiError> {
    let kind: fn(Value) -> Patch = match exchange.content_type() {
        "application/json-patch+json" => Patch::Json,
        "application/merge-patch+json" => Patch::Merge,
        "application/strategic-merge-patch+json" if call.served.kind.is_custom() => {
            return Err(ApiError::UnsupportedMediaType(
                "the body of the request was in an unknown format - accepted media types include: \
                 application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"
                    .into(),
            ));
        }
        "application/strategic-merge-patch+json" => Patch::Strategic,
        _ => {
            return Err(ApiError::UnsupportedMediaType(
                "the body of the request was in an unknown format - accepted media types include: \
                 application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, \
                 application/apply-patch+yaml"
                    .into(),
            ));
        }
    };
    let record = exchange.record;
    let bytes = exchange.body.read().await?;
    if let Some(record) = record {
        record.request_body(|| bytes.clone());
    }
    let value = serde_json::from_slice(&bytes).map_err(|error| {
        ApiError::BadRequest(format!("error decoding patch: {}", decode::go_syntax_error(&bytes, &error)))
    })?;
    let patch = kind(value);
    let problems = decode::patch_problems(&bytes, &patch, call.validation);
    Ok((patch, problems))
}
