//! The Node object: registered, kept up to date, and kept alive by a Lease.

use std::{collections::BTreeMap, fs, sync::Arc, time::Duration};

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::{
            ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec,
            NodeStatus as ApiNodeStatus, NodeSystemInfo,
        },
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time},
    },
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{events::EventKind, resources::Allocatable, settings::AgentSettings, shared::Shared};

const KUBELET_VERSION: &str = concat!("v1.37.0+naru", env!("CARGO_PKG_VERSION"));
/// A status without news is told this often.
const REPORT_EVERY: Duration = Duration::from_mins(5);
/// While the node is not ready, or its pods' images change, it is looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(10);
const LOOK_WHILE_UNREADY: Duration = Duration::from_millis(25);
const RETRY_AFTER: Duration = Duration::from_millis(200);
const MAX_IMAGES: usize = 50;
/// A lease outlives this many missed renewals.
const LEASE_PERIODS: u64 = 4;

pub struct NodeStatus {
    client: Client,
    shared: Arc<Shared>,
    name: String,
    addresses: Vec<String>,
    labels: BTreeMap<String, String>,
    pod_cidr: Option<String>,
    capacity: BTreeMap<String, Quantity>,
    api_port: u16,
    heartbeat: Duration,
    /// What the runtime has been told.
    configured_cidr: Option<String>,
    told: Option<ApiNodeStatus>,
    was_ready: Option<bool>,
}

impl NodeStatus {
    pub fn new(settings: &AgentSettings, client: Client, shared: Arc<Shared>, api_port: u16) -> Self {
        Self {
            client,
            shared,
            name: settings.node_name.clone(),
            addresses: settings.node_addresses.clone(),
            labels: settings.labels.clone(),
            pod_cidr: settings.pod_cidr.clone(),
            capacity: capacity(settings),
            api_port,
            heartbeat: settings.heartbeat,
            configured_cidr: None,
            told: None,
            was_ready: None,
        }
    }

    fn api(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }

