//! Ephemeral containers: debugging guests in a running pod, with less than a container's rights.

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, ResourceRequirements};
use naru_model::validation::{FieldErrors, Path};
use std::collections::BTreeSet;

use super::{Check, OrEmpty, check, containers};

impl Check<'_> {
    pub(super) fn ephemeral_containers(&self, path: &Path, errors: &mut FieldErrors) {
        let lasting = self.spec.containers.iter().chain(self.spec.init_containers.or_empty());
        let lasting: BTreeSet<&str> = lasting.map(|container| container.name.as_str()).collect();
        let mut names = lasting.clone();
        for (index, container) in self.spec.ephemeral_containers.or_empty().iter().enumerate() {
            let path = path.index(index);
            self.common(&as_container(container), &path, errors);
            containers::unpadded_image(container.image.or_empty(), &path, errors);
            if !names.insert(container.name.as_str()) {
                errors.duplicate(&path.child("name"), container.name.as_str());
            }
            let target = container.target_container_name.or_empty();
            if !target.is_empty() && !lasting.contains(target) {
                check::not_found(&path.child("targetContainerName"), target, errors);
            }
            forbidden_fields(container, &path, errors);
        }
    }
}

/// Nothing that the pod's work could come to depend on.
fn forbidden_fields(container: &EphemeralContainer, path: &Path, errors: &mut FieldErrors) {
    const DETAIL: &str = "cannot be set for an Ephemeral Container";
    let has_resources =
        container.resources.as_ref().is_some_and(|resources| *resources != ResourceRequirements::default());
    for (name, is_set) in [
        ("ports", container.ports.is_some()),
        ("resources", has_resources),
        ("resizePolicy", container.resize_policy.is_some()),
        ("restartPolicy", container.restart_policy.is_some()),
        ("restartPolicyRules", container.restart_policy_rules.is_some()),
        ("livenessProbe", container.liveness_probe.is_some()),
        ("readinessProbe", container.readiness_probe.is_some()),
        ("startupProbe", container.startup_probe.is_some()),
        ("lifecycle", container.lifecycle.is_some()),
    ] {
        if is_set {
            errors.forbidden(&path.child(name), DETAIL);
        }
    }
    let mounts = path.child("volumeMounts");
    for (index, mount) in container.volume_mounts.or_empty().iter().enumerate() {
        if !mount.sub_path.or_empty().is_empty() {
            errors.forbidden(&mounts.index(index).child("subPath"), DETAIL);
        }
        if !mount.sub_path_expr.or_empty().is_empty() {
            errors.forbidden(&mounts.index(index).child("subPathExpr"), DETAIL);
        }
    }
}

/// The fields that the common rules look at.
fn as_container(container: &EphemeralContainer) -> Container {
    Container {
        name: container.name.clone(),
        image: container.image.clone(),
        image_pull_policy: container.image_pull_policy.clone(),
        termination_message_policy: container.termination_message_policy.clone(),
        ports: container.ports.clone(),
        env: container.env.clone(),
        env_from: container.env_from.clone(),
        volume_mounts: container.volume_mounts.clone(),
        volume_devices: container.volume_devices.clone(),
        resources: container.resources.clone(),
        resize_policy: container.resize_policy.clone(),
        security_context: container.security_context.clone(),
        ..Container::default()
    }
}
