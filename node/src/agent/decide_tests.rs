use std::sync::Arc;

use serde_json::{Value, json};

use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).unwrap()
}

fn nanos(seconds: i64) -> i64 {
    at(seconds).as_nanosecond() as i64
}

fn pod(spec: Value) -> PodView {
    let mut spec = spec;
    spec.as_object_mut().unwrap().entry("containers").or_insert(json!([{ "name": "web", "image": "x" }]));
    let pod = json!({ "metadata": { "name": "p", "namespace": "ns", "uid": "u" }, "spec": spec });
    PodView::new(Arc::new(serde_json::from_value(pod).unwrap())).unwrap()
}

/// `web+` runs, `web0` and `web1` ended with that code, `web.` was created; all in sandbox `s0`. A `!` in front: in an
/// earlier sandbox. The restart count follows a slash.
fn observed(text: &str) -> Observed {
    let mut sandboxes =
        vec![Sandbox { id: "s0".into(), attempt: 1, is_ready: true, created_at: 5, ips: vec![] }];
    let mut records = Vec::new();
    for (index, word) in text.split_whitespace().enumerate() {
        if word == "no-sandbox" {
            sandboxes.clear();
            continue;
        }
        if word == "dead-sandbox" {
            sandboxes[0].is_ready = false;
            continue;
        }
        let (earlier, word) = word.strip_prefix('!').map_or((false, word), |rest| (true, rest));
        let (word, restarts) = word.split_once('/').unwrap_or((word, "0"));
        let (name, state) = word.split_at(word.len() - 1);
        let exit_code = state.parse().unwrap_or(0);
        records.push(ContainerRecord {
            id: format!("{name}-{restarts}"),
            name: name.into(),
            sandbox_id: if earlier { "old".into() } else { "s0".into() },
            state: match state {
                "+" => RunState::Running,
                "." => RunState::Created,
                "?" => RunState::Unknown,
                _ => RunState::Exited,
            },
            restart_count: restarts.parse().unwrap(),
            created_at: 10 + index as i64,
            started_at: nanos(-60),
            finished_at: nanos(0),
            exit_code,
            reason: String::new(),
            message: String::new(),
            image: "x".into(),
            image_id: "sha256:1".into(),
            hash: String::new(),
            log_path: String::new(),
            size: None,
        });
    }
    Observed::new(sandboxes, records, 1)
}

/// The plan as words: `start web/0`, `kill web: message`, `sandbox 0`, `hold web`, `finish`, `done`.
fn words(plan: &Plan) -> Vec<String> {
    let action = |action: &Action| match action {
        Action::CreateSandbox { attempt } => format!("sandbox {attempt}"),
        Action::StopSandbox { id } => format!("stop {id}"),
        Action::RemoveSandbox { id } => format!("remove sandbox {id}"),
        Action::RemoveContainer { id } => format!("remove {id}"),
        Action::ResizeContainer(resize) => format!("resize {}", resize.id),
        Action::StartContainer(start) => format!("start {}/{}", start.name, start.restart_count),
        Action::KillContainer(kill) => {
            format!("kill {} in {}: {}", kill.id, kill.grace_seconds, kill.message)
        }
    };
    let mut words: Vec<_> = plan.actions.iter().map(action).collect();
    words.extend(plan.held.iter().map(|(name, waiting)| format!("hold {name}: {}", waiting.reason)));
    words.extend(plan.terminate.map(|cause| format!("{cause:?}")));
    words.extend(plan.is_terminated.then(|| "done".to_owned()));
    words
}

fn check(spec: Value, text: &str, expected: &[&str]) {
    check_with(spec, text, &Memory::default(), expected);
}

fn check_with(spec: Value, text: &str, memory: &Memory, expected: &[&str]) {
    let plan = decide(&pod(spec.clone()), &observed(text), memory, at(1));
    assert_eq!(words(&plan), expected, "{spec} with {text}");
}

#[test]
fn a_new_pod_gets_a_sandbox_then_its_containers() {
    check(json!({}), "no-sandbox", &["sandbox 0"]);
    check(json!({}), "", &["start web/0"]);
    check(json!({ "containers": [{ "name": "a" }, { "name": "b" }] }), "", &["start a/0", "start b/0"]);
    check(json!({}), "web+", &[]);
}

