//! Hands every pod of the node to its worker, and tells workers what the API, the runtime and the clock have for them.
//!
//! The pod watch says which pods there are; the runtime's event stream, and a look at everything now and then, says
//! what happens to them. Pods that the runtime has and the API has not are stopped.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, RwLock},
    time::Duration,
};

use futures::StreamExt;
use jiff::Timestamp;
use k8s_cri::v1 as cri;
use k8s_openapi::{
    api::core::v1::{Pod, PodSpec},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{
    Api, Client,
    runtime::{WatchStreamExt, watcher},
};
use naru_model::pod::Resources;
use tokio::{sync::mpsc, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    identity::{ANNOTATION_POD_GRACE, PodIdentity},
    inbox::{Inbox, Report},
    observed::{Observed, RunState},
    pod_view::PodView,
    runtime::{Runtime, RuntimeResult},
    shared::Shared,
    worker::Worker,
};

/// A healthy event stream misses nothing; this is for what we have not thought of.
const RELIST_EVERY: Duration = Duration::from_mins(1);
const RELIST_WITHOUT_EVENTS: Duration = Duration::from_secs(1);
const RECONNECT_AFTER: Duration = Duration::from_millis(200);
const REFRESH_AT_LEAST: Duration = Duration::from_secs(15);
/// So many pods' volumes are refreshed per second at most.
const REFRESHES_PER_SECOND: u64 = 100;

type ByUid = HashMap<String, (PodIdentity, Arc<Inbox>)>;

/// The workers by pod uid: shared with the node API, which only reads.
#[derive(Clone, Default)]
pub struct Workers {
    by_uid: Arc<RwLock<ByUid>>,
}

impl Workers {
    /// The newest pod of that name.
    pub fn find(&self, namespace: &str, name: &str) -> Option<Arc<Report>> {
        let by_uid = self.by_uid.read().expect("no one panics holding it");
        let named = by_uid.values().filter(|(pod, _)| pod.namespace == namespace && pod.name == name);
        named
            .filter_map(|(_, inbox)| inbox.report())
            .max_by_key(|report| report.pod.pod().metadata.creation_timestamp.as_ref().map(|time| time.0))
    }

    pub fn reports(&self) -> Vec<Arc<Report>> {
        let by_uid = self.by_uid.read().expect("no one panics holding it");
        by_uid.values().filter_map(|(_, inbox)| inbox.report()).collect()
    }

    /// What all pods but one request, as far as they still run.
    pub fn requests_beside(&self, uid: &str) -> Resources {
        let mut total = Resources::new();
        // One by one: most pods are packed, and all of them open would be more than the rest of the agent.
        for inbox in self.inboxes() {
            let Some(report) = inbox.report() else { continue };
            let is_over = matches!(report.status.phase.as_deref(), Some("Succeeded" | "Failed"));
            if report.pod.identity.uid != uid && !is_over {
                for (name, amount) in naru_model::pod::requests(report.pod.spec()) {
                    *total.entry(name).or_default() += amount;
                }
            }
        }
        total
    }

    /// What the runtime said last of each pod.
    pub fn observed(&self) -> Vec<(PodIdentity, Arc<Observed>)> {
        let by_uid = self.by_uid.read().expect("no one panics holding it");
        by_uid.values().filter_map(|(_, inbox)| inbox.observed()).collect()
    }

    pub fn by_uid(&self, uid: &str) -> Option<Arc<Report>> {
        self.inbox(uid)?.report()
    }

    fn inbox(&self, uid: &str) -> Option<Arc<Inbox>> {
        let by_uid = self.by_uid.read().expect("no one panics holding it");
        by_uid.get(uid).map(|(_, inbox)| inbox.clone())
    }

    fn inboxes(&self) -> Vec<Arc<Inbox>> {
        let by_uid = self.by_uid.read().expect("no one panics holding it");
        by_uid.values().map(|(_, inbox)| inbox.clone()).collect()
    }

    fn uids(&self) -> HashSet<String> {
        self.by_uid.read().expect("no one panics holding it").keys().cloned().collect()
    }

    pub fn insert(&self, pod: PodIdentity, inbox: Arc<Inbox>) {
        self.by_uid.write().expect("no one panics holding it").insert(pod.uid.clone(), (pod, inbox));
    }

    fn remove(&self, uid: &str) {
        self.by_uid.write().expect("no one panics holding it").remove(uid);
    }
}

pub struct PodManager {
    shared: Arc<Shared>,
    workers: Workers,
    tasks: JoinSet<String>,
    /// What the runtime had when the agent came: sandboxes by pod.
    adopted: HashMap<String, (PodIdentity, i64, Vec<String>)>,
    /// Uids of the list that is coming in.
    listed: Option<HashSet<String>>,
}

impl PodManager {
    pub fn new(shared: Arc<Shared>, workers: Workers) -> Self {
        Self { shared, workers, tasks: JoinSet::new(), adopted: HashMap::new(), listed: None }
    }

    /// Runs until `shutdown`; pods go on without it.
    pub async fn run(mut self, client: Client, shutdown: CancellationToken) {
        let Some(()) = shutdown.run_until_cancelled(self.find_adopted()).await else { return };
        let (runtime_news, mut runtime_events) = mpsc::channel(1024);
        let events = tokio::spawn(follow_events(self.shared.runtime.clone(), runtime_news, shutdown.clone()));
        let selector = format!("spec.nodeName={}", self.shared.node_name);
        let config = watcher::Config::default().fields(&selector).page_size(2000);
        // Who owns which field is as much as the rest of a pod, and nothing here asks for it.
        let forget_managers = |pod: &mut Pod| pod.metadata.managed_fields = None;
        let pods = watcher(Api::<Pod>::all(client), config).default_backoff();
        let mut pods = pods.modify(forget_managers).boxed();
        let mut relist_at = Instant::now() + RELIST_WITHOUT_EVENTS;
        let mut has_events = false;
        let mut refresh_at = Instant::now() + REFRESH_AT_LEAST;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(event) = pods.next() => self.on_watch(event),
                Some(news) = runtime_events.recv() => match news {
                    RuntimeNews::Event(event) => self.on_runtime_event(&event),
                    RuntimeNews::Connected => {
                        self.shared.runtime_connected.notify_one();
                        (has_events, relist_at) = (true, Instant::now());
                    }
                    RuntimeNews::Disconnected => (has_events, relist_at) = (false, Instant::now()),
                },
                Some(ended) = self.tasks.join_next() => self.on_ended(ended),
                () = tokio::time::sleep_until(relist_at) => {
                    self.relist().await;
                    relist_at = Instant::now() + if has_events { RELIST_EVERY } else { RELIST_WITHOUT_EVENTS };
                }
                () = tokio::time::sleep_until(refresh_at) => refresh_at = self.refresh(),
            }
        }
        events.abort();
        self.tasks.shutdown().await;
    }

    /// Waits for the runtime and learns what it runs already.
    async fn find_adopted(&mut self) {
        let sandboxes = loop {
            match self.shared.runtime.list_sandboxes(None).await {
                Ok(sandboxes) => break sandboxes,
                Err(error) => {
                    tracing::debug!(%error, "waiting for the runtime");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        };
        for sandbox in sandboxes {
            let Some(identity) = PodIdentity::from_labels(&sandbox.labels) else { continue };
            let grace = sandbox.annotations.get(ANNOTATION_POD_GRACE).and_then(|text| text.parse().ok());
            let uid = identity.uid.clone();
            let entry = self.adopted.entry(uid).or_insert((identity, grace.unwrap_or(30), Vec::new()));
            entry.2.push(sandbox.id);
        }
    }

    fn on_watch(&mut self, event: Result<watcher::Event<Pod>, watcher::Error>) {
        match event {
            Ok(watcher::Event::Init) => self.listed = Some(HashSet::new()),
            Ok(watcher::Event::InitApply(pod)) => {
                if let Some(listed) = &mut self.listed {
                    listed.extend(pod.metadata.uid.clone());
                }
                self.on_pod(pod);
            }
            Ok(watcher::Event::InitDone) => self.on_listed(),
            Ok(watcher::Event::Apply(pod)) => self.on_pod(pod),
            Ok(watcher::Event::Delete(pod)) => self.on_deleted(&pod.metadata.uid.unwrap_or_default()),
            Err(error) => tracing::warn!(%error, "the pod watch broke off and will be resumed"),
        }
    }

    fn on_pod(&mut self, mut pod: Pod) {
        naru_model::pod::compact(&mut pod);
        let Some(view) = PodView::new(Arc::new(pod)) else { return };
        match self.workers.inbox(&view.identity.uid) {
            Some(inbox) => inbox.push_pod(view),
            None => drop(self.start(view)),
        }
    }

    fn on_deleted(&self, uid: &str) {
        if let Some(inbox) = self.workers.inbox(uid) {
            inbox.push_gone();
        }
    }

    fn start(&mut self, pod: PodView) -> Arc<Inbox> {
        let uid = pod.identity.uid.clone();
        let sandbox_ids = self.adopted.remove(&uid).map(|(_, _, ids)| ids).unwrap_or_default();
        let inbox = Arc::new(Inbox::default());
        self.workers.insert(pod.identity.clone(), inbox.clone());
        let worker = Worker::new(self.shared.clone(), inbox.clone(), pod, sandbox_ids);
        self.tasks.spawn(async move {
            worker.run().await;
            uid
        });
        inbox
    }

    /// The list is complete: what is not in it has been deleted while nobody watched.
    fn on_listed(&mut self) {
        let Some(listed) = self.listed.take() else { return };
        for uid in self.workers.uids().difference(&listed) {
            self.on_deleted(uid);
        }
        let orphans: Vec<_> =
            self.adopted.values().map(|(identity, grace, _)| (identity.clone(), *grace)).collect();
        for (identity, grace_seconds) in orphans {
            tracing::info!(pod = identity.long_name(), "stopping a pod that is no longer in the API");
            let inbox = self.start(orphan(&identity, grace_seconds));
            inbox.push_gone();
        }
        self.remove_left_over_directories();
    }

    fn remove_left_over_directories(&self) {
        let known = self.workers.uids();
        let directories = self.shared.directories.clone();
        tokio::task::spawn_blocking(move || {
            let of_uid = |name: &str| name.rsplit('_').next().unwrap_or_default().to_owned();
            for parent in directories.homes().into_iter().chain([directories.logs()]) {
                for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
                    if !known.contains(&of_uid(&entry.file_name().to_string_lossy())) {
                        let _ = std::fs::remove_dir_all(entry.path()); // The next start tries again.
                    }
                }
            }
        });
    }

    fn on_runtime_event(&self, event: &cri::ContainerEventResponse) {
        let status = event.pod_sandbox_status.as_ref();
        let uid = status.and_then(|status| status.metadata.as_ref()).map(|metadata| metadata.uid.as_str());
        if let Some(inbox) = uid.and_then(|uid| self.workers.inbox(uid)) {
            inbox.push_dirty(event.created_at);
        }
    }

    fn on_ended(&self, ended: Result<String, tokio::task::JoinError>) {
        match ended {
            Ok(uid) => self.workers.remove(&uid),
            Err(error) => tracing::error!(%error, "a pod's worker broke down"),
        }
    }

    /// Compares everything in the runtime with what the workers know.
    async fn relist(&self) {
        let Ok(seen) = fingerprints(&*self.shared.runtime).await else { return };
        for inbox in self.workers.inboxes() {
            if let Some((identity, observed)) = inbox.observed()
                && seen.get(&identity.uid).cloned().unwrap_or_default() != fingerprint_of(&observed)
            {
                inbox.push_dirty(0);
            }
        }
    }

    /// Lets workers look after their volumes; the more pods, the more rarely.
    fn refresh(&self) -> Instant {
        let inboxes = self.workers.inboxes();
        let spread = Duration::from_secs(inboxes.len() as u64 / REFRESHES_PER_SECOND);
        for inbox in &inboxes {
            inbox.push_refresh();
        }
        Instant::now() + REFRESH_AT_LEAST.max(spread)
    }
}

