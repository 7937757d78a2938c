//! Resizes in place: which sizes the containers of a pod may have, and what is missing until they have them.
//!
//! As in Kubernetes, three things are told apart: what the spec asks for, what this node has agreed to (the pod is run
//! as if its spec said that), and what the runtime says that a container has. A size that does not fit leaves the
//! agreement as it is and is told as `PodResizePending`; the way from the agreement to the runtime's answer is
//! `PodResizeInProgress`. Pure.

use std::collections::BTreeMap;

use k8s_cri::v1 as cri;
use k8s_openapi::{
    api::core::v1::{Container, PodCondition, PodStatus, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity as ApiQuantity,
};
use naru_model::{
    pod::{Resources, requests},
    quantity::Quantity,
};
use serde::Serialize;

use super::{
    pod_status,
    pod_view::PodView,
    resources::{Allocatable, PERIOD_MICROS, SHARES_PER_CPU, cri_resources},
};

/// The conditions that tell of a resize; they go when it is over.
pub const CONDITIONS: [&str; 2] = [PENDING, IN_PROGRESS];
const PENDING: &str = "PodResizePending";
const IN_PROGRESS: &str = "PodResizeInProgress";

/// Why the sizes that a pod asks for are not given to it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    pub reason: Refusal,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Never on this node.
    Infeasible,
    /// Not beside the pods that are here.
    Deferred,
}

impl Refusal {
    /// The reason of the condition.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Infeasible => "Infeasible",
            Self::Deferred => "Deferred",
        }
    }

    /// The reason of the event.
    pub fn event(self) -> &'static str {
        match self {
            Self::Infeasible => "ResizeInfeasible",
            Self::Deferred => "ResizeDeferred",
        }
    }
}

/// How far the API, or whoever reads events, has been told of a pod's resizes: nothing is told twice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// The refusal of what a generation of the pod asks for.
    pub pending: Option<(Refusal, i64)>,
    /// The generation whose sizes are on their way.
    pub in_progress: Option<i64>,
}

impl Told {
    /// As a status tells it: for an agent that was started again.
    pub fn by(status: Option<&PodStatus>) -> Self {
        let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let told = |kind: &str| conditions.iter().find(|condition| condition.type_ == kind);
        let generation = |condition: &PodCondition| condition.observed_generation.unwrap_or_default();
        let refusal = |condition: &PodCondition| {
            let reason = condition.reason.as_deref();
            [Refusal::Infeasible, Refusal::Deferred].into_iter().find(|of| reason == Some(of.as_str()))
        };
        Self {
            pending: told(PENDING).and_then(|condition| Some((refusal(condition)?, generation(condition)))),
            in_progress: told(IN_PROGRESS).map(generation),
        }
    }
}

/// What an event says of a resize, in the kubelet's words: `Pod resize started: {"containers":[…],"generation":2}`.
pub fn event_message(what: &str, pod: &PodView, error: Option<&str>) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Summary<'a> {
        #[serde(skip_serializing_if = "Vec::is_empty")]
        init_containers: Vec<Sizes<'a>>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        containers: Vec<Sizes<'a>>,
        generation: i64,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<&'a str>,
    }
    #[derive(Serialize)]
    struct Sizes<'a> {
        name: &'a str,
        resources: ResourceRequirements,
    }
    fn sizes(containers: &[Container]) -> Vec<Sizes<'_>> {
        let of = |container: &Container| container.resources.clone().unwrap_or_default();
        containers.iter().map(|container| Sizes { name: &container.name, resources: of(container) }).collect()
    }
    let summary = Summary {
        init_containers: sizes(pod.init_containers()),
        containers: sizes(pod.containers()),
        generation: pod.generation().unwrap_or_default(),
        error,
    };
    let summary = serde_json::to_string(&summary).expect("plain data");
    format!("Pod resize {what}: {summary}")
}

/// What a runtime knows of a container's size; 0 is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    cpu_shares: i64,
    cpu_quota: i64,
    memory_limit: i64,
}

impl Size {
    /// What is asked for.
    pub fn of(container: &Container) -> Self {
        Self::from_cri(&cri_resources(container))
    }

    pub fn from_cri(resources: &cri::LinuxContainerResources) -> Self {
        Self {
            cpu_shares: resources.cpu_shares,
            cpu_quota: resources.cpu_quota,
            memory_limit: resources.memory_limit_in_bytes,
        }
    }

    pub fn to_cri(self) -> cri::LinuxContainerResources {
        cri::LinuxContainerResources {
            cpu_period: PERIOD_MICROS,
            cpu_quota: self.cpu_quota,
            cpu_shares: self.cpu_shares,
            memory_limit_in_bytes: self.memory_limit,
            ..cri::LinuxContainerResources::default()
        }
    }

