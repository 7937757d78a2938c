//! Volume sources of storage systems outside the cluster. Nodes of ours mount none of them; manifests that name
//! them are still checked as everywhere.

use k8s_openapi::api::core::v1::{
    AzureDiskVolumeSource, CSIVolumeSource, FCVolumeSource, FlexVolumeSource, FlockerVolumeSource,
    ISCSIVolumeSource, NFSVolumeSource, QuobyteVolumeSource, StorageOSVolumeSource, Volume,
};
use naru_model::validation::{FieldErrors, Path};

use super::{OrEmpty, check, volumes::Sources};

const MAX_QUOBYTE_TENANT: usize = 64;
const MAX_ISCSI_VOLUME: usize = 64;

pub(super) fn cloud_disks(volume: &Volume, sources: &mut Sources<'_>, errors: &mut FieldErrors) {
    sources.take(volume.gce_persistent_disk.as_ref(), "gcePersistentDisk", errors, |disk, path, errors| {
        check::required_text(&disk.pd_name, &path.child("pdName"), errors);
        partition(disk.partition, path, errors);
    });
    sources.take(
        volume.aws_elastic_block_store.as_ref(),
        "awsElasticBlockStore",
        errors,
        |disk, path, errors| {
            check::required_text(&disk.volume_id, &path.child("volumeID"), errors);
            partition(disk.partition, path, errors);
        },
    );
}

pub(super) fn network_disks(volume: &Volume, sources: &mut Sources<'_>, errors: &mut FieldErrors) {
    sources.take(volume.nfs.as_ref(), "nfs", errors, nfs);
    sources.take(volume.iscsi.as_ref(), "iscsi", errors, iscsi);
    if let Some(source) = &volume.iscsi
        && source.initiator_name.is_some()
        && volume.name.len() + 1 + source.target_portal.len() > MAX_ISCSI_VOLUME
    {
        let detail = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if \
                      iscsi.initiatorName is specified.";
        errors.invalid(&sources.path.child("name"), volume.name.as_str(), detail);
    }
    sources.take(volume.glusterfs.as_ref(), "glusterfs", errors, |source, path, errors| {
        check::required_text(&source.endpoints, &path.child("endpoints"), errors);
        check::required_text(&source.path, &path.child("path"), errors);
    });
    sources.take(volume.flocker.as_ref(), "flocker", errors, flocker);
    sources.take(volume.rbd.as_ref(), "rbd", errors, |source, path, errors| {
        if source.monitors.is_empty() {
            errors.required(&path.child("monitors"), "");
        }
        check::required_text(&source.image, &path.child("image"), errors);
    });
    sources.take(volume.cinder.as_ref(), "cinder", errors, |source, path, errors| {
        check::required_text(&source.volume_id, &path.child("volumeID"), errors);
        if let Some(secret) = &source.secret_ref {
            check::required_text(&secret.name, &path.child("secretRef").child("name"), errors);
        }
    });
    sources.take(volume.cephfs.as_ref(), "cephfs", errors, |source, path, errors| {
        if source.monitors.is_empty() {
            errors.required(&path.child("monitors"), "");
        }
    });
    sources.take(volume.quobyte.as_ref(), "quobyte", errors, quobyte);
    sources.take(volume.fc.as_ref(), "fc", errors, fibre_channel);
}

pub(super) fn plugins(volume: &Volume, sources: &mut Sources<'_>, errors: &mut FieldErrors) {
    sources.take(volume.flex_volume.as_ref(), "flexVolume", errors, flex);
    sources.take(volume.azure_file.as_ref(), "azureFile", errors, |source, path, errors| {
        check::required_text(&source.secret_name, &path.child("secretName"), errors);
        check::required_text(&source.share_name, &path.child("shareName"), errors);
    });
    sources.take(volume.vsphere_volume.as_ref(), "vsphereVolume", errors, |source, path, errors| {
        check::required_text(&source.volume_path, &path.child("volumePath"), errors);
    });
    sources.take(
        volume.photon_persistent_disk.as_ref(),
        "photonPersistentDisk",
        errors,
        |source, path, errors| {
            check::required_text(&source.pd_id, &path.child("pdID"), errors);
        },
    );
    sources.take(volume.portworx_volume.as_ref(), "portworxVolume", errors, |source, path, errors| {
        check::required_text(&source.volume_id, &path.child("volumeID"), errors);
    });
    sources.take(volume.azure_disk.as_ref(), "azureDisk", errors, azure_disk);
    sources.take(volume.storageos.as_ref(), "storageos", errors, storage_os);
    sources.take(volume.scale_io.as_ref(), "scaleIO", errors, |source, path, errors| {
        check::required_text(&source.gateway, &path.child("gateway"), errors);
        check::required_text(&source.system, &path.child("system"), errors);
        check::required_text(source.volume_name.or_empty(), &path.child("volumeName"), errors);
    });
    sources.take(volume.csi.as_ref(), "csi", errors, csi);
}