/// States of a pod's sandboxes and containers, comparable.
type Fingerprint = std::collections::BTreeSet<(String, bool)>;

async fn fingerprints(runtime: &dyn Runtime) -> RuntimeResult<HashMap<String, Fingerprint>> {
    let mut seen = HashMap::<String, Fingerprint>::new();
    for sandbox in runtime.list_sandboxes(None).await? {
        let Some(identity) = PodIdentity::from_labels(&sandbox.labels) else { continue };
        let is_ready = sandbox.state == cri::PodSandboxState::SandboxReady as i32;
        seen.entry(identity.uid).or_default().insert((sandbox.id, is_ready));
    }
    for container in runtime.list_containers(None).await? {
        let Some(identity) = PodIdentity::from_labels(&container.labels) else { continue };
        let is_running = container.state == cri::ContainerState::ContainerRunning as i32;
        seen.entry(identity.uid).or_default().insert((container.id, is_running));
    }
    Ok(seen)
}

fn fingerprint_of(observed: &Observed) -> Fingerprint {
    let sandboxes = observed.sandboxes.iter().map(|sandbox| (sandbox.id.clone(), sandbox.is_ready));
    let containers =
        observed.containers.iter().map(|record| (record.id.clone(), record.state == RunState::Running));
    sandboxes.chain(containers).collect()
}

