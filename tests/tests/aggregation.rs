//! A group that another API server serves: one in this process, behind an APIService.

#[path = "aggregation/namespaces.rs"]
mod namespaces;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use naru_tests::{Cluster, DEADLINE, Kubectl, api::Api, eventually, https::HttpsServer};
use serde_json::{Value, json};
use tokio::sync::watch;

/// An API server of `shop.example.com/v1`, which believes who the user is only of those whose certificate is signed by
/// the authority of ConfigMap extension-apiserver-authentication.
struct Extension {
    https: HttpsServer,
    works: watch::Sender<bool>,
    document: watch::Sender<Document>,
    /// The status of each answer to a request for the OpenAPI v2 document, and the user that it was for.
    asked: watch::Receiver<Vec<(u16, String)>>,
}

/// What it answers at `/openapi/v2`.
#[derive(Clone)]
struct Document {
    status: StatusCode,
    etag: &'static str,
    body: String,
}

impl Document {
    fn none() -> Self {
        Self { status: StatusCode::NOT_FOUND, etag: "", body: String::new() }
    }
}

impl Extension {
    async fn start(authority: &str) -> Self {
        let (works, working) = watch::channel(true);
        let (document, documents) = watch::channel(Document::none());
        let (tell, asked) = watch::channel(Vec::new());
        let tell = std::sync::Arc::new(tell);
        let https = HttpsServer::start("shop.default.svc", Some(authority), move |request| {
            let (works, document, tell) = (*working.borrow(), documents.borrow().clone(), tell.clone());
            async move {
                match request.uri().path() {
                    "/openapi/v2" if works => describe(&request, document, &tell),
                    path if works && document.status == StatusCode::OK && path.starts_with("/openapi/v3") => {
                        Response::new(Full::from(v3(path).to_string()))
                    }
                    _ => answer(request, works).await,
                }
            }
        });
        Self { https: https.await, works, document, asked }
    }

    /// Starts one that a cluster may trust, and makes it an APIService without a Service.
    async fn of(kubectl: &Kubectl) -> Self {
        let extension = Self::start(&authority(kubectl)).await;
        register(kubectl, &extension.https);
        extension
    }

    /// Waits until it has answered so often with this status.
    async fn until_asked(&self, status: u16, times: usize) {
        eventually(&format!("it was asked {times} times for what is {status}"), async || {
            let asked = self.asked.borrow().clone();
            let found = asked.iter().filter(|(other, _)| *other == status).count();
            if found >= times { Ok(()) } else { Err(format!("{asked:?}")) }
        })
        .await;
    }
}

/// The authority of the certificate that the cluster shows to other servers.
fn authority(kubectl: &Kubectl) -> String {
    let path = "jsonpath={.data.requestheader-client-ca-file}";
    kubectl
        .run(&["get", "configmap", "-n", "kube-system", "extension-apiserver-authentication", "-o", path])
        .ok()
}

/// Makes the server that of `shop.example.com/v1`, behind Service `shop`.
fn register(kubectl: &Kubectl, https: &HttpsServer) {
    let (bundle, port) = (https.bundle(), https.port);
    kubectl.apply(&format!(
        "\
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {{name: v1.shop.example.com}}
spec:
  group: shop.example.com
  version: v1
  groupPriorityMinimum: 1000
  versionPriority: 15
  caBundle: {bundle}
  service: {{name: shop, namespace: default, port: {port}}}
"
    ));
}

