//! Resizes in place: `kubectl patch --subresource resize`, and what becomes of it.

use naru_tests::{Cluster, Kubectl, eventually, write_guest};

/// Computes for ever, with 10 MiB of memory.
const BURNER: &str =
    r#"(module (memory (export "memory") 160) (func (export "_start") (loop $on (br $on))))"#;

const PODS: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: NAME}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: fire
    image: burner:v1
    resources: {requests: {cpu: 100m, memory: 16Mi}, limits: {cpu: 100m, memory: 16Mi}}
    resizePolicy: [{resourceName: cpu, restartPolicy: NotRequired}, {resourceName: memory, restartPolicy: POLICY}]
";

/// Asks for other amounts, requests and limits alike.
fn resize(kubectl: &Kubectl, pod: &str, resource: &str, amount: &str) {
    let amounts = format!(r#"{{"{resource}":"{amount}"}}"#);
    let resources = format!(r#"{{"requests":{amounts},"limits":{amounts}}}"#);
    let patch = format!(r#"{{"spec":{{"containers":[{{"name":"fire","resources":{resources}}}]}}}}"#);
    kubectl.run(&["patch", "pod", pod, "--subresource", "resize", "-p", &patch]).ok();
}

const SIZE: &str = "{.status.containerStatuses[0].resources.limits.cpu} \
                    {.status.containerStatuses[0].allocatedResources.memory} \
                    {.status.containerStatuses[0].restartCount}";

/// Waits until the container has these amounts and was started again so often.
async fn eventually_has(kubectl: &Kubectl, pod: &str, expected: &str) {
    eventually(&format!("{pod} has {expected}"), async || {
        let size = kubectl.run(&["get", "pod", pod, "-o", &format!("jsonpath={SIZE}")]).ok();
        if size == expected { Ok(()) } else { Err(size) }
    })
    .await;
}

/// Waits for what a condition of the pod says: `REASON: MESSAGE`, or nothing where there is none.
async fn eventually_told(kubectl: &Kubectl, pod: &str, kind: &str, reason: &str, message: &str) {
    let path = |field: &str| format!("{{.status.conditions[?(@.type=='{kind}')].{field}}}");
    let path = format!("jsonpath={}: {}", path("reason"), path("message"));
    eventually(&format!("{kind} of {pod} says {reason}"), async || {
        let told = kubectl.run(&["get", "pod", pod, "-o", &path]).ok();
        if told.starts_with(&format!("{reason}: ")) && told.contains(message) { Ok(()) } else { Err(told) }
    })
    .await;
}

/// Waits for an event of the pod.
async fn eventually_told_of(kubectl: &Kubectl, pod: &str, reason: &str, message: &str) {
    let selector = format!("involvedObject.name={pod},reason={reason}");
    let path = "jsonpath={range .items[*]}{.type} {.message}{\"\\n\"}{end}";
    eventually(&format!("{reason} of {pod}"), async || {
        let told = kubectl.run(&["get", "events", "--field-selector", &selector, "-o", path]).ok();
        if told.lines().any(|line| line == message) { Ok(()) } else { Err(told) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_container_gets_another_size() {
    let cluster = Cluster::start();
    let wasm = wat::parse_str(BURNER).expect("a module");
    cluster.import(&write_guest(cluster.temp_dir(), "burner.wasm", &wasm), "burner:v1");
    for (kubectl, pod) in cluster.kubectls().iter().zip(["old", "new"]) {
        let stays = format!("{pod}-stays");
        let pods = [(pod, "RestartContainer"), (&*stays, "NotRequired")];
        kubectl.apply(
            &pods.map(|(name, policy)| PODS.replace("NAME", name).replace("POLICY", policy)).join("---\n"),
        );
        let names = [format!("pod/{pod}"), format!("pod/{stays}")];
        kubectl.run(&["wait", "--for=condition=Ready", &names[0], &names[1], "--timeout=60s"]).ok();
        eventually_has(kubectl, pod, "100m 16Mi 0").await;

        // Without a start where that is not needed, with one where it is.
        resize(kubectl, pod, "cpu", "300m");
        eventually_has(kubectl, pod, "300m 16Mi 0").await;
        let sizes = r#"{"containers":[{"name":"fire","resources":{"limits":{"cpu":"300m","memory":"16Mi"},"requests":{"cpu":"300m","memory":"16Mi"}}}],"generation":2}"#;
        for (reason, what) in [("ResizeStarted", "started"), ("ResizeCompleted", "completed")] {
            eventually_told_of(kubectl, pod, reason, &format!("Normal Pod resize {what}: {sizes}")).await;
        }
        resize(kubectl, pod, "memory", "32Mi");
        eventually_has(kubectl, pod, "300m 32Mi 1").await;
        resize(kubectl, &stays, "memory", "32Mi");
        eventually_has(kubectl, &stays, "100m 32Mi 0").await;

        // More than the node has is never given, and what was asked for can be taken back.
        resize(kubectl, pod, "cpu", "1000");
        let why = "Node didn't have enough capacity: cpu, requested: 1000000, capacity: ";
        eventually_told(kubectl, pod, "PodResizePending", "Infeasible", why).await;
        eventually_has(kubectl, pod, "300m 32Mi 1").await;
        resize(kubectl, pod, "cpu", "200m");
        eventually_told(kubectl, pod, "PodResizePending", "", "").await;
        eventually_has(kubectl, pod, "200m 32Mi 1").await;

        // Memory that is in use cannot be taken away: the container keeps its limit, and somebody says why.
        resize(kubectl, &stays, "memory", "4Mi");
        let why = "the memory limit cannot be 4194304 bytes: the container uses 10485760";
        eventually_told(kubectl, &stays, "PodResizeInProgress", "Error", why).await;
        let limit = kubectl.pod_field(&stays, ".status.containerStatuses[0].resources.limits.memory");
        assert_eq!(limit, "32Mi");
        resize(kubectl, &stays, "memory", "64Mi");
        eventually_has(kubectl, &stays, "100m 64Mi 0").await;
        eventually_told(kubectl, &stays, "PodResizeInProgress", "", "").await;

        // What does not fit beside another pod waits until that is gone.
        let capacity =
            kubectl.run(&["get", "nodes", "-o", "jsonpath={.items[0].status.allocatable.cpu}"]).ok();
        let nearly_all = format!("{}m", capacity.parse::<u32>().expect("whole CPUs") * 1000 - 50);
        resize(kubectl, pod, "cpu", &nearly_all);
        let why = "Node didn't have enough resource: cpu, requested: ";
        eventually_told(kubectl, pod, "PodResizePending", "Deferred", why).await;
        eventually_has(kubectl, pod, "200m 32Mi 1").await;
        kubectl.run(&["delete", "pod", &stays, "--timeout=60s"]).ok();
        eventually_has(kubectl, pod, &format!("{nearly_all} 32Mi 1")).await;
        kubectl.run(&["delete", "pod", pod, "--timeout=60s"]).ok();
    }
}
