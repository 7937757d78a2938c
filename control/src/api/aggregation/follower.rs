//! Follows the APIServices: who serves what, and whether they are there.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
    kube_aggregator::pkg::apis::apiregistration::v1::{APIService, APIServiceCondition, APIServiceSpec},
};
use rustls::ClientConfig;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::{Aggregator, Remote, SERVICE_NAME, SERVICES, SLICES, Unavailable, fetch::Question, local};
use crate::{
    ApiClient, ApiError,
    api::upstream::unverified_tls,
    auth::User,
    store::{Entry, Lagged, Revision, Scope},
    trust::believing,
};

const RESOURCE: &str = "apiservices.apiregistration.k8s.io";
const DEFINITIONS: &str = "customresourcedefinitions.apiextensions.k8s.io";
/// A server that is there is asked again after so long, one that is not sooner.
pub(super) const RECHECK: Duration = Duration::from_secs(15);
const RETRY: Duration = Duration::from_secs(1);

/// Keeps an [`Aggregator`] in step with the cluster, on one member.
pub struct Follower {
    aggregator: Arc<Aggregator>,
    client: ApiClient,
    shutdown: CancellationToken,
}

impl Follower {
    pub fn new(aggregator: Arc<Aggregator>, client: ApiClient, shutdown: CancellationToken) -> Self {
        Self { aggregator, client, shutdown }
    }

    /// Until shutdown.
    pub async fn run(self) {
        let documents = self.aggregator.follow_documents(self.client.store(), &self.shutdown);
        tokio::join!(self.follow(), documents);
    }

    /// Follows who is there.
    async fn follow(&self) {
        let shutdown = self.shutdown.clone();
        let mut is_news = true;
        loop {
            let seen = self.client.store().snapshot().revision();
            let round = async {
                local::reconcile(&self.client).await;
                self.refresh().await;
                self.changed(seen, is_news).await
            };
            match shutdown.run_until_cancelled(round).await {
                Some(news) => is_news = news,
                None => return,
            }
        }
    }

