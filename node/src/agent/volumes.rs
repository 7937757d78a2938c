//! A pod's volumes as files of this node: made before its sandbox, refreshed while it runs, removed after it.
//!
//! emptyDir, hostPath, and the four kinds that hold text from the API: configMap, secret, downwardAPI, projected.
//! Every other kind is refused with a message that names it.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{
    ConfigMapProjection, Container, DownwardAPIVolumeFile, HostPathVolumeSource, KeyToPath, SecretProjection,
    ServiceAccountTokenProjection, Volume, VolumeMount, VolumeProjection,
};

use super::{
    cluster::ClusterError,
    environment::Environment,
    expansion::expand,
    field_path::{self, Addresses},
    identity::Directories,
    objects::Objects,
    pod_view::PodView,
    resources::{self, Allocatable},
    tokens,
    volume_writer::{self, File, Payload},
};

const DEFAULT_MODE: i32 = 0o644;
const DEFAULT_TOKEN_SECONDS: i64 = 3600;

/// Where each volume is, by name.
pub type VolumePaths = BTreeMap<String, PathBuf>;

/// Why a volume could not be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountFailure {
    pub volume: String,
    pub reason: String,
}

impl MountFailure {
    /// The kubelet's words for the `FailedMount` event.
    pub fn message(&self) -> String {
        format!("MountVolume.SetUp failed for volume {:?} : {}", self.volume, self.reason)
    }
}

/// What volumes are made from.
pub struct VolumeSources<'a> {
    pub pod: &'a PodView,
    pub objects: &'a Objects,
    pub directories: &'a Directories,
    pub addresses: &'a Addresses,
    pub allocatable: Allocatable,
    /// How old a ConfigMap or Secret may be.
    pub max_age: Duration,
}

