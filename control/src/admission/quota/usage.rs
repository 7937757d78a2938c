//! What an object uses of a quota, and which quotas are about it.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::core::v1::{
        Container, PersistentVolumeClaim, Pod, PodAffinityTerm, PodSpec, ResourceQuota,
        ScopedResourceSelectorRequirement, Service,
    },
    apimachinery::pkg::api::resource::Quantity as ApiQuantity,
    jiff::{SignedDuration, Timestamp},
};
use naru_model::{
    pod::{self, Resources},
    quantity::{Format, Quantity},
};

use crate::{admission::storage::class_of, registry::AnyObject};

pub const PODS: &str = "pods";
pub const SERVICES: &str = "services";
pub const CLAIMS: &str = "persistentvolumeclaims";
const COUNT: &str = "count/";
const CLASS_SUFFIX: &str = ".storageclass.storage.k8s.io/";
/// Core resources that may be counted under their plain name, too.
const COUNTED: [&str; 4] = ["configmaps", "replicationcontrollers", "resourcequotas", "secrets"];
const COMPUTE: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
/// What each container must say where a quota tracks it.
const MUST_SAY: [&str; 6] =
    ["cpu", "limits.cpu", "limits.memory", "memory", "requests.cpu", "requests.memory"];

/// Whether objects of `resource` use what a quota calls `name`.
pub fn uses(resource: &str, name: &str) -> bool {
    if let Some(counted) = name.strip_prefix(COUNT) {
        return counted == resource;
    }
    match resource {
        PODS => {
            let plain =
                name.strip_prefix("requests.").or_else(|| name.strip_prefix("limits.")).unwrap_or(name);
            let is_huge = name.strip_prefix("requests.").unwrap_or(name).starts_with("hugepages-");
            let is_extended =
                name.starts_with("requests.") && name.contains('/') && !name.contains("kubernetes.io/");
            name == PODS || COMPUTE.contains(&plain) || is_huge || is_extended
        }
        SERVICES => matches!(name, SERVICES | "services.loadbalancers" | "services.nodeports"),
        CLAIMS => matches!(name, CLAIMS | "requests.storage") || name.contains(CLASS_SUFFIX),
        _ => name == resource && COUNTED.contains(&resource),
    }
}

/// The resource whose objects use what a quota calls `name`.
pub fn resource_using(name: &str) -> Option<&str> {
    if let Some(counted) = name.strip_prefix(COUNT) {
        return Some(counted);
    }
    let candidates = [SERVICES, CLAIMS, PODS].into_iter().chain(COUNTED);
    candidates.into_iter().find(|resource| uses(resource, name))
}

/// What one object uses, by the names of quotas.
pub fn measure(resource: &str, object: &dyn AnyObject, now: Timestamp) -> Resources {
    let one = Quantity::from_units(1, Format::DecimalSi);
    let mut used = Resources::from([(format!("{COUNT}{resource}"), one)]);
    if let Some(pod) = object.get::<Pod>() {
        measure_pod(pod, now, &mut used);
    } else if let Some(service) = object.get::<Service>() {
        measure_service(service, &mut used);
    } else if let Some(claim) = object.get::<PersistentVolumeClaim>() {
        measure_claim(claim, &mut used);
    } else if COUNTED.contains(&resource) {
        used.insert(resource.into(), one);
    }
    used
}

/// A pod that has ended, or should have by now, is counted and no more.
fn measure_pod(pod: &Pod, now: Timestamp, used: &mut Resources) {
    let grace = SignedDuration::from_secs(pod.metadata.deletion_grace_period_seconds.unwrap_or(0));
    let is_overdue =
        pod.metadata.deletion_timestamp.as_ref().is_some_and(|deadline| now > deadline.0 + grace);
    let Some(spec) = pod.spec.as_ref().filter(|_| !pod::is_terminal(pod) && !is_overdue) else { return };
    used.insert(PODS.into(), Quantity::from_units(1, Format::DecimalSi));
    used.extend(compute(&pod::requests(spec), &pod::limits(spec)));
}

fn compute(requests: &Resources, limits: &Resources) -> Resources {
    let mut used = Resources::new();
    for (name, quantity) in requests {
        let is_huge = name.starts_with("hugepages-");
        let is_extended = name.contains('/') && !name.contains("kubernetes.io/");
        if COMPUTE.contains(&name.as_str()) || is_huge {
            used.insert(name.clone(), *quantity);
        }
        if COMPUTE.contains(&name.as_str()) || is_huge || is_extended {
            used.insert(format!("requests.{name}"), *quantity);
        }
    }
    let limited = limits.iter().filter(|(name, _)| COMPUTE.contains(&name.as_str()));
    used.extend(limited.map(|(name, quantity)| (format!("limits.{name}"), *quantity)));
    used
}

