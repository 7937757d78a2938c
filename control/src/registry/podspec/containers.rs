//! Containers: what all kinds share, and what ordinary and init containers have of their own.

use k8s_openapi::api::core::v1::{Container, ContainerPort, ContainerResizePolicy, ContainerRestartRule};
use naru_model::validation::{FieldErrors, Path};
use std::collections::BTreeSet;

use super::{Check, OrEmpty, check, env, probes::ProbeKind, resources};

const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
const MAX_RESTART_RULES: usize = 20;
const MAX_EXIT_CODES: usize = 255;

impl Check<'_> {
    pub(super) fn containers(&self, path: &Path, errors: &mut FieldErrors) {
        let containers = &self.spec.containers;
        if containers.is_empty() {
            return errors.required(path, "");
        }
        let mut names = BTreeSet::new();
        for (index, container) in containers.iter().enumerate() {
            let path = path.index(index);
            self.common(container, &path, errors);
            if !names.insert(container.name.as_str()) {
                errors.duplicate(&path.child("name"), container.name.as_str());
            }
            self.lifecycle_and_probes(container, &path, errors);
            restart_policy(container, &path, errors);
        }
        host_port_conflicts(containers, path, 0, errors);
    }

    pub(super) fn init_containers(&self, path: &Path, errors: &mut FieldErrors) {
        let mut names: BTreeSet<&str> =
            self.spec.containers.iter().map(|container| container.name.as_str()).collect();
        for (index, container) in self.spec.init_containers.or_empty().iter().enumerate() {
            let item = path.index(index);
            self.common(container, &item, errors);
            restart_policy(container, &item, errors);
            if names.contains(container.name.as_str()) {
                errors.duplicate(&item.child("name"), container.name.as_str());
            } else if !container.name.is_empty() {
                names.insert(&container.name);
            }
            // Init containers run one by one, so that each may have the ports for itself.
            host_port_conflicts(std::slice::from_ref(container), path, index, errors);
            if resources::is_sidecar(container) {
                self.lifecycle_and_probes(container, &item, errors);
                if !container.restart_policy_rules.or_empty().is_empty() {
                    let detail = "may not be set for init containers with restartPolicy=Always";
                    errors.forbidden(&item.child("restartPolicyRules"), detail);
                }
                continue;
            }
            for (name, is_set) in [
                ("lifecycle", container.lifecycle.is_some()),
                ("livenessProbe", container.liveness_probe.is_some()),
                ("readinessProbe", container.readiness_probe.is_some()),
                ("startupProbe", container.startup_probe.is_some()),
            ] {
                if is_set {
                    let detail = "may not be set for init containers without restartPolicy=Always";
                    errors.forbidden(&item.child(name), detail);
                }
            }
        }
    }

    /// What every container is asked, whatever its kind.
    pub(super) fn common(&self, container: &Container, path: &Path, errors: &mut FieldErrors) {
        let name_path = path.child("name");
        if container.name.is_empty() {
            errors.required(&name_path, "");
        } else {
            check::dns_label(&container.name, &name_path, errors);
        }
        if container.image.or_empty().is_empty() {
            errors.required(&path.child("image"), "");
        }
        check::required_one_of(
            container.termination_message_policy.or_empty(),
            &["File", "FallbackToLogsOnError"],
            &path.child("terminationMessagePolicy"),
            errors,
        );
        container_ports(container.ports.or_empty(), &path.child("ports"), errors);
        self.env(container.env.or_empty(), &path.child("env"), errors);
        env::env_from(container.env_from.or_empty(), &path.child("envFrom"), errors);
        self.volume_mounts(container, &path.child("volumeMounts"), errors);
        self.volume_devices(container, &path.child("volumeDevices"), errors);
        pull_policy(container.image_pull_policy.or_empty(), &path.child("imagePullPolicy"), errors);
        if let Some(requirements) = &container.resources {
            self.resources(requirements, &resources::Owner::Container, &path.child("resources"), errors);
        }
        self.resize_policy(container.resize_policy.or_empty(), &path.child("resizePolicy"), errors);
        if let Some(context) = &container.security_context {
            self.security_context(context, &path.child("securityContext"), errors);
        }
    }

    fn lifecycle_and_probes(&self, container: &Container, path: &Path, errors: &mut FieldErrors) {
        if let Some(lifecycle) = &container.lifecycle {
            self.lifecycle(lifecycle, &path.child("lifecycle"), errors);
        }
        for (probe, kind, name) in [
            (&container.liveness_probe, ProbeKind::Liveness, "livenessProbe"),
            (&container.readiness_probe, ProbeKind::Readiness, "readinessProbe"),
            (&container.startup_probe, ProbeKind::Startup, "startupProbe"),
        ] {
            self.probe(probe.as_ref(), kind, &path.child(name), errors);
        }
    }

    fn resize_policy(&self, policies: &[ContainerResizePolicy], path: &Path, errors: &mut FieldErrors) {
        let mut seen = BTreeSet::new();
        for (index, policy) in policies.iter().enumerate() {
            if !seen.insert(policy.resource_name.as_str()) {
                errors.duplicate(&path.index(index), policy.resource_name.as_str());
            }
            check::required_one_of(&policy.resource_name, &["cpu", "memory"], path, errors);
            check::required_one_of(
                &policy.restart_policy,
                &["NotRequired", "RestartContainer"],
                path,
                errors,
            );
            if self.spec.restart_policy.as_deref() == Some("Never") && policy.restart_policy != "NotRequired"
            {
                let detail = "must be 'NotRequired' when `restartPolicy` is 'Never'";
                errors.invalid(path, policy.restart_policy.as_str(), detail);
            }
        }
    }

    /// Kubernetes tolerates padded images in templates, for old times' sake.
    pub(super) fn image_padding(&self, path: &Path, errors: &mut FieldErrors) {
        let groups = [
            ("containers", self.spec.containers.as_slice()),
            ("initContainers", self.spec.init_containers.or_empty()),
        ];
        for (name, containers) in groups {
            for (index, container) in containers.iter().enumerate() {
                unpadded_image(container.image.or_empty(), &path.child(name).index(index), errors);
            }
        }
    }
}

