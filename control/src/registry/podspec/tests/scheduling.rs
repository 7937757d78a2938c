use super::check_spec;

#[test]
fn tolerations_say_something_sensible() {
    for (toleration, expected) in [
        ("{operator: Exists}", &[][..]),
        ("{key: k, value: v, effect: NoExecute, tolerationSeconds: 5}", &[]),
        (
            "{effect: NoSchedule}",
            &[
                "spec.tolerations[0].operator: Invalid value: \"\": operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            ],
        ),
        (
            "{key: k, operator: Exists, value: v}",
            &[
                "spec.tolerations[0].operator: Invalid value: \"v\": value must be empty when `operator` is 'Exists'",
            ],
        ),
        (
            "{key: k, effect: NoSchedule, tolerationSeconds: 5}",
            &[
                "spec.tolerations[0].effect: Invalid value: \"NoSchedule\": effect must be 'NoExecute' when `tolerationSeconds` is set",
            ],
        ),
        (
            "{key: k, operator: Like}",
            &[
                "spec.tolerations[0].operator: Unsupported value: \"Like\": supported values: \"Equal\", \"Exists\"",
            ],
        ),
        (
            // Alpha, and off by default.
            "{key: k, operator: Gt, value: '5'}",
            &[
                "spec.tolerations[0].operator: Unsupported value: \"Gt\": supported values: \"Equal\", \"Exists\"",
            ],
        ),
        (
            "{key: k, effect: Never}",
            &[
                "spec.tolerations[0].effect: Unsupported value: \"Never\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
            ],
        ),
        ("{key: 'a b'}", &["spec.tolerations[0].key: Invalid value: \"a b\": name part must consist of…"]),
    ] {
        check_spec(&format!("tolerations: [{toleration}]"), expected);
    }
}

#[test]
fn node_affinity_terms_have_fitting_values() {
    let check = |expression: &str, expected: &[&str]| {
        check_spec(
            &format!(
                "affinity: {{nodeAffinity: {{requiredDuringSchedulingIgnoredDuringExecution: {{nodeSelectorTerms: [{{matchExpressions: [{expression}]}}]}}}}}}"
            ),
            expected,
        );
    };
    check("{key: k, operator: In, values: [a]}", &[]);
    let path = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0]";
    check(
        "{key: k, operator: In}",
        &[&format!("{path}.values: Required value: must be specified when `operator` is 'In' or 'NotIn'")],
    );
    check(
        "{key: k, operator: Exists, values: [a]}",
        &[&format!(
            "{path}.values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
        )],
    );
    check(
        "{key: k, operator: Gt, values: ['1', '2']}",
        &[&format!(
            "{path}.values: Required value: must be specified single value when `operator` is 'Lt' or 'Gt'"
        )],
    );
    check(
        "{key: k, operator: Is}",
        &[&format!("{path}.operator: Invalid value: \"Is\": not a valid selector operator")],
    );
    check_spec(
        "affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {}}}",
        &[
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required value: must have at least one node selector term",
        ],
    );
    check_spec(
        "affinity: {nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 101, preference: {matchFields: [{key: x, operator: In, values: [a]}]}}]}}",
        &[
            "spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 101: must be in the range 1-100",
            "spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchFields[0].key: Invalid value: \"x\": not a valid field selector key",
        ],
    );
}

#[test]
fn pod_affinity_terms_name_a_topology() {
    check_spec(
        "affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{labelSelector: {matchLabels: {a: b}}}]}}",
        &[
            "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Required value: can not be empty",
            "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Invalid value: \"\": name part must be non-empty",
            "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Invalid value: \"\": name part must consist of…",
        ],
    );
    check_spec(
        "affinity: {podAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 0, podAffinityTerm: {topologyKey: zone, matchLabelKeys: [a]}}]}}",
        &[
            "spec.affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 0: must be in the range 1-100",
            "spec.affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.matchLabelKeys: Forbidden: must not be specified when labelSelector is not set",
        ],
    );
}

#[test]
fn spread_constraints_are_sane_and_distinct() {
    let check = |constraint: &str, expected: &[&str]| {
        check_spec(&format!("topologySpreadConstraints: [{constraint}]"), expected);
    };
    check(
        "{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule, minDomains: 2, labelSelector: {}}",
        &[],
    );
    check(
        "{}",
        &[
            "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
            "spec.topologySpreadConstraints[0].topologyKey: Required value: can not be empty",
            "spec.topologySpreadConstraints[0].whenUnsatisfiable: Unsupported value: \"\": supported values: \"DoNotSchedule\", \"ScheduleAnyway\"",
        ],
    );
    check(
        "{maxSkew: 1, topologyKey: z, whenUnsatisfiable: ScheduleAnyway, minDomains: 2}",
        &[
            "spec.topologySpreadConstraints[0].minDomains: Invalid value: 2: can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway",
        ],
    );
    let twice = "{maxSkew: 1, topologyKey: z, whenUnsatisfiable: DoNotSchedule}, {maxSkew: 2, topologyKey: z, whenUnsatisfiable: DoNotSchedule}";
    check(
        twice,
        &[
            "spec.topologySpreadConstraints[0].{topologyKey, whenUnsatisfiable}: Duplicate value: \"{z, DoNotSchedule}\"",
        ],
    );
    check(
        "{maxSkew: 1, topologyKey: z, whenUnsatisfiable: DoNotSchedule, nodeTaintsPolicy: Maybe}",
        &[
            "spec.topologySpreadConstraints[0].nodeTaintsPolicy: Unsupported value: \"Maybe\": supported values: \"Honor\", \"Ignore\"",
        ],
    );
}

