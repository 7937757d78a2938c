//! The API as clients see it: requests over a socket, answers as JSON.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

mod answers;
mod bad_input;
mod corners;
mod encodings;
mod evictions;
mod expectations;
mod messages;
mod patched;

use super::{Caller, State, handle};
use crate::{
    ApiClient,
    auth::{Attributes, AuthenticationSettings, Authenticator, TokenIssuer, User, pki::Pki},
    fairness::{DEFAULT_SEATS, Fairness},
    images::ImageLibrary,
};

const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";
const DEADLINE: Duration = Duration::from_secs(10);

/// A server over a store in memory, and its only client.
struct Cluster {
    address: SocketAddr,
    client: ApiClient,
    state: Arc<State>,
    shutdown: CancellationToken,
    _folder: Folder,
}

/// A folder of its own for certificates and images.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new() -> Self {
        Self(std::env::temp_dir().join(format!("naru-api-{}", uuid::Uuid::new_v4())))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// An answer, read whole.
struct Answer {
    status: u16,
    headers: http::HeaderMap,
    body: Value,
}

impl Answer {
    fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }
    /// The answer's object, which must have been given with `status`.
    fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        self.body
    }
    fn names(&self) -> Vec<&str> {
        let items = self.body["items"].as_array().expect("a list");
        items.iter().filter_map(|item| item["metadata"]["name"].as_str()).collect()
    }
}

impl Cluster {
    /// Serves an administrator.
    async fn start() -> Self {
        Self::start_for(Some(User::new("admin", vec!["system:masters".into()]))).await
    }

    async fn start_for(user: Option<User>) -> Self {
        Self::start_within(user, super::deadline::DEFAULT).await
    }

    /// The same where requests may take so long at most.
    async fn start_within(user: Option<User>, request_timeout: Duration) -> Self {
        let folder = Folder::new();
        let pki = Pki::open(&folder.0, &["localhost".into()]).expect("certificates");
        let issuer = Arc::new(TokenIssuer::open(&folder.0, "cluster.local").expect("a key"));
        let authenticator = Authenticator::new(&AuthenticationSettings::default(), issuer).expect("usable");
        let images = ImageLibrary::open(&folder.0.join("images")).expect("an image store");
        let client = ApiClient::in_memory();
        let shutdown = CancellationToken::new();
        let state = State::new(
            client.registry().clone(),
            authenticator,
            Arc::new(Fairness::new(DEFAULT_SEATS, &client.store().snapshot())),
            Arc::new(images),
            Arc::new(super::aggregation::Aggregator::new(pki.proxy_client.clone())),
            &pki.kubelet_client,
            shutdown.clone(),
        );
        let state = Arc::new(state.expect("a state").with_request_timeout(request_timeout));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let caller = Arc::new(Caller { certified: user.map(Arc::new), address: None });
        let (ends, served) = (shutdown.clone(), state.clone());
        tokio::spawn(async move {
            while let Some(Ok((stream, _))) = ends.run_until_cancelled(listener.accept()).await {
                let (state, caller) = (served.clone(), caller.clone());
                let service = service_fn(move |request| {
                    let (state, caller) = (state.clone(), caller.clone());
                    async move { Ok::<_, std::convert::Infallible>(handle(state, caller, request).await) }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        let cluster = Self { address, client, state, shutdown, _folder: folder };
        cluster.make_namespace("shop").await;
        cluster
    }

    async fn make_namespace(&self, name: &str) {
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some(name.into());
        self.client.create(&namespace).await.expect("a namespace");
        let mut account = ServiceAccount::default();
        account.metadata.name = Some("default".into());
        account.metadata.namespace = Some(name.into());
        self.client.create(&account).await.expect("an account");
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        kind: &str,
        accept: &str,
        body: Bytes,
    ) -> http::Response<Incoming> {
        let stream = TcpStream::connect(self.address).await.expect("a connection");
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "naru")
            .header(header::ACCEPT, accept)
            .header(header::CONTENT_TYPE, kind)
            .body(Full::new(body))
            .expect("a request");
        tokio::time::timeout(DEADLINE, sender.send_request(request))
            .await
            .expect("in time")
            .expect("an answer")
    }

    async fn exchange(&self, method: &str, path: &str, kind: &str, accept: &str, body: Bytes) -> Answer {
        let response = self.send(method, path, kind, accept, body).await;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = response.into_body().collect().await.expect("a body").to_bytes();
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Answer { status, headers, body }
    }

    async fn get(&self, path: &str) -> Answer {
        self.exchange("GET", path, JSON, JSON, Bytes::new()).await
    }
    async fn get_as(&self, path: &str, accept: &str) -> Answer {
        self.exchange("GET", path, JSON, accept, Bytes::new()).await
    }
    async fn post(&self, path: &str, object: &Value) -> Answer {
        self.exchange("POST", path, JSON, JSON, object.to_string().into()).await
    }
    async fn put(&self, path: &str, object: &Value) -> Answer {
        self.exchange("PUT", path, JSON, JSON, object.to_string().into()).await
    }
    async fn patch(&self, path: &str, kind: &str, patch: &Value) -> Answer {
        self.exchange("PATCH", path, kind, JSON, patch.to_string().into()).await
    }
    async fn delete(&self, path: &str, options: &Value) -> Answer {
        self.exchange("DELETE", path, JSON, JSON, options.to_string().into()).await
    }

    /// The frames of a watch that arrive until `count` are there.
    async fn watch(&self, path: &str) -> Frames {
        let response = self.send("GET", path, JSON, JSON, Bytes::new()).await;
        assert_eq!(response.status(), StatusCode::OK);
        Frames { body: response.into_body(), text: String::new() }
    }
}

struct Frames {
    body: Incoming,
    text: String,
}

impl Frames {
    async fn next(&mut self) -> Value {
        loop {
            if let Some((line, rest)) = self.text.split_once('\n') {
                let value = serde_json::from_str(line).expect("a frame");
                self.text = rest.to_owned();
                return value;
            }
            let frame = tokio::time::timeout(DEADLINE, self.body.frame()).await.expect("in time");
            let data = frame.expect("not the end").expect("no error").into_data().expect("data");
            self.text.push_str(std::str::from_utf8(&data).expect("text"));
        }
    }

    /// Type and name of the next frame.
    async fn event(&mut self) -> (String, String) {
        let frame = self.next().await;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (text(&frame["type"]), text(&frame["object"]["metadata"]["name"]))
    }
}

const MAPS: &str = "/api/v1/namespaces/shop/configmaps";

fn config_map(name: &str, labels: Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "labels": labels }, "data": { "a": "1" } })
}

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
        "spec": { "containers": [{ "name": "web", "image": "hello.wasm" }] },
    })
}

