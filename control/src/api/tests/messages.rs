//! What is sent to a subresource and is no object that is stored: bindings, evictions, requests for tokens.

use super::*;

const PODS: &str = "/api/v1/namespaces/shop/pods";

/// Has a policy refuse whatever is created at `resource`.
async fn refuse(cluster: &Cluster, resource: &str) {
    let group = "/apis/admissionregistration.k8s.io/v1";
    let rule = json!({ "operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": [resource] });
    let policy = json!({
        "metadata": { "name": "stop" },
        "spec": {
            "matchConstraints": { "resourceRules": [rule] },
            "validations": [{ "expression": "false", "message": "the policy says no" }],
        },
    });
    cluster.post(&format!("{group}/validatingadmissionpolicies"), &policy).await.expect(201);
    let binding = json!({
        "metadata": { "name": "stop" }, "spec": { "policyName": "stop", "validationActions": ["Deny"] },
    });
    cluster.post(&format!("{group}/validatingadmissionpolicybindings"), &binding).await.expect(201);
}

fn binding(name: &str, node: &str) -> Value {
    json!({ "metadata": { "name": name }, "target": { "kind": "Node", "name": node } })
}

#[tokio::test]
async fn what_is_wrong_in_itself_is_refused_before_policies_are_asked() {
    let cluster = Cluster::start().await;
    cluster.post(PODS, &pod("web")).await.expect(201);
    for (subresource, wrong, right) in [
        ("pods/binding", binding("web", ""), binding("web", "amber")),
        ("pods/binding", binding("other", "amber"), binding("web", "amber")),
        (
            "pods/eviction",
            json!({ "metadata": { "name": "other" } }),
            json!({ "metadata": { "name": "web" } }),
        ),
    ] {
        refuse(&cluster, subresource).await;
        let path = format!("{PODS}/web/{}", subresource.trim_start_matches("pods/"));
        let answer = cluster.post(&path, &wrong).await;
        assert!(!answer.message().contains("the policy says no"), "{wrong}: {}", answer.body);
        assert!(matches!(answer.status, 400 | 500), "{wrong}: {}", answer.body);
        let answer = cluster.post(&path, &right).await;
        assert!(answer.message().contains("the policy says no"), "{right}: {}", answer.body);
        for what in ["policies", "policybindings"] {
            let path = format!("/apis/admissionregistration.k8s.io/v1/validatingadmission{what}/stop");
            cluster.delete(&path, &json!({})).await.expect(200);
        }
    }
    // It is not asked about requests for tokens that cannot be granted, either.
    refuse(&cluster, "serviceaccounts/token").await;
    let path = "/api/v1/namespaces/shop/serviceaccounts/default/token";
    let answer = cluster.post(path, &json!({ "spec": { "expirationSeconds": 1 } })).await;
    assert!(answer.message().contains("may not specify a duration less than 10 minutes"), "{}", answer.body);
    let answer = cluster.post(path, &json!({ "spec": { "expirationSeconds": 600 } })).await;
    assert!(answer.message().contains("the policy says no"), "{}", answer.body);
}

#[tokio::test]
async fn a_binding_is_about_the_pod_of_its_url_as_somebody_saw_it() {
    let cluster = Cluster::start().await;
    cluster.post(PODS, &pod("web")).await.expect(201);
    let nominated = json!({ "status": { "nominatedNodeName": "birch" } });
    let seen = cluster.patch(&format!("{PODS}/web/status"), MERGE, &nominated).await.expect(200);
    let path = format!("{PODS}/web/binding");

    let answer = cluster.post(&path, &binding("other", "amber")).await;
    assert_eq!((answer.status, answer.message()), (400, "name in URL does not match name in Binding object"));
    let mut elsewhere = binding("web", "amber");
    elsewhere["metadata"]["namespace"] = "lab".into();
    let answer = cluster.post(&path, &elsewhere).await;
    assert_eq!(answer.status, 400, "{}", answer.body);
    let mut outdated = binding("web", "amber");
    outdated["metadata"]["resourceVersion"] = "1".into();
    let answer = cluster.post(&path, &outdated).await;
    assert_eq!((answer.status, &answer.body["reason"]), (409, &json!("Conflict")));

    let mut elsewhere = binding("web", "");
    elsewhere["target"]["kind"] = "Pod".into();
    let answer = cluster.post(&path, &elsewhere).await;
    assert_eq!(
        (answer.status, answer.message()),
        (
            500,
            "[target.kind: Unsupported value: \"Pod\": supported values: \"Node\", \"<empty>\", target.name: Required value]"
        )
    );
    assert_eq!(answer.body.get("reason"), None);

    let mut latest = binding("web", "amber");
    latest["metadata"]["resourceVersion"] = seen["metadata"]["resourceVersion"].clone();
    cluster.post(&path, &latest).await.expect(201);
    let bound = cluster.get(&format!("{PODS}/web")).await.expect(200);
    assert_eq!(bound["spec"]["nodeName"], "amber");
    // Where it might have gone is of no interest any more.
    assert_eq!(bound["status"].get("nominatedNodeName"), None);
}

#[tokio::test]
async fn a_pod_is_told_in_which_zone_it_is() {
    let cluster = Cluster::start().await;
    let (region, zone) = ("topology.kubernetes.io/region", "topology.kubernetes.io/zone");
    let labels = json!({ region: "north", zone: "north-1", "disk": "fast" });
    let node = json!({ "metadata": { "name": "amber", "labels": labels } });
    cluster.post("/api/v1/nodes", &node).await.expect(201);
    let mut own = pod("own");
    own["metadata"]["labels"] = json!({ zone: "mine" });
    let mut placed = pod("placed");
    placed["spec"]["nodeName"] = "amber".into();
    for object in [&pod("web"), &own] {
        cluster.post(PODS, object).await.expect(201);
        let name = object["metadata"]["name"].as_str().expect("a name");
        cluster.post(&format!("{PODS}/{name}/binding"), &binding(name, "amber")).await.expect(201);
    }
    cluster.post(PODS, &placed).await.expect(201);
    let labels = async |name: &str| {
        cluster.get(&format!("{PODS}/{name}")).await.expect(200)["metadata"]["labels"].clone()
    };
    assert_eq!(labels("web").await, json!({ region: "north", zone: "north-1" }));
    assert_eq!(labels("placed").await, json!({ region: "north", zone: "north-1" }));
    assert_eq!(labels("own").await, json!({ region: "north", zone: "mine" }));
}

#[tokio::test]
async fn a_body_of_strange_fields_is_answered_soon() {
    let cluster = Cluster::start().await;
    let mut map = config_map("odd", json!({}));
    for index in 0..100_000 {
        map[format!("f{index}")] = json!(1);
    }
    let answer = cluster.post(MAPS, &map).await;
    let warnings: Vec<_> = answer.headers.get_all(header::WARNING).into_iter().collect();
    assert_eq!((answer.status, warnings.len()), (201, 64));
}
