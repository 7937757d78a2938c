//! One pod's task: takes news, looks, decides, reports, acts, and waits for more news.
//!
//! The task owns all that is known of its pod. Everything it does may be cut off and done again: what counts is the
//! runtime's answer at the next look.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::PodStatus;
use tokio_util::task::AbortOnDropHandle;

use super::{
    backoff::{Backoff, KUBELET, RETRY},
    cluster::ClusterError,
    decide::{Action, Cause, Kill, Memory, Plan, Resize, Start, Termination, Waiting, decide},
    environment::{Environment, Sources},
    events::EventKind,
    field_path::Addresses,
    hooks,
    inbox::{Inbox, News, Packed, Report},
    json_patch,
    objects::{FRESH, RECENT},
    observed::{ContainerRecord, Observed, RunState, Sandbox},
    pod_status::{self, is_on_its_way},
    pod_view::{PodView, ProbeKind, Role},
    prober::Prober,
    resize,
    runtime::RuntimeError,
    sandbox::{ContainerInput, sandbox_config},
    shared::Shared,
    status_writer::Urgency,
    termination_message,
    volumes::{self, MountFailure, VolumePaths, VolumeSources},
};

/// A size that does not fit now may fit when another pod has gone.
const RESIZE_AGAIN_AFTER: SignedDuration = SignedDuration::from_secs(5);
const LOOK_AGAIN_AFTER: SignedDuration = SignedDuration::from_secs(1);
/// Without news for so long, a pod is at rest.
const REST_AFTER: SignedDuration = SignedDuration::from_secs(2);
/// The same back-off event is told at most this often.
const BACKOFF_EVENT_EVERY: SignedDuration = SignedDuration::from_secs(10);

pub struct Worker {
    shared: Arc<Shared>,
    inbox: Arc<Inbox>,
    /// As it is to be run; where the API asks for sizes that it cannot have, that is in `asked`.
    pod: PodView,
    asked: Option<PodView>,
    memory: Memory,
    observed: Arc<Observed>,
    /// The sandboxes to look at.
    sandbox_ids: Vec<String>,
    is_stale: bool,
    /// What the API has been told, or said by itself.
    reported: Option<Arc<PodStatus>>,
    volumes: Option<VolumePaths>,
    /// When they were last made or brought up to date.
    volumes_fresh_at: Option<Instant>,
    probers: HashMap<(String, ProbeKind), AbortOnDropHandle<()>>,
    /// What failed, and when it may be tried again.
    holds: HashMap<String, (Backoff, Timestamp)>,
    /// Containers whose preStop hook has run.
    pre_stopped: HashSet<String>,
    backoff_told: HashMap<String, Timestamp>,
    refresh_wanted: bool,
    has_containers: bool,
    is_gone: bool,
    is_finished: bool,
}

/// What follows a step.
enum Step {
    Again,
    /// For news, or for so long.
    Wait(Option<SignedDuration>),
    Done,
}

/// Why an action did not succeed; the retry comes after the time given, or after a growing delay.
#[derive(Debug)]
struct Failed {
    retry_in: Option<SignedDuration>,
}

impl From<RuntimeError> for Failed {
    fn from(_: RuntimeError) -> Self {
        Self { retry_in: None }
    }
}

impl Worker {
    /// `sandbox_ids` are what the runtime already has of the pod.
    pub fn new(shared: Arc<Shared>, inbox: Arc<Inbox>, pod: PodView, sandbox_ids: Vec<String>) -> Box<Self> {
        let reported = pod.status().cloned().map(Arc::new);
        let memory =
            Memory { start_time: Some(pod.started_at().unwrap_or_else(Timestamp::now)), ..Memory::default() };
        let mut worker = Box::new(Self {
            shared,
            inbox,
            pod: resize::as_reported(&pod),
            asked: None,
            memory,
            observed: Arc::default(),
            is_stale: !sandbox_ids.is_empty(),
            has_containers: !sandbox_ids.is_empty(),
            refresh_wanted: false,
            sandbox_ids,
            reported,
            volumes: None,
            volumes_fresh_at: None,
            probers: HashMap::new(),
            holds: HashMap::new(),
            pre_stopped: HashSet::new(),
            backoff_told: HashMap::new(),
            is_gone: false,
            is_finished: false,
        });
        worker.set_pod(pod);
        worker
    }

