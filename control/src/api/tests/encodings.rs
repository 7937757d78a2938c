//! Answers in protobuf and YAML, and compressed ones.

use std::io::Read as _;

use http_body_util::{BodyExt as _, Full};

use super::*;
use crate::protobuf;

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// Content type and bytes of an answer.
async fn raw(cluster: &Cluster, method: &str, path: &str, accept: &str, body: Bytes) -> (String, Bytes) {
    let response = cluster.send(method, path, JSON, accept, body).await;
    let content_type = response.headers()[header::CONTENT_TYPE].to_str().expect("text").to_owned();
    (content_type, response.into_body().collect().await.expect("a body").to_bytes())
}

#[tokio::test]
async fn objects_lists_and_refusals_come_in_protobuf_to_who_prefers_it() {
    let cluster = Cluster::start().await;
    let accept = format!("{PROTOBUF},{JSON}");
    let body = Bytes::from(config_map("a", json!({ "app": "web" })).to_string());
    let path = format!("{MAPS}/a");
    for (method, path, body, expected) in [
        ("POST", MAPS, body, "ConfigMap"),
        ("GET", &*path, Bytes::new(), "ConfigMap"),
        ("GET", "/api/v1/namespaces/shop/configmaps/none", Bytes::new(), "Status"),
    ] {
        let (content_type, bytes) = raw(&cluster, method, path, &accept, body).await;
        assert_eq!(content_type, PROTOBUF);
        assert_eq!(protobuf::to_json(&bytes).expect("a message")["kind"], expected);
    }
    let (_, bytes) = raw(&cluster, "GET", &path, &accept, Bytes::new()).await;
    assert_eq!(protobuf::to_json(&bytes), Ok(cluster.get(&path).await.expect(200)));

    let (content_type, bytes) = raw(&cluster, "GET", MAPS, &accept, Bytes::new()).await;
    assert_eq!(content_type, PROTOBUF);
    let list = cluster.get(MAPS).await.expect(200);
    assert_eq!(Some(bytes.to_vec()), protobuf::object(list.to_string().as_bytes()));
    let metadata = format!("{PROTOBUF};as=PartialObjectMetadata;g=meta.k8s.io;v=v1");
    let (_, bytes) = raw(&cluster, "GET", &path, &metadata, Bytes::new()).await;
    let object = protobuf::to_json(&bytes).expect("a message");
    assert_eq!((&object["kind"], &object["data"]), (&json!("PartialObjectMetadata"), &Value::Null));

    let table = cluster.get_as(MAPS, &format!("{PROTOBUF};as=Table;g=meta.k8s.io;v=v1")).await;
    assert_eq!(table.status, 406);
    let (content_type, bytes) = raw(&cluster, "GET", &path, "application/yaml", Bytes::new()).await;
    assert_eq!(content_type, "application/yaml");
    assert!(String::from_utf8_lossy(&bytes).contains("kind: ConfigMap\n"));
}

