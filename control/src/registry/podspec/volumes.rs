//! Volumes: each has a name and exactly one source.

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, EphemeralVolumeSource, HostPathVolumeSource, ImageVolumeSource, KeyToPath, Volume,
};
use naru_model::{
    quantity::Quantity,
    validation::{FieldErrors, Path},
};
use std::collections::BTreeSet;

use super::{Check, OrEmpty, check, containers, env, network_disks};

/// Counts the sources of one volume: the first is checked, each further one refused.
pub(super) struct Sources<'a> {
    pub(super) path: &'a Path,
    count: usize,
}

impl Sources<'_> {
    /// Checks the source where it is set and the first one.
    pub(super) fn take<T>(
        &mut self,
        source: Option<&T>,
        name: &str,
        errors: &mut FieldErrors,
        check: impl FnOnce(&T, &Path, &mut FieldErrors),
    ) {
        let Some(source) = source else { return };
        self.count += 1;
        let path = self.path.child(name);
        if self.count > 1 {
            errors.forbidden(&path, "may not specify more than 1 volume type");
        } else {
            check(source, &path, errors);
        }
    }
}

impl<'a> Check<'a> {
    /// Checks the volumes and remembers the good ones, so that mounts of bad ones are reported as well.
    pub(super) fn volumes(&mut self, path: &Path, errors: &mut FieldErrors) {
        let volumes = self.spec.volumes.or_empty();
        let claims_made: BTreeSet<String> = match self.pod_name() {
            Some(pod) => {
                let ephemeral = volumes.iter().filter(|volume| volume.ephemeral.is_some());
                ephemeral.map(|volume| format!("{pod}-{}", volume.name)).collect()
            }
            None => BTreeSet::new(),
        };
        let mut names = BTreeSet::new();
        for (index, volume) in volumes.iter().enumerate() {
            let path = path.index(index);
            let before = errors.0.len();
            self.volume_source(volume, &path, errors);
            if volume.name.is_empty() {
                errors.required(&path.child("name"), "");
            } else {
                check::dns_label(&volume.name, &path.child("name"), errors);
            }
            if names.contains(volume.name.as_str()) {
                errors.duplicate(&path.child("name"), volume.name.as_str());
            }
            if errors.0.len() == before {
                names.insert(volume.name.as_str());
                self.volumes.insert(&volume.name, volume);
            }
            if let Some(claim) = &volume.persistent_volume_claim
                && claims_made.contains(&claim.claim_name)
            {
                let path = path.child("persistentVolumeClaim").child("claimName");
                let detail = "must not reference a PVC that gets created for an ephemeral volume";
                errors.invalid(&path, claim.claim_name.as_str(), detail);
            }
        }
    }

    fn volume_source(&self, volume: &'a Volume, path: &Path, errors: &mut FieldErrors) {
        let mut sources = Sources { path, count: 0 };
        sources.take(volume.empty_dir.as_ref(), "emptyDir", errors, |source, path, errors| {
            let limit = source.size_limit.as_ref().map(Quantity::try_from);
            if limit.is_some_and(|limit| limit.is_ok_and(Quantity::is_negative)) {
                errors
                    .forbidden(&path.child("sizeLimit"), "SizeLimit field must be a valid resource quantity");
            }
        });
        sources.take(volume.host_path.as_ref(), "hostPath", errors, host_path);
        sources.take(volume.git_repo.as_ref(), "gitRepo", errors, |source, path, errors| {
            check::required_text(&source.repository, &path.child("repository"), errors);
            check::local_path(source.directory.or_empty(), &path.child("directory"), errors);
        });
        network_disks::cloud_disks(volume, &mut sources, errors);
        sources.take(volume.secret.as_ref(), "secret", errors, |source, path, errors| {
            check::required_text(source.secret_name.or_empty(), &path.child("secretName"), errors);
            check::file_mode(source.default_mode, &path.child("defaultMode"), errors);
            keys_to_paths(source.items.or_empty(), &path.child("items"), errors);
        });
        network_disks::network_disks(volume, &mut sources, errors);
        sources.take(
            volume.persistent_volume_claim.as_ref(),
            "persistentVolumeClaim",
            errors,
            |source, path, errors| check::required_text(&source.claim_name, &path.child("claimName"), errors),
        );
        sources.take(volume.downward_api.as_ref(), "downwardAPI", errors, |source, path, errors| {
            check::file_mode(source.default_mode, &path.child("defaultMode"), errors);
            for file in source.items.or_empty() {
                downward_file(file, path, errors);
            }
        });
        sources.take(volume.config_map.as_ref(), "configMap", errors, |source, path, errors| {
            check::required_text(&source.name, &path.child("name"), errors);
            check::file_mode(source.default_mode, &path.child("defaultMode"), errors);
            keys_to_paths(source.items.or_empty(), &path.child("items"), errors);
        });
        sources.take(volume.projected.as_ref(), "projected", errors, super::projected::projected);
        network_disks::plugins(volume, &mut sources, errors);
        sources.take(volume.ephemeral.as_ref(), "ephemeral", errors, |source, path, errors| {
            self.ephemeral_volume(source, &volume.name, sources_path(path), path, errors);
        });
        sources.take(volume.image.as_ref(), "image", errors, |source, path, errors| {
            self.image_volume(source, path, errors);
        });
        if sources.count == 0 {
            errors.required(path, "must specify a volume type");
        }
    }