    /// Runs until nothing of the pod is left, neither in the API nor here.
    ///
    /// What a step needs is in a box of its own that goes with it, and what is known of a pod at rest is packed: with
    /// thousands of pods, nearly all of them at rest, that is most of the memory of a node.
    pub async fn run(mut self: Box<Self>) {
        Box::pin(self.begin()).await;
        loop {
            match Box::pin(self.step()).await {
                Step::Done => return,
                Step::Again => {}
                Step::Wait(delay) => self.wait(delay).await,
            }
        }
    }

    async fn begin(&mut self) {
        if self.is_stale && self.look().await.is_ok() {
            self.adopt();
        }
        if self.reported.as_ref().is_some_and(|reported| is_final(reported)) {
            self.begin_termination(Cause::Finished, Timestamp::now());
        }
    }

    /// Takes news, looks, decides, reports and acts, once.
    async fn step(&mut self) -> Step {
        self.take_news();
        self.refresh_volumes().await;
        if self.is_stale
            && let Err(error) = self.look().await
        {
            tracing::debug!(pod = self.pod.identity.long_name(), %error, "the runtime cannot be asked now");
            return Step::Wait(Some(LOOK_AGAIN_AFTER));
        }
        let now = Timestamp::now();
        let mut plan = decide(&self.pod, &self.observed, &self.memory, now);
        if let Some(cause) = plan.terminate {
            self.begin_termination(cause, now);
            return Step::Again;
        }
        self.note_held(&plan, now);
        self.update_probes();
        let status = self.status(plan.is_terminated, now);
        if is_final(&status) && self.memory.termination.is_none() {
            self.begin_termination(Cause::Finished, now);
            return Step::Again;
        }
        if plan.is_terminated {
            if self.finish(status).await {
                return Step::Done;
            }
        } else {
            self.report(status);
            self.leave_out_held(&mut plan, now);
            if self.asked.is_some() {
                plan.look_again_in(RESIZE_AGAIN_AFTER);
            }
        }
        if plan.actions.is_empty() {
            return Step::Wait(plan.look_again);
        }
        self.carry_out(plan.actions).await;
        Step::Again
    }

    /// Waits for news, or for so long; packs what is known of the pod when nothing comes for a while.
    async fn wait(&mut self, delay: Option<SignedDuration>) {
        let inbox = self.inbox.clone();
        let (before, after) = match delay {
            Some(delay) if delay <= REST_AFTER => (delay, None),
            _ => (REST_AFTER, Some(delay.map(|delay| delay - REST_AFTER))),
        };
        if inbox.wait(Some(before)).await {
            return;
        }
        let Some(after) = after.filter(|_| self.asked.is_none()) else { return };
        // What cannot be packed stays as it is.
        let packed = Packed::new(&self.pod, self.reported.as_deref()).ok();
        if let Some(packed) = &packed {
            self.pod = PodView::packed(self.pod.identity.clone());
            self.reported = None;
            inbox.pack_report(packed);
        }
        inbox.wait(after).await;
        if let Some(packed) = packed {
            (self.pod, self.reported) = packed.open();
        }
    }

    fn take_news(&mut self) {
        let News { pod, is_gone, dirty_at, probes, refresh_volumes } = self.inbox.take();
        let mut refresh = refresh_volumes;
        if let Some(pod) = pod {
            refresh |= pod.pod().metadata.labels != self.pod.pod().metadata.labels
                || pod.pod().metadata.annotations != self.pod.pod().metadata.annotations;
            if self.set_pod(pod) {
                // It may have been mended: what failed is worth another try now.
                self.holds.clear();
            }
        }
        if let Some(asked) = self.asked.take() {
            self.set_pod(asked);
        }
        self.is_gone |= is_gone;
        self.is_stale |= dirty_at.is_some_and(|at| at == 0 || at > self.observed.timestamp);
        for (id, kind, success) in probes {
            self.memory.probes.entry(id).or_default().set(kind, success);
        }
        self.notice_deletion();
        self.refresh_wanted |= refresh;
    }

    /// Takes over what the API says of the pod, with the sizes that it may have. True where its spec changed.
    fn set_pod(&mut self, asked: PodView) -> bool {
        let workers = &self.shared.workers;
        let used = || workers.requests_beside(&asked.identity.uid);
        let (pod, pending) = resize::admit(asked.clone(), &self.pod, self.shared.allocatable, used);
        let is_changed = pod.spec() != self.pod.spec();
        self.pod = pod;
        self.asked = pending.is_some().then_some(asked);
        self.memory.resize_pending = pending;
        is_changed
    }

