use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::Pods;
use crate::registry::{
    Kind,
    testing::{self, at},
};

const BASE: &str = "
metadata: {name: p, namespace: d, creationTimestamp: '2025-12-31T23:59:00Z'}
spec:
  containers: [{name: a, image: 'i:1'}]
  initContainers: [{name: b, image: 'i:1'}]
  tolerations: [{key: k, operator: Exists}]
";

fn stored(yaml: &str) -> Pod {
    let (pod, errors) = testing::create(&Pods, yaml);
    assert_eq!(errors, [] as [&str; 0]);
    pod
}

/// Updates the base pod by a change to its JSON.
fn check_update(change: impl FnOnce(&mut Value), expected: &[&str]) {
    check_update_of(BASE, change, expected);
}

fn check_update_of(base: &str, change: impl FnOnce(&mut Value), expected: &[&str]) {
    let old = stored(base);
    let mut value = serde_json::to_value(&old).expect("a pod");
    change(&mut value);
    let new = serde_json::from_value(value.clone()).expect("a pod");
    let (_, errors) = testing::update_object(&Pods, &old, new);
    testing::assert_errors(&errors, expected, &value.to_string());
}

const FROZEN: &str = "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,\
    `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
    tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n";

#[test]
fn a_new_pod_is_pending_and_has_a_quality_of_service() {
    for (resources, expected) in [
        ("{}", "BestEffort"),
        ("{requests: {cpu: 1}}", "Burstable"),
        ("{limits: {cpu: 1}}", "Burstable"),
        ("{limits: {cpu: 1, memory: 1Gi}}", "Guaranteed"),
        ("{limits: {cpu: 1, memory: 1Gi}, requests: {cpu: 500m}}", "Burstable"),
    ] {
        let pod = stored(&format!(
            "{{metadata: {{name: p}}, status: {{phase: Running}}, spec: {{containers: [{{name: a, image: i, resources: {resources}}}]}}}}"
        ));
        assert_eq!(at(&pod, "/status"), json!({"phase": "Pending", "qosClass": expected}), "{resources}");
    }
}

#[test]
fn a_gated_pod_says_so_from_the_start() {
    let pod = stored(
        "{metadata: {name: p}, spec: {schedulingGates: [{name: g}], containers: [{name: a, image: i}]}}",
    );
    assert_eq!(at(&pod, "/status/conditions/0/reason"), "SchedulingGated");
    assert_eq!(Pods.row(&pod, testing::now())[2], "SchedulingGated");
}

#[test]
fn match_label_keys_become_expressions_over_the_pods_own_labels() {
    let pod = stored(
        "{metadata: {name: p, labels: {v: '1'}}, spec: {containers: [{name: a, image: i}],
          topologySpreadConstraints: [{maxSkew: 1, topologyKey: z, whenUnsatisfiable: DoNotSchedule,
            matchLabelKeys: [v, absent], labelSelector: {matchLabels: {app: x}}}],
          affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [
            {topologyKey: z, mismatchLabelKeys: [v], labelSelector: {}}]}}}}",
    );
    assert_eq!(
        at(&pod, "/spec/topologySpreadConstraints/0/labelSelector/matchExpressions"),
        json!([{"key": "v", "operator": "In", "values": ["1"]}])
    );
    let term = "/spec/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution/0";
    assert_eq!(
        at(&pod, &format!("{term}/labelSelector/matchExpressions")),
        json!([{"key": "v", "operator": "NotIn", "values": ["1"]}])
    );
}

