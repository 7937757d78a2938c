//! Texts for `Warning` headers: what is accepted, but likely not meant.

use k8s_openapi::api::core::v1::{ContainerPort, EnvVar, NodeSelectorTerm, PodSpec, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use naru_model::validation::Path;
use std::collections::{BTreeMap, BTreeSet};

use super::{OrEmpty, resources, visit_containers};

/// Node labels that were renamed, and what came in their place.
const DEPRECATED_NODE_LABELS: &[(&str, &str)] = &[
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
    ),
    (
        "beta.kubernetes.io/instance-type",
        "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
    ),
];

const DEPRECATED_ANNOTATIONS: &[(&str, &str)] = &[
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
];

/// The warnings for a pod (`path` is empty) or a template (`path` is `spec.template`).
pub fn warnings(meta: &ObjectMeta, spec: &PodSpec, path: &Path) -> Vec<String> {
    let mut texts = Vec::new();
    let spec_path = path.child("spec");
    node_labels(spec, &spec_path, &mut texts);
    let annotations = path.child("metadata").child("annotations");
    for (key, message) in DEPRECATED_ANNOTATIONS {
        if meta.annotations.as_ref().is_some_and(|map| map.contains_key(*key)) {
            texts.push(format!("{}: {message}", annotations.key(key).as_str()));
        }
    }
    for (index, volume) in spec.volumes.or_empty().iter().enumerate() {
        volume_plugin(volume, &spec_path.child("volumes").index(index), &mut texts);
    }
    repeated_names(spec, &spec_path, &mut texts);
    for name in ["memory", "ephemeral-storage"] {
        fraction(spec.overhead.as_ref(), name, &spec_path.child("overhead"), &mut texts);
    }
    visit_containers(spec, &spec_path, |container, path| {
        if let Some(requirements) = container.resources {
            let path = path.child("resources");
            for name in ["memory", "ephemeral-storage"] {
                fraction(requirements.limits.as_ref(), name, &path.child("limits"), &mut texts);
                fraction(requirements.requests.as_ref(), name, &path.child("requests"), &mut texts);
            }
        }
        repeated_env(container.env, &path.child("env"), &mut texts);
    });
    overlapping_ports(spec, &spec_path, &mut texts);
    if spec.termination_grace_period_seconds.is_some_and(|seconds| seconds < 0) {
        let path = spec_path.child("terminationGracePeriodSeconds");
        texts.push(format!(
            "{}: must be >= 0; negative values are invalid and will be treated as 1",
            path.as_str()
        ));
    }
    texts
}

pub fn deprecated(label: &str) -> Option<&'static str> {
    DEPRECATED_NODE_LABELS.iter().find(|(name, _)| *name == label).map(|(_, message)| *message)
}

fn node_labels(spec: &PodSpec, path: &Path, texts: &mut Vec<String>) {
    for (key, _) in spec.node_selector.iter().flatten() {
        if let Some(message) = deprecated(key) {
            texts.push(format!("{}: {message}", path.child("nodeSelector").key(key).as_str()));
        }
    }
    if let Some(affinity) = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref()) {
        let path = path.child("affinity").child("nodeAffinity");
        let required = affinity.required_during_scheduling_ignored_during_execution.as_ref();
        let terms_path =
            path.child("requiredDuringSchedulingIgnoredDuringExecution").child("nodeSelectorTerms");
        for (index, term) in
            required.iter().flat_map(|selector| selector.node_selector_terms.iter().enumerate())
        {
            term_labels(term, &terms_path.index(index), texts);
        }
        let preferred = affinity.preferred_during_scheduling_ignored_during_execution.or_empty();
        for (index, term) in preferred.iter().enumerate() {
            let path = path
                .child("preferredDuringSchedulingIgnoredDuringExecution")
                .index(index)
                .child("preference");
            term_labels(&term.preference, &path, texts);
        }
    }
    for (index, constraint) in spec.topology_spread_constraints.or_empty().iter().enumerate() {
        let path = path.child("topologySpreadConstraints").index(index);
        let key = &constraint.topology_key;
        if let Some(message) = deprecated(key) {
            texts.push(format!("{}: {key} is {message}", path.child("topologyKey").as_str()));
        }
        if constraint.label_selector.is_none() {
            let path = path.child("labelSelector");
            texts.push(format!("{}: a null labelSelector results in matching no pod", path.as_str()));
        }
    }
}

fn term_labels(term: &NodeSelectorTerm, path: &Path, texts: &mut Vec<String>) {
    for (index, expression) in term.match_expressions.or_empty().iter().enumerate() {
        if let Some(message) = deprecated(&expression.key) {
            let path = path.child("matchExpressions").index(index).child("key");
            texts.push(format!("{}: {} is {message}", path.as_str(), expression.key));
        }
    }
}

