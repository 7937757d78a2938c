//! Security contexts of pods and containers.

use k8s_openapi::api::core::v1::{
    AppArmorProfile, PodSecurityContext, SeccompProfile, SecurityContext, WindowsSecurityContextOptions,
};
use naru_model::validation::{FieldErrors, Path};
use std::collections::BTreeSet;

use super::{Check, OrEmpty, check};

const PROFILE_TYPES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];
/// One less than `PATH_MAX`.
const MAX_PROFILE_PATH: usize = 4095;
const MAX_SYSCTL_NAME: usize = 253;
const SYSCTL_PATTERN: &str = "^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

impl Check<'_> {
    pub(super) fn pod_security_context(
        &self,
        context: &PodSecurityContext,
        path: &Path,
        errors: &mut FieldErrors,
    ) {
        for (name, id) in [("fsGroup", context.fs_group), ("runAsGroup", context.run_as_group)] {
            group_id(id, &path.child(name), errors);
        }
        user_id(context.run_as_user, &path.child("runAsUser"), errors);
        for (index, id) in context.supplemental_groups.or_empty().iter().enumerate() {
            group_id(Some(*id), &path.child("supplementalGroups").index(index), errors);
        }
        if self.spec.share_process_namespace == Some(true) && self.spec.host_pid == Some(true) {
            let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
            errors.invalid(&path.child("shareProcessNamespace"), true, detail);
        }
        self.sysctls(context, &path.child("sysctls"), errors);
        for (name, value, supported) in [
            ("fsGroupChangePolicy", &context.fs_group_change_policy, &["Always", "OnRootMismatch"]),
            ("supplementalGroupsPolicy", &context.supplemental_groups_policy, &["Merge", "Strict"]),
            ("seLinuxChangePolicy", &context.se_linux_change_policy, &["MountOption", "Recursive"]),
        ] {
            if let Some(value) = value {
                check::one_of(value, supported, &path.child(name), errors);
            }
        }
        profiles(context.seccomp_profile.as_ref(), context.app_armor_profile.as_ref(), path, errors);
        windows_options(context.windows_options.as_ref(), &path.child("windowsOptions"), errors);
    }

    pub(super) fn security_context(&self, context: &SecurityContext, path: &Path, errors: &mut FieldErrors) {
        user_id(context.run_as_user, &path.child("runAsUser"), errors);
        group_id(context.run_as_group, &path.child("runAsGroup"), errors);
        if let Some(mount) = &context.proc_mount {
            let path = path.child("procMount");
            check::one_of(mount, &["Default", "Unmasked"], &path, errors);
            if mount == "Unmasked" && self.shares_host_users() {
                errors.invalid(&path, mount.as_str(), "`hostUsers` must be false to use `Unmasked`");
            }
        }
        if context.allow_privilege_escalation == Some(false) {
            let value = || serde_json::to_value(context).unwrap_or_default();
            if context.privileged == Some(true) {
                let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
                errors.invalid(path, value(), detail);
            }
            let added = context.capabilities.as_ref().map(|it| it.add.or_empty()).unwrap_or_default();
            if added.iter().any(|capability| capability == "CAP_SYS_ADMIN") {
                let detail =
                    "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
                errors.invalid(path, value(), detail);
            }
        }
        profiles(context.seccomp_profile.as_ref(), context.app_armor_profile.as_ref(), path, errors);
        windows_options(context.windows_options.as_ref(), &path.child("windowsOptions"), errors);
    }

    fn sysctls(&self, context: &PodSecurityContext, path: &Path, errors: &mut FieldErrors) {
        let mut seen = BTreeSet::new();
        for (index, sysctl) in context.sysctls.or_empty().iter().enumerate() {
            let path = path.index(index).child("name");
            let name = sysctl.name.as_str();
            if name.is_empty() {
                errors.required(&path, "");
            } else if !is_sysctl_name(name) {
                let detail = format!(
                    "must have at most {MAX_SYSCTL_NAME} characters and match regex {SYSCTL_PATTERN}"
                );
                errors.invalid(&path, name, &detail);
            } else if seen.contains(name) {
                errors.duplicate(&path, name);
            }
            seen.insert(name);
            let dotted = name.replace('/', ".");
            if self.uses_host_network() && dotted.starts_with("net.") {
                errors.invalid(&path, name, "may not be specified when 'hostNetwork' is true");
            } else if self.spec.host_ipc == Some(true) && is_ipc_sysctl(&dotted) {
                errors.invalid(&path, name, "may not be specified when 'hostIPC' is true");
            }
        }
    }

    /// A user namespace of its own and namespaces of the host don't go together.
    pub(super) fn host_users(&self, path: &Path, errors: &mut FieldErrors) {
        if self.shares_host_users() {
            return;
        }
        // The mixed case is Kubernetes' own.
        for (name, is_set) in [
            ("hostNetwork", self.spec.host_network),
            ("HostPID", self.spec.host_pid),
            ("HostIPC", self.spec.host_ipc),
        ] {
            if is_set == Some(true) {
                errors.forbidden(&path.child(name), "when `pod.Spec.HostUsers` is false");
            }
        }
    }
}

