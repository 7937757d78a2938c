//! LimitRanger: containers get a namespace's default requests and limits, and containers, pods and claims stay
//! within its bounds.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::core::v1::{
        Container, LimitRange, LimitRangeItem, PersistentVolumeClaim, Pod, ResourceRequirements,
    },
    apimachinery::pkg::api::resource::Quantity as ApiQuantity,
};
use naru_model::{
    pod::{self, Resources},
    quantity::Quantity,
};

use super::chain::{Plugin, Write};
use crate::{ApiError, registry::AnyObject, store::Scope};

const RANGES: &str = "limitranges";
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

type Amounts = Option<BTreeMap<String, ApiQuantity>>;

pub(super) struct LimitRanger;

impl Plugin for LimitRanger {
    fn mutate(&self, write: &Write<'_>, object: &mut dyn AnyObject) -> Result<(), ApiError> {
        if let Some(pod) = object.get_mut::<Pod>().filter(|_| write.sets_resources()) {
            // A subresource of the spec changes no metadata.
            let annotations = (!write.is_create()).then(|| pod.metadata.annotations.clone());
            for range in ranges(write) {
                set_defaults(&range, pod);
            }
            if let Some(annotations) = annotations {
                pod.metadata.annotations = annotations;
            }
        }
        Ok(())
    }

    fn validate(&self, write: &Write<'_>, object: &dyn AnyObject) -> Result<(), ApiError> {
        let pod = object.get::<Pod>().filter(|_| write.sets_resources());
        let claim = object.get::<PersistentVolumeClaim>();
        if pod.is_none() && claim.is_none() {
            return Ok(());
        }
        for range in ranges(write) {
            let violations = match (pod, claim) {
                (Some(pod), _) => pod_violations(&range, pod),
                (_, Some(claim)) => claim_violations(&range, claim),
                _ => Vec::new(),
            };
            if !violations.is_empty() {
                return Err(write.refuse(object, aggregate(&violations)));
            }
        }
        Ok(())
    }
}

fn ranges(write: &Write<'_>) -> Vec<Arc<LimitRange>> {
    if !write.view.holds(RANGES) {
        return Vec::new();
    }
    write.view.list(&Scope::namespace(RANGES, write.call.namespace))
}

/// As Kubernetes joins errors: `a`, or `[a, b]`.
fn aggregate(violations: &[String]) -> String {
    match violations {
        [only] => only.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

/// Gives each container what it does not say itself, and tells in an annotation what that was.
fn set_defaults(range: &LimitRange, pod: &mut Pod) {
    let (mut requests, mut limits) = (BTreeMap::new(), BTreeMap::new());
    for item in items(range, "Container") {
        requests.extend(item.default_request.clone().unwrap_or_default());
        limits.extend(item.default.clone().unwrap_or_default());
    }
    let Some(spec) = pod.spec.as_mut() else { return };
    let mut told = Vec::new();
    let mut set = |container: &mut Container, what: &str| {
        if requests.is_empty() && limits.is_empty() {
            return;
        }
        let resources = container.resources.get_or_insert_default();
        for (side, defaults, word) in
            [(&mut resources.requests, &requests, "request"), (&mut resources.limits, &limits, "limit")]
        {
            let new = add_missing(side, defaults);
            if !new.is_empty() {
                told.push(format!("{} {word} for {what} {}", new.join(", "), container.name));
            }
        }
    };
    spec.containers.iter_mut().for_each(|container| set(container, "container"));
    spec.init_containers.iter_mut().flatten().for_each(|container| set(container, "init container"));
    if !told.is_empty() {
        let text = format!("LimitRanger plugin set: {}", told.join("; "));
        pod.metadata.annotations.get_or_insert_default().insert(ANNOTATION.into(), text);
    }
}

/// Answers the names that were added.
fn add_missing(amounts: &mut Amounts, defaults: &BTreeMap<String, ApiQuantity>) -> Vec<String> {
    let mut new = Vec::new();
    for (name, quantity) in defaults {
        let amounts = amounts.get_or_insert_default();
        if !amounts.contains_key(name) {
            amounts.insert(name.clone(), quantity.clone());
            new.push(name.clone());
        }
    }
    new
}

fn items<'a>(range: &'a LimitRange, type_: &'a str) -> impl Iterator<Item = &'a LimitRangeItem> {
    range.spec.iter().flat_map(|spec| &spec.limits).filter(move |item| item.type_ == type_)
}

fn pod_violations(range: &LimitRange, pod: &Pod) -> Vec<String> {
    let mut violations = Vec::new();
    let Some(spec) = &pod.spec else { return violations };
    let nothing = ResourceRequirements::default();
    for item in items(range, "Container") {
        for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
            let resources = container.resources.as_ref().unwrap_or(&nothing);
            let bounds =
                Bounds { item, requests: amounts(&resources.requests), limits: amounts(&resources.limits) };
            bounds.check(&mut violations);
        }
    }
    for item in items(range, "Pod") {
        Bounds { item, requests: pod::requests(spec), limits: pod::limits(spec) }.check(&mut violations);
    }
    violations
}

/// Claims have requests only.
fn claim_violations(range: &LimitRange, claim: &PersistentVolumeClaim) -> Vec<String> {
    let mut violations = Vec::new();
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let requests = resources.map(|resources| amounts(&resources.requests)).unwrap_or_default();
    for item in items(range, "PersistentVolumeClaim") {
        let bounds = Bounds { item, requests: requests.clone(), limits: Resources::new() };
        violations.extend(amounts(&item.min).iter().filter_map(|(name, bound)| bounds.min(name, *bound)));
        violations
            .extend(amounts(&item.max).iter().filter_map(|(name, bound)| bounds.max_request(name, *bound)));
    }
    violations
}

fn amounts(amounts: &Amounts) -> Resources {
    let parsed =
        |(name, quantity): (&String, &ApiQuantity)| Some((name.clone(), Quantity::try_from(quantity).ok()?));
    amounts.iter().flatten().filter_map(parsed).collect()
}

/// What something requests and is limited to, against one item of a range.
struct Bounds<'a> {
    item: &'a LimitRangeItem,
    requests: Resources,
    limits: Resources,
}

