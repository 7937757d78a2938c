//! From a request to an answer: finds out what is meant, asks whether it may, and does it.

use std::{net::IpAddr, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use http_body::Body as _;
use hyper::body::Incoming;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{
    aggregation::{self, Aggregator},
    body::{Body, Payload, Room},
    deadline::{self, Deadline},
    documents::{self, Documents},
    encoding::{Encoding, compress},
    flow::Flow,
    form, health, images, impersonation,
    metrics::{self, Metrics, RequestKind},
    nodes::NodeClient,
    nowhere, probes,
    query::Query,
    recording, resources,
};
use crate::{
    ApiError,
    audit::{self, Record},
    auth::{Attributes, Authenticator, User, pki::Identity},
    fairness::Fairness,
    images::ImageLibrary,
    notes::Notes,
    protobuf,
    registry::{Registry, decode::Text},
    resource_metrics::ResourceMetrics,
};

/// What every request may use.
pub struct State {
    pub(super) registry: Registry,
    pub(super) authenticator: Authenticator,
    pub(super) images: Arc<ImageLibrary>,
    pub(super) nodes: NodeClient,
    pub(super) resource_metrics: Arc<ResourceMetrics>,
    pub(super) aggregator: Arc<Aggregator>,
    pub(super) documents: Documents,
    pub(super) metrics: Metrics,
    pub(super) fairness: Arc<Fairness>,
    pub(super) room: Room,
    /// How long a request takes at most.
    request_timeout: Duration,
    /// Ends watches and other long answers.
    pub(super) shutdown: CancellationToken,
}

impl State {
    /// `fairness` admits requests, `kubelet_client` is what node agents are shown, `shutdown` ends what would go on for
    /// long.
    ///
    /// # Errors
    /// Where the identity cannot be used for TLS.
    pub fn new(
        registry: Registry,
        authenticator: Authenticator,
        fairness: Arc<Fairness>,
        images: Arc<ImageLibrary>,
        aggregator: Arc<Aggregator>,
        kubelet_client: &Identity,
        shutdown: CancellationToken,
    ) -> Result<Self, String> {
        let nodes = NodeClient::new(kubelet_client)?;
        let resource_metrics = ResourceMetrics::new(registry.store().clone(), nodes.clone());
        Ok(Self {
            registry,
            authenticator,
            images,
            nodes,
            resource_metrics: Arc::new(resource_metrics),
            aggregator,
            documents: Documents::default(),
            metrics: Metrics::default(),
            fairness,
            room: Room::default(),
            request_timeout: deadline::DEFAULT,
            shutdown,
        })
    }

    /// The same with another limit to how long a request takes.
    #[must_use]
    pub fn with_request_timeout(self, request_timeout: Duration) -> Self {
        Self { request_timeout, ..self }
    }

    /// What nodes and pods use. It tells only while somebody runs it.
    pub fn resource_metrics(&self) -> &Arc<ResourceMetrics> {
        &self.resource_metrics
    }
}

/// Who is at the other end of a connection.
#[derive(Debug, Default)]
pub struct Caller {
    /// The user of the connection's certificate.
    pub certified: Option<Arc<User>>,
    pub address: Option<IpAddr>,
}

/// One request, its body still unread.
pub struct Exchange<'a> {
    pub state: &'a Arc<State>,
    pub user: Arc<User>,
    pub parts: &'a Parts,
    pub query: Query<'a>,
    pub body: Payload,
    /// What kind of request it turned out to be, for the metrics.
    pub label: &'a mut RequestKind,
    /// In which encoding the client wants its answer.
    pub encoding: &'a mut Encoding,
    /// The seats that it holds.
    pub flow: &'a mut Flow,
    /// None where nothing is recorded.
    pub record: Option<&'a Record>,
    /// What is to be told beside the answer.
    pub notes: &'a Notes,
}

/// The encodings that request bodies come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentType {
    Json,
    Yaml,
    Protobuf,
}

impl ContentType {
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        match text {
            "" | "application/json" => Ok(Self::Json),
            "application/yaml" | "text/yaml" => Ok(Self::Yaml),
            "application/vnd.kubernetes.protobuf" => Ok(Self::Protobuf),
            _ => Err(Self::unsupported(", application/vnd.kubernetes.protobuf")),
        }
    }

    /// The refusal of another encoding; `more` are those that are accepted beside JSON and YAML.
    fn unsupported(more: &str) -> ApiError {
        ApiError::UnsupportedMediaType(format!(
            "the body of the request was in an unknown format - accepted media types include: application/json, \
             application/yaml{more}"
        ))
    }

    /// `body` as JSON; an empty one stays empty.
    pub fn to_json(self, body: Bytes) -> Result<Text, ApiError> {
        if body.is_empty() {
            return Ok(Text::of_json(body));
        }
        match self {
            Self::Json => Ok(Text::of_json(body)),
            Self::Yaml => Text::of_yaml(&body).map_err(|error| {
                ApiError::BadRequest(format!("error converting YAML to JSON: yaml: {error}"))
            }),
            Self::Protobuf => {
                let value =
                    protobuf::to_json(&body).map_err(|error| ApiError::BadRequest(error.to_string()))?;
                Ok(Text::of_json(form::to_bytes(&value)))
            }
        }
    }
}

