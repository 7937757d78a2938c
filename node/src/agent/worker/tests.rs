use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::agent::{
    fakes::{FakeCluster, FakeRuntime, TempDir},
    identity::Directories,
    inbox::Report,
    resources::Allocatable,
    shared::NodeIdentity,
};

struct World {
    runtime: Arc<FakeRuntime>,
    cluster: Arc<FakeCluster>,
    shared: Arc<Shared>,
    inbox: Arc<Inbox>,
    task: Option<JoinHandle<()>>,
    pod: Value,
    shutdown: CancellationToken,
    _directory: TempDir,
}

fn world(spec: Value) -> World {
    let (runtime, cluster) = (Arc::new(FakeRuntime::with_image("x")), Arc::new(FakeCluster::default()));
    let directory = TempDir::new().unwrap();
    let shutdown = CancellationToken::new();
    let node = NodeIdentity {
        node_name: "n1".into(),
        node_addresses: vec!["127.7.255.1".into()],
        cluster_domain: "cluster.local".into(),
        directories: Directories::new(directory.path()),
        allocatable: Allocatable { cpu_millis: 1000, ..Allocatable::default() },
        is_machine_shared: false,
    };
    let shared = Arc::new(Shared::new(node, runtime.clone(), cluster.clone(), &shutdown));
    shared.services.set_synced();
    tokio::spawn(shared.statuses.clone().run(shutdown.clone()));
    let mut spec = spec;
    let containers = json!([{ "name": "web", "image": "x" }]);
    spec.as_object_mut().unwrap().entry("containers").or_insert(containers);
    let pod = json!({ "metadata": { "name": "p", "namespace": "ns", "uid": "u" }, "spec": spec });
    let inbox = Arc::new(Inbox::default());
    World { runtime, cluster, shared, inbox, task: None, pod, shutdown, _directory: directory }
}

impl World {
    fn start(mut self) -> Self {
        let worker = Worker::new(self.shared.clone(), self.inbox.clone(), self.view(), Vec::new());
        self.task = Some(tokio::spawn(worker.run()));
        self
    }

    fn view(&self) -> PodView {
        PodView::new(Arc::new(serde_json::from_value(self.pod.clone()).unwrap())).unwrap()
    }

    fn exit(&self, container: &str, exit_code: i32) {
        self.runtime.exit(container, exit_code);
        self.inbox.push_dirty(0);
    }