fn volume_plugin(volume: &Volume, path: &Path, texts: &mut Vec<String>) {
    for (name, is_set, message) in [
        (
            "photonPersistentDisk",
            volume.photon_persistent_disk.is_some(),
            "deprecated in v1.11, non-functional in v1.16+",
        ),
        ("gitRepo", volume.git_repo.is_some(), "deprecated in v1.11, and disabled by default in v1.33+"),
        ("scaleIO", volume.scale_io.is_some(), "deprecated in v1.16, non-functional in v1.22+"),
        ("flocker", volume.flocker.is_some(), "deprecated in v1.22, non-functional in v1.25+"),
        ("storageOS", volume.storageos.is_some(), "deprecated in v1.22, non-functional in v1.25+"),
        ("quobyte", volume.quobyte.is_some(), "deprecated in v1.22, non-functional in v1.25+"),
        ("glusterfs", volume.glusterfs.is_some(), "deprecated in v1.25, non-functional in v1.26+"),
        ("cephfs", volume.cephfs.is_some(), "deprecated in v1.28, non-functional in v1.31+"),
        ("rbd", volume.rbd.is_some(), "deprecated in v1.28, non-functional in v1.31+"),
    ] {
        if is_set {
            texts.push(format!("{}: {message}", path.child(name).as_str()));
        }
    }
}

/// Lists that `kubectl apply` merges by a key lose entries that share it.
fn repeated_names(spec: &PodSpec, path: &Path, texts: &mut Vec<String>) {
    let mut addresses = BTreeSet::new();
    for (index, alias) in spec.host_aliases.or_empty().iter().enumerate() {
        if !addresses.insert(&alias.ip) {
            let path = path.child("hostAliases").index(index).child("ip");
            texts.push(format!("{}: duplicate ip {:?}", path.as_str(), alias.ip));
        }
    }
    let mut secrets = BTreeSet::new();
    for (index, secret) in spec.image_pull_secrets.or_empty().iter().enumerate() {
        let path = path.child("imagePullSecrets").index(index).child("name");
        if !secrets.insert(&secret.name) {
            texts.push(format!("{}: duplicate name {:?}", path.as_str(), secret.name));
        }
        if secret.name.is_empty() {
            texts.push(format!("{}: invalid empty name \"\"", path.as_str()));
        }
    }
}

fn fraction(list: Option<&resources::ResourceList>, name: &str, path: &Path, texts: &mut Vec<String>) {
    if let Some(quantity) = resources::is_fractional(list, name) {
        let path = path.key(name);
        let quantity = quantity.to_string();
        texts.push(format!(
            "{}: fractional byte value {quantity:?} is invalid, must be an integer",
            path.as_str()
        ));
    }
}

fn repeated_env(env: &[EnvVar], path: &Path, texts: &mut Vec<String>) {
    let mut names = BTreeSet::new();
    for (index, variable) in env.iter().enumerate() {
        if names.insert(&variable.name) {
            continue;
        }
        let (value, reference) = (variable.value.or_empty(), format!("$({})", variable.name));
        // `X=$(X):more` builds on the earlier value; everything else hides it.
        if variable.value_from.is_some() || value == reference || !value.contains(&reference) {
            let path = path.index(index);
            let name = &variable.name;
            texts.push(format!(
                "{}: hides previous definition of {name:?}, which may be dropped when using apply",
                path.as_str()
            ));
        }
    }
}

fn overlapping_ports(spec: &PodSpec, path: &Path, texts: &mut Vec<String>) {
    let mut seen: BTreeMap<(i32, &str), Vec<(Path, &ContainerPort)>> = BTreeMap::new();
    visit_containers(spec, path, |container, path| {
        for (index, port) in container.ports.iter().enumerate() {
            let path = path.child("ports").index(index);
            let (host_ip, host_port) = (port.host_ip.or_empty(), port.host_port.unwrap_or_default());
            let others = seen.entry((port.container_port, port.protocol.or_empty())).or_default();
            for (other_path, other) in &*others {
                let (other_ip, other_port) = (other.host_ip.or_empty(), other.host_port.unwrap_or_default());
                let overlaps_ip = host_ip == other_ip || host_ip.is_empty() || other_ip.is_empty();
                let how = if host_ip == other_ip && host_port == other_port {
                    "duplicate"
                } else if host_port == 0 || other_port == 0 || (host_port == other_port && overlaps_ip) {
                    "overlapping"
                } else {
                    continue;
                };
                texts.push(format!("{}: {how} port definition with {}", path.as_str(), other_path.as_str()));
            }
            others.push((path, port));
        }
    });
}
