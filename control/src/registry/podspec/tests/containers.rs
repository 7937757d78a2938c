use super::{check_container, check_spec, pod};
use crate::registry::{pod::Pods, testing};

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
    and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";

#[test]
fn a_pod_needs_containers_with_names_and_images() {
    testing::check(&Pods, &pod("  containers: []"), &["spec.containers: Required value"]);
    testing::check(&Pods, "metadata: {name: p}", &["spec.containers: Required value"]);
    testing::check(
        &Pods,
        &pod("  containers: [{}]"),
        &["spec.containers[0].name: Required value", "spec.containers[0].image: Required value"],
    );
    testing::check(
        &Pods,
        &pod("  containers: [{name: A_b, image: ' i '}]"),
        &[
            &format!("spec.containers[0].name: Invalid value: \"A_b\": {LABEL}"),
            "spec.containers[0].image: Invalid value: \" i \": must not have leading or trailing whitespace",
        ],
    );
}

#[test]
fn names_are_unique_across_containers_and_init_containers() {
    testing::check(
        &Pods,
        &pod(
            "  containers: [{name: a, image: i}, {name: a, image: i}]\n  initContainers: [{name: a, image: i}]",
        ),
        &[
            "spec.containers[1].name: Duplicate value: \"a\"",
            "spec.initContainers[0].name: Duplicate value: \"a\"",
        ],
    );
}

#[test]
fn ports_are_checked_for_ranges_names_and_conflicts() {
    for (ports, expected) in [
        ("{containerPort: 80}", &[][..]),
        ("{}", &["spec.containers[0].ports[0].containerPort: Required value"]),
        (
            "{containerPort: 65536}",
            &[
                "spec.containers[0].ports[0].containerPort: Invalid value: 65536: must be between 1 and 65535, inclusive",
            ],
        ),
        (
            "{containerPort: 80, hostPort: -1}",
            &[
                "spec.containers[0].ports[0].hostPort: Invalid value: -1: must be between 1 and 65535, inclusive",
            ],
        ),
        (
            "{containerPort: 80, protocol: HTTP}",
            &[
                "spec.containers[0].ports[0].protocol: Unsupported value: \"HTTP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
            ],
        ),
        (
            "{containerPort: 80, name: http}, {containerPort: 81, name: http}",
            &["spec.containers[0].ports[1].name: Duplicate value: \"http\""],
        ),
        (
            "{containerPort: 80, name: a-very-long-port-name}",
            &[
                "spec.containers[0].ports[0].name: Invalid value: \"a-very-long-port-name\": must be no more than 15…",
            ],
        ),
        (
            "{containerPort: 80, hostPort: 8080}, {containerPort: 81, hostPort: 8080}",
            &["spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//8080\""],
        ),
        ("{containerPort: 80, hostPort: 8080}, {containerPort: 81, hostPort: 8080, protocol: UDP}", &[]),
    ] {
        check_container(&format!("ports: [{ports}]"), expected);
    }
}

#[test]
fn host_ports_follow_container_ports_on_the_host_network() {
    let spec = "  hostNetwork: true\n  containers: [{name: a, image: i, ports: [{containerPort: 80, hostPort: 81}]}]";
    testing::check(
        &Pods,
        &pod(spec),
        &[
            "spec.containers[0].ports[0].hostPort: Invalid value: 81: must match `containerPort` when `hostNetwork` is true",
        ],
    );
}

#[test]
fn env_values_have_one_source() {
    for (env, expected) in [
        ("{name: A, value: x}, {name: 'a b', value: x}", &[][..]),
        ("{value: x}", &["spec.containers[0].env[0].name: Required value"]),
        (
            "{name: A=B}",
            &[
                "spec.containers[0].env[0].name: Invalid value: \"A=B\": a valid environment variable name must consist only of printable ASCII characters other than '='",
            ],
        ),
        (
            "{name: A, valueFrom: {}}",
            &["spec.containers[0].env[0].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`…"],
        ),
        (
            "{name: A, value: x, valueFrom: {configMapKeyRef: {name: c, key: k}}}",
            &[
                "spec.containers[0].env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
            ],
        ),
        (
            "{name: A, valueFrom: {configMapKeyRef: {name: c, key: k}, secretKeyRef: {name: s, key: k}}}",
            &[
                "spec.containers[0].env[0].valueFrom: Invalid value: \"\": may not have more than one field specified at a time",
            ],
        ),
        (
            "{name: A, valueFrom: {configMapKeyRef: {name: c, key: 'a b'}}}",
            &[
                "spec.containers[0].env[0].valueFrom.configMapKeyRef.key: Invalid value: \"a b\": a valid config key must…",
            ],
        ),
        (
            "{name: A, valueFrom: {secretKeyRef: {name: s}}}",
            &["spec.containers[0].env[0].valueFrom.secretKeyRef.key: Required value"],
        ),
    ] {
        check_container(&format!("env: [{env}]"), expected);
    }
}

