//! `kubectl logs` of wasm containers, with stock kubectl of two versions.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use naru_tests::{Cluster, Kubectl, eventually};

fn pod(name: &str, restart: &str, args: &[&str]) -> String {
    format!(
        "\
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  restartPolicy: {restart}
  containers:
  - name: worker
    image: worker:v1
    args: {args:?}
"
    )
}

fn finished(kubectl: &Kubectl, name: &str) {
    kubectl
        .run(&["wait", "--for=jsonpath={.status.phase}=Succeeded", &format!("pod/{name}"), "--timeout=60s"])
        .ok();
}

#[test]
fn logs_are_cut_and_stamped_as_asked() {
    let cluster = Cluster::start();
    cluster.import_samples(&["worker"]);
    for (kubectl, name) in cluster.kubectls().iter().zip(["old", "new"]) {
        kubectl.apply(&pod(name, "Never", &["primes", "100"]));
        finished(kubectl, name);
        let logs = |args: &[&str]| kubectl.run(&[&["logs", name], args].concat()).ok();
        assert_eq!(logs(&[]), "counting primes below 100\nthere are 25\n");
        assert_eq!(logs(&["--tail=1"]), "there are 25\n");
        assert_eq!(logs(&["--since=1h"]), "counting primes below 100\nthere are 25\n");
        assert_eq!(logs(&["--limit-bytes=8"]), "counting");
        let stamped = logs(&["--timestamps"]);
        for line in stamped.lines() {
            let (time, _) = line.split_once(' ').expect("a time and a text");
            time.parse::<jiff::Timestamp>().unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        assert_eq!(logs(&["-c", "worker", "--tail=1"]), "there are 25\n");
        let refused = kubectl.run(&["logs", name, "-c", "nope"]).refused();
        assert!(refused.contains("container nope is not valid for pod"), "{refused}");
        assert!(kubectl.run(&["logs", "nobody"]).refused().contains("pods \"nobody\" not found"));
    }
}

#[test]
fn logs_are_followed_until_the_container_ends() {
    let cluster = Cluster::start();
    cluster.import_samples(&["worker"]);
    for (kubectl, name) in cluster.kubectls().iter().zip(["old", "new"]) {
        kubectl.apply(&pod(name, "Never", &["tick", "4"]));
        kubectl
            .run(&["wait", "--for=jsonpath={.status.phase}=Running", &format!("pod/{name}"), "--timeout=60s"])
            .ok();
        let mut follow = kubectl.command(&["logs", "-f", name]).stdout(Stdio::piped()).spawn().unwrap();
        let lines: Vec<String> =
            BufReader::new(follow.stdout.take().unwrap()).lines().map(|line| line.unwrap()).collect();
        assert_eq!(lines, ["tick 1", "tick 2", "tick 3", "tick 4"]);
        assert!(follow.wait().unwrap().success());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_previous_container_can_still_be_read() {
    let cluster = Cluster::start();
    cluster.import_samples(&["worker"]);
    let kubectl = cluster.kubectl();
    kubectl.apply(&pod("crash", "Always", &["exit", "7"]));
    eventually("the container was restarted", async || {
        let path = "jsonpath={.status.containerStatuses[0].restartCount}";
        let restarts = kubectl.run(&["get", "pod", "crash", "-o", path]).ok();
        if restarts.parse::<u32>().is_ok_and(|restarts| restarts >= 1) { Ok(()) } else { Err(restarts) }
    })
    .await;
    for kubectl in cluster.kubectls() {
        assert_eq!(kubectl.run(&["logs", "--previous", "crash"]).ok(), "leaving with exit code 7\n");
    }
    eventually("the pod is said to crash", async || {
        let pods = kubectl.run(&["get", "pods", "crash", "--no-headers"]).ok();
        if pods.contains("CrashLoopBackOff") { Ok(()) } else { Err(pods) }
    })
    .await;
    let code = "jsonpath={.status.containerStatuses[0].lastState.terminated.exitCode} \
                {.status.containerStatuses[0].lastState.terminated.reason}";
    assert_eq!(kubectl.run(&["get", "pod", "crash", "-o", code]).ok(), "7 Error");
    let described = kubectl.run(&["describe", "pod", "crash"]).ok();
    assert!(described.contains("Back-off restarting failed container worker in pod crash"), "{described}");
}

#[test]
fn a_pod_is_deleted_with_and_without_grace() {
    let cluster = Cluster::start();
    cluster.import_samples(&["worker"]);
    for (kubectl, name) in cluster.kubectls().iter().zip(["old", "new"]) {
        let running = |name: &str| {
            kubectl.apply(&pod(name, "Never", &["tick", "600"]));
            kubectl
                .run(&[
                    "wait",
                    "--for=jsonpath={.status.phase}=Running",
                    &format!("pod/{name}"),
                    "--timeout=60s",
                ])
                .ok();
        };
        running(name);
        kubectl.run(&["delete", "pod", name, "--grace-period=1", "--wait", "--timeout=60s"]).ok();
        assert!(kubectl.run(&["get", "pod", name]).refused().contains("NotFound"));
        running(name);
        let forced = kubectl.run(&["delete", "pod", name, "--grace-period=0", "--force"]);
        assert!(forced.clone().ok().contains("force deleted"), "{forced:?}");
        assert!(kubectl.run(&["get", "pod", name]).refused().contains("NotFound"));
    }
}
