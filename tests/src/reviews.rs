//! Admission webhooks: a server that answers reviews, and the configurations that have it asked.

use std::sync::{Arc, Mutex};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::https::HttpsServer;

/// An HTTPS server that answers reviews and remembers them.
pub struct ReviewServer {
    pub https: HttpsServer,
    /// Paths and reviews, as they came.
    asked: Asked,
}

type Asked = Arc<Mutex<Vec<(String, Value)>>>;

impl ReviewServer {
    /// A server on `localhost`; `answer` makes a response, without its uid, of a path and a request.
    pub async fn start(answer: impl Fn(&str, &Value) -> Value + Send + Sync + 'static) -> Self {
        Self::start_as("localhost", answer).await
    }

    /// The same with a certificate for another name.
    pub async fn start_as(
        name: &str,
        answer: impl Fn(&str, &Value) -> Value + Send + Sync + 'static,
    ) -> Self {
        let asked = Asked::default();
        let (answer, memory) = (Arc::new(answer), asked.clone());
        let https = HttpsServer::start(name, None, move |request| {
            let (answer, memory) = (answer.clone(), memory.clone());
            async move { review(request, &*answer, &memory).await }
        });
        Self { https: https.await, asked }
    }

    /// A `clientConfig` that names it by a URL.
    pub fn client(&self, path: &str) -> Value {
        let url = format!("https://localhost:{}{path}", self.https.port);
        json!({ "url": url, "caBundle": self.https.bundle() })
    }

    /// The requests that came to `path` since the last look; a query is no part of it.
    pub fn take(&self, path: &str) -> Vec<Value> {
        let mut asked = self.asked.lock().expect("no panic");
        let (these, others) = asked.drain(..).partition(|(of, _)| of == path);
        *asked = others;
        let these: Vec<(String, Value)> = these;
        these.into_iter().map(|(_, mut review)| review["request"].take()).collect()
    }

    /// All reviews that came since the last look, whole.
    pub fn reviews(&self) -> Vec<Value> {
        self.asked.lock().expect("no panic").drain(..).map(|(_, review)| review).collect()
    }
}

async fn review(
    request: Request<Incoming>,
    answer: &(dyn Fn(&str, &Value) -> Value + Send + Sync),
    memory: &Mutex<Vec<(String, Value)>>,
) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.expect("a body").to_bytes();
    let review: Value = serde_json::from_slice(&body).expect("a review");
    memory.lock().expect("no panic").push((path.clone(), review.clone()));
    if path.ends_with("/never") {
        std::future::pending::<()>().await;
    }
    let mut response = answer(&path, &review["request"]);
    response["uid"] = review["request"]["uid"].clone();
    let answer =
        json!({ "apiVersion": review["apiVersion"], "kind": "AdmissionReview", "response": response });
    Response::new(Bytes::from(answer.to_string()).into())
}

pub fn allow() -> Value {
    json!({ "allowed": true })
}

pub fn patch(operations: &Value) -> Value {
    json!({ "allowed": true, "patchType": "JSONPatch", "patch": BASE64.encode(operations.to_string()) })
}

/// A configuration of one webhook, named `NAME.example.com`; `fields` are its own.
pub fn configuration(kind: &str, name: &str, client: &Value, rule: Value, fields: Value) -> String {
    let mut hook = json!({
        "name": format!("{name}.example.com"),
        "clientConfig": client,
        "rules": [rule],
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
    });
    for (field, value) in fields.as_object().expect("fields") {
        hook[field] = value.clone();
    }
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": format!("{kind}WebhookConfiguration"),
        "metadata": { "name": name },
        "webhooks": [hook],
    })
    .to_string()
}

pub fn rule(groups: &[&str], versions: &[&str], resources: &[&str], operations: &[&str]) -> Value {
    json!({ "apiGroups": groups, "apiVersions": versions, "resources": resources, "operations": operations })
}
