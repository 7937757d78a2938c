//! Discovery and OpenAPI over HTTP: each document is made when it is first asked for, and kept.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use k8s_openapi::jiff::{SignedDuration, Timestamp, fmt::rfc2822::DateTimePrinter};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    aggregation::{self, Aggregator},
    body::Body,
    discovery, form,
    handler::{Exchange, State, json_response},
    openapi,
};
use crate::{
    ApiError,
    registry::{Kinds, Served},
};

/// The documents that were asked for so far.
#[derive(Default)]
pub struct Documents {
    /// Held for one map operation.
    made: Mutex<Made>,
}

/// What was made of the resources that are served at one moment.
#[derive(Default)]
struct Made {
    of: Weak<Kinds>,
    /// By path and form.
    documents: HashMap<String, Document>,
    /// The tags of OpenAPI v3 documents, by path: the index needs all of them, but hardly anybody all documents.
    tags: HashMap<String, String>,
}

impl Made {
    /// Nothing of `kinds` yet, but for what no custom resource changes.
    fn of(kinds: &Arc<Kinds>, mut tags: HashMap<String, String>) -> Self {
        let (custom, built_in): (Vec<_>, Vec<_>) = kinds.all().iter().partition(|of| of.kind.is_custom());
        let paths = |of: Vec<&Arc<Served>>| -> HashSet<String> {
            of.into_iter().map(|served| openapi::group_version_path(served)).collect()
        };
        let (custom, built_in) = (paths(custom), paths(built_in));
        tags.retain(|path, _| built_in.contains(path) && !custom.contains(path));
        Self { of: Arc::downgrade(kinds), documents: HashMap::new(), tags }
    }
}

/// A document and the tag by which clients know what they have.
#[derive(Clone)]
struct Document {
    bytes: Bytes,
    etag: String,
}

impl Document {
    fn new(value: &Value) -> Self {
        Self::of_bytes(form::to_bytes(value))
    }

    fn of_bytes(bytes: Bytes) -> Self {
        let etag = hex::encode_upper(Sha256::digest(&bytes));
        Self { bytes, etag }
    }
}

impl Documents {
    /// The document called `name`, made by `make` if it is the first time.
    fn get(
        &self,
        kinds: &Arc<Kinds>,
        name: String,
        make: impl FnOnce() -> Result<Value, ApiError>,
    ) -> Result<Document, ApiError> {
        self.get_or(kinds, name, || Ok(Document::new(&make()?)))
    }

    fn get_or(
        &self,
        kinds: &Arc<Kinds>,
        name: String,
        make: impl FnOnce() -> Result<Document, ApiError>,
    ) -> Result<Document, ApiError> {
        let known = self.made(kinds).documents.get(&name).cloned();
        if let Some(document) = known {
            return Ok(document);
        }
        // Made without the lock: two may do the same work once, which harms nobody.
        let document = make()?;
        self.made(kinds).documents.insert(name, document.clone());
        Ok(document)
    }

    /// The tag of the OpenAPI v3 document of a group version or another path.
    fn v3_tag(&self, kinds: &Arc<Kinds>, path: &str) -> Result<String, ApiError> {
        let known = self.made(kinds).tags.get(path).cloned();
        if let Some(tag) = known {
            return Ok(tag);
        }
        let tag = Document::new(&v3_document(kinds, path)?).etag;
        self.made(kinds).tags.insert(path.to_owned(), tag.clone());
        Ok(tag)
    }

    /// Drops the documents whose names begin with `prefix`.
    fn forget(&self, kinds: &Arc<Kinds>, prefix: &str) {
        self.made(kinds).documents.retain(|name, _| !name.starts_with(prefix));
    }

    /// What was made of `kinds`; nothing yet where the documents were made of others.
    fn made(&self, kinds: &Arc<Kinds>) -> MutexGuard<'_, Made> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if made.of.as_ptr() != Arc::as_ptr(kinds) {
            let tags = std::mem::take(&mut made.tags);
            *made = Made::of(kinds, tags);
        }
        made
    }
}

