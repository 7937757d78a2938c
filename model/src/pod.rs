//! What can be said of a pod by looking at it alone.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, Node, Pod, PodSpec, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity as ApiQuantity,
    jiff::Timestamp,
};

use crate::{condition, quantity::Quantity};

/// The annotation by which a ReplicaSet's pods say what losing them costs.
pub const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Names of RuntimeClasses that need no object: every node's own runtime takes them as its handlers, so that manifests
/// written for others' runtimes apply unchanged. What a container is, its image says.
pub const RUNTIME_HANDLERS: [&str; 8] =
    ["naru", "wasm", "wasmtime", "wasmedge", "spin", "wasmtime-spin-v2", "wws", "slight"];

/// Amounts by resource name (`cpu`, `memory`, `ephemeral-storage`, …).
pub type Resources = BTreeMap<String, Quantity>;

/// Gives back the room that decoding left in the lists of a pod that is kept: a list of one container, volume or
/// status otherwise has room for four, which is most of a decoded pod.
pub fn compact(pod: &mut Pod) {
    fn list<T>(items: &mut Option<Vec<T>>) {
        items.iter_mut().for_each(Vec::shrink_to_fit);
    }
    fn containers(containers: &mut Vec<Container>) {
        containers.shrink_to_fit();
        for container in containers {
            list(&mut container.env);
            list(&mut container.ports);
            list(&mut container.volume_mounts);
        }
    }
    list(&mut pod.metadata.owner_references);
    list(&mut pod.metadata.managed_fields);
    if let Some(spec) = &mut pod.spec {
        containers(&mut spec.containers);
        spec.init_containers.iter_mut().for_each(containers);
        list(&mut spec.tolerations);
        list(&mut spec.volumes);
        for projected in spec.volumes.iter_mut().flatten().filter_map(|volume| volume.projected.as_mut()) {
            list(&mut projected.sources);
        }
    }
    if let Some(status) = &mut pod.status {
        list(&mut status.conditions);
        list(&mut status.container_statuses);
        list(&mut status.init_container_statuses);
        list(&mut status.pod_ips);
        list(&mut status.host_ips);
    }
}

/// `status.phase`, or "Pending" where none is set yet.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

/// Succeeded or Failed: it will never run again.
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Neither terminal nor being deleted: what controllers count.
pub fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && pod.metadata.deletion_timestamp.is_none()
}

pub fn is_ready(pod: &Pod) -> bool {
    condition::is_true(pod.status.as_ref().and_then(|status| status.conditions.as_ref()), "Ready")
}

/// Ready since `min_ready_seconds` at least: what a rollout counts as available.
pub fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let Some(ready) = condition::find(conditions, "Ready").filter(|ready| ready.status == "True") else {
        return false;
    };
    let Some(since) = &ready.last_transition_time else { return min_ready_seconds == 0 };
    min_ready_seconds == 0 || now.duration_since(since.0).as_secs() >= i64::from(min_ready_seconds)
}

/// `spec.nodeName`, if it is scheduled.
pub fn node_name(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

/// An init container that keeps running beside the others (`restartPolicy: Always`).
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// The cost of deleting this pod, 0 where nothing valid is said.
pub fn deletion_cost(pod: &Pod) -> i32 {
    let text = pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(DELETION_COST));
    text.and_then(|text| parse_cost(text)).unwrap_or(0)
}

/// Only the canonical form of a number: no `+`, no leading zeros.
fn parse_cost(text: &str) -> Option<i32> {
    let cost: i32 = text.parse().ok()?;
    (cost.to_string() == text).then_some(cost)
}

/// What the pod asks for in all, as the scheduler reserves it.
///
/// The greater of the containers' sum with all sidecars, and of each ordinary init container with the sidecars
/// started before it; then a pod-level request in its place, and the overhead on top.
pub fn requests(spec: &PodSpec) -> Resources {
    totals(spec, |resources| resources.requests.as_ref())
}

