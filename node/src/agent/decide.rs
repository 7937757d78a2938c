//! The decision: what should happen to a pod next, given its spec, what the runtime says, and the time.
//!
//! Pure: the same inputs always give the same plan. The order of actions is the order to carry them out in; whoever
//! does so looks again afterwards, so a plan never needs to see further than one step.

use std::collections::{BTreeMap, HashMap, HashSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Container;

use super::{
    backoff::{Backoff, KUBELET},
    observed::{ContainerRecord, Observed, RunState, Sandbox},
    pod_view::{PodView, ProbeKind, RestartPolicy, Role, definition_hash, init_role},
    resize::{Pending, Size},
};

/// What is known of a pod beside its spec and the runtime: lost with the agent, and not missed.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// By container name.
    pub backoff: HashMap<String, Backoff>,
    /// Why a container is not running, by name; shown as its waiting reason.
    pub start_errors: BTreeMap<String, Waiting>,
    /// By container id.
    pub probes: HashMap<String, ProbeResults>,
    /// Why the pod has not the sizes that it asks for.
    pub resize_pending: Option<Pending>,
    /// What the runtime says against a size, by container name.
    pub resize_errors: BTreeMap<String, String>,
    /// The sizes that the runtime was given for containers by id, and took.
    pub resized: HashMap<String, Size>,
    /// When the agent first saw the pod.
    pub start_time: Option<Timestamp>,
    pub termination: Option<Termination>,
}

/// Why a container waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub reason: String,
    pub message: String,
}

/// The last answer of each probe that counted; `None` before the first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProbeResults {
    pub startup: Option<bool>,
    pub liveness: Option<bool>,
    pub readiness: Option<bool>,
}

impl ProbeResults {
    pub fn set(&mut self, kind: ProbeKind, success: bool) {
        match kind {
            ProbeKind::Startup => self.startup = Some(success),
            ProbeKind::Liveness => self.liveness = Some(success),
            ProbeKind::Readiness => self.readiness = Some(success),
        }
    }
}

/// The pod is on its way out; there is no way back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Termination {
    pub cause: Cause,
    pub since: Timestamp,
    pub grace_seconds: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Somebody deleted it: report, then remove it from the API.
    Deleted,
    /// It is no longer in the API: nobody to report to.
    Gone,
    /// Its containers have done their work.
    Finished,
    /// `activeDeadlineSeconds` is over.
    DeadlineExceeded,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    CreateSandbox {
        attempt: u32,
    },
    StopSandbox {
        id: String,
    },
    RemoveSandbox {
        id: String,
    },
    StartContainer(Start),
    /// Consecutive ones happen at the same time.
    KillContainer(Kill),
    RemoveContainer {
        id: String,
    },
    ResizeContainer(Resize),
}

/// Another size for a container that runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Resize {
    pub id: String,
    pub name: String,
    pub size: Size,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Start {
    pub name: String,
    pub sandbox_id: String,
    pub restart_count: u32,
    /// When the run before this one ended: what its back-off counts from.
    pub failed_at: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Kill {
    pub id: String,
    pub name: String,
    /// For the event.
    pub message: String,
    pub grace_seconds: i64,
}

/// What to do now, and when to look again without being told to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    pub actions: Vec<Action>,
    /// Containers that must wait out their back-off.
    pub held: Vec<(String, Waiting)>,
    pub look_again: Option<SignedDuration>,
    /// Start terminating, for this cause.
    pub terminate: Option<Cause>,
    /// Terminating, and nothing is left running.
    pub is_terminated: bool,
}

impl Plan {
    pub fn look_again_in(&mut self, delay: SignedDuration) {
        self.look_again = Some(self.look_again.map_or(delay, |earlier| earlier.min(delay)));
    }
}

/// The least that a container gets to end when the pod's grace period is used up.
const MINIMUM_GRACE_SECONDS: i64 = 2;

pub fn decide(pod: &PodView, observed: &Observed, memory: &Memory, now: Timestamp) -> Plan {
    if let Some(termination) = &memory.termination {
        return terminate(pod, observed, termination, now);
    }
    let mut plan = Plan::default();
    if is_past_deadline(pod, memory, now, &mut plan) {
        plan.terminate = Some(Cause::DeadlineExceeded);
        return plan;
    }
    match observed.ready_sandbox() {
        None => replace_sandbox(pod, observed, &mut plan),
        Some(sandbox) => {
            let mut step = Step { pod, observed, memory, sandbox, now, plan: &mut plan };
            step.run();
            prune(observed, &mut plan);
        }
    }
    plan
}

