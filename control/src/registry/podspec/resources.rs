//! Requests, limits and claims: names, amounts, and the quality of service that follows from them.

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceClaim, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use naru_model::{
    quantity::{Format, Quantity},
    validation::{FieldErrors, Path},
};
use std::collections::{BTreeMap, BTreeSet};

use super::{Check, OrEmpty, check};

pub type ResourceList = BTreeMap<String, ApiQuantity>;

const HUGE_PAGES: &str = "hugepages-";
const NATIVE_PREFIX: &str = "kubernetes.io/";

/// Rewrites a quantity as the API shows it, rounded up to thousandths as Kubernetes keeps them.
pub fn canonicalize(quantity: &mut ApiQuantity) {
    let Ok(parsed) = Quantity::try_from(&*quantity) else { return };
    let canonical = if parsed.is_whole_milli() { parsed } else { Quantity::from_milli(parsed.milli_value()) };
    *quantity = canonical.into();
}

/// The same for a whole list; what cannot be read stays for validation to refuse.
pub(in crate::registry) fn canonical_quantities(list: Option<&mut ResourceList>) {
    list.into_iter().flatten().for_each(|(_, quantity)| canonicalize(quantity));
}

/// The amount of one resource in a list; zero where it is missing or unreadable.
pub fn amount(list: Option<&ResourceList>, name: &str) -> Quantity {
    list.and_then(|list| list.get(name))
        .and_then(|quantity| quantity.try_into().ok())
        .unwrap_or(Quantity::ZERO)
}

/// Names without a domain, and those of `kubernetes.io`, are Kubernetes' own.
fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains(NATIVE_PREFIX)
}

/// A resource that device plugins and the like offer: counted in whole pieces, never overcommitted.
fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && check::qualified_name_messages(&format!("requests.{name}")).is_empty()
}

fn is_huge_page(name: &str) -> bool {
    name.starts_with(HUGE_PAGES)
}

pub(in crate::registry) fn allows_overcommit(name: &str) -> bool {
    is_native(name) && !is_huge_page(name)
}

fn must_be_whole(name: &str) -> bool {
    // The counted resources of quotas share the rule; none of them is valid in a container.
    is_extended(name)
}

/// Requests that pods declare as a whole may be of these resources only.
fn is_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || is_huge_page(name)
}

/// One container's `resources`, or a pod's.
pub(super) enum Owner {
    Container,
    Pod,
}