/// Answers one request of `caller`, whatever happens.
pub async fn handle(state: Arc<State>, caller: Arc<Caller>, request: Request<Incoming>) -> Response<Body> {
    let began = state.metrics.begin();
    let (parts, body) = request.into_parts();
    let body = Payload::Coming(body.into());
    let (mut label, mut encoding, mut flow) = (RequestKind::default(), Encoding::default(), Flow::default());
    let query = Query::parse(parts.uri.query());
    let is_passed_on = || state.aggregator.is_for(parts.uri.path());
    let deadline = Deadline::of(&query, &parts, state.request_timeout, is_passed_on);
    let is_pretty = is_pretty(&query, &parts);
    let audit = state.registry.audit();
    let record = audit.map(|audit| audit.begin(&parts, query.flag("watch"), caller.address));
    let notes = Notes::new(record.is_some());
    let answer = async {
        let (deadline, record) = (deadline?, record.as_ref());
        let user = identify(&state, caller.certified.as_ref(), &parts, record).await?;
        let (label, encoding, flow) = (&mut label, &mut encoding, &mut flow);
        let (state, parts, notes) = (&state, &parts, &notes);
        let answer =
            route(Exchange { state, user, parts, query, body, label, encoding, flow, record, notes });
        match deadline {
            None => answer.await,
            Some(deadline) => deadline.keep(began, answer).await,
        }
    };
    // A fault of ours in one request must not take the connection's other requests with it.
    let answer = AssertUnwindSafe(answer).catch_unwind().await;
    let has_failed = answer.is_err();
    let response = match answer {
        Ok(Ok(answer)) => answer,
        Ok(Err(ApiError::NoSuchPath)) => nowhere::answer(&state, parts.uri.path()),
        Ok(Err(error)) => failure(&error),
        Err(_) => {
            failure(&ApiError::Internal(format!("a handler of {} {} failed", parts.method, parts.uri.path())))
        }
    };
    let is_read = matches!(label.verb, "GET" | "LIST") || parts.uri.path().starts_with("/openapi/");
    let mut response = flow.end(response, label.verb == "LIST");
    add_warnings(&mut response, &notes.take_warnings());
    let mut response = match record {
        Some(record) => {
            record.annotate(notes.take_annotations());
            recording::answered(record, response, &label, has_failed).await
        }
        None => response,
    };
    identify_answer(&parts, &mut response);
    state.metrics.end(label, &parts.method, response.status().as_u16(), began);
    let response = encoding.write(response);
    let response = if is_pretty { prettify(response) } else { response };
    let accepted = parts.headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
    let response = match accepted {
        Some(accepted) if is_read => compress(accepted, response),
        _ => response,
    };
    if parts.method == Method::HEAD { without_body(response) } else { response }
}

/// The head of an answer alone, with the length that the body would have. In HTTP/2, hyper would send the body, and clients
/// take that for an error of the connection.
fn without_body(mut response: Response<Body>) -> Response<Body> {
    let length = response.body().size_hint().exact().filter(|length| *length > 0);
    if let (Some(length), header::Entry::Vacant(place)) =
        (length, response.headers_mut().entry(header::CONTENT_LENGTH))
    {
        place.insert(length.into());
    }
    response.map(|_| Body::Full(None))
}

/// Whether somebody reads the answer as it comes: who asks for it with `?pretty=`, or with a tool for that.
fn is_pretty(query: &Query<'_>, parts: &Parts) -> bool {
    if query.has("pretty") {
        return query.flag("pretty");
    }
    let agent = parts.headers.get(header::USER_AGENT).map_or(&b""[..], HeaderValue::as_bytes);
    [&b"curl"[..], b"Wget", b"Mozilla/5.0"].into_iter().any(|reader| agent.starts_with(reader))
}

