//! What we report about a pod: phase, conditions and container statuses, from its spec and what the runtime says.
//!
//! Pure, and in Kubernetes' words: `kubectl`, controllers and people's scripts compare these strings.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
        ContainerStatus, HostIP, PodCondition, PodIP, PodStatus, ResourceRequirements,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{
    decide::{Cause, Memory, Waiting, first_unfit, is_started, unfit_size},
    observed::{ContainerRecord, Observed, RunState},
    pod_view::{PodView, RestartPolicy, Role, init_role},
    resize,
};

/// What is the same for all pods of a node.
#[derive(Debug, Clone, Default)]
pub struct NodeFacts {
    pub host_ips: Vec<String>,
    /// The scheme of container ids: `naru://…`.
    pub runtime_name: String,
}

const DEADLINE_MESSAGE: &str = "Pod was active on the node longer than the specified deadline";

/// The status to report now, given the `old` one. `is_terminated` says that nothing of the pod runs any more, nor will
/// again.
pub fn generate(
    pod: &PodView,
    observed: &Observed,
    memory: &Memory,
    old: &PodStatus,
    facts: &NodeFacts,
    is_terminated: bool,
    now: Timestamp,
) -> PodStatus {
    let draft = Draft { pod, observed, memory, old, facts, is_terminated };
    let has_init = !pod.init_containers().is_empty();
    let init_containers = draft.container_statuses(pod.init_containers(), has_init);
    let containers = draft.container_statuses(pod.containers(), has_init);
    let ephemeral = draft.container_statuses(pod.ephemeral_containers(), false);
    let phase = draft.phase(&init_containers, &containers);
    let (reason, message) = draft.reason(phase);

    let mut status = PodStatus {
        phase: Some(phase.into()),
        reason,
        message,
        start_time: memory.start_time.map(time).or(old.start_time.clone()),
        observed_generation: pod.generation(),
        qos_class: old.qos_class.clone(),
        host_ip: facts.host_ips.first().cloned(),
        host_ips: Some(facts.host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
        init_container_statuses: has_init.then_some(init_containers),
        container_statuses: Some(containers),
        ephemeral_container_statuses: (!ephemeral.is_empty()).then_some(ephemeral),
        ..Default::default()
    };
    draft.addresses(&mut status);
    status.conditions = Some(draft.conditions(&status, now));
    status
}

struct Draft<'a> {
    pod: &'a PodView,
    observed: &'a Observed,
    memory: &'a Memory,
    old: &'a PodStatus,
    facts: &'a NodeFacts,
    is_terminated: bool,
}

/// Whether the API was told of a run. One that was lost with its runtime is in the last state until the next one runs.
pub fn has_run(status: &ContainerStatus) -> bool {
    let last = status.last_state.as_ref();
    status.container_id.is_some() || last.is_some_and(|last| last.terminated.is_some())
}