impl Check<'_> {
    pub(super) fn resources(
        &self,
        resources: &ResourceRequirements,
        owner: &Owner,
        path: &Path,
        errors: &mut FieldErrors,
    ) {
        let (limits_path, requests_path) = (path.child("limits"), path.child("requests"));
        for (name, quantity) in resources.limits.iter().flatten() {
            let path = limits_path.key(name);
            resource_name(name, owner, &path, errors);
            resource_amount(name, quantity, &path, errors);
        }
        for (name, quantity) in resources.requests.iter().flatten() {
            let path = requests_path.key(name);
            resource_name(name, owner, &path, errors);
            resource_amount(name, quantity, &path, errors);
            let limit = resources.limits.as_ref().and_then(|limits| limits.get(name));
            request_within_limit(name, quantity, limit, &limits_path, &requests_path, errors);
        }
        let names = || {
            resources.limits.iter().flatten().chain(resources.requests.iter().flatten()).map(|(name, _)| name)
        };
        if names().any(|name| is_huge_page(name)) && !names().any(|name| name == "cpu" || name == "memory") {
            errors.forbidden(path, "HugePages require cpu or memory");
        }
        self.claim_references(resources.claims.or_empty(), &path.child("claims"), errors);
    }

    fn claim_references(&self, claims: &[ResourceClaim], path: &Path, errors: &mut FieldErrors) {
        let mut seen = BTreeSet::new();
        for (index, claim) in claims.iter().enumerate() {
            let path = path.index(index);
            let (name, request) = (claim.name.as_str(), claim.request.or_empty());
            if name.is_empty() {
                errors.required(&path, "");
                continue;
            }
            if !request.is_empty() {
                check::dns_label(request, &path.child("request"), errors);
            }
            // Naming a whole claim overlaps with naming any of its requests.
            let overlaps = |&(other, part): &(&str, &str)| {
                other == name && (part.is_empty() || request.is_empty() || part == request)
            };
            if seen.iter().any(overlaps) {
                let value = if request.is_empty() { name.into() } else { format!("{name}/{request}") };
                errors.duplicate(&path, value);
            }
            seen.insert((name, request));
            if !self.claims.contains(name) {
                let known = self.claims.iter().copied().collect::<Vec<_>>().join(", ");
                let known = if known.is_empty() { " which is empty".into() } else { format!(": {known}") };
                check::not_found_with(
                    &path,
                    name,
                    &format!("must be one of the names in pod.spec.resourceClaims{known}"),
                    errors,
                );
            }
        }
    }

    /// `spec.resources`: what the pod as a whole may use.
    pub(super) fn pod_resources(&self, path: &Path, errors: &mut FieldErrors) {
        let Some(resources) = &self.spec.resources else { return };
        if resources.claims.is_some() {
            errors.forbidden(&path.child("claims"), "claims cannot be set for Resources at pod-level");
        }
        self.resources(resources, &Owner::Pod, path, errors);
        for (name, needed) in &container_requests(self.spec) {
            let granted = amount(resources.requests.as_ref(), name);
            if *needed > granted {
                errors.invalid(
                    &path.child("requests").key(name),
                    granted.to_string(),
                    &format!("must be greater than or equal to aggregate container requests of {needed}"),
                );
            }
        }
        for (index, container) in self.spec.containers.iter().enumerate() {
            let limits = container.resources.iter().flat_map(|resources| resources.limits.iter().flatten());
            for (name, limit) in limits {
                let Some(pod_limit) = resources.limits.as_ref().and_then(|limits| limits.get(name)) else {
                    continue;
                };
                let Ok(limit) = Quantity::try_from(limit) else { continue };
                if Quantity::try_from(pod_limit).is_ok_and(|pod_limit| limit > pod_limit) {
                    errors.invalid(
                        &path.child("containers").index(index).key(name).child("limits"),
                        limit.to_string(),
                        &format!("must be less than or equal to pod limits of {}", pod_limit.0),
                    );
                }
            }
        }
    }
}

/// A resource that a container may ask for.
pub(in crate::registry) fn container_resource_name(name: &str, path: &Path, errors: &mut FieldErrors) {
    resource_name(name, &Owner::Container, path, errors);
}

fn resource_name(name: &str, owner: &Owner, path: &Path, errors: &mut FieldErrors) {
    let before = errors.0.len();
    check::qualified_name(name, path, errors);
    if errors.0.len() > before {
        return;
    }
    match owner {
        Owner::Pod if !is_pod_level(name) => {
            errors.not_supported(path, name, &["cpu", "hugepages-", "memory"]);
        }
        Owner::Pod => {}
        Owner::Container if !name.contains('/') => {
            if !matches!(name, "cpu" | "memory" | "ephemeral-storage") && !is_huge_page(name) {
                errors.invalid(path, name, "must be a standard resource for containers");
            }
        }
        Owner::Container => {
            if !is_native(name) && !is_extended(name) {
                errors.invalid(path, name, "doesn't follow extended resource name standard");
            }
        }
    }
}