    /// ConfigMaps and the like may have changed since they were mounted.
    async fn refresh_volumes(&mut self) {
        let has_text = self.pod.spec().volumes.iter().flatten().any(volumes::is_text);
        let is_mounted = self.volumes.is_some() || self.observed.has_running();
        if std::mem::take(&mut self.refresh_wanted)
            && has_text
            && is_mounted
            && self.memory.termination.is_none()
        {
            // A failure has been told; what is mounted stays as it is.
            let _ = Box::pin(self.set_up_volumes(RECENT)).await;
        }
    }

    /// Deletion begins a termination, or shortens one that runs.
    fn notice_deletion(&mut self) {
        let now = Timestamp::now();
        let cause = match (self.is_gone, self.pod.is_being_deleted()) {
            (true, _) => Cause::Gone,
            (false, true) => Cause::Deleted,
            (false, false) => return,
        };
        let grace_seconds = self.pod.grace_seconds();
        match &mut self.memory.termination {
            Some(termination) => {
                termination.cause = cause;
                if grace_seconds < termination.grace_seconds {
                    (termination.grace_seconds, termination.since) = (grace_seconds, now);
                }
            }
            None => self.begin_termination(cause, now),
        }
        self.inbox.set_grace(self.memory.termination.as_ref().map(|termination| termination.grace_seconds));
    }

    fn begin_termination(&mut self, cause: Cause, now: Timestamp) {
        let grace_seconds = self.pod.grace_seconds();
        if cause == Cause::DeadlineExceeded {
            let message = "Pod was active on the node longer than the specified deadline";
            self.shared.events.pod(&self.pod.identity, EventKind::Normal, "DeadlineExceeded", message);
        }
        self.memory.termination = Some(Termination { cause, since: now, grace_seconds });
        if matches!(cause, Cause::Deleted | Cause::Gone) {
            self.inbox.set_grace(Some(grace_seconds));
        }
        self.holds.clear();
    }

    /// Takes over the probes' verdicts on containers that were running before this agent was.
    fn adopt(&mut self) {
        let Some(status) = self.pod.status() else { return };
        for (name, reported) in pod_status::by_name(status) {
            let Some(record) = self.observed.latest(name).filter(|record| record.is_running()) else {
                continue;
            };
            if reported.container_id.as_deref().is_some_and(|id| id.ends_with(&record.id)) {
                let results = self.memory.probes.entry(record.id.clone()).or_default();
                results.readiness = Some(reported.ready);
                results.startup = reported.started.filter(|started| *started);
            }
        }
    }

    /// Asks the runtime about the pod's sandboxes and containers.
    async fn look(&mut self) -> Result<(), RuntimeError> {
        let mut sandboxes = Vec::new();
        let mut records = Vec::new();
        let mut timestamp = i64::MAX;
        let mut known = std::mem::take(&mut self.sandbox_ids);
        for id in &known {
            let response = match self.shared.runtime.sandbox_status(id).await {
                Ok(response) => response,
                Err(error) if error.is_not_found() => continue,
                Err(error) => {
                    self.sandbox_ids = known;
                    return Err(error);
                }
            };
            let Some(status) = &response.status else { continue };
            sandboxes.push(Sandbox::from_status(status));
            timestamp = timestamp.min(response.timestamp);
            for status in &response.containers_statuses {
                records.push(self.record(status, id).await);
            }
        }
        // A runtime need not tell of containers there; then they are asked for one by one.
        if records.is_empty() && !sandboxes.is_empty() && self.has_containers {
            match self.list_containers().await {
                Ok(listed) => records = listed,
                Err(error) => {
                    self.sandbox_ids = known;
                    return Err(error);
                }
            }
        }
        known.retain(|id| sandboxes.iter().any(|sandbox| sandbox.id == *id));
        self.sandbox_ids = known;
        let timestamp = if timestamp == i64::MAX { 0 } else { timestamp };
        self.observed = Arc::new(Observed::new(sandboxes, records, timestamp));
        self.is_stale = false;
        self.memory.probes.retain(|id, _| self.observed.container(id).is_some());
        self.memory.resized.retain(|id, _| self.observed.container(id).is_some());
        Ok(())
    }

