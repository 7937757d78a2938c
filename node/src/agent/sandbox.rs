//! CRI configurations for a pod's sandbox and containers.

use std::{collections::HashMap, path::Path};

use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Container, SecurityContext};
use serde_json::json;

use super::{
    environment::Environment,
    identity::{
        ANNOTATION_HASH, ANNOTATION_MESSAGE_PATH, ANNOTATION_MESSAGE_POLICY, ANNOTATION_POD_GRACE,
        ANNOTATION_PORTS, ANNOTATION_RESTART_COUNT, LABEL_CONTAINER_NAME, LABEL_POD_NAME,
        LABEL_POD_NAMESPACE, LABEL_POD_UID, log_path,
    },
    pod_view::{PodView, definition_hash},
    resources::cri_resources,
};

const MAX_HOSTNAME: usize = 63;

fn pod_labels(pod: &PodView) -> HashMap<String, String> {
    let identity = &pod.identity;
    [
        (LABEL_POD_NAME.to_owned(), identity.name.clone()),
        (LABEL_POD_NAMESPACE.to_owned(), identity.namespace.clone()),
        (LABEL_POD_UID.to_owned(), identity.uid.clone()),
    ]
    .into()
}

/// The pod's host name: its own, or its name, cut to what a host name may be.
pub fn hostname(pod: &PodView) -> String {
    let spec = pod.spec();
    let own = spec.hostname_override.as_ref().or(spec.hostname.as_ref()).filter(|name| !name.is_empty());
    let name = own.unwrap_or(&pod.identity.name);
    let cut = &name[..name.len().min(MAX_HOSTNAME)];
    cut.trim_end_matches(['-', '.']).to_owned()
}

pub fn sandbox_config(
    pod: &PodView,
    attempt: u32,
    log_directory: &Path,
    cluster_domain: &str,
) -> cri::PodSandboxConfig {
    let identity = &pod.identity;
    let mut labels: HashMap<_, _> =
        pod.pod().metadata.labels.clone().unwrap_or_default().into_iter().collect();
    labels.extend(pod_labels(pod));
    let mut annotations: HashMap<_, _> =
        pod.pod().metadata.annotations.clone().unwrap_or_default().into_iter().collect();
    annotations.insert(
        ANNOTATION_POD_GRACE.into(),
        pod.spec().termination_grace_period_seconds.unwrap_or(30).to_string(),
    );
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: identity.name.clone(),
            uid: identity.uid.clone(),
            namespace: identity.namespace.clone(),
            attempt,
        }),
        hostname: if pod.is_host_network() { String::new() } else { hostname(pod) },
        log_directory: log_directory.display().to_string(),
        dns_config: Some(dns_config(pod, cluster_domain)),
        port_mappings: port_mappings(pod),
        labels,
        annotations,
        linux: Some(linux_sandbox(pod)),
        windows: None,
    }
}

fn namespaces(pod: &PodView) -> cri::NamespaceOption {
    let spec = pod.spec();
    let mode = |on_node: Option<bool>, otherwise: cri::NamespaceMode| {
        if on_node == Some(true) { cri::NamespaceMode::Node as i32 } else { otherwise as i32 }
    };
    let pid = match spec.share_process_namespace {
        Some(true) => cri::NamespaceMode::Pod,
        _ => cri::NamespaceMode::Container,
    };
    cri::NamespaceOption {
        network: mode(spec.host_network, cri::NamespaceMode::Pod),
        pid: mode(spec.host_pid, pid),
        ipc: mode(spec.host_ipc, cri::NamespaceMode::Pod),
        ..Default::default()
    }
}

fn linux_sandbox(pod: &PodView) -> cri::LinuxPodSandboxConfig {
    let context = pod.spec().security_context.clone().unwrap_or_default();
    let id = |value: Option<i64>| value.map(|value| cri::Int64Value { value });
    cri::LinuxPodSandboxConfig {
        security_context: Some(cri::LinuxSandboxSecurityContext {
            namespace_options: Some(namespaces(pod)),
            run_as_user: id(context.run_as_user),
            run_as_group: id(context.run_as_group),
            supplemental_groups: context.supplemental_groups.unwrap_or_default(),
            ..Default::default()
        }),
        sysctls: context.sysctls.into_iter().flatten().map(|sysctl| (sysctl.name, sysctl.value)).collect(),
        ..Default::default()
    }
}

/// Search domains as `dnsPolicy` asks for; the servers are the runtime's affair, which resolves service names itself.
fn dns_config(pod: &PodView, cluster_domain: &str) -> cri::DnsConfig {
    let own = pod.spec().dns_config.clone().unwrap_or_default();
    let policy = pod.spec().dns_policy.as_deref().unwrap_or("ClusterFirst");
    let is_cluster =
        policy == "ClusterFirstWithHostNet" || (policy == "ClusterFirst" && !pod.is_host_network());
    let mut config = cri::DnsConfig::default();
    if is_cluster {
        let namespace = &pod.identity.namespace;
        config.searches = vec![
            format!("{namespace}.svc.{cluster_domain}"),
            format!("svc.{cluster_domain}"),
            cluster_domain.into(),
        ];
        config.options = vec!["ndots:5".into()];
    }
    config.servers.extend(own.nameservers.into_iter().flatten());
    config.searches.extend(own.searches.into_iter().flatten());
    for option in own.options.into_iter().flatten() {
        let name = option.name.unwrap_or_default();
        config.options.retain(|known| known.split(':').next() != Some(name.as_str()));
        config.options.push(option.value.map_or(name.clone(), |value| format!("{name}:{value}")));
    }
    config
}

