//! PersistentVolumeClaims: what a user asks of storage.

use k8s_openapi::{
    api::core::v1::{
        PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeClaimStatus,
        TypedLocalObjectReference, TypedObjectReference,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
    jiff::Timestamp,
};
use naru_model::{
    ResourceInfo,
    quantity::Quantity,
    validation::{FieldErrors, Path, meta},
};
use serde_json::{Value, json};
use std::{collections::BTreeSet, fmt::Write as _};

use super::{
    Column, Kind,
    kind::Context,
    podspec::{
        OrEmpty, canonical_quantities, check, claim_spec,
        defaults::set_if_blank,
        resource_amount,
        resources::{ResourceList, amount},
    },
    text,
};

pub struct PersistentVolumeClaims;

static RESOURCE: ResourceInfo = ResourceInfo {
    subresources: &["status"],
    ..text::core_resource(
        "PersistentVolumeClaim",
        "persistentvolumeclaims",
        "persistentvolumeclaim",
        &["pvc"],
    )
};

/// The storage class of old, before there was a field.
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
const RESIZE_STATES: &[&str] = &[
    "ControllerResizeInProgress",
    "ControllerResizeInfeasible",
    "NodeResizePending",
    "NodeResizeInProgress",
    "NodeResizeInfeasible",
];

const COLUMNS: &[Column] = &[
    text::NAME,
    text::column("Status", "string", 0, "phase represents the current phase of PersistentVolumeClaim."),
    text::column(
        "Volume",
        "string",
        0,
        "volumeName is the binding reference to the PersistentVolume backing this claim.",
    ),
    text::column(
        "Capacity",
        "string",
        0,
        "capacity represents the actual resources of the underlying volume.",
    ),
    text::column(
        "Access Modes",
        "string",
        0,
        "accessModes contains the actual access modes the volume backing the PVC has. More info: https://kubernetes.io/docs/concepts/storage/persistent-volumes#access-modes-1",
    ),
    text::column("StorageClass", "string", 0, "StorageClass of the pvc"),
    text::column("VolumeAttributesClass", "string", 0, "VolumeAttributesClass of the pvc"),
    text::AGE,
    text::column(
        "VolumeMode",
        "string",
        1,
        "volumeMode defines what type of volume is required by the claim. Value of Filesystem is implied when not included in claim spec.",
    ),
];

impl Kind for PersistentVolumeClaims {
    type Object = PersistentVolumeClaim;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn answers_deleted(&self) -> bool {
        true
    }

    fn has_generation(&self) -> bool {
        false
    }

    fn default(&self, claim: &mut PersistentVolumeClaim) {
        default_claim(claim);
    }

    fn prepare_create(&self, claim: &mut PersistentVolumeClaim, _context: &Context<'_>) {
        claim.status = Some(pending());
        let spec = claim.spec.get_or_insert_default();
        // What the old field cannot name is dropped from it.
        spec.data_source.take_if(|source| !is_claim_or_snapshot(source));
        mirror_data_source(spec);
    }

    fn prepare_update(
        &self,
        new: &mut PersistentVolumeClaim,
        old: &PersistentVolumeClaim,
        _context: &Context<'_>,
    ) {
        new.status.clone_from(&old.status);
        let spec = new.spec.get_or_insert_default();
        // Who does not know the newer field does not take it away.
        if let Some(old) = &old.spec
            && spec.data_source == old.data_source
            && spec.data_source_ref.is_none()
        {
            spec.data_source_ref.clone_from(&old.data_source_ref);
        }
        mirror_data_source(spec);
    }

    fn prepare_status_update(
        &self,
        new: &mut PersistentVolumeClaim,
        old: &PersistentVolumeClaim,
        _context: &Context<'_>,
    ) {
        new.spec.clone_from(&old.spec);
    }

    fn validate(&self, claim: &PersistentVolumeClaim, errors: &mut FieldErrors) {
        validate_claim_spec(claim.spec.as_ref(), &Path::new("spec"), errors);
    }

    fn validate_update(
        &self,
        new: &PersistentVolumeClaim,
        old: &PersistentVolumeClaim,
        errors: &mut FieldErrors,
    ) {
        let empty = PersistentVolumeClaimSpec::default();
        let (spec, before) = (new.spec.as_ref().unwrap_or(&empty), old.spec.as_ref().unwrap_or(&empty));
        let path = Path::new("spec");
        let mut allowed = before.clone();
        if before.volume_name.or_empty().is_empty() {
            allowed.volume_name.clone_from(&spec.volume_name);
        }
        class_update(new, old, spec, before, &mut allowed, errors);
        if new.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Bound")) {
            set_request(&mut allowed, spec);
        }
        allowed.volume_attributes_class_name.clone_from(&spec.volume_attributes_class_name);
        if allowed != *spec {
            let detail = format!(
                "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n{}",
                differences(&json!(before), &json!(spec))
            );
            errors.forbidden(&path, &detail);
        }
        smaller_size(new, spec, before, errors);
        meta::immutable_field(&Path::new("volumeMode"), &spec.volume_mode, &before.volume_mode, errors);
        let class_path = path.child("volumeAttributesClassName");
        match (&before.volume_attributes_class_name, &spec.volume_attributes_class_name) {
            (Some(_), None) => errors.forbidden(&class_path, "update from non-nil value to nil is forbidden"),
            (Some(old), Some(new)) if new.is_empty() && !old.is_empty() => {
                errors.forbidden(&class_path, "update from non-nil value to an empty string is forbidden");
            }
            _ => (),
        }
    }

    fn validate_status_update(
        &self,
        new: &PersistentVolumeClaim,
        _old: &PersistentVolumeClaim,
        errors: &mut FieldErrors,
    ) {
        let Some(status) = &new.status else { return };
        let path = Path::new("status");
        amounts(status.capacity.as_ref(), &path.child("capacity"), errors);
        let states_path = path.child("allocatedResourceStatus");
        for (name, state) in status.allocated_resource_statuses.iter().flatten() {
            resource_key(name, &states_path, errors);
            if !RESIZE_STATES.contains(&state.as_str()) {
                errors.not_supported(&states_path, name.as_str(), RESIZE_STATES);
            }
        }
        let allocated_path = path.child("allocatedResources");
        for name in status.allocated_resources.iter().flatten().map(|(name, _)| name) {
            resource_key(name, &allocated_path, errors);
        }
        amounts(status.allocated_resources.as_ref(), &allocated_path, errors);
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, claim: &PersistentVolumeClaim, now: Timestamp) -> Vec<Value> {
        let empty = (PersistentVolumeClaimSpec::default(), PersistentVolumeClaimStatus::default());
        let spec = claim.spec.as_ref().unwrap_or(&empty.0);
        let status = claim.status.as_ref().unwrap_or(&empty.1);
        let is_bound = !spec.volume_name.or_empty().is_empty();
        let capacity = status.capacity.as_ref().and_then(|list| list.get("storage"));
        vec![
            text::name(&claim.metadata),
            phase(&claim.metadata, status.phase.or_empty()).into(),
            spec.volume_name.or_empty().into(),
            text::quantity(capacity.filter(|_| is_bound)).into(),
            if is_bound { modes(status.access_modes.or_empty()) } else { String::new() }.into(),
            class(&claim.metadata, spec.storage_class_name.as_deref()).into(),
            spec.volume_attributes_class_name.as_deref().unwrap_or("<unset>").into(),
            text::age(&claim.metadata, now),
            spec.volume_mode.as_deref().unwrap_or("<unset>").into(),
        ]
    }
}