/// A pod of which only the runtime's labels are left: enough to stop it within its grace period.
fn orphan(identity: &PodIdentity, grace_seconds: i64) -> PodView {
    let pod = Pod {
        metadata: ObjectMeta {
            name: Some(identity.name.clone()),
            namespace: Some(identity.namespace.clone()),
            uid: Some(identity.uid.clone()),
            deletion_timestamp: Some(Time(Timestamp::now())),
            deletion_grace_period_seconds: Some(grace_seconds),
            ..Default::default()
        },
        spec: Some(PodSpec { termination_grace_period_seconds: Some(grace_seconds), ..Default::default() }),
        status: None,
    };
    PodView::new(Arc::new(pod)).expect("it has a spec")
}

enum RuntimeNews {
    Connected,
    Event(Box<cri::ContainerEventResponse>),
    Disconnected,
}

/// Follows the runtime's event stream, again after every loss.
async fn follow_events(
    runtime: Arc<dyn Runtime>,
    news: mpsc::Sender<RuntimeNews>,
    shutdown: CancellationToken,
) {
    let mut was_connected = false;
    while !shutdown.is_cancelled() && !news.is_closed() {
        if let Ok(mut events) = runtime.events().await {
            if !was_connected && news.send(RuntimeNews::Connected).await.is_err() {
                return;
            }
            was_connected = true;
            while let Some(Ok(event)) = events.next().await {
                if news.send(RuntimeNews::Event(Box::new(event))).await.is_err() {
                    return;
                }
            }
        }
        if was_connected && news.send(RuntimeNews::Disconnected).await.is_err() {
            return;
        }
        was_connected = false;
        tokio::time::sleep(RECONNECT_AFTER).await;
    }
}
