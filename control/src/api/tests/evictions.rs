//! Evictions that budgets forbid, where no controller keeps the budgets' status.

use super::*;

async fn cluster(status: Value) -> Cluster {
    let cluster = Cluster::start().await;
    let mut web = pod("web");
    web["metadata"]["labels"] = json!({ "app": "web" });
    cluster.post("/api/v1/namespaces/shop/pods", &web).await.expect(201);
    let ready = json!([{ "type": "Ready", "status": "True" }]);
    let running = json!({ "status": { "phase": "Running", "conditions": ready } });
    cluster.patch("/api/v1/namespaces/shop/pods/web/status", MERGE, &running).await.expect(200);
    let budgets = "/apis/policy/v1/namespaces/shop/poddisruptionbudgets";
    let budget = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": { "name": "web" },
        "spec": { "minAvailable": 1, "selector": { "matchLabels": { "app": "web" } } },
    });
    cluster.post(budgets, &budget).await.expect(201);
    let status = json!({ "status": status });
    cluster.patch(&format!("{budgets}/web/status"), MERGE, &status).await.expect(200);
    cluster
}

async fn evict(cluster: &Cluster) -> Answer {
    let eviction = json!({ "apiVersion": "policy/v1", "kind": "Eviction", "metadata": { "name": "web" } });
    cluster.post("/api/v1/namespaces/shop/pods/web/eviction", &eviction).await
}

#[tokio::test]
async fn a_budget_that_nobody_counted_yet_asks_to_come_again() {
    let status = json!({ "observedGeneration": 0, "disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2 });
    let answer = evict(&cluster(status).await).await;
    assert_eq!((answer.status, answer.headers[header::RETRY_AFTER].as_bytes()), (429, &b"10"[..]));
    assert_eq!(answer.message(), "Cannot evict pod as it would violate the pod's disruption budget.");
    assert_eq!(answer.body["details"]["retryAfterSeconds"], 10);
    assert_eq!(
        answer.body["details"]["causes"],
        json!([{ "reason": "DisruptionBudget", "message": "The disruption budget web is still being processed by the server." }])
    );
}

#[tokio::test]
async fn an_eviction_takes_from_the_budget_once() {
    let status = json!({ "observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2 });
    let cluster = cluster(status).await;
    assert_eq!(evict(&cluster).await.status, 201);
    let budget = cluster.get("/apis/policy/v1/namespaces/shop/poddisruptionbudgets/web").await.expect(200);
    assert_eq!(budget["status"]["disruptionsAllowed"], 0);
    assert!(budget["status"]["disruptedPods"]["web"].is_string());
}
