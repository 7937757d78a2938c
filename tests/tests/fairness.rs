//! Priority and fairness, as users meet it: a flood by one does not stop another, and what does not fit is refused in
//! time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, StatusCode};
use k8s_openapi::api::{
    authentication::v1::TokenRequest,
    core::v1::{ConfigMap, ServiceAccount},
};
use kube::{Api, Client, api::PostParams};
use naru_tests::{Cluster, eventually, raw_client::Target};
use serde_json::json;

/// A level of three seats that lends nothing and borrows nothing, for the accounts of namespace `shop`.
fn tight_level(cluster: &Cluster, queuing: &str) {
    cluster.kubectl().apply(&format!(
        "apiVersion: flowcontrol.apiserver.k8s.io/v1
kind: PriorityLevelConfiguration
metadata: {{name: tight}}
spec:
  type: Limited
  limited:
    nominalConcurrencyShares: 1
    borrowingLimitPercent: 0
    limitResponse: {queuing}
---
apiVersion: flowcontrol.apiserver.k8s.io/v1
kind: FlowSchema
metadata: {{name: tight}}
spec:
  priorityLevelConfiguration: {{name: tight}}
  matchingPrecedence: 50
  distinguisherMethod: {{type: ByUser}}
  rules:
  - subjects: [{{kind: ServiceAccount, serviceAccount: {{namespace: shop, name: '*'}}}}]
    resourceRules: [{{verbs: ['*'], apiGroups: ['*'], resources: ['*'], namespaces: ['*']}}]
"
    ));
}

/// A client that acts as an account of `shop` which may edit there, by a token of its own.
async fn account(cluster: &Cluster, name: &str) -> Client {
    let admin = cluster.client().await;
    let accounts: Api<ServiceAccount> = Api::namespaced(admin, "shop");
    let account = serde_json::from_value(json!({ "metadata": { "name": name } })).expect("an account");
    accounts.create(&PostParams::default(), &account).await.expect("created");
    let kubectl = cluster.kubectl();
    let account = format!("--serviceaccount=shop:{name}");
    kubectl.run(&["-n", "shop", "create", "rolebinding", name, "--clusterrole=edit", &account]).ok();
    let request: TokenRequest =
        serde_json::from_value(json!({ "spec": { "audiences": [], "expirationSeconds": 3600 } }))
            .expect("a request");
    let token = accounts.create_token_request(name, &PostParams::default(), &request).await.expect("a token");
    let token = token.status.and_then(|status| status.token).expect("it is there");
    let kubeconfig = kube::config::Kubeconfig::read_from(cluster.kubeconfig()).expect("a kubeconfig");
    let mut config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.expect("a config");
    config.auth_info = kube::config::AuthInfo { token: Some(token.into()), ..Default::default() };
    let client = Client::try_from(config).expect("a client");
    eventually("the account may write", async || {
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "shop");
        let probe = PostParams { dry_run: true, ..PostParams::default() };
        maps.create(&probe, &map("probe")).await.map(drop).map_err(|error| error.to_string())
    })
    .await;
    client
}

fn map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({ "metadata": { "generateName": format!("{name}-") } })).expect("a map")
}

/// The status of one create, sent as it is: kube's own clients try again after a 429.
async fn create(client: &Client, name: &str) -> (StatusCode, http::HeaderMap) {
    let body = serde_json::to_vec(&map(name)).expect("JSON");
    let request = Request::post("/api/v1/namespaces/shop/configmaps")
        .header("content-type", "application/json")
        .body(kube::client::Body::from(body))
        .expect("a request");
    let answer = client.send(request).await.expect("an answer");
    (answer.status(), answer.headers().clone())
}

fn namespace(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    kubectl.run(&["create", "namespace", "shop"]).ok();
}