#[test]
fn the_restart_policy_says_what_follows_an_end() {
    for (policy, end, expected) in [
        ("Always", "web0", "start web/1"),
        ("Always", "web1", "start web/1"),
        ("OnFailure", "web1", "start web/1"),
        ("OnFailure", "web0", "Finished"),
        ("Never", "web0", "Finished"),
        ("Never", "web1", "Finished"),
    ] {
        check(json!({ "restartPolicy": policy }), end, &[expected]);
    }
}

#[test]
fn a_container_s_own_policy_outranks_the_pod_s() {
    let spec =
        json!({ "restartPolicy": "Always", "containers": [{ "name": "web", "restartPolicy": "Never" }] });
    check(spec, "web1", &["Finished"]);
}

#[test]
fn one_container_that_ended_for_good_does_not_end_the_pod() {
    let spec = json!({ "restartPolicy": "Never", "containers": [{ "name": "a" }, { "name": "b" }] });
    check(spec.clone(), "a0 b+", &[]);
    check(spec, "a0 b1", &["Finished"]);
}

#[test]
fn restarts_wait_out_their_back_off() {
    let spec = json!({ "restartPolicy": "Always" });
    // The first failure restarts at once; it leaves a back-off behind.
    let backoff = Backoff::next(None, KUBELET, at(-30), at(-30));
    let memory = Memory { backoff: [("web".to_owned(), backoff)].into(), ..Memory::default() };
    let plan = decide(&pod(spec.clone()), &observed("web1/3"), &memory, at(1));
    assert_eq!(words(&plan), ["hold web: CrashLoopBackOff"]);
    assert_eq!(plan.held[0].1.message, "back-off 10s restarting failed container=web pod=p_ns(u)");
    assert_eq!(plan.look_again, Some(SignedDuration::from_secs(9)));
    let plan = decide(&pod(spec), &observed("web1/3"), &memory, at(10));
    assert_eq!(words(&plan), ["start web/4"]);
}

fn with_init(init: Value) -> Value {
    json!({ "restartPolicy": "OnFailure", "initContainers": init })
}

#[test]
fn init_containers_run_one_after_the_other() {
    let spec = with_init(json!([{ "name": "i" }, { "name": "j" }]));
    check(spec.clone(), "", &["start i/0"]);
    check(spec.clone(), "i+", &[]);
    check(spec.clone(), "i0", &["start j/0"]);
    check(spec.clone(), "i0 j+", &[]);
    check(spec.clone(), "i0 j0", &["start web/0"]);
    check(spec.clone(), "i1", &["start i/1"]);
    // A later one proves the earlier ones done, also when nothing is left of them.
    check(spec.clone(), "j0", &["start web/0"]);
    check(spec, "web+", &[]);
}

#[test]
fn a_failed_init_container_ends_a_pod_that_never_restarts() {
    let spec = json!({ "restartPolicy": "Never", "initContainers": [{ "name": "i" }] });
    check(spec, "i1", &["Finished"]);
}

#[test]
fn a_sidecar_lets_the_next_start_once_it_has_started() {
    let spec = with_init(json!([{ "name": "side", "restartPolicy": "Always" }, { "name": "i" }]));
    check(spec.clone(), "", &["start side/0"]);
    check(spec.clone(), "side+", &["start i/0"]);
    check(spec.clone(), "side+ i0", &["start web/0"]);
    check(spec.clone(), "side0 i0 web+", &["start side/1"]);
    check(spec.clone(), "side+ i0 web0", &["Finished"]);

    let probed = json!([{ "name": "side", "restartPolicy": "Always", "startupProbe": { "tcpSocket": { "port": 1 } } }]);
    check(with_init(probed.clone()), "side+", &[]);
    let started = ProbeResults { startup: Some(true), ..Default::default() };
    let memory = Memory { probes: [("side-0".to_owned(), started)].into(), ..Memory::default() };
    check_with(with_init(probed), "side+", &memory, &["start web/0"]);
}

#[test]
fn failed_probes_end_a_container() {
    let liveness = json!({ "httpGet": { "port": 80 }, "terminationGracePeriodSeconds": 7 });
    let spec =
        json!({ "restartPolicy": "Always", "containers": [{ "name": "web", "livenessProbe": liveness }] });
    let dead = ProbeResults { liveness: Some(false), ..Default::default() };
    let memory = Memory { probes: [("web-0".to_owned(), dead)].into(), ..Memory::default() };
    let expected = "kill web-0 in 7: Container web failed liveness probe, will be restarted";
    check_with(spec, "web+", &memory, &[expected]);

    let stuck = ProbeResults { startup: Some(false), ..Default::default() };
    let memory = Memory { probes: [("web-0".to_owned(), stuck)].into(), ..Memory::default() };
    let spec = json!({ "restartPolicy": "Never" });
    check_with(spec, "web+", &memory, &["kill web-0 in 30: Container web failed startup probe"]);
}

