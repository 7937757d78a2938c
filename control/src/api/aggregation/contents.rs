//! What other servers keep in a namespace that is being deleted: has them delete it, and asks what is left.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use http::{Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{Aggregator, Remote, documents::order, fetch::Question};
use crate::{
    auth::User,
    client::Delete,
    controllers::{Found, OtherServers},
    store::Store,
};

/// As whom Kubernetes' namespace controller asks.
const USER: &str = "system:serviceaccount:kube-system:namespace-controller";
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
const MAX_BYTES: usize = 64 << 20;
/// Metadata is enough, for servers that know how to give no more.
const ACCEPT: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";

/// The servers of an [`Aggregator`], for the namespace controller.
pub struct Contents {
    aggregator: Arc<Aggregator>,
    store: Store,
    shutdown: CancellationToken,
}

/// A resource of which objects can be deleted.
struct Deletable {
    remote: Arc<Remote>,
    plural: String,
    verbs: Vec<String>,
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    #[serde(default)]
    finalizers: Vec<String>,
    #[serde(rename = "deletionTimestamp")]
    deletion_timestamp: Option<Value>,
}

/// What a server made of a request.
enum Told {
    Body(Bytes),
    /// It does not do such things, or never had what it was asked for.
    Unsupported,
}

impl Contents {
    pub fn new(aggregator: Arc<Aggregator>, store: Store, shutdown: CancellationToken) -> Self {
        Self { aggregator, store, shutdown }
    }

    /// What of `versions` can be deleted in a namespace, each resource once: by the version that its group prefers.
    /// What cannot be found out goes to `found`.
    fn deletable(&self, versions: &[String], found: &mut Found) -> Vec<Deletable> {
        let mut remotes = Vec::new();
        for version in versions {
            let remote = version.split_once('/').and_then(|(group, name)| self.aggregator.find(group, name));
            match remote.filter(|remote| remote.resources.is_ok()) {
                Some(remote) => remotes.push(remote),
                None => drop(found.undiscovered.insert(version.clone())),
            }
        }
        remotes.sort_by_key(|remote| order(remote));
        let mut seen = BTreeSet::new();
        let mut deletable = Vec::new();
        for remote in remotes {
            let resources = remote.resources.as_ref().ok().and_then(|list| list["resources"].as_array());
            for resource in resources.into_iter().flatten() {
                let plural = resource["name"].as_str().unwrap_or_default().to_owned();
                let verbs = resource["verbs"].as_array().into_iter().flatten();
                let verbs: Vec<String> = verbs.filter_map(|verb| verb.as_str()).map(str::to_owned).collect();
                let is_whole = !plural.is_empty() && !plural.contains('/') && resource["namespaced"] == true;
                let mut is_new = || seen.insert((remote.group().to_owned(), plural.clone()));
                if is_whole && verbs.iter().any(|verb| verb == "delete") && is_new() {
                    deletable.push(Deletable { remote: remote.clone(), plural, verbs });
                }
            }
        }
        deletable
    }

    /// Deletes what there is of one resource, and tells what stays.
    async fn empty_one(&self, resource: &Deletable, namespace: &str) -> Found {
        let mut found = Found::default();
        match self.delete_all(resource, namespace).await {
            Ok(items) => {
                for finalizer in items.iter().flat_map(|item| &item.metadata.finalizers) {
                    *found.finalizers.entry(finalizer.clone()).or_default() += 1;
                }
                if !items.is_empty() {
                    found.remaining.insert(resource.qualified(), items.len());
                }
                let is_explained = |item: &Item| {
                    item.metadata.deletion_timestamp.is_some() || !item.metadata.finalizers.is_empty()
                };
                if !items.is_empty() && !items.iter().any(is_explained) {
                    found.failures.push(format!(
                        "unexpected items still remain in namespace: {namespace} for gvr: {}/{}, Resource={}",
                        resource.remote.group(),
                        resource.remote.version(),
                        resource.plural
                    ));
                }
            }
            Err(why) => found.failures.push(why),
        }
        found
    }

    /// Answers what is still there afterwards.
    async fn delete_all(&self, resource: &Deletable, namespace: &str) -> Result<Vec<Item>, String> {
        let whole = resource.path(namespace);
        let is_deleted =
            resource.can("deletecollection") && matches!(self.delete(resource, &whole).await?, Told::Body(_));
        if !is_deleted {
            for item in self.list(resource, &whole).await? {
                let name = utf8_percent_encode(&item.metadata.name, NON_ALPHANUMERIC);
                self.delete(resource, &format!("{whole}/{name}")).await?;
            }
        }
        self.list(resource, &whole).await
    }