    /// Registers, then reports until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let Some(node) = shutdown.run_until_cancelled(self.register_until_it_works()).await else { return };
        let lease = renew_lease(self.client.clone(), node.clone(), self.heartbeat);
        let _lease = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(lease));
        self.on_node(&node).await;
        let config = watcher::Config::default().fields(&format!("metadata.name={}", self.name));
        let mut watch = watcher(self.api(), config).default_backoff().boxed();
        let mut report_at = Instant::now() + REPORT_EVERY;
        let shared = self.shared.clone();
        loop {
            let is_due = Instant::now() >= report_at;
            let is_ready = self.report(is_due).await;
            if is_due {
                report_at = Instant::now() + REPORT_EVERY;
            }
            let pause = if is_ready { LOOK_EVERY } else { LOOK_WHILE_UNREADY };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => (),
                () = shared.runtime_connected.notified() => self.configured_cidr = None,
                Some(event) = watch.next() => match event {
                    Ok(watcher::Event::Apply(node) | watcher::Event::InitApply(node)) => self.on_node(&node).await,
                    Ok(watcher::Event::Delete(_)) => self.register_again().await,
                    Ok(_) | Err(_) => (), // The watch resumes by itself.
                },
            }
        }
    }

    async fn register_again(&mut self) {
        tracing::warn!(node = self.name, "the Node was deleted; registering again");
        self.told = None;
        self.register_until_it_works().await;
    }

    async fn register_until_it_works(&mut self) -> Node {
        let mut last_reason = String::new();
        loop {
            match self.register().await {
                Ok(node) => return node,
                Err(error) => {
                    let reason = error.to_string();
                    if reason != last_reason {
                        tracing::warn!(node = self.name, reason, "registration failed and will be retried");
                        last_reason = reason;
                    }
                    tokio::time::sleep(RETRY_AFTER).await;
                }
            }
        }
    }

    /// Creates the Node, or adopts it with today's labels.
    async fn register(&mut self) -> Result<Node, kube::Error> {
        let metadata = ObjectMeta {
            name: Some(self.name.clone()),
            labels: Some(self.all_labels()),
            ..Default::default()
        };
        let pod_cidrs = self.pod_cidr.clone().map(|cidr| vec![cidr]);
        let spec = NodeSpec { pod_cidr: self.pod_cidr.clone(), pod_cidrs, ..Default::default() };
        let status = self.status().await;
        let node = Node { metadata, spec: Some(spec), status: Some(status) };
        match self.api().create(&PostParams::default(), &node).await {
            Ok(created) => Ok(created),
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let patch = json!({ "metadata": { "labels": self.all_labels() } });
                self.api().patch(&self.name, &PatchParams::default(), &Patch::Strategic(patch)).await
            }
            Err(error) => Err(error),
        }
    }

    fn all_labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.labels.clone();
        let arch = architecture();
        for (key, value) in [
            ("kubernetes.io/hostname", self.name.as_str()),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", arch),
            ("beta.kubernetes.io/os", "linux"),
            ("beta.kubernetes.io/arch", arch),
        ] {
            labels.entry(key.into()).or_insert_with(|| value.into());
        }
        labels
    }

    /// Hands the pod range on to the runtime when it is known or has changed.
    async fn on_node(&mut self, node: &Node) {
        let Some(cidr) = node.spec.as_ref().and_then(|spec| spec.pod_cidr.clone()) else { return };
        if self.configured_cidr.as_deref() == Some(&cidr) {
            return;
        }
        match self.shared.runtime.set_pod_cidr(&cidr).await {
            Ok(()) => self.configured_cidr = Some(cidr),
            // Looked at again with the next report; until then the node is not ready.
            Err(error) => tracing::debug!(%error, cidr, "the runtime did not take the pod range"),
        }
    }

    /// Writes the status if it has changed or is due; says whether the node is ready.
    async fn report(&mut self, is_due: bool) -> bool {
        if self.configured_cidr.is_none()
            && let Ok(node) = self.api().get(&self.name).await
        {
            self.on_node(&node).await;
        }
        let status = self.status().await;
        let is_ready = is_ready(&status);
        if self.was_ready != Some(is_ready) {
            let reason = if is_ready { "NodeReady" } else { "NodeNotReady" };
            let message = format!("Node {} status is now: {reason}", self.name);
            self.shared.events.node(&self.name, EventKind::Normal, reason, message);
            self.was_ready = Some(is_ready);
        }
        let is_news = !self.told.as_ref().is_some_and(|told| says_the_same(told, &status));
        if is_news || is_due {
            let patch = json!({ "status": patch_of(&status) });
            let written =
                self.api().patch_status(&self.name, &PatchParams::default(), &Patch::Strategic(&patch)).await;
            match written {
                Ok(_) => self.told = Some(status),
                Err(error) => {
                    tracing::warn!(%error, node = self.name, "the node's status could not be written");
                }
            }
        }
        is_ready
    }

    async fn status(&self) -> ApiNodeStatus {
        let version = self.shared.runtime.version().await;
        let runtime_version = version.as_ref().map_or_else(
            |_| "naru://unknown".to_owned(),
            |version| format!("{}://{}", version.runtime_name, version.runtime_version),
        );
        let ready = match &version {
            Err(error) => Err(format!("container runtime is down: {error}")),
            Ok(_) => self.runtime_ready().await,
        };
        let internal = self.addresses.iter().map(|address| ("InternalIP", address.clone()));
        let addresses = internal.chain([("Hostname", self.name.clone())]);
        ApiNodeStatus {
            addresses: Some(
                addresses.map(|(kind, address)| NodeAddress { address, type_: kind.into() }).collect(),
            ),
            capacity: Some(self.capacity.clone()),
            allocatable: Some(self.capacity.clone()),
            conditions: Some(self.conditions(ready)),
            daemon_endpoints: Some(NodeDaemonEndpoints {
                kubelet_endpoint: Some(DaemonEndpoint { port: self.api_port.into() }),
            }),
            node_info: Some(system_info(runtime_version)),
            images: Some(self.images().await),
            ..Default::default()
        }
    }

    async fn runtime_ready(&self) -> Result<(), String> {
        let conditions = self.shared.runtime.conditions().await.map_err(|error| error.message)?;
        let mut reasons = Vec::new();
        for condition in conditions.iter().filter(|condition| !condition.status) {
            let what = match condition.r#type.as_str() {
                "NetworkReady" => "container runtime network not ready",
                "RuntimeReady" => "container runtime not ready",
                _ => continue,
            };
            reasons.push(format!(
                "{what}: {}=false reason:{} message:{}",
                condition.r#type, condition.reason, condition.message
            ));
        }
        if self.configured_cidr.is_none() && reasons.is_empty() {
            reasons.push("container runtime network not ready: the node has no podCIDR yet".into());
        }
        if reasons.is_empty() { Ok(()) } else { Err(format!("[{}]", reasons.join(", "))) }
    }

    fn conditions(&self, ready: Result<(), String>) -> Vec<NodeCondition> {
        let free = [
            ("MemoryPressure", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            ("DiskPressure", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            ("PIDPressure", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ];
        let mut conditions: Vec<_> = free
            .into_iter()
            .map(|(kind, reason, message)| self.condition(kind, false, reason, message))
            .collect();
        conditions.push(match ready {
            Ok(()) => self.condition("Ready", true, "KubeletReady", "kubelet is posting ready status"),
            Err(reason) => self.condition("Ready", false, "KubeletNotReady", &reason),
        });
        conditions
    }

    fn condition(&self, kind: &str, holds: bool, reason: &str, message: &str) -> NodeCondition {
        let now = Time(now_in_seconds());
        let status = if holds { "True" } else { "False" };
        let told = self.told.as_ref().and_then(|told| told.conditions.as_ref()).into_iter().flatten();
        let unchanged = told.into_iter().find(|told| told.type_ == kind && told.status == status);
        NodeCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_heartbeat_time: Some(now.clone()),
            last_transition_time: unchanged.and_then(|told| told.last_transition_time.clone()).or(Some(now)),
        }
    }

    /// The largest first, as many as the kubelet reports.
    async fn images(&self) -> Vec<ContainerImage> {
        let mut images = self.shared.runtime.list_images().await.unwrap_or_default();
        images.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
        let to_api = |image: k8s_cri::v1::Image| ContainerImage {
            names: Some(image.repo_digests.into_iter().chain(image.repo_tags).take(5).collect()),
            size_bytes: Some(image.size as i64),
        };
        images.into_iter().take(MAX_IMAGES).map(to_api).collect()
    }
}

fn is_ready(status: &ApiNodeStatus) -> bool {
    status
        .conditions
        .iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Equal but for the times of the heartbeats.
fn says_the_same(old: &ApiNodeStatus, new: &ApiNodeStatus) -> bool {
    let timeless = |status: &ApiNodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            (condition.last_heartbeat_time, condition.last_transition_time) = (None, None);
        }
        status
    };
    timeless(old) == timeless(new)
}

