//! The audit log: who asked what of the API server, when, and what came of it; as `audit.k8s.io/v1` events, one JSON
//! object a line.
//!
//! `policy` says what is recorded, `target` what a request is about, `log` writes. A [`Record`] accompanies one
//! request. **Invariant:** without a policy there is no [`Audit`], and requests pay one comparison.

mod log;
mod policy;
mod target;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header, request::Parts};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::ObjectMeta, jiff::Timestamp};
use serde_json::{Value, json};

use log::Log;
pub use log::LogSettings;
pub use policy::{Level, Stage};
use policy::{Policy, Verdict};
pub use target::Target;

use crate::{
    auth::{Attributes, Authorizer, User},
    notes::Annotations,
};

/// The header in which a request's id comes and goes.
pub const ID: HeaderName = HeaderName::from_static("audit-id");
/// A longer id is not believed.
const MAX_ID: usize = 64;
const MAX_USER_AGENT: usize = 1024;

/// What the server is started with.
#[derive(Debug, Clone)]
pub struct AuditSettings {
    pub policy: PathBuf,
    pub log: LogSettings,
}

/// Records requests as the policy says.
pub struct Audit {
    policy: Policy,
    log: Log,
}

impl Audit {
    /// Reads the policy and opens the log.
    ///
    /// # Errors
    /// A sentence that names the file and what is wrong with it.
    pub fn open(settings: &AuditSettings) -> Result<Self, String> {
        Ok(Self { policy: Policy::read(&settings.policy)?, log: Log::open(settings.log.clone())? })
    }

    /// Begins the record of a request that came over HTTP from `address`.
    pub fn begin(self: &Arc<Self>, parts: &Parts, is_watch: bool, address: Option<IpAddr>) -> Record {
        let text = |name: HeaderName| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let user_agent = text(header::USER_AGENT).map(|agent| agent.chars().take(MAX_USER_AGENT).collect());
        let uri = parts.uri.path_and_query().map_or_else(|| parts.uri.path().to_owned(), ToString::to_string);
        let id = text(ID).filter(|id| !id.is_empty() && id.len() <= MAX_ID).map(str::to_owned);
        let about = About {
            id: id.unwrap_or_else(new_id),
            uri,
            target: Target::of(parts, is_watch),
            source_ips: source_ips(&parts.headers, address),
            user_agent,
            received: Timestamp::now(),
        };
        Record { audit: self.clone(), about: Arc::new(about), state: Mutex::default() }
    }

    /// Begins the record of something that a part of the control plane does.
    pub fn begin_internal(self: &Arc<Self>, target: Target) -> Record {
        let about = About {
            id: new_id(),
            uri: target.path.clone(),
            target,
            source_ips: Vec::new(),
            user_agent: None,
            received: Timestamp::now(),
        };
        Record { audit: self.clone(), about: Arc::new(about), state: Mutex::default() }
    }

    /// Waits until everything recorded so far is in the file.
    pub async fn flush(&self) {
        self.log.flush().await;
    }
}

fn new_id() -> String {
    random_id().to_string()
}

/// A new id as a header's value.
pub fn new_id_header() -> HeaderValue {
    let mut text = uuid::Uuid::encode_buffer();
    HeaderValue::from_str(random_id().as_hyphenated().encode_lower(&mut text)).expect("hex and hyphens")
}

/// From the thread's own generator: every request takes one, and none is a secret.
fn random_id() -> uuid::Uuid {
    uuid::Builder::from_random_bytes(rand::random()).into_uuid()
}

/// What does not change during a request.
struct About {
    id: String,
    uri: String,
    target: Target,
    source_ips: Vec<String>,
    user_agent: Option<String>,
    received: Timestamp,
}

/// The record of one request, from its arrival to the end of its answer.
pub struct Record {
    audit: Arc<Audit>,
    about: Arc<About>,
    /// Held for a few lines, never over an await.
    state: Mutex<Known>,
}

/// What becomes known on the way.
#[derive(Default, Clone)]
struct Known {
    /// None until the caller is known, or known not to be.
    verdict: Option<Verdict>,
    user: Option<Value>,
    impersonated: Option<Value>,
    annotations: Annotations,
    /// The object that the request is about, or its body, as JSON.
    request: Option<Bytes>,
}