fn is_past_deadline(pod: &PodView, memory: &Memory, now: Timestamp, plan: &mut Plan) -> bool {
    let Some(seconds) = pod.spec().active_deadline_seconds else { return false };
    let Some(start) = memory.start_time else { return false };
    let left = SignedDuration::from_secs(seconds) - now.duration_since(start);
    if left.is_positive() {
        plan.look_again_in(left);
    }
    !left.is_positive()
}

/// There is no usable sandbox: make one if any container still has to run.
fn replace_sandbox(pod: &PodView, observed: &Observed, plan: &mut Plan) {
    let newest = observed.sandboxes.first();
    let attempt = newest.map_or(0, |sandbox| sandbox.attempt + 1);
    for record in observed.containers.iter().filter(|record| record.is_running()) {
        plan.actions.push(kill(record, format!("Stopping container {}", record.name), pod.grace_seconds()));
    }
    let has_run = attempt != 0 && !observed.containers.is_empty();
    if has_run && pod.restart_policy() == RestartPolicy::Never {
        plan.terminate = Some(Cause::Finished);
        return;
    }
    let must_run = |container: &Container| match observed.latest(&container.name) {
        Some(record) if record.state == RunState::Exited => {
            pod.restart_policy_of(container).restarts_after(record.exit_code)
        }
        _ => true,
    };
    if !pod.containers().iter().any(must_run) {
        plan.terminate = Some(Cause::Finished);
        return;
    }
    if let Some(dead) = newest {
        plan.actions.push(Action::StopSandbox { id: dead.id.clone() });
    }
    plan.actions.push(Action::CreateSandbox { attempt });
}

fn kill(record: &ContainerRecord, message: String, grace_seconds: i64) -> Action {
    Action::KillContainer(Kill { id: record.id.clone(), name: record.name.clone(), message, grace_seconds })
}

enum InitProgress {
    Done,
    Waiting,
    Failed,
}

/// One decision over a pod with a usable sandbox.
struct Step<'a> {
    pod: &'a PodView,
    observed: &'a Observed,
    memory: &'a Memory,
    sandbox: &'a Sandbox,
    now: Timestamp,
    plan: &'a mut Plan,
}

