//! Stock kubectl, two versions, on rollouts of running wasm pods.

use naru_tests::{Cluster, Kubectl, eventually};

fn web(replicas: u32, image: &str) -> String {
    format!(
        "\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      containers:
      - name: web
        image: {image}
        imagePullPolicy: IfNotPresent
        ports: [{{containerPort: 8080}}]
"
    )
}

/// A cluster with `hello:v1` and `hello:v2`, and a kubectl.
fn cluster() -> Cluster {
    let cluster = Cluster::start();
    cluster.import_samples(&["hello"]);
    cluster.import(&naru_tests::sample("hello"), "hello:v2");
    cluster
}

fn settled(kubectl: &Kubectl) {
    kubectl.run(&["rollout", "status", "deploy/web", "--timeout=60s"]).ok();
}

fn get(kubectl: &Kubectl, path: &str) -> String {
    kubectl.run(&["get", "deploy", "web", "-o", &format!("jsonpath={path}")]).ok()
}

#[test]
fn a_new_image_rolls_out_and_undo_brings_the_old_one_back() {
    let cluster = cluster();
    for kubectl in cluster.kubectls() {
        kubectl.apply(&web(3, "hello:v1"));
        settled(&kubectl);
        kubectl.run(&["set", "image", "deploy/web", "web=hello:v2"]).ok();
        let status = kubectl.run(&["rollout", "status", "deploy/web", "--timeout=60s"]).ok();
        assert!(status.contains("successfully rolled out"), "{status}");
        let images = kubectl.run(&[
            "get",
            "pods",
            "-l",
            "app=web",
            "-o",
            "jsonpath={.items[*].spec.containers[0].image}",
        ]);
        assert!(images.ok().contains("hello:v2"));

        let history = kubectl.run(&["rollout", "history", "deploy/web"]).ok();
        assert!(
            history.contains("REVISION") && history.lines().any(|line| line.starts_with("2 ")),
            "{history}"
        );
        let second = kubectl.run(&["rollout", "history", "deploy/web", "--revision=2"]).ok();
        assert!(second.contains("hello:v2"), "{second}");

        kubectl.run(&["rollout", "undo", "deploy/web"]).ok();
        settled(&kubectl);
        assert_eq!(get(&kubectl, "{.spec.template.spec.containers[0].image}"), "hello:v1");
        assert_eq!(get(&kubectl, "{.metadata.annotations.deployment\\.kubernetes\\.io/revision}"), "3");
        kubectl.run(&["rollout", "undo", "deploy/web", "--to-revision=2"]).ok();
        settled(&kubectl);
        assert_eq!(get(&kubectl, "{.spec.template.spec.containers[0].image}"), "hello:v2");
        kubectl.run(&["delete", "deploy", "web", "--cascade=foreground", "--timeout=60s"]).ok();
    }
}

#[test]
fn restart_replaces_every_pod() {
    let cluster = cluster();
    for kubectl in cluster.kubectls() {
        kubectl.apply(&web(2, "hello:v1"));
        settled(&kubectl);
        let pods = || {
            kubectl
                .run(&[
                    "get",
                    "rs",
                    "-l",
                    "app=web",
                    "-o",
                    "jsonpath={.items[?(@.spec.replicas>0)].metadata.name}",
                ])
                .ok()
        };
        let before = pods();
        kubectl.run(&["rollout", "restart", "deploy/web"]).ok();
        settled(&kubectl);
        assert_ne!(pods(), before);
        kubectl.run(&["delete", "deploy", "web", "--cascade=foreground", "--timeout=60s"]).ok();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_rollout_waits_until_it_is_resumed() {
    let cluster = cluster();
    for kubectl in cluster.kubectls() {
        kubectl.apply(&web(2, "hello:v1"));
        settled(&kubectl);
        kubectl.run(&["rollout", "pause", "deploy/web"]).ok();
        kubectl.run(&["set", "image", "deploy/web", "web=hello:v2"]).ok();
        eventually("the controller has seen the change", async || {
            let seen = get(&kubectl, "{.status.observedGeneration} {.metadata.generation}");
            let mut parts = seen.split(' ');
            if parts.next() == parts.next() { Ok(()) } else { Err(seen) }
        })
        .await;
        let reason = get(&kubectl, "{.status.conditions[?(@.type==\"Progressing\")].reason}");
        assert_eq!(reason, "DeploymentPaused");
        assert_eq!(
            get(&kubectl, "{.status.updatedReplicas}"),
            "",
            "nothing is rolled out while it is paused"
        );
        kubectl.run(&["rollout", "resume", "deploy/web"]).ok();
        settled(&kubectl);
        assert_eq!(get(&kubectl, "{.status.updatedReplicas}"), "2");
        kubectl.run(&["delete", "deploy", "web", "--cascade=foreground", "--timeout=60s"]).ok();
    }
}

#[test]
fn scale_adds_and_removes_pods() {
    let cluster = cluster();
    for kubectl in cluster.kubectls() {
        kubectl.apply(&web(1, "hello:v1"));
        settled(&kubectl);
        kubectl.run(&["scale", "deploy/web", "--replicas=5"]).ok();
        settled(&kubectl);
        assert_eq!(get(&kubectl, "{.status.readyReplicas}"), "5");
        kubectl.run(&["scale", "deploy/web", "--replicas=0"]).ok();
        kubectl.run(&["wait", "--for=delete", "pod", "-l", "app=web", "--timeout=60s"]).ok();
        kubectl.run(&["delete", "deploy", "web", "--cascade=foreground", "--timeout=60s"]).ok();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_does_not_exist_stops_the_rollout_and_the_old_pods_go_on() {
    let cluster = cluster();
    let kubectl = cluster.kubectl();
    kubectl.apply(&web(2, "hello:v1"));
    settled(&kubectl);
    kubectl.run(&["patch", "deploy", "web", "-p", r#"{"spec":{"progressDeadlineSeconds":3}}"#]).ok();
    kubectl.run(&["set", "image", "deploy/web", "web=localhost:1/nope:v1"]).ok();
    let refused = kubectl.run(&["rollout", "status", "deploy/web", "--timeout=60s"]).refused();
    assert!(refused.contains("exceeded its progress deadline"), "{refused}");
    eventually("the pod says why it waits", async || {
        let pods = kubectl.run(&["get", "pods", "-l", "app=web", "--no-headers"]).ok();
        if pods.contains("ErrImagePull") || pods.contains("ImagePullBackOff") { Ok(()) } else { Err(pods) }
    })
    .await;
    assert_eq!(get(&kubectl, "{.status.availableReplicas}"), "2");
    let events = kubectl.run(&["get", "events", "--field-selector", "reason=Failed"]).ok();
    assert!(events.contains("localhost:1/nope:v1"), "{events}");
}