#[test]
fn images_deadlines_and_more_tolerations_may_change() {
    check_update(|_| (), &[]);
    check_update(|pod| pod["spec"]["containers"][0]["image"] = json!("i:2"), &[]);
    check_update(|pod| pod["spec"]["initContainers"][0]["image"] = json!("i:2"), &[]);
    check_update(|pod| pod["spec"]["activeDeadlineSeconds"] = json!(5), &[]);
    check_update(
        |pod| {
            pod["spec"]["tolerations"] =
                json!([{"key": "k", "operator": "Exists"}, {"key": "l", "operator": "Exists"}]);
        },
        &[],
    );
    check_update(|pod| pod["metadata"]["labels"] = json!({"a": "b"}), &[]);
    check_update(|pod| pod["spec"]["containers"][0]["stdin"] = json!(false), &[]);
}

#[test]
fn everything_else_is_frozen() {
    check_update(
        |pod| pod["spec"]["containers"][0]["command"] = json!(["x"]),
        &[&format!("{FROZEN}+ spec.containers[0].command: [\"x\"]\n")],
    );
    check_update(
        |pod| pod["spec"]["restartPolicy"] = json!("Never"),
        &[&format!("{FROZEN}- spec.restartPolicy: \"Always\"\n+ spec.restartPolicy: \"Never\"\n")],
    );
    check_update(
        |pod| pod["spec"]["automountServiceAccountToken"] = json!(false),
        &[&format!("{FROZEN}+ spec.automountServiceAccountToken: false\n")],
    );
    check_update(
        |pod| {
            pod["spec"]["containers"] = json!([{"name": "a", "image": "i:1"}, {"name": "c", "image": "i:1"}]);
        },
        &["spec.containers: Forbidden: pod updates may not add or remove containers"],
    );
    check_update(
        |pod| pod["spec"]["containers"][0]["image"] = json!(""),
        &["spec.containers[0].image: Required value"],
    );
    check_update(
        |pod| pod["spec"]["tolerations"] = json!([]),
        &[
            "spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds",
        ],
    );
    check_update(
        |pod| pod["spec"]["schedulingGates"] = json!([{"name": "g"}]),
        &[
            "spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'g'",
        ],
    );
}

#[test]
fn a_deadline_only_comes_nearer() {
    let base = "{metadata: {name: p}, spec: {activeDeadlineSeconds: 10, containers: [{name: a, image: i}]}}";
    let check = |value: Value, expected: &[&str]| {
        check_update_of(base, |pod| pod["spec"]["activeDeadlineSeconds"] = value, expected);
    };
    check(json!(5), &[]);
    check(
        json!(11),
        &["spec.activeDeadlineSeconds: Invalid value: 11: must be less than or equal to previous value"],
    );
    check(
        Value::Null,
        &[
            "spec.activeDeadlineSeconds: Invalid value: null: must not update from a positive integer to nil value",
        ],
    );
}

#[test]
fn a_negative_grace_period_may_be_mended() {
    let base =
        "{metadata: {name: p}, spec: {terminationGracePeriodSeconds: -5, containers: [{name: a, image: i}]}}";
    check_update_of(base, |pod| pod["spec"]["terminationGracePeriodSeconds"] = json!(1), &[]);
    check_update_of(
        base,
        |pod| pod["spec"]["terminationGracePeriodSeconds"] = json!(2),
        &[&format!(
            "{FROZEN}- spec.terminationGracePeriodSeconds: -5\n+ spec.terminationGracePeriodSeconds: 2\n"
        )],
    );
}

#[test]
fn a_gated_pod_may_be_narrowed_to_fewer_nodes() {
    let base = "{metadata: {name: p}, spec: {schedulingGates: [{name: g}], nodeSelector: {a: b}, containers: [{name: a, image: i}]}}";
    check_update_of(base, |pod| pod["spec"]["schedulingGates"] = json!([]), &[]);
    check_update_of(base, |pod| pod["spec"]["nodeSelector"]["c"] = json!("d"), &[]);
    check_update_of(
        base,
        |pod| pod["spec"]["nodeSelector"] = json!({}),
        &[
            "spec.nodeSelector: Invalid value: {}: only additions to spec.nodeSelector are allowed (no mutations or deletions)",
        ],
    );
    let term = json!({"nodeSelectorTerms": [{"matchExpressions": [{"key": "k", "operator": "Exists"}]}]});
    check_update_of(
        base,
        |pod| {
            pod["spec"]["affinity"] =
                json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}});
        },
        &[],
    );
}