fn deployment(name: &str, replicas: Value) -> Value {
    let template = json!({
        "metadata": { "labels": { "app": name } },
        "spec": { "containers": [{ "name": "web", "image": "hello.wasm" }] },
    });
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name },
        "spec": { "replicas": replicas, "selector": { "matchLabels": { "app": name } }, "template": template },
    })
}

fn event(kind: &str, name: &str) -> (String, String) {
    (kind.into(), name.into())
}

#[tokio::test]
async fn whatever_is_asked_wrongly_is_answered_with_a_status() {
    let cluster = Cluster::start().await;
    let check = |answer: Answer, status: u16, reason: &str| {
        assert_eq!(
            (answer.status, answer.body["reason"].as_str()),
            (status, Some(reason)),
            "{}",
            answer.body
        );
        assert_eq!(answer.body["kind"], "Status");
    };
    check(cluster.get("/apis/apps/v1/things").await, 404, "NotFound");
    check(cluster.get("/api/v1/pods/web").await, 404, "NotFound");
    check(cluster.get("/api/v1/namespaces/shop/pods/web").await, 404, "NotFound");
    check(cluster.post("/api/v1/pods", &pod("web")).await, 405, "MethodNotAllowed");
    check(cluster.post("/version", &json!({})).await, 405, "MethodNotAllowed");
    check(cluster.get_as(MAPS, "application/xml").await, 406, "NotAcceptable");
    let csv = cluster.exchange("POST", MAPS, "text/csv", JSON, "a,b".into()).await;
    check(csv, 415, "UnsupportedMediaType");
    let large = Bytes::from(vec![b' '; (3 << 20) + 1]);
    check(cluster.exchange("POST", MAPS, JSON, JSON, large).await, 413, "RequestEntityTooLarge");
    check(cluster.patch(&format!("{MAPS}/a"), "text/plain", &json!({})).await, 415, "UnsupportedMediaType");
    check(cluster.post(MAPS, &pod("web")).await, 400, "BadRequest");
    check(cluster.exchange("POST", MAPS, JSON, JSON, "{\"kind\":".into()).await, 400, "BadRequest");
}

#[tokio::test]
async fn nobody_gets_in_without_a_name_except_to_ask_how_we_are() {
    let cluster = Cluster::start_for(None).await;
    let answer = cluster.get(MAPS).await;
    assert_eq!(answer.status, 403);
    assert!(answer.message().contains("User \"system:anonymous\" cannot list"), "{}", answer.message());
    assert_eq!(cluster.get("/api").await.status, 403);
    assert_eq!(cluster.get("/readyz").await.status, 200);
    assert_eq!(cluster.get("/version").await.body["minor"], "37");
}

#[tokio::test]
async fn a_user_without_rights_is_told_which_one_is_missing() {
    let cluster = Cluster::start_for(Some(User::new("jane", vec![]))).await;
    let answer = cluster.get(MAPS).await;
    assert_eq!(
        (answer.status, answer.message()),
        (
            403,
            "configmaps is forbidden: User \"jane\" cannot list resource \"configmaps\" in API group \"\" in the namespace \"shop\""
        )
    );
}