    async fn delete(&self, resource: &Deletable, path: &str) -> Result<Told, String> {
        let options = Delete { propagation_policy: Some("Background".into()), ..Delete::default() };
        let body = options.to_value().to_string().into();
        self.ask(resource, Question { method: Method::DELETE, body, ..question(path) }).await
    }

    async fn list(&self, resource: &Deletable, path: &str) -> Result<Vec<Item>, String> {
        if !resource.can("list") {
            return Ok(Vec::new());
        }
        match self.ask(resource, question(path)).await? {
            Told::Unsupported => Ok(Vec::new()),
            Told::Body(body) => serde_json::from_slice::<List>(&body)
                .map(|list| list.items)
                .map_err(|error| format!("the list of {} cannot be read: {error}", resource.qualified())),
        }
    }

    async fn ask(&self, resource: &Deletable, question: Question<'_>) -> Result<Told, String> {
        let verb = if question.method == Method::GET { "get" } else { "delete" };
        let answer = resource.remote.fetch(question, &self.store, &self.shutdown).await;
        let (status, body) = match answer {
            Ok(answer) => (answer.status, answer.body),
            Err(why) => {
                tracing::debug!(service = %resource.remote.name, why = why.message, "no answer about a namespace");
                (StatusCode::SERVICE_UNAVAILABLE, Bytes::new())
            }
        };
        match status {
            status if status.is_success() => Ok(Told::Body(body)),
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Ok(Told::Unsupported),
            _ => Err(refusal(status, &body, verb, &resource.qualified())),
        }
    }
}

impl OtherServers for Contents {
    fn empty<'a>(&'a self, namespace: &'a str, versions: &'a [String]) -> BoxFuture<'a, Found> {
        Box::pin(async move {
            let mut found = Found::default();
            let resources = self.deletable(versions, &mut found);
            let mut told: FuturesUnordered<_> =
                resources.iter().map(|resource| self.empty_one(resource, namespace)).collect();
            while let Some(one) = told.next().await {
                found.failures.extend(one.failures);
                found.remaining.extend(one.remaining);
                for (finalizer, count) in one.finalizers {
                    *found.finalizers.entry(finalizer).or_default() += count;
                }
            }
            found
        })
    }
}

impl Deletable {
    fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|can| can == verb)
    }

    fn qualified(&self) -> String {
        format!("{}.{}", self.plural, self.remote.group())
    }

    fn path(&self, namespace: &str) -> String {
        let (group, version) = (self.remote.group(), self.remote.version());
        format!("/apis/{group}/{version}/namespaces/{namespace}/{}", self.plural)
    }
}

fn question(path: &str) -> Question<'_> {
    Question {
        accept: ACCEPT,
        patience: PATIENCE,
        max_bytes: MAX_BYTES,
        ..Question::get(path, User::internal(USER))
    }
}

/// The words of a server's `Status`, or those that Go's client has for an answer that is none.
fn refusal(status: StatusCode, body: &[u8], verb: &str, resource: &str) -> String {
    let told: Value = serde_json::from_slice(body).unwrap_or_default();
    if told["kind"] == "Status"
        && let Some(message) = told["message"].as_str()
    {
        return message.into();
    }
    let why = match status {
        StatusCode::TOO_MANY_REQUESTS => {
            "the server has received too many requests and has asked us to try again later".into()
        }
        StatusCode::SERVICE_UNAVAILABLE => "the server is currently unable to handle the request".into(),
        StatusCode::GATEWAY_TIMEOUT => {
            "the server was unable to return a response in the time allotted, but may still be processing the request"
                .into()
        }
        StatusCode::INTERNAL_SERVER_ERROR => {
            let said = String::from_utf8_lossy(&body[..body.len().min(1024)]);
            format!("an error on the server ({said:?}) has prevented the request from succeeding")
        }
        _ => {
            let code = status.as_u16();
            format!("the server responded with the status code {code} but did not return more information")
        }
    };
    format!("{why} ({verb} {resource})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_in_the_servers_words_or_in_those_of_go() {
        let status = br#"{"kind":"Status","message":"carts are locked"}"#;
        let told = |code, body: &[u8]| refusal(code, body, "delete", "carts.shop.example.com");
        assert_eq!(told(StatusCode::FORBIDDEN, status), "carts are locked");
        assert_eq!(
            told(StatusCode::SERVICE_UNAVAILABLE, b"gone"),
            "the server is currently unable to handle the request (delete carts.shop.example.com)"
        );
        assert_eq!(
            told(StatusCode::INTERNAL_SERVER_ERROR, b"oh \"no\""),
            "an error on the server (\"oh \\\"no\\\"\") has prevented the request from succeeding (delete \
             carts.shop.example.com)"
        );
        assert_eq!(
            told(StatusCode::IM_A_TEAPOT, b""),
            "the server responded with the status code 418 but did not return more information (delete \
             carts.shop.example.com)"
        );
    }
}
