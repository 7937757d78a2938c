//! The order of the checks, and the fields that need no file of their own.

use k8s_openapi::api::core::v1::{EvictionResponder, PodResourceClaim};
use naru_model::validation::{FieldErrors, Path};
use std::collections::BTreeSet;

use super::{Check, Home, OrEmpty, check, dns, scheduling};

const MAX_HOSTNAME_OVERRIDE: usize = 64;
const MAX_RESPONDER_PRIORITY: i32 = 100_000;

impl Check<'_> {
    pub(super) fn spec(&mut self, path: &Path, errors: &mut FieldErrors) {
        let spec = self.spec;
        if spec.termination_grace_period_seconds.is_none() {
            errors.required(&path.child("terminationGracePeriodSeconds"), "");
        }
        self.volumes(&path.child("volumes"), errors);
        resource_claims(spec.resource_claims.or_empty(), &path.child("resourceClaims"), errors);
        self.containers(&path.child("containers"), errors);
        self.init_containers(&path.child("initContainers"), errors);
        self.ephemeral_containers(&path.child("ephemeralContainers"), errors);
        self.pod_resources(&path.child("resources"), errors);
        self.host_ports(&path.child("containers"), errors);
        let policies = &["Always", "OnFailure", "Never"];
        check::required_one_of(
            spec.restart_policy.or_empty(),
            policies,
            &path.child("restartPolicy"),
            errors,
        );
        self.dns_policy(&path.child("dnsPolicy"), errors);
        check::labels(spec.node_selector.as_ref(), &path.child("nodeSelector"), errors);
        if let Some(context) = &spec.security_context {
            self.pod_security_context(context, &path.child("securityContext"), errors);
        }
        if let Some(affinity) = &spec.affinity {
            self.affinity(affinity, &path.child("affinity"), errors);
        }
        self.dns_config(&path.child("dnsConfig"), errors);
        for (index, gate) in spec.readiness_gates.or_empty().iter().enumerate() {
            let path = path.child("readinessGates").index(index).child("conditionType");
            check::qualified_name(&gate.condition_type, &path, errors);
        }
        scheduling::gates(spec.scheduling_gates.or_empty(), &path.child("schedulingGates"), errors);
        self.spread_constraints(&path.child("topologySpreadConstraints"), errors);
        self.windows_host_process(path, errors);
        self.host_users(path, errors);
        self.names(path, errors);
        if let Some(seconds) = spec.active_deadline_seconds
            && !(1..=i64::from(i32::MAX)).contains(&seconds)
        {
            let detail = "must be between 1 and 2147483647, inclusive";
            errors.invalid(&path.child("activeDeadlineSeconds"), seconds, detail);
        }
        scheduling::tolerations(spec.tolerations.or_empty(), &path.child("tolerations"), errors);
        dns::host_aliases(spec.host_aliases.or_empty(), &path.child("hostAliases"), errors);
        if let Some(policy) = &spec.preemption_policy {
            let supported = &["PreemptLowerPriority", "Never"];
            check::required_one_of(policy, supported, &path.child("preemptionPolicy"), errors);
        }
        self.overhead(&path.child("overhead"), errors);
        self.operating_system(path, errors);
        eviction_responders(spec.eviction_responders.or_empty(), &path.child("evictionResponders"), errors);
        if self.is_pod() {
            self.tokens_need_an_account(&path.child("volumes"), errors);
            self.image_padding(path, errors);
        }
    }

    fn names(&self, path: &Path, errors: &mut FieldErrors) {
        let spec = self.spec;
        let group = spec.scheduling_group.as_ref();
        for (name, value) in [
            ("serviceAccountName", spec.service_account_name.or_empty()),
            ("nodeName", spec.node_name.or_empty()),
            ("priorityClassName", spec.priority_class_name.or_empty()),
        ] {
            if !value.is_empty() {
                check::subdomain(value, &path.child(name), errors);
            }
        }
        if let Some(class) = &spec.runtime_class_name {
            check::subdomain(class, &path.child("runtimeClassName"), errors);
        }
        if let Some(group) = group {
            let path = path.child("schedulingGroup");
            match &group.pod_group_name {
                Some(name) => check::subdomain(name, &path.child("podGroupName"), errors),
                None => errors.required(&path.child("podGroupName"), ""),
            }
        }
        for (name, value) in [("hostname", &spec.hostname), ("subdomain", &spec.subdomain)] {
            if !value.or_empty().is_empty() {
                check::dns_label(value.or_empty(), &path.child(name), errors);
            }
        }
        self.hostname_override(path, errors);
    }

    fn hostname_override(&self, path: &Path, errors: &mut FieldErrors) {
        let Some(name) = &self.spec.hostname_override else { return };
        let own_path = path.child("hostnameOverride");
        check::subdomain(name, &own_path, errors);
        if name.len() > MAX_HOSTNAME_OVERRIDE {
            errors.too_long(&own_path, MAX_HOSTNAME_OVERRIDE);
        }
        if self.uses_host_network() {
            errors.forbidden(&own_path, "may not be specified when `hostNetwork` is true");
        }
        if self.spec.set_hostname_as_fqdn == Some(true) {
            errors.forbidden(&own_path, "may not be specified when `setHostnameAsFQDN` is true");
        }
    }

    /// On the host's network a container port is a host port. A template may leave it open.
    fn host_ports(&self, path: &Path, errors: &mut FieldErrors) {
        if !self.uses_host_network() {
            return;
        }
        for (container_index, container) in self.spec.containers.iter().enumerate() {
            for (index, port) in container.ports.or_empty().iter().enumerate() {
                let host_port = port.host_port.unwrap_or_default();
                if (self.is_pod() || host_port != 0) && host_port != port.container_port {
                    let path = path.index(container_index).child("ports").index(index).child("hostPort");
                    errors.invalid(&path, host_port, "must match `containerPort` when `hostNetwork` is true");
                }
            }
        }
    }

    fn overhead(&self, path: &Path, errors: &mut FieldErrors) {
        if self.spec.overhead.is_none() {
            return;
        }
        let limits = k8s_openapi::api::core::v1::ResourceRequirements {
            limits: self.spec.overhead.clone(),
            ..Default::default()
        };
        self.resources(&limits, &super::resources::Owner::Container, path, errors);
    }

    fn tokens_need_an_account(&self, path: &Path, errors: &mut FieldErrors) {
        if !self.spec.service_account_name.or_empty().is_empty() {
            return;
        }
        for (volume_index, volume) in self.spec.volumes.or_empty().iter().enumerate() {
            let sources =
                volume.projected.as_ref().map(|projected| projected.sources.or_empty()).unwrap_or_default();
            for (index, source) in sources.iter().enumerate() {
                if source.service_account_token.is_some() {
                    let path = path.index(volume_index).child("projected").child("sources").index(index);
                    let detail = "must not be specified when serviceAccountName is not set";
                    errors.forbidden(&path.child("serviceAccountToken"), detail);
                }
            }
        }
    }

    /// The name of the pod, where it has one yet.
    pub(super) fn pod_name(&self) -> Option<&str> {
        match self.home {
            Home::Pod { name } if !name.is_empty() => Some(name),
            Home::Pod { .. } | Home::Template => None,
        }
    }
}

