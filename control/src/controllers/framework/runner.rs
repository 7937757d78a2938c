//! One runner per controller: takes keys from the queue, asks for a plan, carries it out.

use std::{panic::AssertUnwindSafe, sync::Arc};

use k8s_openapi::jiff::Timestamp;
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Action, ClusterView, Controller, Plan, Recorder, Write,
    hub::{Hub, Inbox},
    plan::Stage,
};
use crate::{
    ApiClient, ApiError,
    store::{Entry, Key, Revision},
};

/// Limits of a runner.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Writes of one plan that are under way at once. High, because concurrent writes share a commit.
    pub writes_at_once: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { writes_at_once: 256 }
    }
}

/// Runs one controller.
pub struct Runner {
    controller: Arc<dyn Controller>,
    client: ApiClient,
    recorder: Recorder,
    inbox: Arc<Inbox>,
    settings: Settings,
    /// What the next look at a key is told of the last one. Held for a line at a time.
    failures: Mutex<HashMap<Key, String>>,
}

/// How carrying out a plan went.
#[derive(Default)]
struct Outcome {
    /// The cache must show this before the key is looked at again.
    written_at: Revision,
    is_failed: bool,
    /// The answer to a write whose failure the plan wanted reported.
    failure: Option<String>,
}

impl Runner {
    /// Registers the controller with the hub, which must not run yet.
    pub fn new(
        hub: &mut Hub,
        controller: Arc<dyn Controller>,
        client: &ApiClient,
        settings: Settings,
    ) -> Self {
        let inbox = hub.subscribe(controller.clone());
        let client = client.acting_as(&format!("system:serviceaccount:kube-system:{}", controller.name()));
        let recorder = Recorder::new(client.clone(), controller.name());
        Self { controller, client, recorder, inbox, settings, failures: Mutex::default() }
    }

