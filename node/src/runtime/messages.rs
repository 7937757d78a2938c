//! Records as CRI messages, and CRI's filters over them.

use std::collections::HashMap;

use k8s_cri::v1::{self as cri, ContainerState};
use naru_oci_fallback::Image;

use super::{
    container::{Container, now},
    sandbox::Sandbox,
};

type Map = HashMap<String, String>;

pub(super) fn sandbox(sandbox: &Sandbox) -> cri::PodSandbox {
    cri::PodSandbox {
        id: sandbox.id.clone(),
        metadata: Some(sandbox.metadata()),
        state: sandbox.state().into(),
        created_at: sandbox.created_at,
        labels: sandbox.config.labels.clone(),
        annotations: sandbox.config.annotations.clone(),
        runtime_handler: sandbox.runtime_handler.clone(),
    }
}

pub(super) fn sandbox_status(sandbox: &Sandbox) -> cri::PodSandboxStatus {
    let options = sandbox
        .config
        .linux
        .as_ref()
        .and_then(|linux| linux.security_context.as_ref()?.namespace_options.clone());
    cri::PodSandboxStatus {
        id: sandbox.id.clone(),
        metadata: Some(sandbox.metadata()),
        state: sandbox.state().into(),
        created_at: sandbox.created_at,
        // As other runtimes do, nothing for a pod that has no address of its own.
        network: Some(cri::PodSandboxNetworkStatus {
            ip: sandbox.own_address.map(|address| address.to_string()).unwrap_or_default(),
            additional_ips: Vec::new(),
        }),
        linux: Some(cri::LinuxPodSandboxStatus { namespaces: Some(cri::Namespace { options }) }),
        labels: sandbox.config.labels.clone(),
        annotations: sandbox.config.annotations.clone(),
        runtime_handler: sandbox.runtime_handler.clone(),
    }
}

pub(super) fn container(container: &Container) -> cri::Container {
    cri::Container {
        id: container.id.clone(),
        pod_sandbox_id: container.sandbox.id.clone(),
        metadata: Some(container.metadata.clone()),
        image: Some(container.image.clone()),
        image_ref: container.image_ref.clone(),
        state: container.state().into(),
        created_at: container.created_at,
        labels: container.labels.clone(),
        annotations: container.annotations.clone(),
        image_id: container.image_id.clone(),
    }
}

pub(super) fn container_status(container: &Container) -> cri::ContainerStatus {
    let state = container.state();
    let (started_at, exited) = container.history();
    let mut status = cri::ContainerStatus {
        id: container.id.clone(),
        metadata: Some(container.metadata.clone()),
        state: state.into(),
        created_at: container.created_at,
        started_at,
        image: Some(container.image.clone()),
        image_ref: container.image_ref.clone(),
        labels: container.labels.clone(),
        annotations: container.annotations.clone(),
        mounts: container.mounts.clone(),
        log_path: container.log.path().to_string_lossy().into_owned(),
        resources: container.resources().map(|linux| cri::ContainerResources {
            linux: Some(linux),
            ..cri::ContainerResources::default()
        }),
        image_id: container.image_id.clone(),
        ..cri::ContainerStatus::default()
    };
    if let Some(exited) = exited {
        // The state was read before; it may have ended since.
        status.state = ContainerState::ContainerExited.into();
        status.finished_at = exited.finished_at;
        status.exit_code = exited.code;
        exited.reason.clone_into(&mut status.reason);
        status.message = exited.message;
    }
    status
}

pub(super) fn container_stats(container: &Container) -> cri::ContainerStats {
    let timestamp = now();
    let stats = container.running().map(|running| running.stats()).unwrap_or_default();
    let number = |value: u64| Some(cri::UInt64Value { value });
    cri::ContainerStats {
        attributes: Some(cri::ContainerAttributes {
            id: container.id.clone(),
            metadata: Some(container.metadata.clone()),
            labels: container.labels.clone(),
            annotations: container.annotations.clone(),
        }),
        cpu: Some(cri::CpuUsage {
            timestamp,
            usage_core_nano_seconds: number(u64::try_from(stats.cpu_usage.as_nanos()).unwrap_or(u64::MAX)),
            usage_nano_cores: None,
        }),
        memory: Some(cri::MemoryUsage {
            timestamp,
            working_set_bytes: number(stats.memory_bytes),
            usage_bytes: number(stats.memory_bytes),
            rss_bytes: number(stats.memory_bytes),
            ..cri::MemoryUsage::default()
        }),
        ..cri::ContainerStats::default()
    }
}

pub(super) fn sandbox_stats(sandbox: &Sandbox, containers: Vec<cri::ContainerStats>) -> cri::PodSandboxStats {
    let timestamp = now();
    let sum = |of: fn(&cri::ContainerStats) -> Option<u64>| {
        Some(cri::UInt64Value { value: containers.iter().filter_map(of).sum() })
    };
    let cpu = sum(|stats| Some(stats.cpu.as_ref()?.usage_core_nano_seconds.as_ref()?.value));
    let memory = sum(|stats| Some(stats.memory.as_ref()?.working_set_bytes.as_ref()?.value));
    cri::PodSandboxStats {
        attributes: Some(cri::PodSandboxAttributes {
            id: sandbox.id.clone(),
            metadata: Some(sandbox.metadata()),
            labels: sandbox.config.labels.clone(),
            annotations: sandbox.config.annotations.clone(),
        }),
        linux: Some(cri::LinuxPodSandboxStats {
            cpu: Some(cri::CpuUsage { timestamp, usage_core_nano_seconds: cpu, usage_nano_cores: None }),
            memory: Some(cri::MemoryUsage {
                timestamp,
                working_set_bytes: memory,
                usage_bytes: memory,
                rss_bytes: memory,
                ..cri::MemoryUsage::default()
            }),
            network: None,
            process: None,
            containers,
        }),
        windows: None,
    }
}

pub(super) fn image(image: &Image) -> cri::Image {
    // An image that was imported under a plain name has no digest in any registry.
    let repo_tags = image.names.iter().filter(|name| !name.contains('@')).cloned().collect();
    cri::Image {
        id: image.digest.clone(),
        repo_tags,
        repo_digests: image.repo_digests.clone(),
        size: image.size,
        ..cri::Image::default()
    }
}

/// What a container's status calls its image: with a registry's name where there is one.
pub(super) fn image_ref(image: &Image) -> String {
    image.repo_digests.first().unwrap_or(&image.digest).clone()
}

pub(super) fn matches_sandbox(sandbox: &Sandbox, filter: Option<&cri::PodSandboxFilter>) -> bool {
    filter.is_none_or(|filter| {
        sandbox.id.starts_with(&filter.id)
            && filter.state.is_none_or(|state| state.state() == sandbox.state())
            && has_labels(&sandbox.config.labels, &filter.label_selector)
    })
}

pub(super) fn matches_container(container: &Container, filter: Option<&cri::ContainerFilter>) -> bool {
    filter.is_none_or(|filter| {
        container.id.starts_with(&filter.id)
            && container.sandbox.id.starts_with(&filter.pod_sandbox_id)
            && filter.state.is_none_or(|state| state.state() == container.state())
            && has_labels(&container.labels, &filter.label_selector)
    })
}

pub(super) fn has_labels(labels: &Map, selector: &Map) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}
