//! The smaller kinds, by tables: what is refused, what is filled in, what `kubectl get` shows.

use serde_json::{Value, json};

use super::{
    Kind, Kinds,
    configmap::ConfigMaps,
    controllerrevision::ControllerRevisions,
    endpoints::EndpointsKind,
    endpointslice::EndpointSlices,
    event::Events,
    lease::Leases,
    namespace::Namespaces,
    node::Nodes,
    secret::Secrets,
    testing::{self, at, cells, check, check_update, create},
};

#[test]
fn every_served_resource_has_a_table_with_a_name() {
    for served in Kinds::builtin().all() {
        let columns = served.kind.columns();
        assert!(columns.iter().any(|column| column.format == "name"), "{}", served.qualified);
        // metrics-server says nothing of its columns.
        let is_described = |column: &super::kind::ColumnOf<'_>| !column.description.is_empty();
        assert!(
            served.info.group == "metrics.k8s.io" || columns.iter().all(is_described),
            "{}",
            served.qualified
        );
    }
}

#[test]
fn namespaces_are_labels_that_live_until_emptied() {
    let (namespace, errors) = create(&Namespaces, "{metadata: {name: shop}}");
    assert_eq!(errors, [] as [&str; 0]);
    assert_eq!(at(&namespace, "/metadata/labels"), json!({"kubernetes.io/metadata.name": "shop"}));
    assert_eq!(at(&namespace, "/spec/finalizers"), json!(["kubernetes"]));
    assert_eq!(at(&namespace, "/status/phase"), "Active");
    assert!(Namespaces.is_held(&namespace));
    check(
        &Namespaces,
        "{metadata: {name: shop}, spec: {finalizers: [mine]}}",
        &[
            "spec.finalizers: Invalid value: \"mine\": name is neither a standard finalizer name nor is it fully qualified",
        ],
    );
    let mut errors = naru_model::validation::FieldErrors::default();
    Namespaces.validate_name("shop.de", &mut errors);
    assert_eq!(errors.0.len(), 1);

    let mut gone = namespace.clone();
    gone.status.as_mut().expect("a status").phase = Some("Terminating".into());
    let (_, errors) = testing::update_status(&Namespaces, &namespace, gone);
    testing::assert_errors(
        &errors,
        &[
            "status.Phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty",
        ],
        "a status",
    );
}

#[test]
fn nodes_keep_what_they_were_given_once() {
    let (node, errors) = create(
        &Nodes,
        "{metadata: {name: n}, spec: {podCIDR: 127.5.0.0/24}, status: {capacity: {cpu: 2000m}}}",
    );
    assert_eq!(errors, [] as [&str; 0]);
    assert_eq!(at(&node, "/spec/podCIDRs"), json!(["127.5.0.0/24"]));
    assert_eq!(at(&node, "/status/allocatable"), json!({"cpu": "2"}));
    for (spec, expected) in [
        ("{taints: [{key: k, effect: NoSchedule}]}", &[][..]),
        ("{taints: [{key: k}]}", &["metadata.taints[0].effect: Required value"]),
        (
            "{taints: [{key: k, effect: NoSchedule}, {key: k, value: v, effect: NoSchedule}]}",
            &[
                "metadata.taints[1]: Duplicate value: {\"effect\":\"NoSchedule\",\"key\":\"k\",\"value\":\"v\"}: taints must be unique by key and effect pair",
            ],
        ),
        ("{podCIDRs: [x]}", &["spec.podCIDRs[0]: Invalid value: \"x\": must be a valid CIDR value…"]),
        (
            "{podCIDRs: [10.0.0.0/24, 10.0.1.0/24]}",
            &[
                "spec.podCIDRs: Invalid value: [\"10.0.0.0/24\",\"10.0.1.0/24\"]: may specify no more than one CIDR for each IP family",
            ],
        ),
    ] {
        check(&Nodes, &format!("{{metadata: {{name: n}}, spec: {spec}}}"), expected);
    }
    check_update(
        &Nodes,
        "{metadata: {name: n}, spec: {podCIDR: 10.0.0.0/24, providerID: a}}",
        "{metadata: {name: n}, spec: {podCIDR: 10.0.1.0/24, providerID: b}}",
        &[
            "spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid",
            "spec.providerID: Forbidden: node updates may not change providerID except from \"\" to valid",
        ],
    );
}

#[test]
fn nodes_show_state_roles_and_addresses() {
    let row = cells(
        &Nodes,
        "{metadata: {name: n, labels: {node-role.kubernetes.io/worker: '', node-role.kubernetes.io/control-plane: '', kubernetes.io/role: edge}},
          spec: {unschedulable: true},
          status: {conditions: [{type: Ready, status: 'True'}], addresses: [{type: InternalIP, address: 127.4.255.1}],
            nodeInfo: {kubeletVersion: v1.37.0, osImage: Debian}}}",
    );
    assert_eq!(
        row,
        [
            "Ready,SchedulingDisabled",
            "control-plane,edge,worker",
            "<unknown>",
            "v1.37.0",
            "127.4.255.1",
            "<none>",
            "Debian",
            "<unknown>",
            "<unknown>"
        ]
    );
    for (status, expected) in
        [("{}", "Unknown"), ("{conditions: [{type: Ready, status: Unknown}]}", "NotReady")]
    {
        assert_eq!(cells(&Nodes, &format!("{{metadata: {{name: n}}, status: {status}}}"))[0], expected);
    }
}