    /// Whether a container of this size has what is asked for; what is not asked for may be anything.
    pub fn gives(self, asked: Self) -> bool {
        let gives = |has: i64, asked: i64| asked == 0 || has == asked;
        gives(self.cpu_shares, asked.cpu_shares)
            && gives(self.cpu_quota, asked.cpu_quota)
            && gives(self.memory_limit, asked.memory_limit)
    }

    /// Whether the container wants to be started again for the way from this size to `wanted`.
    pub fn needs_restart(self, wanted: Self, container: &Container) -> bool {
        let is_cpu_other = (self.cpu_shares, self.cpu_quota) != (wanted.cpu_shares, wanted.cpu_quota);
        let is_memory_other = self.memory_limit != wanted.memory_limit;
        container.resize_policy.iter().flatten().any(|policy| {
            policy.restart_policy == "RestartContainer"
                && ((policy.resource_name == "cpu" && is_cpu_other)
                    || (policy.resource_name == "memory" && is_memory_other))
        })
    }

    /// This size as the API says it, for a container of which `asked` is wanted.
    pub fn describe(self, asked: &ResourceRequirements) -> ResourceRequirements {
        let mut actual = asked.clone();
        let mut set = |is_limit: bool, name: &str, amount: Quantity| {
            let list = if is_limit { &mut actual.limits } else { &mut actual.requests };
            if !amount.is_zero() {
                list.get_or_insert_default().insert(name.into(), ApiQuantity::from(amount));
            }
        };
        set(true, "cpu", Quantity::from_milli(self.cpu_quota * 1000 / PERIOD_MICROS));
        set(true, "memory", Quantity::from_bytes(self.memory_limit));
        set(
            false,
            "cpu",
            Quantity::from_milli((self.cpu_shares * 1000 + SHARES_PER_CPU - 1) / SHARES_PER_CPU),
        );
        actual
    }
}

/// `asked` as it is to be run, and why that is not with all of the sizes that it asks for. `allocated` is how it is run
/// now; `used` is what the other pods of the node request, and asked for only where that matters.
pub fn admit(
    asked: PodView,
    allocated: &PodView,
    node: Allocatable,
    used: impl FnOnce() -> Resources,
) -> (PodView, Option<Pending>) {
    if has_same_sizes(&asked, allocated) {
        return (asked, None);
    }
    match refusal(&requests(asked.spec()), node, used) {
        None => (asked, None),
        Some(pending) => {
            let sizes = |name: &str| Some(allocated.container(name)?.0.resources.clone());
            (asked.with_sizes(sizes), Some(pending))
        }
    }
}

/// Whether two states of a pod ask for the same, however that is written.
pub fn has_same_sizes(one: &PodView, other: &PodView) -> bool {
    let amount = |list: Option<&BTreeMap<String, ApiQuantity>>, name: &str| {
        list.and_then(|list| list.get(name)).and_then(|amount| Quantity::try_from(amount).ok())
    };
    let sizes = |container: &Container| {
        let resources = container.resources.as_ref();
        let requests = resources.and_then(|resources| resources.requests.as_ref());
        let limits = resources.and_then(|resources| resources.limits.as_ref());
        [amount(requests, "cpu"), amount(requests, "memory"), amount(limits, "cpu"), amount(limits, "memory")]
    };
    let is_same = |one: &[Container], other: &[Container]| {
        one.len() == other.len()
            && one.iter().zip(other).all(|(one, other)| {
                // Most pods never change in this.
                one.resources == other.resources || sizes(one) == sizes(other)
            })
    };
    is_same(one.init_containers(), other.init_containers()) && is_same(one.containers(), other.containers())
}

/// `pod` with the sizes that the API was told it has: for an agent that was started again.
pub fn as_reported(pod: &PodView) -> PodView {
    let reported = pod.status().map(pod_status::by_name).unwrap_or_default();
    if reported.values().all(|status| status.resources.is_none()) {
        return pod.clone();
    }
    let size = |name: &str| {
        let status = reported.get(name)?;
        let resources = status.resources.clone()?;
        let requests = status.allocated_resources.clone().or(resources.requests);
        let is_none = resources.limits.is_none() && requests.is_none() && resources.claims.is_none();
        Some((!is_none).then_some(ResourceRequirements { requests, ..resources }))
    };
    pod.with_sizes(|name| size(name).or_else(|| Some(pod.container(name)?.0.resources.clone())))
}

fn refusal(asked: &Resources, node: Allocatable, used: impl FnOnce() -> Resources) -> Option<Pending> {
    let amounts = |resources: &Resources| {
        let of = |name: &str| resources.get(name).copied().unwrap_or_default();
        [of("cpu").milli_value(), of("memory").value()]
    };
    let (asked, capacity) = (amounts(asked), [node.cpu_millis, node.memory_bytes]);
    let names = ["cpu", "memory"];
    if let Some(which) = (0..2).rev().find(|which| asked[*which] > capacity[*which]) {
        let message = format!(
            "Node didn't have enough capacity: {}, requested: {}, capacity: {}",
            names[which], asked[which], capacity[which]
        );
        return Some(Pending { reason: Refusal::Infeasible, message });
    }
    let used = amounts(&used());
    let which = (0..2).find(|which| asked[*which] > capacity[*which].saturating_sub(used[*which]))?;
    let message = format!(
        "Node didn't have enough resource: {}, requested: {}, used: {}, capacity: {}",
        names[which], asked[which], used[which], capacity[which]
    );
    Some(Pending { reason: Refusal::Deferred, message })
}

