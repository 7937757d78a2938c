use super::pod;
use crate::registry::{Kind, pod::Pods, testing};

fn check(spec: &str, expected: &[&str]) {
    let (object, errors) = testing::create(&Pods, &pod(spec));
    assert_eq!(errors, [] as [&str; 0]);
    assert_eq!(Pods.warnings(&object), expected, "{spec}");
}

#[test]
fn an_ordinary_pod_is_not_warned_of() {
    check(
        "  containers: [{name: a, image: i, ports: [{containerPort: 80}], env: [{name: A, value: b}]}]",
        &[],
    );
}

#[test]
fn what_is_likely_not_meant_is_warned_of() {
    check(
        "  nodeSelector: {beta.kubernetes.io/os: linux}\n  containers: [{name: a, image: i}]",
        &[
            "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
        ],
    );
    check(
        "  containers: [{name: a, image: i, env: [{name: A, value: a}, {name: A, value: b}]}]",
        &[
            "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
        ],
    );
    check("  containers: [{name: a, image: i, env: [{name: A, value: a}, {name: A, value: $(A)b}]}]", &[]);
    check(
        "  containers: [{name: a, image: i, ports: [{containerPort: 80}, {containerPort: 80}]}]",
        &["spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]"],
    );
    check(
        "  containers: [{name: a, image: i, resources: {limits: {memory: 100m}}}]",
        &[
            "spec.containers[0].resources.limits[memory]: fractional byte value \"100m\" is invalid, must be an integer",
            "spec.containers[0].resources.requests[memory]: fractional byte value \"100m\" is invalid, must be an integer",
        ],
    );
    check(
        "  imagePullSecrets: [{name: s}, {name: s}]\n  containers: [{name: a, image: i}]",
        &["spec.imagePullSecrets[1].name: duplicate name \"s\""],
    );
}