#[test]
fn config_maps_have_keys_of_one_shape_once_and_may_be_frozen() {
    check(&ConfigMaps, "{metadata: {name: c}, data: {a.b: x, _c: y}, binaryData: {d: AA==}}", &[]);
    check(
        &ConfigMaps,
        "{metadata: {name: c}, data: {'a b': x, d: y}, binaryData: {d: AA==}}",
        &[
            "data[a b]: Invalid value: \"a b\": a valid config key must consist of…",
            "data[d]: Invalid value: \"d\": duplicate of key present in binaryData",
        ],
    );
    let large = format!("{{metadata: {{name: c}}, data: {{a: {}}}}}", "x".repeat(1024 * 1024 + 1));
    check(&ConfigMaps, &large, &["[]: Too long: may not be more than 1048576 bytes"]);
    check_update(
        &ConfigMaps,
        "{metadata: {name: c}, immutable: true, data: {a: x}}",
        "{metadata: {name: c}, data: {a: y}}",
        &[
            "immutable: Forbidden: field is immutable when `immutable` is set",
            "data: Forbidden: field is immutable when `immutable` is set",
        ],
    );
    assert_eq!(cells(&ConfigMaps, "{metadata: {name: c}, data: {a: x}, binaryData: {d: AA==}}")[0], 2);
}