impl VolumeSources<'_> {
    /// Makes all volumes that containers mount, or brings them up to date.
    pub async fn set_up(&self) -> Result<VolumePaths, Vec<MountFailure>> {
        let mut paths = VolumePaths::new();
        let mut failures = Vec::new();
        for volume in self.pod.spec().volumes.iter().flatten() {
            match self.volume(volume).await {
                Ok(path) => drop(paths.insert(volume.name.clone(), path)),
                Err(reason) => failures.push(MountFailure { volume: volume.name.clone(), reason }),
            }
        }
        if failures.is_empty() { Ok(paths) } else { Err(failures) }
    }

    async fn volume(&self, volume: &Volume) -> Result<PathBuf, String> {
        let uid = &self.pod.identity.uid;
        let text = |plugin| self.directories.text_volume(uid, plugin, &volume.name);
        if volume.empty_dir.is_some() {
            let path = self.directories.volume(uid, "empty-dir", &volume.name);
            make_open_directory(&path).map_err(|error| error.to_string())?;
            Ok(path)
        } else if let Some(source) = &volume.host_path {
            host_path(source)
        } else if let Some(source) = &volume.config_map {
            let (name, optional) = (source.name.clone(), source.optional);
            let projection = ConfigMapProjection { items: source.items.clone(), name, optional };
            let payload = self.config_map(&projection, source.default_mode.unwrap_or(DEFAULT_MODE)).await?;
            write(text("configmap"), payload)
        } else if let Some(source) = &volume.secret {
            let name = source.secret_name.clone().unwrap_or_default();
            let projection =
                SecretProjection { items: source.items.clone(), name, optional: source.optional };
            let payload = self.secret(&projection, source.default_mode.unwrap_or(DEFAULT_MODE)).await?;
            write(text("secret"), payload)
        } else if let Some(source) = &volume.downward_api {
            let items = source.items.as_deref().unwrap_or_default();
            let payload = self.downward(items, source.default_mode.unwrap_or(DEFAULT_MODE))?;
            write(text("downward-api"), payload)
        } else if let Some(source) = &volume.projected {
            let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
            let mut payload = Payload::new();
            for projection in source.sources.iter().flatten() {
                payload.extend(self.projection(projection, mode, &text("projected")).await?);
            }
            write(text("projected"), payload)
        } else {
            Err(format!("volumes of type {} are not supported by this node", kind_of(volume)))
        }
    }

    /// `directory` is where the volume is or will be.
    async fn projection(
        &self,
        projection: &VolumeProjection,
        mode: i32,
        directory: &Path,
    ) -> Result<Payload, String> {
        if let Some(source) = &projection.config_map {
            self.config_map(source, mode).await
        } else if let Some(source) = &projection.secret {
            self.secret(source, mode).await
        } else if let Some(source) = &projection.downward_api {
            self.downward(source.items.as_deref().unwrap_or_default(), mode)
        } else if let Some(source) = &projection.service_account_token {
            self.account_token(source, mode, directory).await
        } else {
            Err("this kind of projection is not supported by this node".into())
        }
    }

    /// The token that the volume holds, as long as it is young enough, else a new one.
    async fn account_token(
        &self,
        source: &ServiceAccountTokenProjection,
        mode: i32,
        directory: &Path,
    ) -> Result<Payload, String> {
        let seconds = source.expiration_seconds.unwrap_or(DEFAULT_TOKEN_SECONDS);
        let held = fs::read_to_string(directory.join(&source.path)).ok();
        let token = match held.filter(|token| tokens::is_young(token, seconds, Timestamp::now())) {
            Some(token) => token,
            None => {
                let account = self.pod.spec().service_account_name.as_deref().unwrap_or("default");
                let audience = source.audience.as_deref().filter(|audience| !audience.is_empty());
                let pod = &self.pod.identity;
                let token = self.objects.account_token(pod, account, audience, seconds).await;
                token.map_err(|error| format!("failed to fetch token: {error}"))?
            }
        };
        let mut payload = Payload::new();
        add(&mut payload, &source.path, token.into_bytes(), mode)?;
        Ok(payload)
    }

    async fn config_map(&self, source: &ConfigMapProjection, mode: i32) -> Result<Payload, String> {
        let is_optional = source.optional == Some(true);
        let found = self.objects.config_map(&self.pod.identity.namespace, &source.name, self.max_age).await;
        let config_map = match found {
            Ok(config_map) => config_map,
            Err(ClusterError::NotFound(_)) if is_optional => return Ok(Payload::new()),
            Err(error) => return Err(error.to_string()),
        };
        let text =
            config_map.data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
        let binary =
            config_map.binary_data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone()));
        let what = format!("configmap {:?}", source.name);
        select(text.chain(binary).collect(), source.items.as_deref(), mode, is_optional, &what)
    }

    async fn secret(&self, source: &SecretProjection, mode: i32) -> Result<Payload, String> {
        let is_optional = source.optional == Some(true);
        let secret = match self.objects.secret(&self.pod.identity.namespace, &source.name, self.max_age).await
        {
            Ok(secret) => secret,
            Err(ClusterError::NotFound(_)) if is_optional => return Ok(Payload::new()),
            Err(error) => return Err(error.to_string()),
        };
        let data = secret.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone()));
        let what = format!("secret {:?}", source.name);
        select(data.collect(), source.items.as_deref(), mode, is_optional, &what)
    }

    fn downward(&self, items: &[DownwardAPIVolumeFile], mode: i32) -> Result<Payload, String> {
        let mut payload = Payload::new();
        for item in items {
            let content = if let Some(field) = &item.field_ref {
                field_path::value(self.pod.pod(), &field.field_path, self.addresses)?
            } else if let Some(field) = &item.resource_field_ref {
                let name = field.container_name.as_deref().unwrap_or_default();
                let container = self.pod.container(name).map(|(container, _)| container);
                let container = container.ok_or_else(|| format!("container {name} not found"))?;
                let requirements = container.resources.as_ref();
                resources::field_value(
                    &field.resource,
                    field.divisor.as_ref(),
                    requirements,
                    self.allocatable,
                )?
            } else {
                return Err(format!("{}: neither fieldRef nor resourceFieldRef", item.path));
            };
            add(&mut payload, &item.path, content.into_bytes(), item.mode.unwrap_or(mode))?;
        }
        Ok(payload)
    }
}

fn write(path: PathBuf, payload: Payload) -> Result<PathBuf, String> {
    volume_writer::write(&path, &payload).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(path)
}

/// All keys, or the listed ones under their paths.
fn select(
    data: BTreeMap<String, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    mode: i32,
    is_optional: bool,
    what: &str,
) -> Result<Payload, String> {
    let mut payload = Payload::new();
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        for (key, content) in data {
            add(&mut payload, &key, content, mode)?;
        }
        return Ok(payload);
    };
    for item in items {
        match data.get(&item.key) {
            Some(content) => add(&mut payload, &item.path, content.clone(), item.mode.unwrap_or(mode))?,
            None if is_optional => (),
            None => {
                return Err(format!(
                    "{what} references non-existent {what_kind}: {}",
                    item.key,
                    what_kind = kind_word(what)
                ));
            }
        }
    }
    Ok(payload)
}

fn kind_word(what: &str) -> &'static str {
    if what.starts_with("secret") { "secret key" } else { "config key" }
}

fn add(payload: &mut Payload, path: &str, content: Vec<u8>, mode: i32) -> Result<(), String> {
    if !volume_writer::is_safe(path) {
        return Err(format!("invalid path {path:?}: it must be relative and stay inside the volume"));
    }
    payload.insert(path.into(), File { content, mode: mode as u32 & 0o777 });
    Ok(())
}