/// What the pod's node must keep free for it: while it is resized, the greater of what it asks for and of what its node
/// says that it has; a size that its node will never give does not count.
pub fn reserved(pod: &Pod) -> Resources {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let Some(status) = pod.status.as_ref().filter(|_| is_resizing(pod)) else { return requests(spec) };
    let is_refused = status.conditions.iter().flatten().any(|condition| {
        condition.type_ == RESIZE_PENDING && condition.reason.as_deref() == Some("Infeasible")
    });
    let mut spec = spec.clone();
    let lists = [&status.container_statuses, &status.init_container_statuses];
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        let known = lists.into_iter().flatten().flatten().find(|status| status.name == container.name);
        let Some(known) = known else { continue };
        let resources = container.resources.get_or_insert_default();
        let asked = resources.requests.as_ref().filter(|_| !is_refused);
        let actual = known.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        let mut greatest = Resources::new();
        for list in [asked, known.allocated_resources.as_ref(), actual] {
            let mut amounts = Resources::new();
            add(&mut amounts, list);
            raise(&mut greatest, &amounts);
        }
        resources.requests =
            Some(greatest.into_iter().map(|(name, amount)| (name, ApiQuantity::from(amount))).collect());
    }
    requests(&spec)
}

const RESIZE_PENDING: &str = "PodResizePending";

/// Whether its node says that the pod has not, or not yet, the sizes that it asks for.
pub fn is_resizing(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|of| matches!(of.type_.as_str(), RESIZE_PENDING | "PodResizeInProgress"))
}

/// The same for limits: the sum of those that are set.
pub fn limits(spec: &PodSpec) -> Resources {
    totals(spec, |resources| resources.limits.as_ref())
}

fn totals<'a>(
    spec: &'a PodSpec,
    side: impl Fn(&'a ResourceRequirements) -> Option<&'a BTreeMap<String, ApiQuantity>>,
) -> Resources {
    let of = |resources: &'a Option<ResourceRequirements>| resources.as_ref().and_then(&side);
    let mut total = Resources::new();
    for container in &spec.containers {
        add(&mut total, of(&container.resources));
    }
    let (mut sidecars, mut greatest_init) = (Resources::new(), Resources::new());
    for container in spec.init_containers.iter().flatten() {
        if is_sidecar(container) {
            add(&mut total, of(&container.resources));
            add(&mut sidecars, of(&container.resources));
            raise(&mut greatest_init, &sidecars);
        } else {
            let mut at_once = sidecars.clone();
            add(&mut at_once, of(&container.resources));
            raise(&mut greatest_init, &at_once);
        }
    }
    raise(&mut total, &greatest_init);
    for (name, quantity) in of(&spec.resources).into_iter().flatten() {
        if is_pod_level(name) {
            total.insert(name.clone(), parse(quantity));
        }
    }
    add(&mut total, spec.overhead.as_ref());
    total
}

/// The resources that `spec.resources` may set for the pod as a whole.
fn is_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

/// Stored objects were validated; anything else counts as nothing.
fn parse(quantity: &ApiQuantity) -> Quantity {
    Quantity::try_from(quantity).unwrap_or_default()
}

fn add(total: &mut Resources, more: Option<&BTreeMap<String, ApiQuantity>>) {
    for (name, quantity) in more.into_iter().flatten() {
        *total.entry(name.clone()).or_default() += parse(quantity);
    }
}

fn raise(total: &mut Resources, floor: &Resources) {
    for (name, quantity) in floor {
        let entry = total.entry(name.clone()).or_default();
        if *quantity > *entry {
            *entry = *quantity;
        }
    }
}

