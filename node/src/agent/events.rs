//! Events, written in the background: nothing ever waits for one, and what doesn't fit is dropped.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    cluster::{Cluster, ClusterError},
    event_correlator::{Correlator, Said, Verdict},
    identity::PodIdentity,
    pod_view::{Role, event_path},
};

const COMPONENT: &str = "kubelet";
const QUEUE: usize = 1000;
/// As the kubelet: 50 per second, 100 at once.
const PER_SECOND: f64 = 50.0;
const BURST: f64 = 100.0;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    Normal,
    Warning,
}

impl EventKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

struct Draft {
    object: ObjectReference,
    kind: EventKind,
    reason: &'static str,
    message: String,
    at: Timestamp,
}

/// Takes events; clones share one writer.
#[derive(Clone)]
pub struct Events {
    normal: mpsc::Sender<Draft>,
    /// What went wrong goes first and is not crowded out by what went well.
    warnings: mpsc::Sender<Draft>,
}

impl Events {
    pub fn start(cluster: Arc<dyn Cluster>, node_name: &str, shutdown: CancellationToken) -> Self {
        let (normal, normal_queue) = mpsc::channel(QUEUE);
        let (warnings, warning_queue) = mpsc::channel(QUEUE);
        let writer = Writer { cluster, node_name: node_name.into(), correlator: Correlator::default() };
        tokio::spawn(writer.run(normal_queue, warning_queue, shutdown));
        Self { normal, warnings }
    }

    pub fn pod(&self, pod: &PodIdentity, kind: EventKind, reason: &'static str, message: impl Into<String>) {
        self.record(pod.reference(), kind, reason, message.into());
    }

    pub fn container(
        &self,
        pod: &PodIdentity,
        (name, role): (&str, Role),
        kind: EventKind,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let object = ObjectReference { field_path: Some(event_path(name, role)), ..pod.reference() };
        self.record(object, kind, reason, message.into());
    }

    pub fn node(&self, node_name: &str, kind: EventKind, reason: &'static str, message: impl Into<String>) {
        let object = ObjectReference {
            kind: Some("Node".into()),
            name: Some(node_name.into()),
            uid: Some(node_name.into()),
            ..Default::default()
        };
        self.record(object, kind, reason, message.into());
    }

    fn record(&self, object: ObjectReference, kind: EventKind, reason: &'static str, message: String) {
        let draft = Draft { object, kind, reason, message, at: Timestamp::now() };
        let queue = if kind == EventKind::Warning { &self.warnings } else { &self.normal };
        if queue.try_send(draft).is_err() {
            tracing::debug!(reason, "event dropped: too many are waiting");
        }
    }
}

struct Writer {
    cluster: Arc<dyn Cluster>,
    node_name: String,
    correlator: Correlator,
}

impl Writer {
    async fn run(
        mut self,
        mut normal: mpsc::Receiver<Draft>,
        mut warnings: mpsc::Receiver<Draft>,
        shutdown: CancellationToken,
    ) {
        let mut limiter = Limiter { tokens: BURST, since: Instant::now() };
        loop {
            let draft = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                Some(draft) = warnings.recv() => draft,
                Some(draft) = normal.recv() => draft,
                else => return,
            };
            let said = Said {
                object: draft.object.uid.clone().unwrap_or_default(),
                field: draft.object.field_path.clone().unwrap_or_default(),
                kind: draft.kind.as_str(),
                reason: draft.reason.into(),
                message: draft.message.clone(),
            };
            let verdict = self.correlator.judge(&said, draft.at);
            if verdict == Verdict::Drop {
                continue;
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = limiter.wait() => (),
            }
            self.write(draft, &said, verdict).await;
        }
    }

    async fn write(&mut self, draft: Draft, said: &Said, verdict: Verdict) {
        let namespace = draft.object.namespace.clone().unwrap_or_else(|| "default".into());
        let result = match verdict {
            Verdict::Drop => return,
            Verdict::Repeat { name, count, message } => {
                let patch = json!({ "count": count, "lastTimestamp": Time(draft.at), "message": message });
                match self.cluster.patch_event(&namespace, &name, &patch).await {
                    // Events expire; this one is told anew.
                    Err(ClusterError::NotFound(_)) => {
                        self.correlator.was_lost(&name);
                        self.create(&draft, said, namespace, message).await
                    }
                    other => other,
                }
            }
            Verdict::Create { message } => self.create(&draft, said, namespace, message).await,
        };
        if let Err(error) = result {
            tracing::debug!(%error, reason = draft.reason, "event not written");
        }
    }

    async fn create(
        &mut self,
        draft: &Draft,
        said: &Said,
        namespace: String,
        message: String,
    ) -> Result<(), ClusterError> {
        let object_name = draft.object.name.clone().unwrap_or_default();
        let name = format!("{object_name}.{:x}", draft.at.as_nanosecond());
        let event = Event {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(namespace),
                ..Default::default()
            },
            involved_object: draft.object.clone(),
            reason: Some(draft.reason.into()),
            message: Some(message),
            type_: Some(draft.kind.as_str().into()),
            source: Some(EventSource {
                component: Some(COMPONENT.into()),
                host: Some(self.node_name.clone()),
            }),
            reporting_component: Some(COMPONENT.into()),
            reporting_instance: Some(self.node_name.clone()),
            first_timestamp: Some(Time(draft.at)),
            last_timestamp: Some(Time(draft.at)),
            count: Some(1),
            ..Default::default()
        };
        self.cluster.create_event(&event).await?;
        self.correlator.was_written(said, name, draft.at);
        Ok(())
    }
}

/// A token bucket.
struct Limiter {
    tokens: f64,
    since: Instant,
}

impl Limiter {
    async fn wait(&mut self) {
        self.refill();
        if self.tokens < 1.0 {
            tokio::time::sleep(Duration::from_secs_f64((1.0 - self.tokens) / PER_SECOND)).await;
            self.refill();
        }
        self.tokens -= 1.0;
    }

    fn refill(&mut self) {
        let now = Instant::now();
        self.tokens = (self.tokens + now.duration_since(self.since).as_secs_f64() * PER_SECOND).min(BURST);
        self.since = now;
    }
}
