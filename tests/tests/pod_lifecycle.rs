//! What happens to a pod between its start and its end: init containers, probes, hooks, restarts.

#[path = "../../wasi-shim/tests/shim/guest.rs"]
mod guest;

use guest::guest;
use naru_tests::{Cluster, Kubectl, eventually};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

const RESTARTS: &str = ".status.containerStatuses[0].restartCount";

fn cluster() -> (Cluster, Kubectl) {
    let cluster = Cluster::start();
    cluster.import(&guest("service02"), "service:v1");
    let kubectl = cluster.kubectl();
    (cluster, kubectl)
}

/// `path` of the pod's service, once it answers with 200.
async fn get(cluster: &Cluster, kubectl: &Kubectl, pod: &str, path: &str) -> String {
    let http = cluster.http();
    eventually(&format!("pod {pod} answers {path}"), async || {
        let ip = kubectl.pod_field(pod, ".status.podIP");
        let response = http.get(format!("http://{ip}:8080/{path}")).send().await;
        let response = response.map_err(|error| format!("{error:?}"))?;
        let status = response.status();
        let text = response.text().await.map_err(|error| format!("{error:?}"))?;
        if status == 200 { Ok(text) } else { Err(format!("{status}: {text}")) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_startup_probe_holds_back_the_others_and_a_failed_liveness_probe_restarts() {
    let (cluster, kubectl) = cluster();
    // Each probe asks for a file of the pod's volume, which outlives restarts.
    kubectl.apply(
        "\
apiVersion: v1
kind: Pod
metadata: {name: probed}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: web
    image: service:v1
    volumeMounts: [{name: data, mountPath: /data}]
    startupProbe:
      {httpGet: {path: /read-file/data/started, port: 8080}, periodSeconds: 1, failureThreshold: 60}
    livenessProbe:
      {httpGet: {path: /read-file/data/alive, port: 8080}, periodSeconds: 1, failureThreshold: 2}
    readinessProbe:
      {httpGet: {path: /read-file/data/started, port: 8080}, periodSeconds: 1}
  volumes: [{name: data, emptyDir: {}}]
",
    );
    eventually("the startup probe has failed several times", async || {
        let path = "jsonpath={range .items[?(@.reason=='Unhealthy')]}{.count} {.message}{\"\\n\"}{end}";
        let events = kubectl.run(&["get", "events", "-o", path]).ok();
        let count =
            events.lines().find_map(|line| line.split_once(" Startup probe failed")?.0.parse::<u32>().ok());
        if count.is_some_and(|count| count >= 3) { Ok(()) } else { Err(events) }
    })
    .await;
    // The liveness probe, which would have failed twice by now, has not been asked, nor has the readiness probe.
    let events = kubectl.events("probed");
    assert!(!events.contains("Liveness") && !events.contains("Readiness"), "{events}");
    let started = ".status.containerStatuses[0].started";
    assert_eq!(kubectl.pod_field("probed", started), "false");
    assert_eq!(kubectl.pod_field("probed", RESTARTS), "0");

    for file in ["alive", "started"] {
        get(&cluster, &kubectl, "probed", &format!("write-file/data/{file}")).await;
    }
    kubectl.run(&["wait", "--for=condition=Ready", "pod/probed", "--timeout=60s"]).ok();
    assert_eq!(kubectl.pod_field("probed", started), "true");

    get(&cluster, &kubectl, "probed", "remove-file/data/alive").await;
    kubectl.eventually_event("probed", "Container web failed liveness probe, will be restarted").await;
    kubectl
        .eventually_event(
            "probed",
            "Unhealthy: Liveness probe failed: HTTP probe failed with statuscode: 404",
        )
        .await;
    eventually("it is restarted", async || {
        let count = kubectl.pod_field("probed", RESTARTS);
        if count.parse::<u32>().is_ok_and(|count| count > 0) { Ok(()) } else { Err(count) }
    })
    .await;
    get(&cluster, &kubectl, "probed", "write-file/data/alive").await;
    kubectl.run(&["wait", "--for=condition=Ready", "pod/probed", "--timeout=60s"]).ok();
    // A service that was asked to end has ended well.
    let last = kubectl.pod_field("probed", ".status.containerStatuses[0].lastState.terminated.reason");
    assert_eq!(last, "Completed");
}

/// Answers every request with 200 and hands out its path.
async fn hook_server() -> (u16, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, paths) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap();
            let request = String::from_utf8_lossy(&request[..length]).into_owned();
            let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
            let _ =
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
            if sender.send(path).is_err() {
                return;
            }
        }
    });
    (port, paths)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hooks_run_after_the_start_and_before_the_end() {
    let (_cluster, kubectl) = cluster();
    let (port, mut calls) = hook_server().await;
    kubectl.apply(&format!(
        "\
apiVersion: v1
kind: Pod
metadata: {{name: hooked}}
spec:
  containers:
  - name: web
    image: service:v1
    lifecycle:
      postStart: {{httpGet: {{host: 127.0.0.1, port: {port}, path: /started}}}}
      preStop: {{httpGet: {{host: 127.0.0.1, port: {port}, path: /stopping}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: unhooked}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: web
    image: service:v1
    lifecycle:
      postStart: {{httpGet: {{port: 8080, path: /read-file/nothing}}}}
"
    ));
    kubectl.run(&["wait", "--for=condition=Ready", "pod/hooked", "--timeout=60s"]).ok();
    assert_eq!(calls.recv().await.unwrap(), "/started");
    assert!(calls.try_recv().is_err(), "it does not end yet");
    kubectl.run(&["delete", "pod", "hooked", "--timeout=60s"]).ok();
    assert_eq!(calls.recv().await.unwrap(), "/stopping");

    // A hook that fails takes its container with it.
    kubectl.eventually_event("unhooked", "FailedPostStartHook: PostStartHook failed: ").await;
    eventually("it is tried again", async || {
        let count = kubectl.pod_field("unhooked", RESTARTS);
        if count.parse::<u32>().is_ok_and(|count| count > 0) { Ok(()) } else { Err(count) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn init_containers_run_one_after_the_other_and_a_failed_one_ends_or_delays_the_pod() {
    let (cluster, kubectl) = cluster();
    cluster.import_samples(&["worker"]);
    // This one reads the file that it is told to, and writes it in the end.
    cluster.import(&guest("command02"), "reader:v1");
    let container = |name: &str| {
        format!(
            "  - {{name: {name}, image: 'reader:v1', args: [/data/new], volumeMounts: [{{name: data, mountPath: /data}}]}}\n"
        )
    };
    kubectl.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: ordered}}\nspec:\n  restartPolicy: Never\n  volumes: [{{name: data, \
         emptyDir: {{}}}}]\n  initContainers:\n{}{}  containers:\n{}",
        container("first"),
        container("second"),
        container("main")
    ));
    let failing = |name: &str, policy: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: {policy}\n  initContainers:\n  - {{name: \
             init, image: 'worker:v1', args: [exit, '3']}}\n  containers:\n  - {{name: main, image: 'worker:v1'}}\n"
        )
    };
    kubectl.apply(&failing("never", "Never"));
    kubectl.apply(&failing("always", "Always"));

    kubectl.eventually_field("ordered", ".status.phase", "Succeeded").await;
    let log = |container: &str| kubectl.run(&["logs", "ordered", "-c", container]).ok();
    assert!(log("first").contains("cannot read /data/new"), "{}", log("first"));
    for container in ["second", "main"] {
        assert!(log(container).contains("/data/new: new\n"), "{container}: {}", log(container));
    }
    let initialized = ".status.conditions[?(@.type==\"Initialized\")].status";
    assert_eq!(kubectl.pod_field("ordered", initialized), "True");

    kubectl.eventually_field("never", ".status.phase", "Failed").await;
    let ended = ".status.initContainerStatuses[0].state.terminated.exitCode";
    assert_eq!(kubectl.pod_field("never", ended), "3");
    let line = kubectl.run(&["get", "pod", "never", "--no-headers"]).ok();
    assert!(line.contains("Init:Error"), "{line}");

    eventually("the other one is tried again and again", async || {
        let line = kubectl.run(&["get", "pod", "always", "--no-headers"]).ok();
        if line.contains("Init:CrashLoopBackOff") { Ok(()) } else { Err(line) }
    })
    .await;
    assert_eq!(kubectl.pod_field("always", ".status.phase"), "Pending");
    let main = ".status.containerStatuses[0].state.waiting.reason";
    for pod in ["never", "always"] {
        let state = kubectl.pod_field(pod, ".status.containerStatuses[0].state");
        assert!(
            !state.contains("running") && !kubectl.events(pod).contains("Started container main"),
            "{pod}: {state}"
        );
    }
    assert_eq!(kubectl.pod_field("always", main), "PodInitializing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn last_words_come_from_a_file_or_from_the_log() {
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    cluster.import(&guest("command02"), "reader:v1");
    let pod = |name: &str, fields: &str, env: &[(&str, &str)]| {
        let env: Vec<_> =
            env.iter().map(|(name, value)| format!("{{name: {name}, value: {value:?}}}")).collect();
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n  containers:\n  - {{name: main, \
             image: 'reader:v1', {fields} env: [{}]}}\n---\n",
            env.join(", ")
        )
    };
    let by_log = "terminationMessagePolicy: FallbackToLogsOnError,";
    kubectl.apply(
        &[
            pod("default", "", &[("LAST_WORDS_TO", "/dev/termination-log")]),
            pod(
                "chosen",
                "terminationMessagePath: /tmp/said,",
                &[("LAST_WORDS_TO", "/tmp/said"), ("EXIT_CODE", "1")],
            ),
            pod("logged", by_log, &[("EXIT_CODE", "1")]),
            pod("well", by_log, &[]),
            pod("silent", "", &[("EXIT_CODE", "1")]),
        ]
        .concat(),
    );
    for (pod, phase) in [
        ("default", "Succeeded"),
        ("chosen", "Failed"),
        ("logged", "Failed"),
        ("well", "Succeeded"),
        ("silent", "Failed"),
    ] {
        kubectl.eventually_field(pod, ".status.phase", phase).await;
    }
    let message = |pod: &str| kubectl.pod_field(pod, ".status.containerStatuses[0].state.terminated.message");
    assert_eq!(message("default"), "that was all");
    assert_eq!(message("chosen"), "that was all");
    assert!(
        message("logged").contains("stdin: 0 bytes") && message("logged").ends_with("done\n"),
        "{}",
        message("logged")
    );
    assert_eq!(message("well"), "");
    assert_eq!(message("silent"), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_sees_its_volumes_and_what_becomes_of_them() {
    let (cluster, kubectl) = cluster();
    kubectl
        .run(&["create", "configmap", "settings", "--from-literal=colour=blue", "--from-literal=size=9"])
        .ok();
    kubectl.run(&["create", "secret", "generic", "keys", "--from-literal=token=s3cret"]).ok();
    kubectl.apply(
        "\
apiVersion: v1
kind: Pod
metadata: {name: mounted, labels: {tier: front}}
spec:
  containers:
  - name: web
    image: service:v1
    resources: {limits: {memory: 64Mi}}
    volumeMounts:
    - {name: scratch, mountPath: /scratch}
    - {name: settings, mountPath: /etc/settings}
    - {name: keys, mountPath: /etc/keys}
    - {name: about, mountPath: /etc/about}
    - {name: all, mountPath: /etc/all, readOnly: true}
    - {name: settings, mountPath: /opt/app/colour.txt, subPath: colour}
  volumes:
  - {name: scratch, emptyDir: {}}
  - {name: settings, configMap: {name: settings}}
  - {name: keys, secret: {secretName: keys, items: [{key: token, path: deep/token}]}}
  - name: about
    downwardAPI:
      items:
      - {path: labels, fieldRef: {fieldPath: metadata.labels}}
      - {path: memory, resourceFieldRef: {containerName: web, resource: limits.memory}}
  - name: all
    projected:
      sources:
      - {configMap: {name: settings, items: [{key: size, path: size}]}}
      - {secret: {name: keys}}
      - {downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}
",
    );
    kubectl.run(&["wait", "--for=condition=Ready", "pod/mounted", "--timeout=60s"]).ok();
    let read = async |path: &str| get(&cluster, &kubectl, "mounted", &format!("read-file{path}")).await;
    for (path, text) in [
        ("/etc/settings/colour", "blue"),
        ("/etc/keys/deep/token", "s3cret"),
        ("/etc/about/labels", "tier=\"front\""),
        ("/etc/about/memory", "67108864"),
        ("/etc/all/size", "9"),
        ("/etc/all/token", "s3cret"),
        ("/etc/all/name", "mounted"),
        ("/opt/app/colour.txt", "blue"),
    ] {
        assert_eq!(read(path).await.trim_end(), text, "{path}");
    }
    get(&cluster, &kubectl, "mounted", "write-file/scratch/note").await;
    assert_eq!(read("/scratch/note").await, "written");

    // Text from the API cannot be written, but it follows the API.
    let ip = kubectl.pod_field("mounted", ".status.podIP");
    let refused =
        cluster.http().get(format!("http://{ip}:8080/write-file/etc/settings/colour")).send().await.unwrap();
    assert_eq!(refused.status(), 404);
    kubectl.run(&["patch", "configmap", "settings", "-p", "{\"data\":{\"colour\":\"green\"}}"]).ok();
    kubectl.run(&["label", "pod", "mounted", "tier=back", "--overwrite"]).ok();
    for (path, text) in [("/etc/settings/colour", "green"), ("/etc/about/labels", "tier=\"back\"")] {
        eventually(&format!("{path} is {text}"), async || {
            let now = read(path).await;
            if now.trim_end() == text { Ok(()) } else { Err(now) }
        })
        .await;
    }

    // What a volume needs and does not get is told, and mended later.
    kubectl.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: waits}\nspec:\n  containers: [{name: web, image: 'service:v1', volumeMounts: \
         [{name: late, mountPath: /late}]}]\n  volumes: [{name: late, configMap: {name: late}}]\n",
    );
    kubectl.eventually_event("waits", "configmap \"late\" not found").await;
    kubectl.run(&["create", "configmap", "late", "--from-literal=a=b"]).ok();
    kubectl.run(&["wait", "--for=condition=Ready", "pod/waits", "--timeout=60s"]).ok();
    assert_eq!(get(&cluster, &kubectl, "waits", "read-file/late/a").await, "b");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_runs_by_the_handler_of_its_class_which_must_exist() {
    let (cluster, kubectl) = cluster();
    let class = r#"--overrides={"spec":{"runtimeClassName":"sealed"}}"#;
    let run = ["run", "sealed", "--image=service:v1", "--port=8080", class];
    let why = kubectl.run(&run).refused();
    let expected = "pods \"sealed\" is forbidden: pod rejected: RuntimeClass \"sealed\" not found";
    assert!(why.contains(expected), "{why}");
    kubectl.apply(
        "{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: sealed}, handler: wasmtime}",
    );
    kubectl.run(&run).ok();
    get(&cluster, &kubectl, "sealed", "").await;
    // Names that others use need no object.
    let spin = r#"--overrides={"spec":{"runtimeClassName":"wasmtime-spin-v2"}}"#;
    kubectl.run(&["run", "spin", "--image=service:v1", "--port=8080", spin]).ok();
    get(&cluster, &kubectl, "spin", "").await;

    // What leads nowhere is told as by a real API server.
    let lost = "Error from server (NotFound): the server could not find the requested resource";
    for path in ["/nowhere", "/apis/none/v1/things", "/apis/apps/v1/things"] {
        assert_eq!(kubectl.run(&["get", "--raw", path]).refused().trim(), lost, "{path}");
    }
    let unknown = kubectl.run(&["get", "things.v1.none"]).refused();
    assert!(unknown.contains("the server doesn't have a resource type \"things\""), "{unknown}");
}
