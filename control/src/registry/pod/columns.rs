//! The table of pods: how `kubectl get pods` sums up what goes on in one.

use k8s_openapi::{
    api::core::v1::{
        Container, ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodSpec, PodStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use naru_model::duration;
use serde_json::Value;

use crate::registry::{
    Column,
    kind::age,
    podspec::{OrEmpty, resources::is_sidecar},
    text,
};

pub(super) const COLUMNS: &[Column] = &[
    text::NAME,
    Column {
        name: "Ready",
        kind: "string",
        format: "",
        priority: 0,
        description: "The aggregate readiness state of this pod for accepting traffic.",
    },
    Column {
        name: "Status",
        kind: "string",
        format: "",
        priority: 0,
        description: "The aggregate status of the containers in this pod.",
    },
    Column {
        name: "Restarts",
        kind: "string",
        format: "",
        priority: 0,
        description: "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.",
    },
    text::AGE,
    Column {
        name: "IP",
        kind: "string",
        format: "",
        priority: 1,
        description: "podIP address allocated to the pod. Routable at least within the cluster. Empty if not yet allocated.",
    },
    Column {
        name: "Node",
        kind: "string",
        format: "",
        priority: 1,
        description: "NodeName indicates in which node this pod is scheduled. If empty, this pod is a candidate for scheduling by the scheduler defined in schedulerName. Once this field is set, the kubelet for this node becomes responsible for the lifecycle of this pod. This field should not be used to express a desire for the pod to be scheduled on a specific node. https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#nodename",
    },
    Column {
        name: "Nominated Node",
        kind: "string",
        format: "",
        priority: 1,
        description: "nominatedNodeName is set only when this pod preempts other pods on the node, but it cannot be scheduled right away as preemption victims receive their graceful termination periods. This field does not guarantee that the pod will be scheduled on this node. Scheduler may decide to place the pod elsewhere if other nodes become available sooner. Scheduler may also decide to give the resources on this node to a higher priority pod that is created after preemption. As a result, this field may be different than PodSpec.nodeName when the pod is scheduled.",
    },
    Column {
        name: "Readiness Gates",
        kind: "string",
        format: "",
        priority: 1,
        description: "If specified, all readiness gates will be evaluated for pod readiness. A pod is ready when all its containers are ready AND all conditions specified in the readiness gates have status equal to \"True\" More info: https://git.k8s.io/enhancements/keps/sig-network/580-pod-readiness-gates",
    },
];

pub(super) fn row(pod: &Pod, now: Timestamp) -> Vec<Value> {
    let (empty_spec, empty_status) = (PodSpec::default(), PodStatus::default());
    let spec = pod.spec.as_ref().unwrap_or(&empty_spec);
    let status = pod.status.as_ref().unwrap_or(&empty_status);
    let summary = Summary::of(pod, spec, status);
    let address = match status.pod_ips.or_empty().first() {
        Some(address) => address.ip.as_str(),
        None => status.pod_ip.or_empty(),
    };
    vec![
        pod.metadata.name.or_empty().into(),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.reason.into(),
        restarts(summary.restarts, summary.last_restart, now).into(),
        age(pod.metadata.creation_timestamp.as_ref(), now).into(),
        text::or_none(address).into(),
        text::or_none(spec.node_name.or_empty()).into(),
        text::or_none(status.nominated_node_name.or_empty()).into(),
        readiness_gates(spec, status).into(),
    ]
}

/// `3 (5m ago)`, or `3` where no end of a container is known.
fn restarts(count: i32, last: Option<Timestamp>, now: Timestamp) -> String {
    match last.filter(|_| count > 0) {
        Some(last) => format!("{count} ({} ago)", duration::human(now.duration_since(last))),
        None => count.to_string(),
    }
}

fn readiness_gates(spec: &PodSpec, status: &PodStatus) -> String {
    let gates = spec.readiness_gates.or_empty();
    if gates.is_empty() {
        return "<none>".into();
    }
    let is_true =
        |kind: &str| status.conditions.or_empty().iter().any(|it| it.type_ == kind && it.status == "True");
    let passed = gates.iter().filter(|gate| is_true(&gate.condition_type)).count();
    format!("{passed}/{}", gates.len())
}

/// What a row says, gathered over the containers.
#[derive(Default)]
struct Summary {
    ready: usize,
    total: usize,
    restarts: i32,
    last_restart: Option<Timestamp>,
    sidecar_restarts: i32,
    last_sidecar_restart: Option<Timestamp>,
    reason: String,
}

impl Summary {
    fn of(pod: &Pod, spec: &PodSpec, status: &PodStatus) -> Self {
        let mut summary =
            Self { total: spec.containers.len(), reason: status.phase.or_empty().into(), ..Self::default() };
        if let Some(reason) = status.reason.as_ref().filter(|reason| !reason.is_empty()) {
            summary.reason.clone_from(reason);
        }
        let conditions = status.conditions.or_empty();
        let is_gated = |it: &&k8s_openapi::api::core::v1::PodCondition| {
            it.type_ == "PodScheduled" && it.reason.as_deref() == Some("SchedulingGated")
        };
        if conditions.iter().any(|condition| is_gated(&condition)) {
            summary.reason = "SchedulingGated".into();
        }
        let is_initializing = summary.init_containers(spec, status);
        let is_initialized = conditions.iter().any(|it| it.type_ == "Initialized" && it.status == "True");
        if !is_initializing || is_initialized {
            // The work has begun: what init containers went through no longer counts, save sidecars.
            summary.restarts = summary.sidecar_restarts;
            summary.last_restart = summary.last_sidecar_restart;
            summary.containers(status);
        }
        if pod.metadata.deletion_timestamp.is_some() {
            let phase = status.phase.or_empty();
            if status.reason.as_deref() == Some("NodeLost") {
                summary.reason = "Unknown".into();
            } else if !matches!(phase, "Failed" | "Succeeded") {
                summary.reason = "Terminating".into();
            }
        }
        summary
    }

    /// Answers whether an init container still stands in the way.
    fn init_containers(&mut self, spec: &PodSpec, status: &PodStatus) -> bool {
        let containers = spec.init_containers.or_empty();
        self.total += containers.iter().filter(|container| is_sidecar(container)).count();
        for (index, init) in status.init_container_statuses.or_empty().iter().enumerate() {
            self.restarts += init.restart_count;
            let last = last_end(init);
            self.last_restart = self.last_restart.max(last);
            let sidecar = containers.iter().find(|it| it.name == init.name).is_some_and(is_sidecar);
            if sidecar {
                self.sidecar_restarts += init.restart_count;
                self.last_sidecar_restart = self.last_sidecar_restart.max(last);
            }
            let state = init.state.as_ref();
            let ended = state.and_then(|state| state.terminated.as_ref());
            if ended.is_some_and(|ended| ended.exit_code == 0) {
                continue;
            }
            if sidecar && init.started == Some(true) {
                self.ready += usize::from(init.ready);
                continue;
            }
            self.reason = init_reason(index, state, containers);
            return true;
        }
        false
    }

    fn containers(&mut self, status: &PodStatus) {
        let mut is_running = false;
        for container in status.container_statuses.or_empty().iter().rev() {
            self.restarts += container.restart_count;
            self.last_restart = self.last_restart.max(last_end(container));
            let empty = ContainerState::default();
            let state = container.state.as_ref().unwrap_or(&empty);
            let waiting = state.waiting.as_ref().map(|waiting| waiting.reason.or_empty()).unwrap_or_default();
            if !waiting.is_empty() {
                self.reason = waiting.into();
            } else if let Some(ended) = &state.terminated {
                self.reason = end_reason(ended);
            } else if container.ready && state.running.is_some() {
                is_running = true;
                self.ready += 1;
            }
        }
        // A finished container beside a running one leaves the pod running.
        if self.reason == "Completed" && is_running {
            let is_ready =
                status.conditions.or_empty().iter().any(|it| it.type_ == "Ready" && it.status == "True");
            self.reason = if is_ready { "Running" } else { "NotReady" }.into();
        }
    }
}

fn init_reason(index: usize, state: Option<&ContainerState>, containers: &[Container]) -> String {
    let waiting =
        state.and_then(|state| state.waiting.as_ref()).map(|it| it.reason.or_empty()).unwrap_or_default();
    if let Some(ended) = state.and_then(|state| state.terminated.as_ref()) {
        format!("Init:{}", end_reason(ended))
    } else if !waiting.is_empty() && waiting != "PodInitializing" {
        format!("Init:{waiting}")
    } else {
        format!("Init:{index}/{}", containers.len())
    }
}

/// The reason given, or how the process ended.
fn end_reason(ended: &ContainerStateTerminated) -> String {
    match (ended.reason.or_empty(), ended.signal.unwrap_or_default()) {
        ("", 0) => format!("ExitCode:{}", ended.exit_code),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.into(),
    }
}

fn last_end(container: &ContainerStatus) -> Option<Timestamp> {
    let ended = container.last_state.as_ref()?.terminated.as_ref()?;
    ended.finished_at.as_ref().map(|Time(time)| *time)
}