/// The defaults of a claim, alone or in a template.
pub(super) fn default_claim(claim: &mut PersistentVolumeClaim) {
    set_if_blank(&mut claim.status.get_or_insert_default().phase, "Pending");
    let spec = claim.spec.get_or_insert_default();
    spec.volume_mode.get_or_insert_with(|| "Filesystem".into());
    if let Some(resources) = &mut spec.resources {
        canonical_quantities(resources.limits.as_mut());
        canonical_quantities(resources.requests.as_mut());
    }
}

pub(super) fn validate_claim_spec(
    spec: Option<&PersistentVolumeClaimSpec>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let empty = PersistentVolumeClaimSpec::default();
    claim_spec(spec.unwrap_or(&empty), path, errors);
}

fn pending() -> PersistentVolumeClaimStatus {
    PersistentVolumeClaimStatus { phase: Some("Pending".into()), ..PersistentVolumeClaimStatus::default() }
}

fn is_claim_or_snapshot(source: &TypedLocalObjectReference) -> bool {
    matches!(
        (source.api_group.or_empty(), source.kind.as_str()),
        ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
    )
}

/// `dataSource` and `dataSourceRef` say the same, whichever was given.
fn mirror_data_source(spec: &mut PersistentVolumeClaimSpec) {
    match (&spec.data_source, &spec.data_source_ref) {
        (Some(source), None) => {
            spec.data_source_ref = Some(TypedObjectReference {
                api_group: source.api_group.clone(),
                kind: source.kind.clone(),
                name: source.name.clone(),
                namespace: None,
            });
        }
        (None, Some(source)) if source.namespace.or_empty().is_empty() => {
            spec.data_source = Some(TypedLocalObjectReference {
                api_group: source.api_group.clone(),
                kind: source.kind.clone(),
                name: source.name.clone(),
            });
        }
        _ => (),
    }
}