    /// Works until `shutdown`. Work under way is cut off, which every plan bears.
    pub async fn run(self, hub: Arc<Hub>, shutdown: CancellationToken) {
        let runner = Arc::new(self);
        let mut jobs = JoinSet::new();
        loop {
            while jobs.len() < runner.controller.concurrency()
                && let Some(key) = runner.inbox.with(|queue| queue.take(Instant::now()))
            {
                let (runner, hub) = (runner.clone(), hub.clone());
                jobs.spawn(async move { runner.look_at(&key, &hub).await });
            }
            let due = runner.inbox.with(|queue| queue.next_due());
            let is_full = jobs.len() >= runner.controller.concurrency();
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(_) = jobs.join_next(), if !jobs.is_empty() => (),
                () = runner.inbox.bell.notified(), if !is_full => (),
                () = sleep_until(due), if !is_full => (),
            }
        }
    }

    async fn look_at(&self, key: &Key, hub: &Hub) {
        let started = Instant::now();
        let plan = self.plan(key, hub);
        self.inbox.with(|queue| queue.decided(key, started.elapsed()));
        let Some(plan) = plan else {
            return self.inbox.with(|queue| queue.failed(key, Instant::now()));
        };
        let again = plan.again;
        let outcome = self.carry_out(plan, hub).await;
        if outcome.written_at > Revision::default() {
            hub.caught_up(outcome.written_at).await;
        }
        {
            let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
            match outcome.failure {
                Some(failure) => drop(failures.insert(key.clone(), failure)),
                None => drop(failures.remove(key)),
            }
        }
        self.inbox.with(|queue| {
            if outcome.is_failed {
                queue.failed(key, Instant::now());
            } else {
                queue.done(key, again, Instant::now());
            }
        });
        self.inbox.bell.notify_one();
    }

    /// Decides under the cache's lock. A reconciler that panics is a bug that must cost only its own key.
    fn plan(&self, key: &Key, hub: &Hub) -> Option<Plan> {
        let last_failure = self.failures.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned();
        let decide = || {
            hub.read(|cache| {
                let view =
                    ClusterView { cache, now: Timestamp::now(), last_failure: last_failure.as_deref() };
                self.controller.reconcile(key, &view)
            })
        };
        std::panic::catch_unwind(AssertUnwindSafe(decide))
            .inspect_err(|_| {
                tracing::error!(
                    controller = self.controller.name(),
                    key = key.as_str(),
                    "reconcile panicked"
                );
            })
            .ok()
    }

    async fn carry_out(&self, plan: Plan, hub: &Hub) -> Outcome {
        let mut outcome = Outcome::default();
        let is_nothing = plan.is_nothing();
        for stage in plan.stages {
            self.carry_out_stage(stage, &mut outcome).await;
            if outcome.is_failed {
                break;
            }
        }
        if !is_nothing {
            // Deletes answer no revision, so wait for whatever the store shows now: it includes our writes.
            outcome.written_at = outcome.written_at.max(hub.store().snapshot().revision());
        }
        outcome
    }

    async fn carry_out_stage(&self, stage: Stage, outcome: &mut Outcome) {
        let mut batch = if stage.slow_start { 1 } else { stage.writes.len() };
        let mut rest = stage.writes;
        while !rest.is_empty() && !outcome.is_failed {
            let later = rest.split_off(batch.min(rest.len()));
            self.write_all(std::mem::replace(&mut rest, later), outcome).await;
            batch = batch.saturating_mul(2);
        }
    }

    /// Carries out `writes` concurrently, each on a task of its own so that all cores serialize and validate.
    async fn write_all(&self, mut writes: Vec<Write>, outcome: &mut Outcome) {
        if let [write] = &writes[..] {
            let result = send(&self.client, &write.action).await;
            return self.account(write, result, outcome);
        }
        writes.reverse(); // Taken from the end, in order.
        let mut jobs = JoinSet::new();
        loop {
            while jobs.len() < self.settings.writes_at_once
                && let Some(write) = writes.pop()
            {
                let client = self.client.clone();
                jobs.spawn(async move {
                    let result = send(&client, &write.action).await;
                    (write, result)
                });
            }
            match jobs.join_next().await {
                Some(Ok((write, result))) => self.account(&write, result, outcome),
                Some(Err(error)) => {
                    tracing::error!(controller = self.controller.name(), %error, "a write panicked");
                    outcome.is_failed = true;
                }
                None => return,
            }
        }
    }

    fn account(&self, write: &Write, result: Result<Option<Arc<Entry>>, ApiError>, outcome: &mut Outcome) {
        match result {
            Ok(written) => {
                if let Some(entry) = &written {
                    outcome.written_at = outcome.written_at.max(entry.revision);
                }
                if let Some(report) = &write.report
                    && let Some(note) = &report.success
                {
                    let name = written.as_ref().map_or("", |entry| entry.key.name());
                    self.recorder.record(&report.about, note, &note.message.replace("{name}", name));
                }
            }
            Err(error) if is_moot(&write.action, &error) => (),
            Err(error) => {
                outcome.is_failed = true;
                self.explain(&write.action, &error);
                if let Some(report) = &write.report
                    && let Some(note) = &report.failure
                {
                    let text = error.to_string();
                    self.recorder.record(&report.about, note, &note.message.replace("{error}", &text));
                    outcome.failure.get_or_insert(text);
                }
            }
        }
    }

    fn explain(&self, action: &Action, error: &ApiError) {
        let controller = self.controller.name();
        match error {
            // Ordinary: somebody else was faster; the next look sees what they did.
            ApiError::Conflict { .. } | ApiError::NotFound { .. } | ApiError::AlreadyExists { .. } => {
                tracing::debug!(controller, %error, "a write came too late");
            }
            _ => {
                tracing::warn!(controller, object = target_of(action), %error, "a write failed; it will be repeated");
            }
        }
    }
}

async fn send(client: &ApiClient, action: &Action) -> Result<Option<Arc<Entry>>, ApiError> {
    match action {
        Action::Create(body) => body.create(client).await.map(Some),
        Action::Update(body) => body.update(client).await.map(Some),
        Action::UpdateStatus(body) => body.update_status(client).await.map(Some),
        Action::Patch { key, subresource, patch } => client
            .patch_resource(key.resource(), key.namespace(), key.name(), subresource, patch.clone())
            .await
            .map(Some),
        Action::Delete { key, options } => client
            .delete_resource(key.resource(), key.namespace(), key.name(), options.clone())
            .await
            .map(|()| None),
        Action::Tell => Ok(None),
        Action::Errand(errand) => {
            errand.run().await;
            Ok(None)
        }
    }
}

/// Whether the failure means that there is nothing left to do: what was to be deleted is gone, or the namespace
/// is going and takes everything with it.
fn is_moot(action: &Action, error: &ApiError) -> bool {
    match (action, error) {
        (Action::Delete { .. }, ApiError::NotFound { .. }) => true,
        (Action::Create(_), ApiError::Refused { message, .. }) => message.contains("is being terminated"),
        (Action::Create(_), ApiError::NotFound { resource, .. }) => resource == "namespaces",
        _ => false,
    }
}

fn target_of(action: &Action) -> &str {
    match action {
        Action::Create(body) | Action::Update(body) | Action::UpdateStatus(body) => body.name(),
        Action::Patch { key, .. } | Action::Delete { key, .. } => key.as_str(),
        Action::Tell | Action::Errand(_) => "",
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