#[test]
fn annotations_that_say_what_a_pod_is_are_checked() {
    let with = |annotation: &str| {
        format!(
            "{{metadata: {{name: p, annotations: {{{annotation}}}}}, spec: {{containers: [{{name: a, image: i}}]}}}}"
        )
    };
    testing::check(
        &Pods,
        &with("controller.kubernetes.io/pod-deletion-cost: '+1'"),
        &[
            "metadata.annotations[controller.kubernetes.io/pod-deletion-cost]: Invalid value: \"+1\": must be a 32bit integer",
        ],
    );
    testing::check(&Pods, &with("controller.kubernetes.io/pod-deletion-cost: '-1'"), &[]);
    testing::check(
        &Pods,
        &with("kubernetes.io/config.mirror: x"),
        &[
            "metadata.annotations[kubernetes.io/config.mirror]: Invalid value: \"x\": must set spec.nodeName if mirror pod annotation is set",
        ],
    );
    check_update(
        |pod| {
            pod["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
            pod["spec"]["nodeName"] = json!("n");
        },
        &[
            "metadata.annotations[kubernetes.io/config.mirror]: Forbidden: may not add mirror pod annotation",
            &format!("{FROZEN}+ spec.nodeName: \"n\"\n"),
        ],
    );
}

fn check_status(old: &str, new: &str, expected: &[&str]) {
    let mut base =
        stored("{metadata: {name: p}, spec: {restartPolicy: Never, containers: [{name: a, image: i}]}}");
    let mut changed = base.clone();
    base.status = Some(serde_yaml::from_str(old).expect("a status"));
    changed.status = Some(serde_yaml::from_str(new).expect("a status"));
    let (_, errors) = testing::update_status(&Pods, &base, changed);
    testing::assert_errors(&errors, expected, new);
}

#[test]
fn a_status_does_not_revive_what_has_ended() {
    let ended = "{containerStatuses: [{name: a, state: {terminated: {exitCode: 1}}}]}";
    check_status(ended, ended, &[]);
    check_status(
        ended,
        "{containerStatuses: [{name: a, state: {running: {}}}]}",
        &["status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"],
    );
}

#[test]
fn a_status_has_sound_addresses_and_keeps_its_class() {
    check_status(
        "{qosClass: Burstable}",
        "{podIPs: [{ip: 10.0.0.1}, {ip: '::1'}], hostIP: 1.1.1.1, hostIPs: [{ip: 1.1.1.1}]}",
        &[],
    );
    check_status(
        "{qosClass: Burstable}",
        "{qosClass: BestEffort}",
        &["status.qosClass: Invalid value: \"BestEffort\": field is immutable"],
    );
    check_status(
        "{}",
        "{podIPs: [{ip: x}]}",
        &["status.podIPs[0]: Invalid value: \"x\": must be a valid IP address…"],
    );
    check_status(
        "{}",
        "{podIPs: [{ip: 10.0.0.1}, {ip: 10.0.0.2}]}",
        &[
            "status.podIPs: Invalid value: [{\"ip\":\"10.0.0.1\"},{\"ip\":\"10.0.0.2\"}]: may specify no more than one IP for each IP family",
        ],
    );
    check_status(
        "{}",
        "{hostIPs: [{ip: 1.1.1.1}]}",
        &["status.hostIPs[0].ip: Invalid value: \"1.1.1.1\": must be equal to `hostIP`"],
    );
}

#[test]
fn both_fields_of_the_address_agree() {
    for status in ["{podIP: 10.0.0.1}", "{podIPs: [{ip: 10.0.0.1}]}"] {
        let mut pod = testing::decode::<Pods>(&format!("{{metadata: {{name: p}}, status: {status}}}"));
        Pods.default(&mut pod);
        assert_eq!(at(&pod, "/status"), json!({"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]}));
    }
}

#[test]
fn the_grace_period_is_for_running_pods() {
    for (fields, requested, expected) in [
        ("spec: {nodeName: n, terminationGracePeriodSeconds: 30}", None, 30),
        ("spec: {nodeName: n, terminationGracePeriodSeconds: 30}", Some(5), 5),
        ("spec: {nodeName: n, terminationGracePeriodSeconds: 30}", Some(0), 0),
        ("spec: {nodeName: n, terminationGracePeriodSeconds: -7}", None, 1),
        ("spec: {terminationGracePeriodSeconds: 30}", Some(5), 0),
        ("spec: {nodeName: n, terminationGracePeriodSeconds: 30}, status: {phase: Succeeded}", None, 0),
    ] {
        let pod = testing::decode::<Pods>(&format!("{{metadata: {{name: p}}, {fields}}}"));
        assert_eq!(Pods.grace_period_seconds(&pod, requested), Some(expected), "{fields} {requested:?}");
    }
}

#[test]
fn fields_can_be_selected_by() {
    let pod = testing::decode::<Pods>(
        "{metadata: {name: p}, spec: {nodeName: n, hostNetwork: true}, status: {phase: Running, podIP: 10.0.0.1}}",
    );
    for (name, expected) in [
        ("spec.nodeName", "n"),
        ("spec.hostNetwork", "true"),
        ("status.phase", "Running"),
        ("status.podIP", "10.0.0.1"),
        ("status.nominatedNodeName", ""),
    ] {
        assert!(Pods.field_names().contains(&name), "{name}");
        assert_eq!(Pods.field(&pod, name), expected, "{name}");
    }
}

/// The cells ready, status and restarts of a pod with the given further fields and status.
fn check_row(fields: &str, status: &str, expected: [&str; 3]) {
    let yaml = format!(
        "{{metadata: {{name: p, creationTimestamp: '2025-12-31T23:59:00Z' {}}}, spec: {{containers: [{{name: a}}, {{name: b}}], initContainers: [{{name: i}}, {{name: s, restartPolicy: Always}}]}}, status: {status}}}",
        if fields.is_empty() { String::new() } else { format!(", {fields}") }
    );
    let row = Pods.row(&testing::decode::<Pods>(&yaml), testing::now());
    assert_eq!(row.len(), Pods.columns().len());
    assert_eq!(row[4], "60s");
    assert_eq!([&row[1], &row[2], &row[3]], expected, "{status}");
}

#[test]
fn the_status_column_tells_what_goes_on() {
    const STARTED: &str = "initContainerStatuses: [{name: i, state: {terminated: {exitCode: 0}}}, {name: s, started: true, ready: true, state: {running: {}}}]";
    for (fields, status, expected) in [
        ("", "{phase: Pending}".to_owned(), ["0/3", "Pending", "0"]),
        ("", "{phase: Failed, reason: Evicted}".into(), ["0/3", "Evicted", "0"]),
        (
            "",
            "{phase: Pending, initContainerStatuses: [{name: i, state: {waiting: {reason: PodInitializing}}}]}".into(),
            ["0/3", "Init:0/2", "0"],
        ),
        (
            "",
            "{phase: Pending, initContainerStatuses: [{name: i, restartCount: 3, state: {waiting: {reason: CrashLoopBackOff}}, lastState: {terminated: {exitCode: 1, finishedAt: '2025-12-31T23:55:00Z'}}}]}".into(),
            ["0/3", "Init:CrashLoopBackOff", "3 (5m ago)"],
        ),
        (
            "",
            "{phase: Pending, initContainerStatuses: [{name: i, state: {terminated: {exitCode: 2}}}]}".into(),
            ["0/3", "Init:ExitCode:2", "0"],
        ),
        (
            "",
            "{phase: Pending, initContainerStatuses: [{name: i, state: {terminated: {exitCode: 137, signal: 9}}}]}".into(),
            ["0/3", "Init:Signal:9", "0"],
        ),
        (
            "",
            "{phase: Pending, initContainerStatuses: [{name: i, state: {terminated: {exitCode: 2, reason: Error}}}]}".into(),
            ["0/3", "Init:Error", "0"],
        ),
        (
            "",
            format!("{{phase: Pending, {STARTED}, containerStatuses: [{{name: a, state: {{waiting: {{reason: PodInitializing}}}}}}, {{name: b, state: {{waiting: {{reason: ImagePullBackOff}}}}}}]}}"),
            ["1/3", "PodInitializing", "0"],
        ),
        (
            "",
            format!("{{phase: Running, {STARTED}, containerStatuses: [{{name: a, ready: true, state: {{running: {{}}}}, restartCount: 2, lastState: {{terminated: {{exitCode: 1, finishedAt: '2025-12-31T23:59:50Z'}}}}}}, {{name: b, ready: true, state: {{running: {{}}}}}}]}}"),
            ["3/3", "Running", "2 (10s ago)"],
        ),
        (
            "",
            format!("{{phase: Running, {STARTED}, containerStatuses: [{{name: a, state: {{terminated: {{exitCode: 0, reason: Completed}}}}}}, {{name: b, ready: true, state: {{running: {{}}}}}}]}}"),
            ["2/3", "NotReady", "0"],
        ),
        (
            "",
            format!("{{phase: Running, conditions: [{{type: Ready, status: 'True'}}], {STARTED}, containerStatuses: [{{name: a, state: {{terminated: {{exitCode: 0, reason: Completed}}}}}}, {{name: b, ready: true, state: {{running: {{}}}}}}]}}"),
            ["2/3", "Running", "0"],
        ),
        (
            "",
            format!("{{phase: Failed, {STARTED}, containerStatuses: [{{name: a, state: {{terminated: {{exitCode: 3}}}}}}]}}"),
            ["1/3", "ExitCode:3", "0"],
        ),
        (
            "",
            format!("{{phase: Failed, {STARTED}, containerStatuses: [{{name: a, state: {{terminated: {{signal: 9}}}}}}]}}"),
            ["1/3", "Signal:9", "0"],
        ),
        ("deletionTimestamp: '2026-01-01T00:00:00Z'", "{phase: Running}".into(), ["0/3", "Terminating", "0"]),
        ("deletionTimestamp: '2026-01-01T00:00:00Z'", "{phase: Running, reason: NodeLost}".into(), ["0/3", "Unknown", "0"]),
        ("deletionTimestamp: '2026-01-01T00:00:00Z'", "{phase: Succeeded}".into(), ["0/3", "Succeeded", "0"]),
    ] {
        check_row(fields, &status, expected);
    }
}

#[test]
fn wide_columns_show_addresses_nodes_and_gates() {
    let pod = testing::decode::<Pods>(
        "{metadata: {name: p}, spec: {nodeName: n, readinessGates: [{conditionType: x}, {conditionType: y}]},
          status: {podIP: 10.0.0.1, conditions: [{type: x, status: 'True'}]}}",
    );
    let row = Pods.row(&pod, testing::now());
    assert_eq!(row[5..], [json!("10.0.0.1"), json!("n"), json!("<none>"), json!("1/2")]);
    let names: Vec<_> = Pods.columns().iter().map(|column| (column.name, column.priority)).collect();
    assert_eq!(
        names,
        [
            ("Name", 0),
            ("Ready", 0),
            ("Status", 0),
            ("Restarts", 0),
            ("Age", 0),
            ("IP", 1),
            ("Node", 1),
            ("Nominated Node", 1),
            ("Readiness Gates", 1)
        ]
    );
}