async fn wait_until_in_force(client: &Client, cluster: &Cluster) {
    let uid = cluster.kubectl().run(&["get", "flowschema", "tight", "-o", "jsonpath={.metadata.uid}"]).ok();
    eventually("the schema is in force", async || {
        let (_, headers) = create(client, "first").await;
        let header = headers.get("x-kubernetes-pf-flowschema-uid").and_then(|value| value.to_str().ok());
        if header == Some(&uid) { Ok(()) } else { Err(format!("{header:?}, not {uid}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_flood_does_not_stop_another_user() {
    let cluster = Cluster::start();
    namespace(&cluster);
    tight_level(&cluster, "{type: Queue, queuing: {queues: 64, handSize: 2, queueLengthLimit: 200}}");
    let (flooder, other) = (account(&cluster, "flooder").await, account(&cluster, "other").await);
    wait_until_in_force(&other, &cluster).await;
    let table = cluster.kubectl().run(&["get", "flowschema", "tight"]).ok();
    assert!(table.contains("False"), "{table}");

    let (is_over, flooded) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let flood: Vec<_> = (0..100)
        .map(|_| {
            let (client, is_over, flooded) = (flooder.clone(), is_over.clone(), flooded.clone());
            tokio::spawn(async move {
                while !is_over.load(Ordering::Relaxed) {
                    if create(&client, "flood").await.0 == StatusCode::CREATED {
                        flooded.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    let admin = cluster.client().await;
    eventually("requests wait", async || {
        let page = admin.request_text(Request::get("/metrics").body(Vec::new()).expect("a request")).await;
        let page = page.map_err(|error| error.to_string())?;
        let waiting = page.lines().find_map(|line| {
            line.strip_prefix(r#"apiserver_flowcontrol_current_inqueue_requests{priority_level="tight"} "#)
        });
        if waiting.is_some_and(|waiting| waiting != "0") { Ok(()) } else { Err(format!("{waiting:?}")) }
    })
    .await;

    // Each request of the other waits for a seat at most, not for the flood.
    let before = flooded.load(Ordering::Relaxed);
    let began = Instant::now();
    let mut slowest = Duration::ZERO;
    for _ in 0..20 {
        let began = Instant::now();
        assert_eq!(create(&other, "other").await.0, StatusCode::CREATED);
        slowest = slowest.max(began.elapsed());
    }
    let (took, meanwhile) = (began.elapsed(), flooded.load(Ordering::Relaxed) - before);
    is_over.store(true, Ordering::Relaxed);
    for task in flood {
        task.await.expect("no panic");
    }
    // Behind the flood, each of them would have waited for about a hundred others.
    assert!(
        meanwhile < 20 * 50,
        "{meanwhile} requests of the flood came before 20 others ({took:?}, {slowest:?})"
    );
    assert!(meanwhile > 0, "the flood had stopped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_finds_its_queue_full_is_refused_and_others_are_not() {
    let cluster = Cluster::start();
    namespace(&cluster);
    tight_level(&cluster, "{type: Queue, queuing: {queues: 1, handSize: 1, queueLengthLimit: 2}}");
    let client = account(&cluster, "flooder").await;
    wait_until_in_force(&client, &cluster).await;
    // kube's clients try again after a 429, and open their connections one after the other: this crowd does neither.
    let target =
        Target::from_kubeconfig(&cluster.kubeconfig()).acting_as("system:serviceaccount:shop:flooder");
    let mut connections = Vec::new();
    for _ in 0..100 {
        connections.push(target.connect().await);
    }
    let body = Bytes::from(serde_json::to_vec(&map("crowd")).expect("JSON"));
    let crowd = connections.iter_mut().map(|connection| {
        let body = body.clone();
        connection.send("POST", "/api/v1/namespaces/shop/configmaps", "application/json", body)
    });
    let (mut created, mut refused) = (0, 0);
    for answer in futures::future::join_all(crowd).await {
        match answer.status() {
            StatusCode::CREATED => created += 1,
            StatusCode::TOO_MANY_REQUESTS => {
                assert_eq!(answer.headers()["retry-after"], "1");
                assert!(answer.headers().contains_key("x-kubernetes-pf-prioritylevel-uid"));
                refused += 1;
            }
            other => panic!("{other}"),
        }
    }
    assert!(created >= 3 && refused > 0, "{created} created, {refused} refused");
    // The level is empty again, and administrators never stood in line.
    assert_eq!(create(&client, "after").await.0, StatusCode::CREATED);
    assert_eq!(create(&cluster.client().await, "admin").await.0, StatusCode::CREATED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_sends_slowly_keeps_no_seat_from_others() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let cluster = Cluster::start();
    namespace(&cluster);
    tight_level(&cluster, "{type: Reject}");
    let client = account(&cluster, "slow").await;
    wait_until_in_force(&client, &cluster).await;
    // More requests than the level has seats, each without the last byte of its body.
    let user = "system:serviceaccount:shop:slow";
    let target = Target::from_kubeconfig(&cluster.kubeconfig());
    let body = serde_json::to_vec(&map("slow")).expect("JSON");
    let head = format!(
        "POST /api/v1/namespaces/shop/configmaps HTTP/1.1\r\nHost: {}\r\nImpersonate-User: {user}\r\nContent-Type: \
         application/json\r\nContent-Length: {}\r\n\r\n",
        target.authority(),
        body.len()
    );
    let (last, most) = body.split_last().expect("it is not empty");
    let mut slow = Vec::new();
    for _ in 0..10 {
        let mut stream = target.tls(&[b"http/1.1"]).await;
        stream.write_all(head.as_bytes()).await.expect("it is taken");
        stream.write_all(most).await.expect("it is taken");
        stream.flush().await.expect("it is sent");
        slow.push(stream);
    }
    // The level refuses whoever finds no seat; nobody does, all the while.
    for _ in 0..20 {
        assert_eq!(create(&client, "quick").await.0, StatusCode::CREATED);
    }
    for mut stream in slow {
        stream.write_all(&[*last]).await.expect("it is taken");
        stream.flush().await.expect("it is sent");
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.expect("an answer");
        assert_eq!(&answer, b"HTTP/1.1 201");
    }
}