/// Gives the answer the id under which the client may ask about it, where audit or another server did not: the
/// request's own, or a new one.
fn identify_answer(parts: &Parts, response: &mut Response<Body>) {
    if let header::Entry::Vacant(place) = response.headers_mut().entry(audit::ID) {
        let given = parts.headers.get(audit::ID).filter(|id| !id.is_empty());
        place.insert(given.cloned().unwrap_or_else(audit::new_id_header));
    }
}

/// Who the request is from, or is to be taken for.
async fn identify(
    state: &State,
    certified: Option<&Arc<User>>,
    parts: &Parts,
    record: Option<&Record>,
) -> Result<Arc<User>, ApiError> {
    let store = state.registry.store();
    let user = state.authenticator.authenticate(certified, &parts.headers, store).await;
    let user = user.map_err(|_| ApiError::Unauthorized)?;
    if let Some(record) = record {
        record.authenticated(&user).await;
    }
    let acted = impersonation::impersonated(&user, &parts.headers, state.registry.authorizer())?;
    if let (Some(record), Some(acted)) = (record, &acted) {
        record.impersonated(acted);
    }
    Ok(acted.unwrap_or(user))
}

async fn route(mut exchange: Exchange<'_>) -> Result<Response<Body>, ApiError> {
    let path = exchange.parts.uri.path();
    let mut segments = path.trim_matches('/').splitn(3, '/');
    let head = (segments.next().unwrap_or_default(), segments.next(), segments.next());
    match head {
        ("healthz" | "livez" | "readyz", check, None) => {
            // Load balancers ask by HEAD.
            if exchange.parts.method != Method::HEAD {
                exchange.get_only()?;
            }
            exchange.enter_path().await?;
            return probes::answer(exchange.state, head.0, check, &exchange.query).await;
        }
        ("version", None, None) => {
            exchange.get_only()?;
            exchange.enter_path().await?;
            return Ok(json_response(StatusCode::OK, form::to_bytes(&health::version())));
        }
        ("api", Some(_), Some(_)) => return resources::answer(exchange).await,
        ("apis", Some(group), Some(rest)) => {
            let version = rest.split('/').next().unwrap_or_default();
            if let Some(remote) = exchange.state.aggregator.find(group, version) {
                return aggregation::answer(exchange, &remote).await;
            }
            if rest.contains('/') {
                return resources::answer(exchange).await;
            }
        }
        _ => (),
    }
    exchange.enter_path().await?;
    match head {
        ("" | "index.html" | "api" | "apis" | "openapi", _, _) => documents::answer(exchange).await,
        ("metrics", None, None) => {
            exchange.get_only()?;
            let registry = &exchange.state.registry;
            let kinds = registry.kinds();
            let stored = kinds.stored().map(|served| served.qualified.as_str());
            let levels = exchange.state.fairness.loads();
            let format = metrics::Format::of(exchange.accept());
            let text = exchange.state.metrics.render(registry.store(), stored, &levels, format);
            Ok(text_response(StatusCode::OK, format.content_type(), text))
        }
        (".well-known", Some("openid-configuration"), None) => {
            exchange.get_only()?;
            let url = format!("https://{}", exchange.host());
            let about = exchange.state.authenticator.issuer().discovery(&url);
            Ok(json_response(StatusCode::OK, form::to_bytes(&about)))
        }
        ("openid", Some("v1"), Some("jwks")) => {
            exchange.get_only()?;
            let keys = exchange.state.authenticator.issuer().key_set();
            let mut response = json_response(StatusCode::OK, form::to_bytes(&keys));
            let content_type = HeaderValue::from_static("application/jwk-set+json");
            response.headers_mut().insert(header::CONTENT_TYPE, content_type);
            Ok(response)
        }
        ("debug", Some("api_priority_and_fairness"), Some(name)) => {
            let with_details = !exchange.query.text("includeRequestDetails").is_empty();
            let table = exchange.state.fairness.dump(name, with_details).ok_or(ApiError::NoSuchPath)?;
            Ok(text_response(StatusCode::OK, "text/plain; charset=utf-8", table))
        }
        ("naru", Some("v1"), Some(_)) => images::answer(exchange).await,
        _ => Err(ApiError::NoSuchPath),
    }
}