    /// With its last words, if it ended; they are read once.
    async fn record(&self, status: &cri::ContainerStatus, sandbox_id: &str) -> ContainerRecord {
        let mut record = ContainerRecord::from_status(status, sandbox_id);
        if record.state == RunState::Exited {
            let known = self.observed.container(&record.id).filter(|known| known.state == RunState::Exited);
            record.message = match known {
                Some(known) => known.message.clone(),
                None => termination_message::of(status).await,
            };
        }
        record
    }

    async fn list_containers(&self) -> Result<Vec<ContainerRecord>, RuntimeError> {
        let mut records = Vec::new();
        for container in self.shared.runtime.list_containers(Some(&self.pod.identity.uid)).await? {
            match self.shared.runtime.container_status(&container.id).await {
                Ok(status) => records.push(self.record(&status, &container.pod_sandbox_id).await),
                Err(error) if error.is_not_found() => (),
                Err(error) => return Err(error),
            }
        }
        Ok(records)
    }

    fn note_held(&mut self, plan: &Plan, now: Timestamp) {
        for (name, waiting) in &plan.held {
            let is_told =
                self.backoff_told.get(name).is_some_and(|at| now.duration_since(*at) < BACKOFF_EVENT_EVERY);
            if !is_told && let Some((_, role)) = self.pod.container(name) {
                self.backoff_told.insert(name.clone(), now);
                let pod = self.pod.identity.long_name();
                let message = format!("Back-off restarting failed container {name} in pod {pod}");
                self.shared.events.container(
                    &self.pod.identity,
                    (name, role),
                    EventKind::Warning,
                    "BackOff",
                    message,
                );
            }
            self.memory.start_errors.insert(name.clone(), waiting.clone());
        }
    }

    fn leave_out_held(&self, plan: &mut Plan, now: Timestamp) {
        let mut next = None::<SignedDuration>;
        plan.actions.retain(|action| {
            let Some((_, until)) = self.holds.get(&key_of(action)) else { return true };
            let left = until.duration_since(now);
            if left.is_positive() {
                next = Some(next.map_or(left, |earlier| earlier.min(left)));
            }
            !left.is_positive()
        });
        plan.look_again = [plan.look_again, next].into_iter().flatten().min();
    }

    fn status(&self, is_terminated: bool, now: Timestamp) -> PodStatus {
        let nothing = PodStatus::default();
        let old = self.reported.as_deref().unwrap_or(&nothing);
        let facts = &self.shared.facts;
        pod_status::generate(&self.pod, &self.observed, &self.memory, old, facts, is_terminated, now)
    }

    /// Tells the API if there is anything new, and leaves the report for whoever asks this node.
    fn report(&mut self, status: PodStatus) {
        let is_news = !self.reported.as_ref().is_some_and(|old| json_patch::says_the_same(old, &status));
        // What says the same is the same: kept once for all who ask.
        let known = self.reported.as_ref().filter(|_| !is_news).cloned();
        let status = known.unwrap_or_else(|| Arc::new(status));
        self.inbox.set_report(Report {
            pod: self.pod.clone(),
            status: status.clone(),
            observed: self.observed.clone(),
        });
        if is_news && !self.is_gone {
            let urgency = if is_on_its_way(&status) { Urgency::Soon } else { Urgency::Now };
            // What was told of a resize is taken back, even if the API has not answered yet.
            let told = self.reported.as_deref().filter(|told| resize::is_told(told));
            let old = told.or(self.pod.status());
            self.shared.statuses.publish(&self.pod.identity, old, (*status).clone(), urgency);
            self.reported = Some(status);
        }
    }

    /// Nothing runs any more: reports that, cleans up, and ends the deletion. True when the worker is done.
    async fn finish(&mut self, status: PodStatus) -> bool {
        let cause = self.memory.termination.as_ref().map_or(Cause::Finished, |termination| termination.cause);
        if cause == Cause::Gone {
            self.probers.clear();
            return self.clean_up().await;
        }
        if cause != Cause::Deleted {
            self.report(status);
            self.remove_volumes().await;
            return false;
        }
        if self.is_finished {
            return false; // All that is left is to hear that it is gone.
        }
        let status = Arc::new(status);
        self.inbox.set_report(Report {
            pod: self.pod.clone(),
            status: status.clone(),
            observed: self.observed.clone(),
        });
        let writer = self.shared.statuses.clone();
        let told = writer.publish_and_wait(&self.pod.identity, self.pod.status(), (*status).clone()).await;
        self.reported = Some(status);
        self.remove_volumes().await;
        if !told {
            tracing::debug!(pod = self.pod.identity.long_name(), "the last status found nobody to take it");
        }
        match self.shared.cluster.finish_pod_deletion(&self.pod.identity).await {
            Ok(()) | Err(ClusterError::NotFound(_) | ClusterError::Conflict(_)) => self.is_finished = true,
            Err(error) => {
                tracing::warn!(pod = self.pod.identity.long_name(), %error, "deletion could not be finished yet");
                tokio::time::sleep(Duration::from_secs(1)).await;
                self.inbox.nudge();
            }
        }
        false
    }

