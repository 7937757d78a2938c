use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::agent::{
    decide::{ProbeResults, Termination},
    observed::Sandbox,
};

fn now() -> Timestamp {
    Timestamp::from_second(1_700_000_000).unwrap()
}

struct World {
    spec: Value,
    old: Value,
    records: Vec<ContainerRecord>,
    memory: Memory,
    is_terminated: bool,
}

fn world(spec: Value) -> World {
    World { spec, old: json!({}), records: vec![], memory: Memory::default(), is_terminated: false }
}

impl World {
    fn running(mut self, name: &str) -> Self {
        self.records.push(record(name, RunState::Running, 0, self.records.len()));
        self
    }

    fn ended(mut self, name: &str, exit_code: i32) -> Self {
        self.records.push(record(name, RunState::Exited, exit_code, self.records.len()));
        self
    }

    fn waiting(mut self, name: &str, reason: &str, message: &str) -> Self {
        let waiting = Waiting { reason: reason.into(), message: message.into() };
        self.memory.start_errors.insert(name.into(), waiting);
        self
    }

    fn terminated(mut self, cause: Cause) -> Self {
        self.memory.termination = Some(Termination { cause, since: now(), grace_seconds: 30 });
        self.is_terminated = true;
        self
    }

    fn status(&self) -> PodStatus {
        let mut spec = self.spec.clone();
        spec.as_object_mut().unwrap().entry("containers").or_insert(json!([{ "name": "web", "image": "x" }]));
        let pod = json!({
            "metadata": { "name": "p", "namespace": "ns", "uid": "u", "generation": 3 },
            "spec": spec, "status": self.old
        });
        let pod = PodView::new(Arc::new(serde_json::from_value(pod).unwrap())).unwrap();
        let sandbox = Sandbox {
            id: "s".into(),
            attempt: 0,
            is_ready: !self.is_terminated,
            created_at: 1,
            ips: vec!["127.5.0.2".into()],
        };
        let observed = Observed::new(vec![sandbox], self.records.clone(), 1);
        let facts = NodeFacts { host_ips: vec!["127.7.255.1".into()], runtime_name: "naru".into() };
        let old = pod.status().cloned().unwrap_or_default();
        generate(&pod, &observed, &self.memory, &old, &facts, self.is_terminated, now())
    }

    fn json(&self) -> Value {
        serde_json::to_value(self.status()).unwrap()
    }

    fn phase(&self) -> String {
        self.status().phase.unwrap()
    }

    /// `status reason message` of a condition.
    fn condition(&self, kind: &str) -> String {
        let status = self.status();
        let condition = status.conditions.iter().flatten().find(|it| it.type_ == kind).unwrap();
        let parts =
            [Some(condition.status.as_str()), condition.reason.as_deref(), condition.message.as_deref()];
        parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }
}

fn record(name: &str, state: RunState, exit_code: i32, index: usize) -> ContainerRecord {
    ContainerRecord {
        id: format!("{name}{index}"),
        name: name.into(),
        sandbox_id: "s".into(),
        state,
        restart_count: index as u32,
        created_at: 10 + index as i64,
        started_at: 1_699_999_990_000_000_000,
        finished_at: if state == RunState::Exited { 1_699_999_995_500_000_000 } else { 0 },
        exit_code,
        reason: String::new(),
        message: String::new(),
        image: "x".into(),
        image_id: "sha256:1".into(),
        hash: String::new(),
        log_path: String::new(),
        size: None,
    }
}

#[test]
fn a_pod_being_made_waits_for_its_containers() {
    let world = world(json!({}));
    assert_eq!(world.phase(), "Pending");
    let status = world.json();
    assert_eq!(status["containerStatuses"][0]["state"]["waiting"]["reason"], "ContainerCreating");
    assert_eq!(status["containerStatuses"][0]["started"], false);
    assert_eq!(status["observedGeneration"], 3);
    assert_eq!(world.condition("PodReadyToStartContainers"), "True");
    assert_eq!(world.condition("Initialized"), "True");
    assert_eq!(world.condition("Ready"), "False ContainersNotReady containers with unready status: [web]");
    assert!(is_on_its_way(&world.status()));
}

