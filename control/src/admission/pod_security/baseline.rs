//! The baseline: what is known to break out of a container is forbidden.

use std::collections::BTreeSet;

use k8s_openapi::{
    api::core::v1::{LifecycleHandler, PodSpec, SELinuxOptions},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{
    parts::{Part, Violation, bad_seccomp, containers, named, plural, quoted, setters, those_with, uses},
    policy::Version,
};

const APP_ARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// Kernel settings that are a pod's own, and since which minor version they may be set.
const SYSCTLS: [(&str, u32); 12] = [
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
];

/// `alone` adds the checks that the restricted level has stricter forms of.
pub(super) fn violations(version: Version, meta: &ObjectMeta, spec: &PodSpec, alone: bool) -> Vec<Violation> {
    [
        app_armor(meta, spec),
        capabilities(spec).filter(|_| alone),
        host_namespaces(spec),
        host_path(spec).filter(|_| alone),
        host_ports(spec),
        probe_hosts(spec).filter(|_| version >= Version(34)),
        privileged(spec),
        proc_mount(version, spec),
        se_linux(version, spec),
        bad_seccomp(spec).filter(|_| alone && version >= Version(19)),
        sysctls(version, spec),
        windows_host_process(spec),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn app_armor(meta: &ObjectMeta, spec: &PodSpec) -> Option<Violation> {
    let mut found = Vec::new();
    let is_bad = |type_: &str| type_ != "RuntimeDefault" && type_ != "Localhost";
    let of_pod = spec.security_context.as_ref().and_then(|context| context.app_armor_profile.as_ref());
    let mut types: BTreeSet<&str> =
        of_pod.map(|profile| &*profile.type_).filter(|type_| is_bad(type_)).into_iter().collect();
    let is_pod = !types.is_empty();
    let mut names = Vec::new();
    for part in containers(spec) {
        let profile = part.security.and_then(|context| context.app_armor_profile.as_ref());
        if let Some(profile) = profile.filter(|profile| is_bad(&profile.type_)) {
            names.push(part.name);
            types.insert(&profile.type_);
        }
    }
    let who = setters(is_pod, &names);
    if !who.is_empty() {
        found.push(format!("{who} must not set AppArmor profile type to {}", quoted(&types)));
    }
    let annotated: Vec<String> = meta
        .annotations
        .iter()
        .flatten()
        .filter(|(key, value)| key.starts_with(APP_ARMOR_ANNOTATION) && !is_allowed_annotation(value))
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    if !annotated.is_empty() {
        found.push(format!("{} {}", plural("annotation", annotated.len()), annotated.join(", ")));
    }
    let count = names.len() + usize::from(is_pod) + annotated.len();
    (count > 0).then(|| Violation::new(&plural("forbidden AppArmor profile", count), found.join("; ")))
}

fn is_allowed_annotation(profile: &str) -> bool {
    profile.is_empty() || profile == "runtime/default" || profile.starts_with("localhost/")
}

fn capabilities(spec: &PodSpec) -> Option<Violation> {
    let mut found = BTreeSet::new();
    let mut names = Vec::new();
    for part in containers(spec) {
        let added = part.security.and_then(|context| context.capabilities.as_ref()?.add.as_ref());
        let bad: Vec<_> =
            added.into_iter().flatten().filter(|name| !CAPABILITIES.contains(&name.as_str())).collect();
        if !bad.is_empty() {
            names.push(part.name);
            found.extend(bad);
        }
    }
    (!names.is_empty()).then(|| {
        let (who, what) = (named(&names), quoted(found));
        let detail = format!("{who} must not include {what} in securityContext.capabilities.add");
        Violation::new("non-default capabilities", detail)
    })
}

fn host_namespaces(spec: &PodSpec) -> Option<Violation> {
    let all = [("hostNetwork", spec.host_network), ("hostPID", spec.host_pid), ("hostIPC", spec.host_ipc)];
    let found =
        all.iter().filter(|(_, is_set)| *is_set == Some(true)).map(|(name, _)| format!("{name}=true"));
    let found: Vec<_> = found.collect();
    (!found.is_empty()).then(|| Violation::new("host namespaces", found.join(", ")))
}

fn host_path(spec: &PodSpec) -> Option<Violation> {
    let volumes = spec.volumes.iter().flatten().filter(|volume| volume.host_path.is_some());
    let names: Vec<_> = volumes.map(|volume| &volume.name).collect();
    (!names.is_empty()).then(|| {
        let detail = format!("{} {}", plural("volume", names.len()), quoted(names.iter().copied()));
        Violation::new("hostPath volumes", detail)
    })
}

fn host_ports(spec: &PodSpec) -> Option<Violation> {
    let mut ports = BTreeSet::new();
    let mut names = Vec::new();
    for part in containers(spec) {
        let before = names.len();
        for port in part.ports.iter().filter_map(|port| port.host_port).filter(|port| *port != 0) {
            ports.insert(port.to_string());
            names.truncate(before);
            names.push(part.name);
        }
    }
    (!names.is_empty()).then(|| {
        let word = plural("hostPort", ports.len());
        let list = ports.into_iter().collect::<Vec<_>>().join(", ");
        Violation::new("hostPort", format!("{} {} {word} {list}", named(&names), uses(names.len())))
    })
}

fn probe_hosts(spec: &PodSpec) -> Option<Violation> {
    let mut hosts = BTreeSet::new();
    let mut names = Vec::new();
    for part in containers(spec) {
        let found: Vec<&str> = hosts_of(&part).filter(|host| !host.is_empty()).collect();
        if !found.is_empty() {
            names.push(part.name);
            hosts.extend(found);
        }
    }
    (!names.is_empty()).then(|| {
        let word = plural("host", hosts.len());
        let detail = format!("{} {} {word} {}", named(&names), uses(names.len()), quoted(&hosts));
        Violation::new("probe or lifecycle host", detail)
    })
}

fn hosts_of<'a>(part: &Part<'a>) -> impl Iterator<Item = &'a str> + use<'a> {
    let probes = part.probes.into_iter().flatten().flat_map(|probe| {
        let http = probe.http_get.as_ref().and_then(|action| action.host.as_deref());
        let tcp = probe.tcp_socket.as_ref().and_then(|action| action.host.as_deref());
        http.into_iter().chain(tcp)
    });
    let of = |handler: &'a LifecycleHandler| {
        let http = handler.http_get.as_ref().and_then(|action| action.host.as_deref());
        let tcp = handler.tcp_socket.as_ref().and_then(|action| action.host.as_deref());
        http.into_iter().chain(tcp)
    };
    let hooks = part.lifecycle.into_iter().flat_map(|hooks| hooks.post_start.iter().chain(&hooks.pre_stop));
    probes.chain(hooks.flat_map(of))
}

fn privileged(spec: &PodSpec) -> Option<Violation> {
    let names = those_with(spec, |context| context.is_some_and(|context| context.privileged == Some(true)));
    (!names.is_empty()).then(|| {
        Violation::new(
            "privileged",
            format!("{} must not set securityContext.privileged=true", named(&names)),
        )
    })
}

fn proc_mount(version: Version, spec: &PodSpec) -> Option<Violation> {
    if version >= Version(35) && spec.host_users == Some(false) {
        return None;
    }
    let mut found = BTreeSet::new();
    let mut names = Vec::new();
    for part in containers(spec) {
        let mount = part.security.and_then(|context| context.proc_mount.as_deref());
        if let Some(mount) = mount.filter(|mount| *mount != "Default") {
            names.push(part.name);
            found.insert(mount);
        }
    }
    (!names.is_empty()).then(|| {
        let detail =
            format!("{} must not set securityContext.procMount to {}", named(&names), quoted(&found));
        Violation::new("procMount", detail)
    })
}

fn se_linux(version: Version, spec: &PodSpec) -> Option<Violation> {
    let mut types = BTreeSet::new();
    let (mut sets_user, mut sets_role) = (false, false);
    let mut is_bad = |options: &SELinuxOptions| {
        let type_ = options.type_.as_deref().unwrap_or_default();
        let is_allowed = matches!(type_, "" | "container_t" | "container_init_t" | "container_kvm_t")
            || (type_ == "container_engine_t" && version >= Version(31));
        if !is_allowed {
            types.insert(type_.to_owned());
        }
        let is_set = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
        sets_user |= is_set(&options.user);
        sets_role |= is_set(&options.role);
        !is_allowed || is_set(&options.user) || is_set(&options.role)
    };
    let of_pod = spec.security_context.as_ref().and_then(|context| context.se_linux_options.as_ref());
    let is_pod = of_pod.is_some_and(&mut is_bad);
    let mut names = Vec::new();
    for part in containers(spec) {
        if part.security.and_then(|context| context.se_linux_options.as_ref()).is_some_and(&mut is_bad) {
            names.push(part.name);
        }
    }
    let who = setters(is_pod, &names);
    if who.is_empty() {
        return None;
    }
    let types = (!types.is_empty()).then(|| format!("{} {}", plural("type", types.len()), quoted(&types)));
    let user = sets_user.then(|| "user may not be set".to_owned());
    let role = sets_role.then(|| "role may not be set".to_owned());
    let what = [types, user, role].into_iter().flatten().collect::<Vec<_>>().join("; ");
    let detail = format!("{who} set forbidden securityContext.seLinuxOptions: {what}");
    Some(Violation::new("seLinuxOptions", detail))
}

fn sysctls(version: Version, spec: &PodSpec) -> Option<Violation> {
    let is_allowed =
        |name: &str| SYSCTLS.iter().any(|(allowed, since)| *allowed == name && version >= Version(*since));
    let sysctls = spec.security_context.as_ref().and_then(|context| context.sysctls.as_ref());
    let found =
        sysctls.into_iter().flatten().map(|sysctl| sysctl.name.as_str()).filter(|name| !is_allowed(name));
    let found: Vec<_> = found.collect();
    (!found.is_empty()).then(|| Violation::new("forbidden sysctls", found.join(", ")))
}

fn windows_host_process(spec: &PodSpec) -> Option<Violation> {
    let of_pod = spec.security_context.as_ref().and_then(|context| context.windows_options.as_ref());
    let is_pod = of_pod.is_some_and(|options| options.host_process == Some(true));
    let names = those_with(spec, |context| {
        let options = context.and_then(|context| context.windows_options.as_ref());
        options.is_some_and(|options| options.host_process == Some(true))
    });
    let who = setters(is_pod, &names);
    (!who.is_empty()).then(|| {
        let detail = format!("{who} must not set securityContext.windowsOptions.hostProcess=true");
        Violation::new("hostProcess", detail)
    })
}