#[test]
fn secrets_keep_the_promises_of_their_types() {
    let (secret, errors) =
        create(&Secrets, "{metadata: {name: s}, data: {a: AA==}, stringData: {b: hi, a: x}}");
    assert_eq!(errors, [] as [&str; 0]);
    assert_eq!(at(&secret, "/data"), json!({"a": "eA==", "b": "aGk="}));
    assert_eq!(at(&secret, "/stringData"), Value::Null);
    assert_eq!(at(&secret, "/type"), "Opaque");
    for (fields, expected) in [
        ("type: kubernetes.io/tls, stringData: {tls.crt: ''}", &["data[tls.key]: Required value"][..]),
        (
            "type: kubernetes.io/basic-auth",
            &["data[username]: Required value", "data[password]: Required value"],
        ),
        ("type: kubernetes.io/basic-auth, stringData: {username: u}", &[]),
        ("type: kubernetes.io/ssh-auth", &["data[ssh-privatekey]: Required value"]),
        ("type: kubernetes.io/dockerconfigjson", &["data[.dockerconfigjson]: Required value"]),
        (
            "type: kubernetes.io/dockerconfigjson, stringData: {.dockerconfigjson: x}",
            &["data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": expected value…"],
        ),
        (
            "type: kubernetes.io/service-account-token",
            &["metadata.annotations[kubernetes.io/service-account.name]: Required value"],
        ),
    ] {
        check(&Secrets, &format!("{{metadata: {{name: s}}, {fields}}}"), expected);
    }
    check_update(
        &Secrets,
        "{metadata: {name: s}, type: example.com/t}",
        "{metadata: {name: s}}",
        &["type: Invalid value: \"Opaque\": field is immutable"],
    );
    assert_eq!(
        cells(&Secrets, "{metadata: {name: s}, type: t, data: {a: AA==}}")[..2],
        [json!("t"), json!(1)]
    );
}

#[test]
fn endpoints_may_be_on_the_loopback() {
    check(
        &EndpointsKind,
        "{metadata: {name: e}, subsets: [{addresses: [{ip: 127.5.0.1}], ports: [{port: 80}]}]}",
        &[],
    );
    check(
        &EndpointsKind,
        "{metadata: {name: e}, subsets: [{}, {addresses: [{ip: x}], ports: [{port: 0}, {port: 1, protocol: X}]}]}",
        &[
            "subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`",
            "subsets[1].addresses[0].ip: Invalid value: \"x\": must be a valid IP address…",
            "subsets[1].ports[0].name: Required value",
            "subsets[1].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            "subsets[1].ports[1].name: Required value",
            "subsets[1].ports[1].protocol: Unsupported value: \"X\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
        ],
    );
    for (subsets, expected) in [
        ("[]", "<none>"),
        ("[{addresses: [{ip: 10.0.0.1}]}]", "10.0.0.1"),
        (
            "[{addresses: [{ip: 10.0.0.1}, {ip: '::1'}], ports: [{port: 80}, {port: 81}]}]",
            "10.0.0.1:80,[::1]:80,10.0.0.1:81 + 1 more...",
        ),
    ] {
        assert_eq!(
            cells(&EndpointsKind, &format!("{{metadata: {{name: e}}, subsets: {subsets}}}"))[0],
            expected
        );
    }
}

#[test]
fn slices_hold_addresses_of_one_type() {
    let slice = |fields: &str| format!("{{metadata: {{name: s}}, {fields}}}");
    check(
        &EndpointSlices,
        &slice("addressType: IPv4, endpoints: [{addresses: [127.5.0.1]}], ports: [{port: 80}]"),
        &[],
    );
    for (fields, expected) in [
        ("endpoints: []", &["addressType: Required value"][..]),
        (
            "addressType: Ring",
            &["addressType: Unsupported value: \"Ring\": supported values: \"FQDN\", \"IPv4\", \"IPv6\""],
        ),
        (
            "addressType: IPv4, endpoints: [{addresses: []}, {addresses: ['::1']}]",
            &[
                "endpoints[0].addresses: Required value: must contain at least 1 address",
                "endpoints[1].addresses[0]: Invalid value: \"::1\": must be an IPv4 address",
            ],
        ),
        (
            "addressType: IPv4, ports: [{name: a, port: 1}, {name: a, port: 0}]",
            &[
                "ports[1].name: Duplicate value: \"a\"",
                "ports[1].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ],
        ),
    ] {
        check(&EndpointSlices, &slice(fields), expected);
    }
    check_update(
        &EndpointSlices,
        &slice("addressType: IPv4"),
        &slice("addressType: IPv6"),
        &["addressType: Invalid value: \"IPv6\": field is immutable"],
    );
    let row = cells(
        &EndpointSlices,
        &slice(
            "addressType: IPv4, ports: [{port: 80}, {name: x}], endpoints: [{addresses: [a, b]}, {addresses: [c, d]}]",
        ),
    );
    assert_eq!(row[..3], [json!("IPv4"), json!("80,x"), json!("a,b,c + 1 more...")]);
    assert_eq!(
        cells(&EndpointSlices, &slice("addressType: IPv4"))[1..3],
        [json!("<unset>"), json!("<unset>")]
    );
}

#[test]
fn events_live_beside_what_they_are_about() {
    let event = |namespace: &str, of: &str| {
        format!(
            "{{metadata: {{name: e, namespace: '{namespace}'}}, involvedObject: {{kind: Pod, name: p, namespace: '{of}'}}}}"
        )
    };
    check(&Events, &event("shop", "shop"), &[]);
    check(&Events, &event("default", ""), &[]);
    let expected = &["involvedObject.namespace: Invalid value: \"\": does not match event.namespace"];
    check(&Events, &event("shop", ""), expected);
}

#[test]
fn events_show_when_what_and_how_often() {
    let row = |fields: &str| {
        let yaml = format!(
            "{{metadata: {{name: e}}, involvedObject: {{kind: Pod, name: p, fieldPath: spec}}, {fields}}}"
        );
        Events.row(&testing::decode::<Events>(&yaml), testing::now())
    };
    let old = row(
        "firstTimestamp: '2025-12-31T23:50:00Z', lastTimestamp: '2025-12-31T23:59:58Z', count: 7, type: Normal, reason: R, message: ' m ', source: {component: c, host: h}",
    );
    assert_eq!(
        old,
        [
            json!("2s"),
            json!("Normal"),
            json!("R"),
            json!("pod/p"),
            json!("spec"),
            json!("c, h"),
            json!("m"),
            json!("10m"),
            json!(7),
            json!("e")
        ]
    );
    let new = row("eventTime: '2025-12-31T23:59:00.000000Z', reportingComponent: r, reportingInstance: ''");
    assert_eq!((&new[0], &new[5], &new[7], &new[8]), (&json!("60s"), &json!("r"), &json!("60s"), &json!(1)));
    let series = row("series: {count: 3, lastObservedTime: '2025-12-31T23:59:55.000000Z'}");
    assert_eq!((&series[0], &series[8]), (&json!("5s"), &json!(3)));
    let event =
        testing::decode::<Events>("{metadata: {name: e}, involvedObject: {uid: u}, reportingComponent: r}");
    assert_eq!(
        (Events.field(&event, "involvedObject.uid"), Events.field(&event, "source")),
        ("u".into(), "r".into())
    );
}

#[test]
fn leases_last_and_revisions_do_not_change() {
    check(&Leases, "{metadata: {name: l}, spec: {leaseDurationSeconds: 40, holderIdentity: n}}", &[]);
    check(
        &Leases,
        "{metadata: {name: l}, spec: {leaseDurationSeconds: 0, leaseTransitions: -1}}",
        &[
            "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
            "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0",
        ],
    );
    let revision = |data: &str| format!("{{metadata: {{name: r}}, revision: 1, data: {data}}}");
    check(
        &ControllerRevisions,
        "{metadata: {name: r}, revision: -1}",
        &[
            "data: Required value: data is mandatory",
            "revision: Invalid value: -1: must be greater than or equal to 0",
        ],
    );
    check_update(
        &ControllerRevisions,
        &revision("{a: 1}"),
        &revision("{a: 2}"),
        &["data: Invalid value: {\"a\":2}: field is immutable"],
    );
    let owned = "{metadata: {name: r, ownerReferences: [{apiVersion: apps/v1, kind: DaemonSet, name: d, controller: true, uid: u}]}, revision: 2, data: {}}";
    assert_eq!(cells(&ControllerRevisions, owned)[..2], [json!("daemonset.apps/d"), json!(2)]);
}