impl Draft<'_> {
    fn container_statuses(&self, containers: &[Container], has_init: bool) -> Vec<ContainerStatus> {
        containers.iter().map(|container| self.container_status(container, has_init)).collect()
    }

    fn container_status(&self, container: &Container, has_init: bool) -> ContainerStatus {
        let mut records = self.observed.records(&container.name);
        let Some(latest) = records.next() else { return self.unseen(container, has_init) };
        let mut status = self.seen(container, latest);
        status.last_state = match records.find(|record| record.state == RunState::Exited) {
            Some(previous) => Some(self.state_of(previous)),
            None => self.reported(&container.name).and_then(|old| old.last_state),
        };
        self.apply_start_error(container, &mut status);
        self.set_ready(container, latest, &mut status);
        status
    }

    fn seen(&self, container: &Container, record: &ContainerRecord) -> ContainerStatus {
        ContainerStatus {
            name: container.name.clone(),
            container_id: Some(self.container_id(&record.id)),
            image: if record.image.is_empty() { image_of(container) } else { record.image.clone() },
            image_id: record.image_id.clone(),
            restart_count: record.restart_count as i32,
            state: Some(self.state_of(record)),
            allocated_resources: container
                .resources
                .as_ref()
                .and_then(|resources| resources.requests.clone()),
            resources: Some(self.actual_resources(container, record)),
            ..Default::default()
        }
    }

    /// A container the runtime knows nothing of: not created yet, or created, reported and lost.
    fn unseen(&self, container: &Container, has_init: bool) -> ContainerStatus {
        let reason = if has_init { "PodInitializing" } else { "ContainerCreating" };
        let mut status = ContainerStatus {
            name: container.name.clone(),
            image: image_of(container),
            state: Some(waiting(reason, "")),
            started: Some(false).filter(|_| self.role_of(container) != Role::Ephemeral),
            ..Default::default()
        };
        let old = self.reported(&container.name);
        if let Some(old) = old.filter(has_run) {
            self.carry_over(container, old, &mut status);
        } else if self.is_terminated {
            status.state =
                Some(ContainerState { terminated: Some(unknown_termination()), ..Default::default() });
        }
        self.apply_start_error(container, &mut status);
        status
    }

    /// A run that was reported and is no longer in the runtime.
    fn carry_over(&self, container: &Container, old: ContainerStatus, status: &mut ContainerStatus) {
        let old_state = old.state.clone().unwrap_or_default();
        status.restart_count = old.restart_count;
        status.image_id.clone_from(&old.image_id);
        if old_state.terminated.is_some() {
            let (name, image) = (status.name.clone(), status.image.clone());
            *status = ContainerStatus { name, image, started: Some(false), ..old };
        } else if old_state.running.is_some() {
            let lost = ContainerStateTerminated { container_id: old.container_id, ..unknown_termination() };
            let state = ContainerState { terminated: Some(lost), ..Default::default() };
            let runs_again = !self.is_terminated && self.role_of(container) != Role::Ephemeral;
            if runs_again { status.last_state = Some(state) } else { status.state = Some(state) }
        } else {
            status.last_state = old.last_state;
        }
    }

    /// What the container has: while it is resized, what the runtime says.
    fn actual_resources(&self, container: &Container, record: &ContainerRecord) -> ResourceRequirements {
        let asked = ResourceRequirements { claims: None, ..container.resources.clone().unwrap_or_default() };
        match unfit_size(container, record, self.memory) {
            Some(size) => size.describe(&asked),
            None => asked,
        }
    }

    fn reported(&self, name: &str) -> Option<ContainerStatus> {
        let mut statuses = lists(self.old).into_iter().flatten().flatten();
        statuses.find(|status| status.name == name).cloned()
    }

    fn role_of(&self, container: &Container) -> Role {
        self.pod.container(&container.name).map_or(Role::Main, |(_, role)| role)
    }

    /// A container that could not be started, or must not be yet, waits for a reason.
    fn apply_start_error(&self, container: &Container, status: &mut ContainerStatus) {
        let Some(Waiting { reason, message }) = self.memory.start_errors.get(&container.name) else { return };
        let state = status.state.clone().unwrap_or_default();
        if self.is_terminated || state.running.is_some() || self.is_completed_init(container, &state) {
            return;
        }
        if state.terminated.is_some() {
            status.last_state = status.state.take();
        }
        status.state = Some(waiting(reason, message));
    }

    fn set_ready(&self, container: &Container, record: &ContainerRecord, status: &mut ContainerStatus) {
        let role = self.role_of(container);
        if role == Role::Ephemeral {
            return; // Nobody waits for it.
        }
        let is_running = status.state.as_ref().is_some_and(|state| state.running.is_some());
        let is_started = is_running && is_started(container, record, self.memory);
        status.started = Some(is_started);
        status.ready = match role {
            Role::Init => self.is_completed_init(container, &status.state.clone().unwrap_or_default()),
            Role::Sidecar | Role::Main if !is_started => false,
            _ => container.readiness_probe.is_none() || self.is_probed_ready(record),
        };
    }

    /// One that ran to its end: unlike a main container that ended well, it is not run again.
    fn is_completed_init(&self, container: &Container, state: &ContainerState) -> bool {
        let is_init = matches!(self.pod.container(&container.name), Some((_, Role::Init)));
        is_init && state.terminated.as_ref().is_some_and(|end| end.exit_code == 0)
    }

    fn is_probed_ready(&self, record: &ContainerRecord) -> bool {
        self.memory.probes.get(&record.id).is_some_and(|probes| probes.readiness == Some(true))
    }

    fn state_of(&self, record: &ContainerRecord) -> ContainerState {
        match record.state {
            RunState::Created => waiting("ContainerCreating", ""),
            RunState::Running => {
                let started_at = record.started().map(time);
                ContainerState { running: Some(ContainerStateRunning { started_at }), ..Default::default() }
            }
            RunState::Exited | RunState::Unknown => {
                ContainerState { terminated: Some(self.terminated(record)), ..Default::default() }
            }
        }
    }

    fn terminated(&self, record: &ContainerRecord) -> ContainerStateTerminated {
        let default_reason = if record.exit_code == 0 { "Completed" } else { "Error" };
        let reason = if record.reason.is_empty() { default_reason } else { &record.reason };
        ContainerStateTerminated {
            exit_code: record.exit_code,
            reason: Some(reason.into()),
            message: (!record.message.is_empty()).then(|| record.message.clone()),
            started_at: record.started().map(time),
            finished_at: record.finished().map(time),
            container_id: Some(self.container_id(&record.id)),
            signal: None,
        }
    }

    fn container_id(&self, id: &str) -> String {
        format!("{}://{id}", self.facts.runtime_name)
    }

    fn phase(&self, init_containers: &[ContainerStatus], containers: &[ContainerStatus]) -> &'static str {
        match self.old.phase.as_deref() {
            Some("Succeeded") => return "Succeeded",
            Some("Failed") => return "Failed",
            _ => (),
        }
        if self.memory.termination.as_ref().is_some_and(|it| it.cause == Cause::DeadlineExceeded) {
            return "Failed";
        }
        let init = InitCount::of(self.pod, init_containers);
        let main = MainCount::of(containers);
        let policy = self.pod.restart_policy();
        if init.failed > 0 && (policy == RestartPolicy::Never || self.is_terminated) {
            "Failed"
        } else if init.pending > 0 && main.running == 0 && main.stopped == 0 {
            if self.is_terminated { "Failed" } else { "Pending" }
        } else if main.waiting > 0 && !self.is_terminated {
            "Pending"
        } else if main.running > 0 {
            "Running"
        } else if main.stopped > 0 {
            self.stopped_phase(&main, containers)
        } else {
            "Pending"
        }
    }

    /// All main containers have ended: for good, or until the next restart.
    fn stopped_phase(&self, main: &MainCount, statuses: &[ContainerStatus]) -> &'static str {
        let will_restart = self.pod.containers().iter().zip(statuses).any(|(container, status)| {
            let state = status.state.as_ref();
            let exit_code = state.and_then(|state| state.terminated.as_ref()).map_or(1, |end| end.exit_code);
            self.pod.restart_policy_of(container).restarts_after(exit_code)
        });
        let sidecars_run = self.pod.init_containers().iter().any(|container| {
            let is_running = |record: &ContainerRecord| record.is_running();
            init_role(container) == Role::Sidecar
                && self.observed.latest(&container.name).is_some_and(is_running)
        });
        if !self.is_terminated && (will_restart || sidecars_run) {
            "Running"
        } else if main.stopped == main.succeeded {
            "Succeeded"
        } else {
            "Failed"
        }
    }

    fn reason(&self, phase: &str) -> (Option<String>, Option<String>) {
        let is_late = self.memory.termination.as_ref().is_some_and(|it| it.cause == Cause::DeadlineExceeded);
        if is_late {
            return (Some("DeadlineExceeded".into()), Some(DEADLINE_MESSAGE.into()));
        }
        // A verdict on the pod outlives the process that spoke it; anything else has passed.
        let is_verdict = phase == "Failed";
        (self.old.reason.clone().filter(|_| is_verdict), self.old.message.clone().filter(|_| is_verdict))
    }

    fn addresses(&self, status: &mut PodStatus) {
        let sandbox_ips =
            self.observed.ready_sandbox().map(|sandbox| sandbox.ips.clone()).unwrap_or_default();
        let ips = if self.pod.is_host_network() { self.facts.host_ips.clone() } else { sandbox_ips };
        if ips.is_empty() {
            // A finished pod's address stays on record, as it does with the kubelet.
            (status.pod_ip, status.pod_ips) = (self.old.pod_ip.clone(), self.old.pod_ips.clone());
        } else {
            status.pod_ip = ips.first().cloned();
            status.pod_ips = Some(ips.into_iter().map(|ip| PodIP { ip }).collect());
        }
    }

    fn conditions(&self, status: &PodStatus, now: Timestamp) -> Vec<PodCondition> {
        let containers_ready = self.containers_ready(status);
        let ready = self.ready(&containers_ready);
        let verdicts = [
            ("PodReadyToStartContainers", self.sandbox_ready()),
            ("Initialized", self.initialized(status)),
            ("Ready", ready),
            ("ContainersReady", containers_ready),
            ("PodScheduled", Verdict::yes()),
        ];
        let verdicts = verdicts.into_iter().chain(self.resizing());
        verdicts.map(|(kind, verdict)| self.condition(kind, verdict, now)).collect()
    }

    /// What a resize waits for, and how far it is; nothing where there is none.
    fn resizing(&self) -> impl Iterator<Item = (&'static str, Verdict)> {
        let [pending_kind, progress_kind] = resize::CONDITIONS;
        let pending = self.memory.resize_pending.as_ref().map(|pending| {
            let (reason, message) = (Some(pending.reason.as_str().into()), Some(pending.message.clone()));
            (pending_kind, Verdict { holds: true, reason, message })
        });
        let progress = first_unfit(self.pod, self.observed, self.memory).map(|container| {
            let error = self.memory.resize_errors.get(&container.name);
            let (reason, message) = (error.map(|_| "Error".to_owned()), error.cloned());
            (progress_kind, Verdict { holds: true, reason, message })
        });
        pending.into_iter().chain(progress)
    }

    fn condition(&self, kind: &str, verdict: Verdict, now: Timestamp) -> PodCondition {
        let status = if verdict.holds { "True" } else { "False" };
        let previous = self.old.conditions.iter().flatten().find(|condition| condition.type_ == kind);
        let unchanged = previous.filter(|condition| condition.status == status);
        PodCondition {
            type_: kind.into(),
            status: status.into(),
            reason: verdict.reason,
            message: verdict.message,
            last_transition_time: unchanged
                .and_then(|condition| condition.last_transition_time.clone())
                .or(Some(time(now))),
            last_probe_time: None,
            observed_generation: self.pod.generation(),
        }
    }

    fn sandbox_ready(&self) -> Verdict {
        let sandbox = self.observed.ready_sandbox();
        let holds = sandbox.is_some_and(|sandbox| self.pod.is_host_network() || !sandbox.ips.is_empty());
        Verdict { holds, ..Verdict::yes() }
    }

    fn initialized(&self, status: &PodStatus) -> Verdict {
        let containers = status.container_statuses.as_deref().unwrap_or_default();
        let has_started = containers.iter().any(|status| {
            status.container_id.is_some()
                && status.state.as_ref().is_some_and(|state| state.waiting.is_none())
        });
        if has_started || self.pod.init_containers().is_empty() {
            return Verdict::yes();
        }
        let statuses = status.init_container_statuses.as_deref().unwrap_or_default();
        let incomplete: Vec<_> = self
            .pod
            .init_containers()
            .iter()
            .zip(statuses)
            .filter(|(container, status)| match init_role(container) {
                Role::Sidecar => status.started != Some(true),
                _ => !status.ready,
            })
            .map(|(container, _)| container.name.as_str())
            .collect();
        if incomplete.is_empty() {
            Verdict::yes()
        } else if status.phase.as_deref() == Some("Succeeded") {
            Verdict { reason: Some("PodCompleted".into()), ..Verdict::yes() }
        } else {
            let message = format!("containers with incomplete status: [{}]", incomplete.join(" "));
            Verdict::no("ContainersNotInitialized", message)
        }
    }

    fn containers_ready(&self, status: &PodStatus) -> Verdict {
        match status.phase.as_deref() {
            Some("Succeeded") => return Verdict::no("PodCompleted", String::new()),
            Some("Failed") => return Verdict::no("PodFailed", String::new()),
            _ => (),
        }
        let init = status.init_container_statuses.iter().flatten();
        let sidecars =
            init.filter(|status| matches!(self.pod.container(&status.name), Some((_, Role::Sidecar))));
        let unready: Vec<_> = sidecars
            .chain(status.container_statuses.iter().flatten())
            .filter(|status| !status.ready)
            .map(|status| status.name.as_str())
            .collect();
        if unready.is_empty() {
            return Verdict::yes();
        }
        Verdict::no("ContainersNotReady", format!("containers with unready status: [{}]", unready.join(" ")))
    }

    fn ready(&self, containers_ready: &Verdict) -> Verdict {
        if !containers_ready.holds {
            return containers_ready.clone();
        }
        let gates = self.pod.spec().readiness_gates.iter().flatten();
        // Gates are other writers' conditions: what the API says counts, not what we said.
        let said = self.pod.status().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let unmet: Vec<_> = gates.filter_map(|gate| unmet_gate(&gate.condition_type, said)).collect();
        if unmet.is_empty() {
            Verdict::yes()
        } else {
            Verdict::no("ReadinessGatesNotReady", unmet.join(", "))
        }
    }
}

