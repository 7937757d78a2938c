//! Claims and volumes: the default class, the finalizers that keep what is in use, and who may grow.

use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim},
    storage::v1::StorageClass,
};
use naru_model::quantity::Quantity;

use super::{
    chain::{Plugin, Write},
    default_class,
};
use crate::{
    ApiError,
    registry::AnyObject,
    store::{Key, Snapshot},
};

pub const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
pub const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";
const CLASSES: &str = "storageclasses.storage.k8s.io";
const IS_DEFAULT: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
/// How claims named their class before they had a field for it.
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// DefaultStorageClass: a claim that names no class gets the default one; "" is the name of none.
pub(super) struct DefaultStorageClass;

impl Plugin for DefaultStorageClass {
    fn mutate(&self, write: &Write<'_>, object: &mut dyn AnyObject) -> Result<(), ApiError> {
        let Some(claim) = object.get_mut::<PersistentVolumeClaim>().filter(|_| write.is_create()) else {
            return Ok(());
        };
        if class_of(claim).is_none() {
            let class = default_class::<StorageClass>(write.view, CLASSES, &IS_DEFAULT);
            claim.spec.get_or_insert_default().storage_class_name =
                class.and_then(|class| class.metadata.name.clone());
        }
        Ok(())
    }
}

/// The class that a claim names.
pub(super) fn class_of(claim: &PersistentVolumeClaim) -> Option<&str> {
    let annotations = claim.metadata.annotations.as_ref();
    let annotated = annotations.and_then(|annotations| annotations.get(CLASS_ANNOTATION));
    annotated.or_else(|| claim.spec.as_ref()?.storage_class_name.as_ref()).map(String::as_str)
}

/// StorageObjectInUseProtection: nothing that is in use goes away; `controllers::volume_protection` lets go.
pub(super) struct ProtectInUse;

impl Plugin for ProtectInUse {
    fn mutate(&self, write: &Write<'_>, object: &mut dyn AnyObject) -> Result<(), ApiError> {
        if !write.is_create() {
            return Ok(());
        }
        let finalizer = if object.get::<PersistentVolumeClaim>().is_some() {
            CLAIM_FINALIZER
        } else if object.get::<PersistentVolume>().is_some() {
            VOLUME_FINALIZER
        } else {
            return Ok(());
        };
        let finalizers = object.meta_mut().finalizers.get_or_insert_default();
        if !finalizers.iter().any(|other| other == finalizer) {
            finalizers.push(finalizer.into());
        }
        Ok(())
    }
}

/// PersistentVolumeClaimResize: a bound claim may grow where its class says so.
pub(super) struct Resize;

impl Plugin for Resize {
    fn validate(&self, write: &Write<'_>, object: &dyn AnyObject) -> Result<(), ApiError> {
        let Some(new) = object.get::<PersistentVolumeClaim>() else { return Ok(()) };
        let Some(old) = write.old.and_then(|old| old.get::<PersistentVolumeClaim>()) else { return Ok(()) };
        if size(new) <= size(old) {
            return Ok(());
        }
        let phase = old.status.as_ref().and_then(|status| status.phase.as_deref());
        if phase != Some("Bound") {
            return Err(write.refuse(object, "Only bound persistent volume claims can be expanded"));
        }
        if !may_grow(write.view, new, old) {
            return Err(write.refuse(
                object,
                "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must \
                 support resize",
            ));
        }
        Ok(())
    }
}

fn size(claim: &PersistentVolumeClaim) -> Quantity {
    let requests = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
    let storage = requests.and_then(|requests| requests.get("storage"));
    storage.and_then(|storage| Quantity::try_from(storage).ok()).unwrap_or_default()
}

fn may_grow(view: &Snapshot, new: &PersistentVolumeClaim, old: &PersistentVolumeClaim) -> bool {
    let Some(name) = class_of(new).filter(|name| !name.is_empty() && Some(*name) == class_of(old)) else {
        return false;
    };
    let class = view.get(&Key::new(CLASSES, "", name)).and_then(|entry| entry.typed::<StorageClass>().ok());
    class.is_some_and(|class| class.allow_volume_expansion == Some(true))
}
