//! A pod, with what every cycle asks of it worked out once.

use std::{collections::BTreeMap, ops::Deref, sync::Arc};

use k8s_openapi::api::core::v1::{Affinity, Pod, PodSpec, Toleration};
use naru_model::{Object, owner, pod};

use super::Amounts;

/// `namespace/name` of a pod.
pub type PodKey = Arc<str>;

/// The name that pods must ask for, or leave unset, to be scheduled here.
pub const SCHEDULER_NAME: &str = "default-scheduler";

/// What a container without requests counts as when nodes are compared (never when they are filtered), so that
/// pods that ask for nothing do not all land on one node.
const DEFAULT_MILLI_CPU: i64 = 100;
const DEFAULT_MEMORY: i64 = 200 << 20;

/// A port of the node that a pod takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    pub address: String,
    pub protocol: String,
    pub port: i32,
}

impl HostPort {
    /// Whether both cannot be open on one node: the unspecified address takes the port on all of them.
    pub fn conflicts_with(&self, other: &Self) -> bool {
        let any = |address: &str| address == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.address == other.address || any(&self.address) || any(&other.address))
    }
}

/// What a pod takes on its node. That is all that is kept of a pod once it is bound: whole pods would be most of the
/// memory that a cluster at rest takes.
#[derive(Debug, PartialEq)]
pub struct Footprint {
    pub key: PodKey,
    uid: Box<str>,
    /// `metadata.generation`: as long as it is the same, and the pod is not being resized, so is all that is here.
    generation: Option<i64>,
    is_resizing: bool,
    pub requests: Amounts,
    /// cpu (in thousandths) and memory with defaults for containers that request nothing.
    pub scored_cpu: i64,
    pub scored_memory: i64,
    pub host_ports: Vec<HostPort>,
    /// The uid of the controlling owner: pods that share it are spread.
    pub workload: Option<Arc<str>>,
}

impl Footprint {
    pub fn of(pod: &Pod) -> Self {
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let requests = Amounts::new(&pod::reserved(pod));
        let lacks =
            |name: &str| spec.containers.iter().filter(|container| requests_nothing(container, name)).count();
        let host_ports = pod::host_ports(spec).map(|(address, protocol, port)| HostPort {
            address: address.into(),
            protocol: protocol.into(),
            port,
        });
        Self {
            key: key_of(pod),
            uid: pod.uid().into(),
            generation: pod.metadata.generation,
            is_resizing: pod::is_resizing(pod),
            scored_cpu: requests.milli_cpu + DEFAULT_MILLI_CPU * lacks("cpu") as i64,
            scored_memory: requests.memory + DEFAULT_MEMORY * lacks("memory") as i64,
            requests,
            host_ports: host_ports.collect(),
            workload: owner::controller_of(&pod.metadata).map(|owner| owner.uid.as_str().into()),
        }
    }

    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// Whether `pod` certainly takes the same: it is the same pod with the same spec.
    pub fn is_of(&self, pod: &Pod) -> bool {
        self.is_at(pod.uid(), pod.metadata.generation) && !pod::is_resizing(pod)
    }

    /// Whether a pod with this uid and generation takes the same, if it is not being resized.
    pub fn is_at(&self, uid: &str, generation: Option<i64>) -> bool {
        *self.uid == *uid && self.generation == generation && self.generation.is_some() && !self.is_resizing
    }
}

/// An immutable pod that waits for a node.
#[derive(Debug)]
pub struct PodInfo {
    pub pod: Arc<Pod>,
    pub priority: i32,
    pub footprint: Arc<Footprint>,
}

impl Deref for PodInfo {
    type Target = Footprint;

    fn deref(&self) -> &Footprint {
        &self.footprint
    }
}

impl PodInfo {
    pub fn new(pod: Arc<Pod>) -> Self {
        let priority = pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0);
        Self { priority, footprint: Arc::new(Footprint::of(&pod)), pod }
    }

    pub fn name(&self) -> &str {
        self.pod.name()
    }

    pub fn namespace(&self) -> &str {
        self.pod.namespace()
    }

    pub fn tolerations(&self) -> &[Toleration] {
        self.spec().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default()
    }

    pub fn affinity(&self) -> Option<&Affinity> {
        self.spec()?.affinity.as_ref()
    }

    pub fn node_selector(&self) -> Option<&BTreeMap<String, String>> {
        self.spec()?.node_selector.as_ref().filter(|selector| !selector.is_empty())
    }

    fn spec(&self) -> Option<&PodSpec> {
        self.pod.spec.as_ref()
    }
}

pub fn key_of(pod: &Pod) -> PodKey {
    format!("{}/{}", pod.namespace(), pod.name()).into()
}

/// Whether this scheduler is the one to place the pod, once nothing gates it.
pub fn is_ours(pod: &Pod) -> bool {
    let name = pod.spec.as_ref().and_then(|spec| spec.scheduler_name.as_deref()).unwrap_or_default();
    matches!(name, "" | SCHEDULER_NAME)
        && pod::node_name(pod).is_none()
        && pod.metadata.deletion_timestamp.is_none()
        && !pod::is_terminal(pod)
}

/// Whether something else still has to allow the pod (`spec.schedulingGates`).
pub fn is_gated(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.scheduling_gates.as_ref()).is_some_and(|gates| !gates.is_empty())
}

fn requests_nothing(container: &k8s_openapi::api::core::v1::Container, name: &str) -> bool {
    let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    requests.is_none_or(|requests| !requests.contains_key(name))
}