/// `Guaranteed`, `Burstable` or `BestEffort`.
///
/// Guaranteed means that every container (or the pod as a whole) limits both cpu and memory, and requests what
/// it limits; BestEffort that nothing requests or limits either.
pub fn qos_class(spec: &PodSpec) -> &'static str {
    const COMPUTE: [&str; 2] = ["cpu", "memory"];
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let all: Vec<Option<&ResourceRequirements>> = match &spec.resources {
        Some(pod) if pod.requests.is_some() || pod.limits.is_some() => vec![Some(pod)],
        _ => containers.map(|container| container.resources.as_ref()).collect(),
    };
    let amount = |map: Option<&BTreeMap<String, ApiQuantity>>, name: &str| {
        map.and_then(|map| map.get(name)).map(parse).filter(|quantity| !quantity.is_zero())
    };
    let (mut is_best_effort, mut is_guaranteed) = (true, true);
    for resources in all {
        for name in COMPUTE {
            let limit = amount(resources.and_then(|resources| resources.limits.as_ref()), name);
            let request = amount(resources.and_then(|resources| resources.requests.as_ref()), name);
            is_best_effort &= limit.is_none() && request.is_none();
            // A limit without a request is defaulted to be the request, too.
            is_guaranteed &= limit.is_some() && request.is_none_or(|request| Some(request) == limit);
        }
    }
    match (is_best_effort, is_guaranteed) {
        (true, _) => "BestEffort",
        (_, true) => "Guaranteed",
        _ => "Burstable",
    }
}

/// The host ports that the pod takes: (address, protocol, port); the address is "0.0.0.0" where none is given.
pub fn host_ports(spec: &PodSpec) -> impl Iterator<Item = (&str, &str, i32)> {
    let sidecars = spec.init_containers.iter().flatten().filter(|container| is_sidecar(container));
    spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten()).filter_map(
        |port| {
            let number = port.host_port.filter(|number| *number > 0)?;
            let address = port.host_ip.as_deref().filter(|address| !address.is_empty()).unwrap_or("0.0.0.0");
            Some((address, port.protocol.as_deref().unwrap_or("TCP"), number))
        },
    )
}