/// Answers `/` (also as `/index.html`), `/api…`, `/apis…` and `/openapi…`.
pub async fn answer(exchange: Exchange<'_>) -> Result<Response<Body>, ApiError> {
    exchange.get_only()?;
    let path = exchange.parts.uri.path();
    if let Some((group, version)) = path.strip_prefix("/openapi/v3/apis/").and_then(|of| of.split_once('/'))
        && let Some(remote) = exchange.state.aggregator.find(group, version)
    {
        return aggregation::pass_on(exchange, &remote).await;
    }
    let path = if path.len() > 1 { path.trim_end_matches('/') } else { path }.to_owned();
    let (state, accept) = (exchange.state.clone(), exchange.accept().to_owned());
    let known = exchange.header(header::IF_NONE_MATCH).trim_matches('"').to_owned();
    // The first making of an OpenAPI document is much work; it must not hold up a thread that serves others.
    let made = if path.starts_with("/openapi") {
        tokio::task::spawn_blocking(move || openapi_document(&state, &path, &accept))
            .await
            .map_err(|error| ApiError::Internal(error.to_string()))??
    } else {
        match discovery_document(&state, &path, &accept, exchange.host()) {
            // Perhaps a group of another server alone.
            Err(ApiError::NoSuchPath) if !exchange.state.aggregator.is_empty() => {
                (Document::of_bytes(Bytes::from_static(b"null")), JSON.to_owned())
            }
            made => made?,
        }
    };
    let (mut document, content_type) = made;
    let hash = Some(exchange.query.text("hash")).filter(|hash| !hash.is_empty());
    let hashed = exchange.parts.uri.path().strip_prefix("/openapi/v3/").zip(hash);
    if let Some((path, hash)) = hashed
        && hash != document.etag
    {
        return Ok(moved(path, &document.etag, &content_type));
    }
    if !exchange.state.aggregator.is_empty() {
        document = with_remotes(&exchange.state.aggregator, exchange.parts.uri.path(), document)?;
    }
    let is_known = !known.is_empty() && known == document.etag;
    let mut response = if is_known {
        json_response(StatusCode::NOT_MODIFIED, Bytes::new())
    } else {
        json_response(StatusCode::OK, document.bytes)
    };
    let headers = response.headers_mut();
    let value = |text: &str| HeaderValue::from_str(text).expect("made of plain characters");
    headers.insert(header::CONTENT_TYPE, value(&content_type));
    headers.insert(header::ETAG, value(&format!("\"{}\"", document.etag)));
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    if hashed.is_some() {
        never_expires(headers);
    }
    Ok(response)
}

/// What is at this address never changes, as the address has its hash.
fn never_expires(headers: &mut HeaderMap) {
    const YEAR: SignedDuration = SignedDuration::from_hours(365 * 24);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
    let date = DateTimePrinter::new().timestamp_to_rfc9110_string(&(Timestamp::now() + YEAR));
    if let Some(date) = date.ok().and_then(|date| HeaderValue::try_from(date).ok()) {
        headers.insert(header::EXPIRES, date);
    }
}

