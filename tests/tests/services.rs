//! Services beyond a cluster IP: names that are pods, and clients that stay with theirs.

use std::collections::BTreeSet;

use naru_tests::{Cluster, eventually};

/// Three pods that say who they are, two of them with host names below the headless Service `pods`, and a Service that
/// keeps each client with one of them.
const PODS: &str = "\
apiVersion: v1
kind: Service
metadata: {name: pods}
spec:
  clusterIP: None
  selector: {app: named}
  ports: [{name: http, port: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: sticky}
spec:
  selector: {app: named}
  sessionAffinity: ClientIP
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Pod
metadata: {name: one, labels: {app: named}}
spec:
  hostname: first
  subdomain: pods
  containers:
  - {name: web, image: 'hello:v1', ports: [{containerPort: 8080}], env: [{name: POD_NAME, value: one}]}
---
apiVersion: v1
kind: Pod
metadata: {name: two, labels: {app: named}}
spec:
  hostname: second
  subdomain: pods
  containers:
  - {name: web, image: 'hello:v1', ports: [{containerPort: 8080}], env: [{name: POD_NAME, value: two}]}
---
apiVersion: v1
kind: Pod
metadata: {name: three, labels: {app: named}}
spec:
  containers:
  - {name: web, image: 'hello:v1', ports: [{containerPort: 8080}], env: [{name: POD_NAME, value: three}]}
";

/// A pod that asks `authority` and tells the answer.
fn asking(name: &str, authority: &str) -> String {
    format!(
        "\
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  containers:
  - name: front
    image: shop-front:v1
    ports: [{{containerPort: 8080}}]
    env: [{{name: BACK_URL, value: '{authority}'}}, {{name: SHOP_NAME, value: {name}}}]
---
"
    )
}

async fn body(client: &reqwest::Client, url: &str) -> Result<String, String> {
    let response = client.get(url).send().await.map_err(|error| format!("{error:?}"))?;
    response.text().await.map_err(|error| format!("{error:?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_of_a_headless_service_are_its_ready_pods() {
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    cluster.import_samples(&["hello", "shop-front"]);
    kubectl.apply(PODS);
    kubectl.run(&["wait", "--for=condition=Ready", "pod/one", "pod/two", "pod/three", "--timeout=60s"]).ok();
    assert_eq!(kubectl.run(&["get", "svc", "pods", "-o", "jsonpath={.spec.clusterIP}"]).ok(), "None");
    let ip = |pod: &str| kubectl.run(&["get", "pod", pod, "-o", "jsonpath={.status.podIP}"]).ok();
    let dashed = format!("{}.pods.default.svc.cluster.local:8080", ip("three").replace('.', "-"));
    let questions = [
        ("ask-first", "first.pods:8080", &["one"][..]),
        ("ask-second", "second.pods.default.svc.cluster.local:8080", &["two"]),
        ("ask-address", &dashed, &["three"]),
        ("ask-any", "pods:8080", &["one", "two", "three"]),
    ];
    let manifest: String = questions.iter().map(|(name, authority, _)| asking(name, authority)).collect();
    kubectl.apply(&manifest);
    for (name, authority, expected) in questions {
        kubectl.run(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=60s"]).ok();
        let url = format!("http://{}:8080/", ip(name));
        eventually(&format!("{authority} is answered by {expected:?}"), async || {
            let text = body(&cluster.http(), &url).await?;
            let is_one_of_them = expected.iter().any(|pod| text.contains(&format!("served by {pod}\n")));
            if is_one_of_them { Ok(()) } else { Err(text) }
        })
        .await;
    }
    // A pod that is gone is no name any more, and the Service's name is what is left.
    kubectl.run(&["delete", "pod", "one", "--timeout=60s"]).ok();
    let url = format!("http://{}:8080/", ip("ask-first"));
    eventually("the name of the pod is gone", async || {
        let text = body(&cluster.http(), &url).await?;
        if text.contains("does not answer") { Ok(()) } else { Err(text) }
    })
    .await;
    let url = format!("http://{}:8080/", ip("ask-any"));
    for _ in 0..5 {
        let text = body(&cluster.http(), &url).await.unwrap();
        assert!(text.contains("served by two\n") || text.contains("served by three\n"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_stays_with_its_pod_where_the_service_says_so() {
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    cluster.import_samples(&["hello"]);
    kubectl.apply(PODS);
    kubectl.run(&["wait", "--for=condition=Ready", "pod/one", "pod/two", "pod/three", "--timeout=60s"]).ok();
    let get = |path: &str| kubectl.run(&["get", "svc", "sticky", "-o", &format!("jsonpath={path}")]).ok();
    assert_eq!(get("{.spec.sessionAffinityConfig.clientIP.timeoutSeconds}"), "10800");
    let url = format!("http://{}/", get("{.spec.clusterIP}"));
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client_at = |address: &str| {
        let address: std::net::IpAddr = address.parse().unwrap();
        reqwest::Client::builder().local_address(address).pool_max_idle_per_host(0).build().unwrap()
    };
    let servers = async |address: &str, count: usize| {
        let client = client_at(address);
        let mut servers = BTreeSet::new();
        for _ in 0..count {
            servers.insert(body(&client, &url).await.unwrap());
        }
        servers
    };
    eventually("every pod serves, each its clients", async || {
        let mut all = BTreeSet::new();
        for client in 2..10 {
            all.extend(servers(&format!("127.0.0.{client}"), 1).await);
        }
        if all.len() == 3 { Ok(()) } else { Err(format!("{all:?}")) }
    })
    .await;
    for client in 2..6 {
        let seen = servers(&format!("127.0.0.{client}"), 10).await;
        assert_eq!(seen.len(), 1, "client {client} was served by {seen:?}");
    }
    // Without affinity the same client goes round.
    kubectl.run(&["patch", "svc", "sticky", "-p", r#"{"spec":{"sessionAffinity":"None"}}"#]).ok();
    assert_eq!(get("{.spec.sessionAffinityConfig}"), "", "what belongs to affinity goes with it");
    eventually("the client goes round", async || {
        let seen = servers("127.0.0.2", 6).await;
        if seen.len() == 3 { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
}
