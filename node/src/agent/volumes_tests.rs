use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::agent::{
    fakes::{FakeCluster, TempDir},
    objects::FRESH,
};

fn pod(volume: serde_json::Value) -> PodView {
    let pod = json!({
        "metadata": { "name": "web", "namespace": "shop", "uid": "u", "labels": { "app": "web" } },
        "spec": {
            "containers": [{ "name": "c", "resources": { "limits": { "memory": "64Mi" } } }],
            "volumes": [volume]
        }
    });
    PodView::new(Arc::new(serde_json::from_value(pod).unwrap())).unwrap()
}

async fn set_up(directory: &Path, volume: serde_json::Value) -> Result<VolumePaths, Vec<MountFailure>> {
    let cluster = Arc::new(FakeCluster::default());
    cluster.add_config_map("shop", "settings", &[("greeting", "hi"), ("color", "blue")]);
    cluster.add_secret("shop", "login", &[("password", "s3cret")]);
    let objects = Objects::new(cluster);
    let sources = VolumeSources {
        pod: &pod(volume),
        objects: &objects,
        directories: &Directories::new(directory),
        addresses: &Addresses::default(),
        allocatable: Allocatable::default(),
        max_age: FRESH,
    };
    sources.set_up().await
}

#[tokio::test]
async fn text_from_the_api_becomes_files() {
    let directory = TempDir::new().unwrap();
    let volume = json!({ "name": "all", "projected": { "defaultMode": 0o440, "sources": [
        { "configMap": { "name": "settings", "items": [{ "key": "greeting", "path": "texts/hello" }] } },
        { "secret": { "name": "login" } },
        { "downwardAPI": { "items": [
            { "path": "labels", "fieldRef": { "fieldPath": "metadata.labels" } },
            { "path": "memory", "resourceFieldRef": { "containerName": "c", "resource": "limits.memory", "divisor": "1Mi" } }
        ] } }
    ] } });
    let paths = set_up(directory.path(), volume).await.unwrap();
    let path = &paths["all"];
    assert!(path.ends_with("pods/u/volumes/kubernetes.io~projected/all"));
    for (file, expected) in
        [("texts/hello", "hi"), ("password", "s3cret"), ("labels", "app=\"web\""), ("memory", "64")]
    {
        assert_eq!(fs::read_to_string(path.join(file)).unwrap(), expected, "{file}");
    }
    let mode = fs::metadata(path.join("password")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o440);
}

#[tokio::test]
async fn what_cannot_be_mounted_says_why() {
    for (source, expected) in [
        (json!({ "configMap": { "name": "no" } }), "configmap \"no\" not found"),
        (json!({ "secret": { "secretName": "no" } }), "secret \"no\" not found"),
        (
            json!({ "configMap": { "name": "settings", "items": [{ "key": "x", "path": "x" }] } }),
            "configmap \"settings\" references non-existent config key: x",
        ),
        (
            json!({ "persistentVolumeClaim": { "claimName": "data" } }),
            "volumes of type persistentVolumeClaim are not supported by this node",
        ),
        (
            json!({ "hostPath": { "path": "/does/not/exist", "type": "Directory" } }),
            "hostPath type check failed: /does/not/exist is not a directory",
        ),
    ] {
        let directory = TempDir::new().unwrap();
        let mut volume = source;
        volume["name"] = "v".into();
        let failures = set_up(directory.path(), volume).await.unwrap_err();
        let expected = format!("MountVolume.SetUp failed for volume \"v\" : {expected}");
        assert_eq!(failures[0].message(), expected);
    }
}

#[tokio::test]
async fn a_token_is_kept_while_it_is_young() {
    let directory = TempDir::new().unwrap();
    let token = json!({ "serviceAccountToken": { "path": "token", "audience": "vault" } });
    let volume = json!({ "name": "v", "projected": { "sources": [token] } });
    let read = |paths: VolumePaths| fs::read_to_string(paths["v"].join("token")).unwrap();
    let first = read(set_up(directory.path(), volume.clone()).await.unwrap());
    let second = read(set_up(directory.path(), volume).await.unwrap());
    assert_eq!(first, second);
}

#[tokio::test]
async fn an_optional_config_map_that_is_missing_is_an_empty_directory() {
    let directory = TempDir::new().unwrap();
    let volume = json!({ "name": "v", "configMap": { "name": "no", "optional": true } });
    let paths = set_up(directory.path(), volume).await.unwrap();
    assert!(paths["v"].is_dir());
}

#[test]
fn sub_paths_stay_inside_their_volume() {
    let directory = TempDir::new().unwrap();
    let volume = directory.path().join("v");
    fs::create_dir(&volume).unwrap();
    std::os::unix::fs::symlink("/etc", volume.join("out")).unwrap();
    let mount =
        |path: &str| VolumeMount { name: "v".into(), sub_path: Some(path.into()), ..Default::default() };
    let environment = Environment::default();
    assert_eq!(
        sub_path(&volume, &mount("a/b"), &environment).unwrap(),
        volume.join("a/b").canonicalize().unwrap()
    );
    assert!(sub_path(&volume, &mount("../x"), &environment).is_err());
    assert!(sub_path(&volume, &mount("out"), &environment).is_err());
}