impl<'a> Exchange<'a> {
    pub fn header(&self, name: header::HeaderName) -> &str {
        self.parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
    pub fn accept(&self) -> &str {
        self.header(header::ACCEPT)
    }
    pub fn content_type(&self) -> &str {
        self.header(header::CONTENT_TYPE).split(';').next().unwrap_or_default().trim()
    }

    /// The body as JSON, for an object of a kind with or without a protobuf message. It is not recorded: the object is.
    pub async fn read_object(self, has_message: bool) -> Result<Text, ApiError> {
        let content_type = ContentType::parse(self.content_type())?;
        if content_type == ContentType::Protobuf && !has_message {
            return Err(ContentType::unsupported(""));
        }
        content_type.to_json(self.body.read().await?)
    }

    /// The body as a message of `kind`, which is no stored object. It is recorded as it was understood, with what `default`
    /// adds to it.
    pub async fn read_message<T: Serialize + DeserializeOwned>(
        self,
        kind: &str,
        default: impl FnOnce(&mut T),
    ) -> Result<T, ApiError> {
        let record = self.record;
        let text = self.read_object(true).await?;
        let mut message = resources::decode_as(kind, &text.json)?;
        default(&mut message);
        if let Some(record) = record {
            record.request_body(|| form::to_bytes(&message));
        }
        Ok(message)
    }

    /// `127.0.0.1:6443`, as the client knows us.
    pub fn host(&self) -> &str {
        match self.parts.uri.authority() {
            Some(authority) => authority.as_str(),
            None => self.header(header::HOST),
        }
    }

    pub fn get_only(&self) -> Result<(), ApiError> {
        if self.parts.method == Method::GET { Ok(()) } else { Err(ApiError::MethodNotAllowed) }
    }

    /// Seats and authorizes a request for a path that is not a resource's.
    pub async fn enter_path(&mut self) -> Result<(), ApiError> {
        let (attributes, user) = (self.path_attributes(), self.user.clone());
        self.flow.take_seat(self.state, &user, &attributes, (1, self.parts.uri.path())).await?;
        self.authorize_path()
    }

    /// Seats and authorizes a request of `user`. One whose body is still coming is authorized first, and waits for the
    /// rest of it without a seat, which would be kept from others.
    pub async fn enter(
        &mut self,
        user: &User,
        attributes: &Attributes<'_>,
        width: u32,
    ) -> Result<(), ApiError> {
        let seats = (width, self.parts.uri.path());
        if self.body.is_here() {
            self.flow.take_seat(self.state, user, attributes, seats).await?;
            return self.authorize(user, attributes);
        }
        self.flow.classify(self.state, user, attributes);
        self.authorize(user, attributes)?;
        self.body.gather(&self.state.room).await?;
        self.flow.take_seat(self.state, user, attributes, seats).await
    }

    /// Asks for a path that is not a resource's.
    pub fn authorize_path(&self) -> Result<(), ApiError> {
        self.authorize(&self.user, &self.path_attributes())
    }

    fn path_attributes(&self) -> Attributes<'a> {
        let verb = match self.parts.method {
            Method::GET => "get",
            Method::HEAD => "head",
            Method::POST => "post",
            Method::PUT => "put",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "other",
        };
        Attributes { verb, path: self.parts.uri.path(), ..Attributes::default() }
    }
}

pub fn json_response(status: StatusCode, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

pub fn text_response(status: StatusCode, content_type: &'static str, text: String) -> Response<Body> {
    let mut response = json_response(status, Bytes::from(text));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// An error as the client sees it.
pub fn failure(error: &ApiError) -> Response<Body> {
    if let ApiError::Internal(why) = error {
        tracing::error!(%why, "a request failed");
    }
    let status = error.to_status();
    let code = StatusCode::from_u16(error.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json_response(code, form::to_bytes(&status));
    let retry_after = status.details.and_then(|details| details.retry_after_seconds);
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    }
    response
}

/// `Status` of something that worked and has no object to show.
pub fn success(details: Value) -> Bytes {
    form::to_bytes(&json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": details,
    }))
}

/// A body that is encoded already.
pub fn encoded_response(content_type: HeaderValue, body: Body) -> Response<Body> {
    let mut response = json_response(StatusCode::OK, body);
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

/// `Warning: 299 - "text"`, one header each.
fn add_warnings(response: &mut Response<Body>, warnings: &[String]) {
    for warning in warnings {
        let text: String = warning
            .chars()
            .filter(|character| !character.is_control())
            .flat_map(|character| match character {
                '"' | '\\' => vec!['\\', character],
                other => vec![other],
            })
            .collect();
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{text}\"").as_bytes()) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}

fn prettify(response: Response<Body>) -> Response<Body> {
    if response.headers().get(header::CONTENT_TYPE).is_none_or(|kind| kind != "application/json") {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let Body::Full(Some(bytes)) = body else { return Response::from_parts(parts, body) };
    let value: Option<Value> = serde_json::from_slice(&bytes).ok();
    let text = value.and_then(|value| serde_json::to_vec_pretty(&value).ok());
    let body = text.map_or(Body::Full(Some(bytes)), |text| Bytes::from(text).into());
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, body)
}
