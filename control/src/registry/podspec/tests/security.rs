use super::{check_container, check_spec};

#[test]
fn ids_and_policies_are_in_range() {
    for (context, expected) in [
        ("{runAsUser: 0, fsGroup: 5, supplementalGroups: [1]}", &[][..]),
        (
            "{runAsUser: -1}",
            &[
                "spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
            ],
        ),
        (
            "{supplementalGroups: [1, 2147483648]}",
            &[
                "spec.securityContext.supplementalGroups[1]: Invalid value: 2147483648: must be between 0 and 2147483647, inclusive",
            ],
        ),
        (
            "{fsGroupChangePolicy: Maybe}",
            &[
                "spec.securityContext.fsGroupChangePolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"OnRootMismatch\"",
            ],
        ),
        ("{seccompProfile: {type: RuntimeDefault}}", &[]),
        (
            "{seccompProfile: {}}",
            &[
                "spec.securityContext.seccompProfile.type: Required value: type is required when seccompProfile is set",
            ],
        ),
        (
            "{seccompProfile: {type: Localhost}}",
            &[
                "spec.securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost",
            ],
        ),
        (
            "{appArmorProfile: {type: Unconfined, localhostProfile: x}}",
            &[
                "spec.securityContext.appArmorProfile.localhostProfile: Invalid value: \"x\": can only be set when AppArmor type is Localhost",
            ],
        ),
        ("{sysctls: [{name: net.core.somaxconn, value: '1'}]}", &[]),
        ("{sysctls: [{value: '1'}]}", &["spec.securityContext.sysctls[0].name: Required value"]),
        (
            "{sysctls: [{name: kernel.sem}, {name: kernel.sem}]}",
            &["spec.securityContext.sysctls[1].name: Duplicate value: \"kernel.sem\""],
        ),
        (
            "{sysctls: [{name: Kernel}]}",
            &[
                "spec.securityContext.sysctls[0].name: Invalid value: \"Kernel\": must have at most 253 characters…",
            ],
        ),
        (
            "{windowsOptions: {runAsUserName: 'a\\b\\c'}}",
            &[
                "spec.securityContext.windowsOptions.runAsUserName: Invalid value: \"a\\\\b\\\\c\": runAsUserName cannot contain more than one backslash",
            ],
        ),
    ] {
        check_spec(&format!("securityContext: {context}"), expected);
    }
}

#[test]
fn privileges_do_not_contradict_each_other() {
    check_container(
        "securityContext: {privileged: true, allowPrivilegeEscalation: false}",
        &[
            "spec.containers[0].securityContext: Invalid value: {\"allowPrivilegeEscalation\":false,\"privileged\":true}: cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
        ],
    );
    check_container(
        "securityContext: {allowPrivilegeEscalation: false, capabilities: {add: [CAP_SYS_ADMIN]}}",
        &["spec.containers[0].securityContext: Invalid value: {…"],
    );
    check_container(
        "securityContext: {procMount: Unmasked}",
        &[
            "spec.containers[0].securityContext.procMount: Invalid value: \"Unmasked\": `hostUsers` must be false to use `Unmasked`",
        ],
    );
}

#[test]
fn namespaces_of_the_host_exclude_each_other() {
    check_spec(
        "hostUsers: false\n  hostPID: true",
        &["spec.HostPID: Forbidden: when `pod.Spec.HostUsers` is false"],
    );
    check_spec(
        "shareProcessNamespace: true\n  hostPID: true",
        &[
            "spec.securityContext.shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID cannot both be enabled",
        ],
    );
    check_spec(
        "hostNetwork: true\n  securityContext: {sysctls: [{name: net.core.somaxconn}]}",
        &[
            "spec.securityContext.sysctls[0].name: Invalid value: \"net.core.somaxconn\": may not be specified when 'hostNetwork' is true",
        ],
    );
}

#[test]
fn an_operating_system_rules_out_the_other_ones_fields() {
    check_spec("os: {name: linux}", &[]);
    check_spec(
        "os: {name: plan9}",
        &["spec.os: Unsupported value: \"plan9\": supported values: \"linux\", \"windows\""],
    );
    check_spec("os: {}", &["spec.os.name: Required value: cannot be empty"]);
    check_spec(
        "os: {name: linux}\n  securityContext: {windowsOptions: {runAsUserName: u}}",
        &["spec.securityContext.windowsOptions: Forbidden: windows options cannot be set for a linux pod"],
    );
    check_spec(
        "os: {name: windows}\n  hostPID: true\n  securityContext: {runAsUser: 1}",
        &[
            "spec.hostPID: Forbidden: cannot be set for a windows pod",
            "spec.securityContext.runAsUser: Forbidden: cannot be set for a windows pod",
        ],
    );
    check_spec(
        "securityContext: {windowsOptions: {hostProcess: true}}",
        &[
            "spec.hostNetwork: Invalid value: false: hostNetwork must be true if pod contains any hostProcess containers",
        ],
    );
}