    async fn remove_volumes(&mut self) {
        self.volumes = None;
        for volumes in self.shared.directories.volumes(&self.pod.identity.uid) {
            remove(&volumes).await;
        }
    }

    /// Removes what is left on this node; false if the runtime has to be asked again.
    async fn clean_up(&mut self) -> bool {
        for sandbox in &self.observed.sandboxes {
            if let Err(error) = self.shared.runtime.remove_sandbox(&sandbox.id).await {
                tracing::warn!(pod = self.pod.identity.long_name(), %error, "sandbox could not be removed yet");
                tokio::time::sleep(Duration::from_secs(1)).await;
                self.is_stale = true;
                self.inbox.nudge();
                return false;
            }
        }
        for home in self.shared.directories.homes() {
            remove(&home.join(&self.pod.identity.uid)).await;
        }
        let logs = self.shared.directories.pod_logs(&self.pod.identity);
        let _ = tokio::fs::remove_dir_all(&logs).await; // Absent when nothing ever ran.
        true
    }

    async fn carry_out(&mut self, actions: Vec<Action>) {
        self.is_stale = true;
        let inbox = self.inbox.clone();
        // Boxed: a pod at rest should not carry the room for the busiest moment of its life.
        let work = Box::pin(self.act(actions));
        tokio::select! {
            () = work => (),
            () = inbox.interrupted() => (),
        }
    }

    async fn act(&mut self, actions: Vec<Action>) {
        let (kills, others): (Vec<_>, Vec<_>) =
            actions.into_iter().partition(|action| matches!(action, Action::KillContainer(_)));
        self.kill_all(kills).await;
        for action in others {
            let key = key_of(&action);
            let result = match action {
                Action::CreateSandbox { attempt } => self.create_sandbox(attempt).await,
                Action::StopSandbox { id } => {
                    self.shared.runtime.stop_sandbox(&id).await.map_err(Failed::from)
                }
                Action::RemoveSandbox { id } => {
                    self.shared.runtime.remove_sandbox(&id).await.map_err(Failed::from)
                }
                Action::RemoveContainer { id } => self.remove_container(&id).await,
                Action::StartContainer(start) => self.start_container(&start).await,
                Action::ResizeContainer(resize) => self.resize_container(&resize).await,
                Action::KillContainer(_) => Ok(()),
            };
            self.note_result(key, result);
        }
    }

    fn note_result(&mut self, key: String, result: Result<(), Failed>) {
        match result {
            Ok(()) => drop(self.holds.remove(&key)),
            Err(Failed { retry_in }) => {
                let now = Timestamp::now();
                let backoff = Backoff::next(self.holds.get(&key).map(|hold| hold.0), RETRY, now, now);
                let until = now + retry_in.unwrap_or(backoff.delay.min(SignedDuration::from_secs(10)));
                self.holds.insert(key, (backoff, until));
            }
        }
    }

    async fn kill_all(&mut self, kills: Vec<Action>) {
        let kills: Vec<_> = kills
            .into_iter()
            .filter_map(|action| match action {
                Action::KillContainer(kill) => Some(kill),
                _ => None,
            })
            .collect();
        let firsts: Vec<_> = kills.iter().map(|kill| self.pre_stopped.insert(kill.id.clone())).collect();
        let worker = &*self;
        let killing = kills.iter().zip(firsts).map(|(kill, is_first)| worker.kill(kill, is_first));
        let results = join_all(killing).await;
        for (kill, result) in kills.into_iter().zip(results) {
            self.note_result(kill.id, result);
        }
    }