fn unmet_gate(gate: &str, conditions: &[PodCondition]) -> Option<String> {
    match conditions.iter().find(|condition| condition.type_ == gate) {
        None => Some(format!("corresponding condition of pod readiness gate {gate:?} does not exist.")),
        Some(condition) if condition.status == "True" => None,
        Some(condition) => Some(format!(
            "the status of pod readiness gate {gate:?} is not \"True\", but {}",
            condition.status
        )),
    }
}

/// The value of a condition.
#[derive(Debug, Clone)]
struct Verdict {
    holds: bool,
    reason: Option<String>,
    message: Option<String>,
}

impl Verdict {
    fn yes() -> Self {
        Self { holds: true, reason: None, message: None }
    }

    fn no(reason: &str, message: String) -> Self {
        Self { holds: false, reason: Some(reason.into()), message: (!message.is_empty()).then_some(message) }
    }
}

#[derive(Default)]
struct InitCount {
    pending: usize,
    failed: usize,
}

impl InitCount {
    fn of(pod: &PodView, statuses: &[ContainerStatus]) -> Self {
        let mut count = Self::default();
        for (container, status) in pod.init_containers().iter().zip(statuses) {
            if init_role(container) == Role::Sidecar {
                // It counts as initialized once it has started, now or before.
                let has_started = status.started == Some(true) || status.last_state.is_some();
                count.pending += usize::from(!has_started);
                continue;
            }
            let ended = |state: &Option<ContainerState>| {
                state.as_ref().and_then(|state| state.terminated.as_ref()).map(|end| end.exit_code)
            };
            match ended(&status.state).or_else(|| ended(&status.last_state)) {
                Some(0) => (),
                Some(_) => count.failed += 1,
                None => count.pending += 1,
            }
            // A failed one that will run again keeps the pod pending.
            if ended(&status.state) != Some(0) && count.failed > 0 {
                count.pending += 1;
            }
        }
        count
    }
}