impl Step<'_> {
    fn run(&mut self) {
        match self.init_containers() {
            InitProgress::Waiting => (),
            InitProgress::Failed => self.plan.terminate = Some(Cause::Finished),
            InitProgress::Done => {
                if !self.main_containers() {
                    self.plan.terminate = Some(Cause::Finished);
                }
            }
        }
        if self.plan.terminate.is_none() {
            self.ephemeral_containers();
        }
    }

    /// The run of a container in the present sandbox: earlier sandboxes' runs count for restarts only.
    fn current(&self, name: &str) -> Option<&ContainerRecord> {
        self.observed.latest(name).filter(|record| record.sandbox_id == self.sandbox.id)
    }

    fn init_containers(&mut self) -> InitProgress {
        let pod = self.pod;
        let containers = pod.init_containers();
        // Finished init containers may have been removed since, so a later one that exists proves earlier ones done.
        let is_initialized = pod.containers().iter().any(|container| self.current(&container.name).is_some());
        let last_known = containers.iter().rposition(|container| self.current(&container.name).is_some());
        for (index, container) in containers.iter().enumerate() {
            let is_passed = is_initialized || last_known.is_some_and(|last| index < last);
            let may_go_on = match init_role(container) {
                Role::Sidecar => self.sidecar(container),
                _ if is_passed => true,
                _ => match self.init_container(container) {
                    InitProgress::Done => true,
                    InitProgress::Waiting => false,
                    InitProgress::Failed => return InitProgress::Failed,
                },
            };
            if !may_go_on && !is_passed {
                return InitProgress::Waiting;
            }
        }
        InitProgress::Done
    }

    fn init_container(&mut self, container: &Container) -> InitProgress {
        let Some(record) = self.current(&container.name) else {
            self.start(container);
            return InitProgress::Waiting;
        };
        match record.state {
            RunState::Running => InitProgress::Waiting,
            RunState::Exited if record.exit_code == 0 => InitProgress::Done,
            RunState::Exited if self.pod.restart_policy_of(container) == RestartPolicy::Never => {
                InitProgress::Failed
            }
            _ => {
                self.start(container);
                InitProgress::Waiting
            }
        }
    }

    /// Keeps a sidecar running; true once what follows it may start.
    fn sidecar(&mut self, container: &Container) -> bool {
        match self.current(&container.name).cloned() {
            Some(record) if record.is_running() => {
                !self.kill_or_resize(container, &record) && is_started(container, &record, self.memory)
            }
            _ => {
                self.start(container);
                false
            }
        }
    }

    /// False when all main containers have ended for good.
    fn main_containers(&mut self) -> bool {
        let pod = self.pod;
        let mut is_alive = false;
        for container in pod.containers() {
            is_alive |= self.main_container(container);
        }
        is_alive
    }

    fn main_container(&mut self, container: &Container) -> bool {
        // Across sandboxes: one that completed in an earlier sandbox is not run again under OnFailure.
        match self.observed.latest(&container.name).cloned() {
            Some(record) if record.is_running() => {
                self.kill_or_resize(container, &record);
                true
            }
            Some(record) if record.state == RunState::Exited => {
                let restarts = self.pod.restart_policy_of(container).restarts_after(record.exit_code);
                if restarts {
                    self.start(container);
                }
                restarts
            }
            _ => {
                self.start(container);
                true
            }
        }
    }

    /// Whether a running container is killed; one that is not gets the size that it is to have.
    fn kill_or_resize(&mut self, container: &Container, record: &ContainerRecord) -> bool {
        if self.kill_if_unfit(container, record) {
            return true;
        }
        let wanted = Size::of(container);
        let Some(size) = unfit_size(container, record, self.memory) else { return false };
        let name = container.name.clone();
        if size.needs_restart(wanted, container) {
            let message = format!("Container {name} resize requires restart");
            self.plan.actions.push(kill(record, message, self.pod.grace_seconds()));
            return true;
        }
        let resize = Resize { id: record.id.clone(), name, size: wanted };
        self.plan.actions.push(Action::ResizeContainer(resize));
        false
    }

    /// Starts those that have never run. They come last, so that the pod's own work does not wait for their images.
    fn ephemeral_containers(&mut self) {
        let pod = self.pod;
        for container in pod.ephemeral_containers() {
            let is_new = match self.observed.latest(&container.name) {
                Some(record) => record.state == RunState::Created,
                None => reported_runs(pod, &container.name) == 0,
            };
            if is_new {
                self.start(container);
            }
        }
    }

    /// Kills a running container that failed a probe or whose definition changed.
    fn kill_if_unfit(&mut self, container: &Container, record: &ContainerRecord) -> bool {
        let name = &container.name;
        let probes = self.memory.probes.get(&record.id).copied().unwrap_or_default();
        let is_outdated = !record.hash.is_empty() && record.hash != definition_hash(container);
        let (message, probe) = if is_outdated {
            (format!("Container {name} definition changed"), None)
        } else if probes.liveness == Some(false) {
            (format!("Container {name} failed liveness probe"), container.liveness_probe.as_ref())
        } else if probes.startup == Some(false) {
            (format!("Container {name} failed startup probe"), container.startup_probe.as_ref())
        } else {
            return false;
        };
        let restarts = is_outdated || self.pod.restart_policy_of(container) != RestartPolicy::Never;
        let message = if restarts { format!("{message}, will be restarted") } else { message };
        let own_grace = probe.and_then(|probe| probe.termination_grace_period_seconds);
        self.plan.actions.push(kill(record, message, own_grace.unwrap_or(self.pod.grace_seconds())));
        true
    }

    /// Starts the next run of a container, or holds it until its back-off is over.
    fn start(&mut self, container: &Container) {
        let latest = self.observed.latest(&container.name);
        let failed_at = latest.and_then(ContainerRecord::finished);
        if let Some(failed_at) = failed_at
            && let Some(backoff) = self.memory.backoff.get(&container.name)
            && let Some(left) = backoff.remaining(KUBELET, failed_at, self.now)
        {
            self.hold(container, backoff.delay, left);
            return;
        }
        if let Some(leftover) = latest.filter(|record| record.state == RunState::Created) {
            self.plan.actions.push(Action::RemoveContainer { id: leftover.id.clone() });
        } else if let Some(lost) = latest.filter(|record| record.state == RunState::Unknown) {
            self.plan.actions.push(kill(lost, format!("Container {} is in unknown state", lost.name), 0));
        }
        self.plan.actions.push(Action::StartContainer(Start {
            name: container.name.clone(),
            sandbox_id: self.sandbox.id.clone(),
            restart_count: self.restart_count(container, latest),
            failed_at,
        }));
    }

    fn restart_count(&self, container: &Container, latest: Option<&ContainerRecord>) -> u32 {
        match latest {
            Some(record) if record.state == RunState::Created => record.restart_count,
            Some(record) => record.restart_count + 1,
            None => reported_runs(self.pod, &container.name),
        }
    }

    fn hold(&mut self, container: &Container, delay: SignedDuration, left: SignedDuration) {
        let message = format!(
            "back-off {} restarting failed container={} pod={}",
            naru_model::duration::go(delay),
            container.name,
            self.pod.identity.long_name()
        );
        self.plan.held.push((container.name.clone(), Waiting { reason: "CrashLoopBackOff".into(), message }));
        self.plan.look_again_in(left);
    }
}