#[test]
fn gates_are_distinct_and_keep_the_pod_off_nodes() {
    check_spec("schedulingGates: [{name: a.b/c}]", &[]);
    check_spec(
        "schedulingGates: [{name: a}, {name: a}]\n  nodeName: n",
        &[
            "spec.schedulingGates[1]: Duplicate value: \"a\"",
            "spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared",
        ],
    );
}

#[test]
fn names_and_deadlines_are_well_formed() {
    for (field, expected) in [
        ("nodeName: A", "spec.nodeName: Invalid value: \"A\": a lowercase RFC 1123 subdomain…"),
        (
            "serviceAccountName: A",
            "spec.serviceAccountName: Invalid value: \"A\": a lowercase RFC 1123 subdomain…",
        ),
        (
            "priorityClassName: A",
            "spec.priorityClassName: Invalid value: \"A\": a lowercase RFC 1123 subdomain…",
        ),
        (
            "runtimeClassName: A",
            "spec.runtimeClassName: Invalid value: \"A\": a lowercase RFC 1123 subdomain…",
        ),
        ("hostname: a.b", "spec.hostname: Invalid value: \"a.b\": must not contain dots"),
        ("subdomain: a.b", "spec.subdomain: Invalid value: \"a.b\": must not contain dots"),
        (
            "activeDeadlineSeconds: 0",
            "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
        ),
        (
            "preemptionPolicy: Maybe",
            "spec.preemptionPolicy: Unsupported value: \"Maybe\": supported values: \"PreemptLowerPriority\", \"Never\"",
        ),
        ("nodeSelector: {'a b': c}", "spec.nodeSelector: Invalid value: \"a b\": name part must consist of…"),
        (
            "readinessGates: [{conditionType: 'a b'}]",
            "spec.readinessGates[0].conditionType: Invalid value: \"a b\": name part must…",
        ),
        (
            "overhead: {disk: 1}",
            "spec.overhead.limits[disk]: Invalid value: \"disk\": must be a standard resource for containers",
        ),
        (
            "resourceClaims: [{name: c}]",
            "spec.resourceClaims[0]: Invalid value: {\"name\":\"c\"}: must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
        ),
        (
            "hostnameOverride: h\n  hostNetwork: true",
            "spec.hostnameOverride: Forbidden: may not be specified when `hostNetwork` is true",
        ),
    ] {
        check_spec(field, &[expected]);
    }
}

#[test]
fn name_resolution_is_complete_and_bounded() {
    check_spec(
        "dnsPolicy: None\n  dnsConfig: {nameservers: [10.0.0.1], searches: [a.b., ., _x.y], options: [{name: ndots}]}",
        &[],
    );
    for (fields, expected) in [
        (
            "dnsPolicy: Custom",
            "spec.dnsPolicy: Unsupported value: \"Custom\": supported values: \"ClusterFirstWithHostNet\", \"ClusterFirst\", \"Default\", \"None\"",
        ),
        (
            "dnsPolicy: None",
            "spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None",
        ),
        (
            "dnsPolicy: None\n  dnsConfig: {}",
            "spec.dnsConfig.nameservers: Required value: must provide at least one DNS nameserver when `dnsPolicy` is None",
        ),
        (
            "dnsConfig: {nameservers: [a]}",
            "spec.dnsConfig.nameservers[0]: Invalid value: \"a\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ),
        (
            "dnsConfig: {nameservers: [1.1.1.1, 1.1.1.2, 1.1.1.3, 1.1.1.4]}",
            "spec.dnsConfig.nameservers: Invalid value: [\"1.1.1.1\",\"1.1.1.2\",\"1.1.1.3\",\"1.1.1.4\"]: must not have more than 3 nameservers",
        ),
        ("dnsConfig: {options: [{}]}", "spec.dnsConfig.options[0]: Required value: must not be empty"),
        (
            "dnsConfig: {searches: ['a b']}",
            "spec.dnsConfig.searches[0]: Invalid value: \"a b\": a lowercase RFC 1123 subdomain…",
        ),
        (
            "hostAliases: [{ip: x}]",
            "spec.hostAliases[0].ip: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ),
        (
            "hostAliases: [{ip: 1.1.1.1, hostnames: [A]}]",
            "spec.hostAliases[0].hostnames[0]: Invalid value: \"A\": a lowercase RFC 1123 subdomain…",
        ),
    ] {
        check_spec(fields, &[expected]);
    }
}
