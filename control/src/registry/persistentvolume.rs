//! PersistentVolumes: a piece of storage, and the claim that has it.

use k8s_openapi::{
    api::core::v1::{
        CSIPersistentVolumeSource, PersistentVolume, PersistentVolumeSpec, PersistentVolumeStatus,
        SecretReference, Volume,
    },
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use naru_model::{
    ResourceInfo,
    quantity::Quantity,
    validation::{FieldErrors, Path, meta, names},
};
use serde_json::{Value, json};

use super::{
    Column, Kind,
    kind::Context,
    persistentvolumeclaim::{class, differences, modes, phase},
    podspec::{
        OrEmpty, access_modes, canonical_quantities, check, defaults::set_if_blank, node_selector,
        storage_source,
    },
    text,
};

pub struct PersistentVolumes;

static RESOURCE: ResourceInfo = ResourceInfo {
    namespaced: false,
    subresources: &["status"],
    ..text::core_resource("PersistentVolume", "persistentvolumes", "persistentvolume", &["pv"])
};

const MAX_CSI_DRIVER: usize = 63;

const COLUMNS: &[Column] = &[
    text::NAME,
    text::column(
        "Capacity",
        "string",
        0,
        "capacity is the description of the persistent volume's resources and capacity. More info: https://kubernetes.io/docs/concepts/storage/persistent-volumes#capacity",
    ),
    text::column(
        "Access Modes",
        "string",
        0,
        "accessModes contains all ways the volume can be mounted. More info: https://kubernetes.io/docs/concepts/storage/persistent-volumes#access-modes",
    ),
    text::column(
        "Reclaim Policy",
        "string",
        0,
        "persistentVolumeReclaimPolicy defines what happens to a persistent volume when released from its claim. Valid options are Retain (default for manually created PersistentVolumes), Delete (default for dynamically provisioned PersistentVolumes), and Recycle (deprecated). Recycle must be supported by the volume plugin underlying this PersistentVolume. More info: https://kubernetes.io/docs/concepts/storage/persistent-volumes#reclaiming",
    ),
    text::column(
        "Status",
        "string",
        0,
        "phase indicates if a volume is available, bound to a claim, or released by a claim. More info: https://kubernetes.io/docs/concepts/storage/persistent-volumes#phase",
    ),
    text::column(
        "Claim",
        "string",
        0,
        "claimRef is part of a bi-directional binding between PersistentVolume and PersistentVolumeClaim. Expected to be non-nil when bound. claim.VolumeName is the authoritative bind between PV and PVC. More info: https://kubernetes.io/docs/concepts/storage/persistent-volumes#binding",
    ),
    text::column("StorageClass", "string", 0, "StorageClass of the pv"),
    text::column("VolumeAttributesClass", "string", 0, "VolumeAttributesClass of the pv"),
    text::column(
        "Reason",
        "string",
        0,
        "reason is a brief CamelCase string that describes any failure and is meant for machine parsing and tidy display in the CLI.",
    ),
    text::AGE,
    text::column(
        "VolumeMode",
        "string",
        1,
        "volumeMode defines if a volume is intended to be used with a formatted filesystem or to remain in raw block state. Value of Filesystem is implied when not included in spec.",
    ),
];

impl Kind for PersistentVolumes {
    type Object = PersistentVolume;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn answers_deleted(&self) -> bool {
        true
    }

    fn has_generation(&self) -> bool {
        false
    }

    fn default(&self, volume: &mut PersistentVolume) {
        set_if_blank(&mut volume.status.get_or_insert_default().phase, "Pending");
        let spec = volume.spec.get_or_insert_default();
        set_if_blank(&mut spec.persistent_volume_reclaim_policy, "Retain");
        spec.volume_mode.get_or_insert_with(|| "Filesystem".into());
        canonical_quantities(spec.capacity.as_mut());
        default_source(spec);
    }

    fn prepare_create(&self, volume: &mut PersistentVolume, context: &Context<'_>) {
        volume.status = Some(PersistentVolumeStatus {
            phase: Some("Pending".into()),
            last_phase_transition_time: Some(Time(context.now)),
            ..PersistentVolumeStatus::default()
        });
    }

    fn prepare_update(&self, new: &mut PersistentVolume, old: &PersistentVolume, _context: &Context<'_>) {
        new.status.clone_from(&old.status);
    }

    fn prepare_status_update(
        &self,
        new: &mut PersistentVolume,
        old: &PersistentVolume,
        context: &Context<'_>,
    ) {
        new.spec.clone_from(&old.spec);
        let empty = PersistentVolumeStatus::default();
        let (status, before) = (new.status.get_or_insert_default(), old.status.as_ref().unwrap_or(&empty));
        let is_time_new = status.last_phase_transition_time.is_some()
            && status.last_phase_transition_time != before.last_phase_transition_time;
        if !is_time_new {
            let moved = status.phase != before.phase;
            status.last_phase_transition_time =
                if moved { Some(Time(context.now)) } else { before.last_phase_transition_time.clone() };
        }
    }

    fn validate(&self, volume: &PersistentVolume, errors: &mut FieldErrors) {
        let empty = PersistentVolumeSpec::default();
        let spec = volume.spec.as_ref().unwrap_or(&empty);
        let path = Path::new("spec");
        if spec.access_modes.or_empty().is_empty() {
            errors.required(&path.child("accessModes"), "");
        }
        access_modes(spec.access_modes.or_empty(), &path.child("accessModes"), errors);
        capacity(spec, &path.child("capacity"), errors);
        let policy = spec.persistent_volume_reclaim_policy.or_empty();
        let policy_path = path.child("persistentVolumeReclaimPolicy");
        check::one_of(policy, &["Delete", "Recycle", "Retain"], &policy_path, errors);
        if let Some(affinity) = &spec.node_affinity {
            let path = path.child("nodeAffinity").child("required");
            match &affinity.required {
                Some(selector) => node_selector(selector, &path, errors),
                None => errors.required(&path, "must specify required node constraints"),
            }
        }
        source(volume.metadata.name.or_empty(), spec, &path, errors);
        if let Some(host_path) = &spec.host_path
            && !host_path.path.is_empty()
            && host_path.path.trim_end_matches('/').is_empty()
            && policy == "Recycle"
        {
            errors.forbidden(&policy_path, "may not be 'recycle' for a hostPath mount of '/'");
        }
        let class = spec.storage_class_name.or_empty();
        if !class.is_empty() {
            check::subdomain(class, &path.child("storageClassName"), errors);
        }
        if let Some(mode) = &spec.volume_mode {
            check::one_of(mode, &["Block", "Filesystem"], &path.child("volumeMode"), errors);
        }
        attributes_class(spec, &path, errors);
    }

    fn validate_update(&self, new: &PersistentVolume, old: &PersistentVolume, errors: &mut FieldErrors) {
        let empty = PersistentVolumeSpec::default();
        let (spec, before) = (new.spec.as_ref().unwrap_or(&empty), old.spec.as_ref().unwrap_or(&empty));
        let mut changed = source_of(spec);
        if let (Some(csi), Some(now)) = (&before.csi, &spec.csi)
            && csi.controller_expand_secret_ref.is_none()
            && now.controller_expand_secret_ref.is_some()
            && let Some(csi) = changed.csi.as_mut()
        {
            csi.controller_expand_secret_ref = None;
        }
        let kept = source_of(before);
        if changed != kept {
            let detail = format!(
                "spec.persistentvolumesource is immutable after creation\n{}",
                differences(&json!(kept), &json!(changed))
            );
            errors.forbidden(&Path::new("spec").child("persistentvolumesource"), &detail);
        }
        meta::immutable_field(&Path::new("volumeMode"), &spec.volume_mode, &before.volume_mode, errors);
        if before.node_affinity.is_some() {
            let path = Path::new("nodeAffinity");
            meta::immutable_field(&path, &spec.node_affinity, &before.node_affinity, errors);
        }
        if before.volume_attributes_class_name.is_some() && spec.volume_attributes_class_name.is_none() {
            let path = Path::new("spec").child("volumeAttributesClassName");
            errors.forbidden(&path, "update from non-nil value to nil is forbidden");
        }
    }

    fn warnings(&self, volume: &PersistentVolume) -> Vec<String> {
        let Some(spec) = &volume.spec else { return Vec::new() };
        let mut texts = Vec::new();
        if spec.persistent_volume_reclaim_policy.as_deref() == Some("Recycle") {
            texts.push("spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.".into());
        }
        for (is_set, name, message) in [
            (spec.cephfs.is_some(), "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
            (
                spec.photon_persistent_disk.is_some(),
                "photonPersistentDisk",
                "deprecated in v1.11, non-functional in v1.16+",
            ),
            (spec.scale_io.is_some(), "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
            (spec.storageos.is_some(), "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
            (spec.glusterfs.is_some(), "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
            (spec.rbd.is_some(), "rbd", "deprecated in v1.28, non-functional in v1.31+"),
        ] {
            if is_set {
                texts.push(format!("spec.{name}: {message}"));
            }
        }
        texts
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, volume: &PersistentVolume, now: Timestamp) -> Vec<Value> {
        let empty = (PersistentVolumeSpec::default(), PersistentVolumeStatus::default());
        let spec = volume.spec.as_ref().unwrap_or(&empty.0);
        let status = volume.status.as_ref().unwrap_or(&empty.1);
        let claim = spec.claim_ref.as_ref();
        let claim = claim.map(|claim| format!("{}/{}", claim.namespace.or_empty(), claim.name.or_empty()));
        vec![
            text::name(&volume.metadata),
            text::quantity(spec.capacity.as_ref().and_then(|list| list.get("storage"))).into(),
            modes(spec.access_modes.or_empty()).into(),
            spec.persistent_volume_reclaim_policy.or_empty().into(),
            phase(&volume.metadata, status.phase.or_empty()).into(),
            claim.unwrap_or_default().into(),
            class(&volume.metadata, spec.storage_class_name.as_deref()).into(),
            spec.volume_attributes_class_name.as_deref().unwrap_or("<unset>").into(),
            status.reason.or_empty().into(),
            text::age(&volume.metadata, now),
            spec.volume_mode.as_deref().unwrap_or("<unset>").into(),
        ]
    }
}

fn default_source(spec: &mut PersistentVolumeSpec) {
    if let Some(source) = &mut spec.host_path {
        source.type_.get_or_insert_default();
    }
    if let Some(source) = &mut spec.iscsi {
        set_if_blank(&mut source.iscsi_interface, "default");
    }
    if let Some(source) = &mut spec.rbd {
        set_if_blank(&mut source.pool, "rbd");
        set_if_blank(&mut source.user, "admin");
        set_if_blank(&mut source.keyring, "/etc/ceph/keyring");
    }
    if let Some(source) = &mut spec.azure_disk {
        source.caching_mode.get_or_insert_with(|| "ReadWrite".into());
        source.kind.get_or_insert_with(|| "Shared".into());
        source.fs_type.get_or_insert_with(|| "ext4".into());
        source.read_only.get_or_insert(false);
    }
    if let Some(source) = &mut spec.scale_io {
        set_if_blank(&mut source.storage_mode, "ThinProvisioned");
        set_if_blank(&mut source.fs_type, "xfs");
    }
}

fn capacity(spec: &PersistentVolumeSpec, path: &Path, errors: &mut FieldErrors) {
    let list = spec.capacity.clone().unwrap_or_default();
    if list.is_empty() {
        errors.required(path, "");
    }
    if !list.contains_key("storage") || list.len() > 1 {
        errors.not_supported(path, json!(list), &["storage"]);
    }
    for (name, quantity) in &list {
        let path = path.key(name);
        match Quantity::try_from(quantity) {
            Ok(parsed) if parsed <= Quantity::ZERO => {
                errors.invalid(&path, parsed.to_string(), check::MUST_BE_POSITIVE);
            }
            Ok(_) => (),
            Err(error) => errors.invalid(&path, quantity.0.as_str(), &error.to_string()),
        }
    }
}

/// Most sources are also sources of pods' volumes, with the same fields.
fn source(name: &str, spec: &PersistentVolumeSpec, path: &Path, errors: &mut FieldErrors) {
    let mut value = json!(source_of(spec));
    for own in ["csi", "local"] {
        value[own].take();
    }
    value["name"] = name.into();
    let shared: Volume = serde_json::from_value(value).unwrap_or_default();
    let mut count = storage_source(&shared, path, errors);
    for (is_set, name) in [(spec.local.is_some(), "local"), (spec.csi.is_some(), "csi")] {
        count += usize::from(is_set);
        if is_set && count > 1 {
            errors.forbidden(&path.child(name), "may not specify more than 1 volume type");
        }
    }
    match (&spec.local, &spec.csi) {
        _ if count == 0 => errors.required(path, "must specify a volume type"),
        _ if count > 1 => (),
        (Some(local), _) => {
            let local_path = path.child("local").child("path");
            check::required_text(&local.path, &local_path, errors);
            check::no_backsteps(&local.path, &local_path, errors);
            if spec.node_affinity.is_none() {
                errors.required(&path.child("nodeAffinity"), "Local volume requires node affinity");
            }
        }
        (_, Some(source)) => csi(source, &path.child("csi"), errors),
        _ => (),
    }
}

fn csi(source: &CSIPersistentVolumeSource, path: &Path, errors: &mut FieldErrors) {
    let driver_path = path.child("driver");
    check::required_text(&source.driver, &driver_path, errors);
    if source.driver.len() > MAX_CSI_DRIVER {
        errors.too_long(&driver_path, MAX_CSI_DRIVER);
    }
    if !source.driver.is_empty() {
        errors.problems(
            &driver_path,
            &source.driver,
            names::dns1123_subdomain(&source.driver.to_lowercase()),
        );
    }
    check::required_text(&source.volume_handle, &path.child("volumeHandle"), errors);
    for (name, secret) in [
        ("controllerPublishSecretRef", &source.controller_publish_secret_ref),
        ("controllerExpandSecretRef", &source.controller_expand_secret_ref),
        ("nodePublishSecretRef", &source.node_publish_secret_ref),
        ("nodeExpandSecretRef", &source.node_expand_secret_ref),
    ] {
        if let Some(secret) = secret {
            secret_reference(secret, &path.child(name), errors);
        }
    }
}

fn secret_reference(secret: &SecretReference, path: &Path, errors: &mut FieldErrors) {
    for (name, value) in [("name", secret.name.or_empty()), ("namespace", secret.namespace.or_empty())] {
        check::required_text(value, &path.child(name), errors);
    }
}

fn attributes_class(spec: &PersistentVolumeSpec, path: &Path, errors: &mut FieldErrors) {
    let Some(class) = &spec.volume_attributes_class_name else { return };
    let class_path = path.child("volumeAttributesClassName");
    if class.is_empty() {
        errors.required(&class_path, "an empty string is disallowed");
    } else {
        check::subdomain(class, &class_path, errors);
    }
    if spec.csi.is_none() {
        errors.required(&path.child("csi"), "has to be specified when using volumeAttributesClassName");
    }
}

/// The spec without what is not part of the source.
fn source_of(spec: &PersistentVolumeSpec) -> PersistentVolumeSpec {
    PersistentVolumeSpec {
        access_modes: None,
        capacity: None,
        claim_ref: None,
        mount_options: None,
        node_affinity: None,
        persistent_volume_reclaim_policy: None,
        storage_class_name: None,
        volume_attributes_class_name: None,
        volume_mode: None,
        ..spec.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::testing::{at, check, check_update, create, now, update_status};

    const DISK: &str = "
metadata: {name: disk}
spec:
  accessModes: [ReadWriteOnce, ReadOnlyMany]
  capacity: {storage: 5Gi}
  storageClassName: fast
  claimRef: {namespace: shop, name: data}
  hostPath: {path: /data}
";

    #[test]
    fn a_volume_starts_pending() {
        let (volume, errors) = create(&PersistentVolumes, DISK);
        assert_eq!(errors, [] as [&str; 0]);
        assert_eq!(at(&volume, "/spec/hostPath"), json!({ "path": "/data", "type": "" }));
        let row = PersistentVolumes.row(&volume, now());
        let expected = json!([
            "disk",
            "5Gi",
            "RWO,ROX",
            "Retain",
            "Pending",
            "shop/data",
            "fast",
            "<unset>",
            "",
            "<unknown>",
            "Filesystem",
        ]);
        assert_eq!(json!(row), expected);
        let mut bound = volume.clone();
        bound.status.as_mut().expect("a status").phase = Some("Bound".into());
        let (bound, errors) = update_status(&PersistentVolumes, &volume, bound);
        assert_eq!(errors, [] as [&str; 0]);
        assert_eq!(at(&bound, "/status/lastPhaseTransitionTime"), "2026-01-01T00:00:00Z");
    }

    #[test]
    fn there_is_exactly_one_source() {
        let with = |source: &str| DISK.replace("hostPath: {path: /data}", source);
        check(
            &PersistentVolumes,
            &with("mountOptions: [ro]"),
            &["spec: Required value: must specify a volume type"],
        );
        check(
            &PersistentVolumes,
            &with("hostPath: {path: /data}\n  csi: {driver: d, volumeHandle: h}"),
            &["spec.csi: Forbidden: may not specify more than 1 volume type"],
        );
        check(
            &PersistentVolumes,
            &with("local: {path: /data/../x}"),
            &[
                "spec.local.path: Invalid value: \"/data/../x\": must not contain '..'",
                "spec.nodeAffinity: Required value: Local volume requires node affinity",
            ],
        );
        check(
            &PersistentVolumes,
            &with("nfs: {server: s, path: x}"),
            &["spec.nfs.path: Invalid value: \"x\": must be an absolute path"],
        );
        check(
            &PersistentVolumes,
            &with("csi: {driver: csi.example.com, controllerPublishSecretRef: {name: s}}"),
            &[
                "spec.csi.volumeHandle: Required value",
                "spec.csi.controllerPublishSecretRef.namespace: Required value",
            ],
        );
    }

    #[test]
    fn the_source_stays() {
        check_update(
            &PersistentVolumes,
            DISK,
            &DISK.replace("/data", "/other"),
            &[
                "spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation\n- hostPath…",
            ],
        );
        check_update(&PersistentVolumes, DISK, &DISK.replace("5Gi", "6Gi"), &[]);
        check(
            &PersistentVolumes,
            "{metadata: {name: disk}, spec: {accessModes: [], hostPath: {path: /}, persistentVolumeReclaimPolicy: Recycle}}",
            &[
                "spec.accessModes: Required value",
                "spec.capacity: Required value",
                "spec.capacity: Unsupported value: {}: supported values: \"storage\"",
                "spec.persistentVolumeReclaimPolicy: Forbidden: may not be 'recycle' for a hostPath mount of '/'",
            ],
        );
    }
}
