//! `naru up` and its siblings on the command line: starting, stopping, resuming, and refusing in words.

use std::process::{Command, Stdio};

use naru_tests::{Cluster, Options, eventually, naru_binary};

#[test]
fn a_second_start_resumes_the_same_cluster() {
    let mut cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    kubectl.run(&["create", "configmap", "kept", "--from-literal=a=b"]).ok();
    let uid = kubectl.run(&["get", "cm", "kept", "-o", "jsonpath={.metadata.uid}"]).ok();
    let node = kubectl.run(&["get", "nodes", "-o", "jsonpath={.items[*].metadata.uid}"]).ok();

    assert_eq!(cluster.stop(), 0, "{}", cluster.log());
    cluster.up();
    let kubectl = cluster.kubectl();
    assert_eq!(kubectl.run(&["get", "cm", "kept", "-o", "jsonpath={.metadata.uid}"]).ok(), uid);
    assert_eq!(kubectl.run(&["get", "nodes", "-o", "jsonpath={.items[*].metadata.uid}"]).ok(), node);

    // The same after a crash.
    cluster.kill();
    cluster.up();
    let kubectl = cluster.kubectl();
    assert_eq!(kubectl.run(&["get", "cm", "kept", "-o", "jsonpath={.metadata.uid}"]).ok(), uid);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_nodes_run_on_one_machine_and_share_the_pods() {
    let cluster = Cluster::start_with(Options { nodes: 3, ..Options::default() });
    let kubectl = cluster.kubectl();
    let nodes = kubectl.run(&["get", "nodes", "--no-headers"]).ok();
    assert_eq!(nodes.lines().count(), 3, "{nodes}");
    assert!(nodes.lines().all(|line| line.split_whitespace().nth(1) == Some("Ready")), "{nodes}");

    cluster.import_samples(&["hello", "hello-p3"]);
    kubectl.apply(include_str!("../../samples/manifests/hello.yaml"));
    kubectl.run(&["rollout", "status", "deployment/hello", "--timeout=60s"]).ok();
    let homes =
        kubectl.run(&["get", "pods", "-l", "app=hello", "-o", "jsonpath={.items[*].spec.nodeName}"]).ok();
    let homes: std::collections::BTreeSet<_> = homes.split_whitespace().collect();
    assert_eq!(homes.len(), 3, "{homes:?}");

    // A pod on any node is reached through the service.
    let ip = kubectl.run(&["get", "svc", "hello", "-o", "jsonpath={.spec.clusterIP}"]).ok();
    let mut seen = std::collections::BTreeSet::new();
    eventually("every pod answers through the service", async || {
        let response =
            cluster.http().get(format!("http://{ip}/")).send().await.map_err(|error| error.to_string())?;
        seen.insert(response.text().await.map_err(|error| error.to_string())?);
        if seen.len() == 3 { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
}

#[test]
fn manifests_named_at_the_start_are_applied() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("manifest.yaml");
    let manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: early}\ndata: {a: b}\n---\napiVersion: v1\nkind: \
                    Namespace\nmetadata: {name: shop}\n";
    std::fs::write(&file, manifest).unwrap();
    let args = vec!["-f".to_owned(), file.to_string_lossy().into_owned()];
    let cluster = Cluster::start_with(Options { args, ..Options::default() });
    cluster.kubectl().run(&["get", "cm", "early"]).ok();
    cluster.kubectl().run(&["get", "ns", "shop"]).ok();
}

/// Runs `naru ARGS`, which must end with `code`, and answers its standard error.
fn refused(args: &[&str], code: i32) -> String {
    let output = Command::new(naru_binary())
        .args(args)
        .env("HOME", "/nonexistent")
        .stdin(Stdio::null())
        .output()
        .expect("naru starts");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    stderr
}

#[test]
fn a_data_directory_in_use_is_refused_and_the_first_cluster_unharmed() {
    let cluster = Cluster::start();
    let dir = cluster.data_dir();
    let error = refused(&["up", "--listen", "127.0.0.1:0", "--data-dir", &dir.to_string_lossy()], 1);
    assert!(error.contains("in use"), "{error}");
    assert_eq!(error.lines().count(), 1, "one sentence: {error}");
    cluster.kubectl().run(&["get", "nodes"]).ok();
}

#[test]
fn a_data_directory_that_cannot_be_written_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a-file");
    std::fs::write(&file, "no folder").unwrap();
    let error =
        refused(&["up", "--listen", "127.0.0.1:0", "--data-dir", &file.join("data").to_string_lossy()], 1);
    assert!(error.contains("a-file"), "{error}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "no folder");
}

#[test]
fn a_port_that_is_taken_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let error =
        refused(&["up", "--listen", &address, "--data-dir", &dir.path().join("d").to_string_lossy()], 1);
    assert!(error.contains(&address), "{error}");
}

#[test]
fn usage_errors_end_with_2() {
    refused(&["up", "--nodes", "0"], 2);
    refused(&["frobnicate"], 2);
    refused(&["image", "import"], 2);
}

#[test]
fn commands_without_a_cluster_say_how_to_get_one() {
    let error = refused(&["image", "ls"], 1);
    assert!(error.contains("naru up"), "{error}");
    let error = refused(&["kubeconfig", "--data-dir", "/nonexistent/naru"], 1);
    assert!(error.contains("naru up"), "{error}");
}

#[test]
fn the_small_commands_answer() {
    let cluster = Cluster::start();
    let version = cluster.naru(&["version"]).ok();
    assert!(version.contains("Kubernetes v1.37."), "{version}");
    let json: serde_json::Value = serde_json::from_str(&cluster.naru(&["version", "--json"]).ok()).unwrap();
    assert!(json["kubernetes"].as_str().unwrap().starts_with("v1.37."));
    let data_dir = cluster.data_dir();
    let kubeconfig = cluster.naru(&["kubeconfig", "--data-dir", &data_dir.to_string_lossy()]).ok();
    assert_eq!(kubeconfig, std::fs::read_to_string(cluster.kubeconfig()).unwrap());
    for shell in ["bash", "zsh", "fish"] {
        assert!(cluster.naru(&["completion", shell]).ok().contains("naru"));
    }
}
