//! `kubectl debug`: ephemeral containers in running pods.

use naru_tests::{Cluster, Kubectl, eventually};
use serde_json::Value;

const WEB: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: NAME}
spec:
  containers:
  - {name: web, image: 'hello:v1', ports: [{containerPort: 8080}]}
";

/// The status of the pod's ephemeral container `name`.
fn status(kubectl: &Kubectl, pod: &str, name: &str) -> Value {
    let text = kubectl.run(&["get", "pod", pod, "-o", "json"]).ok();
    let pod: Value = serde_json::from_str(&text).expect("JSON");
    let statuses = pod["status"]["ephemeralContainerStatuses"].as_array().cloned().unwrap_or_default();
    statuses.into_iter().find(|status| status["name"] == name).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_pod_is_debugged_with_containers_of_its_own() {
    let cluster = Cluster::start();
    cluster.import_samples(&["hello", "worker"]);
    for (kubectl, pod) in cluster.kubectls().iter().zip(["old", "new"]) {
        kubectl.apply(&WEB.replace("NAME", pod));
        kubectl.run(&["wait", "--for=condition=Ready", &format!("pod/{pod}"), "--timeout=60s"]).ok();
        let debug = |container: &str, image: &str, args: &[&str]| {
            let head = ["debug", pod, "--image", image, "-c", container, "--target=web", "--attach=false"];
            kubectl.run(&[&head, &["--profile=general", "--arguments-only", "--"][..], args].concat()).ok()
        };

        // One that does its work and ends is not started again, and says what it did.
        debug("count", "worker:v1", &["primes", "100"]);
        eventually("it has ended", async || {
            let state = status(kubectl, pod, "count")["state"].clone();
            if state["terminated"]["reason"] == "Completed" { Ok(()) } else { Err(state) }
        })
        .await;
        let logs = || kubectl.run(&["logs", pod, "-c", "count"]).ok();
        assert_eq!(logs(), "counting primes below 100\nthere are 25\n");

        // One that runs can be asked to run something else, and be listened to.
        debug("clock", "worker:v1", &["tick", "600"]);
        eventually("it runs", async || {
            let status = status(kubectl, pod, "clock");
            if status["state"]["running"].is_object() { Ok(()) } else { Err(status) }
        })
        .await;
        let said = kubectl.run(&["exec", pod, "-c", "clock", "--", "worker", "primes", "10"]).ok();
        assert_eq!(said, "counting primes below 10\nthere are 4\n");

        // One that is attached to says what it says here, too.
        let attached =
            ["debug", pod, "-i", "--image=worker:v1", "-c", "said", "--arguments-only", "--", "tick", "3"];
        let said = kubectl.run(&attached).ok();
        assert!(said.ends_with("tick 3\n"), "{said}");

        // One without an image says so, and the pod goes on.
        debug("lost", "localhost:1/nobody:v1", &[]);
        eventually("it waits for its image", async || {
            let state = status(kubectl, pod, "lost")["state"].clone();
            let reason = state["waiting"]["reason"].as_str().unwrap_or_default().to_owned();
            if ["ErrImagePull", "ImagePullBackOff"].contains(&&*reason) { Ok(()) } else { Err(state) }
        })
        .await;
        let field = |path: &str| kubectl.pod_field(pod, path);
        assert_eq!(field(".status.phase"), "Running");
        assert_eq!(field(".status.conditions[?(@.type=='Ready')].status"), "True");
        assert_eq!(field(".status.containerStatuses[*].restartCount"), "0");
        assert_eq!(status(kubectl, pod, "count")["restartCount"], 0);
        assert_eq!(logs(), "counting primes below 100\nthere are 25\n", "it ran once");
        let events = kubectl.events(pod);
        assert!(events.contains("Started container clock"), "{events}");
        let address = field(".status.podIP");
        let answer = cluster.http().get(format!("http://{address}:8080/")).send().await.expect("an answer");
        assert_eq!(answer.status(), 200);
        // They end with it.
        kubectl.run(&["delete", "pod", pod, "--grace-period=1", "--timeout=60s"]).ok();
    }
}