#[test]
fn field_references_name_fields_that_can_be_shown() {
    for (reference, expected) in [
        ("{fieldRef: {fieldPath: status.podIP}}", &[][..]),
        ("{fieldRef: {fieldPath: \"metadata.labels['app.kubernetes.io/name']\"}}", &[]),
        ("{fieldRef: {}}", &["spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Required value"]),
        (
            "{fieldRef: {fieldPath: metadata.whoops}}",
            &[
                "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"metadata.whoops\": error converting fieldPath: field label not supported: metadata.whoops",
            ],
        ),
        (
            "{fieldRef: {fieldPath: metadata.labels}}",
            &[
                "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Unsupported value: \"metadata.labels\": supported values: \"metadata.name\", \"metadata.namespace\", \"metadata.uid\", \"spec.nodeName\", \"spec.serviceAccountName\", \"status.hostIP\", \"status.hostIPs\", \"status.podIP\", \"status.podIPs\"",
            ],
        ),
        (
            "{fieldRef: {fieldPath: metadata.name, apiVersion: v2}}",
            &[
                "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"metadata.name\": error converting fieldPath: unsupported pod version: v2",
            ],
        ),
        ("{resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}", &[]),
        (
            "{resourceFieldRef: {resource: limits.cpu, divisor: 1Mi}}",
            &[
                "spec.containers[0].env[0].valueFrom.resourceFieldRef.divisor: Invalid value: \"limits.cpu\": only divisor's values 1m and 1 are supported with the cpu resource",
            ],
        ),
        (
            "{resourceFieldRef: {resource: limits.disk}}",
            &[
                "spec.containers[0].env[0].valueFrom.resourceFieldRef.resource: Unsupported value: \"limits.disk\": supported values: \"limits.cpu\", \"limits.ephemeral-storage\", \"limits.memory\", \"requests.cpu\", \"requests.ephemeral-storage\", \"requests.memory\"",
            ],
        ),
    ] {
        check_container(&format!("env: [{{name: A, valueFrom: {reference}}}]"), expected);
    }
}

#[test]
fn env_from_names_one_object() {
    for (source, expected) in [
        ("{configMapRef: {name: c}, prefix: P_}", &[][..]),
        ("{configMapRef: {}}", &["spec.containers[0].envFrom[0].configMapRef.name: Required value"]),
        (
            "{}",
            &[
                "spec.containers[0].envFrom: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`",
            ],
        ),
        (
            "{configMapRef: {name: c}, secretRef: {name: s}}",
            &[
                "spec.containers[0].envFrom: Invalid value: \"\": may not have more than one field specified at a time",
            ],
        ),
    ] {
        check_container(&format!("envFrom: [{source}]"), expected);
    }
}

#[test]
fn mounts_name_volumes_and_have_paths_of_their_own() {
    let check = |mounts: &str, expected: &[&str]| {
        let spec = format!(
            "  volumes: [{{name: v}}, {{name: w}}]\n  containers: [{{name: a, image: i, volumeMounts: [{mounts}]}}]"
        );
        testing::check(&Pods, &pod(&spec), expected);
    };
    check("{name: v, mountPath: /x, subPath: a/b}", &[]);
    check("{name: u, mountPath: /x}", &["spec.containers[0].volumeMounts[0].name: Not found: \"u\""]);
    check("{name: v}", &["spec.containers[0].volumeMounts[0].mountPath: Required value"]);
    check(
        "{name: v, mountPath: /x}, {name: w, mountPath: /x}",
        &["spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/x\": must be unique"],
    );
    check(
        "{name: v, mountPath: /x, subPath: /b}",
        &["spec.containers[0].volumeMounts.subPath: Invalid value: \"/b\": must be a relative path"],
    );
    check(
        "{name: v, mountPath: /x, subPath: a/../b}",
        &["spec.containers[0].volumeMounts.subPath: Invalid value: \"a/../b\": must not contain '..'"],
    );
    check(
        "{name: v, mountPath: /x, subPath: a, subPathExpr: b}",
        &[
            "spec.containers[0].volumeMounts[0].subPathExpr: Invalid value: \"b\": subPathExpr and subPath are mutually exclusive",
        ],
    );
    check(
        "{name: v, mountPath: /x, mountPropagation: Bidirectional}",
        &[
            "spec.containers[0].volumeMounts.mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers",
        ],
    );
    check(
        "{name: v, mountPath: /x, recursiveReadOnly: Enabled}",
        &[
            "spec.containers[0].volumeMounts.recursiveReadOnly: Forbidden: may only be specified when readOnly is true",
        ],
    );
}

