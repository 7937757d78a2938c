use serde_json::{Value, json};

use super::apply_strategic;
use crate::patch::{PatchError, merge_keys::type_name};

fn patched(kind: &str, document: &Value, patch: &Value) -> Result<Value, String> {
    let group = if matches!(kind, "Deployment" | "ReplicaSet" | "StatefulSet") { "apps" } else { "" };
    let mut document = document.clone();
    apply_strategic(&mut document, patch, &type_name(group, "v1", kind))
        .map_err(|error| error.to_string())?;
    Ok(document)
}

fn check(kind: &str, document: Value, patch: Value, expected: Value) {
    assert_eq!(patched(kind, &document, &patch), Ok(expected), "{document} with {patch}");
}

/// The same for a pod with these containers.
fn containers(document: Value, patch: Value, expected: Value) {
    let pod = |containers: Value| json!({"spec": {"containers": containers}});
    check("Pod", pod(document), pod(patch), pod(expected));
}

fn fails(kind: &str, document: Value, patch: Value, expected: &str) {
    let error = patched(kind, &document, &patch).expect_err("it fails");
    assert!(error.starts_with(expected), "{error}");
}

#[test]
fn maps_merge_and_null_deletes() {
    check(
        "ConfigMap",
        json!({"data": {"a": "1", "b": "2"}, "immutable": true}),
        json!({"data": {"a": "9", "b": null, "c": "3", "d": null}, "immutable": null, "other": {"x": null, "y": 1}}),
        json!({"data": {"a": "9", "c": "3"}, "other": {"y": 1}}),
    );
}

#[test]
fn lists_without_a_strategy_are_replaced() {
    containers(
        json!([{"name": "a", "args": ["x", "y"]}]),
        json!([{"name": "a", "args": ["z"]}]),
        json!([{"name": "a", "args": ["z"]}]),
    );
    check(
        "Pod",
        json!({"spec": {"tolerations": [{"key": "a"}, {"key": "b"}]}}),
        json!({"spec": {"tolerations": [{"key": "c"}]}}),
        json!({"spec": {"tolerations": [{"key": "c"}]}}),
    );
}

#[test]
fn lists_of_maps_merge_by_their_key() {
    containers(
        json!([{"name": "a", "image": "a:1", "env": [{"name": "X", "value": "1"}]}, {"name": "b", "image": "b:1"}]),
        json!([{"name": "a", "image": "a:2", "env": [{"name": "Y", "value": "2"}]}]),
        json!([{"name": "a", "image": "a:2", "env": [{"name": "Y", "value": "2"}, {"name": "X", "value": "1"}]}, {"name": "b", "image": "b:1"}]),
    );
    // Without an order, what is new comes first, as Kubernetes has it.
    containers(
        json!([{"name": "a"}, {"name": "b"}]),
        json!([{"name": "c"}]),
        json!([{"name": "c"}, {"name": "a"}, {"name": "b"}]),
    );
}

#[test]
fn ports_merge_by_number() {
    check(
        "Service",
        json!({"spec": {"ports": [{"port": 80, "targetPort": 8080, "name": "http"}, {"port": 443}]}}),
        json!({"spec": {"ports": [{"port": 80, "targetPort": 9090}]}}),
        json!({"spec": {"ports": [{"port": 80, "targetPort": 9090, "name": "http"}, {"port": 443}]}}),
    );
}

#[test]
fn items_are_deleted_by_directive() {
    containers(
        json!([{"name": "a"}, {"name": "b"}, {"name": "c"}]),
        json!([{"name": "b", "$patch": "delete"}, {"name": "none", "$patch": "delete"}]),
        json!([{"name": "a"}, {"name": "c"}]),
    );
    containers(
        json!([{"name": "a", "env": [{"name": "X", "value": "1"}]}]),
        json!([{"name": "a", "env": [{"name": "X", "$patch": "delete"}]}]),
        json!([{"name": "a", "env": []}]),
    );
}

#[test]
fn lists_and_maps_are_replaced_by_directive() {
    containers(
        json!([{"name": "a", "image": "a:1"}, {"name": "b"}]),
        json!([{"name": "a", "tty": true}, {"$patch": "replace"}]),
        json!([{"name": "a", "tty": true}]),
    );
    check(
        "Pod",
        json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
        json!({"metadata": {"labels": {"$patch": "replace", "c": "3"}}}),
        json!({"metadata": {"labels": {"c": "3"}}}),
    );
    check(
        "Pod",
        json!({"metadata": {"labels": {"a": "1"}, "name": "x"}}),
        json!({"metadata": {"labels": {"$patch": "delete"}}}),
        json!({"metadata": {"labels": {}, "name": "x"}}),
    );
}

