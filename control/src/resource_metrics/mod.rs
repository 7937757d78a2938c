//! What nodes and pods use, for `metrics.k8s.io`: read from the nodes' agents while somebody wants to know.
//!
//! As metrics-server does, every ready node's `/metrics/resource` is read about every 15 seconds, and a rate of CPU is
//! the difference of the last two readings. Other than there, nothing is read while nobody asks: a question starts the
//! reading, with a first pair of readings one second apart, so that it is answered soon; five minutes after the last
//! question it ends, and its figures go. So an idle cluster pays nothing, and one of 10,000 pods pays (a message of
//! some MB per node and round, and about 1 kB of memory per pod) only where dashboards or autoscalers want it.
//!
//! **Invariant:** nothing is written to the store. Each member of the control plane that is asked reads for itself.

mod exposition;
mod usage;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::StreamExt as _;
use http_body_util::{BodyExt as _, Limited};
use k8s_openapi::{
    api::core::v1::Node,
    jiff::{SignedDuration, Timestamp},
};
use naru_model::{Object as _, pod::is_node_ready};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    api::NodeClient,
    store::{Scope, Store},
};
use exposition::Reading;
pub use usage::{Amounts, ContainerUsage, Measured, Usages};

/// When nodes are read.
#[derive(Debug, Clone, Copy)]
struct Rhythm {
    /// Between two readings of a node.
    resolution: Duration,
    /// Between the first two.
    first_window: Duration,
    /// How long reading goes on after the last question.
    interest: Duration,
}

const RHYTHM: Rhythm = Rhythm {
    resolution: Duration::from_secs(15),
    first_window: Duration::from_secs(1),
    interest: Duration::from_mins(5),
};
/// How long one agent may take.
const AGENT_PATIENCE: Duration = Duration::from_secs(4);
/// How long a question waits for the first figures.
const PATIENCE: Duration = Duration::from_secs(10);
/// How old a reading may be to be compared with a new one; a node may have been away for a round or two.
const MAX_WINDOW: SignedDuration = SignedDuration::from_secs(60);
/// Agents that are asked at the same time.
const CONCURRENT_READINGS: usize = 16;
const MAX_READING_BYTES: usize = 64 << 20;
const PATH: &str = "/metrics/resource";

/// The figures of all nodes and pods, while somebody wants them.
pub struct ResourceMetrics {
    store: Store,
    nodes: NodeClient,
    rhythm: Rhythm,
    /// Guards one value.
    asked_at: Mutex<Option<Instant>>,
    wanted: Notify,
    /// None while nothing is read.
    usages: watch::Sender<Option<Arc<Usages>>>,
}

impl ResourceMetrics {
    /// Of the nodes in `store`, whose agents know `nodes`. Somebody must [`run`](Self::run) it.
    pub fn new(store: Store, nodes: NodeClient) -> Self {
        Self {
            store,
            nodes,
            rhythm: RHYTHM,
            asked_at: Mutex::default(),
            wanted: Notify::new(),
            usages: watch::Sender::new(None),
        }
    }

    /// The newest figures: at once where they were asked for in the last minutes, else after about a second. Empty
    /// where no node tells any in time.
    pub async fn usages(&self) -> Arc<Usages> {
        *self.asked_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        let mut usages = self.usages.subscribe();
        if usages.borrow().is_none() {
            self.wanted.notify_one();
        }
        let known = tokio::time::timeout(PATIENCE, usages.wait_for(Option::is_some)).await;
        known.ok().and_then(Result::ok).and_then(|usages| usages.clone()).unwrap_or_default()
    }