#[test]
fn devices_are_claims() {
    let check = |device: &str, expected: &[&str]| {
        let spec = format!(
            "  volumes: [{{name: v}}, {{name: c, persistentVolumeClaim: {{claimName: c}}}}]\n  containers: [{{name: a, image: i, volumeDevices: [{device}]}}]"
        );
        testing::check(&Pods, &pod(&spec), expected);
    };
    check("{name: c, devicePath: /dev/x}", &[]);
    check(
        "{name: v, devicePath: /dev/x}",
        &[
            "spec.containers[0].volumeDevices[0].name: Invalid value: \"v\": can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
        ],
    );
    check("{name: c}", &["spec.containers[0].volumeDevices[0].devicePath: Required value"]);
}

#[test]
fn probes_have_one_handler_and_sane_numbers() {
    for (probe, expected) in [
        ("livenessProbe: {httpGet: {port: 80}}", &[][..]),
        (
            "livenessProbe: {}",
            &["spec.containers[0].livenessProbe: Required value: must specify a handler type"],
        ),
        (
            "livenessProbe: {httpGet: {port: 80}, tcpSocket: {port: 80}}",
            &[
                "spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
            ],
        ),
        (
            "livenessProbe: {tcpSocket: {port: 80}, successThreshold: 2}",
            &["spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1"],
        ),
        ("readinessProbe: {tcpSocket: {port: 80}, successThreshold: 2}", &[]),
        (
            "startupProbe: {tcpSocket: {port: 80}, successThreshold: 2}",
            &["spec.containers[0].startupProbe.successThreshold: Invalid value: 2: must be 1"],
        ),
        (
            "readinessProbe: {tcpSocket: {port: 80}, terminationGracePeriodSeconds: 5}",
            &[
                "spec.containers[0].readinessProbe.terminationGracePeriodSeconds: Invalid value: 5: must not be set for readinessProbes",
            ],
        ),
        (
            "livenessProbe: {tcpSocket: {port: 0}, periodSeconds: -1, terminationGracePeriodSeconds: 0}",
            &[
                "spec.containers[0].livenessProbe.tcpSocket.port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "spec.containers[0].livenessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0",
                "spec.containers[0].livenessProbe.terminationGracePeriodSeconds: Invalid value: 0: must be greater than 0",
            ],
        ),
        (
            "readinessProbe: {httpGet: {port: UPPER, scheme: ftp, httpHeaders: [{name: 'a b'}]}}",
            &[
                "spec.containers[0].readinessProbe.httpGet.port: Invalid value: \"UPPER\": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
                "spec.containers[0].readinessProbe.httpGet.port: Invalid value: \"UPPER\": must contain at least one letter (a-z)",
                "spec.containers[0].readinessProbe.httpGet.scheme: Unsupported value: \"ftp\": supported values: \"HTTP\", \"HTTPS\"",
                "spec.containers[0].readinessProbe.httpGet.httpHeaders: Invalid value: \"a b\": a valid HTTP header must…",
            ],
        ),
        ("livenessProbe: {exec: {}}", &["spec.containers[0].livenessProbe.exec.command: Required value"]),
    ] {
        check_container(probe, expected);
    }
}

#[test]
fn hooks_have_one_handler_and_sleep_within_the_grace_period() {
    check_container("lifecycle: {preStop: {sleep: {seconds: 30}}}", &[]);
    check_container(
        "lifecycle: {preStop: {sleep: {seconds: 31}}}",
        &[
            "spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)",
        ],
    );
    check_container(
        "lifecycle: {postStart: {}}",
        &["spec.containers[0].lifecycle.postStart: Required value: must specify a handler type"],
    );
    check_container(
        "lifecycle: {stopSignal: SIGUSR1}",
        &[
            "spec.containers[0].lifecycle.stopSignal: Forbidden: may not be set for containers with empty `spec.os.name`",
        ],
    );
}