fn measure_service(service: &Service, used: &mut Resources) {
    let count = |count: usize| Quantity::from_units(count as i64, Format::DecimalSi);
    used.insert(SERVICES.into(), count(1));
    let Some(spec) = &service.spec else { return };
    let ports = spec.ports.as_deref().unwrap_or_default();
    let node_ports = match spec.type_.as_deref() {
        Some("NodePort") => ports.len(),
        Some("LoadBalancer") => {
            used.insert("services.loadbalancers".into(), count(1));
            if spec.allocate_load_balancer_node_ports == Some(false) {
                ports.iter().filter(|port| port.node_port.is_some_and(|port| port != 0)).count()
            } else {
                ports.len()
            }
        }
        _ => 0,
    };
    used.insert("services.nodeports".into(), count(node_ports));
}

fn measure_claim(claim: &PersistentVolumeClaim, used: &mut Resources) {
    let one = Quantity::from_units(1, Format::DecimalSi);
    let class =
        class_of(claim).filter(|class| !class.is_empty()).map(|class| format!("{class}{CLASS_SUFFIX}"));
    used.insert(CLAIMS.into(), one);
    used.extend(class.iter().map(|class| (format!("{class}{CLAIMS}"), one)));
    let requests = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
    let storage = requests.and_then(|requests| Quantity::try_from(requests.get("storage")?).ok());
    if let Some(storage) = storage {
        used.insert("requests.storage".into(), storage);
        used.extend(class.map(|class| (format!("{class}requests.storage"), storage)));
    }
}

/// What the pod's containers must say and do not, where the quota tracks `names`: `cpu for: a,b; memory for: a`.
pub fn unsaid<'a>(names: impl Iterator<Item = &'a String>, pod: &Pod) -> Option<String> {
    let names: BTreeSet<&str> = names.map(String::as_str).filter(|name| MUST_SAY.contains(name)).collect();
    if names.is_empty() {
        return None;
    }
    let spec = pod.spec.as_ref()?;
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        let said = said(container);
        for name in names.iter().filter(|name| !said.contains_key(**name)) {
            missing.entry(name).or_default().insert(&container.name);
        }
    }
    let texts = missing.into_iter().map(|(name, containers)| {
        format!("{name} for: {}", containers.into_iter().collect::<Vec<_>>().join(","))
    });
    let texts: Vec<_> = texts.collect();
    (!texts.is_empty()).then(|| texts.join("; "))
}

fn said(container: &Container) -> Resources {
    let side = |amounts: Option<&BTreeMap<String, ApiQuantity>>| -> Resources {
        let parsed = |(name, quantity): (&String, &ApiQuantity)| {
            Some((name.clone(), Quantity::try_from(quantity).ok()?))
        };
        amounts.into_iter().flatten().filter_map(parsed).collect()
    };
    let resources = container.resources.as_ref();
    compute(
        &side(resources.and_then(|resources| resources.requests.as_ref())),
        &side(resources.and_then(|resources| resources.limits.as_ref())),
    )
}

/// Whether the quota's scopes hold for the object; those that it has none of hold for no object.
pub fn is_in_scope(quota: &ResourceQuota, object: &dyn AnyObject) -> bool {
    let Some(spec) = &quota.spec else { return true };
    let exists = |scope: &String| ScopedResourceSelectorRequirement {
        scope_name: scope.clone(),
        operator: "Exists".into(),
        values: None,
    };
    let plain: Vec<_> = spec.scopes.iter().flatten().map(exists).collect();
    let selected =
        spec.scope_selector.iter().flat_map(|selector| selector.match_expressions.iter().flatten());
    plain.iter().chain(selected).all(|requirement| is_matched(requirement, object))
}

fn is_matched(requirement: &ScopedResourceSelectorRequirement, object: &dyn AnyObject) -> bool {
    if let Some(claim) = object.get::<PersistentVolumeClaim>() {
        let class = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref());
        return requirement.scope_name == "VolumeAttributesClass" && selects(requirement, class);
    }
    let Some(spec) = object.get::<Pod>().and_then(|pod| pod.spec.as_ref()) else { return false };
    let is_terminating = spec.active_deadline_seconds.is_some_and(|seconds| seconds >= 0);
    let is_best_effort = || pod::qos_class(spec) == "BestEffort";
    match requirement.scope_name.as_str() {
        "Terminating" => is_terminating,
        "NotTerminating" => !is_terminating,
        "BestEffort" => is_best_effort(),
        "NotBestEffort" => !is_best_effort(),
        "PriorityClass" => selects(requirement, spec.priority_class_name.as_deref()),
        "CrossNamespacePodAffinity" => looks_across_namespaces(spec),
        _ => false,
    }
}

fn selects(requirement: &ScopedResourceSelectorRequirement, value: Option<&str>) -> bool {
    let value = value.filter(|value| !value.is_empty());
    let is_listed =
        || value.is_some_and(|value| requirement.values.iter().flatten().any(|other| other == value));
    match requirement.operator.as_str() {
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "In" => is_listed(),
        "NotIn" => !is_listed(),
        _ => false,
    }
}

