use serde_json::{Value, json};

use super::pod;
use crate::registry::{
    Kind, deployment::Deployments, pod::Pods, podspec::defaults::pull_policy_for, testing,
};

/// Compares fields of a defaulted pod with one container.
fn check(container: &str, spec: &str, expected: &[(&str, Value)]) {
    let mut object = testing::decode::<Pods>(&pod(&format!(
        "  containers: [{{name: a, image: i, {container}}}]\n  {spec}"
    )));
    Pods.default(&mut object);
    for (pointer, value) in expected {
        assert_eq!(testing::at(&object, pointer), *value, "{pointer} of {container} {spec}");
    }
    let mut again = object.clone();
    Pods.default(&mut again);
    assert_eq!(again, object, "defaulting is idempotent");
}

#[test]
fn a_bare_pod_is_completed() {
    check(
        "",
        "",
        &[
            ("/spec/restartPolicy", json!("Always")),
            ("/spec/dnsPolicy", json!("ClusterFirst")),
            ("/spec/terminationGracePeriodSeconds", json!(30)),
            ("/spec/securityContext", json!({})),
            ("/spec/schedulerName", json!("default-scheduler")),
            ("/spec/enableServiceLinks", json!(true)),
            ("/spec/containers/0/imagePullPolicy", json!("Always")),
            ("/spec/containers/0/terminationMessagePath", json!("/dev/termination-log")),
            ("/spec/containers/0/terminationMessagePolicy", json!("File")),
            ("/spec/containers/0/resources", json!({})),
        ],
    );
}

#[test]
fn what_is_set_stays() {
    check(
        "imagePullPolicy: Never",
        "restartPolicy: Never\n  terminationGracePeriodSeconds: 0",
        &[
            ("/spec/restartPolicy", json!("Never")),
            ("/spec/terminationGracePeriodSeconds", json!(0)),
            ("/spec/containers/0/imagePullPolicy", json!("Never")),
        ],
    );
}

#[test]
fn only_latest_is_always_pulled() {
    for (image, expected) in [
        ("hello", "Always"),
        ("hello:latest", "Always"),
        ("localhost:5000/hello", "Always"),
        ("localhost:5000/hello:v1", "IfNotPresent"),
        ("hello:v1", "IfNotPresent"),
        ("hello@sha256:00", "IfNotPresent"),
        ("hello:latest@sha256:00", "Always"),
        ("", "IfNotPresent"),
    ] {
        assert_eq!(pull_policy_for(image), expected, "{image}");
    }
}

#[test]
fn probes_ports_and_references_are_completed() {
    check(
        "ports: [{containerPort: 80}], livenessProbe: {httpGet: {port: 80}}, env: [{name: A, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]",
        "",
        &[
            ("/spec/containers/0/ports/0/protocol", json!("TCP")),
            ("/spec/containers/0/livenessProbe/timeoutSeconds", json!(1)),
            ("/spec/containers/0/livenessProbe/periodSeconds", json!(10)),
            ("/spec/containers/0/livenessProbe/successThreshold", json!(1)),
            ("/spec/containers/0/livenessProbe/failureThreshold", json!(3)),
            ("/spec/containers/0/livenessProbe/httpGet", json!({"path": "/", "port": 80, "scheme": "HTTP"})),
            ("/spec/containers/0/env/0/valueFrom/fieldRef/apiVersion", json!("v1")),
        ],
    );
}

#[test]
fn requests_follow_limits_and_quantities_are_canonical() {
    check(
        "resources: {limits: {cpu: 1000m, memory: 1024Mi}, requests: {cpu: '0.5'}}",
        "",
        &[
            ("/spec/containers/0/resources/limits", json!({"cpu": "1", "memory": "1Gi"})),
            ("/spec/containers/0/resources/requests", json!({"cpu": "500m", "memory": "1Gi"})),
        ],
    );
}

#[test]
fn pod_level_resources_are_completed_from_the_containers() {
    for (container, pod, expected) in [
        (
            "{requests: {cpu: 1}}",
            "{limits: {cpu: 2, memory: 1Gi}}",
            json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "1Gi"}}),
        ),
        (
            "{limits: {cpu: 1}}",
            "{requests: {cpu: 1}}",
            json!({"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}),
        ),
        ("{}", "{requests: {cpu: 1}}", json!({"requests": {"cpu": "1"}})),
    ] {
        check(
            &format!("resources: {container}"),
            &format!("resources: {pod}"),
            &[("/spec/resources", expected)],
        );
    }
}

#[test]
fn volumes_are_completed() {
    for (source, pointer, expected) in [
        ("", "/spec/volumes/0/emptyDir", json!({})),
        ("secret: {secretName: s}", "/spec/volumes/0/secret/defaultMode", json!(420)),
        ("configMap: {name: c}", "/spec/volumes/0/configMap/defaultMode", json!(420)),
        ("hostPath: {path: /x}", "/spec/volumes/0/hostPath/type", json!("")),
        (
            "projected: {sources: [{serviceAccountToken: {path: t}}]}",
            "/spec/volumes/0/projected",
            json!({"defaultMode": 420, "sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 3600}}]}),
        ),
        (
            "downwardAPI: {items: [{path: l, fieldRef: {fieldPath: metadata.labels}}]}",
            "/spec/volumes/0/downwardAPI/items/0/fieldRef/apiVersion",
            json!("v1"),
        ),
        ("image: {reference: 'a:v1'}", "/spec/volumes/0/image/pullPolicy", json!("IfNotPresent")),
        ("rbd: {monitors: [m], image: i}", "/spec/volumes/0/rbd/pool", json!("rbd")),
    ] {
        check("", &format!("volumes: [{{name: v, {source}}}]"), &[(pointer, expected)]);
    }
}

#[test]
fn the_host_network_opens_host_ports() {
    check(
        "ports: [{containerPort: 80}]",
        "hostNetwork: true",
        &[("/spec/containers/0/ports/0/hostPort", json!(80))],
    );
}

#[test]
fn both_names_of_the_service_account_agree() {
    for spec in
        ["serviceAccount: sa", "serviceAccountName: sa", "serviceAccountName: sa\n  serviceAccount: other"]
    {
        check("", spec, &[("/spec/serviceAccount", json!("sa")), ("/spec/serviceAccountName", json!("sa"))]);
    }
}

#[test]
fn templates_leave_open_what_pods_decide() {
    let mut object = testing::decode::<Deployments>(
        "{metadata: {name: d}, spec: {template: {spec: {hostNetwork: true, containers: [{name: a, image: i, ports: [{containerPort: 80}], resources: {limits: {cpu: 1}}}]}}}}",
    );
    Deployments.default(&mut object);
    let template = "/spec/template/spec";
    assert_eq!(testing::at(&object, &format!("{template}/restartPolicy")), json!("Always"));
    for absent in ["enableServiceLinks", "containers/0/resources/requests", "containers/0/ports/0/hostPort"] {
        assert_eq!(testing::at(&object, &format!("{template}/{absent}")), Value::Null, "{absent}");
    }
}
