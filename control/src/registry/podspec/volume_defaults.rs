//! Defaults of volume sources.

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, EmptyDirVolumeSource, Volume};

use super::OrEmpty;
use super::defaults::{default_field_ref, pull_policy_for, set_if_blank};

/// `rw-r--r--`, the mode of projected files.
const FILE_MODE: i32 = 0o644;
const TOKEN_EXPIRATION_SECONDS: i64 = 3600;

pub fn default_volume(volume: &mut Volume) {
    if has_no_source(volume) {
        volume.empty_dir = Some(EmptyDirVolumeSource::default());
    }
    default_files(volume);
    if let Some(source) = &mut volume.host_path {
        source.type_.get_or_insert_default();
    }
    if let Some(source) = &mut volume.image
        && source.pull_policy.or_empty().is_empty()
    {
        source.pull_policy = Some(pull_policy_for(source.reference.or_empty()).into());
    }
    if let Some(template) = volume.ephemeral.as_mut().and_then(|source| source.volume_claim_template.as_mut())
    {
        template.spec.volume_mode.get_or_insert_with(|| "Filesystem".into());
    }
    if let Some(source) = &mut volume.empty_dir
        && let Some(limit) = &mut source.size_limit
    {
        super::resources::canonicalize(limit);
    }
    default_network_disks(volume);
}

fn has_no_source(volume: &Volume) -> bool {
    *volume == Volume { name: volume.name.clone(), ..Volume::default() }
}

/// Sources that write files: modes, field references, token lifetimes.
fn default_files(volume: &mut Volume) {
    if let Some(source) = &mut volume.secret {
        source.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(source) = &mut volume.config_map {
        source.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(source) = &mut volume.downward_api {
        source.default_mode.get_or_insert(FILE_MODE);
        source.items.iter_mut().flatten().for_each(default_downward_file);
    }
    if let Some(source) = &mut volume.projected {
        source.default_mode.get_or_insert(FILE_MODE);
        for projection in source.sources.iter_mut().flatten() {
            if let Some(token) = &mut projection.service_account_token {
                token.expiration_seconds.get_or_insert(TOKEN_EXPIRATION_SECONDS);
            }
            let files = projection.downward_api.as_mut().and_then(|source| source.items.as_mut());
            files.into_iter().flatten().for_each(default_downward_file);
        }
    }
}

fn default_downward_file(file: &mut DownwardAPIVolumeFile) {
    file.field_ref.iter_mut().for_each(default_field_ref);
}

/// Disks of other systems. No node of ours mounts them, but the object must read as it does elsewhere.
fn default_network_disks(volume: &mut Volume) {
    if let Some(source) = &mut volume.iscsi {
        set_if_blank(&mut source.iscsi_interface, "default");
    }
    if let Some(source) = &mut volume.rbd {
        set_if_blank(&mut source.pool, "rbd");
        set_if_blank(&mut source.user, "admin");
        set_if_blank(&mut source.keyring, "/etc/ceph/keyring");
    }
    if let Some(source) = &mut volume.azure_disk {
        source.caching_mode.get_or_insert_with(|| "ReadWrite".into());
        source.kind.get_or_insert_with(|| "Shared".into());
        source.fs_type.get_or_insert_with(|| "ext4".into());
        source.read_only.get_or_insert(false);
    }
    if let Some(source) = &mut volume.scale_io {
        set_if_blank(&mut source.storage_mode, "ThinProvisioned");
        set_if_blank(&mut source.fs_type, "xfs");
    }
}