/// How a request ended.
pub struct Answer<'a> {
    pub code: u16,
    /// The body where it is one piece of JSON.
    pub body: Option<&'a Bytes>,
}

impl Record {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the client is told to refer to.
    pub fn id(&self) -> HeaderValue {
        HeaderValue::from_str(&self.about.id).unwrap_or_else(|_| HeaderValue::from_static(""))
    }

    /// The caller proved to be `user`: from now on it is settled what is recorded.
    pub async fn authenticated(&self, user: &User) {
        let verdict = self.audit.policy.judge(Some(user), &self.about.target.attributes());
        {
            let mut known = self.known();
            known.verdict = Some(verdict);
            known.user = Some(describe(user));
        }
        self.write(Stage::RequestReceived, None).await;
    }

    /// The request is carried out as if `user` had sent it.
    pub fn impersonated(&self, user: &User) {
        self.known().impersonated = Some(describe(user));
    }

    /// Notes how the authorizer decided, and why.
    pub fn authorized(&self, authorizer: &Authorizer, user: &User, attributes: &Attributes<'_>) {
        if !self.is_recorded() {
            return;
        }
        let (is_allowed, reason) = authorizer.explain(user, attributes);
        let decision = if is_allowed { "allow" } else { "forbid" };
        let annotations = &mut self.known().annotations;
        for (name, value) in [("decision", decision.to_owned()), ("reason", reason)] {
            annotations.insert(format!("authorization.k8s.io/{name}"), (Level::Metadata, value));
        }
    }

    /// Adds what came up on the way; what is there already stays.
    pub fn annotate(&self, more: Annotations) {
        if !more.is_empty() {
            let annotations = &mut self.known().annotations;
            let before = std::mem::replace(annotations, more);
            annotations.extend(before);
        }
    }

    /// Keeps the request's body, which `show` makes JSON, if the policy wants it.
    pub fn request_body(&self, show: impl FnOnce() -> Bytes) {
        let is_wanted = self.known().verdict.is_some_and(|verdict| verdict.level >= Level::Request);
        if is_wanted {
            let shown = show();
            self.known().request = Some(shown);
        }
    }

    /// Keeps the object that a request is about, if the policy wants it; where it only wants to know which object that
    /// is, what of `metadata` tells that. `show` makes it JSON.
    pub fn request_object(&self, metadata: &ObjectMeta, show: impl FnOnce() -> Option<Bytes>) {
        let level = self.known().verdict.map_or(Level::None, |verdict| verdict.level);
        let shown = match level {
            Level::None => return,
            Level::Metadata => {
                let ObjectMeta { name, namespace, uid, resource_version, .. } = metadata;
                let of = json!({ "name": name, "namespace": namespace, "uid": uid, "resourceVersion": resource_version });
                Some(json!({ "metadata": of }).to_string().into())
            }
            Level::Request | Level::RequestResponse => show(),
        };
        self.known().request = shown;
    }

    fn is_recorded(&self) -> bool {
        self.known().verdict.is_some_and(|verdict| verdict.level > Level::None)
    }

    /// Records that the request was answered; `has_failed` where the handler panicked.
    pub async fn answered(&self, answer: Answer<'_>, has_failed: bool) {
        let is_known = self.known().verdict.is_some();
        if !is_known {
            // Nobody proved to be anybody.
            let verdict = self.audit.policy.judge(None, &self.about.target.attributes());
            self.known().verdict = Some(verdict);
            return self.write(Stage::ResponseStarted, Some(answer)).await;
        }
        let stage = if has_failed { Stage::Panic } else { Stage::ResponseComplete };
        self.write(stage, Some(answer)).await;
    }

    /// Records that a long answer has begun; its end is recorded when what this gives is dropped.
    pub async fn begun(self, code: u16) -> Ending {
        self.write(Stage::ResponseStarted, Some(Answer { code, body: None })).await;
        Ending { record: Some(self), code }
    }

    async fn write(&self, stage: Stage, answer: Option<Answer<'_>>) {
        let line = self.line(stage, answer.as_ref());
        if let Some(line) = line {
            self.audit.log.write(line).await;
        }
    }

