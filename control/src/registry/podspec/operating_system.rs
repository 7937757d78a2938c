//! `spec.os`: what a Linux pod and a Windows pod may not say, and Windows' host processes.

use naru_model::validation::{FieldErrors, Path};

use super::{Check, OrEmpty, visit_containers};

const NOT_ON_WINDOWS: &str = "cannot be set for a windows pod";

impl Check<'_> {
    pub(super) fn operating_system(&self, path: &Path, errors: &mut FieldErrors) {
        let Some(os) = &self.spec.os else { return };
        match os.name.as_str() {
            "" => errors.required(&path.child("os").child("name"), "cannot be empty"),
            "linux" => self.linux(path, errors),
            "windows" => self.windows(path, errors),
            other => errors.not_supported(&path.child("os"), other, &["linux", "windows"]),
        }
    }

    fn linux(&self, path: &Path, errors: &mut FieldErrors) {
        const DETAIL: &str = "windows options cannot be set for a linux pod";
        let options = |path: &Path| path.child("securityContext").child("windowsOptions");
        if self.spec.security_context.as_ref().is_some_and(|context| context.windows_options.is_some()) {
            errors.forbidden(&options(path), DETAIL);
        }
        visit_containers(self.spec, path, |container, path| {
            if container.security_context.is_some_and(|context| context.windows_options.is_some()) {
                errors.forbidden(&options(path), DETAIL);
            }
        });
    }

    fn windows(&self, path: &Path, errors: &mut FieldErrors) {
        for (name, is_set) in [
            ("hostUsers", self.spec.host_users.is_some()),
            ("hostPID", self.spec.host_pid == Some(true)),
            ("hostIPC", self.spec.host_ipc == Some(true)),
            ("shareProcessNamespace", self.spec.share_process_namespace.is_some()),
        ] {
            if is_set {
                errors.forbidden(&path.child(name), NOT_ON_WINDOWS);
            }
        }
        if let Some(context) = &self.spec.security_context {
            let path = path.child("securityContext");
            for (name, is_set) in [
                ("appArmorProfile", context.app_armor_profile.is_some()),
                ("seLinuxOptions", context.se_linux_options.is_some()),
                ("seccompProfile", context.seccomp_profile.is_some()),
                ("fsGroup", context.fs_group.is_some()),
                ("fsGroupChangePolicy", context.fs_group_change_policy.is_some()),
                ("sysctls", !context.sysctls.or_empty().is_empty()),
                ("runAsUser", context.run_as_user.is_some()),
                ("runAsGroup", context.run_as_group.is_some()),
                ("supplementalGroups", context.supplemental_groups.is_some()),
                ("supplementalGroupsPolicy", context.supplemental_groups_policy.is_some()),
                ("seLinuxChangePolicy", context.se_linux_change_policy.is_some()),
            ] {
                if is_set {
                    errors.forbidden(&path.child(name), NOT_ON_WINDOWS);
                }
            }
        }
        visit_containers(self.spec, path, |container, path| {
            let Some(context) = container.security_context else { return };
            let path = path.child("securityContext");
            for (name, is_set) in [
                ("appArmorProfile", context.app_armor_profile.is_some()),
                ("seLinuxOptions", context.se_linux_options.is_some()),
                ("seccompProfile", context.seccomp_profile.is_some()),
                ("capabilities", context.capabilities.is_some()),
                ("readOnlyRootFilesystem", context.read_only_root_filesystem.is_some()),
                ("privileged", context.privileged.is_some()),
                ("allowPrivilegeEscalation", context.allow_privilege_escalation.is_some()),
                ("procMount", context.proc_mount.is_some()),
                ("runAsUser", context.run_as_user.is_some()),
                ("runAsGroup", context.run_as_group.is_some()),
            ] {
                if is_set {
                    errors.forbidden(&path.child(name), NOT_ON_WINDOWS);
                }
            }
        });
    }

    /// Either all containers of a pod are host processes or none is, and then it shares the host's network.
    pub(super) fn windows_host_process(&self, path: &Path, errors: &mut FieldErrors) {
        let context = self.spec.security_context.as_ref();
        let of_pod =
            context.and_then(|context| context.windows_options.as_ref()).and_then(|it| it.host_process);
        let (mut containers, mut host_processes) = (0, 0);
        visit_containers(self.spec, path, |container, path| {
            containers += 1;
            let options = container.security_context.and_then(|context| context.windows_options.as_ref());
            let own = options.and_then(|options| options.host_process);
            if let (Some(pod), Some(own)) = (of_pod, own)
                && pod != own
            {
                let path = path.child("securityContext").child("windowsOptions").child("hostProcess");
                let detail =
                    format!("pod hostProcess value must be identical if both are specified, was {pod}");
                errors.invalid(&path, own, &detail);
            }
            if own.or(of_pod) == Some(true) {
                host_processes += 1;
            }
        });
        if host_processes == 0 {
            return;
        }
        if host_processes != containers {
            let detail = "If pod contains any hostProcess containers then all containers must be HostProcess containers";
            errors.invalid(path, "", detail);
        }
        if !self.uses_host_network() {
            let detail = "hostNetwork must be true if pod contains any hostProcess containers";
            errors.invalid(&path.child("hostNetwork"), false, detail);
        }
    }
}
