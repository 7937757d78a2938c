//! The API as it is on the wire, for requests that no client library makes.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response, header};
use http_body_util::BodyExt as _;
use kube::client::Body;
use serde_json::Value;

use crate::{Cluster, DEADLINE};

pub const JSON: &str = "application/json";
pub const MERGE: &str = "application/merge-patch+json";
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// Requests of a cluster's administrator.
pub struct Api(kube::Client);

/// An answer, read whole.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub bytes: Bytes,
}

impl Api {
    pub async fn of(cluster: &Cluster) -> Self {
        // What is refused for a moment is to be seen, not tried again.
        let mut config = cluster.client_config().await;
        config.default_retry = false;
        Self(kube::Client::try_from(config).expect("a client"))
    }

    /// Sends a request with these headers and answers when the answer begins.
    pub async fn begin(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Response<Body> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body.into().to_vec())).expect("a request");
        let answer = tokio::time::timeout(DEADLINE, self.0.send(request)).await;
        answer.unwrap_or_else(|_| panic!("{method} {path}: no answer in time")).expect("an answer")
    }

    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Reply {
        let response = self.begin(method, path, headers, body).await;
        let (parts, body) = response.into_parts();
        let bytes = tokio::time::timeout(DEADLINE, body.collect()).await.expect("in time").expect("a body");
        Reply { status: parts.status.as_u16(), headers: parts.headers, bytes: bytes.to_bytes() }
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], "").await
    }
    pub async fn get_as(&self, path: &str, accept: &str) -> Reply {
        self.send("GET", path, &[("accept", accept)], "").await
    }
    pub async fn post(&self, path: &str, object: &Value) -> Reply {
        self.send("POST", path, &[("content-type", JSON)], object.to_string()).await
    }
    pub async fn put(&self, path: &str, object: &Value) -> Reply {
        self.send("PUT", path, &[("content-type", JSON)], object.to_string()).await
    }
    pub async fn patch(&self, path: &str, kind: &str, patch: &Value) -> Reply {
        self.send("PATCH", path, &[("content-type", kind)], patch.to_string()).await
    }
    pub async fn delete(&self, path: &str, options: &Value) -> Reply {
        self.send("DELETE", path, &[("content-type", JSON)], options.to_string()).await
    }

    /// A watch that began, in the form that `accept` asks for.
    pub async fn watch(&self, path: &str, accept: &str) -> Frames {
        let response = self.begin("GET", path, &[("accept", accept)], "").await;
        assert_eq!(response.status().as_u16(), 200, "{path}");
        let content_type = response.headers()[header::CONTENT_TYPE].to_str().expect("text").to_owned();
        Frames { body: response.into_body(), content_type, buffer: BytesMut::new() }
    }
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&self.bytes).into_owned()))
    }

    /// The answer's object, which must have been given with `status`.
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.json());
        self.json()
    }

    /// The refusal's message; it must have this code and reason and be a `Status`.
    pub fn refused(&self, code: u16, reason: &str) -> String {
        let body = self.json();
        assert_eq!((self.status, &body["kind"]), (code, &"Status".into()), "{body}");
        assert_eq!((&body["code"], &body["reason"]), (&code.into(), &reason.into()), "{body}");
        body["message"].as_str().unwrap_or_default().to_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The texts of `Warning` headers.
    pub fn warnings(&self) -> Vec<&str> {
        self.headers.get_all(header::WARNING).iter().filter_map(|value| value.to_str().ok()).collect()
    }
}

/// The names of a list's items.
pub fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().expect("a list");
    items.iter().filter_map(|item| item["metadata"]["name"].as_str()).collect()
}

/// What a watch sends.
pub struct Frames {
    body: Body,
    pub content_type: String,
    buffer: BytesMut,
}

impl Frames {
    /// Reads more; whether there was more.
    async fn fill(&mut self) -> bool {
        let frame = tokio::time::timeout(DEADLINE, self.body.frame()).await.expect("a frame in time");
        let Some(frame) = frame else { return false };
        let Ok(data) = frame.expect("an unbroken stream").into_data() else { return true };
        self.buffer.extend_from_slice(&data);
        true
    }

    /// The next event of a watch in JSON; `None` at the stream's end.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                return Some(serde_json::from_slice(&line).expect("an event"));
            }
            if !self.fill().await {
                assert!(self.buffer.is_empty(), "half an event");
                return None;
            }
        }
    }

    /// The next event's type and object.
    pub async fn event(&mut self) -> (String, Value) {
        let mut event = self.next().await.expect("not the end");
        (event["type"].as_str().unwrap_or_default().to_owned(), event["object"].take())
    }

    /// `TYPE NAME` of the next event.
    pub async fn line(&mut self) -> String {
        let (kind, object) = self.event().await;
        format!("{kind} {}", object["metadata"]["name"].as_str().unwrap_or_default())
    }

    /// The next message of a watch in protobuf, without the length before it.
    pub async fn message(&mut self) -> Option<Bytes> {
        loop {
            if let Some(head) = self.buffer.first_chunk::<4>() {
                let length = u32::from_be_bytes(*head) as usize;
                if self.buffer.len() >= 4 + length {
                    return Some(self.buffer.split_to(4 + length).freeze().slice(4..));
                }
            }
            if !self.fill().await {
                assert!(self.buffer.is_empty(), "half a message");
                return None;
            }
        }
    }
}