    /// Reads while somebody wants to know, until `shutdown`.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let rounds = async {
            loop {
                self.wanted.notified().await;
                self.read_while_wanted(&shutdown).await;
                self.usages.send_replace(None);
            }
        };
        shutdown.run_until_cancelled(rounds).await;
    }

    async fn read_while_wanted(&self, shutdown: &CancellationToken) {
        let mut readings = HashMap::new();
        let mut pause = self.rhythm.first_window;
        let mut is_first = true;
        while self.is_wanted() {
            let last = self.read(shutdown).await;
            if !std::mem::take(&mut is_first) {
                let usages = Usages::between(&readings, &last);
                self.usages.send_replace(Some(Arc::new(usages)));
            }
            keep(&mut readings, last, Timestamp::now());
            tokio::time::sleep(std::mem::replace(&mut pause, self.rhythm.resolution)).await;
        }
    }

    fn is_wanted(&self) -> bool {
        let asked_at = *self.asked_at.lock().unwrap_or_else(PoisonError::into_inner);
        asked_at.is_some_and(|asked_at| asked_at.elapsed() < self.rhythm.interest)
    }

    /// What every ready node tells now, by its name. A node that does not answer is left out.
    async fn read(&self, shutdown: &CancellationToken) -> HashMap<String, Reading> {
        let nodes = self.store.snapshot().list::<Node>(&Scope::all("nodes"));
        let ready = nodes.into_iter().filter(|node| is_node_ready(node));
        let names: Vec<String> = ready.map(|node| node.name().to_owned()).collect();
        let readings = names.into_iter().map(|name| self.try_node(name, shutdown));
        let readings = futures::stream::iter(readings).buffer_unordered(CONCURRENT_READINGS);
        readings.filter_map(std::future::ready).collect().await
    }

    async fn try_node(&self, name: String, shutdown: &CancellationToken) -> Option<(String, Reading)> {
        let read = tokio::time::timeout(AGENT_PATIENCE, self.read_node(&name, shutdown)).await;
        match read.unwrap_or_else(|_| Err(format!("no answer within {AGENT_PATIENCE:?}"))) {
            Ok(reading) => Some((name, reading)),
            Err(why) => {
                tracing::debug!(node = name, why, "a node does not tell what it uses");
                None
            }
        }
    }

    async fn read_node(&self, node: &str, shutdown: &CancellationToken) -> Result<Reading, String> {
        let answer =
            self.nodes.get(&self.store, node, PATH, shutdown).await.map_err(|error| error.to_string())?;
        let status = answer.status();
        if !status.is_success() {
            return Err(format!("{PATH} is answered with {status}"));
        }
        let body = Limited::new(answer.into_body(), MAX_READING_BYTES).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        let now = Timestamp::now();
        // Much text of a full node, which must not hold up a thread that serves others.
        let parsed =
            tokio::task::spawn_blocking(move || Reading::parse(&String::from_utf8_lossy(&body), now)).await;
        parsed.map_err(|error| error.to_string())
    }
}

/// Replaces readings by newer ones, and lets those go with which nothing will be compared any more.
fn keep(readings: &mut HashMap<String, Reading>, newer: HashMap<String, Reading>, now: Timestamp) {
    readings.extend(newer);
    readings.retain(|_, reading| now.duration_since(reading.taken_at) < MAX_WINDOW);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::pki::Pki;

    #[tokio::test]
    async fn nodes_are_read_only_while_somebody_asks() {
        let folder = tempfile::tempdir().expect("a temp dir");
        let pki = Pki::open(folder.path(), &["localhost".into()]).expect("certificates");
        let nodes = NodeClient::new(&pki.kubelet_client).expect("a client");
        let metrics = ResourceMetrics::new(Store::in_memory(), nodes);
        let pause = Duration::from_millis(2);
        let rhythm = Rhythm { resolution: pause, first_window: pause, interest: Duration::from_millis(50) };
        let metrics = Arc::new(ResourceMetrics { rhythm, ..metrics });
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(metrics.clone().run(shutdown.clone()));
        let mut seen = metrics.usages.subscribe();
        assert!(seen.borrow_and_update().is_none());

        for _ in 0..2 {
            assert_eq!(*metrics.usages().await, Usages::default());
            // It ends by itself, and begins again with the next question.
            let ended = tokio::time::timeout(PATIENCE, seen.wait_for(Option::is_none)).await;
            ended.expect("in time").expect("it runs");
        }
        shutdown.cancel();
        running.await.expect("it ended");
    }
}