    /// Waits for a change of what is served after `seen` (true), or until it is time to look again (false). What is
    /// served follows the definitions, so that the round after news (`is_news`) may still have seen the old state: then
    /// there is another one soon.
    async fn changed(&self, seen: Revision, is_news: bool) -> bool {
        let remotes = self.aggregator.remotes();
        let is_soon = is_news || remotes.iter().any(|remote| remote.resources.is_err());
        let recheck = async {
            if remotes.is_empty() && !is_news {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(if is_soon { RETRY } else { RECHECK }).await;
        };
        tokio::select! {
            () = recheck => false,
            () = self.change_of(RESOURCE, seen, |_| true) => true,
            () = self.change_of(DEFINITIONS, seen, |_| true) => true,
            () = self.move_of(&remotes, SERVICES, seen, |entry| entry.meta.name.as_str().into()) => true,
            () = self.move_of(&remotes, SLICES, seen, |entry| {
                entry.meta.labels.get(SERVICE_NAME).map(String::as_str)
            }) => true,
        }
    }

    /// Waits for a change of something that a server is reached by: a Service, or one of its slices. `service` answers
    /// the Service's name.
    async fn move_of(
        &self,
        remotes: &[Arc<Remote>],
        resource: &str,
        seen: Revision,
        service: impl Fn(&Entry) -> Option<&str>,
    ) {
        if remotes.is_empty() {
            return std::future::pending().await;
        }
        let is_theirs = |entry: &Entry| {
            let name = service(entry);
            remotes.iter().filter_map(|remote| remote.spec.service.as_ref()).any(|reference| {
                reference.name.as_deref() == name
                    && reference.namespace.as_deref() == Some(&entry.meta.namespace)
            })
        };
        self.change_of(resource, seen, is_theirs).await;
    }

    /// Waits for a change of an object that `is_it`.
    async fn change_of(&self, resource: &str, seen: Revision, is_it: impl Fn(&Entry) -> bool) {
        match self.client.store().watch(Scope::all(resource), seen) {
            Ok(mut watch) => loop {
                match watch.next().await {
                    Ok(event) if !is_it(&event.entry) => (),
                    Ok(_) | Err(Lagged) => return,
                }
            },
            Err(error) => {
                tracing::warn!(%error, resource, "cannot be watched; it tries again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    async fn refresh(&self) {
        let view = self.client.store().snapshot();
        let entries = view.range(&Scope::all(RESOURCE), None);
        let checks = entries.filter_map(|entry| {
            let service = entry.typed::<APIService>().ok()?;
            let spec = service.spec.clone().filter(|spec| spec.service.is_some())?;
            Some(self.check(entry.clone(), service, spec))
        });
        let checks: Vec<_> = checks.collect();
        let remotes = futures::future::join_all(checks).await;
        let what =
            |remote: &Arc<Remote>| (remote.name.clone(), remote.spec.clone(), remote.resources.is_ok());
        let is_same = self.aggregator.remotes().iter().map(what).eq(remotes.iter().map(what));
        self.aggregator.remotes.store(Arc::new(remotes));
        if !is_same {
            self.aggregator.changed.notify_one();
        }
    }

    async fn check(&self, entry: Arc<Entry>, service: Arc<APIService>, spec: APIServiceSpec) -> Arc<Remote> {
        let tls = tls(&spec, &self.aggregator.identity);
        let name = entry.meta.name.clone();
        let unknown = Err(Unavailable { reason: "", message: String::new() });
        let mut remote = Remote { name, spec, tls, resources: unknown, openapi_hash: String::new() };
        remote.resources = self.resources(&remote).await;
        if let Ok(resources) = &remote.resources {
            remote.openapi_hash = self.openapi_hash(&remote, resources).await;
        }
        self.tell(&service, &remote).await;
        Arc::new(remote)
    }

    /// Asks for the list of its resources, as proof of life.
    async fn resources(&self, remote: &Remote) -> Result<Value, Unavailable> {
        self.ask(remote, &format!("/apis/{}/{}", remote.group(), remote.version())).await
    }

    /// The hash under which the other server itself offers its document; where it does not, what its resources come to.
    async fn openapi_hash(&self, remote: &Remote, resources: &Value) -> String {
        let index = self.ask(remote, "/openapi/v3").await.unwrap_or_default();
        let entry = &index["paths"][format!("apis/{}/{}", remote.group(), remote.version())];
        let url = entry["serverRelativeURL"].as_str().unwrap_or_default();
        match url.split_once("hash=").and_then(|(_, rest)| rest.split('&').next()) {
            Some(hash) if !hash.is_empty() && hash.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
                hash.into()
            }
            _ => hex::encode_upper(&Sha256::digest(resources.to_string())[..16]),
        }
    }

    /// `GET path` of the other server, as JSON.
    async fn ask(&self, remote: &Remote, path: &str) -> Result<Value, Unavailable> {
        let user = User::new("system:kube-aggregator", vec!["system:masters".into()]);
        let question = Question::get(path, user);
        let answer = remote.fetch(question, self.client.store(), &self.shutdown).await?;
        let failed = |why: String| {
            let message = format!("failing or missing response from {}: {why}", answer.url);
            Unavailable::new("FailedDiscoveryCheck", message)
        };
        if !answer.status.is_success() {
            return Err(failed(format!("bad status from {}: {}", answer.url, answer.status.as_u16())));
        }
        serde_json::from_slice(&answer.body).map_err(|error| failed(error.to_string()))
    }

    /// Writes the condition where it differs.
    async fn tell(&self, service: &APIService, remote: &Remote) {
        let (status, reason, message) = match &remote.resources {
            Ok(_) => ("True", "Passed", "all checks passed"),
            Err(why) => ("False", why.reason, why.message.as_str()),
        };
        let conditions = service.status.as_ref().and_then(|status| status.conditions.as_ref());
        let old = conditions.and_then(|all| all.iter().find(|condition| condition.type_ == "Available"));
        let is_same = |old: &APIServiceCondition| {
            old.status == status
                && old.reason.as_deref() == Some(reason)
                && old.message.as_deref() == Some(message)
        };
        if old.is_some_and(is_same) {
            return;
        }
        let since = old.filter(|old| old.status == status).and_then(|old| old.last_transition_time.clone());
        let condition = APIServiceCondition {
            type_: "Available".into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_transition_time: since.or_else(|| Some(Time(Timestamp::now()))),
        };
        let mut service = service.clone();
        let conditions = service.status.get_or_insert_default().conditions.get_or_insert_default();
        conditions.retain(|condition| condition.type_ != "Available");
        conditions.push(condition);
        match self.client.update_status(&service).await {
            // Somebody else wrote meanwhile: the next look sees what.
            Ok(_) | Err(ApiError::Conflict { .. } | ApiError::NotFound { .. }) => {}
            Err(error) => tracing::warn!(service = %remote.name, %error, "a condition could not be written"),
        }
    }
}

/// How TLS is spoken with a server: whose certificate it must show, and what it is shown.
fn tls(spec: &APIServiceSpec, identity: &crate::auth::pki::Identity) -> Result<Arc<ClientConfig>, String> {
    if spec.insecure_skip_tls_verify == Some(true) {
        return unverified_tls(Some(identity));
    }
    let bundle = spec.ca_bundle.as_ref().map_or(&[][..], |bundle| &bundle.0);
    let builder = believing(bundle).map_err(|problem| format!("caBundle: {problem}"))?;
    let (certificates, key) = identity.to_rustls()?;
    builder.with_client_auth_cert(certificates, key).map(Arc::new).map_err(|error| error.to_string())
}