#[test]
fn a_new_image_replaces_the_running_container() {
    let view = pod(json!({ "restartPolicy": "Always" }));
    let mut seen = observed("web+");
    seen.containers[0].hash = definition_hash(&view.containers()[0]);
    assert!(words(&decide(&view, &seen, &Memory::default(), at(1))).is_empty());
    seen.containers[0].hash = "something else".into();
    let plan = decide(&view, &seen, &Memory::default(), at(1));
    assert_eq!(words(&plan), ["kill web-0 in 30: Container web definition changed, will be restarted"]);
}

#[test]
fn a_dead_sandbox_is_replaced_while_there_is_work() {
    let spec = json!({ "restartPolicy": "Always" });
    check(spec, "dead-sandbox web0", &["stop s0", "sandbox 2"]);
    check(json!({ "restartPolicy": "OnFailure" }), "dead-sandbox web0", &["Finished"]);
    check(json!({ "restartPolicy": "OnFailure" }), "dead-sandbox web1", &["stop s0", "sandbox 2"]);
    check(json!({ "restartPolicy": "Never" }), "dead-sandbox web1", &["Finished"]);
}

#[test]
fn in_a_new_sandbox_init_containers_run_again() {
    let spec = with_init(json!([{ "name": "i" }]));
    check(spec, "!i0 !web1", &["start i/1"]);
}

#[test]
fn what_was_created_and_never_started_is_made_anew() {
    check(json!({}), "web./2", &["remove web-2", "start web/2"]);
}

#[test]
fn of_each_container_the_runs_are_kept_that_its_status_names() {
    check(json!({}), "web1/0 web1/1", &["start web/2"]);
    check(json!({}), "web1/0 web1/1 web1/2", &["start web/3", "remove web-0"]);
    check(json!({}), "web1/0 web1/1 web+/2", &["remove web-0"]);
    check(json!({}), "web1/0 web+/1", &[]);
}

#[test]
fn a_deadline_that_is_over_ends_the_pod() {
    let spec = json!({ "activeDeadlineSeconds": 10 });
    let memory = |start| Memory { start_time: Some(at(start)), ..Memory::default() };
    check_with(spec.clone(), "web+", &memory(-9), &["DeadlineExceeded"]);
    let plan = decide(&pod(spec), &observed("web+"), &memory(0), at(4));
    assert_eq!(plan.look_again, Some(SignedDuration::from_secs(6)));
}

#[test]
fn termination_ends_containers_then_sidecars_then_the_sandbox() {
    let spec = json!({
        "initContainers": [{ "name": "s1", "restartPolicy": "Always" }, { "name": "s2", "restartPolicy": "Always" }],
        "containers": [{ "name": "a" }, { "name": "b" }]
    });
    let termination = Termination { cause: Cause::Deleted, since: at(-10), grace_seconds: 30 };
    let memory = Memory { termination: Some(termination), ..Memory::default() };
    let stop = |name: &str| format!("kill {name}-0 in 19: Stopping container {name}");
    let mut both = [stop("b"), stop("a")];
    let plan = decide(&pod(spec.clone()), &observed("s1+ s2+ a+ b+"), &memory, at(1));
    let mut found = words(&plan);
    found.sort();
    both.sort();
    assert_eq!(found, both);
    check_with(spec.clone(), "s1+ s2+ a0 b0", &memory, &[stop("s2").as_str()]);
    check_with(spec.clone(), "s1+ s20 a0 b0", &memory, &[stop("s1").as_str()]);
    check_with(spec.clone(), "s10 s20 a0 b0", &memory, &["stop s0"]);
    check_with(spec, "dead-sandbox s10 a0 b0", &memory, &["done"]);
}

#[test]
fn when_the_grace_period_is_used_up_two_seconds_are_left() {
    let termination = Termination { cause: Cause::Deleted, since: at(-100), grace_seconds: 30 };
    let memory = Memory { termination: Some(termination), ..Memory::default() };
    check_with(json!({}), "web+", &memory, &["kill web-0 in 2: Stopping container web"]);
}

