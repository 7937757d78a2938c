//! Names of things: labels and annotations on CRI objects, directories, references in messages.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{ObjectReference, Pod};

pub const LABEL_POD_NAME: &str = "io.kubernetes.pod.name";
pub const LABEL_POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub const LABEL_POD_UID: &str = "io.kubernetes.pod.uid";
pub const LABEL_CONTAINER_NAME: &str = "io.kubernetes.container.name";
pub const ANNOTATION_HASH: &str = "io.kubernetes.container.hash";
pub const ANNOTATION_RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
pub const ANNOTATION_PORTS: &str = "io.kubernetes.container.ports";
pub const ANNOTATION_MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
pub const ANNOTATION_MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
pub const ANNOTATION_POD_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";

/// Which pod: names for people and the API, the uid for everything that must not be confused with a namesake.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodIdentity {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

impl PodIdentity {
    pub fn of(pod: &Pod) -> Self {
        let metadata = &pod.metadata;
        Self {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
        }
    }

    /// From the labels of a sandbox or container; `None` if it is nobody's pod.
    pub fn from_labels(labels: &std::collections::HashMap<String, String>) -> Option<Self> {
        Some(Self {
            namespace: labels.get(LABEL_POD_NAMESPACE)?.clone(),
            name: labels.get(LABEL_POD_NAME)?.clone(),
            uid: labels.get(LABEL_POD_UID)?.clone(),
        })
    }

    /// `name_namespace(uid)`, as the kubelet's messages name pods.
    pub fn long_name(&self) -> String {
        format!("{}_{}({})", self.name, self.namespace, self.uid)
    }

    pub fn reference(&self) -> ObjectReference {
        ObjectReference {
            kind: Some("Pod".into()),
            api_version: Some("v1".into()),
            namespace: Some(self.namespace.clone()),
            name: Some(self.name.clone()),
            uid: Some(self.uid.clone()),
            ..Default::default()
        }
    }
}

/// Where an agent keeps things.
#[derive(Debug, Clone)]
pub struct Directories {
    root: PathBuf,
    /// For volumes with text from the API, see `memory_dir`.
    texts: PathBuf,
}

impl Directories {
    /// All on disk.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        Self { texts: root.clone(), root }
    }

    /// Volumes with text from the API in `texts`, if there is such a place.
    pub fn with_texts_in(self, texts: Option<PathBuf>) -> Self {
        Self { texts: texts.unwrap_or(self.texts), ..self }
    }

    pub fn pods(&self) -> PathBuf {
        self.root.join("pods")
    }

    fn pod(&self, uid: &str) -> PathBuf {
        self.pods().join(uid)
    }

    /// Where volumes of pods are, by uid: on disk, and in memory.
    pub fn homes(&self) -> [PathBuf; 2] {
        [self.pods(), self.texts.join("pods")]
    }

    /// The path that the kubelet uses: `pods/UID/volumes/kubernetes.io~PLUGIN/NAME`.
    pub fn volume(&self, uid: &str, plugin: &str, name: &str) -> PathBuf {
        volume_below(&self.pods(), uid, plugin, name)
    }

    /// The same, for one that holds text from the API.
    pub fn text_volume(&self, uid: &str, plugin: &str, name: &str) -> PathBuf {
        volume_below(&self.texts.join("pods"), uid, plugin, name)
    }

    /// All volumes of a pod.
    pub fn volumes(&self, uid: &str) -> [PathBuf; 2] {
        self.homes().map(|home| home.join(uid).join("volumes"))
    }

    /// The termination message file of one run of a container.
    pub fn termination_message(&self, uid: &str, container: &str, restart_count: u32) -> PathBuf {
        self.pod(uid).join("containers").join(container).join(format!("{restart_count}.message"))
    }

    pub fn logs(&self) -> PathBuf {
        self.root.join("pods-log")
    }

    pub fn pod_logs(&self, pod: &PodIdentity) -> PathBuf {
        self.logs().join(format!("{}_{}_{}", pod.namespace, pod.name, pod.uid))
    }
}

fn volume_below(pods: &Path, uid: &str, plugin: &str, name: &str) -> PathBuf {
    pods.join(uid).join("volumes").join(format!("kubernetes.io~{plugin}")).join(name)
}

/// The log file of one run of a container, below the pod's log directory.
pub fn log_path(container: &str, restart_count: u32) -> String {
    format!("{container}/{restart_count}.log")
}