pub(super) fn unpadded_image(image: &str, container: &Path, errors: &mut FieldErrors) {
    if image.trim() != image {
        errors.invalid(&container.child("image"), image, "must not have leading or trailing whitespace");
    }
}

pub(super) fn pull_policy(policy: &str, path: &Path, errors: &mut FieldErrors) {
    check::required_one_of(policy, PULL_POLICIES, path, errors);
}

fn restart_policy(container: &Container, path: &Path, errors: &mut FieldErrors) {
    let rules = container.restart_policy_rules.or_empty();
    let rules_path = path.child("restartPolicyRules");
    match container.restart_policy.as_deref() {
        Some(policy) => {
            check::one_of(policy, &["Always", "Never", "OnFailure"], &path.child("restartPolicy"), errors);
        }
        None if !rules.is_empty() => {
            errors.required(
                &path.child("restartPolicy"),
                "must specify restartPolicy when restart rules are used",
            );
        }
        None => {}
    }
    if rules.len() > MAX_RESTART_RULES {
        errors.too_many(&rules_path, rules.len(), MAX_RESTART_RULES);
    }
    for (index, rule) in rules.iter().enumerate() {
        restart_rule(rule, &rules_path.index(index), errors);
    }
}

fn restart_rule(rule: &ContainerRestartRule, path: &Path, errors: &mut FieldErrors) {
    check::one_of(&rule.action, &["Restart"], &path.child("action"), errors);
    let path = path.child("exitCodes");
    let Some(codes) = &rule.exit_codes else {
        return errors.required(&path, "must be specified");
    };
    check::one_of(&codes.operator, &["In", "NotIn"], &path.child("operator"), errors);
    let count = codes.values.or_empty().len();
    if count > MAX_EXIT_CODES {
        errors.too_many(&path.child("values"), count, MAX_EXIT_CODES);
    }
}

fn container_ports(ports: &[ContainerPort], path: &Path, errors: &mut FieldErrors) {
    let mut names = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        let name = port.name.or_empty();
        if !name.is_empty() {
            let before = errors.0.len();
            check::port_name(name, &path.child("name"), errors);
            if errors.0.len() == before && !names.insert(name) {
                errors.duplicate(&path.child("name"), name);
            }
        }
        if port.container_port == 0 {
            errors.required(&path.child("containerPort"), "");
        } else {
            check::port(port.container_port, &path.child("containerPort"), errors);
        }
        if let Some(host_port) = port.host_port.filter(|port| *port != 0) {
            check::port(host_port, &path.child("hostPort"), errors);
        }
        protocol(port.protocol.or_empty(), &path.child("protocol"), errors);
    }
}

pub(in crate::registry) fn protocol(protocol: &str, path: &Path, errors: &mut FieldErrors) {
    check::required_one_of(protocol, &["SCTP", "TCP", "UDP"], path, errors);
}

/// Containers that run together can't take the same port of the node. `first` is the index of the first of them.
fn host_port_conflicts(containers: &[Container], path: &Path, first: usize, errors: &mut FieldErrors) {
    let mut taken = BTreeSet::new();
    for (container_index, container) in containers.iter().enumerate() {
        for (index, port) in container.ports.or_empty().iter().enumerate() {
            let Some(host_port) = port.host_port.filter(|port| *port != 0) else { continue };
            let key = format!("{}/{}/{host_port}", port.protocol.or_empty(), port.host_ip.or_empty());
            if taken.contains(&key) {
                let path = path.index(first + container_index).child("ports").index(index).child("hostPort");
                errors.duplicate(&path, key);
            } else {
                taken.insert(key);
            }
        }
    }
}
