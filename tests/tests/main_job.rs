//! The main job: kubectl applies a Deployment of a WASI service, and an HTTP client gets its answer.

use naru_tests::{Cluster, eventually};

const HELLO: &str = include_str!("../../samples/manifests/hello.yaml");
const SHOP: &str = include_str!("../../samples/manifests/shop.yaml");
const PAIR: &str = include_str!("../../samples/manifests/pair.yaml");
const WORKER: &str = include_str!("../../samples/manifests/worker.yaml");

async fn body(cluster: &Cluster, url: &str) -> Result<String, String> {
    let response = cluster.http().get(url).send().await.map_err(|error| format!("{error:?}"))?;
    let status = response.status();
    let text = response.text().await.map_err(|error| format!("{error:?}"))?;
    if status.is_success() { Ok(text) } else { Err(format!("{status}: {text}")) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_of_a_wasi_service_answers_on_its_cluster_ip_and_node_port() {
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    cluster.import_samples(&["hello", "hello-p3"]);
    kubectl.apply(HELLO);
    kubectl.run(&["rollout", "status", "deployment/hello", "--timeout=60s"]).ok();
    kubectl.run(&["rollout", "status", "deployment/hello-p3", "--timeout=60s"]).ok();

    let cluster_ip = kubectl.run(&["get", "svc", "hello", "-o", "jsonpath={.spec.clusterIP}"]).ok();
    let by_ip = format!("http://{cluster_ip}/");
    let text = eventually("the service answers", async || body(&cluster, &by_ip).await).await;
    assert!(text.starts_with("Hello from WebAssembly, served by hello-"), "{text}");

    // Each of the three pods takes its turn.
    let mut servers = std::collections::BTreeSet::new();
    for _ in 0..30 {
        servers.insert(body(&cluster, &by_ip).await.unwrap());
    }
    assert_eq!(servers.len(), 3, "{servers:?}");

    let node_ip =
        kubectl.run(&["get", "nodes", "-o", "jsonpath={.items[0].status.addresses[0].address}"]).ok();
    let node_port = kubectl.run(&["get", "svc", "hello", "-o", "jsonpath={.spec.ports[0].nodePort}"]).ok();
    let port: u16 = node_port.parse().unwrap();
    assert!((30000..=32767).contains(&port), "{port}");
    let by_node = format!("http://{node_ip}:{port}/");
    eventually("the node port answers", async || body(&cluster, &by_node).await).await;

    let p3 = kubectl.run(&["get", "svc", "hello-p3", "-o", "jsonpath={.spec.clusterIP}"]).ok();
    let text =
        eventually("the 0.3 service answers", async || body(&cluster, &format!("http://{p3}/")).await).await;
    assert_eq!(text, "Hello from WASI 0.3\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_front_finds_its_back_by_service_name_and_reads_a_config_map() {
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    cluster.import_samples(&["shop-front", "shop-back"]);
    kubectl.apply(SHOP);
    kubectl.run(&["-n", "shop", "rollout", "status", "deployment/front", "--timeout=60s"]).ok();
    kubectl.run(&["-n", "shop", "rollout", "status", "deployment/back", "--timeout=60s"]).ok();
    let ip = kubectl.run(&["-n", "shop", "get", "svc", "front", "-o", "jsonpath={.spec.clusterIP}"]).ok();

    let expected = "Welcome to The Ferry Landing! In stock: [{\"item\":\"oar\",\"count\":12}";
    for name in ["back", "back.shop", "back.shop.svc.cluster.local"] {
        let patch = format!("{{\"data\":{{\"BACK_URL\":\"{name}\"}}}}");
        kubectl.run(&["-n", "shop", "patch", "configmap", "shop", "--type=merge", "-p", &patch]).ok();
        // `rollout restart` works once a second only; this is what it does.
        let restart = format!(
            "{{\"spec\":{{\"template\":{{\"metadata\":{{\"annotations\":{{\"back\":\"{name}\"}}}}}}}}}}"
        );
        kubectl.run(&["-n", "shop", "patch", "deployment", "front", "-p", &restart]).ok();
        kubectl.run(&["-n", "shop", "rollout", "status", "deployment/front", "--timeout=60s"]).ok();
        let url = format!("http://{ip}/");
        eventually(&format!("the front reaches {name}"), async || {
            let text = body(&cluster, &url).await?;
            if text.starts_with(expected) { Ok(()) } else { Err(text) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_containers_of_a_pod_share_an_address() {
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    cluster.import_samples(&["shop-front", "shop-back"]);
    kubectl.apply(PAIR);
    kubectl.run(&["wait", "--for=condition=Ready", "pod/pair", "--timeout=60s"]).ok();
    let ip = kubectl.run(&["get", "pod", "pair", "-o", "jsonpath={.status.podIP}"]).ok();
    let front =
        eventually("the front answers", async || body(&cluster, &format!("http://{ip}:8080/")).await).await;
    assert!(front.starts_with("Welcome to The Pair! In stock: ["), "{front}");
    let back = body(&cluster, &format!("http://{ip}:8081/")).await.unwrap();
    assert!(back.starts_with("[{\"item\":\"oar\""), "{back}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_module_works_and_exits() {
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    cluster.import_samples(&["worker"]);
    kubectl.apply(WORKER);
    kubectl.run(&["wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/worker", "--timeout=60s"]).ok();
    let log = kubectl.run(&["logs", "worker"]).ok();
    assert_eq!(log, "counting primes below 1000000\nthere are 78498\n");
}
