//! Namespaces in which another server keeps objects.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use naru_tests::{Cluster, Kubectl, eventually, https::HttpsServer};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{authority, register};

const SHOP: &str = "/apis/shop.example.com/v1";
const CONTROLLER: &str = "system:serviceaccount:kube-system:namespace-controller";

/// A cart of namespace `fair`.
#[derive(Clone)]
struct Cart {
    name: &'static str,
    finalizers: Vec<&'static str>,
    is_ending: bool,
}

/// What the server has and heard.
#[derive(Clone)]
struct Shop {
    works: bool,
    carts: Vec<Cart>,
    /// User, method and path of each request about carts.
    heard: Vec<(String, Method, String)>,
}

fn answer(request: &Request<Incoming>, shop: &watch::Sender<Shop>) -> (StatusCode, Value) {
    if !shop.borrow().works {
        return (StatusCode::INTERNAL_SERVER_ERROR, Value::Null);
    }
    let path = request.uri().path();
    if path == SHOP {
        let verbs = ["get", "list", "create", "delete", "deletecollection"];
        let carts = json!({ "name": "carts", "singularName": "cart", "namespaced": true, "kind": "Cart", "verbs": verbs });
        let list = json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "shop.example.com/v1", "resources": [carts] });
        return (StatusCode::OK, list);
    }
    let Some(rest) = path.strip_prefix(&format!("{SHOP}/namespaces/")) else {
        return (
            StatusCode::NOT_FOUND,
            json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404 }),
        );
    };
    let user = request.headers().get("x-remote-user").and_then(|user| user.to_str().ok()).unwrap_or_default();
    shop.send_modify(|shop| {
        shop.heard.push((user.to_owned(), request.method().clone(), path.to_owned()));
        if request.method() == Method::DELETE && rest == "fair/carts" {
            shop.carts.retain(|cart| !cart.finalizers.is_empty());
            shop.carts.iter_mut().for_each(|cart| cart.is_ending = true);
        }
    });
    let carts = shop.borrow().carts.clone();
    let items: Vec<Value> = carts
        .iter()
        .filter(|_| rest == "fair/carts")
        .map(|cart| {
            let since = cart.is_ending.then_some("2026-01-01T00:00:00Z");
            json!({ "metadata": { "name": cart.name, "namespace": "fair", "finalizers": cart.finalizers, "deletionTimestamp": since } })
        })
        .collect();
    (
        StatusCode::OK,
        json!({ "kind": "CartList", "apiVersion": "shop.example.com/v1", "metadata": {}, "items": items }),
    )
}

/// Waits until a namespace on its way out says of `condition`, which is true, that `expected` is why.
async fn until_told(kubectl: &Kubectl, namespace: &str, condition: &str, expected: &str) {
    let path = format!(
        "jsonpath={{.status.phase}} {{range .status.conditions[?(@.type=='{condition}')]}}{{.status}} {{.reason}}: {{.message}}{{end}}"
    );
    eventually(&format!("{condition} of {namespace}"), async || {
        let answer = kubectl.run(&["get", "namespace", namespace, "-o", &path]);
        if answer.stdout == format!("Terminating True {expected}") {
            Ok(())
        } else {
            Err(answer.stdout + &answer.stderr)
        }
    })
    .await;
}

async fn until_gone(kubectl: &Kubectl, namespace: &str) {
    eventually(&format!("namespace {namespace} is gone"), async || {
        let answer = kubectl.run(&["get", "namespace", namespace, "-o", "yaml"]);
        if answer.stderr.contains("NotFound") { Ok(()) } else { Err(answer.stdout) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_is_gone_when_nothing_is_left_of_it_anywhere() {
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    let plain = Cart { name: "plain", finalizers: Vec::new(), is_ending: false };
    let held = Cart { name: "held", finalizers: vec!["shop.example.com/checkout"], is_ending: false };
    let (shop, mut news) = watch::channel(Shop { works: true, carts: vec![plain, held], heard: Vec::new() });
    let shop = Arc::new(shop);
    let serving = shop.clone();
    let https = HttpsServer::start("shop.default.svc", Some(&authority(&kubectl)), move |request| {
        let shop = serving.clone();
        async move {
            let (status, value) = answer(&request, &shop);
            let mut response = Response::new(Full::from(Bytes::from(value.to_string())));
            *response.status_mut() = status;
            response
        }
    })
    .await;
    register(&kubectl, &https);
    https.behind_service(&kubectl, "default", "shop", https.port);
    let available = ["wait", "--for=condition=Available", "apiservice/v1.shop.example.com", "--timeout=60s"];
    kubectl.run(&available).ok();

    // What the server can delete goes; what it cannot is told of, and waited for.
    kubectl.run(&["create", "namespace", "fair"]).ok();
    kubectl.run(&["create", "configmap", "prices", "-n", "fair", "--from-literal=tea=3"]).ok();
    kubectl.run(&["delete", "namespace", "fair", "--wait=false"]).ok();
    let remain =
        "SomeResourcesRemain: Some resources are remaining: carts.shop.example.com has 1 resource instances";
    until_told(&kubectl, "fair", "NamespaceContentRemaining", remain).await;
    let finalizers = "SomeFinalizersRemain: Some content in the namespace has finalizers remaining: \
                      shop.example.com/checkout in 1 resource instances";
    until_told(&kubectl, "fair", "NamespaceFinalizersRemaining", finalizers).await;
    let heard = news.borrow_and_update().heard.clone();
    let carts = format!("{SHOP}/namespaces/fair/carts");
    assert_eq!(heard[0], (CONTROLLER.into(), Method::DELETE, carts.clone()));
    assert!(heard.iter().all(|(user, _, path)| user == CONTROLLER && *path == carts), "{heard:?}");
    shop.send_modify(|shop| shop.carts.clear());
    until_gone(&kubectl, "fair").await;

    // A server that does not answer may have something, so the namespace stays until nobody thinks so.
    shop.send_modify(|shop| shop.works = false);
    kubectl
        .run(&["wait", "--for=condition=Available=False", "apiservice/v1.shop.example.com", "--timeout=60s"])
        .ok();
    kubectl.run(&["create", "namespace", "closed"]).ok();
    kubectl.run(&["delete", "namespace", "closed", "--wait=false"]).ok();
    let undiscovered = "DiscoveryFailed: Discovery failed for some groups, 1 failing: unable to retrieve the complete \
                        list of server APIs: shop.example.com/v1: stale GroupVersion discovery: shop.example.com/v1";
    until_told(&kubectl, "closed", "NamespaceDeletionDiscoveryFailure", undiscovered).await;
    kubectl.run(&["delete", "apiservice", "v1.shop.example.com"]).ok();
    until_gone(&kubectl, "closed").await;
}
