//! What patches make of values that Go reads and others don't, and how those that can't be applied are refused.

use super::*;

const JSON_PATCH: &str = "application/json-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/shop/leases";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/shop/deployments";

#[tokio::test]
async fn a_quantity_that_a_patch_makes_null_is_zero() {
    let cluster = Cluster::start().await;
    cluster.post(DEPLOYMENTS, &deployment("web", json!(1))).await.expect(201);
    let path = format!("{DEPLOYMENTS}/web");
    let limits = |of: Value| json!({ "limits": of });
    let container = |of: Value| json!({ "name": "web", "image": "a", "resources": limits(of) });
    let spec = |of: Value| json!({ "template": { "spec": { "containers": [container(of)] } } });
    let shown = |object: &Value| object["spec"]["template"]["spec"]["containers"][0]["resources"].clone();

    let add = |of: Value| json!([{ "op": "add", "path": "/spec/template/spec/containers/0/resources", "value": limits(of) }]);
    let null = json!({ "cpu": null, "memory": "1Gi" });
    let zero = limits(json!({ "cpu": "0", "memory": "1Gi" }));
    assert_eq!(shown(&cluster.patch(&path, JSON_PATCH, &add(null.clone())).await.expect(200)), zero);

    // Others drop what is null in lists, as Kubernetes' do.
    let none = limits(json!({ "memory": "1Gi" }));
    for kind in [MERGE, STRATEGIC] {
        let patched = cluster.patch(&path, kind, &json!({ "spec": spec(null.clone()) })).await.expect(200);
        assert_eq!(shown(&patched), none, "{kind}");
    }

    let config = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" }, "spec": spec(null),
    });
    let apply = format!("{path}?fieldManager=me&force=true");
    assert_eq!(shown(&cluster.patch(&apply, APPLY, &config).await.expect(200)), zero);
    let wrong = cluster.patch(&path, JSON_PATCH, &add(json!({ "cpu": null, "memory": [] }))).await;
    assert_eq!(wrong.status, 422, "{}", wrong.body);
}

#[tokio::test]
async fn times_in_patches_are_read_as_go_reads_them() {
    let cluster = Cluster::start().await;
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": "a" }, "spec": {},
    });
    cluster.post(LEASES, &lease).await.expect(201);
    let path = format!("{LEASES}/a?fieldManager=me");
    let with = |time: &str| {
        let mut lease = lease.clone();
        lease["spec"]["renewTime"] = time.into();
        lease
    };
    for (second, kind) in [MERGE, STRATEGIC, APPLY, JSON_PATCH].into_iter().enumerate() {
        let make = |time: &str| match kind {
            JSON_PATCH => json!([{ "op": "add", "path": "/spec/renewTime", "value": time }]),
            _ => with(time),
        };
        let path = if kind == APPLY { format!("{path}&force=true") } else { path.clone() };
        let odd = make(&format!("2026-01-02T3:04:0{second},000006Z"));
        let patched = cluster.patch(&path, kind, &odd).await.expect(200);
        assert_eq!(patched["spec"]["renewTime"], format!("2026-01-02T03:04:0{second}.000006Z"), "{kind}");
        let refused = cluster.patch(&path, kind, &make("2026-01-02T25:04:05.000006Z")).await;
        assert!(refused.status >= 400 && refused.message().contains("hour out of range"), "{}", refused.body);
    }
}

#[tokio::test]
async fn what_is_malformed_and_what_does_not_apply_are_told_apart() {
    let cluster = Cluster::start().await;
    cluster.post(DEPLOYMENTS, &deployment("web", json!(1))).await.expect(201);
    let path = format!("{DEPLOYMENTS}/web");
    let retain = |keys: Value| json!({ "spec": { "strategy": { "$retainKeys": keys, "type": "Recreate" } } });
    let operation = |op: Value, path: Value| json!([{ "op": op, "path": path, "value": 1 }]);
    for (kind, patch, code, message) in [
        (STRATEGIC, retain("type".into()), 400, "invalid patch format of retainKeys"),
        (STRATEGIC, retain(json!(["rollingUpdate"])), 400, "invalid patch format of retainKeys"),
        (
            STRATEGIC,
            json!({ "spec": { "$setElementOrder": [] } }),
            400,
            "invalid patch format of setElementOrder list",
        ),
        (JSON_PATCH, operation("jump".into(), "/spec/replicas".into()), 422, "Unexpected kind: jump"),
        (
            JSON_PATCH,
            operation("add".into(), "spec".into()),
            422,
            "add operation does not apply: doc is missing path: \"spec\": missing value",
        ),
        (
            JSON_PATCH,
            operation("add".into(), 7.into()),
            400,
            "error decoding patch: json: cannot unmarshal number into Go struct field jsonPatchOp.path of type string",
        ),
        (
            JSON_PATCH,
            json!(["jump"]),
            400,
            "error decoding patch: json: cannot unmarshal string into Go value of type jsonpatch.Operation",
        ),
    ] {
        let refused = cluster.patch(&path, kind, &patch).await;
        assert_eq!(refused.status, code, "{patch}: {}", refused.body);
        assert!(
            refused.body.to_string().contains(&message.replace('"', "\\\"")),
            "{patch}: {}",
            refused.body
        );
    }
}