#[test]
fn directives_never_reach_the_document() {
    check(
        "Pod",
        json!({}),
        json!({"spec": {
            "containers": [{"name": "a", "env": [{"name": "X", "$patch": "delete"}]}],
            "$setElementOrder/containers": [{"name": "a"}],
            "volumes": [{"name": "v", "$retainKeys": ["name", "emptyDir"], "emptyDir": {}}],
            "securityContext": {"$patch": "delete"},
        }, "metadata": {"$deleteFromPrimitiveList/finalizers": ["x"], "labels": {"a": null}}}),
        json!({"spec": {"containers": [{"name": "a", "env": []}], "volumes": [{"name": "v", "emptyDir": {}}]}, "metadata": {"labels": {}}}),
    );
}

#[test]
fn the_order_of_elements_is_set() {
    let spec = |containers: &[&str]| {
        let items: Vec<_> = containers.iter().map(|name| json!({"name": name})).collect();
        json!({"spec": {"containers": items}})
    };
    let order = |wanted: &[&str], patch: &[&str]| {
        let mut patch = spec(patch);
        patch["spec"]["$setElementOrder/containers"] = spec(wanted)["spec"]["containers"].clone();
        patch
    };
    check("Pod", spec(&["a", "b"]), order(&["a", "b", "c"], &["c"]), spec(&["a", "b", "c"]));
    check("Pod", spec(&["a", "b"]), order(&["b", "a"], &[]), spec(&["b", "a"]));
    // What only the server has stays where it stood, as far as possible.
    check("Pod", spec(&["a", "s", "b"]), order(&["a", "b", "c"], &["c"]), spec(&["a", "s", "b", "c"]));
    check("Pod", spec(&["s", "a", "b"]), order(&["b", "a"], &[]), spec(&["s", "b", "a"]));
    // Only an order and no list at all: nothing to do.
    check(
        "Pod",
        json!({}),
        json!({"spec": {"$setElementOrder/containers": [{"name": "a"}]}}),
        json!({"spec": {}}),
    );
}

#[test]
fn an_order_that_contradicts_its_list_is_refused() {
    fails(
        "Pod",
        json!({"spec": {"containers": [{"name": "a"}]}}),
        json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}], "$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}}),
        "The order in patch list:",
    );
    fails(
        "Pod",
        json!({"spec": {"containers": [{"name": "a"}]}}),
        json!({"spec": {"containers": [{"name": "b"}], "$setElementOrder/containers": [{"name": "a"}]}}),
        "The order in patch list:",
    );
}

#[test]
fn lists_of_plain_values_merge_as_sets() {
    let finalizers = |list: &[&str]| json!({"metadata": {"finalizers": list}});
    check("Pod", finalizers(&["a", "b"]), finalizers(&["c", "a"]), finalizers(&["c", "a", "b"]));
    check(
        "Pod",
        finalizers(&["a", "b", "c"]),
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a", "x"], "$setElementOrder/finalizers": ["c", "d"], "finalizers": ["d"]}}),
        finalizers(&["b", "c", "d"]),
    );
    check("Pod", finalizers(&["a"]), json!({"metadata": {"finalizers": null}}), json!({"metadata": {}}));
}

#[test]
fn retained_keys_drop_the_others() {
    check(
        "Deployment",
        json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}),
        json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
        json!({"spec": {"strategy": {"type": "Recreate"}}}),
    );
    check(
        "Pod",
        json!({"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/x"}}, {"name": "w", "emptyDir": {}}]}}),
        json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "emptyDir"], "emptyDir": {}, "hostPath": null}]}}),
        json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "emptyDir": {}}]}}),
    );
    fails(
        "Deployment",
        json!({"spec": {"strategy": {}}}),
        json!({"spec": {"strategy": {"$retainKeys": ["type"], "rollingUpdate": {}}}}),
        "invalid patch format of retainKeys",
    );
}