/// Whether a status tells of a resize.
pub fn is_told(status: &PodStatus) -> bool {
    status.conditions.iter().flatten().any(|condition| CONDITIONS.contains(&condition.type_.as_str()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;

    fn pod(cpu: &str, status: Value) -> PodView {
        let resources = json!({ "requests": { "cpu": cpu, "memory": "1Gi" }, "limits": { "memory": "1Gi" } });
        let pod = json!({
            "metadata": { "name": "p", "namespace": "ns", "uid": "u" },
            "spec": { "containers": [{ "name": "web", "image": "x", "resources": resources }] },
            "status": status,
        });
        PodView::new(Arc::new(serde_json::from_value(pod).unwrap())).unwrap()
    }

    fn cpu(pod: &PodView) -> String {
        pod.containers()[0].resources.clone().unwrap().requests.unwrap()["cpu"].0.clone()
    }

    #[test]
    fn what_fits_is_given_and_what_does_not_says_why() {
        let node = Allocatable { cpu_millis: 4000, memory_bytes: 2 << 30, ephemeral_storage_bytes: 0 };
        let used = || Resources::from([("cpu".to_owned(), Quantity::from_milli(2000))]);
        let allocated = pod("1", json!({}));
        for (asked, expected, why) in [
            ("2", "2", None),
            (
                "3",
                "1",
                Some(
                    "Deferred: Node didn't have enough resource: cpu, requested: 3000, used: 2000, capacity: 4000",
                ),
            ),
            (
                "5",
                "1",
                Some("Infeasible: Node didn't have enough capacity: cpu, requested: 5000, capacity: 4000"),
            ),
        ] {
            let (run, pending) = admit(pod(asked, json!({})), &allocated, node, used);
            let said = pending.map(|pending| format!("{}: {}", pending.reason.as_str(), pending.message));
            assert_eq!((cpu(&run).as_str(), said.as_deref()), (expected, why));
        }
        // Nothing is asked of anybody while nothing changes.
        for same in ["1", "1000m"] {
            let (_, pending) = admit(pod(same, json!({})), &allocated, node, || unreachable!("not asked"));
            assert_eq!(pending, None);
        }
    }

    #[test]
    fn an_agent_that_starts_again_knows_what_was_agreed_to() {
        let status = json!({ "containerStatuses": [{
            "name": "web", "image": "x", "imageID": "", "ready": true, "restartCount": 0,
            "allocatedResources": { "cpu": "1", "memory": "1Gi" },
            "resources": { "requests": { "cpu": "500m" }, "limits": { "memory": "1Gi" } },
        }] });
        assert_eq!(cpu(&as_reported(&pod("8", status))), "1");
        assert_eq!(cpu(&as_reported(&pod("8", json!({})))), "8");
    }

    #[test]
    fn an_agent_that_starts_again_knows_what_was_told() {
        let status = json!({ "conditions": [
            { "type": "PodResizePending", "status": "True", "reason": "Deferred", "observedGeneration": 3 },
            { "type": "PodResizeInProgress", "status": "True", "observedGeneration": 2 },
        ] });
        let told = Told::by(pod("1", status).status());
        assert_eq!(told, Told { pending: Some((Refusal::Deferred, 3)), in_progress: Some(2) });
        assert_eq!(Told::by(pod("1", json!({})).status()), Told::default());
    }

    #[test]
    fn a_container_says_for_which_change_it_is_started_again() {
        let container = |cpu: &str, memory: &str| -> Container {
            serde_json::from_value(json!({
                "name": "c", "resources": { "limits": { "cpu": cpu, "memory": memory } },
                "resizePolicy": [
                    { "resourceName": "cpu", "restartPolicy": "NotRequired" },
                    { "resourceName": "memory", "restartPolicy": "RestartContainer" },
                ],
            }))
            .unwrap()
        };
        let old = Size::of(&container("100m", "16Mi"));
        let needs = |cpu, memory| {
            let container = container(cpu, memory);
            old.needs_restart(Size::of(&container), &container)
        };
        assert!(!needs("200m", "16Mi") && needs("100m", "32Mi"));
        let asked = container("200m", "32Mi").resources.unwrap();
        let actual = serde_json::to_value(old.describe(&asked)).unwrap();
        assert_eq!(
            actual,
            json!({ "limits": { "cpu": "100m", "memory": "16Mi" }, "requests": { "cpu": "100m" } })
        );
    }
}