fn looks_across_namespaces(spec: &PodSpec) -> bool {
    let Some(affinity) = &spec.affinity else { return false };
    let (near, far) = (affinity.pod_affinity.as_ref(), affinity.pod_anti_affinity.as_ref());
    let required = near
        .and_then(|near| near.required_during_scheduling_ignored_during_execution.as_ref())
        .into_iter()
        .chain(far.and_then(|far| far.required_during_scheduling_ignored_during_execution.as_ref()))
        .flatten();
    let preferred = near
        .and_then(|near| near.preferred_during_scheduling_ignored_during_execution.as_ref())
        .into_iter()
        .chain(far.and_then(|far| far.preferred_during_scheduling_ignored_during_execution.as_ref()))
        .flatten();
    let crosses = |term: &PodAffinityTerm| {
        term.namespaces.as_ref().is_some_and(|namespaces| !namespaces.is_empty())
            || term.namespace_selector.is_some()
    };
    required.into_iter().any(crosses) || preferred.into_iter().any(|term| crosses(&term.pod_affinity_term))
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use super::*;

    fn object<T: DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).expect("a valid object")
    }

    fn pod(spec: Value) -> Pod {
        object(json!({ "metadata": { "name": "web" }, "spec": spec }))
    }

    fn web() -> Value {
        json!({ "containers": [{ "name": "web", "resources": {
            "requests": { "cpu": "100m", "memory": "1Mi", "example.com/gpu": "2" }, "limits": { "cpu": "1" },
        } }] })
    }

    #[test]
    fn objects_use_what_kubernetes_counts() {
        let now = Timestamp::UNIX_EPOCH;
        let node_port = json!({ "type": "NodePort", "ports": [{ "port": 1 }, { "port": 2 }] });
        let service: Service = object(json!({ "metadata": {}, "spec": node_port }));
        let data = json!({ "storageClassName": "fast", "resources": { "requests": { "storage": "1Gi" } } });
        let claim: PersistentVolumeClaim = object(json!({ "metadata": {}, "spec": data }));
        let mut ended = pod(web());
        ended.status = Some(object(json!({ "phase": "Succeeded" })));
        let cases: [(&str, &dyn AnyObject, &str); 4] = [
            (
                PODS,
                &pod(web()),
                "count/pods=1,cpu=100m,limits.cpu=1,memory=1Mi,pods=1,requests.cpu=100m,requests.example.com/gpu=2,\
                 requests.memory=1Mi",
            ),
            (PODS, &ended, "count/pods=1"),
            (SERVICES, &service, "count/services=1,services=1,services.nodeports=2"),
            (
                CLAIMS,
                &claim,
                "count/persistentvolumeclaims=1,fast.storageclass.storage.k8s.io/persistentvolumeclaims=1,\
                 fast.storageclass.storage.k8s.io/requests.storage=1Gi,persistentvolumeclaims=1,requests.storage=1Gi",
            ),
        ];
        for (resource, object, expected) in cases {
            let used = measure(resource, object, now);
            let texts = used.iter().map(|(name, amount)| format!("{name}={amount}"));
            assert_eq!(texts.collect::<Vec<_>>().join(","), expected);
            assert!(used.keys().all(|name| uses(resource, name) && resource_using(name) == Some(resource)));
        }
    }

    #[test]
    fn scopes_choose_pods() {
        let deadline = json!({ "containers": [], "activeDeadlineSeconds": 5 });
        let high = json!({ "containers": [], "priorityClassName": "high" });
        let high_only = json!({ "scopeSelector": { "matchExpressions": [
            { "scopeName": "PriorityClass", "operator": "In", "values": ["high"] },
        ] } });
        let cases = [
            (json!({ "scopes": ["Terminating"] }), deadline.clone(), true),
            (json!({ "scopes": ["NotTerminating"] }), deadline, false),
            (json!({ "scopes": ["BestEffort"] }), web(), false),
            (json!({ "scopes": ["NotBestEffort", "NotTerminating"] }), web(), true),
            (high_only.clone(), high, true),
            (high_only, web(), false),
            (json!({}), web(), true),
        ];
        for (quota, spec, expected) in cases {
            let text = format!("{quota} {spec}");
            let quota: ResourceQuota = object(json!({ "metadata": {}, "spec": quota }));
            assert_eq!(is_in_scope(&quota, &pod(spec)), expected, "{text}");
        }
    }

    #[test]
    fn containers_must_say_what_is_tracked() {
        let tracked = ["limits.memory", "requests.cpu", "pods", "limits.cpu"].map(str::to_owned);
        assert_eq!(unsaid(tracked.iter(), &pod(web())).as_deref(), Some("limits.memory for: web"));
        assert_eq!(unsaid(tracked[1..].iter(), &pod(web())), None);
    }
}
