//! The OpenAPI v2 documents of other servers: what of them belongs into ours.
//!
//! They are asked for again and again, by their tags, and apart from whether the servers are there: a document that is
//! slow, broken or gone costs nothing but itself. Where a server fails to give one, its last good one stays.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};
use http::StatusCode;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::{Aggregator, Remote, fetch::Question, follower::RECHECK};
use crate::{api::openapi::merge, auth::User, store::Store};

const PATH: &str = "/openapi/v2";
/// As whom Kubernetes' aggregator asks.
const USER: &str = "system:aggregator";
/// A server describes all that it serves in one document, and may take its time to make it.
const PATIENCE: Duration = Duration::from_secs(30);
const MAX_BYTES: usize = 64 << 20;

/// Of the document of another server, the part about the group and version that it serves here.
#[derive(Clone)]
pub struct Part {
    /// The server's own tag, to ask with; empty where it gives none.
    etag: String,
    /// Of the document's bytes.
    digest: [u8; 32],
    /// Groups of high priority first, and in them versions: the first to use a name in the whole document keeps it.
    order: (i32, String, i32, String),
    value: Arc<Value>,
}

/// The parts at one moment, by the names of their APIServices.
#[derive(Clone, Default)]
pub struct Parts(BTreeMap<String, Arc<Part>>);

impl Parts {
    /// What tells these parts from others; `None` without any.
    pub fn tag(&self) -> Option<String> {
        if self.0.is_empty() {
            return None;
        }
        let mut hash = Sha256::new();
        for (name, part) in &self.0 {
            hash.update(name);
            hash.update([0]);
            hash.update(part.digest);
            hash.update(format!("{:?}", part.order));
        }
        Some(hex::encode(hash.finalize()))
    }

    /// Adds them to the document of `/openapi/v2`.
    pub fn add_to(&self, document: &mut Value) {
        let mut parts: Vec<&Arc<Part>> = self.0.values().collect();
        parts.sort_by(|one, other| one.order.cmp(&other.order));
        for part in parts {
            merge::add(document, &part.value);
        }
    }
}

impl Aggregator {
    /// What other servers add to `/openapi/v2` now.
    pub fn parts(&self) -> Arc<Parts> {
        self.parts.load_full()
    }

    /// Keeps the parts in step with the servers, until shutdown.
    pub(super) async fn follow_documents(&self, store: &Store, shutdown: &CancellationToken) {
        loop {
            let remotes = self.remotes();
            let asked = remotes.iter().filter(|remote| remote.resources.is_ok());
            let mut asked: FuturesUnordered<_> =
                asked.map(|remote| self.refresh_part(remote, store, shutdown)).collect();
            self.forget_parts(&remotes);
            let round = async {
                while asked.next().await.is_some() {}
                if remotes.is_empty() {
                    std::future::pending::<()>().await;
                }
                // Other servers do not tell when their documents change.
                tokio::time::sleep(RECHECK).await;
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.changed.notified() => (),
                () = round => (),
            }
        }
    }

    /// Asks one server for its document, and takes in what is new.
    async fn refresh_part(&self, remote: &Remote, store: &Store, shutdown: &CancellationToken) {
        let known = self.parts.load().0.get(&remote.name).cloned();
        let etag = known.as_ref().map_or("", |known| known.etag.as_str());
        let question = Question {
            etag,
            patience: PATIENCE,
            max_bytes: MAX_BYTES,
            ..Question::get(PATH, User::new(USER, Vec::new()))
        };
        let refused = |why: &str| {
            tracing::debug!(service = %remote.name, why, "an OpenAPI v2 document could not be taken in");
        };
        let answer = match remote.fetch(question, store, shutdown).await {
            Ok(answer) => answer,
            Err(why) => return refused(&why.message),
        };
        let order = order(remote);
        match answer.status {
            StatusCode::OK => (),
            StatusCode::NOT_MODIFIED => {
                if let Some(known) = known.filter(|known| known.order != order) {
                    self.keep_part(&remote.name, Some(Part { order, ..Part::clone(&known) }));
                }
                return;
            }
            // It serves none, which is its right.
            StatusCode::NOT_FOUND => return self.keep_part(&remote.name, None),
            status => return refused(status.as_str()),
        }
        let digest = Sha256::digest(&answer.body).into();
        let is_same =
            |known: &Part| known.digest == digest && known.etag == answer.etag && known.order == order;
        if known.is_some_and(|known| is_same(&known)) {
            return;
        }
        let document = serde_json::from_slice::<Value>(&answer.body);
        let part = document.map(|document| merge::part(&document, remote.group(), remote.version()));
        match part {
            Ok(Some(value)) => {
                let part = Part { etag: answer.etag, digest, order, value: Arc::new(value) };
                self.keep_part(&remote.name, Some(part));
            }
            Ok(None) => refused("it is no OpenAPI v2 document"),
            Err(error) => refused(&error.to_string()),
        }
    }

    fn keep_part(&self, name: &str, part: Option<Part>) {
        let part = part.map(Arc::new);
        self.parts.rcu(|parts| {
            let mut parts = Parts::clone(parts);
            match &part {
                Some(part) => drop(parts.0.insert(name.into(), part.clone())),
                None => drop(parts.0.remove(name)),
            }
            parts
        });
    }

    /// Drops the parts of servers that nobody asks for any more.
    fn forget_parts(&self, remotes: &[Arc<Remote>]) {
        let is_there = |name: &String| remotes.iter().any(|remote| remote.name == *name);
        if self.parts.load().0.keys().all(is_there) {
            return;
        }
        self.parts.rcu(|parts| {
            let mut parts = Parts::clone(parts);
            parts.0.retain(|name, _| is_there(name));
            parts
        });
    }
}

/// Where a version stands among others: the most preferred first.
pub(super) fn order(remote: &Remote) -> (i32, String, i32, String) {
    let spec = &remote.spec;
    (
        spec.group_priority_minimum.saturating_neg(),
        remote.group().into(),
        spec.version_priority.saturating_neg(),
        remote.version().into(),
    )
}
