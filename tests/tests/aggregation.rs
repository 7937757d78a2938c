//! A group that another API server serves: one in this process, behind an APIService.

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use naru_tests::{Cluster, eventually, https::HttpsServer};
use serde_json::{Value, json};
use tokio::sync::watch;

/// An API server of `shop.example.com/v1`, which believes who the user is only of those whose certificate is signed by
/// the authority of ConfigMap extension-apiserver-authentication.
struct Extension {
    https: HttpsServer,
    works: watch::Sender<bool>,
}

impl Extension {
    async fn start(authority: &str) -> Self {
        let (works, working) = watch::channel(true);
        let https = HttpsServer::start("shop.default.svc", Some(authority), move |request| {
            let works = *working.borrow();
            answer(request, works)
        });
        Self { https: https.await, works }
    }
}

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
    let path = "jsonpath={.data.requestheader-client-ca-file}";
    let config = ["get", "configmap", "-n", "kube-system", "extension-apiserver-authentication", "-o", path];
    let extension = Extension::start(&kubectl.run(&config).ok()).await;
    let bundle = extension.https.bundle();
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
  service: {{name: shop, namespace: default, port: {}}}
",
        extension.https.port
    ));
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
