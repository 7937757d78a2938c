//! One pod's task: takes news, looks, decides, reports, acts, and waits for more news.
//!
//! The task owns all that is known of its pod. Everything it does may be cut off and done again: what counts is the
//! runtime's answer at the next look.

mod actions; // Carries out what was decided.
mod observation; // Asks the runtime.
mod probes; // Starts and ends them.
mod report; // Status, and the end of the pod.
mod resizing; // Tells of sizes that change.
mod start; // Starts a container.
mod volumes; // Makes them, and brings them up to date.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, PoisonError},
    time::Instant,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::PodStatus;
use tokio_util::task::AbortOnDropHandle;

use super::{
    backoff::Backoff,
    decide::{Cause, Memory, Termination, decide},
    events::EventKind,
    field_path::Addresses,
    inbox::{Inbox, News, Packed},
    observed::Observed,
    pod_view::{PodView, ProbeKind},
    resize,
    shared::Shared,
    volumes::VolumePaths,
};

/// A size that does not fit now may fit when another pod has gone.
const RESIZE_AGAIN_AFTER: SignedDuration = SignedDuration::from_secs(5);
const LOOK_AGAIN_AFTER: SignedDuration = SignedDuration::from_secs(1);
/// Without news for so long, a pod is at rest.
const REST_AFTER: SignedDuration = SignedDuration::from_secs(2);

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
    resize_told: resize::Told,
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

impl Worker {
    /// `sandbox_ids` are what the runtime already has of the pod.
    pub fn new(shared: Arc<Shared>, inbox: Arc<Inbox>, pod: PodView, sandbox_ids: Vec<String>) -> Box<Self> {
        let reported = pod.status().cloned().map(Arc::new);
        let resize_told = resize::Told::by(pod.status());
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
            resize_told,
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
        self.note_resized();
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
            // What is asked for and cannot be given is looked at again soon: that is no rest.
            Some(delay) if delay <= REST_AFTER || self.asked.is_some() => (delay, None),
            _ => (REST_AFTER, Some(delay.map(|delay| delay - REST_AFTER))),
        };
        if inbox.wait(Some(before)).await {
            return;
        }
        let Some(after) = after else { return };
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
        } else if let Some(asked) = self.asked.take() {
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
        let shared = self.shared.clone();
        let is_resize = !resize::has_same_sizes(&asked, &self.pod);
        let turn = is_resize.then(|| shared.resizing.lock().unwrap_or_else(PoisonError::into_inner));
        let used = || shared.workers.requests_beside(&asked.identity.uid);
        let (pod, pending) = resize::admit(asked.clone(), &self.pod, shared.allocatable, used);
        if is_resize && pending.is_none() {
            self.inbox.set_agreed(&pod);
        }
        drop(turn);
        let is_changed = pod.spec() != self.pod.spec();
        self.note_resize(&asked, &pod, pending.as_ref());
        self.pod = pod;
        self.asked = pending.is_some().then_some(asked);
        self.memory.resize_pending = pending;
        is_changed
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
}

/// Nothing of such a pod will ever run again.
fn is_final(status: &PodStatus) -> bool {
    matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
}

#[cfg(test)]
mod tests;
