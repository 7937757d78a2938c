//! What clients count on because a server in Go does it: what is answered, what is taken, and in which words it is not.

use super::{corners::refused, *};

#[tokio::test]
async fn what_is_deleted_is_shown_where_clients_expect_it() {
    let cluster = Cluster::start().await;
    // Typed clients decode what the OpenAPI document says is answered.
    for (path, object, kind) in [
        ("/api/v1/namespaces/shop/serviceaccounts", json!({}), "ServiceAccount"),
        ("/api/v1/namespaces/shop/services", json!({ "spec": { "ports": [{ "port": 80 }] } }), "Service"),
        ("/apis/storage.k8s.io/v1/storageclasses", json!({ "provisioner": "example.com/x" }), "StorageClass"),
        ("/apis/resource.k8s.io/v1/deviceclasses", json!({ "spec": {} }), "DeviceClass"),
        ("/api/v1/namespaces/shop/configmaps", json!({}), "Status"),
        ("/apis/scheduling.k8s.io/v1/priorityclasses", json!({ "value": 1 }), "Status"),
    ] {
        let mut object = object;
        object["metadata"] = json!({ "name": "gone" });
        let made = cluster.post(path, &object).await.expect(201);
        let answer = cluster.delete(&format!("{path}/gone"), &json!({})).await.expect(200);
        assert_eq!(answer["kind"], kind, "{answer}");
        let uid = if kind == "Status" { &answer["details"]["uid"] } else { &answer["metadata"]["uid"] };
        assert_eq!(*uid, made["metadata"]["uid"], "{answer}");
    }
}

#[tokio::test]
async fn keys_without_a_value_are_empty() {
    let cluster = Cluster::start().await;
    let maps = "/api/v1/namespaces/shop/configmaps";
    let map =
        json!({ "metadata": { "name": "m", "labels": { "a": null } }, "data": { "b": null, "c": "d" } });
    let made = cluster.post(maps, &map).await.expect(201);
    assert_eq!(made["metadata"]["labels"], json!({ "a": "" }));
    assert_eq!(made["data"], json!({ "b": "", "c": "d" }));
    let applied = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "n" }, "data": { "b": null } });
    let path = format!("{maps}/n?fieldManager=me");
    let made = cluster.patch(&path, APPLY, &applied).await.expect(201);
    assert_eq!(made["data"], json!({ "b": "" }));
    let pod = json!({
        "metadata": { "name": "p" },
        "spec": { "containers": [null, { "name": "c", "image": "i", "args": [null] }] },
    });
    let answer = cluster.post("/api/v1/namespaces/shop/pods", &pod).await;
    let fields: Vec<_> = answer.body["details"]["causes"]
        .as_array()
        .expect("causes")
        .iter()
        .map(|cause| cause["field"].as_str().expect("a field"))
        .collect();
    assert_eq!(fields, ["spec.containers[0].name", "spec.containers[0].image"], "{}", answer.body);
}

#[tokio::test]
async fn who_applies_to_an_object_of_a_uid_makes_no_other() {
    let cluster = Cluster::start().await;
    let config =
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "m", "uid": "a-b" } });
    let path = "/api/v1/namespaces/shop/configmaps/m?fieldManager=me";
    let why = "Operation cannot be fulfilled on configmaps \"m\": uid mismatch: the provided object specified uid a-b, \
               and no existing object was found";
    refused(cluster.patch(path, APPLY, &config).await, 409, why).await;
}

#[tokio::test]
async fn an_update_tells_no_other_times() {
    let cluster = Cluster::start().await;
    let maps = "/api/v1/namespaces/shop/configmaps";
    let made = cluster.post(maps, &json!({ "metadata": { "name": "m" } })).await.expect(201);
    let path = format!("{maps}/m");
    let mut other = made.clone();
    other["metadata"]["creationTimestamp"] = "2001-01-01T00:00:00Z".into();
    assert_eq!(cluster.put(&path, &other).await.expect(200), made);
    for (field, value) in
        [("deletionTimestamp", json!("2001-01-01T00:00:00Z")), ("deletionGracePeriodSeconds", json!(3))]
    {
        let mut other = made.clone();
        other["metadata"][field] = value.clone();
        let why = format!(
            "ConfigMap \"m\" is invalid: metadata.{field}: Invalid value: {value}: field is immutable"
        );
        refused(cluster.put(&path, &other).await, 422, &why).await;
    }
    let answer = cluster.get(&format!("{maps}?timeoutSeconds=soon")).await;
    refused(answer, 400, "strconv.ParseInt: parsing \"soon\": invalid syntax").await;
}

#[tokio::test]
async fn numbers_that_do_not_fit_are_shown() {
    let cluster = Cluster::start().await;
    let path = "/apis/apps/v1/namespaces/shop/deployments";
    for (replicas, shown) in [
        (json!(99_999_999_999_i64), "number 99999999999"),
        (json!(1.5), "number 1.5"),
        (json!("1"), "string"),
    ] {
        let deployment = json!({ "metadata": { "name": "web" }, "spec": { "replicas": replicas } });
        let why = format!(
            "Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot unmarshal {shown} into Go \
             struct field DeploymentSpec.spec.replicas of type int32"
        );
        refused(cluster.post(path, &deployment).await, 400, &why).await;
    }
}
