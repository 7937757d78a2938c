//! Whatever is sent is answered, and never with a fault of ours; and what was refused has changed nothing.

use std::time::Instant;

use super::*;
use crate::{
    fuzz::{Failing, Fuzz},
    protobuf,
};

const TIME: Duration = Duration::from_millis(1500);
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const JSON_PATCH: &str = "application/json-patch+json";
const APPLY: &str = "application/apply-patch+yaml";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// Sends what `make` makes for as long as a test may take; no answer may be a fault of the server.
async fn bombard(
    cluster: &Cluster,
    mut make: impl FnMut(&mut Fuzz) -> (&'static str, String, &'static str, Bytes),
) {
    let (began, mut seed) = (Instant::now(), 0);
    while began.elapsed() < TIME {
        let failing = Failing(seed);
        let (method, path, kind, body) = make(&mut Fuzz::new(seed));
        let shown = String::from_utf8_lossy(&body[..body.len().min(500)]).into_owned();
        let answer = tokio::time::timeout(DEADLINE, cluster.exchange(method, &path, kind, JSON, body)).await;
        let answer = answer.unwrap_or_else(|_| panic!("no answer to {method} {path} {kind}: {shown}"));
        assert!(answer.status < 500, "{method} {path} {kind}: {shown}\n{}", answer.body);
        if answer.status >= 400 && answer.body.is_object() {
            assert_eq!(answer.body["kind"], "Status", "{method} {path} {kind}: {shown}");
        }
        std::mem::forget(failing);
        seed += 1;
    }
    assert!(seed > 20, "only {seed} requests were made");
}