#[test]
fn owners_merge_by_uid() {
    check(
        "Pod",
        json!({"metadata": {"ownerReferences": [{"uid": "1", "name": "a"}, {"uid": "2", "name": "b"}]}}),
        json!({"metadata": {"ownerReferences": [{"$patch": "delete", "uid": "1"}], "uid": "9"}}),
        json!({"metadata": {"ownerReferences": [{"uid": "2", "name": "b"}], "uid": "9"}}),
    );
}

#[test]
fn conditions_merge_by_type() {
    check(
        "Node",
        json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "x"}, {"type": "DiskPressure", "status": "False"}],
                          "addresses": [{"type": "InternalIP", "address": "1"}]}}),
        json!({"status": {"$setElementOrder/conditions": [{"type": "DiskPressure"}, {"type": "Ready"}],
                          "conditions": [{"type": "Ready", "status": "Unknown"}]}}),
        json!({"status": {"conditions": [{"type": "DiskPressure", "status": "False"}, {"type": "Ready", "status": "Unknown", "reason": "x"}],
                          "addresses": [{"type": "InternalIP", "address": "1"}]}}),
    );
}

#[test]
fn unusable_patches_say_why() {
    let pod = json!({"spec": {"containers": [{"name": "a"}]}, "metadata": {}});
    let with = |containers: Value| json!({"spec": {"containers": containers}});
    fails(
        "Pod",
        pod.clone(),
        with(json!([{"image": "b"}])),
        "map: {\"image\":\"b\"} does not contain declared merge key: name",
    );
    fails(
        "Pod",
        pod.clone(),
        with(json!([{"$patch": "delete"}])),
        "map: {\"$patch\":\"delete\"} does not contain declared merge key: name",
    );
    fails(
        "Pod",
        pod.clone(),
        with(json!([{"$patch": "merge"}])),
        "merging lists cannot yet be specified in the patch",
    );
    fails("Pod", pod.clone(), with(json!([{"$patch": "x", "name": "a"}])), "unknown patch type: x in map: {");
    fails("Pod", pod.clone(), with(json!(["a"])), "list element types are not identical: map and string");
    fails(
        "Pod",
        pod.clone(),
        json!({"metadata": {"$patch": "merge"}}),
        "unknown patch type: merge in map: {",
    );
    fails(
        "Pod",
        pod.clone(),
        json!({"spec": {"$setElementOrder": []}}),
        "invalid patch format of setElementOrder list",
    );
    fails(
        "Pod",
        pod.clone(),
        json!({"spec": {"$setElementOrder/containers": {}}}),
        "expected a slice, but received a map",
    );
    fails("Pod", pod, json!([]), "error decoding patch: expected a map, but received a slice");
}

#[test]
fn directives_of_the_wrong_form_are_malformed() {
    for patch in [
        json!({"spec": {"$retainKeys": "containers"}}),
        json!({"spec": {"$retainKeys": ["containers"], "hostname": "a"}}),
        json!({"spec": {"$setElementOrder": []}}),
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": "a"}}),
    ] {
        let mut pod = json!({"spec": {}, "metadata": {"finalizers": ["a"]}});
        let error = apply_strategic(&mut pod, &patch, &type_name("", "v1", "Pod")).expect_err("malformed");
        assert!(matches!(error, PatchError::BadDirective(_)), "{patch}: {error}");
    }
}

#[test]
fn a_type_that_changes_takes_the_patch() {
    check(
        "Service",
        json!({"spec": {"ports": [{"port": 80, "targetPort": 8080}]}}),
        json!({"spec": {"ports": [{"port": 80, "targetPort": "http"}]}}),
        json!({"spec": {"ports": [{"port": 80, "targetPort": "http"}]}}),
    );
    check("ConfigMap", json!({"data": null}), json!({"data": {"a": "1"}}), json!({"data": {"a": "1"}}));
}

/// What the API server holds of a Deployment that was applied.
fn live() -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "web",
            "namespace": "default",
            "generation": 1,
            "annotations": {"deployment.kubernetes.io/revision": "1", "kubectl.kubernetes.io/last-applied-configuration": "{old}"},
            "labels": {"app": "web", "stage": "test"},
        },
        "spec": {
            "progressDeadlineSeconds": 600,
            "replicas": 2,
            "revisionHistoryLimit": 10,
            "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}, "type": "RollingUpdate"},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {
                    "containers": [{
                        "name": "web",
                        "image": "web:1",
                        "imagePullPolicy": "IfNotPresent",
                        "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                        "ports": [{"containerPort": 8080, "protocol": "TCP"}],
                        "resources": {"limits": {"cpu": "1"}},
                    }],
                    "dnsPolicy": "ClusterFirst",
                    "restartPolicy": "Always",
                },
            },
        },
        "status": {"replicas": 2},
    })
}