fn user_id(id: Option<i64>, path: &Path, errors: &mut FieldErrors) {
    id_in_range(id, path, errors);
}

fn group_id(id: Option<i64>, path: &Path, errors: &mut FieldErrors) {
    id_in_range(id, path, errors);
}

fn id_in_range(id: Option<i64>, path: &Path, errors: &mut FieldErrors) {
    if let Some(id) = id.filter(|id| !(0..=i64::from(i32::MAX)).contains(id)) {
        errors.invalid(path, id, "must be between 0 and 2147483647, inclusive");
    }
}

fn is_sysctl_name(name: &str) -> bool {
    let is_segment = |segment: &str| {
        let is_edge =
            |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        let bytes = segment.as_bytes();
        is_edge(bytes.first())
            && is_edge(bytes.last())
            && bytes.iter().all(|byte| is_edge(Some(byte)) || matches!(byte, b'-' | b'_'))
    };
    name.len() <= MAX_SYSCTL_NAME && name.split(['.', '/']).all(is_segment)
}

fn is_ipc_sysctl(name: &str) -> bool {
    name.starts_with("kernel.shm")
        || name.starts_with("kernel.msg")
        || name == "kernel.sem"
        || name.starts_with("fs.mqueue.")
}

fn profiles(
    seccomp: Option<&SeccompProfile>,
    app_armor: Option<&AppArmorProfile>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    if let Some(profile) = seccomp {
        seccomp_profile(profile, &path.child("seccompProfile"), errors);
    }
    if let Some(profile) = app_armor {
        app_armor_profile(profile, &path.child("appArmorProfile"), errors);
    }
}

fn seccomp_profile(profile: &SeccompProfile, path: &Path, errors: &mut FieldErrors) {
    let type_path = path.child("type");
    if profile.type_.is_empty() {
        errors.required(&type_path, "type is required when seccompProfile is set");
    } else {
        check::one_of(&profile.type_, PROFILE_TYPES, &type_path, errors);
    }
    let local_path = path.child("localhostProfile");
    match (profile.type_ == "Localhost", &profile.localhost_profile) {
        (true, None) => errors.required(&local_path, "must be set when seccomp type is Localhost"),
        (true, Some(local)) => check::local_path(local, &local_path, errors),
        (false, Some(_)) => {
            let value = serde_json::to_value(profile).unwrap_or_default();
            errors.invalid(&local_path, value, "can only be set when seccomp type is Localhost");
        }
        (false, None) => {}
    }
}