/// What type a volume is, as its field is called.
fn kind_of(volume: &Volume) -> String {
    let value = serde_json::to_value(volume).unwrap_or_default();
    let mut fields = value.as_object().into_iter().flat_map(|fields| fields.keys());
    fields.find(|name| *name != "name").cloned().unwrap_or_else(|| "unknown".into())
}

/// Everybody may use it, whatever user the container runs as.
fn make_open_directory(path: &Path) -> std::io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o777))
}

fn host_path(source: &HostPathVolumeSource) -> Result<PathBuf, String> {
    let path = PathBuf::from(&source.path);
    let failed = |what: &str| format!("hostPath type check failed: {} is not {what}", path.display());
    let file_type = fs::metadata(&path).ok().map(|metadata| metadata.file_type());
    let ok = match source.type_.as_deref().unwrap_or_default() {
        "" => true,
        "DirectoryOrCreate" => {
            fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            true
        }
        "FileOrCreate" => {
            let mut options = fs::OpenOptions::new();
            options
                .create(true)
                .append(true)
                .open(&path)
                .map_err(|error| format!("{}: {error}", path.display()))?;
            true
        }
        "Directory" => file_type.is_some_and(|it| it.is_dir()),
        "File" => file_type.is_some_and(|it| it.is_file()),
        "Socket" => file_type.is_some_and(|it| it.is_socket()),
        "CharDevice" => file_type.is_some_and(|it| it.is_char_device()),
        "BlockDevice" => file_type.is_some_and(|it| it.is_block_device()),
        other => return Err(format!("{other} is an invalid volume type")),
    };
    let wanted = match source.type_.as_deref() {
        Some("Directory") => "a directory",
        Some("File") => "a file",
        Some("Socket") => "a socket file",
        Some("CharDevice") => "a character device",
        _ => "a block device",
    };
    if ok { Ok(path) } else { Err(failed(wanted)) }
}

/// The mounts of one container.
///
/// # Errors
/// A text for `CreateContainerConfigError`.
pub fn mounts(
    pod: &PodView,
    container: &Container,
    paths: &VolumePaths,
    environment: &Environment,
) -> Result<Vec<cri::Mount>, String> {
    let volumes = pod.spec().volumes.as_deref().unwrap_or_default();
    let mount = |mount: &VolumeMount| {
        let volume = volumes.iter().find(|volume| volume.name == mount.name);
        let path = paths.get(&mount.name);
        let (Some(volume), Some(path)) = (volume, path) else {
            return Err(format!(
                "cannot find volume {:?} to mount into container {:?}",
                mount.name, container.name
            ));
        };
        let host_path = sub_path(path, mount, environment)?;
        Ok(cri::Mount {
            container_path: mount.mount_path.clone(),
            host_path: host_path.display().to_string(),
            readonly: mount.read_only.unwrap_or(false) || is_text(volume),
            propagation: match mount.mount_propagation.as_deref() {
                Some("HostToContainer") => cri::MountPropagation::PropagationHostToContainer as i32,
                Some("Bidirectional") => cri::MountPropagation::PropagationBidirectional as i32,
                _ => cri::MountPropagation::PropagationPrivate as i32,
            },
            ..Default::default()
        })
    };
    container.volume_mounts.iter().flatten().map(mount).collect()
}

/// Holds text from the API, which may change.
pub fn is_text(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.downward_api.is_some()
        || volume.projected.is_some()
}

fn sub_path(volume: &Path, mount: &VolumeMount, environment: &Environment) -> Result<PathBuf, String> {
    let expanded = mount.sub_path_expr.as_ref().map(|text| expand(text, |name| environment.get(name)));
    let Some(sub_path) = expanded.or_else(|| mount.sub_path.clone()).filter(|path| !path.is_empty()) else {
        return Ok(volume.to_owned());
    };
    if !volume_writer::is_safe(&sub_path) {
        return Err(format!("unable to mount subPath {sub_path:?}: it must not leave the volume"));
    }
    let path = volume.join(&sub_path);
    if !path.exists() {
        fs::create_dir_all(&path).map_err(|error| {
            format!("failed to create subPath directory for volumeMount {:?}: {error}", mount.name)
        })?;
    }
    let (resolved, root) = (path.canonicalize(), volume.canonicalize());
    match (resolved, root) {
        (Ok(resolved), Ok(root)) if resolved.starts_with(&root) => Ok(resolved),
        _ => Err(format!("failed to prepare subPath for volumeMount {:?}: it leaves the volume", mount.name)),
    }
}

#[cfg(test)]
#[path = "volumes_tests.rs"]
mod tests;