#[test]
fn a_running_pod_is_ready_and_has_an_address() {
    let world = world(json!({})).running("web");
    let status = world.json();
    assert_eq!(world.phase(), "Running");
    assert_eq!((&status["podIP"], &status["hostIP"]), (&json!("127.5.0.2"), &json!("127.7.255.1")));
    let container = &status["containerStatuses"][0];
    assert_eq!(container["containerID"], "naru://web0");
    assert_eq!((&container["ready"], &container["started"]), (&json!(true), &json!(true)));
    assert_eq!(container["state"]["running"]["startedAt"], "2023-11-14T22:13:10Z");
    for kind in ["Ready", "ContainersReady", "Initialized", "PodScheduled"] {
        assert_eq!(world.condition(kind), "True", "{kind}");
    }
    assert!(!is_on_its_way(&world.status()));
}

#[test]
fn phases_follow_kubernetes() {
    for (policy, ends, expected) in [
        ("Never", vec![0], "Succeeded"),
        ("Never", vec![1], "Failed"),
        ("OnFailure", vec![0], "Succeeded"),
        ("OnFailure", vec![1], "Running"),
        ("Always", vec![0], "Running"),
        ("Never", vec![0, 1], "Failed"),
        ("Never", vec![0, 0], "Succeeded"),
        ("OnFailure", vec![0, 1], "Running"),
    ] {
        let containers: Vec<_> =
            (0..ends.len()).map(|index| json!({ "name": format!("c{index}") })).collect();
        let mut world = world(json!({ "restartPolicy": policy, "containers": containers }));
        for (index, end) in ends.iter().enumerate() {
            world = world.ended(&format!("c{index}"), *end);
        }
        assert_eq!(world.phase(), expected, "{policy} {ends:?}");
    }
}

#[test]
fn a_pod_with_one_container_waiting_is_pending() {
    let two = json!({ "containers": [{ "name": "a" }, { "name": "b" }] });
    assert_eq!(world(two.clone()).running("a").phase(), "Pending");
    assert_eq!(world(two).running("a").running("b").phase(), "Running");
}

#[test]
fn a_phase_once_final_stays() {
    let mut world = world(json!({ "restartPolicy": "Never" })).running("web");
    world.old = json!({ "phase": "Failed", "reason": "Evicted", "message": "gone" });
    let status = world.json();
    assert_eq!((&status["phase"], &status["reason"]), (&json!("Failed"), &json!("Evicted")));
}

#[test]
fn an_ended_container_says_how() {
    let mut world = world(json!({ "restartPolicy": "Never" })).ended("web", 3);
    world.records[0].message = "wasm trap: unreachable".into();
    let end = world.json()["containerStatuses"][0]["state"]["terminated"].clone();
    assert_eq!((&end["exitCode"], &end["reason"]), (&json!(3), &json!("Error")));
    assert_eq!(end["message"], "wasm trap: unreachable");
    assert_eq!(end["finishedAt"], "2023-11-14T22:13:15Z");
    world.records[0].reason = "OOMKilled".into();
    assert_eq!(world.json()["containerStatuses"][0]["state"]["terminated"]["reason"], "OOMKilled");
    assert_eq!(world.condition("Ready"), "False PodFailed");
    let done = self::world(json!({ "restartPolicy": "Never" })).ended("web", 0);
    assert_eq!(done.condition("Ready"), "False PodCompleted");
    assert_eq!(done.condition("Initialized"), "True");
}

#[test]
fn a_crash_loop_waits_and_remembers_the_last_end() {
    // Also one that ends well again and again.
    for exit_code in [0, 1] {
        let world =
            world(json!({})).ended("web", exit_code).waiting("web", "CrashLoopBackOff", "back-off 10s");
        let container = world.json()["containerStatuses"][0].clone();
        assert_eq!(container["state"]["waiting"]["reason"], "CrashLoopBackOff");
        assert_eq!(container["lastState"]["terminated"]["exitCode"], exit_code);
        assert_eq!(world.phase(), "Running");
        assert!(!is_on_its_way(&world.status()));
    }
}

