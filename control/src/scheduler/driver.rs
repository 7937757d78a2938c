//! The loop around the core: follows the watches, lets the core decide, and carries the decisions out.
//!
//! The loop never waits for a write. Binds run beside it, a bounded number at a time, and report back.

use std::{collections::HashMap, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{Node, Pod};
use naru_model::PodBrief;
use tokio::{
    task::{self, JoinError, JoinSet},
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use super::{
    BindFailure, Cluster, PodInfo,
    core::{BindResult, Core, Decision},
    plugins::default_profile,
    report::{Report, Reporter},
};
use crate::store::{Event, EventKind, Lagged, Scope, Watch};

/// How many binds may be under way.
const BINDS_AT_ONCE: usize = 512;
/// How many decisions are taken before others get the thread.
const DECISIONS_AT_ONCE: usize = 64;
const RETRY_OLD_EVERY: Duration = Duration::from_secs(30);
/// How long the end waits for binds and reports under way.
const DRAIN: Duration = Duration::from_secs(2);

/// What came of the task of a bind.
type Joined = Result<(task::Id, Result<(), BindFailure>), JoinError>;

struct Driver<C> {
    cluster: Arc<C>,
    core: Core,
    started: Instant,
    binds: JoinSet<Result<(), BindFailure>>,
    /// What each bind under way is about.
    binding: HashMap<task::Id, (Arc<PodInfo>, Arc<str>)>,
    reporter: Reporter,
}

/// Schedules pods until `shutdown`.
pub(super) async fn run<C: Cluster>(cluster: Arc<C>, seed: u64, shutdown: CancellationToken) {
    let (reporter, reports) = Reporter::spawn(cluster.clone());
    let core = Core::new(default_profile(), seed);
    let mut driver = Driver {
        cluster,
        core,
        started: Instant::now(),
        binds: JoinSet::new(),
        binding: HashMap::new(),
        reporter,
    };
    while !shutdown.is_cancelled() {
        if let Err(Lagged) = driver.follow(&shutdown).await {
            tracing::warn!("the scheduler fell behind the watch history and lists again");
        }
    }
    let drain = async {
        while driver.binds.join_next().await.is_some() {}
        drop(driver);
        reports.await
    };
    if tokio::time::timeout(DRAIN, drain).await.is_err() {
        tracing::warn!("the scheduler ended with writes under way");
    }
}

impl<C: Cluster> Driver<C> {
    /// Lists, then follows the watches until they lag or the scheduler is to end.
    async fn follow(&mut self, shutdown: &CancellationToken) -> Result<(), Lagged> {
        let store = self.cluster.store().clone();
        let snapshot = store.snapshot();
        let watch = |resource| store.watch(Scope::all(resource), snapshot.revision()).map_err(|_| Lagged);
        let (mut nodes, mut pods) = (watch("nodes")?, watch("pods")?);
        let (node_list, pod_list) =
            (snapshot.list::<Node>(&Scope::all("nodes")), snapshot.list::<Pod>(&Scope::all("pods")));
        drop(snapshot);
        self.core.resync(node_list, &pod_list, self.now());
        let mut old = tokio::time::interval(RETRY_OLD_EVERY);
        old.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !shutdown.is_cancelled() {
            self.take_in(&mut nodes, &mut pods)?;
            if self.decide() {
                tokio::task::yield_now().await;
                continue;
            }
            let next_change = self.core.next_change().map(|moment| self.started + moment);
            let backoff_ends = async {
                match next_change {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => (),
                event = nodes.next() => {
                    let event = event?;
                    self.node_event(&event);
                }
                event = pods.next() => {
                    let event = event?;
                    self.pod_event(&event);
                }
                Some(joined) = self.binds.join_next_with_id() => self.bound(joined),
                () = backoff_ends => (),
                _ = old.tick() => self.core.retry_old(self.now()),
            }
        }
        Ok(())
    }

    /// Takes in everything that has happened so far.
    fn take_in(&mut self, nodes: &mut Watch, pods: &mut Watch) -> Result<(), Lagged> {
        while let Some(event) = nodes.try_next()? {
            self.node_event(&event);
        }
        while let Some(event) = pods.try_next()? {
            self.pod_event(&event);
        }
        while let Some(joined) = self.binds.try_join_next_with_id() {
            self.bound(joined);
        }
        Ok(())
    }

    /// Decides about some pods; answers whether there may be more to decide at once.
    fn decide(&mut self) -> bool {
        for _ in 0..DECISIONS_AT_ONCE {
            if self.binds.len() >= BINDS_AT_ONCE {
                return false;
            }
            match self.core.next(self.now()) {
                None => return false,
                Some(Decision::Bind { pod, node }) => self.bind(pod, node),
                Some(Decision::Unschedulable { pod, message }) => {
                    self.reporter.send(Report::Unschedulable { pod, message });
                }
            }
        }
        true
    }

    fn bind(&mut self, pod: Arc<PodInfo>, node: Arc<str>) {
        let cluster = self.cluster.clone();
        let about = (pod.clone(), node.clone());
        let task = self.binds.spawn(async move { cluster.bind(&pod, &node).await });
        self.binding.insert(task.id(), about);
    }

    fn bound(&mut self, joined: Joined) {
        let (id, result) =
            joined.unwrap_or_else(|panic| (panic.id(), Err(BindFailure::Unknown(panic.to_string()))));
        let Some((pod, node)) = self.binding.remove(&id) else { return };
        let outcome = match &result {
            Ok(()) => BindResult::Done,
            Err(BindFailure::Unknown(_)) => BindResult::Unknown,
            Err(BindFailure::Refused(_)) => BindResult::Failed,
        };
        let now = self.now();
        self.core.bound(&pod, &node, outcome, now);
        match result {
            Ok(()) => self.reporter.send(Report::Scheduled { pod, node }),
            Err(BindFailure::Unknown(error) | BindFailure::Refused(error)) => {
                tracing::debug!(pod = &*pod.key, node = &*node, error, "the bind failed");
                // The pod of this key may be gone or another by now, and nobody to be told.
                if self.core.is_waiting(&pod.key) {
                    let message = format!("binding rejected: {error}");
                    self.reporter.send(Report::BindFailed { pod, message });
                }
            }
        }
    }

    fn node_event(&mut self, event: &Event) {
        let name = &event.entry.meta.name;
        if event.kind == EventKind::Deleted {
            return self.core.node_removed(name);
        }
        match event.entry.typed::<Node>() {
            Ok(node) => self.core.node_added_or_changed(node),
            Err(error) => tracing::warn!(node = name, %error, "a node does not decode"),
        }
    }

    fn pod_event(&mut self, event: &Event) {
        let meta = &event.entry.meta;
        if event.kind == EventKind::Deleted {
            return self.core.pod_removed(&format!("{}/{}", meta.namespace, meta.name));
        }
        if event.entry.brief::<PodBrief>().is_ok_and(|brief| self.core.take_known(meta, &brief)) {
            return;
        }
        match event.entry.typed::<Pod>() {
            Ok(pod) => self.core.pod_added_or_changed(&pod, self.now()),
            Err(error) => {
                tracing::warn!(pod = event.entry.key.as_str(), %error, "a pod does not decode");
            }
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}

#[cfg(test)]
mod tests;
