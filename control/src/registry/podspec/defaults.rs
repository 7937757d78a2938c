//! What the API server fills into a pod spec that leaves it out.
//!
//! A spec inside a template gets less than one inside a pod: what could be decided later stays open there, so that
//! a Deployment looks the same after an upgrade.

use k8s_openapi::api::core::v1::{
    Container, EnvVar, EphemeralContainer, LifecycleHandler, ObjectFieldSelector, PodSpec, Probe,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::{OrEmpty, resources::canonical_quantities, volume_defaults};

pub const DEFAULT_SCHEDULER: &str = "default-scheduler";
const DEFAULT_GRACE_PERIOD_SECONDS: i64 = 30;

/// Fills in what every pod spec gets, in a pod or in a template.
pub fn default_spec(spec: &mut PodSpec) {
    set_if_blank(&mut spec.dns_policy, "ClusterFirst");
    set_if_blank(&mut spec.restart_policy, "Always");
    set_if_blank(&mut spec.scheduler_name, DEFAULT_SCHEDULER);
    spec.security_context.get_or_insert_default();
    spec.termination_grace_period_seconds.get_or_insert(DEFAULT_GRACE_PERIOD_SECONDS);
    mirror_service_account(spec);
    spec.host_network.take_if(|on| !*on);
    spec.host_pid.take_if(|on| !*on);
    spec.host_ipc.take_if(|on| !*on);
    for volume in spec.volumes.iter_mut().flatten() {
        volume_defaults::default_volume(volume);
    }
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        default_container(container);
    }
    for container in spec.ephemeral_containers.iter_mut().flatten() {
        default_ephemeral_container(container);
    }
    canonical_quantities(spec.overhead.as_mut());
    if let Some(resources) = &mut spec.resources {
        canonical_quantities(resources.limits.as_mut());
        canonical_quantities(resources.requests.as_mut());
    }
}

/// Fills in what only a real pod gets, after [`default_spec`].
pub fn default_pod(spec: &mut PodSpec) {
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        requests_from_limits(container);
    }
    super::resources::default_pod_level(spec);
    spec.enable_service_links.get_or_insert(true);
    if spec.host_network == Some(true) {
        let containers = spec.init_containers.iter_mut().flatten().chain(&mut spec.containers);
        for port in containers.flat_map(|container| container.ports.iter_mut().flatten()) {
            if port.host_port.unwrap_or_default() == 0 {
                port.host_port = Some(port.container_port);
            }
        }
    }
}

/// `Always` for `latest`, spelled out or meant, else `IfNotPresent`.
pub fn pull_policy_for(image: &str) -> &'static str {
    let (name, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
    let last = name.rsplit('/').next().unwrap_or_default();
    let is_latest = match last.split_once(':') {
        Some((_, tag)) => tag == "latest",
        None => digest.is_none() && !last.is_empty(),
    };
    if is_latest { "Always" } else { "IfNotPresent" }
}

pub(in crate::registry) fn set_if_blank(field: &mut Option<String>, value: &str) {
    if field.or_empty().is_empty() {
        *field = Some(value.into());
    }
}

/// `serviceAccount` is the old name of `serviceAccountName`; the API always shows both.
fn mirror_service_account(spec: &mut PodSpec) {
    let old = spec.service_account.take().filter(|name| !name.is_empty());
    let new = spec.service_account_name.take().filter(|name| !name.is_empty());
    spec.service_account_name = new.or(old);
    spec.service_account.clone_from(&spec.service_account_name);
}

fn default_container(container: &mut Container) {
    default_container_image(
        container.image.as_deref(),
        &mut container.image_pull_policy,
        &mut container.termination_message_path,
        &mut container.termination_message_policy,
    );
    for port in container.ports.iter_mut().flatten() {
        set_if_blank(&mut port.protocol, "TCP");
    }
    default_env(container.env.as_mut());
    for probe in [&mut container.liveness_probe, &mut container.readiness_probe, &mut container.startup_probe]
    {
        probe.iter_mut().for_each(default_probe);
    }
    if let Some(lifecycle) = &mut container.lifecycle {
        lifecycle.post_start.iter_mut().for_each(default_handler);
        lifecycle.pre_stop.iter_mut().for_each(default_handler);
    }
    let resources = container.resources.get_or_insert_default();
    canonical_quantities(resources.limits.as_mut());
    canonical_quantities(resources.requests.as_mut());
}

fn default_ephemeral_container(container: &mut EphemeralContainer) {
    default_container_image(
        container.image.as_deref(),
        &mut container.image_pull_policy,
        &mut container.termination_message_path,
        &mut container.termination_message_policy,
    );
    for port in container.ports.iter_mut().flatten() {
        set_if_blank(&mut port.protocol, "TCP");
    }
    default_env(container.env.as_mut());
    container.resources.get_or_insert_default();
}

fn default_container_image(
    image: Option<&str>,
    pull_policy: &mut Option<String>,
    message_path: &mut Option<String>,
    message_policy: &mut Option<String>,
) {
    set_if_blank(pull_policy, pull_policy_for(image.unwrap_or_default()));
    set_if_blank(message_path, "/dev/termination-log");
    set_if_blank(message_policy, "File");
}

fn default_env(env: Option<&mut Vec<EnvVar>>) {
    for source in env.into_iter().flatten().filter_map(|variable| variable.value_from.as_mut()) {
        source.field_ref.iter_mut().for_each(default_field_ref);
        if let Some(reference) = &mut source.resource_field_ref {
            reference.divisor.get_or_insert_with(|| Quantity("0".into()));
        }
        if let Some(reference) = &mut source.file_key_ref {
            reference.optional.get_or_insert(false);
        }
    }
}

pub(super) fn default_field_ref(reference: &mut ObjectFieldSelector) {
    set_if_blank(&mut reference.api_version, "v1");
}

fn default_probe(probe: &mut Probe) {
    for (field, value) in [
        (&mut probe.timeout_seconds, 1),
        (&mut probe.period_seconds, 10),
        (&mut probe.success_threshold, 1),
        (&mut probe.failure_threshold, 3),
    ] {
        if field.unwrap_or_default() == 0 {
            *field = Some(value);
        }
    }
    if let Some(action) = &mut probe.http_get {
        set_if_blank(&mut action.path, "/");
        set_if_blank(&mut action.scheme, "HTTP");
    }
    if let Some(action) = &mut probe.grpc {
        action.service.get_or_insert_default();
    }
}

fn default_handler(handler: &mut LifecycleHandler) {
    if let Some(action) = &mut handler.http_get {
        set_if_blank(&mut action.path, "/");
        set_if_blank(&mut action.scheme, "HTTP");
    }
}

/// Only pods: in a template the limit alone stays, and each pod copies it.
fn requests_from_limits(container: &mut Container) {
    let Some(resources) = &mut container.resources else { return };
    for (name, limit) in resources.limits.iter().flatten() {
        resources.requests.get_or_insert_default().entry(name.clone()).or_insert_with(|| limit.clone());
    }
}