    async fn kill(&self, kill: &Kill, is_first: bool) -> Result<(), Failed> {
        let started = Instant::now();
        if is_first && let Some((container, role)) = self.pod.container(&kill.name) {
            let target = (kill.name.as_str(), role);
            let events = &self.shared.events;
            events.container(&self.pod.identity, target, EventKind::Normal, "Killing", kill.message.clone());
            let hook = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
            if let Some(hook) = hook.filter(|_| kill.grace_seconds > 0) {
                let ip = self.pod_ip();
                let run = hooks::run(hook, container, &kill.id, &ip, &*self.shared.runtime);
                let limit = Duration::from_secs(kill.grace_seconds as u64);
                let result = tokio::time::timeout(limit, run).await;
                if let Ok(Err(reason)) = result {
                    let message = format!("PreStopHook failed: {reason}");
                    events.container(
                        &self.pod.identity,
                        target,
                        EventKind::Warning,
                        "FailedPreStopHook",
                        message,
                    );
                }
            }
        }
        let left = (kill.grace_seconds - started.elapsed().as_secs() as i64).max(kill.grace_seconds.min(2));
        Ok(self.shared.runtime.stop_container(&kill.id, left).await?)
    }

    async fn remove_container(&mut self, id: &str) -> Result<(), Failed> {
        self.shared.runtime.remove_container(id).await?;
        if let Some(record) = self.observed.container(id)
            && !record.log_path.is_empty()
        {
            let path = self.shared.directories.pod_logs(&self.pod.identity).join(&record.log_path);
            let _ = tokio::fs::remove_file(path).await; // It may never have written anything.
            let (uid, name, count) = (&self.pod.identity.uid, &record.name, record.restart_count);
            let message = self.shared.directories.termination_message(uid, name, count);
            let _ = tokio::fs::remove_file(message).await;
        }
        Ok(())
    }

    async fn resize_container(&mut self, resize: &Resize) -> Result<(), Failed> {
        let result = self.shared.runtime.update_resources(&resize.id, resize.size.to_cri()).await;
        let Err(error) = result else {
            self.memory.resize_errors.remove(&resize.name);
            self.memory.resized.insert(resize.id.clone(), resize.size);
            return Ok(());
        };
        let known = self.memory.resize_errors.insert(resize.name.clone(), error.message.clone());
        if known.as_ref() != Some(&error.message)
            && let Some((_, role)) = self.pod.container(&resize.name)
        {
            let target = (resize.name.as_str(), role);
            let events = &self.shared.events;
            events.container(&self.pod.identity, target, EventKind::Warning, "ResizeError", error.message);
        }
        Err(Failed { retry_in: None })
    }

    async fn create_sandbox(&mut self, attempt: u32) -> Result<(), Failed> {
        self.set_up_volumes(FRESH).await?;
        let logs = self.shared.directories.pod_logs(&self.pod.identity);
        let failed = |reason: String| {
            let message = format!("Failed to create pod sandbox: {reason}");
            self.shared.events.pod(&self.pod.identity, EventKind::Warning, "FailedCreatePodSandBox", message);
            Failed { retry_in: None }
        };
        let config = sandbox_config(&self.pod, attempt, &logs, &self.shared.cluster_domain);
        let handler = self.pod.spec().runtime_class_name.clone().unwrap_or_default();
        let _permit = self.shared.start_permits.acquire().await.expect("never closed");
        let created = self.shared.runtime.run_sandbox(config, &handler).await;
        let id = created.map_err(|error| failed(error.message))?;
        self.sandbox_ids.push(id);
        Ok(())
    }

    async fn set_up_volumes(&mut self, max_age: Duration) -> Result<(), Failed> {
        let addresses = self.addresses();
        let sources = VolumeSources {
            pod: &self.pod,
            objects: &self.shared.objects,
            directories: &self.shared.directories,
            addresses: &addresses,
            allocatable: self.shared.allocatable,
            max_age,
        };
        match sources.set_up().await {
            Ok(paths) => {
                self.volumes = Some(paths);
                self.volumes_fresh_at = Some(Instant::now());
                Ok(())
            }
            Err(failures) => {
                for message in failures.iter().map(MountFailure::message) {
                    self.shared.events.pod(&self.pod.identity, EventKind::Warning, "FailedMount", message);
                }
                Err(Failed { retry_in: None })
            }
        }
    }