#[test]
fn an_init_container_that_is_done_does_not_wait() {
    let spec = json!({ "initContainers": [{ "name": "i" }] });
    let done = world(spec).ended("i", 0).waiting("i", "CrashLoopBackOff", "back-off 10s");
    assert!(done.json()["initContainerStatuses"][0]["state"]["terminated"].is_object());
}

#[test]
fn a_restarted_container_counts_and_shows_its_predecessor() {
    let container = world(json!({})).ended("web", 1).running("web").json()["containerStatuses"][0].clone();
    assert_eq!(container["restartCount"], 1);
    assert_eq!(container["lastState"]["terminated"]["containerID"], "naru://web0");
    assert_eq!(container["ready"], true);
}

#[test]
fn an_image_that_does_not_come_keeps_the_pod_pending() {
    let world = world(json!({})).waiting("web", "ErrImagePull", "no such image");
    let state = world.json()["containerStatuses"][0]["state"].clone();
    assert_eq!(state["waiting"], json!({ "reason": "ErrImagePull", "message": "no such image" }));
    assert_eq!(world.phase(), "Pending");
    assert!(!is_on_its_way(&world.status()));
}

#[test]
fn readiness_follows_the_probes() {
    let probe = json!({ "httpGet": { "port": 80 } });
    let spec = json!({ "containers": [{ "name": "web", "readinessProbe": probe, "startupProbe": probe }] });
    let with = |startup, readiness| {
        let mut world = world(spec.clone()).running("web");
        world.memory.probes.insert("web0".into(), ProbeResults { startup, readiness, liveness: None });
        let container = world.json()["containerStatuses"][0].clone();
        (container["started"].as_bool().unwrap(), container["ready"].as_bool().unwrap())
    };
    assert_eq!(with(None, Some(true)), (false, false));
    assert_eq!(with(Some(true), None), (true, false));
    assert_eq!(with(Some(true), Some(true)), (true, true));
    assert_eq!(with(Some(true), Some(false)), (true, false));
}

#[test]
fn readiness_gates_hold_back_ready() {
    let spec = json!({ "readinessGates": [{ "conditionType": "example.com/lb" }] });
    let mut world = world(spec).running("web");
    let missing = "corresponding condition of pod readiness gate \"example.com/lb\" does not exist.";
    assert_eq!(world.condition("Ready"), format!("False ReadinessGatesNotReady {missing}"));
    assert_eq!(world.condition("ContainersReady"), "True");
    world.old = json!({ "conditions": [{ "type": "example.com/lb", "status": "True" }] });
    assert_eq!(world.condition("Ready"), "True");
}

#[test]
fn init_containers_come_first() {
    let spec = json!({ "restartPolicy": "Always", "initContainers": [{ "name": "i" }] });
    let fresh = world(spec.clone());
    assert_eq!(fresh.phase(), "Pending");
    assert_eq!(
        fresh.condition("Initialized"),
        "False ContainersNotInitialized containers with incomplete status: [i]"
    );
    let status = fresh.json();
    assert_eq!(status["initContainerStatuses"][0]["state"]["waiting"]["reason"], "PodInitializing");
    assert_eq!(status["containerStatuses"][0]["state"]["waiting"]["reason"], "PodInitializing");

    let done = world(spec.clone()).ended("i", 0);
    assert_eq!(done.condition("Initialized"), "True");
    assert_eq!(done.json()["initContainerStatuses"][0]["ready"], true);
    assert_eq!(done.phase(), "Pending");
    assert_eq!(world(spec.clone()).ended("i", 0).running("web").phase(), "Running");
    assert_eq!(world(spec).ended("i", 1).phase(), "Pending");
    let never = json!({ "restartPolicy": "Never", "initContainers": [{ "name": "i" }] });
    assert_eq!(world(never).ended("i", 1).phase(), "Failed");
}

#[test]
fn a_sidecar_counts_for_readiness_and_keeps_a_finished_pod_running() {
    let spec =
        json!({ "restartPolicy": "Never", "initContainers": [{ "name": "s", "restartPolicy": "Always" }] });
    let both = world(spec.clone()).running("s").running("web");
    assert_eq!(both.condition("Ready"), "True");
    assert_eq!(world(spec.clone()).running("s").ended("web", 0).phase(), "Running");
    let ended = world(spec).ended("s", 143).ended("web", 0).terminated(Cause::Finished);
    assert_eq!(ended.phase(), "Succeeded");
}

