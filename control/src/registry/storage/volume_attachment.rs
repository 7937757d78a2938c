//! VolumeAttachments: that a volume shall be, or is, attached to a node.

use k8s_openapi::{
    api::storage::v1::{VolumeAttachment, VolumeAttachmentSource, VolumeError},
    jiff::Timestamp,
};
use naru_model::{
    ResourceInfo,
    validation::{FieldErrors, Path, meta},
};
use serde_json::Value;

use crate::registry::{
    Column, Kind,
    kind::{Context, age},
    podspec::{OrEmpty, check},
    text,
};

pub struct VolumeAttachments;

const MAX_METADATA_BYTES: usize = 256 * 1024;
const MAX_MESSAGE_BYTES: usize = 1024;

static RESOURCE: ResourceInfo = ResourceInfo {
    group: "storage.k8s.io",
    namespaced: false,
    subresources: &["status"],
    ..text::core_resource("VolumeAttachment", "volumeattachments", "volumeattachment", &[])
};

const COLUMNS: &[Column] = &[
    text::NAME,
    text::column(
        "Attacher",
        "string",
        0,
        "attacher indicates the name of the volume driver that MUST handle this request. This is the name returned by GetPluginName().",
    ),
    text::column(
        "PV",
        "string",
        0,
        "persistentVolumeName represents the name of the persistent volume to attach.",
    ),
    text::column("Node", "string", 0, "nodeName represents the node that the volume should be attached to."),
    text::column(
        "Attached",
        "boolean",
        0,
        "attached indicates the volume is successfully attached. This field must only be set by the entity completing the attach operation, i.e. the external-attacher.",
    ),
    text::AGE,
];

impl Kind for VolumeAttachments {
    type Object = VolumeAttachment;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn answers_deleted(&self) -> bool {
        true
    }

    fn prepare_create(&self, attachment: &mut VolumeAttachment, _context: &Context<'_>) {
        attachment.status = Some(Default::default());
    }

    fn prepare_update(&self, new: &mut VolumeAttachment, old: &VolumeAttachment, _context: &Context<'_>) {
        new.status.clone_from(&old.status);
    }

    fn prepare_status_update(
        &self,
        new: &mut VolumeAttachment,
        old: &VolumeAttachment,
        _context: &Context<'_>,
    ) {
        new.spec.clone_from(&old.spec);
    }

    fn has_generation(&self) -> bool {
        false
    }

    fn requires_resource_version(&self) -> bool {
        true
    }

    fn validate(&self, attachment: &VolumeAttachment, errors: &mut FieldErrors) {
        let (spec, path) = (&attachment.spec, Path::new("spec"));
        check::required_text(&spec.attacher, &path.child("attacher"), errors);
        validate_source(&spec.source, &path.child("source"), errors);
        check::subdomain(&spec.node_name, &path.child("nodeName"), errors);
    }

    fn validate_create(&self, attachment: &VolumeAttachment, errors: &mut FieldErrors) {
        let (spec, path) = (&attachment.spec, Path::new("spec"));
        if !spec.attacher.is_empty() {
            check::csi_driver(&spec.attacher, &path.child("attacher"), errors);
        }
        if let Some(volume) = &spec.source.persistent_volume_name {
            check::subdomain(volume, &path.child("source").child("persistentVolumeName"), errors);
        }
    }

    fn validate_update(&self, new: &VolumeAttachment, old: &VolumeAttachment, errors: &mut FieldErrors) {
        meta::immutable_field(&Path::new("spec"), &new.spec, &old.spec, errors);
    }

    fn validate_status_update(
        &self,
        new: &VolumeAttachment,
        _old: &VolumeAttachment,
        errors: &mut FieldErrors,
    ) {
        let Some(status) = &new.status else { return };
        let path = Path::new("status");
        let metadata = status.attachment_metadata.iter().flatten();
        if metadata.map(|(key, value)| key.len() + value.len()).sum::<usize>() > MAX_METADATA_BYTES {
            errors.too_long(&path.child("attachmentMetadata"), MAX_METADATA_BYTES);
        }
        validate_error(status.attach_error.as_ref(), &path.child("attachError"), errors);
        validate_error(status.detach_error.as_ref(), &path.child("detachError"), errors);
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, attachment: &VolumeAttachment, now: Timestamp) -> Vec<Value> {
        let spec = &attachment.spec;
        vec![
            attachment.metadata.name.or_empty().into(),
            spec.attacher.as_str().into(),
            spec.source.persistent_volume_name.or_empty().into(),
            spec.node_name.as_str().into(),
            attachment.status.as_ref().is_some_and(|status| status.attached).into(),
            age(attachment.metadata.creation_timestamp.as_ref(), now).into(),
        ]
    }
}

fn validate_source(source: &VolumeAttachmentSource, path: &Path, errors: &mut FieldErrors) {
    let detail = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    match (&source.inline_volume_spec, source.persistent_volume_name.as_deref()) {
        (None, None) => errors.required(path, detail),
        (Some(_), Some(_)) => errors.forbidden(path, detail),
        (None, Some("")) => {
            let path = path.child("persistentVolumeName");
            errors.required(&path, "must specify non empty persistentVolumeName");
        }
        _ => (),
    }
}

fn validate_error(error: Option<&VolumeError>, path: &Path, errors: &mut FieldErrors) {
    let Some(error) = error else { return };
    if error.message.or_empty().len() > MAX_MESSAGE_BYTES {
        // The limit that is told is not the one that is kept, as in Kubernetes.
        errors.too_long(&path.child("message"), MAX_METADATA_BYTES);
    }
    if let Some(code) = error.error_code.filter(|code| *code < 0) {
        errors.invalid(&path.child("errorCode"), code, "must be between 0 and 2147483647, inclusive");
    }
}