    /// The event as JSON; None where it is not to be recorded.
    fn line(&self, stage: Stage, answer: Option<&Answer<'_>>) -> Option<Vec<u8>> {
        let known = self.known().clone();
        let verdict = known.verdict.filter(|verdict| verdict.records(stage))?;
        let about = &*self.about;
        let mut event = json!({
            "kind": "Event",
            "apiVersion": "audit.k8s.io/v1",
            "level": verdict.level.name(),
            "auditID": about.id,
            "stage": stage.name(),
            "requestURI": about.uri,
            "verb": about.target.verb,
            "user": known.user.unwrap_or_else(|| json!({})),
            "sourceIPs": about.source_ips,
            "requestReceivedTimestamp": micros(about.received),
            "stageTimestamp": micros(Timestamp::now()),
        });
        let optional = |event: &mut Value, key: &str, value: Option<Value>| {
            if let Some(value) = value {
                event[key] = value;
            }
        };
        optional(&mut event, "impersonatedUser", known.impersonated);
        optional(&mut event, "userAgent", about.user_agent.as_deref().map(Into::into));
        let request: Option<Value> = known.request.and_then(|json| serde_json::from_slice(&json).ok());
        let mut reference = about.target.object_ref();
        if let (Some(reference), Some(request)) = (&mut reference, &request) {
            complete(reference, &request["metadata"]);
        }
        optional(&mut event, "objectRef", reference);
        let shown = known.annotations.into_iter().filter(|(_, (level, _))| *level <= verdict.level);
        let annotations: BTreeMap<String, String> = shown.map(|(key, (_, value))| (key, value)).collect();
        if !annotations.is_empty() {
            event["annotations"] = json!(annotations);
        }
        let shown = |mut value: Value| {
            if verdict.omits_managed_fields {
                omit_managed_fields(&mut value);
            }
            value
        };
        if verdict.level >= Level::Request && stage != Stage::RequestReceived {
            optional(&mut event, "requestObject", request.map(shown));
        }
        if let Some(answer) = answer {
            let body = answer.body.filter(|_| answer.code >= 400 || verdict.level >= Level::RequestResponse);
            let body: Option<Value> = body.and_then(|json| serde_json::from_slice(json).ok());
            event["responseStatus"] = status(answer.code, body.as_ref());
            if verdict.level >= Level::RequestResponse && stage != Stage::ResponseStarted {
                optional(&mut event, "responseObject", body.map(shown));
            }
        }
        serde_json::to_vec(&event).ok()
    }
}

/// Records the end of a long answer.
pub struct Ending {
    record: Option<Record>,
    code: u16,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let Some(record) = self.record.take() else { return };
        let code = self.code;
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { record.answered(Answer { code, body: None }, false).await });
        }
    }
}

fn describe(user: &User) -> Value {
    let mut value = json!({ "username": *user.name, "groups": *user.groups });
    if !user.uid.is_empty() {
        value["uid"] = Value::from(&*user.uid);
    }
    if !user.extra.is_empty() {
        value["extra"] = json!(*user.extra);
    }
    value
}

/// What the URL does not say of the object.
fn complete(reference: &mut Value, metadata: &Value) {
    for key in ["name", "namespace", "uid", "resourceVersion"] {
        if let Some(text) = metadata[key].as_str()
            && reference.get(key).is_none()
        {
            reference[key] = text.into();
        }
    }
}

/// Of a refusal, what the client was told.
fn status(code: u16, body: Option<&Value>) -> Value {
    let mut status = json!({ "metadata": {}, "code": code });
    if let Some(body) = body.filter(|body| body["kind"] == "Status") {
        for key in ["status", "message", "reason", "details"] {
            if let Some(value) = body.get(key) {
                status[key] = value.clone();
            }
        }
    }
    status
}

fn omit_managed_fields(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    if let Some(items) = object.get_mut("items").and_then(Value::as_array_mut) {
        items.iter_mut().for_each(omit_managed_fields);
    }
}

fn micros(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

/// Whom proxies say they speak for, then who is connected.
fn source_ips(headers: &HeaderMap, address: Option<IpAddr>) -> Vec<String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let forwarded = text("x-forwarded-for").split(',').chain([text("x-real-ip")]);
    let mut ips: Vec<IpAddr> = Vec::new();
    for ip in forwarded.filter_map(|ip| ip.trim().parse().ok()).take(16).chain(address) {
        if !ips.contains(&ip) {
            ips.push(ip);
        }
    }
    ips.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests;