fn annotated_class(meta: &ObjectMeta) -> Option<&str> {
    meta.annotations.as_ref()?.get(CLASS_ANNOTATION).map(String::as_str)
}

/// The class may move from the annotation to the field, and be set where there was none.
fn class_update(
    new: &PersistentVolumeClaim,
    old: &PersistentVolumeClaim,
    spec: &PersistentVolumeClaimSpec,
    before: &PersistentVolumeClaimSpec,
    allowed: &mut PersistentVolumeClaimSpec,
    errors: &mut FieldErrors,
) {
    let (was, is) = (annotated_class(&old.metadata), annotated_class(&new.metadata));
    let class = spec.storage_class_name.as_deref();
    let moves = was.is_some()
        && before.storage_class_name.is_none()
        && class == was
        && is.is_none_or(|is| Some(is) == was);
    if !moves && is.unwrap_or_default() != was.unwrap_or_default() {
        let path = Path::new("metadata").child("annotations").key(CLASS_ANNOTATION);
        errors.invalid(&path, is.unwrap_or_default(), meta::IMMUTABLE);
    }
    let fills = before.storage_class_name.is_none() && class.is_some() && (was.is_none() || was == class);
    if moves || fills {
        allowed.storage_class_name.clone_from(&spec.storage_class_name);
    }
}

fn set_request(allowed: &mut PersistentVolumeClaimSpec, spec: &PersistentVolumeClaimSpec) {
    let asked = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()?.get("storage"));
    if let Some(asked) = asked {
        let resources = allowed.resources.get_or_insert_default();
        resources.requests.get_or_insert_default().insert("storage".into(), asked.clone());
    }
}

/// A claim may give up an expansion that did not happen yet, but not shrink.
fn smaller_size(
    new: &PersistentVolumeClaim,
    spec: &PersistentVolumeClaimSpec,
    before: &PersistentVolumeClaimSpec,
    errors: &mut FieldErrors,
) {
    let request = |spec: &PersistentVolumeClaimSpec| {
        amount(spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()), "storage")
    };
    let capacity = amount(new.status.as_ref().and_then(|status| status.capacity.as_ref()), "storage");
    if request(spec) < request(before) && request(spec) <= capacity {
        let path = Path::new("spec").child("resources").child("requests").child("storage");
        errors.forbidden(&path, "field can not be less than status.capacity");
    }
}

fn amounts(list: Option<&ResourceList>, path: &Path, errors: &mut FieldErrors) {
    for (name, quantity) in list.into_iter().flatten() {
        let path = path.key(name);
        match Quantity::try_from(quantity) {
            Ok(parsed) if parsed.is_negative() => {
                errors.invalid(&path, parsed.value(), "must be a valid resource quantity");
            }
            Ok(_) => resource_amount(name, quantity, &path, errors),
            Err(error) => errors.invalid(&path, quantity.0.as_str(), &error.to_string()),
        }
    }
}

fn resource_key(name: &str, path: &Path, errors: &mut FieldErrors) {
    check::qualified_name(name, path, errors);
    if (!name.contains('/') || name.contains("kubernetes.io/")) && name != "storage" {
        errors.not_supported(path, name, &["storage"]);
    }
}

/// The fields that differ, old and new, one a line.
pub(super) fn differences(old: &Value, new: &Value) -> String {
    let names = |value: &Value| -> BTreeSet<String> {
        value.as_object().map(|map| map.keys().cloned().collect()).unwrap_or_default()
    };
    let mut lines = String::new();
    for name in names(old).union(&names(new)).filter(|name| old.get(name.as_str()) != new.get(name.as_str()))
    {
        let _ = writeln!(lines, "- {name}: {}\n+ {name}: {}", old[name.as_str()], new[name.as_str()]);
    }
    lines
}

/// The phase of a volume or claim, which says whether it is on its way out as well.
pub(super) fn phase<'a>(meta: &ObjectMeta, phase: &'a str) -> &'a str {
    if meta.deletion_timestamp.is_some() { "Terminating" } else { phase }
}

/// The storage class, from the annotation or the field.
pub(super) fn class<'a>(meta: &'a ObjectMeta, field: Option<&'a str>) -> &'a str {
    annotated_class(meta).or(field).unwrap_or_default()
}