fn protocol(name: Option<&str>) -> i32 {
    match name {
        Some("UDP") => cri::Protocol::Udp as i32,
        Some("SCTP") => cri::Protocol::Sctp as i32,
        _ => cri::Protocol::Tcp as i32,
    }
}

fn port_mappings(pod: &PodView) -> Vec<cri::PortMapping> {
    let ports = pod.all_containers().flat_map(|(container, _)| container.ports.iter().flatten());
    ports
        .map(|port| cri::PortMapping {
            protocol: protocol(port.protocol.as_deref()),
            container_port: port.container_port,
            host_port: port.host_port.unwrap_or(0),
            host_ip: port.host_ip.clone().unwrap_or_default(),
        })
        .collect()
}

/// One container to create: everything that was resolved for it.
pub struct ContainerInput<'a> {
    pub pod: &'a PodView,
    pub container: &'a Container,
    pub restart_count: u32,
    pub image_ref: String,
    pub environment: &'a Environment,
    pub mounts: Vec<cri::Mount>,
}

impl ContainerInput<'_> {
    pub fn config(self) -> cri::ContainerConfig {
        let container = self.container;
        let mut labels = pod_labels(self.pod);
        labels.insert(LABEL_CONTAINER_NAME.into(), container.name.clone());
        let image = container.image.clone().unwrap_or_default();
        cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata {
                name: container.name.clone(),
                attempt: self.restart_count,
            }),
            image: Some(cri::ImageSpec {
                image: self.image_ref.clone(),
                user_specified_image: image,
                ..Default::default()
            }),
            command: self.environment.expand_all(container.command.as_ref()),
            args: self.environment.expand_all(container.args.as_ref()),
            working_dir: container.working_dir.clone().unwrap_or_default(),
            envs: self.environment.to_cri(),
            labels,
            annotations: annotations(self.pod, container, self.restart_count),
            log_path: log_path(&container.name, self.restart_count),
            stdin: container.stdin.unwrap_or(false),
            stdin_once: container.stdin_once.unwrap_or(false),
            tty: container.tty.unwrap_or(false),
            linux: Some(cri::LinuxContainerConfig {
                resources: Some(cri_resources(container)),
                security_context: Some(security_context(self.pod, container)),
            }),
            mounts: self.mounts,
            ..Default::default()
        }
    }
}

fn annotations(pod: &PodView, container: &Container, restart_count: u32) -> HashMap<String, String> {
    let text = |value: &Option<String>, default: &str| value.clone().unwrap_or_else(|| default.into());
    let mut annotations = HashMap::from([
        (ANNOTATION_HASH.to_owned(), definition_hash(container)),
        (ANNOTATION_RESTART_COUNT.to_owned(), restart_count.to_string()),
        (
            ANNOTATION_MESSAGE_PATH.to_owned(),
            text(&container.termination_message_path, "/dev/termination-log"),
        ),
        (ANNOTATION_MESSAGE_POLICY.to_owned(), text(&container.termination_message_policy, "File")),
        (
            ANNOTATION_POD_GRACE.to_owned(),
            pod.spec().termination_grace_period_seconds.unwrap_or(30).to_string(),
        ),
    ]);
    if let Some(ports) = container.ports.as_ref().filter(|ports| !ports.is_empty()) {
        annotations.insert(ANNOTATION_PORTS.into(), json!(ports).to_string());
    }
    // What concerns the runtime alone travels from the pod to its containers: instance reuse, granted interfaces.
    let of_pod = pod.pod().metadata.annotations.iter().flatten();
    let ours =
        of_pod.filter(|(key, _)| key.split('/').next().is_some_and(|domain| domain.ends_with("naru.dev")));
    annotations.extend(ours.map(|(key, value)| (key.clone(), value.clone())));
    annotations
}

fn security_context(pod: &PodView, container: &Container) -> cri::LinuxContainerSecurityContext {
    let of_pod = pod.spec().security_context.clone().unwrap_or_default();
    let own: SecurityContext = container.security_context.clone().unwrap_or_default();
    let id = |value: Option<i64>| value.map(|value| cri::Int64Value { value });
    let capabilities = own.capabilities.unwrap_or_default();
    cri::LinuxContainerSecurityContext {
        capabilities: Some(cri::Capability {
            add_capabilities: capabilities.add.unwrap_or_default(),
            drop_capabilities: capabilities.drop.unwrap_or_default(),
            ..Default::default()
        }),
        privileged: own.privileged.unwrap_or(false),
        namespace_options: Some(namespaces(pod)),
        run_as_user: id(own.run_as_user.or(of_pod.run_as_user)),
        run_as_group: id(own.run_as_group.or(of_pod.run_as_group)),
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or(false),
        supplemental_groups: of_pod
            .supplemental_groups
            .into_iter()
            .flatten()
            .chain(of_pod.fs_group)
            .collect(),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        ..Default::default()
    }
}