/// Whether a node's `Ready` condition is `True`.
pub fn is_node_ready(node: &Node) -> bool {
    condition::is_true(node.status.as_ref().and_then(|status| status.conditions.as_ref()), "Ready")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(value: Value) -> PodSpec {
        serde_json::from_value(value).expect("a pod spec")
    }

    fn pod(value: Value) -> Pod {
        serde_json::from_value(value).expect("a pod")
    }

    fn with(cpu: &str, memory: &str) -> Value {
        json!({"requests": {"cpu": cpu, "memory": memory}})
    }

    fn check_requests(value: Value, expected: &[(&str, &str)]) {
        let found = requests(&spec(value));
        let found: Vec<_> = found.iter().map(|(name, amount)| (name.clone(), amount.to_string())).collect();
        let expected: Vec<_> =
            expected.iter().map(|(name, amount)| ((*name).into(), (*amount).into())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn containers_add_up() {
        check_requests(
            json!({"containers": [{"name": "a", "resources": with("100m", "1Gi")}, {"name": "b", "resources": with("200m", "512Mi")}, {"name": "c"}]}),
            &[("cpu", "300m"), ("memory", "1536Mi")],
        );
    }

    #[test]
    fn the_greatest_init_container_counts_if_it_is_greater() {
        check_requests(
            json!({"containers": [{"name": "a", "resources": with("100m", "1Gi")}],
                   "initContainers": [{"name": "i", "resources": with("1", "1Mi")}, {"name": "j", "resources": with("500m", "2Gi")}]}),
            &[("cpu", "1"), ("memory", "2Gi")],
        );
    }

    #[test]
    fn sidecars_add_to_all_that_start_after_them() {
        check_requests(
            json!({"containers": [{"name": "a", "resources": with("100m", "1Gi")}],
                   "initContainers": [
                       {"name": "before", "resources": with("1", "1Mi")},
                       {"name": "side", "restartPolicy": "Always", "resources": with("200m", "1Gi")},
                       {"name": "after", "resources": with("900m", "1Mi")}],
                   "overhead": {"cpu": "10m"}}),
            &[("cpu", "1110m"), ("memory", "2Gi")],
        );
    }

    #[test]
    fn a_request_of_the_pod_replaces_the_sum() {
        check_requests(
            json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "1", "example.com/gpu": "2"}}}],
                   "resources": {"requests": {"cpu": "3"}}}),
            &[("cpu", "3"), ("example.com/gpu", "2")],
        );
    }

    #[test]
    fn a_resize_reserves_the_greater_size_unless_it_is_refused() {
        let reserved = |asked: &str, conditions: Value| {
            let pod = pod(json!({
                "spec": {"containers": [{"name": "a", "resources": with(asked, "1Gi")}]},
                "status": {"conditions": conditions, "containerStatuses": [{
                    "name": "a", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
                    "allocatedResources": {"cpu": "2", "memory": "1Gi"},
                    "resources": {"requests": {"cpu": "3", "memory": "1Gi"}}}]}}));
            super::reserved(&pod)["cpu"].to_string()
        };
        let condition =
            |kind: &str, reason: &str| json!([{"type": kind, "status": "True", "reason": reason}]);
        assert_eq!(reserved("1", json!([])), "1");
        assert_eq!(reserved("1", condition("PodResizeInProgress", "")), "3");
        assert_eq!(reserved("9", condition("PodResizePending", "Deferred")), "9");
        assert_eq!(reserved("9", condition("PodResizePending", "Infeasible")), "3");
    }

    #[test]
    fn qos_follows_requests_and_limits() {
        let both = |cpu: &str, memory: &str| json!({"cpu": cpu, "memory": memory});
        for (resources, expected) in [
            (json!({}), "BestEffort"),
            (json!({"requests": {"cpu": "0"}}), "BestEffort"),
            (json!({"requests": {"ephemeral-storage": "1Gi"}}), "BestEffort"),
            (json!({"requests": {"cpu": "1"}}), "Burstable"),
            (json!({"limits": {"memory": "1Gi"}}), "Burstable"),
            (json!({"limits": both("1", "1Gi")}), "Guaranteed"),
            (json!({"limits": both("1", "1Gi"), "requests": both("1000m", "1024Mi")}), "Guaranteed"),
            (json!({"limits": both("1", "1Gi"), "requests": both("500m", "1Gi")}), "Burstable"),
        ] {
            let found = qos_class(&spec(json!({"containers": [{"name": "a", "resources": resources}]})));
            assert_eq!(found, expected, "{resources}");
        }
        let limits = json!({"limits": both("1", "1Gi")});
        let mixed = json!({"containers": [{"name": "a", "resources": limits}, {"name": "b"}]});
        assert_eq!(qos_class(&spec(mixed)), "Burstable");
    }

    #[test]
    fn host_ports_have_defaults() {
        let spec = spec(json!({"containers": [{"name": "a", "ports": [
            {"containerPort": 80}, {"containerPort": 80, "hostPort": 8080},
            {"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "127.0.0.1"}]}]}));
        assert_eq!(
            host_ports(&spec).collect::<Vec<_>>(),
            [("0.0.0.0", "TCP", 8080), ("127.0.0.1", "UDP", 53)]
        );
    }

    #[test]
    fn readiness_and_availability() {
        let ready = pod(json!({"status": {"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}));
        let at = |text: &str| text.parse::<Timestamp>().expect("a time");
        assert!(is_ready(&ready) && is_active(&ready));
        assert!(is_available(&ready, 0, at("2026-01-01T00:00:00Z")));
        assert!(!is_available(&ready, 10, at("2026-01-01T00:00:09Z")));
        assert!(is_available(&ready, 10, at("2026-01-01T00:00:10Z")));
        let fresh = pod(json!({}));
        assert!(
            !is_ready(&fresh)
                && !is_available(&fresh, 0, at("2026-01-01T00:00:00Z"))
                && phase(&fresh) == "Pending"
        );
        assert!(is_terminal(&pod(json!({"status": {"phase": "Failed"}}))));
        assert!(!is_active(&pod(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}))));
    }

    #[test]
    fn only_canonical_deletion_costs_count() {
        for (text, expected) in [("10", 10), ("-5", -5), ("+5", 0), ("05", 0), ("x", 0), ("99999999999", 0)] {
            let pod = pod(json!({"metadata": {"annotations": {DELETION_COST: text}}}));
            assert_eq!(deletion_cost(&pod), expected, "{text}");
        }
    }
}