/// `RWO,ROX`
pub(super) fn modes(modes: &[String]) -> String {
    let short = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let has = |name: &str| modes.iter().any(|mode| mode == name);
    let shown: Vec<_> = short.iter().filter(|(name, _)| has(name)).map(|(_, short)| *short).collect();
    shown.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::testing::{
        assert_errors, at, check, check_update, create, now, update_object, update_status,
    };

    const DATA: &str = "
metadata: {name: data, namespace: shop}
spec: {accessModes: [ReadWriteOnce], storageClassName: fast, resources: {requests: {storage: 1024Mi}}}
";

    #[test]
    fn a_claim_starts_pending() {
        let (claim, errors) = create(&PersistentVolumeClaims, DATA);
        assert_eq!(errors, [] as [&str; 0]);
        assert_eq!(at(&claim, "/status"), json!({ "phase": "Pending" }));
        assert_eq!(at(&claim, "/spec/volumeMode"), "Filesystem");
        assert_eq!(at(&claim, "/spec/resources/requests/storage"), "1Gi");
        let row = PersistentVolumeClaims.row(&claim, now());
        let expected = json!(["data", "Pending", "", "", "", "fast", "<unset>", "<unknown>", "Filesystem"]);
        assert_eq!(json!(row), expected);
    }

    #[test]
    fn the_two_ways_to_name_a_source_agree() {
        let yaml = DATA.replace("spec: {", "spec: {dataSource: {kind: PersistentVolumeClaim, name: old}, ");
        let (claim, errors) = create(&PersistentVolumeClaims, &yaml);
        assert_eq!(errors, [] as [&str; 0]);
        assert_eq!(at(&claim, "/spec/dataSourceRef/name"), "old");
        let yaml = DATA.replace("spec: {", "spec: {dataSourceRef: {apiGroup: a.b, kind: X, name: old}, ");
        assert_eq!(at(&create(&PersistentVolumeClaims, &yaml).0, "/spec/dataSource/kind"), "X");
    }

    #[test]
    fn wrong_claims_are_refused() {
        check(
            &PersistentVolumeClaims,
            "{metadata: {name: data}, spec: {accessModes: [Some, ReadWriteOncePod, ReadOnlyMany], volumeMode: Tape}}",
            &[
                "spec.accessModes: Unsupported value: \"Some\": supported values: \"ReadOnlyMany\", \"ReadWriteMany\", \"ReadWriteOnce\", \"ReadWriteOncePod\"",
                "spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes",
                "spec.resources[storage]: Required value",
                "spec.volumeMode: Unsupported value: \"Tape\": supported values: \"Block\", \"Filesystem\"",
            ],
        );
        check_update(
            &PersistentVolumeClaims,
            DATA,
            &DATA.replace("[ReadWriteOnce]", "[ReadWriteMany]"),
            &[
                "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n- accessModes: [\"ReadWriteOnce\"]\n+ accessModes: [\"ReadWriteMany\"]\n",
            ],
        );
        check_update(
            &PersistentVolumeClaims,
            DATA,
            &DATA.replace("1024Mi", "2Gi"),
            &["spec: Forbidden: spec is immutable after creation except…"],
        );
    }

    #[test]
    fn a_bound_claim_may_grow() {
        let (mut old, _) = create(&PersistentVolumeClaims, DATA);
        let bound =
            json!({ "phase": "Bound", "accessModes": ["ReadWriteOnce"], "capacity": { "storage": "1Gi" } });
        old.status = serde_json::from_value(bound).expect("a status");
        old.spec.as_mut().expect("a spec").volume_name = Some("pv-1".into());
        let resize = |size: &str| {
            let mut new = old.clone();
            let resources = new.spec.as_mut().and_then(|spec| spec.resources.as_mut()).expect("resources");
            let size = k8s_openapi::apimachinery::pkg::api::resource::Quantity(size.into());
            resources.requests.as_mut().expect("requests").insert("storage".into(), size);
            update_object(&PersistentVolumeClaims, &old, new).1
        };
        assert_eq!(resize("2Gi"), [] as [&str; 0]);
        let smaller =
            ["spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"];
        assert_eq!(resize("512Mi"), smaller);
        let row = PersistentVolumeClaims.row(&old, now());
        assert_eq!(json!(row[1..5]), json!(["Bound", "pv-1", "1Gi", "RWO"]));
    }

    #[test]
    fn a_status_names_known_states() {
        let (old, _) = create(&PersistentVolumeClaims, DATA);
        let mut new = old.clone();
        let status =
            json!({ "allocatedResourceStatuses": { "storage": "Growing" }, "capacity": { "storage": "-1" } });
        new.status = serde_json::from_value(status).expect("a status");
        let (_, errors) = update_status(&PersistentVolumeClaims, &old, new);
        let expected = [
            "status.capacity[storage]: Invalid value: -1: must be a valid resource quantity",
            "status.allocatedResourceStatus: Unsupported value: \"storage\": supported values: …",
        ];
        assert_errors(&errors, &expected, "");
    }
}