/// An object of each kind that is complicated, and where it goes.
fn examples() -> Vec<(String, Value)> {
    let of = |path: &str, object: Value| (path.to_owned(), object);
    let service = json!({
        "metadata": { "name": "s" },
        "spec": { "type": "NodePort", "selector": { "a": "b" }, "ports": [{ "name": "p", "port": 80, "targetPort": "web" }] },
    });
    let job = json!({
        "metadata": { "name": "j" },
        "spec": { "schedule": "*/5 1-3 * * mon", "jobTemplate": { "spec": { "completions": 2, "template":
            { "spec": { "restartPolicy": "Never", "containers": [{ "name": "c", "image": "i",
                "resources": { "requests": { "cpu": "100m", "memory": "1.5Gi" } } }] } } } } },
    });
    let role = json!({ "metadata": { "name": "r" }, "rules": [{ "apiGroups": [""], "resources": ["pods"], "verbs": ["get"] }] });
    vec![
        of(MAPS, config_map("m", json!({ "a": "b" }))),
        of("/api/v1/namespaces/shop/pods", pod("p")),
        of("/api/v1/namespaces/shop/services", service),
        of("/apis/apps/v1/namespaces/shop/deployments", deployment("d", json!(3))),
        of("/apis/batch/v1/namespaces/shop/cronjobs", job),
        of("/apis/rbac.authorization.k8s.io/v1/namespaces/shop/roles", role),
        of("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition()),
    ]
}

pub(super) fn definition() -> Value {
    let schema = json!({ "type": "object", "properties": { "spec": {
        "type": "object", "required": ["size"],
        "x-kubernetes-validations": [{ "rule": "self.size <= 10 && self.tags.all(t, t.size() < 5)", "message": "too big" }],
        "properties": {
            "size": { "type": "integer", "minimum": 0, "maximum": 10, "default": 1 },
            "tags": { "type": "array", "maxItems": 10, "x-kubernetes-list-type": "set",
                "items": { "type": "string", "pattern": "^[a-z]+$", "maxLength": 5 } },
            "at": { "type": "string", "format": "date-time" },
            "any": { "x-kubernetes-preserve-unknown-fields": true, "type": "object" },
        },
    } } });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": "pandas.example.com" },
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": { "plural": "pandas", "singular": "panda", "kind": "Panda", "listKind": "PandaList" },
            "versions": [{ "name": "v1", "served": true, "storage": true, "schema": { "openAPIV3Schema": schema },
                "additionalPrinterColumns": [{ "name": "Size", "type": "integer", "jsonPath": ".spec.size" }] }],
        },
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_and_yaml_bodies() {
    let cluster = Cluster::start().await;
    let examples = examples();
    bombard(&cluster, |fuzz| {
        let (path, object) = fuzz.pick(&examples).clone();
        let (mut object, kind) = (object, *fuzz.pick(&[JSON, JSON, JSON, "application/yaml"]));
        if let Some(name) = object["metadata"]["name"].as_str().filter(|name| !name.contains('.')) {
            object["metadata"] = json!({ "generateName": format!("{name}-") });
        }
        let text = fuzz.json(&object).to_string();
        let body = if *fuzz.pick(&[true, false]) { fuzz.bytes(text.as_bytes()) } else { text.into_bytes() };
        ("POST", path, kind, body.into())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn protobuf_bodies() {
    let cluster = Cluster::start().await;
    let messages: Vec<(String, Bytes)> = examples()
        .into_iter()
        .filter_map(|(path, mut object)| {
            let kind = match path.rsplit('/').next()? {
                "pods" => ("v1", "Pod"),
                "services" => ("v1", "Service"),
                "configmaps" => ("v1", "ConfigMap"),
                "deployments" => ("apps/v1", "Deployment"),
                "cronjobs" => ("batch/v1", "CronJob"),
                "customresourcedefinitions" => ("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
                _ => return None,
            };
            (object["apiVersion"], object["kind"]) = (kind.0.into(), kind.1.into());
            Some((path, protobuf::object(object.to_string().as_bytes())?.into()))
        })
        .collect();
    assert_eq!(messages.len(), 6);
    bombard(&cluster, |fuzz| {
        let (path, message) = fuzz.pick(&messages).clone();
        ("POST", path, PROTOBUF, fuzz.bytes(&message).into())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patches_of_every_type() {
    let cluster = Cluster::start().await;
    let path = "/apis/apps/v1/namespaces/shop/deployments";
    cluster.post(path, &deployment("d", json!(3))).await.expect(201);
    let json_patch = json!([
        { "op": "test", "path": "/spec/replicas", "value": 3 },
        { "op": "add", "path": "/metadata/labels/a~1b", "value": "c" },
        { "op": "move", "from": "/spec/template/spec/containers/0/image", "path": "/spec/template/spec/containers/0/name" },
        { "op": "copy", "from": "/spec", "path": "/spec/template/metadata/annotations" },
        { "op": "remove", "path": "/spec/template/spec/containers/-" },
    ]);
    let strategic = json!({ "spec": { "template": { "spec": {
        "$setElementOrder/containers": [{ "name": "b" }, { "name": "web" }],
        "containers": [{ "name": "b", "image": "i", "ports": [{ "containerPort": 80, "$patch": "delete" }] },
            { "$patch": "replace" }],
        "$retainKeys": ["containers"],
        "tolerations": [{ "$patch": "merge", "key": "a" }],
    } }, "$deleteFromPrimitiveList/finalizers": ["a"] } });
    let object = deployment("d", json!(4));
    bombard(&cluster, |fuzz| {
        let kind = *fuzz.pick(&[JSON_PATCH, MERGE, STRATEGIC, APPLY]);
        let example = match kind {
            JSON_PATCH => &json_patch,
            STRATEGIC => &strategic,
            _ => &object,
        };
        let mut text = fuzz.json(example).to_string();
        if *fuzz.pick(&[false, false, true]) {
            text = fuzz.text(&text);
        }
        let query = if kind == APPLY { "?fieldManager=me&force=true" } else { "" };
        ("PATCH", format!("{path}/d{query}"), kind, text.into())
    })
    .await;
    let stored = cluster.get(&format!("{path}/d")).await.expect(200);
    assert!(stored["metadata"]["uid"].is_string() && stored["spec"]["template"].is_object(), "{stored}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_and_tokens() {
    let cluster = Cluster::start().await;
    for name in ["a", "b", "c"] {
        cluster.post(MAPS, &config_map(name, json!({ "app": "web" }))).await.expect(201);
    }
    let page = cluster.get(&format!("{MAPS}?limit=1")).await.expect(200);
    let token = page["metadata"]["continue"].as_str().expect("a token").to_owned();
    let encode = |text: &str| {
        percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
    };
    bombard(&cluster, |fuzz| {
        let (name, value) = *fuzz.pick(&[
            ("labelSelector", "app in (web, db),tier notin (a),!gone,x=y,z!=w"),
            ("fieldSelector", "metadata.name=a,metadata.namespace!=b\\,c"),
            ("continue", token.as_str()),
            ("limit", "1"),
            ("resourceVersionMatch", "Exact"),
            ("timeoutSeconds", "1"),
            ("dryRun", "All"),
            ("pretty", "true"),
        ]);
        let query = format!("{name}={}&limit=2", encode(&fuzz.text(value)));
        ("GET", format!("{MAPS}?{query}"), JSON, Bytes::new())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn urls() {
    let cluster = Cluster::start().await;
    cluster.post(MAPS, &config_map("a", json!({}))).await.expect(201);
    bombard(&cluster, |fuzz| {
        let path = *fuzz.pick(&[
            "/api/v1/namespaces/shop/configmaps/a",
            "/apis/apps/v1/namespaces/shop/deployments/d/scale",
            "/openapi/v3/apis/apps/v1",
            "/api/v1/namespaces/shop/pods/p/log",
            "/naru/v1/blobs/sha256:00",
            "/livez/ping",
        ]);
        let changed = fuzz.text(path);
        let path: String =
            changed.chars().filter(|c| c.is_ascii_graphic() && !"\"<>\\^`{|}#".contains(*c)).collect();
        let path = if path.starts_with('/') { path } else { format!("/{path}") };
        let method = *fuzz.pick(&["GET", "PUT", "DELETE", "PATCH", "POST", "HEAD", "OPTIONS"]);
        (method, path, JSON, Bytes::from_static(b"{}"))
    })
    .await;
}
