//! Pod specs, as they stand in pods and in the templates of workloads: defaults and validation.
//!
//! [`defaults`] fills in what a client left out, [`Check`] finds what is wrong, field by field, in the words that
//! `kubectl` users know. Everything the API can express is checked, also what no code of ours acts on yet: a
//! manifest that is wrong elsewhere is wrong here.
//!
//! **Invariant:** pure functions of the spec. Whether a referenced ConfigMap, claim or class exists is not asked.

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, PodSpec, PodTemplateSpec, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use naru_model::validation::{FieldErrors, Path};
use std::collections::{BTreeMap, BTreeSet};

mod affinity;
mod annotations;
pub(super) mod check;
mod claim_template;
mod containers;
pub mod defaults;
mod dns;
mod env;
mod ephemeral;
mod mounts;
mod network_disks;
mod operating_system;
mod probes;
mod projected;
pub mod resources;
mod scheduling;
mod security;
mod spec;
mod volume_defaults;
mod volumes;
pub mod warnings;

#[cfg(test)]
mod tests;

pub(super) use affinity::node_selector;
pub(super) use annotations::{annotation_updates, match_profiles, pod_annotations};
pub(super) use claim_template::{access_modes, claim_spec};
pub(super) use containers::protocol;
pub(super) use resources::{canonical_quantities, container_resource_name, resource_amount};
pub(super) use scheduling::{taint_effect, tolerations};
pub(super) use volumes::storage_source;

/// Reads an optional list or text as an empty one: the API tells no difference.
pub(super) trait OrEmpty {
    type Target: ?Sized;
    fn or_empty(&self) -> &Self::Target;
}

impl OrEmpty for Option<String> {
    type Target = str;
    fn or_empty(&self) -> &str {
        self.as_deref().unwrap_or_default()
    }
}

impl<T> OrEmpty for Option<Vec<T>> {
    type Target = [T];
    fn or_empty(&self) -> &[T] {
        self.as_deref().unwrap_or_default()
    }
}

/// Where the spec stands: some rules hold for pods only, others for templates only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home<'a> {
    /// A pod of this name ("" before one is generated).
    Pod {
        name: &'a str,
    },
    Template,
}

/// What the parts of a pod spec need to know of the whole while they are checked.
pub(super) struct Check<'a> {
    spec: &'a PodSpec,
    home: Home<'a>,
    /// The volumes that are valid by themselves, by name: what mounts may refer to.
    volumes: BTreeMap<&'a str, &'a Volume>,
    /// The names of `spec.resourceClaims`.
    claims: BTreeSet<&'a str>,
}

impl<'a> Check<'a> {
    fn new(spec: &'a PodSpec, home: Home<'a>) -> Self {
        let claims = spec.resource_claims.or_empty().iter().map(|claim| claim.name.as_str());
        let claims = claims.filter(|name| !name.is_empty()).collect();
        Self { spec, home, volumes: BTreeMap::new(), claims }
    }

    fn is_pod(&self) -> bool {
        self.home != Home::Template
    }

    fn shares_host_users(&self) -> bool {
        self.spec.host_users != Some(false)
    }

    fn uses_host_network(&self) -> bool {
        self.spec.host_network == Some(true)
    }
}

/// Checks the spec of a pod or template at `path`.
pub fn validate_spec(spec: &PodSpec, home: Home<'_>, path: &Path, errors: &mut FieldErrors) {
    Check::new(spec, home).spec(path, errors);
}

/// Checks the template of a workload at `path`.
pub fn validate_template(template: &PodTemplateSpec, path: &Path, errors: &mut FieldErrors) {
    let empty_meta = ObjectMeta::default();
    let meta = template.metadata.as_ref().unwrap_or(&empty_meta);
    // Kubernetes reports these without the `metadata` step in between.
    check::labels(meta.labels.as_ref(), &path.child("labels"), errors);
    check::annotations(meta.annotations.as_ref(), &path.child("annotations"), errors);
    let empty_spec = PodSpec::default();
    let spec = template.spec.as_ref().unwrap_or(&empty_spec);
    pod_annotations(meta, spec, &path.child("annotations"), errors);
    let spec_path = path.child("spec");
    validate_spec(spec, Home::Template, &spec_path, errors);
    annotations::match_profiles(meta, spec, &spec_path, errors);
    if !spec.ephemeral_containers.or_empty().is_empty() {
        errors.forbidden(
            &spec_path.child("ephemeralContainers"),
            "ephemeral containers not allowed in pod template",
        );
    }
}

/// Fills in the defaults of a template.
pub fn default_template(template: &mut PodTemplateSpec) {
    defaults::default_spec(template.spec.get_or_insert_default());
}

/// Every container of a spec with its path: init, ordinary, ephemeral.
fn visit_containers<'a>(spec: &'a PodSpec, path: &Path, mut visit: impl FnMut(Visited<'a>, &Path)) {
    let init = path.child("initContainers");
    for (index, container) in spec.init_containers.or_empty().iter().enumerate() {
        visit(Visited::from(container), &init.index(index));
    }
    let ordinary = path.child("containers");
    for (index, container) in spec.containers.iter().enumerate() {
        visit(Visited::from(container), &ordinary.index(index));
    }
    let ephemeral = path.child("ephemeralContainers");
    for (index, container) in spec.ephemeral_containers.or_empty().iter().enumerate() {
        visit(Visited::from(container), &ephemeral.index(index));
    }
}

/// What containers of every kind have in common, for rules that ask for no more.
#[derive(Clone, Copy)]
struct Visited<'a> {
    name: &'a str,
    security_context: Option<&'a k8s_openapi::api::core::v1::SecurityContext>,
    resources: Option<&'a k8s_openapi::api::core::v1::ResourceRequirements>,
    env: &'a [k8s_openapi::api::core::v1::EnvVar],
    ports: &'a [k8s_openapi::api::core::v1::ContainerPort],
}

impl<'a> From<&'a Container> for Visited<'a> {
    fn from(container: &'a Container) -> Self {
        Self {
            name: &container.name,
            security_context: container.security_context.as_ref(),
            resources: container.resources.as_ref(),
            env: container.env.or_empty(),
            ports: container.ports.or_empty(),
        }
    }
}

impl<'a> From<&'a EphemeralContainer> for Visited<'a> {
    fn from(container: &'a EphemeralContainer) -> Self {
        Self {
            name: &container.name,
            security_context: container.security_context.as_ref(),
            resources: container.resources.as_ref(),
            env: container.env.or_empty(),
            ports: container.ports.or_empty(),
        }
    }
}