#[test]
fn a_deleted_pod_ends_as_its_containers_did() {
    assert_eq!(world(json!({})).ended("web", 143).terminated(Cause::Deleted).phase(), "Failed");
    assert_eq!(world(json!({})).ended("web", 0).terminated(Cause::Deleted).phase(), "Succeeded");
    let never_ran = world(json!({})).terminated(Cause::Deleted).json();
    let end = &never_ran["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&end["reason"], &end["exitCode"]), (&json!("ContainerStatusUnknown"), &json!(137)));
}

#[test]
fn a_pod_past_its_deadline_failed() {
    let status = world(json!({})).ended("web", 143).terminated(Cause::DeadlineExceeded).json();
    assert_eq!((&status["phase"], &status["reason"]), (&json!("Failed"), &json!("DeadlineExceeded")));
}

#[test]
fn a_container_that_the_runtime_lost_is_told_as_ended() {
    let mut world = world(json!({}));
    world.old = json!({ "phase": "Running", "containerStatuses": [{
        "name": "web", "image": "x", "imageID": "", "ready": true, "restartCount": 2, "containerID": "naru://gone",
        "state": { "running": { "startedAt": "2023-11-14T22:00:00Z" } }
    }] });
    let container = world.json()["containerStatuses"][0].clone();
    assert_eq!(container["lastState"]["terminated"]["containerID"], "naru://gone");
    assert_eq!(container["restartCount"], 2);
}

#[test]
fn a_condition_keeps_its_time_until_it_changes() {
    let mut world = world(json!({})).running("web");
    let time = "2020-01-01T00:00:00Z";
    world.old = json!({ "conditions": [
        { "type": "Ready", "status": "True", "lastTransitionTime": time },
        { "type": "ContainersReady", "status": "False", "lastTransitionTime": time }
    ] });
    let status = world.json();
    let time_of = |kind: &str| {
        let conditions = status["conditions"].as_array().unwrap();
        conditions.iter().find(|it| it["type"] == kind).unwrap()["lastTransitionTime"].clone()
    };
    assert_eq!(time_of("Ready"), time);
    assert_eq!(time_of("ContainersReady"), "2023-11-14T22:13:20Z");
}

#[test]
fn an_ephemeral_container_has_a_status_and_no_say() {
    let spec = json!({ "ephemeralContainers": [{ "name": "probe", "image": "x" }] });
    let pulling = world(spec.clone()).running("web").waiting("probe", "ErrImagePull", "nobody has it");
    let container = pulling.json()["ephemeralContainerStatuses"][0].clone();
    assert_eq!(
        container["state"]["waiting"],
        json!({ "reason": "ErrImagePull", "message": "nobody has it" })
    );
    for world in [pulling, world(spec.clone()).running("web").ended("probe", 1)] {
        assert_eq!((world.phase(), world.condition("Ready")), ("Running".into(), "True".into()));
    }
    let running = world(spec.clone()).running("web").running("probe").json();
    let container = &running["ephemeralContainerStatuses"][0];
    assert_eq!(container["state"]["running"]["startedAt"], "2023-11-14T22:13:10Z");
    assert_eq!((&container["ready"], container.get("started")), (&json!(false), None));
    assert_eq!(running["containerStatuses"].as_array().map(Vec::len), Some(1));
    // One that was lost with the runtime is not run again.
    let mut lost = world(spec).running("web");
    lost.old = json!({ "phase": "Running", "ephemeralContainerStatuses": [{
        "name": "probe", "image": "x", "imageID": "", "ready": false, "restartCount": 0,
        "containerID": "naru://gone", "state": { "running": { "startedAt": "2023-11-14T22:00:00Z" } }
    }] });
    let state = &lost.json()["ephemeralContainerStatuses"][0]["state"];
    assert_eq!(state["terminated"]["containerID"], "naru://gone");
}