/// How many runs the API has been told of, for a container that the runtime has forgotten.
fn reported_runs(pod: &PodView, name: &str) -> u32 {
    let Some(status) = pod.status() else { return 0 };
    match super::pod_status::by_name(status).get(name) {
        Some(status) if super::pod_status::has_run(status) => status.restart_count.max(0) as u32 + 1,
        _ => 0,
    }
}

/// What a running container has in place of the size that it is to have. A runtime that was told knows better: it may
/// count in other units.
pub fn unfit_size(container: &Container, record: &ContainerRecord, memory: &Memory) -> Option<Size> {
    let wanted = Size::of(container);
    let size = record.size.filter(|size| record.is_running() && !size.gives(wanted))?;
    (memory.resized.get(&record.id) != Some(&wanted)).then_some(size)
}

/// The first container that runs without the size that it is to have.
pub fn first_unfit<'a>(pod: &'a PodView, observed: &Observed, memory: &Memory) -> Option<&'a Container> {
    let is_unfit = |container: &&Container| {
        let record = observed.latest(&container.name);
        record.is_some_and(|record| unfit_size(container, record, memory).is_some())
    };
    pod.init_containers().iter().chain(pod.containers()).find(is_unfit)
}

/// Running, and past its startup probe if it has one.
pub fn is_started(container: &Container, record: &ContainerRecord, memory: &Memory) -> bool {
    record.is_running()
        && (container.startup_probe.is_none()
            || memory.probes.get(&record.id).is_some_and(|probes| probes.startup == Some(true)))
}

/// Of each container the newest run is kept, and the last one that ended before it: a status names both, and whoever
/// read it may ask for their logs. Of the sandboxes, those in use.
fn prune(observed: &Observed, plan: &mut Plan) {
    let mut has_previous = HashSet::<&str>::new();
    let mut used_sandboxes = Vec::new();
    for (index, record) in observed.containers.iter().enumerate() {
        let is_newest = observed.containers[..index].iter().all(|newer| newer.name != record.name);
        if is_newest || record.state != RunState::Exited || has_previous.insert(&record.name) {
            used_sandboxes.push(record.sandbox_id.as_str());
        } else {
            plan.actions.push(Action::RemoveContainer { id: record.id.clone() });
        }
    }
    for old in observed.sandboxes.iter().skip(1) {
        if !used_sandboxes.contains(&old.id.as_str()) {
            plan.actions.push(Action::RemoveSandbox { id: old.id.clone() });
        }
    }
}

/// Main containers end first and together, then sidecars in reverse order, then the sandbox.
fn terminate(pod: &PodView, observed: &Observed, termination: &Termination, now: Timestamp) -> Plan {
    let elapsed = now.duration_since(termination.since).as_secs();
    let grace_seconds = (termination.grace_seconds - elapsed).max(MINIMUM_GRACE_SECONDS);
    let stop =
        |record: &ContainerRecord| kill(record, format!("Stopping container {}", record.name), grace_seconds);
    let is_live = |record: &&ContainerRecord| matches!(record.state, RunState::Running | RunState::Unknown);
    let is_sidecar =
        |record: &ContainerRecord| matches!(pod.container(&record.name), Some((_, Role::Sidecar)));
    let live: Vec<_> = observed.containers.iter().filter(is_live).collect();
    let (sidecars, others): (Vec<_>, Vec<_>) = live.into_iter().partition(|record| is_sidecar(record));

    let mut plan = Plan::default();
    if !others.is_empty() {
        plan.actions.extend(others.into_iter().map(stop));
    } else if !sidecars.is_empty() {
        let mut last_first = pod.init_containers().iter().rev();
        let next =
            last_first.find_map(|container| sidecars.iter().find(|record| record.name == container.name));
        plan.actions.extend(next.map(|record| stop(record)));
    } else {
        let ready = observed.sandboxes.iter().filter(|sandbox| sandbox.is_ready);
        plan.actions.extend(ready.map(|sandbox| Action::StopSandbox { id: sandbox.id.clone() }));
        plan.is_terminated = plan.actions.is_empty();
    }
    plan
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