#[tokio::test]
async fn fields_that_do_not_exist_are_refused_warned_of_or_ignored() {
    let cluster = Cluster::start().await;
    let body = r#"{"metadata":{"name":"NAME"},"dat":{},"data":{"a":"1","a":"2"}}"#;
    let post = async |name: &str, validation: &str| {
        let path = format!("{MAPS}?fieldValidation={validation}");
        cluster.exchange("POST", &path, JSON, JSON, body.replace("NAME", name).into()).await
    };
    let strict = post("strict", "Strict").await;
    assert_eq!(
        strict.message(),
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: duplicate field \
         \"data.a\", unknown field \"dat\""
    );
    let warned = post("warned", "Warn").await;
    let warnings: Vec<_> = warned.headers.get_all(header::WARNING).iter().collect();
    assert_eq!(warnings, ["299 - \"duplicate field \\\"data.a\\\"\"", "299 - \"unknown field \\\"dat\\\"\""]);
    assert_eq!(warned.status, 201);
    let ignored = post("ignored", "Ignore").await;
    assert_eq!((ignored.status, ignored.headers.get(header::WARNING)), (201, None));
}

#[tokio::test]
async fn a_patch_is_read_as_strictly_as_an_object() {
    let cluster = Cluster::start().await;
    cluster.post(MAPS, &config_map("web", json!({"a": "0"}))).await.expect(201);
    let patch = async |kind: &str, validation: &str, body: &str| {
        let path = format!("{MAPS}/web?fieldValidation={validation}&dryRun=All");
        let kind = format!("application/{kind}-patch+json");
        cluster.exchange("PATCH", &path, &kind, JSON, body.to_owned().into()).await
    };
    let twice = r#"{"data":{"a":"1","a":"2"},"dat":{}}"#;
    let add = r#"[{"op":"add","path":"/data/a","value":"2","value":"2","note":"?"}]"#;
    for (kind, body, problems) in [
        ("merge", twice, [r#"duplicate field "data.a""#, r#"unknown field "dat""#]),
        ("strategic-merge", twice, [r#"duplicate field "data.a""#, r#"unknown field "dat""#]),
        (
            "json",
            add,
            [r#"json patch duplicate field "[0].value""#, r#"json patch unknown field "[0].note""#],
        ),
    ] {
        let strict = patch(kind, "Strict", body).await;
        let ending = format!("strict decoding error: {}", problems.join(", "));
        assert!(
            strict.message().starts_with(" \"\" is invalid: patch: Invalid value: "),
            "{}",
            strict.message()
        );
        assert!(strict.message().ends_with(&ending), "{}", strict.message());
        assert_eq!(strict.status, 422);
        let warned = patch(kind, "Warn", body).await;
        let warnings: Vec<_> = warned.headers.get_all(header::WARNING).iter().collect();
        let expected = problems.map(|text| format!("299 - \"{}\"", text.replace('"', "\\\"")));
        assert!(warnings == expected.each_ref().map(String::as_str), "{kind}: {warnings:?}");
        assert_eq!(warned.expect(200)["data"]["a"], "2");
        let ignored = patch(kind, "Ignore", body).await;
        assert_eq!((ignored.status, ignored.headers.get(header::WARNING)), (200, None));
    }
    for kind in ["merge", "strategic-merge"] {
        let wrong = patch(kind, "Ignore", r#"{"data":{"n":7}}"#).await;
        assert_eq!((wrong.status, &wrong.body["reason"]), (422, &json!("Invalid")));
        let why = "json: cannot unmarshal number into Go struct field ConfigMap.data of type string";
        assert!(wrong.message().ends_with(why), "{}", wrong.message());
    }
    for (kind, body, why) in [
        ("merge", "{", "unexpected end of JSON input"),
        ("json", "{}", "json: cannot unmarshal object into Go value of type jsonpatch.Patch"),
    ] {
        let wrong = patch(kind, "Warn", body).await;
        assert_eq!((wrong.status, wrong.message()), (400, format!("error decoding patch: {why}").as_str()));
    }
}

#[tokio::test]
async fn a_value_of_the_wrong_type_is_named_with_its_place() {
    let cluster = Cluster::start().await;
    let path = "/apis/apps/v1/namespaces/shop/deployments";
    let answer = cluster.post(path, &deployment("web", json!("three"))).await;
    assert_eq!(
        answer.message(),
        "Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot unmarshal string into Go struct \
         field DeploymentSpec.spec.replicas of type int32"
    );
    let answer = cluster.post(MAPS, &config_map("a", json!({ "on": true }))).await;
    assert_eq!(
        answer.message(),
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal bool into Go struct field \
         ObjectMeta.metadata.labels of type string"
    );
}

#[tokio::test]
async fn pages_show_the_collection_as_it_was() {
    let cluster = Cluster::start().await;
    for name in ["a", "b", "c", "d", "e"] {
        cluster.post(MAPS, &config_map(name, json!({}))).await.expect(201);
    }
    let first = cluster.get(&format!("{MAPS}?limit=2")).await;
    assert_eq!(first.names(), ["a", "b"]);
    assert_eq!(first.body["metadata"]["remainingItemCount"], 3);
    cluster.delete(&format!("{MAPS}/c"), &json!({})).await.expect(200);
    cluster.post(MAPS, &config_map("z", json!({}))).await.expect(201);
    let token = first.body["metadata"]["continue"].as_str().expect("a token");
    let second = cluster.get(&format!("{MAPS}?limit=2&continue={token}")).await;
    assert_eq!(second.names(), ["c", "d"]);
    assert_eq!(second.body["metadata"]["remainingItemCount"], 1, "of those that were there");
    assert_eq!(second.body["metadata"]["resourceVersion"], first.body["metadata"]["resourceVersion"]);
    let token = second.body["metadata"]["continue"].as_str().expect("a token");
    let last = cluster.get(&format!("{MAPS}?limit=2&continue={token}")).await;
    assert_eq!(last.names(), ["e"]);
    assert!(last.body["metadata"].get("continue").is_none());
}

#[tokio::test]
async fn selectors_choose_by_labels_and_fields() {
    let cluster = Cluster::start().await;
    cluster.post(MAPS, &config_map("tea", json!({ "kind": "hot" }))).await.expect(201);
    cluster.post(MAPS, &config_map("ice", json!({ "kind": "cold" }))).await.expect(201);
    assert_eq!(cluster.get(&format!("{MAPS}?labelSelector=kind%20in%20(hot)")).await.names(), ["tea"]);
    assert_eq!(cluster.get(&format!("{MAPS}?fieldSelector=metadata.name%3Dice")).await.names(), ["ice"]);
    let all =
        cluster.get("/api/v1/configmaps?fieldSelector=metadata.name%3Dice,metadata.namespace%3Dshop").await;
    assert_eq!(all.names(), ["ice"]);
    let unknown = cluster.get(&format!("{MAPS}?fieldSelector=data.a%3D1")).await;
    assert_eq!(
        (unknown.status, unknown.message()),
        (400, "\"data.a\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
    );
}

#[tokio::test]
async fn a_table_has_a_row_per_object() {
    let cluster = Cluster::start().await;
    cluster.post("/api/v1/namespaces/shop/pods", &pod("web")).await.expect(201);
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let table = cluster.get_as("/api/v1/namespaces/shop/pods", accept).await.expect(200);
    assert_eq!(table["kind"], "Table");
    assert_eq!(table["columnDefinitions"][0]["name"], "Name");
    assert_eq!(table["rows"][0]["cells"][0], "web");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let accept = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let list = cluster.get_as("/api/v1/namespaces/shop/pods", accept).await.expect(200);
    assert_eq!(list["items"][0]["metadata"]["name"], "web");
    assert!(list["items"][0].get("spec").is_none());
}

#[tokio::test]
async fn a_watch_with_a_selector_sees_objects_come_and_go() {
    let cluster = Cluster::start().await;
    cluster.post(MAPS, &config_map("tea", json!({ "kind": "hot" }))).await.expect(201);
    let mut frames = cluster.watch(&format!("{MAPS}?watch=true&labelSelector=kind%3Dhot")).await;
    assert_eq!(frames.event().await, event("ADDED", "tea"));
    cluster.post(MAPS, &config_map("ice", json!({ "kind": "cold" }))).await.expect(201);
    let warm = json!({ "metadata": { "labels": { "kind": "hot" } } });
    cluster.patch(&format!("{MAPS}/ice"), MERGE, &warm).await.expect(200);
    assert_eq!(frames.event().await, event("ADDED", "ice"));
    cluster.patch(&format!("{MAPS}/ice"), MERGE, &json!({ "data": { "b": "2" } })).await.expect(200);
    assert_eq!(frames.event().await, event("MODIFIED", "ice"));
    let cold = json!({ "metadata": { "labels": { "kind": "cold" } } });
    let changed = cluster.patch(&format!("{MAPS}/ice"), MERGE, &cold).await.expect(200);
    let left = frames.next().await;
    assert_eq!(left["type"], "DELETED");
    // The last state that was chosen, at the revision of the change.
    assert_eq!(left["object"]["metadata"]["labels"]["kind"], "hot");
    assert_eq!(left["object"]["metadata"]["resourceVersion"], changed["metadata"]["resourceVersion"]);
    cluster.delete(&format!("{MAPS}/tea"), &json!({})).await.expect(200);
    assert_eq!(frames.event().await, event("DELETED", "tea"));
}

#[tokio::test]
async fn initial_events_end_with_a_bookmark() {
    let cluster = Cluster::start().await;
    cluster.post(MAPS, &config_map("tea", json!({}))).await.expect(201);
    let path = format!("{MAPS}?watch=1&allowWatchBookmarks=true&sendInitialEvents=true");
    let refused = cluster.get(&path).await;
    assert_eq!(
        refused.message(),
        "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: sendInitialEvents requires setting \
         resourceVersionMatch to NotOlderThan"
    );
    let mut frames = cluster.watch(&format!("{path}&resourceVersionMatch=NotOlderThan")).await;
    assert_eq!(frames.event().await, event("ADDED", "tea"));
    let bookmark = frames.next().await;
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
}

#[tokio::test]
async fn each_kind_of_patch_is_applied() {
    let cluster = Cluster::start().await;
    let (path, created) = ("/apis/apps/v1/namespaces/shop/deployments/web", deployment("web", json!(1)));
    cluster.post("/apis/apps/v1/namespaces/shop/deployments", &created).await.expect(201);
    let side =
        json!({ "spec": { "template": { "spec": { "containers": [{ "name": "side", "image": "b" }] } } } });
    let merged = cluster.patch(path, "application/strategic-merge-patch+json", &side).await.expect(200);
    assert_eq!(merged["spec"]["template"]["spec"]["containers"].as_array().map(Vec::len), Some(2));
    let scaled = cluster.patch(path, MERGE, &json!({ "spec": { "replicas": 4 } })).await.expect(200);
    assert_eq!((&scaled["spec"]["replicas"], &scaled["metadata"]["generation"]), (&json!(4), &json!(3)));
    let kind = "application/json-patch+json";
    let pass = json!([{ "op": "test", "path": "/spec/replicas", "value": 4 }, { "op": "replace", "path": "/spec/replicas", "value": 5 }]);
    assert_eq!(cluster.patch(path, kind, &pass).await.expect(200)["spec"]["replicas"], 5);
    assert_eq!(cluster.patch(path, kind, &pass).await.status, 422);
    assert_eq!(cluster.patch(path, kind, &json!({ "op": "none" })).await.status, 400);
    let stale = json!({ "metadata": { "resourceVersion": "1" } });
    assert_eq!(cluster.patch(path, MERGE, &stale).await.body["reason"], "Conflict");
}

const APPLY: &str = "application/apply-patch+yaml";

#[tokio::test]
async fn an_apply_is_checked_before_it_is_merged() {
    let cluster = Cluster::start().await;
    let fine = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "tea" }, "data": { "a": "1" } });
    let but = |pointer: &str, value: Value| {
        let mut config = fine.clone();
        *config.pointer_mut(pointer).expect("it is there") = value;
        config
    };
    let tea = format!("{MAPS}/tea?fieldManager=x");
    for (path, kind, config, code, message) in [
        (
            &format!("{MAPS}/tea"),
            APPLY,
            &fine,
            422,
            "fieldManager: Required value: is required for apply patch",
        ),
        (
            &format!("{tea}&force=true"),
            MERGE,
            &fine,
            422,
            "force: Forbidden: may not be specified for non-apply patch",
        ),
        (
            &format!("{MAPS}/tea?fieldManager={}", "x".repeat(129)),
            APPLY,
            &fine,
            422,
            "fieldManager: Too long",
        ),
        (&tea, APPLY, &json!({}), 400, "error decoding YAML: Object 'Kind' is missing in '{}'"),
        (&tea, APPLY, &json!("- x: ["), 400, "Object 'Kind' is missing"),
        (&tea, APPLY, &but("/kind", "Secret".into()), 400, "invalid object type: /v1, Kind=Secret"),
        (&tea, APPLY, &but("/metadata", json!({})), 400, "name must be provided"),
        (
            &tea,
            APPLY,
            &but("/metadata", json!({ "name": "cake" })),
            400,
            "the name of the object (cake) does not match",
        ),
        (
            &tea,
            APPLY,
            &but("/metadata", json!({ "name": "tea", "managedFields": [] })),
            400,
            "metadata.managedFields must be nil",
        ),
        (
            &tea,
            APPLY,
            &but("/data", json!({ "a": 1 })),
            400,
            "failed to create typed patch object (/tea; /v1, Kind=ConfigMap): .data.a: expected string, got 1",
        ),
        (
            &format!("{MAPS}/tea/status?fieldManager=x"),
            APPLY,
            &fine,
            404,
            "the server could not find the requested resource",
        ),
    ] {
        let answer = cluster.patch(path, kind, config).await;
        assert!(answer.status == code && answer.message().contains(message), "{message}: {}", answer.body);
    }
    assert_eq!(cluster.get(&format!("{MAPS}/tea")).await.status, 404);
    let made = cluster.patch(&format!("{tea}&dryRun=All"), APPLY, &fine).await.expect(201);
    assert_eq!(made["metadata"]["managedFields"][0]["manager"], "x");
    assert_eq!(cluster.get(&format!("{MAPS}/tea")).await.status, 404);
    cluster.patch(&tea, APPLY, &fine).await.expect(201);
}

#[tokio::test]
async fn managers_are_kept_by_the_server_and_cleared_by_clients() {
    let cluster = Cluster::start().await;
    let made = cluster
        .post(&format!("{MAPS}?fieldManager=maker"), &config_map("tea", json!({ "l": "1" })))
        .await
        .expect(201);
    let entry = &made["metadata"]["managedFields"][0];
    assert_eq!((&entry["manager"], &entry["operation"]), (&json!("maker"), &json!("Update")));
    assert_eq!(
        entry["fieldsV1"],
        json!({ "f:data": { ".": {}, "f:a": {} }, "f:metadata": { "f:labels": { ".": {}, "f:l": {} } } })
    );
    let tea = format!("{MAPS}/tea");
    // Who does not know of managers does not remove them; who sends broken ones neither.
    let mut plain = made.clone();
    plain["metadata"]["managedFields"] = json!([{ "manager": "broken" }]);
    plain["data"]["a"] = "2".into();
    let managers = |object: &Value| -> Vec<String> {
        let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
        entries.iter().map(|entry| entry["manager"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let changed = cluster.put(&format!("{tea}?fieldManager=editor"), &plain).await.expect(200);
    assert_eq!(managers(&changed), ["editor", "maker"]);
    // The same again changes nothing, times included.
    let same = cluster.put(&format!("{tea}?fieldManager=editor"), &changed).await.expect(200);
    assert_eq!(same, changed);
    let table = cluster.get_as(MAPS, "application/json;as=Table;v=v1;g=meta.k8s.io").await.expect(200);
    assert_eq!(managers(&table["rows"][0]["object"]), ["editor", "maker"]);
    let patch = json!({ "metadata": { "managedFields": [{}] } });
    let cleared = cluster.patch(&tea, MERGE, &patch).await.expect(200);
    assert_eq!(managers(&cleared), [""; 0]);
    assert_ne!(cleared["metadata"]["resourceVersion"], changed["metadata"]["resourceVersion"]);
    // Updates are not noted again before somebody applies.
    let patch = json!({ "data": { "a": "3" } });
    assert_eq!(managers(&cluster.patch(&tea, MERGE, &patch).await.expect(200)), [""; 0]);
}

#[tokio::test]
async fn objects_that_are_alike_have_each_the_managers_of_its_own_maker() {
    let cluster = Cluster::start().await;
    let namespaces = ["shop", "other"];
    cluster.post("/api/v1/namespaces", &json!({ "metadata": { "name": "other" } })).await.expect(201);
    for number in 0..24 {
        let (manager, key, namespace) = (number % 2, number / 2 % 3, namespaces[number / 6 % 2]);
        let mut map =
            json!({ "metadata": { "name": format!("map-{number}") }, "data": { format!("k{key}"): "v" } });
        if number >= 12 {
            map["data"][format!("k{key}")] = "another".into();
            map["metadata"]["labels"] = json!({ "l": "1" });
        }
        let path = format!("/api/v1/namespaces/{namespace}/configmaps?fieldManager=m{manager}");
        let made = cluster.post(&path, &map).await.expect(201);
        let entries = made["metadata"]["managedFields"].as_array().expect("managers");
        assert_eq!((entries.len(), &entries[0]["manager"]), (1, &json!(format!("m{manager}"))));
        assert_eq!(entries[0]["time"], made["metadata"]["creationTimestamp"]);
        let mut expected = json!({ "f:data": { ".": {}, format!("f:k{key}"): {} } });
        if number >= 12 {
            expected["f:metadata"] = json!({ "f:labels": { ".": {}, "f:l": {} } });
        }
        assert_eq!(entries[0]["fieldsV1"], expected);
        assert_eq!(made["metadata"]["name"], format!("map-{number}"));
    }
}

#[tokio::test]
async fn a_scale_is_read_and_written() {
    let cluster = Cluster::start().await;
    let path = "/apis/apps/v1/namespaces/shop/deployments";
    cluster.post(path, &deployment("web", json!(2))).await.expect(201);
    let scale = cluster.get(&format!("{path}/web/scale")).await.expect(200);
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(2)));
    assert_eq!(scale["status"]["selector"], "app=web");
    let mut wanted = scale.clone();
    wanted["spec"]["replicas"] = 7.into();
    cluster.put(&format!("{path}/web/scale"), &wanted).await.expect(200);
    assert_eq!(cluster.get(&format!("{path}/web")).await.body["spec"]["replicas"], 7);
    // The version in the scale is the one from before.
    assert_eq!(cluster.put(&format!("{path}/web/scale"), &wanted).await.status, 409);
    wanted["spec"]["replicas"] = (-1).into();
    assert_eq!(cluster.put(&format!("{path}/web/scale"), &wanted).await.status, 422);
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let cluster = Cluster::start().await;
    let answer = cluster.post(&format!("{MAPS}?dryRun=All"), &config_map("tea", json!({}))).await.expect(201);
    assert!(answer["metadata"]["uid"].is_string());
    assert_eq!(cluster.get(&format!("{MAPS}/tea")).await.status, 404);
    cluster.post(MAPS, &config_map("tea", json!({}))).await.expect(201);
    let patch = json!({ "data": { "a": "2" } });
    let patched = cluster.patch(&format!("{MAPS}/tea?dryRun=All"), MERGE, &patch).await.expect(200);
    assert_eq!(patched["data"]["a"], "2");
    cluster.delete(&format!("{MAPS}/tea"), &json!({ "dryRun": ["All"] })).await.expect(200);
    assert_eq!(cluster.get(&format!("{MAPS}/tea")).await.expect(200)["data"]["a"], "1");
    assert_eq!(cluster.post(&format!("{MAPS}?dryRun=Some"), &config_map("x", json!({}))).await.status, 422);
}

#[tokio::test]
async fn deletes_respect_preconditions_and_policies() {
    let cluster = Cluster::start().await;
    let tea = cluster.post(MAPS, &config_map("tea", json!({}))).await.expect(201);
    let path = format!("{MAPS}/tea");
    let other = json!({ "preconditions": { "uid": "other" } });
    let refused = cluster.delete(&path, &other).await;
    let uid = tea["metadata"]["uid"].as_str().expect("a uid");
    assert_eq!(
        refused.message(),
        format!(
            "Operation cannot be fulfilled on configmaps \"tea\": the UID in the precondition (other) does not match the \
             UID in record ({uid}). The object might have been deleted and then recreated"
        )
    );
    let pending = cluster.delete(&path, &json!({ "propagationPolicy": "Foreground" })).await.expect(200);
    assert_eq!(pending["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    assert!(pending["metadata"]["deletionTimestamp"].is_string());
    let late = json!([{ "op": "add", "path": "/metadata/finalizers/-", "value": "a.b/c" }]);
    assert_eq!(cluster.patch(&path, "application/json-patch+json", &late).await.status, 422);
    cluster.patch(&path, MERGE, &json!({ "metadata": { "finalizers": null } })).await.expect(200);
    assert_eq!(cluster.get(&path).await.status, 404);
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let cluster = Cluster::start().await;
    for (name, kind) in [("tea", "hot"), ("mocha", "hot"), ("ice", "cold")] {
        cluster.post(MAPS, &config_map(name, json!({ "kind": kind }))).await.expect(201);
    }
    let deleted = cluster.delete(&format!("{MAPS}?labelSelector=kind%3Dhot"), &json!({})).await;
    assert_eq!(deleted.names(), ["mocha", "tea"]);
    assert_eq!(cluster.get(MAPS).await.names(), ["ice"]);
}

#[tokio::test]
async fn a_running_pod_is_deleted_gracefully_and_only_ever_sooner() {
    let cluster = Cluster::start().await;
    let pods = "/api/v1/namespaces/shop/pods";
    cluster.post(pods, &pod("web")).await.expect(201);
    let binding = json!({ "metadata": { "name": "web" }, "target": { "kind": "Node", "name": "amber" } });
    cluster.post(&format!("{pods}/web/binding"), &binding).await.expect(201);
    let grace = async |options: Value| {
        let pod = cluster.delete(&format!("{pods}/web"), &options).await.expect(200);
        pod["metadata"]["deletionGracePeriodSeconds"].as_i64()
    };
    assert_eq!(grace(json!({})).await, Some(30));
    assert_eq!(grace(json!({ "gracePeriodSeconds": 60 })).await, Some(30));
    assert_eq!(grace(json!({ "gracePeriodSeconds": 5 })).await, Some(5));
    assert_eq!(cluster.get(&format!("{pods}/web")).await.status, 200);
    grace(json!({ "gracePeriodSeconds": 0 })).await;
    assert_eq!(cluster.get(&format!("{pods}/web")).await.status, 404);
}

#[tokio::test]
async fn a_namespace_waits_for_its_finalizer() {
    let cluster = Cluster::start().await;
    let path = "/api/v1/namespaces/shop";
    let pending = cluster.delete(path, &json!({})).await.expect(200);
    assert_eq!(pending["status"]["phase"], "Terminating");
    let refused = cluster.post(MAPS, &config_map("tea", json!({}))).await;
    assert_eq!(
        (refused.status, refused.message(), &refused.body["details"]["causes"][0]["reason"]),
        (
            403,
            "configmaps \"tea\" is forbidden: unable to create new content in namespace shop because it is being terminated",
            &json!("NamespaceTerminating")
        )
    );
    let mut last = cluster.get(path).await.expect(200);
    last["spec"]["finalizers"] = json!([]);
    cluster.put(&format!("{path}/finalize"), &last).await.expect(200);
    assert_eq!(cluster.get(path).await.status, 404);
    assert_eq!(cluster.delete("/api/v1/namespaces/default", &json!({})).await.status, 403);
}

#[tokio::test]
async fn an_evicted_pod_is_deleted() {
    let cluster = Cluster::start().await;
    let pods = "/api/v1/namespaces/shop/pods";
    cluster.post(pods, &pod("web")).await.expect(201);
    let eviction = json!({ "apiVersion": "policy/v1", "kind": "Eviction", "metadata": { "name": "web" } });
    cluster.post(&format!("{pods}/web/eviction"), &eviction).await.expect(201);
    assert_eq!(cluster.get(&format!("{pods}/web")).await.status, 404);
}

#[tokio::test]
async fn both_kinds_of_event_are_one() {
    let cluster = Cluster::start().await;
    let core = json!({
        "metadata": { "name": "e1", "namespace": "shop" }, "reason": "Pulled", "message": "it is here", "type": "Normal",
        "involvedObject": { "kind": "Pod", "name": "web", "namespace": "shop" }, "source": { "component": "kubelet" },
    });
    cluster.post("/api/v1/namespaces/shop/events", &core).await.expect(201);
    let path = "/apis/events.k8s.io/v1/namespaces/shop/events";
    let view = cluster.get(&format!("{path}/e1")).await.expect(200);
    assert_eq!((&view["note"], &view["regarding"]["name"]), (&json!("it is here"), &json!("web")));
    assert_eq!(view["apiVersion"], "events.k8s.io/v1");
    let series = json!({ "series": { "count": 2, "lastObservedTime": "2026-11-22T00:00:01.000000Z" } });
    let patched = cluster.patch(&format!("{path}/e1"), MERGE, &series).await.expect(200);
    assert_eq!(patched["series"]["count"], 2);
    let stored = cluster.get("/api/v1/namespaces/shop/events/e1").await.expect(200);
    assert_eq!((&stored["series"], &stored["message"]), (&series["series"], &json!("it is here")));
}

#[tokio::test]
async fn a_crowd_is_asked_to_come_again() {
    let cluster = Cluster::start_for(Some(User::new("jane", vec![]))).await;
    // Nothing else is configured here, so users fall to the level that has no queues.
    let jane = User::new("jane", vec![]);
    let list =
        Attributes { verb: "list", resource: "configmaps", namespace: "shop", ..Attributes::default() };
    let schema = cluster.state.fairness.classify(&jane, &list);
    let crowd: Vec<_> = std::iter::from_fn(|| schema.level.try_acquire(1)).collect();
    let refused = cluster.get(MAPS).await;
    assert_eq!((refused.status, refused.body["reason"].as_str()), (429, Some("TooManyRequests")));
    assert_eq!(refused.headers[header::RETRY_AFTER], "1");
    assert!(refused.headers.contains_key("x-kubernetes-pf-flowschema-uid"));
    drop(crowd);
    let served = cluster.get(MAPS).await;
    assert_eq!(served.status, 403, "jane has no role");
    assert!(served.headers.contains_key("x-kubernetes-pf-prioritylevel-uid"));
    assert_eq!(schema.level.load().seats_in_use, 0);
}

#[tokio::test]
async fn bodies_may_be_yaml() {
    let cluster = Cluster::start().await;
    let text = "metadata:\n  name: tea\ndata:\n  a: \"1\"\n";
    cluster.exchange("POST", MAPS, "application/yaml", JSON, text.into()).await.expect(201);
    assert_eq!(cluster.get(&format!("{MAPS}/tea")).await.expect(200)["data"]["a"], "1");
    let broken = cluster.exchange("POST", MAPS, "application/yaml", JSON, "a: [".into()).await;
    assert_eq!(broken.status, 400);
}

#[tokio::test]
async fn what_is_served_is_told_in_both_forms() {
    let cluster = Cluster::start().await;
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let answer = cluster.get_as("/apis", accept).await;
    assert_eq!(
        answer.headers[header::CONTENT_TYPE],
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    );
    assert_eq!(answer.body["kind"], "APIGroupDiscoveryList");
    assert_eq!(cluster.get("/apis").await.body["kind"], "APIGroupList");
    assert_eq!(cluster.get("/api/v1").await.body["groupVersion"], "v1");
    assert_eq!(cluster.get("/apis/apps").await.body["preferredVersion"]["version"], "v1");
    let index = cluster.get("/openapi/v3").await.expect(200);
    let path = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().expect("a path").to_owned();
    let document = cluster.get(&path).await;
    assert_eq!(document.headers[header::CACHE_CONTROL], "public, immutable");
    assert!(document.headers[header::EXPIRES].to_str().is_ok_and(|date| date.ends_with(" GMT")));
    assert!(document.expect(200)["components"]["schemas"].is_object());

    // What has another hash, of an index of before, is found under its own.
    let (plain, _) = path.split_once('?').expect("a hash");
    let moved = cluster.get(&format!("{plain}?hash=BEFORE")).await;
    assert_eq!((moved.status, moved.headers[header::LOCATION].as_bytes()), (301, path.as_bytes()));
    let unhashed = cluster.get(plain).await;
    assert_eq!(
        (unhashed.status, &unhashed.headers[header::CACHE_CONTROL]),
        (200, &"no-cache, private".parse().unwrap())
    );
}

#[tokio::test]
async fn images_are_taken_and_given_by_name() {
    let cluster = Cluster::start().await;
    let module = Bytes::from_static(b"\0asm\x01\0\0\0");
    let put =
        cluster.exchange("PUT", "/naru/v1/images?name=hello", "application/wasm", JSON, module.clone()).await;
    let digest = put.expect(200)["digest"].as_str().expect("a digest").to_owned();
    assert_eq!(
        cluster.get("/naru/v1/images/resolve?name=hello:latest").await.expect(200)["digest"],
        digest.as_str()
    );
    let blob = cluster.send("GET", &format!("/naru/v1/blobs/{digest}"), JSON, "*/*", Bytes::new()).await;
    assert_eq!(blob.into_body().collect().await.expect("a body").to_bytes(), module);
    assert_eq!(cluster.get("/naru/v1/images/resolve?name=other").await.status, 404);
    let text =
        cluster.exchange("PUT", "/naru/v1/images?name=text", "application/wasm", JSON, "text".into()).await;
    assert_eq!(text.status, 400);
}