/// Addresses merge by type in a strategic patch: the whole list is meant.
fn patch_of(status: &ApiNodeStatus) -> Value {
    let mut patch = serde_json::to_value(status).expect("a status is plain data");
    if let Some(addresses) = patch.get_mut("addresses").and_then(Value::as_array_mut) {
        addresses.push(json!({ "$patch": "replace" }));
    }
    patch
}

fn now_in_seconds() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// Renews the node's Lease for as long as it is polled; creates it where it is missing.
async fn renew_lease(client: Client, node: Node, heartbeat: Duration) {
    let api: Api<Lease> = Api::namespaced(client, "kube-node-lease");
    let name = node.metadata.name.clone().unwrap_or_default();
    let owner = OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: name.clone(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        ..Default::default()
    };
    loop {
        let now = MicroTime(Timestamp::now());
        let patch = json!({ "spec": { "renewTime": now, "holderIdentity": name } });
        let renewed = api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        let result = match renewed {
            Err(kube::Error::Api(status)) if status.code == 404 => {
                let lease = Lease {
                    metadata: ObjectMeta {
                        name: Some(name.clone()),
                        owner_references: Some(vec![owner.clone()]),
                        ..Default::default()
                    },
                    spec: Some(LeaseSpec {
                        holder_identity: Some(name.clone()),
                        lease_duration_seconds: Some((heartbeat.as_secs().max(1) * LEASE_PERIODS) as i32),
                        renew_time: Some(now),
                        ..Default::default()
                    }),
                };
                api.create(&PostParams::default(), &lease).await
            }
            other => other,
        };
        match result {
            Ok(_) => tokio::time::sleep(heartbeat).await,
            Err(error) => {
                tracing::warn!(%error, node = name, "the node's lease could not be renewed");
                tokio::time::sleep(RETRY_AFTER.max(heartbeat / 10)).await;
            }
        }
    }
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn system_info(container_runtime_version: String) -> NodeSystemInfo {
    let uname = rustix::system::uname();
    let read = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
    let machine_id = read("/etc/machine-id");
    NodeSystemInfo {
        architecture: architecture().into(),
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        container_runtime_version,
        kernel_version: uname.release().to_string_lossy().into_owned(),
        kubelet_version: KUBELET_VERSION.into(),
        kube_proxy_version: KUBELET_VERSION.into(),
        operating_system: "linux".into(),
        os_image: os_image(&read("/etc/os-release")),
        system_uuid: machine_id.clone(),
        machine_id,
        ..Default::default()
    }
}

fn os_image(os_release: &str) -> String {
    let pretty = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    pretty.map_or_else(|| "Linux".into(), |name| name.trim_matches('"').to_owned())
}

struct Machine {
    cpu_millis: u64,
    memory_bytes: u64,
    disk_bytes: u64,
}

fn machine(settings: &AgentSettings) -> Machine {
    let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64);
    let disk = rustix::fs::statvfs(&settings.data_dir).map_or(0, |disk| disk.f_blocks * disk.f_frsize);
    Machine {
        cpu_millis: settings.cpu_millis.unwrap_or(cpus * 1000),
        memory_bytes: settings.memory_bytes.unwrap_or_else(total_memory),
        disk_bytes: disk,
    }
}

fn total_memory() -> u64 {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = info.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes = total.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}

fn capacity(settings: &AgentSettings) -> BTreeMap<String, Quantity> {
    let machine = machine(settings);
    let cpu = if machine.cpu_millis.is_multiple_of(1000) {
        (machine.cpu_millis / 1000).to_string()
    } else {
        format!("{}m", machine.cpu_millis)
    };
    [
        ("cpu", cpu),
        ("memory", format!("{}Ki", machine.memory_bytes / 1024)),
        ("ephemeral-storage", format!("{}Ki", machine.disk_bytes / 1024)),
        ("pods", settings.max_pods.to_string()),
    ]
    .into_iter()
    .map(|(name, amount)| (name.to_owned(), Quantity(amount)))
    .collect()
}

/// All of the machine, or of the part of it that this node has, is for pods.
pub fn machine_allocatable(settings: &AgentSettings) -> Allocatable {
    let machine = machine(settings);
    Allocatable {
        cpu_millis: machine.cpu_millis as i64,
        memory_bytes: machine.memory_bytes as i64,
        ephemeral_storage_bytes: machine.disk_bytes as i64,
    }
}