    /// The claim that is made for the volume is named after the pod and the volume.
    fn ephemeral_volume(
        &self,
        source: &EphemeralVolumeSource,
        volume_name: &str,
        volume_path: Path,
        path: &Path,
        errors: &mut FieldErrors,
    ) {
        match &source.volume_claim_template {
            None => errors.required(&path.child("volumeClaimTemplate"), ""),
            Some(template) => {
                super::claim_template::claim_template(template, &path.child("volumeClaimTemplate"), errors);
            }
        }
        let Some(pod) = self.pod_name().filter(|_| !volume_name.is_empty()) else { return };
        let claim = format!("{pod}-{volume_name}");
        for problem in naru_model::validation::names::dns1123_subdomain(&claim) {
            errors.invalid(
                &volume_path.child("name"),
                volume_name,
                &format!("PVC name {claim:?}: {problem}"),
            );
        }
    }

    /// A template may leave the image to whoever fills it in later.
    fn image_volume(&self, source: &ImageVolumeSource, path: &Path, errors: &mut FieldErrors) {
        if self.is_pod() {
            check::required_text(source.reference.or_empty(), &path.child("reference"), errors);
        }
        containers::pull_policy(source.pull_policy.or_empty(), &path.child("pullPolicy"), errors);
    }
}

/// Checks the storage systems that a persistent volume shares with the volumes of pods, given as such a volume.
/// Answers how many sources it names.
pub(in crate::registry) fn storage_source(volume: &Volume, path: &Path, errors: &mut FieldErrors) -> usize {
    let mut sources = Sources { path, count: 0 };
    sources.take(volume.host_path.as_ref(), "hostPath", errors, host_path);
    network_disks::cloud_disks(volume, &mut sources, errors);
    network_disks::network_disks(volume, &mut sources, errors);
    network_disks::plugins(volume, &mut sources, errors);
    sources.count
}

/// The volume's own path, given that of its source.
fn sources_path(source: &Path) -> Path {
    let text = source.as_str();
    Path::new(text.rsplit_once('.').map_or(text, |(volume, _)| volume))
}

fn host_path(source: &HostPathVolumeSource, path: &Path, errors: &mut FieldErrors) {
    if source.path.is_empty() {
        return errors.required(&path.child("path"), "");
    }
    check::no_backsteps(&source.path, &path.child("path"), errors);
    if let Some(kind) = &source.type_ {
        const TYPES: &[&str] = &[
            "",
            "BlockDevice",
            "CharDevice",
            "Directory",
            "DirectoryOrCreate",
            "File",
            "FileOrCreate",
            "Socket",
        ];
        check::one_of(kind, TYPES, &path.child("type"), errors);
    }
}

pub(super) fn keys_to_paths(items: &[KeyToPath], path: &Path, errors: &mut FieldErrors) {
    for (index, item) in items.iter().enumerate() {
        let path = path.index(index);
        check::required_text(&item.key, &path.child("key"), errors);
        check::required_text(&item.path, &path.child("path"), errors);
        check::local_unreserved_path(&item.path, &path.child("path"), errors);
        check::file_mode(item.mode, &path.child("mode"), errors);
    }
}

/// `path` is that of the source: Kubernetes leaves the index out.
pub(super) fn downward_file(file: &DownwardAPIVolumeFile, path: &Path, errors: &mut FieldErrors) {
    check::required_text(&file.path, &path.child("path"), errors);
    check::local_unreserved_path(&file.path, &path.child("path"), errors);
    match (&file.field_ref, &file.resource_field_ref) {
        (Some(field), resource) => {
            env::field_reference(field, env::FILE_FIELDS, &path.child("fieldRef"), errors);
            if resource.is_some() {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.invalid(path, "resource", detail);
            }
        }
        (None, Some(resource)) => {
            env::resource_reference(resource, true, &path.child("resourceFieldRef"), errors);
        }
        (None, None) => errors.required(path, "one of fieldRef and resourceFieldRef is required"),
    }
    check::file_mode(file.mode, &path.child("mode"), errors);
}