#[test]
fn restart_counts_go_on_where_the_runtime_has_forgotten() {
    let check = |reported: Value, expected: &str| {
        let value = json!({
            "metadata": { "name": "p", "namespace": "ns", "uid": "u" },
            "spec": { "containers": [{ "name": "web" }] },
            "status": { "containerStatuses": [reported] }
        });
        let view = PodView::new(Arc::new(serde_json::from_value(value).unwrap())).unwrap();
        assert_eq!(words(&decide(&view, &observed(""), &Memory::default(), at(1))), [expected]);
    };
    let status = |more: Value| {
        let mut status =
            json!({ "name": "web", "image": "x", "imageID": "", "ready": false, "restartCount": 4 });
        status.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        status
    };
    check(status(json!({ "containerID": "naru://c" })), "start web/5");
    // Lost again before the run that was to replace it was reported.
    check(status(json!({ "lastState": { "terminated": { "exitCode": 137 } } })), "start web/5");
    check(status(json!({ "restartCount": 0, "lastState": {} })), "start web/0");
}

#[test]
fn ephemeral_containers_run_once_and_decide_nothing() {
    let spec = |rest: Value| {
        let mut spec = json!({ "ephemeralContainers": [{ "name": "probe", "image": "x" }] });
        spec.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        spec
    };
    check(spec(json!({})), "no-sandbox", &["sandbox 0"]);
    check(spec(json!({})), "", &["start web/0", "start probe/0"]);
    check(spec(json!({})), "web+ probe+", &[]);
    check(spec(json!({})), "web+ probe0", &[]);
    check(spec(json!({})), "web+ probe1", &[]);
    check(spec(json!({})), "web+ probe.", &["remove probe-0", "start probe/0"]);
    // Not again in another sandbox, and not instead of the pod's own work.
    check(spec(json!({})), "web+ !probe1", &[]);
    check(spec(json!({ "initContainers": [{ "name": "first" }] })), "first+", &["start probe/0"]);
    check(spec(json!({ "restartPolicy": "Never" })), "web0 probe+", &["Finished"]);
    check(spec(json!({ "restartPolicy": "Never" })), "web0", &["Finished"]);

    // One that the runtime has forgotten ran, too.
    let ran = json!({ "name": "probe", "image": "x", "imageID": "", "ready": false, "restartCount": 0,
        "containerID": "naru://gone" });
    let pod = json!({
        "metadata": { "name": "p", "namespace": "ns", "uid": "u" },
        "spec": spec(json!({ "containers": [{ "name": "web" }] })),
        "status": { "ephemeralContainerStatuses": [ran] },
    });
    let pod = PodView::new(Arc::new(serde_json::from_value(pod).unwrap())).unwrap();
    assert_eq!(words(&decide(&pod, &observed("web+"), &Memory::default(), at(1))), [] as [&str; 0]);
}

#[test]
fn a_running_container_gets_the_size_that_it_is_to_have() {
    let spec = |cpu: &str, policy: &str| {
        json!({ "containers": [{
            "name": "web", "resources": { "limits": { "cpu": cpu } },
            "resizePolicy": [{ "resourceName": "cpu", "restartPolicy": policy }],
        }] })
    };
    let mut observed = observed("web+");
    let plan = |observed: &Observed, cpu: &str, policy: &str, memory: &Memory| {
        words(&decide(&pod(spec(cpu, policy)), observed, memory, at(1)))
    };
    let memory = Memory::default();
    // A runtime that does not say what a container has is not asked to change it.
    assert_eq!(plan(&observed, "200m", "NotRequired", &memory), [] as [&str; 0]);
    let old = pod(spec("100m", "NotRequired"));
    observed.containers[0].size = Some(Size::of(&old.containers()[0]));
    assert_eq!(plan(&observed, "100m", "NotRequired", &memory), [] as [&str; 0]);
    assert_eq!(plan(&observed, "200m", "NotRequired", &memory), ["resize web-0"]);
    assert_eq!(
        plan(&observed, "200m", "RestartContainer", &memory),
        ["kill web-0 in 30: Container web resize requires restart"]
    );
    // Once is enough, even for a runtime that still says something else.
    let told = [("web-0".to_owned(), Size::of(&pod(spec("200m", "NotRequired")).containers()[0]))];
    let memory = Memory { resized: told.into(), ..Memory::default() };
    assert_eq!(plan(&observed, "200m", "NotRequired", &memory), [] as [&str; 0]);
    assert_eq!(plan(&observed, "300m", "NotRequired", &memory), ["resize web-0"]);
}