impl Bounds<'_> {
    fn check(&self, violations: &mut Vec<String>) {
        violations.extend(amounts(&self.item.min).iter().filter_map(|(name, bound)| self.min(name, *bound)));
        violations.extend(amounts(&self.item.max).iter().filter_map(|(name, bound)| self.max(name, *bound)));
        let ratios = amounts(&self.item.max_limit_request_ratio);
        violations.extend(ratios.iter().filter_map(|(name, bound)| self.ratio(name, *bound)));
    }

    fn min(&self, name: &str, bound: Quantity) -> Option<String> {
        let head = format!("minimum {name} usage per {} is {bound}", self.item.type_);
        match (self.requests.get(name), self.limits.get(name)) {
            (None, _) => Some(format!("{head}.  No request is specified")),
            (Some(request), _) if *request < bound => Some(format!("{head}, but request is {request}")),
            (_, Some(limit)) if *limit < bound => Some(format!("{head}, but limit is {limit}")),
            _ => None,
        }
    }

    fn max(&self, name: &str, bound: Quantity) -> Option<String> {
        let head = format!("maximum {name} usage per {} is {bound}", self.item.type_);
        match (self.limits.get(name), self.requests.get(name)) {
            (None, _) => Some(format!("{head}.  No limit is specified")),
            (Some(limit), _) if *limit > bound => Some(format!("{head}, but limit is {limit}")),
            (_, Some(request)) if *request > bound => Some(format!("{head}, but request is {request}")),
            _ => None,
        }
    }

    fn max_request(&self, name: &str, bound: Quantity) -> Option<String> {
        let head = format!("maximum {name} usage per {} is {bound}", self.item.type_);
        match self.requests.get(name) {
            None => Some(format!("{head}.  No request is specified")),
            Some(request) if *request > bound => Some(format!("{head}, but request is {request}")),
            Some(_) => None,
        }
    }

    fn ratio(&self, name: &str, bound: Quantity) -> Option<String> {
        let head = format!("{name} max limit to request ratio per {} is {bound}", self.item.type_);
        let given = |amounts: &Resources| amounts.get(name).copied().filter(|amount| !amount.is_zero());
        let Some(request) = given(&self.requests) else {
            return Some(format!("{head}, but no request is specified or request is 0"));
        };
        let Some(limit) = given(&self.limits) else {
            return Some(format!("{head}, but no limit is specified or limit is 0"));
        };
        let ratio = limit.nanos() as f64 / request.nanos() as f64;
        let allowed = bound.nanos() as f64 / 1e9;
        (ratio > allowed).then(|| format!("{head}, but provided ratio is {ratio:.6}"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn range(item: Value) -> LimitRange {
        serde_json::from_value(json!({ "metadata": { "name": "bounds" }, "spec": { "limits": [item] } }))
            .expect("a range")
    }

    fn pod(resources: Value) -> Pod {
        let container = json!({ "name": "web", "resources": resources });
        serde_json::from_value(
            json!({ "metadata": { "name": "web" }, "spec": { "containers": [container] } }),
        )
        .expect("a pod")
    }

    #[test]
    fn containers_get_defaults_for_what_they_do_not_say() {
        let range = range(json!({
            "type": "Container",
            "default": { "cpu": "500m", "memory": "64Mi" }, "defaultRequest": { "cpu": "100m" },
        }));
        let cases = [
            (
                json!({}),
                json!({ "limits": { "cpu": "500m", "memory": "64Mi" }, "requests": { "cpu": "100m" } }),
                Some("cpu request for container web; cpu, memory limit for container web"),
            ),
            (
                json!({ "limits": { "cpu": "1" }, "requests": { "cpu": "1" } }),
                json!({ "limits": { "cpu": "1", "memory": "64Mi" }, "requests": { "cpu": "1" } }),
                Some("memory limit for container web"),
            ),
            (
                json!({ "limits": { "cpu": "1", "memory": "1" }, "requests": { "cpu": "1" } }),
                json!({ "limits": { "cpu": "1", "memory": "1" }, "requests": { "cpu": "1" } }),
                None,
            ),
        ];
        for (given, expected, told) in cases {
            let mut pod = pod(given);
            set_defaults(&range, &mut pod);
            let value = serde_json::to_value(&pod).expect("pods serialize");
            assert_eq!(value["spec"]["containers"][0]["resources"], expected);
            let annotation = pod.metadata.annotations.and_then(|mut all| all.remove(ANNOTATION));
            assert_eq!(annotation, told.map(|told| format!("LimitRanger plugin set: {told}")));
        }
    }

    #[test]
    fn pods_stay_within_bounds() {
        let cpu = |request: &str, limit: &str| json!({ "requests": { "cpu": request }, "limits": { "cpu": limit } });
        let min = json!({ "type": "Container", "min": { "cpu": "100m" } });
        let max = json!({ "type": "Pod", "max": { "cpu": "1" } });
        let ratio = json!({ "type": "Container", "maxLimitRequestRatio": { "cpu": "2" } });
        let cases = [
            (&min, json!({}), "minimum cpu usage per Container is 100m.  No request is specified"),
            (&min, cpu("50m", "1"), "minimum cpu usage per Container is 100m, but request is 50m"),
            (&min, cpu("100m", "1"), ""),
            (&max, json!({}), "maximum cpu usage per Pod is 1.  No limit is specified"),
            (&max, cpu("1", "1100m"), "maximum cpu usage per Pod is 1, but limit is 1100m"),
            (&max, cpu("1", "1"), ""),
            (
                &ratio,
                json!({ "limits": { "cpu": "1" } }),
                "cpu max limit to request ratio per Container is 2, but no request is specified or request is 0",
            ),
            (
                &ratio,
                cpu("100m", "250m"),
                "cpu max limit to request ratio per Container is 2, but provided ratio is 2.500000",
            ),
            (&ratio, cpu("100m", "200m"), ""),
        ];
        for (item, resources, expected) in cases {
            assert_eq!(pod_violations(&range(item.clone()), &pod(resources)).join("; "), expected);
        }
    }

    #[test]
    fn claims_stay_within_bounds() {
        let range = range(json!({
            "type": "PersistentVolumeClaim", "min": { "storage": "1Gi" }, "max": { "storage": "2Gi" },
        }));
        let cases = [
            ("512Mi", "minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 512Mi"),
            ("3Gi", "maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi"),
            ("2Gi", ""),
        ];
        for (storage, expected) in cases {
            let spec = json!({ "resources": { "requests": { "storage": storage } } });
            let claim = serde_json::from_value(json!({ "metadata": { "name": "data" }, "spec": spec }));
            assert_eq!(claim_violations(&range, &claim.expect("a claim")).join("; "), expected);
        }
    }
}
