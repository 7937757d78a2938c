//! Where a container sees the pod's volumes: as directories, or as raw block devices.

use k8s_openapi::api::core::v1::{Container, VolumeDevice, VolumeMount};
use naru_model::validation::{FieldErrors, Path};
use std::collections::BTreeSet;

use super::{Check, OrEmpty, check};

impl Check<'_> {
    pub(super) fn volume_mounts(&self, container: &Container, path: &Path, errors: &mut FieldErrors) {
        let devices = container.volume_devices.or_empty();
        let mut taken = BTreeSet::new();
        for (index, mount) in container.volume_mounts.or_empty().iter().enumerate() {
            let item = path.index(index);
            if mount.name.is_empty() {
                errors.required(&item.child("name"), "");
            }
            if !self.volumes.contains_key(mount.name.as_str()) {
                check::not_found(&item.child("name"), &mount.name, errors);
            }
            if mount.mount_path.is_empty() {
                errors.required(&item.child("mountPath"), "");
            }
            if !taken.insert(mount.mount_path.as_str()) {
                errors.invalid(&item.child("mountPath"), mount.mount_path.as_str(), "must be unique");
            }
            if devices.iter().any(|device| device.name == mount.name) {
                let detail = "must not already exist in volumeDevices";
                errors.invalid(&item.child("name"), mount.name.as_str(), detail);
            }
            if devices.iter().any(|device| device.device_path == mount.mount_path) {
                let detail = "must not already exist as a path in volumeDevices";
                errors.invalid(&item.child("mountPath"), mount.mount_path.as_str(), detail);
            }
            sub_path(mount, path, &item, errors);
            propagation(mount, container, path, errors);
            recursive_read_only(mount, path, errors);
        }
    }

    pub(super) fn volume_devices(&self, container: &Container, path: &Path, errors: &mut FieldErrors) {
        let mounts = container.volume_mounts.or_empty();
        let (mut names, mut paths) = (BTreeSet::new(), BTreeSet::new());
        for (index, device) in container.volume_devices.or_empty().iter().enumerate() {
            let item = path.index(index);
            let name_path = item.child("name");
            let name = device.name.as_str();
            if name.is_empty() {
                errors.required(&name_path, "");
            } else if !names.insert(name) {
                errors.invalid(&name_path, name, "must be unique");
            }
            match self.volumes.get(name) {
                None => check::not_found(&name_path, name, errors),
                Some(volume) if volume.persistent_volume_claim.is_none() && volume.ephemeral.is_none() => errors.invalid(
                    &name_path,
                    name,
                    "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
                ),
                Some(_) => {}
            }
            device_path(device, &mut paths, &item.child("devicePath"), errors);
            if mounts.iter().any(|mount| mount.name == name) {
                errors.invalid(&name_path, name, "must not already exist in volumeMounts");
            }
            if mounts.iter().any(|mount| mount.mount_path == device.device_path) {
                let detail = "must not already exist as a path in volumeMounts";
                errors.invalid(&item.child("devicePath"), device.device_path.as_str(), detail);
            }
        }
    }
}

fn device_path<'a>(
    device: &'a VolumeDevice,
    taken: &mut BTreeSet<&'a str>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let value = device.device_path.as_str();
    if value.is_empty() {
        errors.required(path, "");
    }
    if taken.contains(value) {
        errors.invalid(path, value, "must be unique");
    }
    if check::has_backstep(value) {
        errors.invalid(path, value, "can not contain backsteps ('..')");
    } else {
        taken.insert(value);
    }
}

/// `list` is where Kubernetes reports the paths' own faults: beside the list, not inside it.
fn sub_path(mount: &VolumeMount, list: &Path, item: &Path, errors: &mut FieldErrors) {
    let (fixed, expanded) = (mount.sub_path.or_empty(), mount.sub_path_expr.or_empty());
    if !fixed.is_empty() {
        check::local_path(fixed, &list.child("subPath"), errors);
    }
    if !expanded.is_empty() {
        if !fixed.is_empty() {
            let detail = "subPathExpr and subPath are mutually exclusive";
            errors.invalid(&item.child("subPathExpr"), expanded, detail);
        }
        check::local_path(expanded, &list.child("subPathExpr"), errors);
    }
}

fn propagation(mount: &VolumeMount, container: &Container, list: &Path, errors: &mut FieldErrors) {
    let Some(propagation) = mount.mount_propagation.as_deref() else { return };
    let path = list.child("mountPropagation");
    check::one_of(propagation, &["Bidirectional", "HostToContainer", "None"], &path, errors);
    let is_privileged =
        container.security_context.as_ref().and_then(|context| context.privileged) == Some(true);
    if propagation == "Bidirectional" && !is_privileged {
        errors.forbidden(&path, "Bidirectional mount propagation is available only to privileged containers");
    }
}

fn recursive_read_only(mount: &VolumeMount, list: &Path, errors: &mut FieldErrors) {
    let path = list.child("recursiveReadOnly");
    match mount.recursive_read_only.as_deref() {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if mount.read_only != Some(true) {
                errors.forbidden(&path, "may only be specified when readOnly is true");
            }
            if mount.mount_propagation.as_deref().is_some_and(|propagation| propagation != "None") {
                errors
                    .forbidden(&path, "may only be specified when mountPropagation is None or not specified");
            }
        }
        Some(other) => errors.not_supported(&path, other, &["Disabled", "Enabled", "IfPossible"]),
    }
}