fn partition(partition: Option<i32>, path: &Path, errors: &mut FieldErrors) {
    if let Some(partition) = partition.filter(|partition| !(0..=255).contains(partition)) {
        errors.invalid(&path.child("partition"), partition, "must be between 1 and 255, inclusive");
    }
}

fn lun(lun: i32, path: &Path, errors: &mut FieldErrors) {
    if !(0..=255).contains(&lun) {
        errors.invalid(&path.child("lun"), lun, "must be between 0 and 255, inclusive");
    }
}

fn nfs(source: &NFSVolumeSource, path: &Path, errors: &mut FieldErrors) {
    check::required_text(&source.server, &path.child("server"), errors);
    check::required_text(&source.path, &path.child("path"), errors);
    if !source.path.starts_with('/') {
        errors.invalid(&path.child("path"), source.path.as_str(), "must be an absolute path");
    }
}

fn iscsi(source: &ISCSIVolumeSource, path: &Path, errors: &mut FieldErrors) {
    check::required_text(&source.target_portal, &path.child("targetPortal"), errors);
    if source.iqn.is_empty() {
        errors.required(&path.child("iqn"), "");
    } else {
        iscsi_name(&source.iqn, &path.child("iqn"), errors);
    }
    lun(source.lun, path, errors);
    let uses_chap = source.chap_auth_discovery == Some(true) || source.chap_auth_session == Some(true);
    if uses_chap && source.secret_ref.is_none() {
        errors.required(&path.child("secretRef"), "");
    }
    if let Some(initiator) = &source.initiator_name {
        iscsi_name(initiator, &path.child("initiatorname"), errors);
    }
}