#[test]
fn kubectl_apply_changes_image_and_environment() {
    // The manifest got a new image and a variable C, lost B and the label `stage`.
    let patch = json!({
        "metadata": {
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{new}"},
            "labels": {"stage": null},
        },
        "spec": {"template": {"spec": {
            "$setElementOrder/containers": [{"name": "web"}],
            "containers": [{
                "$setElementOrder/env": [{"name": "A"}, {"name": "C"}],
                "env": [{"name": "C", "value": "3"}, {"$patch": "delete", "name": "B"}],
                "image": "web:2",
                "name": "web",
            }],
        }}},
    });
    let mut expected = live();
    expected["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"] = json!("{new}");
    expected["metadata"]["labels"] = json!({"app": "web"});
    let container = &mut expected["spec"]["template"]["spec"]["containers"][0];
    container["image"] = json!("web:2");
    container["env"] = json!([{"name": "A", "value": "1"}, {"name": "C", "value": "3"}]);
    check("Deployment", live(), patch, expected);
}

#[test]
fn kubectl_apply_adds_a_sidecar_and_removes_limits() {
    let patch = json!({"spec": {"replicas": null, "template": {"spec": {
        "$setElementOrder/containers": [{"name": "log"}, {"name": "web"}],
        "$setElementOrder/volumes": [{"name": "logs"}],
        "containers": [
            {"image": "log:1", "name": "log", "volumeMounts": [{"mountPath": "/logs", "name": "logs"}]},
            {"$setElementOrder/ports": [{"containerPort": 8080}], "name": "web", "resources": null},
        ],
        "volumes": [{"emptyDir": {}, "name": "logs"}],
    }}}});
    let mut expected = live();
    let spec = &mut expected["spec"]["template"]["spec"];
    spec["containers"][0].as_object_mut().expect("a container").remove("resources");
    let web = spec["containers"][0].clone();
    spec["containers"] = json!([{"image": "log:1", "name": "log", "volumeMounts": [{"mountPath": "/logs", "name": "logs"}]}, web]);
    spec["volumes"] = json!([{"emptyDir": {}, "name": "logs"}]);
    expected["spec"].as_object_mut().expect("a spec").remove("replicas");
    check("Deployment", live(), patch, expected);
}

#[test]
fn kubectl_apply_changes_the_strategy() {
    let patch =
        json!({"spec": {"strategy": {"$retainKeys": ["type"], "rollingUpdate": null, "type": "Recreate"}}});
    let mut expected = live();
    expected["spec"]["strategy"] = json!({"type": "Recreate"});
    check("Deployment", live(), patch, expected);
}

#[test]
fn kubectl_set_image_and_rollout_restart() {
    let patch = json!({"spec": {"template": {
        "metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"}},
        "spec": {"$setElementOrder/containers": [{"name": "web"}], "containers": [{"image": "web:3", "name": "web"}]},
    }}});
    let mut expected = live();
    expected["spec"]["template"]["metadata"]["annotations"] =
        json!({"kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"});
    expected["spec"]["template"]["spec"]["containers"][0]["image"] = json!("web:3");
    check("Deployment", live(), patch, expected);
}

#[test]
fn a_patch_applied_twice_changes_nothing_more() {
    use rand::{Rng, SeedableRng, rngs::StdRng};
    let mut random = StdRng::seed_from_u64(11);
    let names = ["a", "b", "c", "d"];
    for _ in 0..2_000 {
        let mut list = |with_deletes: bool| {
            let mut items = Vec::new();
            for name in names {
                match random.random_range(0..4) {
                    0 | 1 => (),
                    2 if with_deletes => items.push(json!({"name": name, "$patch": "delete"})),
                    _ => items.push(json!({"name": name, "image": random.random_range(0..3).to_string()})),
                }
            }
            json!({"spec": {"containers": items}})
        };
        let (document, patch) = (list(false), list(true));
        let once = patched("Pod", &document, &patch).expect("it applies");
        let twice = patched("Pod", &once, &patch).expect("it applies again");
        assert_eq!(once, twice, "{document} with {patch}");
    }
}
