//! The few things of a pod on which decisions about many pods rest.

use std::{cell::RefCell, collections::VecDeque, sync::Arc};

use k8s_openapi::{
    api::core::v1::{Container, Pod},
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::{SignedDuration, Timestamp},
};
use serde::{Deserialize, de::IgnoredAny};

/// What controllers look at in every pod of a set or behind a Service, whenever one of them changes. It takes about 150
/// bytes, where a decoded pod takes about 15 kB, and decodes from the pod's JSON in a fraction of the time.
///
/// Labels, owners and the deletion timestamp are not here: they are in the metadata of every stored object.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(from = "Wire")]
pub struct PodBrief {
    /// `spec.nodeName`, if it is scheduled.
    pub node_name: Option<Box<str>>,
    /// As [`is_terminal`](crate::pod::is_terminal).
    pub is_terminal: bool,
    /// As [`is_ready`](crate::pod::is_ready).
    pub is_ready: bool,
    /// Since when its Ready condition has been as it is.
    pub ready_changed: Option<Timestamp>,
    /// As [`is_resizing`](crate::pod::is_resizing).
    pub is_resizing: bool,
    /// Whether something is about to disrupt it, or was.
    pub is_disruption_target: bool,
    /// `status.podIPs`, or else `status.podIP`; without empty ones.
    pub addresses: Box<[Box<str>]>,
    /// `spec.hostname` and `spec.subdomain`, of the few that have one.
    pub host: Option<Box<Host>>,
    /// The ports that have a name, of containers and sidecars in this order. Shared by the pods of a set.
    pub ports: Arc<[NamedPort]>,
}

/// The names by which a headless Service knows a pod; "" for none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    pub hostname: Box<str>,
    pub subdomain: Box<str>,
}

/// A container's port that Services may mean by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPort {
    pub name: Box<str>,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: Box<str>,
    pub number: i32,
}

impl PodBrief {
    /// The number of the port that has this name for the protocol.
    pub fn named_port(&self, name: &str, protocol: &str) -> Option<i32> {
        let is_meant = |port: &&NamedPort| (&*port.name, &*port.protocol) == (name, protocol);
        self.ports.iter().find(is_meant).map(|port| port.number)
    }

    /// How long until the pod has been ready for `min_ready_seconds`: zero is now, `None` is never without a change.
    pub fn available_in(&self, min_ready_seconds: i32, now: Timestamp) -> Option<std::time::Duration> {
        if !self.is_ready {
            return None;
        }
        if min_ready_seconds <= 0 {
            return Some(std::time::Duration::ZERO);
        }
        let ready_for = now.duration_since(self.ready_changed?);
        let wanted = SignedDuration::from_secs(min_ready_seconds.into());
        Some(std::time::Duration::try_from(wanted - ready_for).unwrap_or_default())
    }
}

impl From<&Pod> for PodBrief {
    fn from(pod: &Pod) -> Self {
        use crate::{condition, pod as of};
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        let ready = condition::find(conditions, READY);
        let spec = pod.spec.as_ref();
        let containers = spec.map(|spec| &spec.containers).into_iter().flatten();
        let sidecars = spec.and_then(|spec| spec.init_containers.as_ref()).into_iter().flatten();
        let ports = containers.chain(sidecars.filter(|container| of::is_sidecar(container)));
        let status = pod.status.as_ref();
        let pod_ips = status.and_then(|status| status.pod_ips.as_ref()).into_iter().flatten();
        let text = |text: Option<&String>| text.map(String::as_str).unwrap_or_default().into();
        Self {
            node_name: of::node_name(pod).map(Into::into),
            is_terminal: of::is_terminal(pod),
            is_ready: of::is_ready(pod),
            ready_changed: ready.and_then(|ready| ready.last_transition_time.as_ref()).map(|time| time.0),
            is_resizing: of::is_resizing(pod),
            is_disruption_target: condition::is_true(conditions, DISRUPTION_TARGET),
            addresses: addresses(
                pod_ips.map(|ip| ip.ip.as_str().into()),
                status.and_then(|status| status.pod_ip.as_deref()).map(Into::into),
            ),
            host: host(
                text(spec.and_then(|spec| spec.hostname.as_ref())),
                text(spec.and_then(|spec| spec.subdomain.as_ref())),
            ),
            ports: shared(ports.flat_map(named_ports).collect()),
        }
    }
}

fn named_ports(container: &Container) -> impl Iterator<Item = NamedPort> {
    container.ports.iter().flatten().filter_map(|port| {
        Some(NamedPort {
            name: port.name.as_deref().filter(|name| !name.is_empty())?.into(),
            protocol: port.protocol.as_deref().unwrap_or(TCP).into(),
            number: port.container_port,
        })
    })
}