    fn delete(&mut self, grace_seconds: i64) {
        self.pod["metadata"]["deletionTimestamp"] = json!("2026-11-21T10:00:00Z");
        self.pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace_seconds);
        self.inbox.push_pod(self.view());
    }

    async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !condition(self) {
            let (calls, status) = (self.runtime.calls(), self.cluster.last_status());
            assert!(Instant::now() < deadline, "{what} never came: {calls:?} {status}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn until_status(&self, pointer: &str, expected: &str) {
        let has = |world: &Self| {
            world.cluster.last_status().pointer(pointer).and_then(Value::as_str) == Some(expected)
        };
        self.until(&format!("{pointer} {expected}"), has).await;
    }

    async fn until_told(&self, line: &str) {
        self.until(line, |world| world.cluster.told().iter().any(|told| told == line)).await;
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

#[tokio::test]
async fn a_pod_that_starts_quickly_costs_one_status_write() {
    let world = world(json!({})).start();
    world.until_status("/phase", "Running").await;
    assert_eq!(world.cluster.statuses.lock().unwrap().len(), 1);
    assert_eq!(world.runtime.calls(), ["sandbox", "create web", "start web"]);
    for line in [
        "Pulled: Container image \"x\" already present on machine",
        "Created: Created container: web",
        "Started: Started container web",
    ] {
        world.until_told(line).await;
    }
}

#[tokio::test]
async fn a_deleted_pod_is_stopped_told_and_removed() {
    let mut world = world(json!({})).start();
    world.until_status("/phase", "Running").await;
    world.delete(5);
    world.until("the deletion", |world| world.cluster.deleted.lock().unwrap().len() == 1).await;
    assert_eq!(world.runtime.count("stop web 5"), 1);
    assert_eq!(world.cluster.last_status()["phase"], "Failed");
    let end = world.cluster.last_status()["containerStatuses"][0]["state"]["terminated"].clone();
    assert_eq!(end["exitCode"], 143);
    assert_eq!(world.runtime.count("remove sandbox"), 0);
    world.inbox.push_gone();
    tokio::time::timeout(Duration::from_secs(10), world.task.take().unwrap()).await.unwrap().unwrap();
    assert_eq!(world.runtime.count("remove sandbox"), 1);
}

#[tokio::test]
async fn a_container_that_ends_is_restarted_at_once_and_then_backs_off() {
    let world = world(json!({ "restartPolicy": "Always" })).start();
    world.until_status("/phase", "Running").await;
    world.exit("web", 1);
    world.until("the restart", |world| world.runtime.count("start web") == 2).await;
    world.exit("web", 1);
    world.until_status("/containerStatuses/0/state/waiting/reason", "CrashLoopBackOff").await;
    let message = "back-off 10s restarting failed container=web pod=p_ns(u)";
    world.until_status("/containerStatuses/0/state/waiting/message", message).await;
    world.until_told("BackOff: Back-off restarting failed container web in pod p_ns(u)").await;
    assert_eq!(world.cluster.last_status()["containerStatuses"][0]["restartCount"], 1);
    assert_eq!(world.runtime.count("start web"), 2);
}

#[tokio::test]
async fn a_pod_whose_work_is_done_stops_its_sandbox_and_stays_on_record() {
    let world = world(json!({ "restartPolicy": "Never" })).start();
    world.until_status("/phase", "Running").await;
    world.exit("web", 0);
    world.until_status("/phase", "Succeeded").await;
    world.until("the end of the sandbox", |world| world.runtime.count("stop sandbox") == 1).await;
    assert_eq!(world.cluster.last_status()["podIP"], "127.5.0.1");
    assert!(world.cluster.deleted.lock().unwrap().is_empty());
}

#[tokio::test]
async fn init_containers_run_before_the_others() {
    let spec = json!({ "initContainers": [{ "name": "i", "image": "x" }, { "name": "s", "image": "x", "restartPolicy": "Always" }] });
    let world = world(spec).start();
    world.until("the first", |world| world.runtime.running("i").is_some()).await;
    assert_eq!(world.runtime.count("start s"), 0);
    world.exit("i", 0);
    world.until_status("/phase", "Running").await;
    let starts: Vec<_> = world.runtime.calls().into_iter().filter(|call| call.starts_with("start")).collect();
    assert_eq!(starts, ["start i", "start s", "start web"]);
}

#[tokio::test]
async fn a_missing_config_map_holds_the_container_until_it_comes() {
    let env =
        json!([{ "name": "X", "valueFrom": { "configMapKeyRef": { "name": "settings", "key": "x" } } }]);
    let world = world(json!({ "containers": [{ "name": "web", "image": "x", "env": env }] })).start();
    world.until_status("/containerStatuses/0/state/waiting/reason", "CreateContainerConfigError").await;
    world
        .until_status("/containerStatuses/0/state/waiting/message", "configmap \"settings\" not found")
        .await;
    world.until_told("Failed: Error: configmap \"settings\" not found").await;
    world.cluster.add_config_map("ns", "settings", &[("x", "1")]);
    world.until_status("/phase", "Running").await;
}

#[tokio::test]
async fn a_volume_that_cannot_be_mounted_is_told_and_tried_again() {
    let spec = json!({
        "volumes": [{ "name": "v", "configMap": { "name": "settings" } }],
        "containers": [{ "name": "web", "image": "x", "volumeMounts": [{ "name": "v", "mountPath": "/v" }] }]
    });
    let world = world(spec).start();
    let line = "FailedMount: MountVolume.SetUp failed for volume \"v\" : configmap \"settings\" not found";
    world.until_told(line).await;
    assert_eq!(world.runtime.count("sandbox"), 0);
    world.cluster.add_config_map("ns", "settings", &[("x", "1")]);
    world.until_status("/phase", "Running").await;
}

#[tokio::test]
async fn a_container_that_cannot_start_says_why_and_backs_off() {
    let world = world(json!({}));
    world.runtime.fail_start("web", "the component imports a:b/c, which this runtime does not provide");
    let world = world.start();
    world.until_told("Failed: Error: the component imports a:b/c, which this runtime does not provide").await;
    world.until_status("/containerStatuses/0/state/waiting/reason", "CrashLoopBackOff").await;
    assert_eq!(
        world.cluster.last_status()["containerStatuses"][0]["lastState"]["terminated"]["exitCode"],
        128
    );
}

#[tokio::test]
async fn deletion_interrupts_a_pull_that_does_not_end() {
    let hook = json!({ "postStart": { "sleep": { "seconds": 3600 } } });
    let mut world =
        world(json!({ "containers": [{ "name": "web", "image": "x", "lifecycle": hook }] })).start();
    world.until("the start", |world| world.runtime.running("web").is_some()).await;
    world.delete(1);
    world.until("the deletion", |world| world.cluster.deleted.lock().unwrap().len() == 1).await;
}

#[tokio::test]
async fn a_pre_stop_hook_runs_once_and_within_the_grace_period() {
    let hook = json!({ "preStop": { "sleep": { "seconds": 1 } } });
    let mut world =
        world(json!({ "containers": [{ "name": "web", "image": "x", "lifecycle": hook }] })).start();
    world.until_status("/phase", "Running").await;
    let since = Instant::now();
    world.delete(30);
    world.until("the deletion", |world| world.cluster.deleted.lock().unwrap().len() == 1).await;
    assert!(since.elapsed() >= Duration::from_secs(1));
    assert_eq!(world.runtime.count("stop web 29"), 1);
}

#[tokio::test]
async fn readiness_follows_a_real_server() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let probe = json!({ "tcpSocket": { "host": "127.0.0.1", "port": port }, "periodSeconds": 1, "failureThreshold": 1 });
    let world =
        world(json!({ "containers": [{ "name": "web", "image": "x", "readinessProbe": probe }] })).start();
    let ready = |world: &World| world.cluster.last_status()["containerStatuses"][0]["ready"] == json!(true);
    world.until("readiness", ready).await;
    drop(listener);
    world.until("unreadiness", |world| !ready(world)).await;
    let refused =
        format!("Unhealthy: Readiness probe failed: dial tcp 127.0.0.1:{port}: connect: connection refused");
    world.until_told(&refused).await;
}

#[tokio::test]
async fn a_failed_liveness_probe_restarts_the_container() {
    let probe =
        json!({ "tcpSocket": { "host": "127.0.0.1", "port": 1 }, "periodSeconds": 1, "failureThreshold": 1 });
    let world =
        world(json!({ "containers": [{ "name": "web", "image": "x", "livenessProbe": probe }] })).start();
    world.until("the restart", |world| world.runtime.count("start web") == 2).await;
    world.until_told("Killing: Container web failed liveness probe, will be restarted").await;
}

#[tokio::test]
async fn an_agent_that_comes_back_carries_on_without_a_restart() {
    let mut world = world(json!({})).start();
    world.until_status("/phase", "Running").await;
    world.task.take().unwrap().abort();
    world.pod["status"] = world.cluster.last_status();
    let writes = world.cluster.statuses.lock().unwrap().len();
    world.inbox = Arc::new(Inbox::default());
    let worker = Worker::new(world.shared.clone(), world.inbox.clone(), world.view(), vec!["s1".into()]);
    world.task = Some(tokio::spawn(worker.run()));
    world.until("a report", |world| world.inbox.report().is_some()).await;
    assert_eq!(world.runtime.calls(), ["sandbox", "create web", "start web"]);
    assert_eq!(world.cluster.statuses.lock().unwrap().len(), writes);
    let report = world.inbox.report().unwrap();
    assert_eq!(report.status.container_statuses.as_ref().unwrap()[0].restart_count, 0);
}

#[tokio::test]
async fn a_pod_at_rest_is_packed_and_wakes_as_it_was() {
    let world = world(json!({ "restartPolicy": "Always" })).start();
    world.until_status("/phase", "Running").await;
    world
        .until("a report of what runs", |world| {
            world.inbox.report().is_some_and(|report| report.observed.has_running())
        })
        .await;
    let before = world.inbox.report().unwrap();
    world.until("rest", |world| world.inbox.is_packed()).await;
    let at_rest = world.inbox.report().unwrap();
    assert_eq!(at_rest.pod.pod(), before.pod.pod());
    assert_eq!((&at_rest.status, &at_rest.observed), (&before.status, &before.observed));
    world.exit("web", 1);
    world.until("the restart", |world| world.runtime.count("start web") == 2).await;
    let restarts =
        |world: &World| world.cluster.last_status()["containerStatuses"][0]["restartCount"] == json!(1);
    world.until("the status of the second run", restarts).await;
}

#[tokio::test]
async fn two_pods_are_not_given_the_same_room() {
    let world = world(json!({}));
    let sized = |name: &str, cpu: &str| {
        let resources = json!({ "requests": { "cpu": cpu } });
        let pod = json!({
            "metadata": { "name": name, "namespace": "ns", "uid": name },
            "spec": { "containers": [{ "name": "web", "image": "x", "resources": resources }] },
        });
        PodView::new(Arc::new(serde_json::from_value(pod).unwrap())).unwrap()
    };
    let workers = ["a", "b"].map(|name| {
        let (inbox, pod) = (Arc::new(Inbox::default()), sized(name, "100m"));
        inbox.set_report(Report { pod: pod.clone(), status: Arc::default(), observed: Arc::default() });
        world.shared.workers.insert(pod.identity.clone(), inbox.clone());
        Worker::new(world.shared.clone(), inbox, pod, Vec::new())
    });
    // Of the node's one CPU, before either had time to report.
    let refused = workers.map(|mut worker| {
        worker.set_pod(sized(&worker.pod.identity.name, "600m"));
        worker.memory.resize_pending.map(|pending| pending.reason)
    });
    assert_eq!(refused, [None, Some(resize::Refusal::Deferred)]);
}

#[tokio::test]
async fn a_resize_is_told_of_once_from_its_beginning_to_its_end() {
    let sized =
        |cpu: &str| json!([{ "name": "web", "image": "x", "resources": { "requests": { "cpu": cpu } } }]);
    let mut world = world(json!({ "containers": sized("100m") })).start();
    world.until_status("/phase", "Running").await;
    let mut generation = 1;
    let mut ask = |world: &mut World, cpu: &str| {
        generation += 1;
        world.pod["metadata"]["generation"] = json!(generation);
        world.pod["spec"]["containers"] = sized(cpu);
        world.inbox.push_pod(world.view());
    };
    let line = |reason: &str, what: &str, cpu: &str, generation: i64, error: &str| {
        let error = if error.is_empty() { String::new() } else { format!(r#","error":"{error}""#) };
        format!(
            r#"{reason}: Pod resize {what}: {{"containers":[{{"name":"web","resources":{{"requests":{{"cpu":"{cpu}"}}}}}}],"generation":{generation}{error}}}"#
        )
    };
    // Warnings overtake what went well, so the order is not asked for.
    let mut expected = Vec::new();
    let mut until = async |world: &World, next: &[String]| {
        expected.extend_from_slice(next);
        expected.sort_unstable();
        let is_told = |world: &World| {
            let mut told = world.cluster.told();
            told.retain(|line| line.contains("Pod resize"));
            told.sort_unstable();
            told == expected
        };
        world.until(&next.join(" and "), is_told).await;
    };
    let started = |cpu, generation| line("ResizeStarted", "started", cpu, generation, "");
    let completed = |cpu, generation| line("ResizeCompleted", "completed", cpu, generation, "");
    ask(&mut world, "200m");
    until(&world, &[started("200m", 2), completed("200m", 2)]).await;

    // More than the node has: said once, and nothing when it is taken back.
    ask(&mut world, "5");
    let why = "Node didn't have enough capacity: cpu, requested: 5000, capacity: 1000";
    until(&world, &[line("ResizeInfeasible", "Infeasible", "5", 3, why)]).await;
    world.inbox.push_dirty(0);
    world.inbox.nudge();
    ask(&mut world, "200m");
    let is_settled = |world: &World| {
        let status = world.cluster.last_status();
        status["conditions"][0]["observedGeneration"] == json!(4)
    };
    world.until("the old size again", is_settled).await;

    // What the runtime says against a size is told, too, and forgotten with that size.
    world.runtime.fail_resizes(Some("no room"));
    for (cpu, generation) in [("300m", 5), ("400m", 6)] {
        ask(&mut world, cpu);
        let failed = line("ResizeError", "error", cpu, generation, "no room");
        until(&world, &[started(cpu, generation), failed]).await;
    }
    world.runtime.fail_resizes(None);
    ask(&mut world, "100m");
    until(&world, &[started("100m", 7), completed("100m", 7)]).await;
}

#[tokio::test]
async fn a_pod_past_its_deadline_is_stopped_as_failed() {
    let world = world(json!({ "activeDeadlineSeconds": 1 })).start();
    world.until_status("/reason", "DeadlineExceeded").await;
    world.until("the stop", |world| world.runtime.running("web").is_none()).await;
    world.until_status("/phase", "Failed").await;
}
