//! What the checks look at in each container of a pod, and how they name what they find.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{ContainerPort, Lifecycle, PodSpec, Probe, SecurityContext};

/// A check that failed: in short, and with what failed it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Violation {
    pub reason: String,
    pub detail: String,
}

impl Violation {
    pub fn new(reason: &str, detail: String) -> Self {
        Self { reason: reason.into(), detail }
    }
}

/// A container of whatever kind.
pub(super) struct Part<'a> {
    pub name: &'a str,
    pub image: Option<&'a str>,
    pub security: Option<&'a SecurityContext>,
    pub ports: &'a [ContainerPort],
    pub probes: [Option<&'a Probe>; 3],
    pub lifecycle: Option<&'a Lifecycle>,
}

/// What containers and ephemeral ones have alike, in types of their own.
macro_rules! part {
    ($container:ident) => {
        Part {
            name: &$container.name,
            image: $container.image.as_deref(),
            security: $container.security_context.as_ref(),
            ports: $container.ports.as_deref().unwrap_or_default(),
            probes: [
                $container.liveness_probe.as_ref(),
                $container.readiness_probe.as_ref(),
                $container.startup_probe.as_ref(),
            ],
            lifecycle: $container.lifecycle.as_ref(),
        }
    };
}

/// The init containers, the containers and the ephemeral ones.
pub(super) fn containers(spec: &PodSpec) -> impl Iterator<Item = Part<'_>> {
    let ordinary =
        spec.init_containers.iter().flatten().chain(&spec.containers).map(|container| part!(container));
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|container| part!(container));
    ordinary.chain(ephemeral)
}

/// The names of the containers whose security context is as asked.
pub(super) fn those_with(spec: &PodSpec, is_so: impl Fn(Option<&SecurityContext>) -> bool) -> Vec<&str> {
    containers(spec).filter(|part| is_so(part.security)).map(|part| part.name).collect()
}

/// `container "a"` or `containers "a", "b"`.
pub(super) fn named(names: &[&str]) -> String {
    format!("{} {}", plural("container", names.len()), quoted(names))
}

/// `pod`, `container "a"`, or `pod and containers "a", "b"`; "" for neither.
pub(super) fn setters(is_pod: bool, names: &[&str]) -> String {
    match (is_pod, names) {
        (false, []) => String::new(),
        (true, []) => "pod".into(),
        (false, names) => named(names),
        (true, names) => format!("pod and {}", named(names)),
    }
}

pub(super) fn plural(word: &str, count: usize) -> String {
    if count == 1 { word.into() } else { format!("{word}s") }
}

/// `uses` of one, `use` of many.
pub(super) fn uses(count: usize) -> &'static str {
    if count == 1 { "uses" } else { "use" }
}

pub(super) fn quoted<'a>(names: impl IntoIterator<Item = &'a (impl AsRef<str> + 'a)>) -> String {
    names.into_iter().map(|name| format!("\"{}\"", name.as_ref())).collect::<Vec<_>>().join(", ")
}

/// The seccomp profiles other than the runtime's and a local one: whether the pod has one, the containers that do, and
/// the types.
pub(super) fn bad_seccomp(spec: &PodSpec) -> Option<Violation> {
    let mut types = BTreeSet::new();
    let mut is_bad = |type_: &str| {
        let is_bad = type_ != "RuntimeDefault" && type_ != "Localhost";
        if is_bad {
            types.insert(type_.to_owned());
        }
        is_bad
    };
    let of_pod = spec.security_context.as_ref().and_then(|context| context.seccomp_profile.as_ref());
    let is_pod = of_pod.is_some_and(|profile| is_bad(&profile.type_));
    let mut names = Vec::new();
    for part in containers(spec) {
        let profile = part.security.and_then(|context| context.seccomp_profile.as_ref());
        if profile.is_some_and(|profile| is_bad(&profile.type_)) {
            names.push(part.name);
        }
    }
    let who = setters(is_pod, &names);
    (!who.is_empty()).then(|| {
        let detail = format!("{who} must not set securityContext.seccompProfile.type to {}", quoted(&types));
        Violation::new("seccompProfile", detail)
    })
}
