//! Carries out a plan's actions, and holds back for a while what failed.

use std::time::{Duration, Instant};

use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};

use super::Worker;
use crate::agent::{
    backoff::{Backoff, RETRY},
    decide::{Action, Kill, Plan, Resize},
    events::EventKind,
    hooks,
    objects::FRESH,
    runtime::RuntimeError,
    sandbox::sandbox_config,
};

/// The same back-off event is told at most this often.
const BACKOFF_EVENT_EVERY: SignedDuration = SignedDuration::from_secs(10);

/// Why an action did not succeed; the retry comes after the time given, or after a growing delay.
#[derive(Debug)]
pub(super) struct Failed {
    pub retry_in: Option<SignedDuration>,
}

impl From<RuntimeError> for Failed {
    fn from(_: RuntimeError) -> Self {
        Self { retry_in: None }
    }
}

impl Worker {
    pub(super) fn note_held(&mut self, plan: &Plan, now: Timestamp) {
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

    pub(super) fn leave_out_held(&self, plan: &mut Plan, now: Timestamp) {
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

    pub(super) async fn carry_out(&mut self, actions: Vec<Action>) {
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

    pub(super) async fn kill(&self, kill: &Kill, is_first: bool) -> Result<(), Failed> {
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
        self.note_resize_error(&resize.name, &error.message);
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
        let class = self.pod.spec().runtime_class_name.as_deref().unwrap_or_default();
        let handler = self.shared.objects.runtime_handler(class).await;
        let handler = handler.map_err(|error| failed(error.to_string()))?;
        let _permit = self.shared.start_permits.acquire().await.expect("never closed");
        let created = self.shared.runtime.run_sandbox(config, &handler).await;
        let id = created.map_err(|error| failed(error.message))?;
        self.sandbox_ids.push(id);
        Ok(())
    }
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