#[derive(Default)]
struct MainCount {
    running: usize,
    waiting: usize,
    stopped: usize,
    succeeded: usize,
}

impl MainCount {
    fn of(statuses: &[ContainerStatus]) -> Self {
        let mut count = Self::default();
        for status in statuses {
            let state = status.state.clone().unwrap_or_default();
            if state.running.is_some() {
                count.running += 1;
            } else if let Some(end) = state.terminated {
                count.stopped += 1;
                count.succeeded += usize::from(end.exit_code == 0);
            } else if status.last_state.as_ref().is_some_and(|last| last.terminated.is_some()) {
                count.stopped += 1;
            } else {
                count.waiting += 1;
            }
        }
        count
    }
}

fn waiting(reason: &str, message: &str) -> ContainerState {
    let message = (!message.is_empty()).then(|| message.to_owned());
    let waiting = ContainerStateWaiting { reason: Some(reason.into()), message };
    ContainerState { waiting: Some(waiting), ..Default::default() }
}

fn unknown_termination() -> ContainerStateTerminated {
    ContainerStateTerminated {
        exit_code: 137,
        reason: Some("ContainerStatusUnknown".into()),
        message: Some("The container could not be located when the pod was terminated".into()),
        ..Default::default()
    }
}

fn image_of(container: &Container) -> String {
    container.image.clone().unwrap_or_default()
}