fn app_armor_profile(profile: &AppArmorProfile, path: &Path, errors: &mut FieldErrors) {
    let local_path = path.child("localhostProfile");
    const REQUIRED: &str = "must be set when AppArmor type is Localhost";
    match (profile.type_.as_str(), profile.localhost_profile.as_deref()) {
        ("Localhost", None) => errors.required(&local_path, REQUIRED),
        ("Localhost", Some(local)) => {
            if local.trim() != local {
                errors.invalid(&local_path, local, "must not be padded with whitespace");
            } else if local.is_empty() {
                errors.required(&local_path, REQUIRED);
            }
            if local.len() > MAX_PROFILE_PATH {
                errors.too_long(&local_path, MAX_PROFILE_PATH);
            }
        }
        ("RuntimeDefault" | "Unconfined", Some(local)) => {
            errors.invalid(&local_path, local, "can only be set when AppArmor type is Localhost");
        }
        ("", _) => errors.required(&path.child("type"), "type is required when appArmorProfile is set"),
        (other, _) => check::one_of(other, PROFILE_TYPES, &path.child("type"), errors),
    }
}

const MAX_CREDENTIAL_SPEC_KIB: usize = 64;
const MAX_WINDOWS_DOMAIN: usize = 256;
const MAX_WINDOWS_USER: usize = 104;

fn windows_options(options: Option<&WindowsSecurityContextOptions>, path: &Path, errors: &mut FieldErrors) {
    let Some(options) = options else { return };
    if let Some(name) = &options.gmsa_credential_spec_name {
        check::subdomain(name, &path.child("gmsaCredentialSpecName"), errors);
    }
    if let Some(spec) = options.gmsa_credential_spec.as_deref() {
        let path = path.child("gmsaCredentialSpec");
        if spec.is_empty() {
            errors.invalid(&path, spec, "gmsaCredentialSpec cannot be an empty string");
        } else if spec.len() > MAX_CREDENTIAL_SPEC_KIB * 1024 {
            let detail = format!("gmsaCredentialSpec size must be under {MAX_CREDENTIAL_SPEC_KIB} KiB");
            errors.invalid(&path, spec, &detail);
        }
    }
    if let Some(name) = options.run_as_user_name.as_deref() {
        for fault in windows_user_faults(name) {
            errors.invalid(&path.child("runAsUserName"), name, &fault);
        }
    }
}

/// What is wrong with `DOMAIN\USER`, the domain being optional.
fn windows_user_faults(name: &str) -> Vec<String> {
    if name.is_empty() {
        return vec!["runAsUserName cannot be an empty string".into()];
    }
    if name.chars().any(|character| character.is_ascii_control()) {
        return vec!["runAsUserName cannot contain control characters".into()];
    }
    let parts: Vec<&str> = name.split('\\').collect();
    let (domain, user) = match parts[..] {
        [user] => (None, user),
        [domain, user] => (Some(domain), user),
        _ => return vec!["runAsUserName cannot contain more than one backslash".into()],
    };
    let mut faults = Vec::new();
    if let Some(domain) = domain {
        if domain.len() >= MAX_WINDOWS_DOMAIN {
            faults
                .push(format!("runAsUserName's Domain length must be under {MAX_WINDOWS_DOMAIN} characters"));
        }
        if !is_net_bios_name(domain) && !is_windows_dns_name(domain) {
            faults.push("runAsUserName's Domain doesn't match the NetBios nor the DNS format".into());
        }
    }
    if user.is_empty() {
        faults.push("runAsUserName's User cannot be empty".into());
    } else if user.len() > MAX_WINDOWS_USER {
        faults.push(format!(
            "runAsUserName's User length must not be longer than {MAX_WINDOWS_USER} characters"
        ));
    }
    if !user.is_empty() && user.chars().all(|character| matches!(character, '.' | ' ')) {
        faults.push("runAsUserName's User cannot contain only periods or spaces".into());
    }
    if user.chars().any(|character| "\"/\\:;|=,+*?<>@[]".contains(character)) {
        faults
            .push("runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]".into());
    }
    faults
}

fn is_net_bios_name(name: &str) -> bool {
    (1..=15).contains(&name.chars().count())
        && !name.starts_with('.')
        && !name.chars().any(|character| "\\/:*?\"<>|".contains(character))
}

fn is_windows_dns_name(name: &str) -> bool {
    name.split('.').all(|label| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    })
}