pub(in crate::registry) fn resource_amount(
    name: &str,
    quantity: &ApiQuantity,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let parsed = match Quantity::try_from(quantity) {
        Ok(parsed) => parsed,
        Err(error) => return errors.invalid(path, quantity.0.as_str(), &error.to_string()),
    };
    if parsed.is_negative() {
        errors.invalid(path, parsed.to_string(), check::NOT_NEGATIVE);
    }
    if must_be_whole(name) && !parsed.is_whole() {
        errors.invalid(path, parsed.to_string(), "must be an integer");
    }
    if let Some(size) = name.strip_prefix(HUGE_PAGES) {
        let fits = size.parse::<Quantity>().is_ok_and(|size| {
            size > Quantity::ZERO && !parsed.is_zero() && parsed.nanos() % size.nanos() == 0
        });
        if !fits {
            errors.invalid(
                path,
                parsed.to_string(),
                &format!("{parsed} is not positive integer multiple of {name}"),
            );
        }
    }
}

fn request_within_limit(
    name: &str,
    request: &ApiQuantity,
    limit: Option<&ApiQuantity>,
    limits_path: &Path,
    requests_path: &Path,
    errors: &mut FieldErrors,
) {
    let Some(limit) = limit else {
        if !allows_overcommit(name) {
            errors.required(limits_path, "Limit must be set for non overcommitable resources");
        }
        return;
    };
    let (Ok(request), Ok(limit)) = (Quantity::try_from(request), Quantity::try_from(limit)) else { return };
    if request != limit && !allows_overcommit(name) {
        errors.invalid(
            requests_path,
            request.to_string(),
            &format!("must be equal to {name} limit of {limit}"),
        );
    } else if request > limit {
        errors.invalid(
            requests_path,
            request.to_string(),
            &format!("must be less than or equal to {name} limit of {limit}"),
        );
    }
}

/// What the containers request together: all ordinary ones and sidecars at once, or the hungriest moment of the
/// init sequence, whichever is more.
pub fn container_requests(spec: &PodSpec) -> BTreeMap<String, Quantity> {
    together(spec, |resources| resources.requests.as_ref())
}

fn together(
    spec: &PodSpec,
    list: fn(&ResourceRequirements) -> Option<&ResourceList>,
) -> BTreeMap<String, Quantity> {
    let requests = |container: &Container| -> BTreeMap<String, Quantity> {
        let list = container.resources.as_ref().and_then(list).into_iter().flatten();
        list.filter_map(|(name, quantity)| Some((name.clone(), quantity.try_into().ok()?))).collect()
    };
    let add = |sum: &mut BTreeMap<String, Quantity>, more: &BTreeMap<String, Quantity>| {
        for (name, quantity) in more {
            *sum.entry(name.clone()).or_insert(Quantity::ZERO) += *quantity;
        }
    };
    let mut running = BTreeMap::new();
    for container in &spec.containers {
        add(&mut running, &requests(container));
    }
    let (mut sidecars, mut peak) = (BTreeMap::new(), BTreeMap::<String, Quantity>::new());
    for container in spec.init_containers.or_empty() {
        let mut now = requests(container);
        if is_sidecar(container) {
            add(&mut running, &now);
            add(&mut sidecars, &now);
            now.clone_from(&sidecars);
        } else {
            add(&mut now, &sidecars);
        }
        for (name, quantity) in now {
            let most = peak.entry(name).or_insert(quantity);
            *most = (*most).max(quantity);
        }
    }
    for (name, quantity) in peak {
        let most = running.entry(name).or_insert(quantity);
        *most = (*most).max(quantity);
    }
    running
}

/// An init container that keeps running beside the others.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Completes the requests and limits of the pod as a whole from those of its containers, where the client began to set
/// them.
pub fn default_pod_level(spec: &mut PodSpec) {
    if spec.resources.is_none() {
        return;
    }
    let (from_containers, limits) = (container_requests(spec), shared_limits(spec));
    let Some(resources) = &mut spec.resources else { return };
    if resources.requests.iter().flatten().next().is_some() {
        for (name, limit) in limits {
            resources.limits.get_or_insert_default().entry(name).or_insert_with(|| limit.into());
        }
    }
    let Some(limits) = resources.limits.clone().filter(|limits| !limits.is_empty()) else { return };
    let requests = resources.requests.get_or_insert_default();
    for (name, quantity) in from_containers {
        if matches!(name.as_str(), "cpu" | "memory") {
            requests.entry(name).or_insert_with(|| quantity.into());
        }
    }
    for (name, limit) in limits {
        if is_pod_level(&name) {
            requests.entry(name).or_insert(limit);
        }
    }
}