#[tokio::test]
async fn watchers_in_protobuf_get_messages_led_by_their_lengths() {
    let cluster = Cluster::start().await;
    let path = format!("{MAPS}?watch=true&resourceVersion=0");
    let response = cluster.send("GET", &path, JSON, PROTOBUF, Bytes::new()).await;
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/vnd.kubernetes.protobuf;stream=watch");
    let made = cluster.post(MAPS, &config_map("a", json!({}))).await.expect(201);
    let object = protobuf::object(made.to_string().as_bytes()).expect("a message");
    let expected = protobuf::watch_frame("ADDED", &object);
    let mut body = response.into_body();
    let mut seen = Vec::new();
    while seen.len() < expected.len() {
        let frame = tokio::time::timeout(DEADLINE, body.frame()).await.expect("in time");
        seen.extend_from_slice(&frame.expect("not the end").expect("no error").into_data().expect("data"));
    }
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn large_answers_are_compressed_for_who_takes_gzip() {
    let cluster = Cluster::start().await;
    for number in 0..3 {
        let mut map = config_map(&format!("large-{number}"), json!({}));
        map["data"]["text"] = "x".repeat(100_000).into();
        cluster.post(MAPS, &map).await.expect(201);
    }
    let get = async |path: &str| {
        let stream = TcpStream::connect(cluster.address).await.expect("a connection");
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
        tokio::spawn(connection);
        let request = Request::get(path)
            .header(header::HOST, "naru")
            .header(header::ACCEPT_ENCODING, "deflate, gzip")
            .body(Full::new(Bytes::new()))
            .expect("a request");
        let response = sender.send_request(request).await.expect("an answer");
        let encoding = response.headers().get(header::CONTENT_ENCODING).cloned();
        (encoding, response.into_body().collect().await.expect("a body").to_bytes())
    };
    let (encoding, bytes) = get(MAPS).await;
    assert_eq!(encoding.expect("compressed"), "gzip");
    assert!(bytes.len() < 10_000, "{}", bytes.len());
    let mut text = String::new();
    flate2::read::GzDecoder::new(&*bytes).read_to_string(&mut text).expect("whole gzip");
    let list: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(list, cluster.get(MAPS).await.expect(200));
    assert_eq!(get(&format!("{MAPS}/large-0")).await.0, None, "smaller than 128 KiB");
    assert_eq!(get("/openapi/v3/apis/apps/v1").await.0.expect("compressed"), "gzip");
}

#[tokio::test]
async fn definitions_come_and_go_in_protobuf_with_their_schemas() {
    let cluster = Cluster::start().await;
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let response = cluster
        .send("GET", &format!("{path}?watch=true&resourceVersion=0"), JSON, PROTOBUF, Bytes::new())
        .await;
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/vnd.kubernetes.protobuf;stream=watch");
    let spec = json!({
        "type": "object",
        "properties": {
            "any": { "type": "object", "additionalProperties": true },
            "few": { "type": "object", "additionalProperties": { "type": "integer", "maximum": 2.5 } },
            "list": { "type": "array", "items": { "type": "string", "enum": ["a", "b"] }, "default": ["a"] },
            "odd": { "x-kubernetes-preserve-unknown-fields": true },
        },
        "x-kubernetes-validations": [{ "rule": "size(self.list) < 3", "message": "too many" }],
    });
    let schema = json!({ "type": "object", "properties": { "spec": spec } });
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": "pandas.example.com" },
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": { "plural": "pandas", "singular": "panda", "kind": "Panda", "listKind": "PandaList" },
            "versions": [{ "name": "v1", "served": true, "storage": true, "schema": { "openAPIV3Schema": schema } }],
        },
    });
    let message = Bytes::from(protobuf::object(definition.to_string().as_bytes()).expect("a message"));
    let made = cluster.send("POST", path, PROTOBUF, PROTOBUF, message).await;
    assert_eq!(
        (made.status().as_u16(), &made.headers()[header::CONTENT_TYPE]),
        (201, &PROTOBUF.parse().expect("a header"))
    );
    let made = made.into_body().collect().await.expect("a body").to_bytes();
    let made = protobuf::to_json(&made).expect("a definition");
    assert_eq!(made["spec"]["versions"][0]["schema"]["openAPIV3Schema"], schema);
    let seen = cluster.get(&format!("{path}/pandas.example.com")).await.expect(200);
    assert_eq!(seen["spec"], made["spec"]);

    let (content_type, bytes) = raw(&cluster, "GET", path, PROTOBUF, Bytes::new()).await;
    assert_eq!(content_type, PROTOBUF);
    let list = cluster.get(path).await.expect(200);
    assert_eq!(Some(bytes.to_vec()), protobuf::object(list.to_string().as_bytes()));
    let frame = tokio::time::timeout(DEADLINE, response.into_body().frame()).await.expect("in time");
    let frame = frame.expect("not the end").expect("no error").into_data().expect("data");
    assert_eq!(frame[4..11], *b"\x0a\x05ADDED");
}
