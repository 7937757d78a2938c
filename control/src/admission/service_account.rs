//! Every pod runs as a service account of its namespace, and unless it says otherwise finds a token of it where
//! client libraries look: a projected volume with token, authority and namespace.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{
    ConfigMapProjection, DownwardAPIProjection, DownwardAPIVolumeFile, KeyToPath, ObjectFieldSelector, Pod,
    PodSpec, ProjectedVolumeSource, ServiceAccount, ServiceAccountTokenProjection, Volume, VolumeMount,
    VolumeProjection,
};
use rand::Rng;
use tokio::time::{Instant, timeout_at};

use super::refused;
use crate::{
    ApiError,
    registry::Call,
    store::{Entry, Key, Scope, Store},
};

/// How long a new namespace's `default` account is waited for: its controller is usually just behind.
const ACCOUNT_PATIENCE: Duration = Duration::from_secs(1);
const ACCOUNTS: &str = "serviceaccounts";
const DEFAULT: &str = "default";
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// An hour and a bit: the odd number tells the API that the token is a kubelet's.
const TOKEN_SECONDS: i64 = 3607;
const MODE: i32 = 0o644;

pub(super) async fn admit(store: &Store, call: &Call<'_>, pod: &mut Pod) -> Result<(), ApiError> {
    let annotations = pod.metadata.annotations.as_ref();
    if annotations.is_some_and(|annotations| annotations.contains_key("kubernetes.io/config.mirror")) {
        return Ok(());
    }
    let pod_name = pod.metadata.name.clone().unwrap_or_default();
    let spec = pod.spec.get_or_insert_default();
    let name = name_account(spec);
    let Some(entry) = find(store, call.namespace, &name).await else {
        let message = format!(
            "error looking up service account {}/{name}: serviceaccount {name:?} not found",
            call.namespace
        );
        return Err(refused(call, &pod_name, message));
    };
    let account: Arc<ServiceAccount> =
        entry.typed().map_err(|error| ApiError::Internal(error.to_string()))?;
    let mounts = spec.automount_service_account_token.or(account.automount_service_account_token);
    if mounts.unwrap_or(true) {
        mount_token(spec);
    }
    if spec.image_pull_secrets.as_ref().is_none_or(Vec::is_empty) {
        spec.image_pull_secrets.clone_from(&account.image_pull_secrets);
    }
    Ok(())
}

/// The account's name, `default` where none is asked for; both of its fields say it.
fn name_account(spec: &mut PodSpec) -> String {
    let asked = [&spec.service_account_name, &spec.service_account];
    let asked = asked.into_iter().flatten().find(|name| !name.is_empty()).cloned();
    let account = asked.unwrap_or_else(|| DEFAULT.into());
    spec.service_account_name = Some(account.clone());
    spec.service_account = Some(account.clone());
    account
}

async fn find(store: &Store, namespace: &str, account: &str) -> Option<Arc<Entry>> {
    let key = Key::new(ACCOUNTS, namespace, account);
    let view = store.snapshot();
    let found = view.get(&key);
    if found.is_some() || account != DEFAULT {
        return found;
    }
    let scope =
        Scope { resource: ACCOUNTS.into(), namespace: Some(namespace.into()), name: Some(account.into()) };
    let mut watch = store.watch(scope, view.revision()).ok()?;
    let _ = timeout_at(Instant::now() + ACCOUNT_PATIENCE, watch.next()).await;
    store.snapshot().get(&key)
}