/// The limits together, of cpu and memory where every container has one.
fn shared_limits(spec: &PodSpec) -> BTreeMap<String, Quantity> {
    let mut limits = together(spec, |resources| resources.limits.as_ref());
    limits.retain(|name, _| {
        let has_limit = |container: &Container| {
            let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
            limits.is_some_and(|limits| limits.contains_key(name))
        };
        matches!(name.as_str(), "cpu" | "memory")
            && spec.containers.iter().chain(spec.init_containers.or_empty()).all(has_limit)
    });
    limits
}

/// `Guaranteed`, `Burstable` or `BestEffort`: fixed when the pod is created.
pub fn qos_class(spec: &PodSpec) -> &'static str {
    let owners: Vec<Option<&ResourceRequirements>> = match &spec.resources {
        Some(resources) if resources.limits.is_some() || resources.requests.is_some() => {
            vec![Some(resources)]
        }
        _ => {
            let containers = spec.containers.iter().chain(spec.init_containers.or_empty());
            containers.map(|container| container.resources.as_ref()).collect()
        }
    };
    let (mut requests, mut limits) = ([Quantity::ZERO; 2], [Quantity::ZERO; 2]);
    let mut is_guaranteed = true;
    for owner in owners {
        for (index, name) in ["cpu", "memory"].into_iter().enumerate() {
            let limit = amount(owner.and_then(|owner| owner.limits.as_ref()), name);
            limits[index] += limit;
            requests[index] += amount(owner.and_then(|owner| owner.requests.as_ref()), name);
            is_guaranteed &= limit > Quantity::ZERO;
        }
    }
    if requests.iter().chain(&limits).all(|quantity| quantity.is_zero()) {
        "BestEffort"
    } else if is_guaranteed && requests == limits {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

/// Whether a byte count has a fraction: accepted for old manifests' sake, but warned of.
pub(super) fn is_fractional(list: Option<&ResourceList>, name: &str) -> Option<Quantity> {
    Some(amount(list, name)).filter(|quantity| !quantity.is_whole())
}

/// The divisors of a resource reference: whole units, and for cpu thousandths.
pub(super) fn divisor(resource: &str, divisor: Option<&ApiQuantity>, path: &Path, errors: &mut FieldErrors) {
    let Some(divisor) = divisor else { return };
    let parsed = match Quantity::try_from(divisor) {
        Ok(parsed) => parsed,
        Err(error) => return errors.invalid(&path.child("divisor"), divisor.0.as_str(), &error.to_string()),
    };
    if parsed.is_zero() {
        return;
    }
    const BYTES: &[&str] =
        &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    let (supported, what) = match resource {
        "limits.cpu" | "requests.cpu" => (&["1m", "1"][..], "cpu"),
        "limits.memory" | "requests.memory" => (BYTES, "memory"),
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => (BYTES, "local ephemeral storage"),
        name if name.starts_with("limits.hugepages-") || name.starts_with("requests.hugepages-") => {
            (BYTES, "hugepages")
        }
        _ => return,
    };
    let text = parsed.to_string();
    if parsed.format() == Format::DecimalExponent || !supported.contains(&text.as_str()) {
        let list = if what == "cpu" { "1m and 1".into() } else { supported.join(", ") };
        errors.invalid(
            &path.child("divisor"),
            resource,
            &format!("only divisor's values {list} are supported with the {what} resource"),
        );
    }
}
