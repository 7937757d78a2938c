//! Lets go of deleted claims and volumes once nothing uses them: admission put finalizers on them.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use naru_model::{Object, pod::is_terminal};
use serde_json::json;

use super::{
    common::is_deleting,
    framework::{Cache, Change, ClusterView, Plan, Reconciler, Write, brief, decoded, key_of},
};
use crate::{
    admission::storage::{CLAIM_FINALIZER, VOLUME_FINALIZER},
    store::Key,
};

/// Claims that pods use stay.
pub struct Claims;

impl Reconciler for Claims {
    type Object = PersistentVolumeClaim;

    fn name(&self) -> &'static str {
        "pvc-protection-controller"
    }

    fn concerns(&self, change: &Change<'_>, cache: &Cache, look: &mut dyn FnMut(Key)) {
        if !change.is::<Pod>() {
            return;
        }
        if !change.is_deleted && brief(change.entry).is_some_and(|pod| !pod.is_terminal) {
            return;
        }
        let Some(pod) = decoded::<Pod>(change.entry) else { return };
        for name in claims_of(&pod) {
            let key = key_of::<PersistentVolumeClaim>(pod.namespace(), &name);
            if cache.entry(&key).is_some_and(|entry| entry.meta.deletion_timestamp.is_some()) {
                look(key);
            }
        }
    }

    fn reconcile(&self, claim: &PersistentVolumeClaim, view: &ClusterView<'_>) -> Plan {
        if !is_deleting(claim) {
            return Plan::nothing();
        }
        let mut pods = view.cache.list::<Pod>(Some(claim.namespace()));
        if pods.any(|pod| !is_terminal(&pod) && claims_of(&pod).any(|name| name == claim.name())) {
            return Plan::nothing();
        }
        without(claim, CLAIM_FINALIZER)
    }
}

/// The claims that the pod's volumes name, and those that are made for it.
fn claims_of(pod: &Pod) -> impl Iterator<Item = String> + use<'_> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => Some(source.claim_name.clone()),
        (None, Some(_)) => Some(format!("{}-{}", pod.name(), volume.name)),
        (None, None) => None,
    })
}

/// Volumes that are bound stay.
pub struct Volumes;

impl Reconciler for Volumes {
    type Object = PersistentVolume;

    fn name(&self) -> &'static str {
        "pv-protection-controller"
    }

    fn reconcile(&self, volume: &PersistentVolume, _view: &ClusterView<'_>) -> Plan {
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        if is_deleting(volume) && phase != Some("Bound") {
            return without(volume, VOLUME_FINALIZER);
        }
        Plan::nothing()
    }
}

fn without<T: Object>(object: &T, finalizer: &str) -> Plan {
    let metadata = object.metadata();
    let finalizers = metadata.finalizers.as_deref().unwrap_or_default();
    if !finalizers.iter().any(|other| other == finalizer) {
        return Plan::nothing();
    }
    let others: Vec<_> = finalizers.iter().filter(|other| *other != finalizer).collect();
    let metadata =
        json!({ "uid": metadata.uid, "resourceVersion": metadata.resource_version, "finalizers": others });
    let mut plan = Plan::nothing();
    let key = key_of::<T>(object.namespace(), object.name());
    plan.then([Write::merge_patch(key, "", json!({ "metadata": metadata }))]);
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::{
        framework::Typed,
        testing::{World, named, pod},
    };

    #[test]
    fn a_deleted_claim_stays_while_a_pod_uses_it() {
        let mut world = World::default();
        let controller = Typed(Claims);
        let mut metadata = named("data");
        metadata.finalizers = Some(vec![CLAIM_FINALIZER.into()]);
        world.add(PersistentVolumeClaim { metadata, ..Default::default() });
        let mut user = pod("web", "web");
        let volume = json!({ "name": "data", "persistentVolumeClaim": { "claimName": "data" } });
        user.spec.get_or_insert_default().volumes =
            Some(vec![serde_json::from_value(volume).expect("a volume")]);
        world.add(user);
        let key = key_of::<PersistentVolumeClaim>("default", "data");
        world.delete(&key, &Default::default());
        world.look(&controller, &key);
        assert!(world.find::<PersistentVolumeClaim>("default", "data").is_some(), "a pod uses it");
        world.delete(&key_of::<Pod>("default", "web"), &Default::default());
        world.look(&controller, &key);
        assert!(world.find::<PersistentVolumeClaim>("default", "data").is_none());
    }
}