/// Leads to the document under the hash that it has.
fn moved(path: &str, hash: &str, content_type: &str) -> Response<Body> {
    let mut response = json_response(StatusCode::MOVED_PERMANENTLY, Bytes::new());
    let headers = response.headers_mut();
    let location = format!("/openapi/v3/{}?hash={hash}", path.trim_end_matches('/'));
    for (name, text) in [
        (header::LOCATION, location.as_str()),
        (header::ETAG, &format!("\"{hash}\"")),
        (header::CONTENT_TYPE, content_type),
    ] {
        if let Ok(value) = HeaderValue::from_str(text) {
            headers.insert(name, value);
        }
    }
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

/// A document with what other servers serve in it. They may come and go at any time, so it is made each time.
fn with_remotes(aggregator: &Aggregator, path: &str, document: Document) -> Result<Document, ApiError> {
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    let mut value: Value = match segments.as_slice() {
        ["apis"] | ["apis", _] | ["openapi", "v3"] => {
            serde_json::from_slice(&document.bytes).map_err(|error| ApiError::Internal(error.to_string()))?
        }
        _ if &*document.bytes == b"null" => return Err(ApiError::NoSuchPath),
        _ => return Ok(document),
    };
    match segments.as_slice() {
        ["apis", group] => {
            let mut groups = Vec::new();
            if value.is_object() {
                groups.push(value);
            }
            aggregator.add_groups(&mut groups, Some(group));
            value = groups.pop().ok_or(ApiError::NoSuchPath)?;
            value["kind"] = "APIGroup".into();
            value["apiVersion"] = "v1".into();
        }
        ["apis"] => {
            if let Some(items) = value["items"].as_array_mut() {
                aggregator.add_aggregated(items);
            } else if let Some(groups) = value["groups"].as_array_mut() {
                aggregator.add_groups(groups, None);
            }
        }
        _ => aggregator.add_openapi(&mut value["paths"]),
    }
    Ok(Document::new(&value))
}

const JSON: &str = "application/json";
/// How kubectl asks for the v2 document.
const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
/// What it is told: an `@` is no part of a media type, and Go's parser refuses it.
const V2_PROTOBUF_ANSWER: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

fn discovery_document(
    state: &State,
    path: &str,
    accept: &str,
    host: &str,
) -> Result<(Document, String), ApiError> {
    let kinds = &*state.registry.kinds();
    if matches!(path, "/api" | "/apis")
        && let Some(version) = discovery::aggregated_version(accept)
    {
        let name = format!("{path} {version}");
        let document =
            state.documents.get(kinds, name, || Ok(discovery::aggregated(kinds, path == "/api", version)))?;
        return Ok((document, discovery::aggregated_content_type(version)));
    }
    if path == "/api" {
        // Tells the client its own name for us, so it is of no use to others.
        return Ok((Document::new(&discovery::legacy_versions(host)), JSON.into()));
    }
    let document = state.documents.get(kinds, path.to_owned(), || {
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        match segments.as_slice() {
            ["" | "index.html"] => Ok(json!({ "paths": paths(kinds) })),
            ["apis"] => Ok(discovery::groups(kinds)),
            ["api", version] => discovery::resources(kinds, "", version).ok_or(ApiError::NoSuchPath),
            ["apis", group] => discovery::group(kinds, group).ok_or(ApiError::NoSuchPath),
            ["apis", group, version] => {
                discovery::resources(kinds, group, version).ok_or(ApiError::NoSuchPath)
            }
            _ => Err(ApiError::NoSuchPath),
        }
    })?;
    Ok((document, JSON.into()))
}

fn paths(kinds: &Kinds) -> Vec<String> {
    let fixed = [
        "/api",
        "/apis",
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/readyz",
        "/version",
    ];
    let mut paths: Vec<String> = fixed.map(String::from).into();
    for served in kinds.all() {
        paths.push(format!("/{}", openapi::group_version_path(served)));
        if !served.info.group.is_empty() {
            paths.push(format!("/apis/{}", served.info.group));
        }
    }
    paths.sort();
    paths.dedup();
    paths
}

fn openapi_document(state: &State, path: &str, accept: &str) -> Result<(Document, String), ApiError> {
    let kinds = &*state.registry.kinds();
    let documents = &state.documents;
    match path {
        "/openapi/v2" => {
            let is_protobuf = accept.split(',').any(|clause| clause.trim() == V2_PROTOBUF);
            if !is_protobuf {
                refuse_protobuf(accept)?;
            }
            let content_type = if is_protobuf { V2_PROTOBUF_ANSWER } else { JSON };
            Ok((v2_document(state, kinds, is_protobuf)?, content_type.into()))
        }
        "/openapi/v3" => {
            let make = || openapi::v3_index(kinds.all(), &|path| documents.v3_tag(kinds, path));
            Ok((documents.get(kinds, path.into(), make)?, JSON.into()))
        }
        _ => {
            refuse_protobuf(accept)?;
            let wanted = path.strip_prefix("/openapi/v3/").ok_or(ApiError::NoSuchPath)?;
            Ok((documents.get(kinds, path.into(), || v3_document(kinds, wanted))?, JSON.into()))
        }
    }
}

/// The v3 document of a group version, or of a path that leads to such.
fn v3_document(kinds: &Kinds, path: &str) -> Result<Value, ApiError> {
    let served = kinds.all().iter().filter(|served| openapi::group_version_path(served) == path);
    let served: Vec<Arc<Served>> = served.cloned().collect();
    match served.as_slice() {
        [] => openapi::v3_root_document(kinds.all(), path).ok_or(ApiError::NoSuchPath),
        served => Ok(openapi::v3_document(served)),
    }
}

/// The v2 document in one of its forms, with what other servers add to it. Of each form the newest is kept.
fn v2_document(state: &State, kinds: &Arc<Kinds>, is_protobuf: bool) -> Result<Document, ApiError> {
    let form = if is_protobuf { V2_PROTOBUF } else { "/openapi/v2" };
    let parts = state.aggregator.parts();
    let name = parts.tag().map_or_else(|| form.to_owned(), |tag| format!("{form} {tag}"));
    state.documents.get_or(kinds, name, || {
        let mut value = openapi::v2_document(kinds.all());
        parts.add_to(&mut value);
        state.documents.forget(kinds, form);
        Ok(if is_protobuf {
            Document::of_bytes(openapi::protobuf::encode(&value).into())
        } else {
            Document::new(&value)
        })
    })
}

/// For documents that are JSON only: a client that takes nothing but protobuf is told so instead of misled.
fn refuse_protobuf(accept: &str) -> Result<(), ApiError> {
    let takes_json = accept.is_empty()
        || accept.split(',').any(|clause| {
            let kind = clause.split(';').next().unwrap_or_default().trim();
            matches!(kind, "application/json" | "application/*" | "*/*")
        });
    if takes_json {
        return Ok(());
    }
    Err(ApiError::NotAcceptable("only the following media types are accepted: application/json".into()))
}