fn resource_claims(claims: &[PodResourceClaim], path: &Path, errors: &mut FieldErrors) {
    let mut names = BTreeSet::new();
    for (index, claim) in claims.iter().enumerate() {
        let path = path.index(index);
        if claim.name.is_empty() {
            errors.required(&path.child("name"), "");
        } else if names.insert(claim.name.as_str()) {
            check::dns_label(&claim.name, &path.child("name"), errors);
        } else {
            errors.duplicate(&path.child("name"), claim.name.as_str());
        }
        let value = || serde_json::to_value(claim).unwrap_or_default();
        match (&claim.resource_claim_name, &claim.resource_claim_template_name) {
            (Some(_), Some(_)) => {
                let detail =
                    "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified";
                errors.invalid(&path, value(), detail);
            }
            (None, None) => {
                let detail = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`";
                errors.invalid(&path, value(), detail);
            }
            _ => {}
        }
        for (field, name) in [
            ("resourceClaimName", &claim.resource_claim_name),
            ("resourceClaimTemplateName", &claim.resource_claim_template_name),
        ] {
            if let Some(name) = name {
                check::subdomain(name, &path.child(field), errors);
            }
        }
    }
}

fn eviction_responders(responders: &[EvictionResponder], path: &Path, errors: &mut FieldErrors) {
    let mut names = BTreeSet::new();
    for (index, responder) in responders.iter().enumerate() {
        let path = path.index(index);
        if responder.name.is_empty() {
            errors.required(&path.child("name"), "");
        } else {
            check::qualified_name(&responder.name, &path.child("name"), errors);
            if !names.insert(responder.name.as_str()) {
                errors.duplicate(&path.child("name"), responder.name.as_str());
            }
        }
        if !(0..=MAX_RESPONDER_PRIORITY).contains(&responder.priority) {
            let detail = format!("must be between 0 and {MAX_RESPONDER_PRIORITY}, inclusive");
            errors.invalid(&path.child("priority"), responder.priority, &detail);
        }
    }
}
