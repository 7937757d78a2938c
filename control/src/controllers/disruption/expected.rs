//! How many pods a budget's workloads ask for, and how many of them the budget wants healthy.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use k8s_openapi::{
    api::policy::v1::PodDisruptionBudget,
    apimachinery::pkg::{apis::meta::v1::OwnerReference, util::intstr::IntOrString},
};
use naru_model::{
    intstr::{Rounding, scaled},
    owner::group_version,
};

use crate::{
    controllers::framework::{Cache, Member, controller_of},
    registry::Kinds,
    store::Entry,
};

/// What a budget stands on.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// The pods that there should be.
    pub pods: i32,
    /// Those of them that must stay healthy.
    pub desired_healthy: i32,
    /// Whether pods were left out because nothing controls them.
    pub has_unmanaged: bool,
}

/// Works out what the budget expects.
///
/// A plain `minAvailable` is about the pods that are there; everything else is a part of what the pods' controllers
/// are scaled to, and percentages are rounded up.
///
/// # Errors
/// In words for the budget's condition: a controller is gone, of no kind that is served, or has no scale.
pub fn expected(
    budget: &PodDisruptionBudget,
    pods: &[Member],
    cache: &Cache,
    kinds: &Kinds,
) -> Result<Expected, String> {
    let Some(spec) = &budget.spec else { return Ok(Expected::default()) };
    let part = |value, total| scaled(value, total, Rounding::Up).map_err(|error| error.to_string());
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => {
            let (total, has_unmanaged) = total_scale(pods, cache, kinds)?;
            let desired_healthy = total.saturating_sub(part(most, total)?).max(0);
            Ok(Expected { pods: total, desired_healthy, has_unmanaged })
        }
        (None, Some(IntOrString::Int(least))) => Ok(Expected {
            pods: i32::try_from(pods.len()).unwrap_or(i32::MAX),
            desired_healthy: *least,
            has_unmanaged: false,
        }),
        (None, Some(least)) => {
            let (total, has_unmanaged) = total_scale(pods, cache, kinds)?;
            Ok(Expected { pods: total, desired_healthy: part(least, total)?, has_unmanaged })
        }
        (None, None) => Ok(Expected::default()),
    }
}

/// The replicas of all controllers of the pods, each controller once; and whether a pod has none.
fn total_scale(pods: &[Member], cache: &Cache, kinds: &Kinds) -> Result<(i32, bool), String> {
    let mut seen = HashSet::new();
    let mut scales = HashMap::new();
    let mut has_unmanaged = false;
    for pod in pods {
        let Some(owner) = controller_of(&pod.entry.meta) else {
            has_unmanaged = true;
            continue;
        };
        if !seen.insert(&owner.uid) {
            continue;
        }
        let Some((uid, replicas)) = scale_of(owner, pod.entry.key.namespace(), cache, kinds)? else {
            return Err(format!("found no controllers for pod {:?}", pod.name()));
        };
        scales.insert(uid, replicas);
    }
    let total = scales.into_values().fold(0, i32::saturating_add);
    Ok((total, has_unmanaged))
}

/// Who decides how many pods like those of `owner` there are, and how many that is. `None`: it is gone.
fn scale_of(
    owner: &OwnerReference,
    namespace: &str,
    cache: &Cache,
    kinds: &Kinds,
) -> Result<Option<(String, i32)>, String> {
    let Some((entry, replicas)) = scaled_owner(owner, namespace, cache, kinds)? else { return Ok(None) };
    // The sets of a Deployment come and go; it alone knows the total.
    if owner.kind == "ReplicaSet"
        && let Some(above) = controller_of(&entry.meta)
        && above.kind == "Deployment"
        && let Some((deployment, replicas)) = scaled_owner(above, namespace, cache, kinds)?
    {
        return Ok(Some((deployment.meta.uid.clone(), replicas)));
    }
    Ok(Some((entry.meta.uid.clone(), replicas)))
}

/// The object that the reference means, and the replicas that its scale asks for.
fn scaled_owner<'a>(
    owner: &OwnerReference,
    namespace: &str,
    cache: &'a Cache,
    kinds: &Kinds,
) -> Result<Option<(&'a Arc<Entry>, i32)>, String> {
    let (group, version) = group_version(owner);
    let served = cache
        .resource_of_kind(group, &owner.kind)
        .and_then(|(_, info)| kinds.find(group, version, info.plural));
    let Some(served) = served else {
        return Err(format!("no matches for kind {:?} in version {:?}", owner.kind, owner.api_version));
    };
    if !served.has_subresource("scale") {
        return Err(format!("{} does not implement the scale subresource", served.info.qualified()));
    }
    let is_it = |entry: &&Arc<Entry>| {
        (entry.key.resource(), entry.key.namespace()) == (&*served.storage, namespace)
            && entry.key.name() == owner.name
    };
    let Some(entry) = cache.by_uid(&owner.uid).filter(is_it) else { return Ok(None) };
    let object = served.kind.load(entry).map_err(|error| format!("{}: {error}", entry.key.as_str()))?;
    Ok(served.kind.scale(&*object).map(|scale| (entry, scale.spec_replicas)))
}
