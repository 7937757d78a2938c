//! Brings images to the node: from the cluster's own store first, then from registries.
//!
//! Work on one image is done once at a time: a thousand pods that start together cost one look-up and at most one
//! pull, and share its outcome.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::{SignedDuration, Timestamp};
use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Container, Secret};
use serde::Deserialize;

use super::{
    backoff::{Backoff, KUBELET},
    cluster::{Cluster, ClusterImage},
    decide::Waiting,
    events::{EventKind, Events},
    objects::{FRESH, Objects},
    pod_view::{PodView, Role},
    runtime::Runtime,
};

/// How long an outcome is good for others who asked meanwhile.
const SHARE_FOR: Duration = Duration::from_secs(1);
const FORGET_AFTER: SignedDuration = SignedDuration::from_mins(20);
const SWEEP_ABOVE: usize = 1024;

pub struct ImagePuller {
    runtime: Arc<dyn Runtime>,
    cluster: Arc<dyn Cluster>,
    objects: Arc<Objects>,
    events: Events,
    /// Held for a few lines; each flight's own lock is what waits.
    flights: Mutex<HashMap<FlightKey, Flight>>,
    /// By pod uid and image. Held for a few lines.
    backoffs: Mutex<HashMap<(String, String), Failure>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct FlightKey {
    image: String,
    policy: Policy,
    credentials: String,
}

type Flight = Arc<tokio::sync::Mutex<Option<(Instant, Outcome)>>>;
type Outcome = Result<Arrival, PullFailure>;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Arrival {
    image_ref: String,
    /// How long the pull took; `None` for an image that was there.
    pulled_in: Option<Duration>,
    size: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum PullFailure {
    InvalidName(String),
    NeverPull,
    Pull(String),
}

struct Failure {
    backoff: Backoff,
    at: Timestamp,
    message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Policy {
    Always,
    IfNotPresent,
    Never,
}

impl Policy {
    fn of(container: &Container) -> Self {
        match container.image_pull_policy.as_deref() {
            Some("Always") => Self::Always,
            Some("Never") => Self::Never,
            _ => Self::IfNotPresent,
        }
    }
}

/// Why a container has no image yet, and when to ask again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    pub waiting: Waiting,
    pub retry_in: SignedDuration,
}

impl ImagePuller {
    pub fn new(
        runtime: Arc<dyn Runtime>,
        cluster: Arc<dyn Cluster>,
        objects: Arc<Objects>,
        events: Events,
    ) -> Self {
        Self { runtime, cluster, objects, events, flights: Mutex::default(), backoffs: Mutex::default() }
    }

    /// The reference under which the container's image is in the runtime.
    pub async fn ensure(&self, pod: &PodView, container: &Container, role: Role) -> Result<String, Missing> {
        let image = container.image.clone().unwrap_or_default();
        let policy = Policy::of(container);
        let told = |kind, reason, message: String| {
            self.events.container(&pod.identity, (&container.name, role), kind, reason, message);
        };
        if let Some(missing) = self.still_backing_off(pod, &image) {
            told(EventKind::Normal, "BackOff", format!("Back-off pulling image {image:?}"));
            told(EventKind::Warning, "Failed", "Error: ImagePullBackOff".into());
            return Err(missing);
        }
        let waited_since = Instant::now();
        let announce = || told(EventKind::Normal, "Pulling", format!("Pulling image {image:?}"));
        match self.arrive(pod, &image, policy, announce).await {
            Ok(arrival) => {
                self.backoffs.lock().expect("no one panics holding it").remove(&key(pod, &image));
                told(EventKind::Normal, "Pulled", arrival.message(&image, waited_since.elapsed()));
                Ok(arrival.image_ref)
            }
            Err(failure) => {
                let waiting = failure.waiting(&image);
                match &failure {
                    PullFailure::InvalidName(_) => {
                        told(EventKind::Warning, "InspectFailed", waiting.message.clone());
                    }
                    PullFailure::NeverPull => {
                        told(EventKind::Warning, "ErrImageNeverPull", waiting.message.clone());
                    }
                    PullFailure::Pull(reason) => {
                        told(
                            EventKind::Warning,
                            "Failed",
                            format!("Failed to pull image {image:?}: {reason}"),
                        );
                    }
                }
                told(EventKind::Warning, "Failed", format!("Error: {}", waiting.reason));
                let retry_in = self.remember_failure(pod, &image, &failure);
                Err(Missing { waiting, retry_in })
            }
        }
    }

    fn still_backing_off(&self, pod: &PodView, image: &str) -> Option<Missing> {
        let backoffs = self.backoffs.lock().expect("no one panics holding it");
        let failure = backoffs.get(&key(pod, image))?;
        let left = failure.backoff.remaining(KUBELET, failure.at, Timestamp::now())?;
        let message = format!("Back-off pulling image {image:?}: ErrImagePull: {}", failure.message);
        Some(Missing { waiting: Waiting { reason: "ImagePullBackOff".into(), message }, retry_in: left })
    }

    /// Failures of a pull back off; a name that can't be or mustn't be pulled is looked at again now and then.
    fn remember_failure(&self, pod: &PodView, image: &str, failure: &PullFailure) -> SignedDuration {
        let PullFailure::Pull(message) = failure else { return KUBELET.initial };
        let now = Timestamp::now();
        let mut backoffs = self.backoffs.lock().expect("no one panics holding it");
        if backoffs.len() > SWEEP_ABOVE {
            backoffs.retain(|_, failure| now.duration_since(failure.at) < FORGET_AFTER);
        }
        let previous = backoffs.get(&key(pod, image)).map(|failure| failure.backoff);
        let backoff = Backoff::next(previous, KUBELET, now, now);
        backoffs.insert(key(pod, image), Failure { backoff, at: now, message: message.clone() });
        // Soon, so that the reason turns into ImagePullBackOff; the pull itself waits for the back-off.
        SignedDuration::from_millis(1500).min(backoff.delay)
    }

    async fn arrive(&self, pod: &PodView, image: &str, policy: Policy, announce: impl Fn()) -> Outcome {
        if let Some(reason) = invalid_name(image) {
            return Err(PullFailure::InvalidName(reason));
        }
        let credentials = self.credentials(pod, image).await;
        let fingerprint = format!("{credentials:?}");
        let flight = self.flight(FlightKey { image: image.into(), policy, credentials: fingerprint });
        let mut flight = flight.lock().await;
        if let Some((at, outcome)) = &*flight
            && at.elapsed() < SHARE_FOR
        {
            // Somebody else's pull is, for this pod, an image that is present.
            return outcome.clone().map(|arrival| Arrival { pulled_in: None, ..arrival });
        }
        let outcome = self.fetch(image, policy, &credentials, announce).await;
        *flight = Some((Instant::now(), outcome.clone()));
        outcome
    }

    fn flight(&self, key: FlightKey) -> Flight {
        let mut flights = self.flights.lock().expect("no one panics holding it");
        if flights.len() > SWEEP_ABOVE {
            flights.retain(|_, flight| Arc::strong_count(flight) > 1);
        }
        flights.entry(key).or_default().clone()
    }

    async fn fetch(
        &self,
        image: &str,
        policy: Policy,
        credentials: &[cri::AuthConfig],
        announce: impl Fn(),
    ) -> Outcome {
        let as_pull_failure = |message: String| PullFailure::Pull(message);
        let present =
            self.runtime.image_status(image).await.map_err(|error| as_pull_failure(error.message))?;
        if policy != Policy::Always
            && let Some(present) = &present
        {
            return Ok(Arrival::present(present));
        }
        let started = Instant::now();
        let known =
            self.cluster.resolve_image(image).await.map_err(|error| as_pull_failure(error.to_string()))?;
        if let Some(known) = known {
            if let Some(present) = present.filter(|present| has_digest(present, &known.digest)) {
                return Ok(Arrival::present(&present));
            }
            announce();
            let image_ref = self.import(image, &known).await.map_err(as_pull_failure)?;
            return Ok(Arrival { image_ref, pulled_in: Some(started.elapsed()), size: known.size });
        }
        if policy == Policy::Never {
            return Err(PullFailure::NeverPull);
        }
        announce();
        let image_ref = self.pull(image, credentials).await.map_err(as_pull_failure)?;
        let status = self.runtime.image_status(image).await.ok().flatten();
        let size = status.map_or(0, |image| image.size);
        Ok(Arrival { image_ref, pulled_in: Some(started.elapsed()), size })
    }

    async fn import(&self, image: &str, known: &ClusterImage) -> Result<String, String> {
        let content = self.cluster.image_blob(&known.digest).await.map_err(|error| error.to_string())?;
        self.runtime.import_image(image, &known.digest, content).await.map_err(|error| error.message)
    }

    /// With each set of credentials in turn; without any, anonymously.
    async fn pull(&self, image: &str, credentials: &[cri::AuthConfig]) -> Result<String, String> {
        let mut reasons = Vec::new();
        let attempts = credentials.iter().cloned().map(Some).chain(credentials.is_empty().then_some(None));
        for auth in attempts {
            match self.runtime.pull_image(image, auth).await {
                Ok(image_ref) => return Ok(image_ref),
                Err(error) => reasons.push(error.message),
            }
        }
        reasons.dedup();
        Err(reasons.join(", "))
    }

    async fn credentials(&self, pod: &PodView, image: &str) -> Vec<cri::AuthConfig> {
        let mut credentials = Vec::new();
        for reference in pod.spec().image_pull_secrets.iter().flatten() {
            match self.objects.secret(&pod.identity.namespace, &reference.name, FRESH).await {
                Ok(secret) => credentials.extend(auth_for(image, &secret)),
                Err(error) => {
                    let message = format!(
                        "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                        reference.name
                    );
                    self.events.pod(
                        &pod.identity,
                        EventKind::Warning,
                        "FailedToRetrieveImagePullSecret",
                        message,
                    );
                    tracing::debug!(%error, secret = reference.name, "image pull secret");
                }
            }
        }
        credentials
    }
}

fn key(pod: &PodView, image: &str) -> (String, String) {
    (pod.identity.uid.clone(), image.to_owned())
}

impl Arrival {
    fn present(image: &cri::Image) -> Self {
        Self { image_ref: image.id.clone(), pulled_in: None, size: image.size }
    }

    fn message(&self, image: &str, waited: Duration) -> String {
        match self.pulled_in {
            None => format!("Container image {image:?} already present on machine"),
            Some(took) => format!(
                "Successfully pulled image {image:?} in {} ({} including waiting). Image size: {} bytes.",
                go_millis(took),
                go_millis(waited.max(took)),
                self.size
            ),
        }
    }
}

impl PullFailure {
    fn waiting(&self, image: &str) -> Waiting {
        let (reason, message) = match self {
            Self::InvalidName(reason) => (
                "InvalidImageName",
                format!(
                    "Failed to apply default image tag {image:?}: couldn't parse image name {image:?}: {reason}"
                ),
            ),
            Self::NeverPull => (
                "ErrImageNeverPull",
                format!("Container image {image:?} is not present with pull policy of Never"),
            ),
            Self::Pull(reason) => ("ErrImagePull", reason.clone()),
        };
        Waiting { reason: reason.into(), message }
    }
}

/// The image's id is its digest, or one of its names ends with it.
fn has_digest(image: &cri::Image, digest: &str) -> bool {
    let is_named = |name: &String| name.rsplit('@').next() == Some(digest);
    image.id == digest || image.repo_digests.iter().any(is_named)
}

/// As Go prints a duration cut to milliseconds: `345ms`, `1.2s`, `2m3.5s`.
fn go_millis(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis < 1000 {
        return format!("{millis}ms");
    }
    let (minutes, rest) = (millis / 60_000, millis % 60_000);
    let fraction = format!("{:03}", rest % 1000);
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    let seconds = format!("{}{point}{fraction}s", rest / 1000);
    if minutes == 0 { seconds } else { format!("{minutes}m{seconds}") }
}

/// Why a name can't be an image's.
fn invalid_name(image: &str) -> Option<String> {
    let (name, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
    let slash = name.rfind('/').map_or(0, |index| index + 1);
    let (repository, tag) = match name[slash..].rfind(':') {
        Some(colon) => (&name[..slash + colon], Some(&name[slash + colon + 1..])),
        None => (name, None),
    };
    let is_tag = |tag: &str| {
        (1..=128).contains(&tag.len())
            && !tag.starts_with(['.', '-'])
            && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
    };
    let mut parts = repository.split('/');
    let has_host = repository.contains('/')
        && repository.split('/').next().is_some_and(|host| host.contains(['.', ':']) || host == "localhost");
    if has_host {
        parts.next();
    }
    let path: Vec<_> = parts.collect();
    let is_component = |part: &&str| {
        !part.is_empty()
            && !part.starts_with(['.', '-', '_'])
            && !part.ends_with(['.', '-', '_'])
            && part
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_'))
    };
    let is_digest = |digest: &str| {
        digest.split_once(':').is_some_and(|(algorithm, hex)| {
            !algorithm.is_empty() && hex.len() >= 32 && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
    };
    if path.iter().any(|part| part.bytes().any(|byte| byte.is_ascii_uppercase())) {
        Some("invalid reference format: repository name must be lowercase".into())
    } else if path.is_empty()
        || !path.iter().all(is_component)
        || !tag.is_none_or(is_tag)
        || !digest.is_none_or(is_digest)
    {
        Some("invalid reference format".into())
    } else {
        None
    }
}

#[derive(Deserialize)]
struct DockerConfig {
    auths: HashMap<String, DockerAuth>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct DockerAuth {
    username: String,
    password: String,
    auth: String,
    identitytoken: String,
    registrytoken: String,
}

/// The credentials that a pull secret holds for the image's registry.
fn auth_for(image: &str, secret: &Secret) -> Option<cri::AuthConfig> {
    let data = secret.data.as_ref()?;
    let auths: HashMap<String, DockerAuth> = if let Some(config) = data.get(".dockerconfigjson") {
        serde_json::from_slice::<DockerConfig>(&config.0).ok()?.auths
    } else {
        serde_json::from_slice(&data.get(".dockercfg")?.0).ok()?
    };
    let name = image.split('@').next().unwrap_or_default();
    let (host, path) = match name.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host, path),
        _ => ("docker.io", name),
    };
    let matching =
        auths.iter().filter_map(|(registry, auth)| Some((match_length(registry, host, path)?, auth)));
    let (_, auth) = matching.max_by_key(|(length, _)| *length)?;
    Some(auth.to_cri(host))
}

/// How much of host and path a registry entry covers; `None` if it is about another registry.
fn match_length(entry: &str, host: &str, path: &str) -> Option<usize> {
    let entry = entry.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let entry = entry.strip_suffix("/v1").or(entry.strip_suffix("/v2")).unwrap_or(entry);
    let (entry_host, entry_path) = entry.split_once('/').unwrap_or((entry, ""));
    let is_docker_hub = matches!(entry_host, "index.docker.io" | "registry-1.docker.io" | "docker.io");
    let is_same = match entry_host.strip_prefix("*.") {
        Some(suffix) => host.strip_suffix(suffix).is_some_and(|rest| rest.ends_with('.')),
        None => entry_host == host || (is_docker_hub && host == "docker.io"),
    };
    (is_same && path.starts_with(entry_path)).then_some(entry_host.len() + entry_path.len())
}

impl DockerAuth {
    fn to_cri(&self, server: &str) -> cri::AuthConfig {
        let (mut username, mut password) = (self.username.clone(), self.password.clone());
        let decoded = BASE64_STANDARD.decode(&self.auth).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        if let Some((user, pass)) = decoded.as_deref().and_then(|pair| pair.split_once(':')) {
            (username, password) = (user.into(), pass.trim_end_matches('\0').into());
        }
        cri::AuthConfig {
            username,
            password,
            server_address: server.into(),
            identity_token: self.identitytoken.clone(),
            registry_token: self.registrytoken.clone(),
            ..Default::default()
        }
    }
}

#[cfg(test)]
#[path = "image_puller_tests.rs"]
mod tests;
