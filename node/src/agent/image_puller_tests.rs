use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::agent::fakes::{FakeCluster, FakeRuntime};

struct World {
    runtime: Arc<FakeRuntime>,
    cluster: Arc<FakeCluster>,
    puller: ImagePuller,
    shutdown: CancellationToken,
}

fn world() -> World {
    let (runtime, cluster) = (Arc::new(FakeRuntime::default()), Arc::new(FakeCluster::default()));
    let shutdown = CancellationToken::new();
    let events = Events::start(cluster.clone(), "n1", shutdown.clone());
    let objects = Arc::new(Objects::new(cluster.clone()));
    let puller = ImagePuller::new(runtime.clone(), cluster.clone(), objects, events);
    World { runtime, cluster, puller, shutdown }
}

impl World {
    fn offer(&self, name: &str, digest: &str) {
        let image = ClusterImage { name: name.into(), digest: digest.into(), size: 4 };
        self.cluster.images.lock().unwrap().insert(name.into(), image);
    }

    async fn ensure(&self, image: &str, policy: &str) -> Result<String, String> {
        let pod = pod(image, policy);
        let result = self.puller.ensure(&pod, &pod.containers()[0], Role::Main).await;
        result.map_err(|missing| format!("{}: {}", missing.waiting.reason, missing.waiting.message))
    }

    async fn told(&self, line: &str) -> bool {
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if self.cluster.told().iter().any(|told| told.starts_with(line)) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        false
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn pod(image: &str, policy: &str) -> PodView {
    let pod = json!({
        "metadata": { "name": "web", "namespace": "shop", "uid": "u" },
        "spec": {
            "containers": [{ "name": "c", "image": image, "imagePullPolicy": policy }],
            "imagePullSecrets": [{ "name": "registry" }]
        }
    });
    PodView::new(Arc::new(serde_json::from_value(pod).unwrap())).unwrap()
}

#[tokio::test]
async fn the_cluster_s_store_comes_before_registries() {
    let world = world();
    world.offer("hello", "sha256:aa");
    assert_eq!(world.ensure("hello", "Never").await.as_deref(), Ok("sha256:aa"));
    assert_eq!(world.runtime.calls(), ["import hello of 1 chunks"]);
    assert!(world.told("Pulling: Pulling image \"hello\"").await);
    assert!(world.told("Pulled: Successfully pulled image \"hello\" in ").await);
}

#[tokio::test]
async fn a_present_image_is_taken_unless_always_finds_another_digest() {
    let world = world();
    world.runtime.add_image("hello", "sha256:aa");
    world.offer("hello", "sha256:bb");
    assert_eq!(world.ensure("hello", "IfNotPresent").await.as_deref(), Ok("sha256:aa"));
    assert!(world.told("Pulled: Container image \"hello\" already present on machine").await);
    assert_eq!(world.ensure("hello", "Always").await.as_deref(), Ok("sha256:bb"));
}

#[tokio::test]
async fn an_image_that_may_not_be_pulled_stays_missing() {
    let world = world();
    let message = "ErrImageNeverPull: Container image \"x\" is not present with pull policy of Never";
    assert_eq!(world.ensure("x", "Never").await, Err(message.into()));
    assert!(world.told("Failed: Error: ErrImageNeverPull").await);
    assert!(world.runtime.calls().is_empty());
}

#[tokio::test]
async fn a_failed_pull_backs_off_with_the_registry_s_reason() {
    let world = world();
    world.runtime.fail_pull("example.com/x:1", "example.com/x:1: manifest unknown");
    let first = world.ensure("example.com/x:1", "IfNotPresent").await;
    assert_eq!(first, Err("ErrImagePull: example.com/x:1: manifest unknown".into()));
    let second = world.ensure("example.com/x:1", "IfNotPresent").await;
    let expected = "ImagePullBackOff: Back-off pulling image \"example.com/x:1\": ErrImagePull: example.com/x:1: \
                    manifest unknown";
    assert_eq!(second, Err(expected.into()));
    assert_eq!(world.runtime.count("pull example.com/x:1"), 1);
    assert!(world.told("Failed: Failed to pull image \"example.com/x:1\"").await);
    assert!(world.told("BackOff: Back-off pulling image \"example.com/x:1\"").await);
}

#[tokio::test]
async fn a_thousand_pods_cost_one_pull() {
    let world = world();
    world.offer("hello", "sha256:aa");
    let pulls = (0..1000).map(|_| world.ensure("hello", "IfNotPresent"));
    let results = futures::future::join_all(pulls).await;
    assert!(results.iter().all(|result| result.as_deref() == Ok("sha256:aa")));
    assert_eq!(world.runtime.calls().len(), 1);
}

#[tokio::test]
async fn pull_secrets_open_the_registry_they_name() {
    let world = world();
    let config = json!({ "auths": {
        "https://other.example/": { "auth": BASE64_STANDARD.encode("eve:x") },
        "example.com": { "auth": BASE64_STANDARD.encode("ann:pw") }
    } });
    world.cluster.add_secret("shop", "registry", &[(".dockerconfigjson", &config.to_string())]);
    world.ensure("example.com/x:1", "IfNotPresent").await.unwrap();
    assert_eq!(world.runtime.calls(), ["pull example.com/x:1 as ann"]);
}

#[test]
fn image_names_are_checked() {
    let digest = format!("hello@sha256:{}", "a".repeat(64));
    for valid in
        ["hello", "hello:v1", "example.com:5000/a/b:1.0", "localhost/x", "a_b/c-d.e", digest.as_str()]
    {
        assert_eq!(invalid_name(valid), None, "{valid}");
    }
    for invalid in ["", "Hello", "a//b", "-x", "x:", "x y", "x@sha256:12", "x:t:t"] {
        assert!(invalid_name(invalid).is_some(), "{invalid}");
    }
}

#[test]
fn durations_read_as_go_s() {
    for (millis, expected) in
        [(7, "7ms"), (1000, "1s"), (1234, "1.234s"), (1500, "1.5s"), (123_456, "2m3.456s")]
    {
        assert_eq!(go_millis(Duration::from_millis(millis)), expected);
    }
}

#[test]
fn registries_match_as_docker_configurations_name_them() {
    for (entry, host, matches) in [
        ("example.com", "example.com", true),
        ("https://example.com/v2/", "example.com", true),
        ("https://index.docker.io/v1/", "docker.io", true),
        ("*.example.com", "eu.example.com", true),
        ("*.example.com", "example.com", false),
        ("example.com", "example.org", false),
    ] {
        assert_eq!(match_length(entry, host, "library/x").is_some(), matches, "{entry} {host}");
    }
}