/// `iqn.YYYY-MM.reversed.domain:name`, or an `eui.` or `naa.` number.
fn iscsi_name(name: &str, path: &Path, errors: &mut FieldErrors) {
    let has_digits = |rest: &str, count: usize| {
        rest.len() == count && rest.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    let is_valid = match name.get(..3) {
        Some("iqn") => is_iqn(name),
        Some("eui") => name.len() > 4 && has_digits(name.get(4..).unwrap_or_default(), 16),
        Some("naa") => name.len() > 4 && has_digits(name.get(4..).unwrap_or_default(), 32),
        _ => return errors.invalid(path, name, "must be valid format starting with iqn, eui, or naa"),
    };
    if !is_valid {
        errors.invalid(path, name, "must be valid format");
    }
}

fn is_iqn(name: &str) -> bool {
    let Some((date, rest)) = name.strip_prefix("iqn.").and_then(|rest| rest.split_once('.')) else {
        return false;
    };
    let Some((domain, target)) = rest.split_once(':') else { return false };
    let is_date = date.len() == 7
        && date
            .bytes()
            .enumerate()
            .all(|(index, byte)| if index == 4 { byte == b'-' } else { byte.is_ascii_digit() });
    let is_domain = !domain.is_empty()
        && domain.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'));
    is_date
        && is_domain
        && !target.is_empty()
        && !target.chars().any(|character| ",;*&$|".contains(character) || character.is_whitespace())
}

fn flocker(source: &FlockerVolumeSource, path: &Path, errors: &mut FieldErrors) {
    let (name, uuid) = (source.dataset_name.or_empty(), source.dataset_uuid.or_empty());
    match (name.is_empty(), uuid.is_empty()) {
        (true, true) => errors.required(path, "one of datasetName and datasetUUID is required"),
        (false, false) => {
            errors.invalid(
                path,
                "resource",
                "datasetName and datasetUUID can not be specified simultaneously",
            );
        }
        _ => {}
    }
    if name.contains('/') {
        errors.invalid(&path.child("datasetName"), name, "must not contain '/'");
    }
}

fn quobyte(source: &QuobyteVolumeSource, path: &Path, errors: &mut FieldErrors) {
    const DETAIL: &str = "must be a host:port pair or multiple pairs separated by commas";
    if source.registry.is_empty() {
        errors.required(&path.child("registry"), DETAIL);
    } else if source.tenant.or_empty().len() > MAX_QUOBYTE_TENANT {
        let detail = "must be a UUID and may not exceed a length of 64 characters";
        errors.required(&path.child("tenant"), detail);
    } else {
        for _ in source.registry.split(',').filter(|pair| !pair.contains(':')) {
            errors.invalid(&path.child("registry"), source.registry.as_str(), DETAIL);
        }
    }
    check::required_text(&source.volume, &path.child("volume"), errors);
}

fn fibre_channel(source: &FCVolumeSource, path: &Path, errors: &mut FieldErrors) {
    let (targets, ids) = (source.target_wwns.or_empty(), source.wwids.or_empty());
    let targets_path = path.child("targetWWNs");
    match (targets.is_empty(), ids.is_empty()) {
        (true, true) => {
            errors.required(&targets_path, "must specify either targetWWNs or wwids, but not both");
        }
        (false, false) => {
            errors.invalid(
                &targets_path,
                targets,
                "targetWWNs and wwids can not be specified simultaneously",
            );
        }
        _ => {}
    }
    if targets.is_empty() {
        return;
    }
    match source.lun {
        None => errors.required(&path.child("lun"), "lun is required if targetWWNs is specified"),
        Some(number) => lun(number, path, errors),
    }
}

fn flex(source: &FlexVolumeSource, path: &Path, errors: &mut FieldErrors) {
    check::required_text(&source.driver, &path.child("driver"), errors);
    for (key, _) in source.options.iter().flatten() {
        let domain = format!(".{}", key.split('/').next().unwrap_or_default().to_lowercase());
        if domain.ends_with(".kubernetes.io") || domain.ends_with(".k8s.io") {
            let detail = "kubernetes.io and k8s.io namespaces are reserved";
            errors.invalid(&path.child("options").key(key), key.as_str(), detail);
        }
    }
}

fn azure_disk(source: &AzureDiskVolumeSource, path: &Path, errors: &mut FieldErrors) {
    check::required_text(&source.disk_name, &path.child("diskName"), errors);
    check::required_text(&source.disk_uri, &path.child("diskURI"), errors);
    if let Some(mode) = &source.caching_mode {
        check::one_of(mode, &["None", "ReadOnly", "ReadWrite"], &path.child("cachingMode"), errors);
    }
    let Some(kind) = &source.kind else { return };
    check::one_of(kind, &["Dedicated", "Managed", "Shared"], &path.child("kind"), errors);
    let (prefix, form) = if kind == "Managed" {
        let form =
            "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}";
        ("/subscriptions/", form)
    } else {
        ("https://", "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd")
    };
    if !source.disk_uri.starts_with(prefix) {
        errors.not_supported(&path.child("diskURI"), source.disk_uri.as_str(), &[form]);
    }
}

fn storage_os(source: &StorageOSVolumeSource, path: &Path, errors: &mut FieldErrors) {
    let (name, namespace) = (source.volume_name.or_empty(), source.volume_namespace.or_empty());
    if name.is_empty() {
        errors.required(&path.child("volumeName"), "");
    } else {
        check::dns_label(name, &path.child("volumeName"), errors);
    }
    if !namespace.is_empty() {
        check::dns_label(namespace, &path.child("volumeNamespace"), errors);
    }
    if let Some(secret) = &source.secret_ref {
        check::required_text(&secret.name, &path.child("secretRef").child("name"), errors);
    }
}

fn csi(source: &CSIVolumeSource, path: &Path, errors: &mut FieldErrors) {
    check::csi_driver(&source.driver, &path.child("driver"), errors);
    if let Some(secret) = &source.node_publish_secret_ref {
        if secret.name.is_empty() {
            errors.required(&path.child("nodePublishSecretRef").child("name"), "");
        } else {
            check::subdomain(&secret.name, &path.child("name"), errors);
        }
    }
}