    async fn start_container(&mut self, start: &Start) -> Result<(), Failed> {
        let Some((container, role)) = self.pod.container(&start.name) else { return Ok(()) };
        let container = container.clone();
        let image_ref = match self.shared.puller.ensure(&self.pod, &container, role).await {
            Ok(image_ref) => image_ref,
            Err(missing) => {
                self.memory.start_errors.insert(start.name.clone(), missing.waiting);
                return Err(Failed { retry_in: Some(missing.retry_in) });
            }
        };
        // Volumes change while a pod runs only by refreshing; after an agent's restart they must be found again.
        let is_fresh = self.volumes_fresh_at.is_some_and(|at| at.elapsed() <= FRESH);
        let has_mounts = container.volume_mounts.as_ref().is_some_and(|mounts| !mounts.is_empty());
        if self.volumes.is_none() || (has_mounts && !is_fresh) {
            self.set_up_volumes(FRESH).await?;
        }
        let input = self.container_input(start, image_ref, &container).await;
        let config =
            input.map_err(|reason| self.start_failed(start, role, "CreateContainerConfigError", &reason))?;
        if let Some(failed_at) = start.failed_at {
            let previous = self.memory.backoff.get(&start.name).copied();
            let next = Backoff::next(previous, KUBELET, failed_at, Timestamp::now());
            self.memory.backoff.insert(start.name.clone(), next);
        }
        let id = self.create_and_start(start, role, config).await?;
        self.memory.start_errors.remove(&start.name);
        let hook = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref());
        let Some(hook) = hook else { return Ok(()) };
        let ip = self.pod_ip();
        let result = hooks::run(hook, &container, &id, &ip, &*self.shared.runtime).await;
        let Err(reason) = result else { return Ok(()) };
        let message = format!("PostStartHook failed: {reason}");
        let target = (start.name.as_str(), role);
        self.shared.events.container(
            &self.pod.identity,
            target,
            EventKind::Warning,
            "FailedPostStartHook",
            message.clone(),
        );
        let kill = Kill {
            id,
            name: start.name.clone(),
            message: "FailedPostStartHook".into(),
            grace_seconds: self.pod.grace_seconds(),
        };
        let _ = self.kill(&kill, true).await; // A container that is still there is seen at the next look.
        Err(self.start_failed(start, role, "PostStartHookError", &message))
    }

    async fn create_and_start(
        &mut self,
        start: &Start,
        role: Role,
        config: cri::ContainerConfig,
    ) -> Result<String, Failed> {
        let shared = self.shared.clone();
        let _permit = shared.start_permits.acquire().await.expect("never closed");
        let attempt = self.observed.ready_sandbox().map_or(0, |sandbox| sandbox.attempt);
        let logs = shared.directories.pod_logs(&self.pod.identity);
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: start.sandbox_id.clone(),
            config: Some(config),
            sandbox_config: Some(sandbox_config(&self.pod, attempt, &logs, &shared.cluster_domain)),
        };
        let told = |reason, message: String| {
            shared.events.container(
                &self.pod.identity,
                (&start.name, role),
                EventKind::Normal,
                reason,
                message,
            );
        };
        self.has_containers = true;
        let created = shared.runtime.create_container(request).await;
        let id = match created {
            Ok(id) => id,
            Err(error) => return Err(self.start_failed(start, role, "CreateContainerError", &error.message)),
        };
        told("Created", format!("Created container: {}", start.name));
        if let Err(error) = shared.runtime.start_container(&id).await {
            return Err(self.start_failed(start, role, "RunContainerError", &error.message));
        }
        told("Started", format!("Started container {}", start.name));
        Ok(id)
    }

    /// Leaves the reason for the status and tells it in an event.
    fn start_failed(&mut self, start: &Start, role: Role, reason: &str, message: &str) -> Failed {
        let waiting = Waiting { reason: reason.into(), message: message.into() };
        self.memory.start_errors.insert(start.name.clone(), waiting);
        let target = (start.name.as_str(), role);
        let message = format!("Error: {message}");
        self.shared.events.container(&self.pod.identity, target, EventKind::Warning, "Failed", message);
        Failed { retry_in: None }
    }

    async fn container_input(
        &self,
        start: &Start,
        image_ref: String,
        container: &k8s_openapi::api::core::v1::Container,
    ) -> Result<cri::ContainerConfig, String> {
        self.shared.services.wait_synced().await;
        let with_links = self.pod.spec().enable_service_links.unwrap_or(true);
        let services = self.shared.services.environment(&self.pod.identity.namespace, with_links);
        let addresses = self.addresses();
        let sources = Sources {
            pod: &self.pod,
            objects: &self.shared.objects,
            services: &services,
            addresses: &addresses,
            allocatable: self.shared.allocatable,
        };
        let environment: Environment = sources.environment(container).await?;
        if !environment.skipped.is_empty() {
            let message = format!(
                "Keys [{}] from the EnvFrom sources were skipped since they are considered invalid environment variable names.",
                environment.skipped.join(", ")
            );
            self.shared.events.pod(
                &self.pod.identity,
                EventKind::Warning,
                "InvalidEnvironmentVariableNames",
                message,
            );
        }
        let paths = self.volumes.clone().unwrap_or_default();
        let restart_count = start.restart_count;
        let mut mounts = volumes::mounts(&self.pod, container, &paths, &environment)?;
        let uid = &self.pod.identity.uid;
        let message = self.shared.directories.termination_message(uid, &container.name, restart_count);
        mounts.push(termination_message::mount(container, &message));
        let environment = &environment;
        Ok(ContainerInput { pod: &self.pod, container, restart_count, image_ref, environment, mounts }
            .config())
    }

    fn addresses(&self) -> Addresses {
        let host_ips = self.shared.facts.host_ips.clone();
        let sandbox_ips =
            self.observed.ready_sandbox().map(|sandbox| sandbox.ips.clone()).unwrap_or_default();
        let pod_ips = if self.pod.is_host_network() { host_ips.clone() } else { sandbox_ips };
        Addresses { pod_ips, host_ips }
    }

    fn pod_ip(&self) -> String {
        self.addresses().pod_ips.into_iter().next().unwrap_or_default()
    }

    /// Starts probes that are due, and ends those whose container is gone or which have had their say.
    fn update_probes(&mut self) {
        let is_terminating = self.memory.termination.is_some();
        let mut wanted = Vec::new();
        for (container, role) in self.pod.all_containers().filter(|(_, role)| *role != Role::Init) {
            let Some(record) = self.observed.latest(&container.name).filter(|record| record.is_running())
            else {
                continue;
            };
            let results = self.memory.probes.get(&record.id).copied().unwrap_or_default();
            let is_starting = container.startup_probe.is_some() && results.startup != Some(true);
            for kind in ProbeKind::ALL {
                let is_its_turn = (kind == ProbeKind::Startup) == is_starting;
                let is_allowed = !is_terminating || kind == ProbeKind::Readiness;
                let has_failed = (kind == ProbeKind::Liveness && results.liveness == Some(false))
                    || (kind == ProbeKind::Startup && results.startup == Some(false));
                if kind.of(container).is_some() && is_its_turn && is_allowed && !has_failed {
                    wanted.push((container, role, record, kind));
                }
            }
        }
        let keys: HashSet<_> = wanted.iter().map(|(_, _, record, kind)| (record.id.clone(), *kind)).collect();
        self.probers.retain(|key, _| keys.contains(key));
        for (container, role, record, kind) in wanted {
            let key = (record.id.clone(), kind);
            if self.probers.contains_key(&key) {
                continue;
            }
            let known = match kind {
                ProbeKind::Readiness => {
                    self.memory.probes.get(&record.id).and_then(|results| results.readiness)
                }
                _ => None,
            };
            let prober = Prober {
                pod: self.pod.identity.clone(),
                pod_ip: self.pod_ip(),
                container: container.clone(),
                role,
                container_id: record.id.clone(),
                started_at: record.started().unwrap_or_else(Timestamp::now),
                kind,
                known,
                runtime: self.shared.runtime.clone(),
                events: self.shared.events.clone(),
            };
            let inbox = self.inbox.clone();
            let report = move |id: &str, kind, success| inbox.push_probe(id, kind, success);
            self.probers.insert(key, AbortOnDropHandle::new(tokio::spawn(prober.run(report))));
        }
    }
}

/// Removes a directory that may have gone already.
async fn remove(directory: &Path) {
    if let Err(error) = tokio::fs::remove_dir_all(directory).await
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(directory = %directory.display(), %error, "a pod's files could not be removed");
    }
}

/// Nothing of such a pod will ever run again.
fn is_final(status: &PodStatus) -> bool {
    matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
}

/// What is held back when an action fails: the container, the sandbox to make, or the thing with that id.
fn key_of(action: &Action) -> String {
    match action {
        Action::CreateSandbox { .. } => String::new(),
        Action::StartContainer(start) => start.name.clone(),
        Action::KillContainer(kill) => kill.id.clone(),
        Action::StopSandbox { id } | Action::RemoveSandbox { id } | Action::RemoveContainer { id } => {
            id.clone()
        }
        Action::ResizeContainer(resize) => resize.id.clone(),
    }
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