fn describe(
    request: &Request<Incoming>,
    document: Document,
    tell: &watch::Sender<Vec<(u16, String)>>,
) -> Response<Full<Bytes>> {
    let header = |name: &str| {
        let value = request.headers().get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let is_known = !document.etag.is_empty() && header("if-none-match") == document.etag;
    let status = if is_known { StatusCode::NOT_MODIFIED } else { document.status };
    let body = if is_known { String::new() } else { document.body };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    if !document.etag.is_empty() {
        response.headers_mut().insert(header::ETAG, document.etag.parse().expect("a tag"));
    }
    tell.send_modify(|asked| asked.push((status.as_u16(), header("x-remote-user"))));
    response
}

/// A document of carts, with what is not its group's business, too.
fn carts(description: &str) -> String {
    let reference = |name: &str| json!({ "$ref": format!("#/definitions/{name}") });
    let path = |name: &str| {
        let kind = json!({ "group": "shop.example.com", "version": "v1", "kind": "Cart" });
        json!({ "get": {
            "responses": { "200": { "description": "OK", "schema": reference(name) } },
            "x-kubernetes-action": "get", "x-kubernetes-group-version-kind": kind,
        } })
    };
    json!({
        "swagger": "2.0",
        "info": { "title": "shop", "version": "v1" },
        "paths": {
            CARTS: path("com.example.shop.v1.Cart"),
            "/apis/apps/v1/namespaces/{namespace}/deployments": path("evil.Deployment"),
            "/apis/other.example.com/v1/things": path("evil.Deployment"),
        },
        "definitions": {
            "com.example.shop.v1.Cart": {
                "description": description, "type": "object",
                "properties": {
                    "metadata": reference(META),
                    "items": { "description": "What is in the cart.", "type": "array", "items": { "type": "string" } },
                },
                "x-kubernetes-group-version-kind": [{ "group": "shop.example.com", "version": "v1", "kind": "Cart" }],
            },
            META: { "description": "The shop's own idea of metadata.", "type": "object" },
            "evil.Deployment": { "type": "object" },
        },
    })
    .to_string()
}

/// Its OpenAPI v3: the index, or the document of its group version.
fn v3(path: &str) -> Value {
    if path == "/openapi/v3" {
        let url = "/openapi/v3/apis/shop.example.com/v1?hash=C0FFEE";
        return json!({ "paths": { "apis/shop.example.com/v1": { "serverRelativeURL": url } } });
    }
    let kind = json!({ "group": "shop.example.com", "version": "v1", "kind": "Cart" });
    json!({
        "openapi": "3.0.0",
        "info": { "title": "shop", "version": "v1" },
        "paths": { CARTS: { "get": {
            "responses": {}, "x-kubernetes-action": "get", "x-kubernetes-group-version-kind": kind,
        } } },
        "components": { "schemas": { "com.example.shop.v1.Cart": {
            "description": "A cart, newly told.", "type": "object",
            "x-kubernetes-group-version-kind": [kind],
        } } },
    })
}

const CARTS: &str = "/apis/shop.example.com/v1/namespaces/{namespace}/carts/{name}";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

async fn answer(request: Request<Incoming>, works: bool) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let said = |name: &str| {
        let values = parts.headers.get_all(name).into_iter();
        values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect::<Vec<_>>()
    };
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let (status, value) = match parts.uri.path() {
        _ if !works => (StatusCode::INTERNAL_SERVER_ERROR, Value::Null),
        "/apis/shop.example.com/v1" => (
            StatusCode::OK,
            json!({
                "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "shop.example.com/v1",
                "resources": [
                    { "name": "carts", "singularName": "cart", "namespaced": true, "kind": "Cart",
                      "verbs": ["get", "list", "create"], "shortNames": ["ct"] },
                    { "name": "carts/status", "singularName": "", "namespaced": true, "kind": "Cart", "verbs": ["get"] },
                ],
            }),
        ),
        "/apis/shop.example.com/v1/namespaces/default/carts/first" => (
            StatusCode::OK,
            json!({
                "kind": "Cart", "apiVersion": "shop.example.com/v1",
                "metadata": { "name": "first", "namespace": "default", "annotations": {
                    "user": said("x-remote-user").join(","), "groups": said("x-remote-group").join(","),
                    "authorization": said("authorization").join(","), "body": String::from_utf8_lossy(&body),
                } },
            }),
        ),
        _ => (StatusCode::NOT_FOUND, json!({ "kind": "Status", "apiVersion": "v1", "code": 404 })),
    };
    let mut response = Response::new(Full::from(value.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, "application/json".parse().expect("a value"));
    response
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_of_another_server_is_served_as_if_it_were_ours() {
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    let condition = async |expected: &str| {
        eventually(&format!("the APIService is {expected}"), async || {
            let path = "jsonpath={.status.conditions[0].status} {.status.conditions[0].reason}";
            let found = kubectl.run(&["get", "apiservice", "v1.shop.example.com", "-o", path]).ok();
            if found == expected { Ok(()) } else { Err(found) }
        })
        .await;
    };
    let extension = Extension::of(&kubectl).await;
    condition("False ServiceNotFound").await;
    let refused = kubectl.run(&["get", "--raw", "/apis/shop.example.com/v1/carts"]).refused();
    assert!(refused.contains("ServiceUnavailable") || refused.contains("unable to handle"), "{refused}");
    kubectl.apply(
        "{apiVersion: v1, kind: Service, metadata: {name: shop}, spec: {type: ExternalName, externalName: localhost}}",
    );
    condition("True Passed").await;
    // The same behind an address of the cluster: the APIService follows its Service.
    kubectl.run(&["delete", "service", "shop"]).ok();
    condition("False ServiceNotFound").await;
    extension.https.behind_service(&kubectl, "default", "shop", extension.https.port);
    condition("True Passed").await;

    for kubectl in cluster.kubectls() {
        let cart = kubectl.run(&["get", "ct", "first", "-o", "json"]).ok();
        let cart: Value = serde_json::from_str(&cart).expect("JSON");
        let said = &cart["metadata"]["annotations"];
        assert_eq!((&said["user"], &said["authorization"]), (&json!("kubernetes-admin"), &json!("")));
        assert_eq!(said["groups"], "system:masters,system:authenticated");
        let listed = kubectl.run(&["api-resources", "--api-group=shop.example.com", "-o", "name"]).ok();
        assert_eq!(listed, "carts.shop.example.com\n");
        assert!(kubectl.run(&["api-versions"]).ok().contains("shop.example.com/v1\n"));
    }
    let raw =
        |path: &str| serde_json::from_str::<Value>(&kubectl.run(&["get", "--raw", path]).ok()).expect("JSON");
    assert_eq!(raw("/apis/shop.example.com")["versions"][0]["groupVersion"], "shop.example.com/v1");
    let groups = raw("/apis");
    let named =
        |name: &str| groups["groups"].as_array().is_some_and(|all| all.iter().any(|of| of["name"] == name));
    assert!(named("shop.example.com") && named("apps"), "{groups}");

    // Clients keep its document for as long as its hash is the same.
    let hash = || {
        raw("/openapi/v3")["paths"]["apis/shop.example.com/v1"]["serverRelativeURL"]
            .as_str()
            .map(str::to_owned)
    };
    let first = hash().expect("it is listed");
    assert!(first.starts_with("/openapi/v3/apis/shop.example.com/v1?hash="), "{first}");
    assert_eq!(hash(), Some(first));

    // What a user may do there is asked here first.
    let refused = kubectl.run(&["get", "carts", "first", "--as=jane"]).refused();
    assert!(refused.contains("cannot get resource \"carts\" in API group \"shop.example.com\""), "{refused}");

    // A server that fails is not available; one whose APIService goes is not served any more.
    extension.works.send_replace(false);
    condition("False FailedDiscoveryCheck").await;
    kubectl.run(&["delete", "apiservice", "v1.shop.example.com"]).ok();
    eventually("the group is gone", async || {
        let answer = kubectl.run(&["get", "--raw", "/apis/shop.example.com"]);
        if answer.stderr.contains("NotFound") { Ok(()) } else { Err(answer.stdout) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_openapi_v2_document_of_another_server_is_part_of_ours() {
    const V2: &str = "/openapi/v2";
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    let api = Api::of(&cluster).await;
    let ours = api.get(V2).await.expect(200);
    let extension = Extension::of(&kubectl).await;
    extension.https.behind_service(&kubectl, "default", "shop", extension.https.port);
    kubectl
        .run(&["wait", "--for=condition=Available", "apiservice/v1.shop.example.com", "--timeout=60s"])
        .ok();

    // One that describes nothing leaves ours as it was.
    extension.until_asked(404, 1).await;
    let unchanged = api.get(V2).await;
    assert_eq!(unchanged.expect(200), ours);

    // A changed APIService is asked at once, and later again and again.
    let mut priority = 15;
    let mut asked_again = || {
        priority += 1;
        let patch = format!("{{\"spec\":{{\"versionPriority\":{priority}}}}}");
        kubectl.run(&["patch", "apiservice", "v1.shop.example.com", "--type=merge", "-p", &patch]).ok();
    };
    let described = async |text: &str| {
        eventually(&format!("carts are {text:?}"), async || {
            let reply = api.get(V2).await;
            let found = reply.json()["definitions"]["com.example.shop.v1.Cart"]["description"].clone();
            if found == text { Ok(reply) } else { Err(found) }
        })
        .await
    };
    let say = |etag, text: &str| {
        extension.document.send_replace(Document { status: StatusCode::OK, etag, body: carts(text) });
    };
    say("\"one\"", "A cart.");
    asked_again();
    let merged = described("A cart.").await;
    let document = merged.json();
    assert!(document["paths"][CARTS]["get"].is_object());
    assert!(document["paths"].get("/apis/other.example.com/v1/things").is_none());
    assert!(document["definitions"].get("evil.Deployment").is_none());
    // What two mean differently has two names, and ours stays as it was.
    let cart = &document["definitions"]["com.example.shop.v1.Cart"];
    let renamed = format!("{META}_v2");
    assert_eq!(cart["properties"]["metadata"]["$ref"], format!("#/definitions/{renamed}"));
    assert_eq!(document["definitions"][&renamed]["description"], "The shop's own idea of metadata.");
    for section in ["paths", "definitions"] {
        for (name, item) in ours[section].as_object().expect("a section") {
            assert_eq!(document[section].get(name), Some(item), "{name}");
        }
    }
    let users: Vec<String> = extension.asked.borrow().iter().map(|(_, user)| user.clone()).collect();
    assert!(users.iter().all(|user| user == "system:aggregator"), "{users:?}");

    // Clients know by the tag what they have, in both forms.
    let tag = merged.header("etag").to_owned();
    let known = api.send("GET", V2, &[("if-none-match", &tag)], "").await;
    assert_eq!((known.status, known.bytes.len()), (304, 0));
    for kubectl in cluster.kubectls() {
        let told = kubectl.run(&["explain", "carts", "--output=plaintext-openapiv2"]).ok();
        assert!(told.contains("A cart.") && told.contains("What is in the cart."), "{told}");
        let told = kubectl.run(&["explain", "deployments.spec", "--output=plaintext-openapiv2"]).ok();
        assert!(told.contains("replicas"), "{told}");
    }

    // OpenAPI v3 is its own, by its own hash.
    eventually("its hash is ours", async || {
        let index = api.get("/openapi/v3").await.expect(200);
        let url = index["paths"]["apis/shop.example.com/v1"]["serverRelativeURL"].clone();
        if url == "/openapi/v3/apis/shop.example.com/v1?hash=C0FFEE" { Ok(()) } else { Err(url) }
    })
    .await;
    for kubectl in cluster.kubectls() {
        let told = kubectl.run(&["explain", "carts"]).ok();
        assert!(told.contains("A cart, newly told."), "{told}");
    }

    // It is asked by its own tag. A changed document is taken in without anybody's doing.
    asked_again();
    extension.until_asked(304, 1).await;
    say("\"two\"", "A bigger cart.");
    let changed = described("A bigger cart.").await;
    assert_ne!(changed.header("etag"), tag);
    assert_eq!(api.send("GET", V2, &[("if-none-match", &tag)], "").await.status, 200);

    // A document that cannot be used changes nothing.
    let broken = [
        (StatusCode::OK, "{\"paths\": [7"),
        (StatusCode::OK, "[]"),
        (StatusCode::INTERNAL_SERVER_ERROR, "{}"),
    ];
    for (status, body) in broken {
        let before = extension.asked.borrow().len();
        extension.document.send_replace(Document { status, etag: "", body: body.into() });
        asked_again();
        eventually("it was asked", async || {
            let asked = extension.asked.borrow().len();
            if asked > before { Ok(()) } else { Err(asked) }
        })
        .await;
        assert_eq!(api.get(V2).await.expect(200), changed.json(), "{status} {body}");
    }

    // One that is withdrawn goes, and so does that of a server that nobody asks for any more.
    extension.document.send_replace(Document::none());
    asked_again();
    let gone = async || {
        eventually("the document is ours alone", async || {
            let document = api.get(V2).await.expect(200);
            if document == ours { Ok(()) } else { Err("it has more") }
        })
        .await;
    };
    gone().await;
    say("\"three\"", "A cart.");
    asked_again();
    described("A cart.").await;
    kubectl.run(&["delete", "apiservice", "v1.shop.example.com"]).ok();
    gone().await;
}

/// Clients keep documents by these hashes, on disk.
#[test]
fn the_hashes_of_openapi_v3_documents_outlive_the_server() {
    let mut cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    let definition = |description: &str| {
        format!(
            "\
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {{name: trees.example.com}}
spec:
  group: example.com
  scope: Namespaced
  names: {{plural: trees, singular: tree, kind: Tree}}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {{openAPIV3Schema: {{type: object, description: {description}}}}}
"
        )
    };
    kubectl.apply(&definition("tall"));
    kubectl.established("trees.example.com");
    let index = |kubectl: &Kubectl| {
        let text = kubectl.run(&["get", "--raw", "/openapi/v3"]).ok();
        serde_json::from_str::<Value>(&text).expect("JSON")["paths"].clone()
    };
    let trees = "apis/example.com/v1";
    let before = index(&kubectl);
    assert!(before[trees].is_object() && before["apis/apps/v1"].is_object(), "{before}");
    let document = |kubectl: &Kubectl, path: &str| {
        kubectl.run(&["get", "--raw", before[path]["serverRelativeURL"].as_str().expect("a URL")]).ok()
    };
    let documents = [trees, "apis/apps/v1", "api/v1"].map(|path| (path, document(&kubectl, path)));

    assert_eq!(cluster.stop(), 0);
    cluster.up();
    let kubectl = cluster.kubectl();
    assert_eq!(index(&kubectl), before);
    for (path, text) in &documents {
        assert!(document(&kubectl, path) == *text, "{path} differs, though its hash does not");
    }

    // What changes has another hash, and nothing else has.
    kubectl.apply(&definition("taller"));
    let deadline = std::time::Instant::now() + DEADLINE;
    let after = loop {
        let after = index(&kubectl);
        if after[trees] != before[trees] || std::time::Instant::now() > deadline {
            break after;
        }
    };
    assert_ne!(after[trees], before[trees]);
    for (path, entry) in before.as_object().expect("paths").iter().filter(|(path, _)| *path != trees) {
        assert_eq!(&after[path], entry, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_group_has_an_apiservice() {
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    let column = async |name: &str| {
        eventually(&format!("{name} is there"), async || {
            let answer = kubectl.run(&["get", "apiservice", name, "--no-headers"]);
            if answer.code == 0 { Ok(answer.stdout) } else { Err(answer.stderr) }
        })
        .await
    };
    for name in ["v1.", "v1.apps", "v2.autoscaling", "v1.rbac.authorization.k8s.io"] {
        let row = column(name).await;
        let fields: Vec<&str> = row.split_whitespace().take(3).collect();
        assert_eq!(fields, [name, "Local", "True"]);
    }
    kubectl.apply(
        "\
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: trees.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: trees, singular: tree, kind: Tree}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]
",
    );
    column("v1.example.com").await;
    kubectl.run(&["delete", "crd", "trees.example.com"]).ok();
    eventually("its APIService is gone with it", async || {
        let answer = kubectl.run(&["get", "apiservice", "v1.example.com"]);
        if answer.stderr.contains("NotFound") { Ok(()) } else { Err(answer.stdout) }
    })
    .await;
}