fn addresses(all: impl Iterator<Item = Box<str>>, first: Option<Box<str>>) -> Box<[Box<str>]> {
    let mut all: Vec<_> = all.filter(|address| !address.is_empty()).collect();
    if all.is_empty() {
        all.extend(first.filter(|address| !address.is_empty()));
    }
    all.into()
}

fn host(hostname: Box<str>, subdomain: Box<str>) -> Option<Box<Host>> {
    let has_any = !hostname.is_empty() || !subdomain.is_empty();
    has_any.then(|| Box::new(Host { hostname, subdomain }))
}

/// `ports`, or the same ones that another pod has already: most pods come in crowds.
fn shared(ports: Vec<NamedPort>) -> Arc<[NamedPort]> {
    const REMEMBERED: usize = 16;
    thread_local! {
        static RECENT: RefCell<VecDeque<Arc<[NamedPort]>>> = const { RefCell::new(VecDeque::new()) };
    }
    RECENT.with_borrow_mut(|recent| {
        if let Some(same) = recent.iter().find(|known| ***known == *ports) {
            return same.clone();
        }
        recent.truncate(REMEMBERED - 1);
        let ports: Arc<[_]> = ports.into();
        recent.push_front(ports.clone());
        ports
    })
}

const TCP: &str = "TCP";
const READY: &str = "Ready";
const DISRUPTION_TARGET: &str = "DisruptionTarget";