#[test]
fn requests_stay_within_limits() {
    for (resources, expected) in [
        ("{requests: {cpu: 100m}, limits: {cpu: 0.1, memory: 1Gi}}", &[][..]),
        (
            "{requests: {memory: 2Gi}, limits: {memory: 1Gi}}",
            &[
                "spec.containers[0].resources.requests: Invalid value: \"2Gi\": must be less than or equal to memory limit of 1Gi",
            ],
        ),
        (
            "{requests: {cpu: -1}}",
            &[
                "spec.containers[0].resources.requests[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
            ],
        ),
        (
            "{requests: {disk: 1}}",
            &[
                "spec.containers[0].resources.requests[disk]: Invalid value: \"disk\": must be a standard resource for containers",
            ],
        ),
        ("{limits: {example.com/gpu: 2}}", &[]),
        (
            "{limits: {example.com/gpu: 1500m}}",
            &[
                "spec.containers[0].resources.limits[example.com/gpu]: Invalid value: \"1500m\": must be an integer",
                "spec.containers[0].resources.requests[example.com/gpu]: Invalid value: \"1500m\": must be an integer",
            ],
        ),
        (
            "{requests: {example.com/gpu: 2}}",
            &[
                "spec.containers[0].resources.limits: Required value: Limit must be set for non overcommitable resources",
            ],
        ),
        (
            "{limits: {hugepages-2Mi: 4Mi}}",
            &["spec.containers[0].resources: Forbidden: HugePages require cpu or memory"],
        ),
        (
            "{limits: {cpu: 1, hugepages-2Mi: 3Mi}}",
            &[
                "spec.containers[0].resources.limits[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive integer multiple of hugepages-2Mi",
                "spec.containers[0].resources.requests[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive integer multiple of hugepages-2Mi",
            ],
        ),
        (
            "{limits: {cpu: lots}}",
            &[
                "spec.containers[0].resources.limits[cpu]: Invalid value: \"lots\": quantities must match the regular expression…",
                "spec.containers[0].resources.requests[cpu]: Invalid value: \"lots\": quantities must match the regular expression…",
            ],
        ),
        (
            "{claims: [{name: gpu}]}",
            &[
                "spec.containers[0].resources.claims[0]: Not found: \"gpu\": must be one of the names in pod.spec.resourceClaims which is empty",
            ],
        ),
    ] {
        check_container(&format!("resources: {resources}"), expected);
    }
}

#[test]
fn pod_level_resources_bound_their_containers() {
    let check = |resources: &str, expected: &[&str]| {
        let containers = "[{name: a, image: i, resources: {requests: {cpu: 2}}}]";
        testing::check(
            &Pods,
            &pod(&format!("  containers: {containers}\n  resources: {resources}")),
            expected,
        );
    };
    check("{requests: {cpu: 2}, limits: {cpu: 4}}", &[]);
    check(
        "{requests: {cpu: 1}}",
        &[
            "spec.resources.requests[cpu]: Invalid value: \"1\": must be greater than or equal to aggregate container requests of 2",
        ],
    );
    check(
        "{limits: {cpu: 2, ephemeral-storage: 1Gi}}",
        &[
            "spec.resources.limits[ephemeral-storage]: Unsupported value: \"ephemeral-storage\": supported values…",
        ],
    );
}

#[test]
fn only_sidecars_among_init_containers_have_probes() {
    let check = |fields: &str, expected: &[&str]| {
        check_spec(&format!("initContainers: [{{name: b, image: i, {fields}}}]"), expected);
    };
    check("restartPolicy: Always, readinessProbe: {tcpSocket: {port: 80}}", &[]);
    check(
        "readinessProbe: {tcpSocket: {port: 80}}",
        &[
            "spec.initContainers[0].readinessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
        ],
    );
    check(
        "lifecycle: {}",
        &[
            "spec.initContainers[0].lifecycle: Forbidden: may not be set for init containers without restartPolicy=Always",
        ],
    );
    check(
        "restartPolicy: Sometimes",
        &[
            "spec.initContainers[0].restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"Never\", \"OnFailure\"",
        ],
    );
}

#[test]
fn restart_rules_need_a_policy() {
    check_container(
        "restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [42]}}]",
        &[
            "spec.containers[0].restartPolicy: Required value: must specify restartPolicy when restart rules are used",
        ],
    );
    check_container(
        "restartPolicy: Never, restartPolicyRules: [{action: Stop}]",
        &[
            "spec.containers[0].restartPolicyRules[0].action: Unsupported value: \"Stop\": supported values: \"Restart\"",
            "spec.containers[0].restartPolicyRules[0].exitCodes: Required value: must be specified",
        ],
    );
}

#[test]
fn policies_are_of_the_known_ones() {
    check_container(
        "imagePullPolicy: Sometimes",
        &[
            "spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
        ],
    );
    check_container(
        "terminationMessagePolicy: Log",
        &[
            "spec.containers[0].terminationMessagePolicy: Unsupported value: \"Log\": supported values: \"File\", \"FallbackToLogsOnError\"",
        ],
    );
    check_spec(
        "restartPolicy: Sometimes",
        &[
            "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
        ],
    );
}

#[test]
fn ephemeral_containers_come_only_by_update() {
    check_spec(
        "ephemeralContainers: [{name: e, image: i, ports: [{containerPort: 80}]}]",
        &[
            "spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container",
            "spec.ephemeralContainers: Forbidden: cannot be set on create",
        ],
    );
}