/// The API's times have whole seconds; comparing with what comes back needs ours to have them too.
fn time(timestamp: Timestamp) -> Time {
    Time(Timestamp::from_second(timestamp.as_second()).unwrap_or(timestamp))
}

/// Nothing to see yet that the next status will not include: containers being made, or running and not yet probed.
pub fn is_on_its_way(status: &PodStatus) -> bool {
    let lists = [&status.init_container_statuses, &status.container_statuses];
    let is_quiet = |container: &ContainerStatus| {
        let state = container.state.clone().unwrap_or_default();
        let is_waiting = state.waiting.as_ref().is_none_or(|waiting| {
            matches!(waiting.reason.as_deref(), Some("ContainerCreating" | "PodInitializing"))
        });
        is_waiting && !container.ready && state.terminated.is_none() && container.last_state.is_none()
    };
    lists.into_iter().flatten().flatten().all(is_quiet)
}

/// Statuses of a pod by container name: for whoever asks about one container.
pub fn by_name(status: &PodStatus) -> BTreeMap<&str, &ContainerStatus> {
    lists(status).into_iter().flatten().flatten().map(|status| (status.name.as_str(), status)).collect()
}

/// The statuses of all containers, whatever their role.
pub fn lists(status: &PodStatus) -> [&Option<Vec<ContainerStatus>>; 3] {
    [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses]
}

#[cfg(test)]
#[path = "pod_status_tests.rs"]
mod tests;