/// The wire's form: everything may be absent or null, and most is skipped.
#[derive(Deserialize)]
struct Wire {
    spec: Option<Spec>,
    status: Option<Status>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Spec {
    node_name: Option<Box<str>>,
    hostname: Option<Box<str>>,
    subdomain: Option<Box<str>>,
    containers: Option<Vec<Ports>>,
    init_containers: Option<Vec<Ports>>,
}

/// A container, of which only the ports are of interest.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ports {
    restart_policy: Option<Box<str>>,
    ports: Option<Vec<Port>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Port {
    name: Option<Box<str>>,
    protocol: Option<Box<str>>,
    container_port: i32,
}

#[derive(Deserialize, Default)]
struct Status {
    phase: Option<Phase>,
    conditions: Option<Vec<Condition>>,
    #[serde(rename = "podIP")]
    pod_ip: Option<Box<str>>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<Address>>,
}

#[derive(Deserialize)]
struct Address {
    ip: Box<str>,
}

#[derive(Deserialize)]
enum Phase {
    Succeeded,
    Failed,
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    #[serde(rename = "type")]
    kind: ConditionKind,
    status: ConditionStatus,
    last_transition_time: Option<Time>,
    #[serde(rename = "message")]
    _message: Option<IgnoredAny>,
}

#[derive(Deserialize, PartialEq, Clone, Copy)]
enum ConditionKind {
    Ready,
    DisruptionTarget,
    PodResizePending,
    PodResizeInProgress,
    #[serde(other)]
    Other,
}

#[derive(Deserialize, PartialEq, Clone, Copy)]
enum ConditionStatus {
    True,
    #[serde(other)]
    Other,
}

impl From<Wire> for PodBrief {
    fn from(wire: Wire) -> Self {
        let (spec, status) = (wire.spec.unwrap_or_default(), wire.status.unwrap_or_default());
        let conditions = status.conditions.unwrap_or_default();
        let find = |kind| conditions.iter().find(|condition| condition.kind == kind);
        let is_true = |condition: Option<&Condition>| {
            condition.is_some_and(|condition| condition.status == ConditionStatus::True)
        };
        let ready = find(ConditionKind::Ready);
        let sidecars = spec.init_containers.into_iter().flatten();
        let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
        let ports = spec.containers.into_iter().flatten().chain(sidecars).flat_map(Ports::named);
        Self {
            node_name: spec.node_name.filter(|name| !name.is_empty()),
            is_terminal: matches!(status.phase, Some(Phase::Succeeded | Phase::Failed)),
            is_ready: is_true(ready),
            ready_changed: ready.and_then(|ready| ready.last_transition_time.as_ref()).map(|time| time.0),
            is_resizing: find(ConditionKind::PodResizePending)
                .or_else(|| find(ConditionKind::PodResizeInProgress))
                .is_some(),
            is_disruption_target: is_true(find(ConditionKind::DisruptionTarget)),
            addresses: addresses(
                status.pod_ips.into_iter().flatten().map(|address| address.ip),
                status.pod_ip,
            ),
            host: host(spec.hostname.unwrap_or_default(), spec.subdomain.unwrap_or_default()),
            ports: shared(ports.collect()),
        }
    }
}

impl Ports {
    fn named(self) -> impl Iterator<Item = NamedPort> {
        self.ports.into_iter().flatten().filter_map(|port| {
            Some(NamedPort {
                name: port.name.filter(|name| !name.is_empty())?,
                protocol: port.protocol.unwrap_or_else(|| TCP.into()),
                number: port.container_port,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn both(pod: &Value) -> (PodBrief, PodBrief) {
        let whole: Pod = serde_json::from_value(pod.clone()).expect("a pod");
        let brief = serde_json::from_slice(&serde_json::to_vec(pod).expect("JSON")).expect("a brief");
        (brief, PodBrief::from(&whole))
    }

    #[test]
    fn a_brief_says_of_the_json_what_would_be_said_of_the_pod() {
        let condition =
            |kind: &str, status: &str| json!({ "type": kind, "status": status, "message": "a \"b\"" });
        let mut ready = condition("Ready", "True");
        ready["lastTransitionTime"] = "2026-01-02T03:04:05Z".into();
        for pod in [
            json!({ "metadata": { "name": "bare" } }),
            json!({ "spec": null, "status": null }),
            json!({ "spec": { "nodeName": "", "containers": [] }, "status": { "phase": "Unheard" } }),
            json!({ "spec": { "nodeName": "n1", "containers": [] }, "status": { "phase": "Failed", "conditions": null } }),
            json!({ "status": { "phase": "Succeeded", "conditions": [] } }),
            json!({ "status": { "phase": "Running", "conditions": [condition("Other", "True"), ready] } }),
            json!({ "status": { "conditions": [condition("Ready", "False"), condition("DisruptionTarget", "True")] } }),
            json!({ "status": { "conditions": [condition("DisruptionTarget", "Unknown"), condition("PodResizePending", "True")] } }),
            json!({ "status": { "conditions": [condition("PodResizeInProgress", "False")] } }),
            json!({ "status": { "podIP": "10.1.0.7" } }),
            json!({ "status": { "podIP": "10.1.0.7", "podIPs": [{ "ip": "10.1.0.7" }, { "ip": "fd00::7" }] } }),
            json!({ "status": { "podIP": "", "podIPs": null } }),
            json!({ "spec": { "hostname": "web-0", "containers": [{ "name": "a", "ports": null }] } }),
            json!({ "spec": {
                "hostname": "web-0", "subdomain": "web", "initContainers": [
                    { "name": "first", "ports": [{ "name": "early", "containerPort": 1 }] },
                    { "name": "sidecar", "restartPolicy": "Always", "ports": [{ "name": "late", "containerPort": 2 }] },
                ],
                "containers": [{ "name": "a", "ports": [
                    { "containerPort": 80 },
                    { "name": "http", "protocol": "UDP", "containerPort": 81 },
                ] }],
            } }),
        ] {
            let (brief, whole) = both(&pod);
            assert_eq!(brief, whole, "{pod}");
        }
    }

    #[test]
    fn a_port_is_found_by_name_and_protocol() {
        let pod = json!({ "spec": { "containers": [{ "name": "a", "ports": [
            { "name": "dns", "protocol": "UDP", "containerPort": 53 }, { "name": "http", "containerPort": 80 },
        ] }] } });
        let ((one, _), (other, _)) = (both(&pod), both(&pod));
        assert!(Arc::ptr_eq(&one.ports, &other.ports), "pods of a set share them");
        let found = [("http", "TCP"), ("dns", "UDP"), ("dns", "TCP"), ("", "TCP")];
        assert_eq!(
            found.map(|(name, protocol)| one.named_port(name, protocol)),
            [Some(80), Some(53), None, None]
        );
    }

    #[test]
    fn a_pod_is_available_when_it_was_ready_for_long_enough() {
        let ready =
            json!({ "type": "Ready", "status": "True", "lastTransitionTime": "2026-01-02T03:04:05Z" });
        let (brief, _) = both(&json!({ "status": { "conditions": [ready] } }));
        let now = "2026-01-02T03:04:15Z".parse().expect("a time");
        let seconds = |wanted| brief.available_in(wanted, now).map(|wait| wait.as_secs());
        assert_eq!((seconds(0), seconds(10), seconds(25)), (Some(0), Some(0), Some(15)));
        let (unready, _) = both(&json!({ "status": { "conditions": [] } }));
        assert_eq!(unready.available_in(0, now), None);
    }
}
