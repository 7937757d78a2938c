//! LIST: a consistent snapshot of a collection, whole or page by page.
//!
//! Stored bytes are joined, never decoded. A continue token names the revision of the first page and the last key,
//! so that all pages show the collection as it was when the first was read.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt as _;
use k8s_openapi::jiff::Timestamp;
use naru_model::validation::{FieldErrors, Path};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    body::Body,
    encoding::Encoding,
    form::{self, Form},
    query::Query,
    select::Filter,
};
use crate::{
    ApiError, protobuf,
    registry::{Call, Registry, Served},
    store::{Entry, Key, Revision, Snapshot, Store, StoreError},
};

/// How long a client may make us wait for a revision that is not there yet.
const PATIENCE: Duration = Duration::from_secs(3);
/// Lists larger than this are sent in pieces, so that no list is in memory twice, and a piece is still in the cache when
/// it is encrypted.
const PIECE_BYTES: usize = 64 << 10;

/// The parameters that choose a state of the collection and a part of it.
#[derive(Debug)]
pub struct ListOptions {
    pub resource_version: String,
    pub version_match: VersionMatch,
    limit: usize,
    token: Option<Token>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionMatch {
    Unset,
    Exact,
    NotOlderThan,
}

/// What a continue token says, in Kubernetes' own encoding.
#[derive(Debug, Serialize, Deserialize)]
struct Token {
    v: String,
    /// The revision of the first page; -1 continues with the newest state.
    rv: i64,
    /// `namespace/name` of the last object of the page before.
    start: String,
    /// How many objects follow, where that was counted: what has the same revision need not be counted again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    left: Option<usize>,
}

impl ListOptions {
    /// Reads the options of a list, or of a watch, for which other combinations make sense.
    ///
    /// # Errors
    /// 422 with a cause per combination that makes no sense, 400 for what is no number or token.
    pub fn parse(query: &Query<'_>, is_watch: bool) -> Result<Self, ApiError> {
        let resource_version = query.text("resourceVersion").to_owned();
        let version_match = check_combination(query, is_watch)?;
        revision_of(&resource_version)?;
        let limit = query.number("limit")?.unwrap_or(0).max(0) as usize;
        query.number("timeoutSeconds")?;
        let token = match query.text("continue") {
            "" => None,
            text => Some(Token::decode(text)?),
        };
        if token.is_some() && !resource_version.is_empty() && resource_version != "0" {
            return Err(ApiError::BadRequest(
                "specifying resource version is not allowed when using continue".into(),
            ));
        }
        Ok(Self { resource_version, version_match, limit, token })
    }
}

/// The revision that `resourceVersion=TEXT` names; 0 where none is given.
pub fn revision_of(text: &str) -> Result<Revision, ApiError> {
    match text {
        "" => Ok(Revision(0)),
        text => text.parse().map(Revision).map_err(|_| {
            ApiError::BadRequest(format!(
                "resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
            ))
        }),
    }
}

/// What `resourceVersionMatch` says, if it goes together with the other options.
fn check_combination(query: &Query<'_>, is_watch: bool) -> Result<VersionMatch, ApiError> {
    let mut errors = FieldErrors::default();
    let path = Path::new("resourceVersionMatch");
    let text = query.text("resourceVersionMatch");
    let sends_initial = query.has("sendInitialEvents");
    if is_watch {
        if sends_initial && text != "NotOlderThan" {
            errors
                .forbidden(&path, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
        }
        if !text.is_empty() && !sends_initial {
            errors.forbidden(
                &path,
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            );
        }
        if !matches!(text, "" | "NotOlderThan") {
            errors.not_supported(&path, text, &["NotOlderThan"]);
        }
    } else {
        if !text.is_empty() && query.text("resourceVersion").is_empty() {
            errors.forbidden(&path, "resourceVersionMatch is forbidden unless resourceVersion is provided");
        }
        if !matches!(text, "" | "Exact" | "NotOlderThan") {
            errors.not_supported(&path, text, &["Exact", "NotOlderThan", ""]);
        }
        if text == "Exact" && query.text("resourceVersion") == "0" {
            errors.forbidden(&path, "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
        }
    }
    if !text.is_empty() && !query.text("continue").is_empty() {
        errors.forbidden(&path, "resourceVersionMatch is forbidden when continue is provided");
    }
    if sends_initial && !is_watch {
        errors.forbidden(&Path::new("sendInitialEvents"), "sendInitialEvents is forbidden for list");
    }
    if !errors.is_empty() {
        let kind = "ListOptions.meta.k8s.io".into();
        return Err(ApiError::Invalid { kind, name: String::new(), errors: errors.0 });
    }
    Ok(match text {
        "Exact" => VersionMatch::Exact,
        "NotOlderThan" => VersionMatch::NotOlderThan,
        _ => VersionMatch::Unset,
    })
}

impl Token {
    fn decode(text: &str) -> Result<Self, ApiError> {
        let refuse = || ApiError::BadRequest("invalid continue token: it was not made by this server".into());
        let bytes = BASE64.decode(text.trim_end_matches('=')).map_err(|_| refuse())?;
        let token: Self = serde_json::from_slice(&bytes).map_err(|_| refuse())?;
        if token.v != "meta.k8s.io/v1" || !token.start.contains('/') {
            return Err(refuse());
        }
        Ok(token)
    }

    fn encode(rv: i64, start: &str, left: Option<usize>) -> String {
        let token = Self { v: "meta.k8s.io/v1".into(), rv, start: start.into(), left };
        BASE64.encode(form::to_bytes(&token))
    }

    fn after(&self, resource: &str) -> Key {
        let (namespace, name) = self.start.split_once('/').unwrap_or_default();
        Key::new(resource, namespace, name)
    }
}

/// The view that `options` ask for.
pub async fn view(store: &Store, served: &Served, options: &ListOptions) -> Result<Snapshot, ApiError> {
    if let Some(token) = &options.token {
        if token.rv < 0 {
            return Ok(store.snapshot());
        }
        return store.resource_at(&served.storage, Revision(token.rv as u64)).map_err(|error| match error {
            StoreError::Expired(_) => {
                ApiError::ContinueExpired { token: Token::encode(-1, &token.start, None) }
            }
            other => other.into(),
        });
    }
    let asked = match options.resource_version.as_str() {
        "" => {
            store.read_index().await?;
            return Ok(store.snapshot());
        }
        "0" => return Ok(store.snapshot()),
        text => revision_of(text)?,
    };
    wait_for(store, asked).await?;
    // Without a match rule, Kubernetes reads exactly the given version where pages are asked for.
    let is_exact = options.version_match == VersionMatch::Exact
        || (options.version_match == VersionMatch::Unset && options.limit > 0);
    if is_exact { Ok(store.resource_at(&served.storage, asked)?) } else { Ok(store.snapshot()) }
}

/// Waits a little for a revision that the client knows from elsewhere.
pub async fn wait_for(store: &Store, asked: Revision) -> Result<(), ApiError> {
    if store.snapshot().revision() >= asked {
        return Ok(());
    }
    match tokio::time::timeout(PATIENCE, store.wait_for(asked)).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(ApiError::NotYetThere { asked: asked.0, current: store.snapshot().revision().0 }),
    }
}

/// Answers a LIST in the form that the client wants.
pub async fn list(
    registry: &Registry,
    served: &Arc<Served>,
    call: &Call<'_>,
    (form, encoding): (Form, Encoding),
    query: &Query<'_>,
) -> Result<Body, ApiError> {
    let options = ListOptions::parse(query, false)?;
    let filter = Filter::new(served, call, query)?;
    let view = view(registry.store(), served, &options).await?;
    let page = Page::read(&view, &filter, &options, served);
    served.kind.prepare(&page.entries).await.map_err(ApiError::Internal)?;
    let metadata = page.metadata();
    answer(served, (form, encoding), page.entries, metadata).await
}

/// The list of `entries` in the form that the client wants.
pub async fn answer(
    served: &Served,
    (form, encoding): (Form, Encoding),
    entries: Vec<Arc<Entry>>,
    metadata: Value,
) -> Result<Body, ApiError> {
    match form {
        Form::Plain => {
            let is_as_stored = |entry: &Arc<Entry>| served.kind.is_served_as_stored(entry);
            let converts = served.conversion.is_some() || !entries.iter().all(is_as_stored);
            let (kind, list_kind, api_version) = (served.info.kind, &*served.list_kind, &*served.api_version);
            let items = entries.into_iter();
            if converts {
                let items: Result<Vec<_>, _> = items.map(|entry| form::plain(served, &entry)).collect();
                return encode(encoding, kind, list_kind, api_version, metadata, items?.into_iter()).await;
            }
            encode(encoding, kind, list_kind, api_version, metadata, items.map(|entry| entry.json.clone()))
                .await
        }
        Form::Metadata { version, .. } => {
            let items = entries.into_iter().map(move |entry| form::metadata(version, &entry));
            encode(
                encoding,
                form::METADATA_KIND,
                "PartialObjectMetadataList",
                version.api_version(),
                metadata,
                items,
            )
            .await
        }
        Form::Table { version, include } => {
            let now = Timestamp::now();
            let rows: Result<Vec<_>, _> =
                entries.iter().map(|entry| form::row(served, entry, include, version, now)).collect();
            Ok(form::table(version, metadata, Some(form::columns(served)), &rows?).into())
        }
    }
}

/// A part of a collection.
struct Page {
    entries: Vec<Arc<Entry>>,
    /// The key of the last entry where more follow.
    cut_at: Option<Key>,
    remaining: Option<usize>,
    revision: Revision,
}

impl Page {
    fn read(view: &Snapshot, filter: &Filter, options: &ListOptions, served: &Served) -> Self {
        let after = options.token.as_ref().map(|token| token.after(&served.storage));
        let mut matching = view.range(&filter.scope, after.as_ref()).filter(|entry| filter.matches(entry));
        let limit = if options.limit == 0 { usize::MAX } else { options.limit };
        let entries: Vec<_> = matching.by_ref().take(limit).collect();
        let has_more = entries.len() == limit && matching.next().is_some();
        let cut_at = entries.last().filter(|_| has_more).map(|entry| entry.key.clone());
        // With a selector Kubernetes does not count either.
        let remaining = cut_at.as_ref().filter(|_| filter.is_everything()).map(|_| {
            let left = match &options.token {
                None => Some(view.count(&filter.scope)),
                Some(token) => token.left.filter(|_| token.rv >= 0),
            };
            left.and_then(|left| left.checked_sub(entries.len())).unwrap_or_else(|| 1 + matching.count())
        });
        // All pages carry the first one's revision.
        let revision = match &options.token {
            Some(token) if token.rv >= 0 => Revision(token.rv as u64),
            _ => view.revision(),
        };
        Self { entries, cut_at, remaining, revision }
    }

    fn metadata(&self) -> Value {
        // An empty store has revision 0, which as a version means "any": 1 loses nothing.
        let mut metadata = json!({ "resourceVersion": self.revision.0.max(1).to_string() });
        if let Some(key) = &self.cut_at {
            let start = format!("{}/{}", key.namespace(), key.name());
            metadata["continue"] = Token::encode(self.revision.0 as i64, &start, self.remaining).into();
        }
        if let Some(remaining) = self.remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
        metadata
    }
}

/// A list of objects of `kind` in `encoding`, as far as that is done here: YAML comes as JSON, and whole.
async fn encode(
    encoding: Encoding,
    kind: &str,
    list_kind: &str,
    api_version: &str,
    metadata: Value,
    items: impl Iterator<Item = Bytes> + Send + 'static,
) -> Result<Body, ApiError> {
    if encoding == Encoding::Protobuf
        && let Some(mut list) = protobuf::List::new(api_version, kind, &metadata)
    {
        // Much work for a large list, which must not hold up a thread that serves others.
        let made = tokio::task::spawn_blocking(move || {
            items.for_each(|item| list.push(&item));
            list.finish()
        });
        let bytes = made.await.map_err(|error| ApiError::Internal(error.to_string()))?;
        return Ok(Bytes::from(bytes).into());
    }
    let body = join(list_kind, api_version, &metadata, items);
    Ok(match body {
        Body::Stream(pieces) if encoding == Encoding::Yaml => {
            Bytes::from(pieces.collect::<Vec<_>>().await.concat()).into()
        }
        other => other,
    })
}

/// `{"kind":…,"apiVersion":…,"metadata":…,"items":[…]}`, at once where it is small.
fn join(
    kind: &str,
    api_version: &str,
    metadata: &Value,
    items: impl Iterator<Item = Bytes> + Send + 'static,
) -> Body {
    let mut head = BytesMut::with_capacity(4 << 10);
    head.put_slice(
        format!(r#"{{"kind":"{kind}","apiVersion":"{api_version}","metadata":{metadata},"items":["#)
            .as_bytes(),
    );
    let mut pieces = Pieces { items, buffer: head, is_first: true, is_over: false };
    let first = pieces.next().unwrap_or_default();
    if pieces.is_over {
        first.into()
    } else {
        Body::stream(futures::stream::iter(std::iter::once(first).chain(pieces)))
    }
}

/// What stands between two items and behind the last one.
const ENDS: usize = 3;

/// The text of a list, cut into pieces of useful size.
struct Pieces<I> {
    items: I,
    buffer: BytesMut,
    is_first: bool,
    is_over: bool,
}

impl<I: Iterator<Item = Bytes>> Iterator for Pieces<I> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.is_over {
            return None;
        }
        while self.buffer.len() < PIECE_BYTES {
            let Some(item) = self.items.next() else {
                self.buffer.put_slice(b"]}");
                self.is_over = true;
                break;
            };
            // Room for many at once, or for the one that is larger than a piece.
            if self.buffer.capacity() - self.buffer.len() < item.len() + ENDS {
                let more = PIECE_BYTES.saturating_sub(self.buffer.len());
                self.buffer.reserve(more.max(item.len()) + ENDS);
            }
            if !std::mem::take(&mut self.is_first) {
                self.buffer.put_u8(b',');
            }
            self.buffer.put_slice(&item);
        }
        Some(self.buffer.split().freeze())
    }
}

/// Every object that a request's selectors choose, for deletecollection.
pub async fn entries(
    registry: &Registry,
    served: &Arc<Served>,
    call: &Call<'_>,
    query: &Query<'_>,
) -> Result<Vec<Arc<Entry>>, ApiError> {
    let options = ListOptions::parse(query, false)?;
    let filter = Filter::new(served, call, query)?;
    let view = view(registry.store(), served, &options).await?;
    Ok(Page::read(&view, &filter, &options, served).entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ListOptions, String> {
        ListOptions::parse(&Query::parse(Some(text)), false).map_err(|error| error.to_string())
    }

    #[test]
    fn a_token_survives_its_journey() {
        let token = Token::decode(&Token::encode(7, "shop/web-0", Some(3))).expect("our own token");
        assert_eq!((token.rv, token.start.as_str(), token.left), (7, "shop/web-0", Some(3)));
        assert_eq!(token.after("pods"), Key::new("pods", "shop", "web-0"));
        assert_eq!(Token::decode("nonsense").expect_err("no token").code(), 400);
    }

    #[test]
    fn a_version_match_needs_a_version() {
        assert_eq!(
            parse("resourceVersionMatch=Exact").expect_err("no version"),
            "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is \
             forbidden unless resourceVersion is provided"
        );
        let options = parse("resourceVersionMatch=NotOlderThan&resourceVersion=5").expect("fine");
        assert_eq!(options.version_match, VersionMatch::NotOlderThan);
    }

    #[test]
    fn a_large_list_comes_in_pieces_that_make_valid_json() {
        let item = Bytes::from(format!("{{\"text\":\"{}\"}}", "x".repeat(10_000)));
        let items = std::iter::repeat_n(item, 100);
        let head = BytesMut::from(&b"{\"items\":["[..]);
        let pieces: Vec<Bytes> = Pieces { items, buffer: head, is_first: true, is_over: false }.collect();
        assert!(pieces.len() > 1);
        let whole: Value = serde_json::from_slice(&pieces.concat()).expect("valid JSON");
        assert_eq!(whole["items"].as_array().map(Vec::len), Some(100));
    }
}