/// Mounts the volume into each container that has nothing in its place.
fn mount_token(spec: &mut PodSpec) {
    let known = spec.volumes.iter().flatten().find(|volume| volume.name.starts_with(VOLUME_PREFIX));
    let known = known.map(|volume| volume.name.clone());
    let name = known.clone().unwrap_or_else(|| format!("{VOLUME_PREFIX}{}", suffix()));
    let mut is_mounted = false;
    let init = spec.init_containers.iter_mut().flatten();
    for container in init.chain(&mut spec.containers) {
        let mounts = container.volume_mounts.get_or_insert_default();
        if mounts.iter().any(|mount| mount.mount_path == MOUNT_PATH) {
            continue;
        }
        is_mounted = true;
        mounts.push(VolumeMount {
            name: name.clone(),
            mount_path: MOUNT_PATH.into(),
            read_only: Some(true),
            ..VolumeMount::default()
        });
    }
    if is_mounted && known.is_none() {
        spec.volumes.get_or_insert_default().push(volume(name));
    }
}

fn volume(name: String) -> Volume {
    let token = ServiceAccountTokenProjection {
        path: "token".into(),
        expiration_seconds: Some(TOKEN_SECONDS),
        ..ServiceAccountTokenProjection::default()
    };
    let authority = ConfigMapProjection {
        name: "kube-root-ca.crt".into(),
        items: Some(vec![KeyToPath { key: "ca.crt".into(), path: "ca.crt".into(), ..KeyToPath::default() }]),
        optional: None,
    };
    let namespace =
        ObjectFieldSelector { api_version: Some("v1".into()), field_path: "metadata.namespace".into() };
    let namespace = DownwardAPIVolumeFile {
        path: "namespace".into(),
        field_ref: Some(namespace),
        ..DownwardAPIVolumeFile::default()
    };
    let sources = vec![
        VolumeProjection { service_account_token: Some(token), ..VolumeProjection::default() },
        VolumeProjection { config_map: Some(authority), ..VolumeProjection::default() },
        VolumeProjection {
            downward_api: Some(DownwardAPIProjection { items: Some(vec![namespace]) }),
            ..VolumeProjection::default()
        },
    ];
    let projected = ProjectedVolumeSource {
        sources: Some(sources),
        default_mode: Some(MODE),
        ..ProjectedVolumeSource::default()
    };
    Volume { name, projected: Some(projected), ..Volume::default() }
}

/// Five characters, as generated names have them.
fn suffix() -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut random = rand::rng();
    (0..5).map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())])).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn both_names_of_the_account_agree() {
        let mut spec = PodSpec { service_account: Some("builder".into()), ..PodSpec::default() };
        assert_eq!(name_account(&mut spec), "builder");
        assert_eq!(spec.service_account_name.as_deref(), Some("builder"));
        assert_eq!(name_account(&mut PodSpec::default()), "default");
    }

    fn mounted(spec: Value) -> Value {
        let mut spec: PodSpec = serde_json::from_value(spec).expect("a spec");
        mount_token(&mut spec);
        serde_json::to_value(spec).expect("it serializes")
    }

    #[test]
    fn every_container_finds_the_token_once() {
        let spec = mounted(json!({
            "initContainers": [{ "name": "i" }],
            "containers": [{ "name": "a" }, { "name": "b", "volumeMounts": [{ "name": "own", "mountPath": MOUNT_PATH }] }],
        }));
        let volume = &spec["volumes"][0];
        assert!(volume["name"].as_str().is_some_and(|name| name.len() == VOLUME_PREFIX.len() + 5));
        for container in [&spec["initContainers"][0], &spec["containers"][0]] {
            let expected = json!([{ "name": volume["name"], "readOnly": true, "mountPath": MOUNT_PATH }]);
            assert_eq!(container["volumeMounts"], expected);
        }
        assert_eq!(spec["containers"][1]["volumeMounts"][0]["name"], "own");
        assert_eq!(volume["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"], 3607);
        assert_eq!(mounted(spec.clone()), spec, "a pod that has it gets no second one");
    }

    #[test]
    fn a_pod_that_mounts_its_own_gets_no_volume() {
        let mounts = json!([{ "name": "own", "mountPath": MOUNT_PATH }]);
        let spec = mounted(json!({ "containers": [{ "name": "a", "volumeMounts": mounts }] }));
        assert_eq!(spec.get("volumes"), None);
    }
}
