//! Stories about the runtime, told by an agent's clients over its socket, with real wasm.

mod guests;
mod node;
mod services;

use std::{
    collections::HashSet,
    fs,
    time::{Duration, Instant},
};

use k8s_cri::v1::{self as cri, ContainerEventType, ContainerState};
use tonic::Code;

use crate::dataplane::{
    AttachStart, ExecStart, StreamRequest, stream_request::Request, stream_response::Response,
};
use node::{Node, get};

#[tokio::test(flavor = "multi_thread")]
async fn a_command_runs_writes_its_log_and_reports_its_exit() {
    let node = Node::start().await;
    let digest = node.import("hello", &guests::says("good morning", 7)).await;
    let (sandbox, container) = node.run("one", "hello").await;
    let status = node.wait_exited(&container).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (7, "Error"));
    assert!(status.created_at <= status.started_at && status.started_at <= status.finished_at);
    assert_eq!((status.image_ref, status.image_id), (digest.clone(), digest));
    assert_eq!(status.image.unwrap().image, "hello");
    assert_eq!(status.annotations["io.kubernetes.container.restartCount"], "3");
    assert_eq!(status.log_path, node.dir.path().join("logs/one/main/0.log").display().to_string());
    let log = fs::read_to_string(&status.log_path).unwrap();
    assert!(log.ends_with("Z stdout F good morning\n"), "{log}");
    // Its pod is still there, and it starts no second time.
    assert_eq!(node.start_container(&container).await.unwrap_err().code(), Code::FailedPrecondition);
    assert!(!node.address(&sandbox).await.is_empty());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_exits_with_zero_is_completed() {
    let node = Node::start().await;
    node.import("hello", &guests::says("done", 0)).await;
    let (_, container) = node.run("one", "hello").await;
    let status = node.wait_exited(&container).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (0, "Completed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sleeper_is_woken_and_a_spinner_is_killed() {
    let node = Node::start().await;
    node.import("sleeper", &guests::sleeps()).await;
    node.import("spinner", &guests::spins()).await;
    let (_, sleeper) = node.run("sleeper", "sleeper").await;
    let (_, spinner) = node.run("spinner", "spinner").await;
    assert_eq!(node.status(&sleeper).await.state(), ContainerState::ContainerRunning);
    node.stop_container(&sleeper, 30).await;
    assert_eq!(node.status(&sleeper).await.exit_code, 143);
    node.stop_container(&spinner, 0).await;
    let status = node.status(&spinner).await;
    assert_eq!((status.state(), status.exit_code), (ContainerState::ContainerExited, 137));
    // Again changes nothing.
    node.stop_container(&spinner, 0).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_change_while_a_container_runs() {
    let node = Node::start().await;
    node.import("spinner", &guests::spins()).await;
    let (_, container) = node.run("one", "spinner").await;
    let used = async || {
        let request = cri::ContainerStatsRequest { container_id: container.clone() };
        let stats = node.pods.clone().container_stats(request).await.unwrap().into_inner().stats.unwrap();
        Duration::from_nanos(stats.cpu.unwrap().usage_core_nano_seconds.unwrap().value)
    };
    // Until its instance is made it uses no memory.
    let started = Instant::now();
    while used().await.is_zero() {
        assert!(started.elapsed() < Duration::from_mins(1), "it does not compute");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let update = async |resources: cri::LinuxContainerResources| {
        let container_id = container.clone();
        let request = cri::UpdateContainerResourcesRequest {
            container_id,
            linux: Some(resources),
            ..Default::default()
        };
        node.pods.clone().update_container_resources(request).await
    };
    let limited = cri::LinuxContainerResources { cpu_quota: 5_000, cpu_shares: 512, ..Default::default() };
    update(limited).await.unwrap();
    let memory =
        |memory_limit_in_bytes| cri::LinuxContainerResources { memory_limit_in_bytes, ..Default::default() };
    update(memory(1 << 20)).await.unwrap();
    let refused = update(memory(1 << 10)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("uses 65536"), "{refused}");
    let told = node.status(&container).await.resources.unwrap().linux.unwrap();
    assert_eq!((told.cpu_quota, told.cpu_shares, told.memory_limit_in_bytes), (5_000, 512, 1 << 20));

    // A twentieth of a CPU from now on: a tenth of a second takes two.
    let (before, started) = (used().await, Instant::now());
    while used().await < before + Duration::from_millis(100) {
        assert!(started.elapsed() < Duration::from_mins(1), "it does not compute");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(started.elapsed() > Duration::from_millis(500), "{:?}", started.elapsed());
    node.stop_container(&container, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_answers_on_its_ports_until_it_is_stopped() {
    let node = Node::start().await;
    node.import("web", &guests::answers(204)).await;
    let sandbox = node.run_sandbox("web").await;
    let ports = r#"[{"name":"http","containerPort":80,"protocol":"TCP"},{"containerPort":9000}]"#;
    let edit = |config: &mut cri::ContainerConfig| {
        config.annotations.insert("io.kubernetes.container.ports".to_owned(), ports.to_owned());
    };
    let container = node.create_with(&sandbox, "main", "web", edit).await.unwrap();
    node.start_container(&container).await.unwrap();
    let address = node.address(&sandbox).await;
    assert_eq!(get(&format!("{address}:80")).await.unwrap(), 204);
    assert_eq!(get(&format!("{address}:9000")).await.unwrap(), 204);
    node.stop_container(&container, 5).await;
    assert!(get(&format!("{address}:80")).await.is_err());
    assert_eq!(node.status(&container).await.exit_code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_a_pod_share_its_address_and_a_taken_port_is_told() {
    let node = Node::start().await;
    node.import("web", &guests::answers(200)).await;
    node.import("side", &guests::says("aside", 0)).await;
    let (sandbox, _) = node.run("web", "web").await;
    let side = node.create(&sandbox, "side", "side").await.unwrap();
    node.start_container(&side).await.unwrap();
    node.wait_exited(&side).await;
    assert_eq!(get(&format!("{}:8080", node.address(&sandbox).await)).await.unwrap(), 200);

    let second = node.create(&sandbox, "second", "web").await.unwrap();
    let error = node.start_container(&second).await.unwrap_err();
    assert!(error.message().contains("8080"), "{error}");
    let status = node.status(&second).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
    assert_eq!(status.message, error.message());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_run_says_why() {
    let node = Node::start().await;
    node.import("moon", &guests::wants_too_much()).await;
    node.import("cut", &guests::says("x", 0)[..40]).await;
    let sandbox = node.run_sandbox("one").await;
    let error = node.create(&sandbox, "main", "moon").await.unwrap_err();
    assert!(error.message().contains("moon"), "{error}");
    // A failed attempt leaves its name free.
    let error = node.create(&sandbox, "main", "cut").await.unwrap_err();
    assert!(error.message().contains("damaged"), "{error}");
    let error = node.create(&sandbox, "main", "nothing").await.unwrap_err();
    assert_eq!((error.code(), error.message()), (Code::NotFound, "image \"nothing\": not found"));
    let error = node.create("0000", "main", "moon").await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    assert!(node.list(None).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_no_wasm_or_not_as_announced_is_refused() {
    let node = Node::start().await;
    let error = node.try_import("x", b"#!/bin/sh", "").await.unwrap_err();
    assert!(error.message().contains("not a WebAssembly file"), "{error}");
    let wrong = format!("sha256:{}", "0".repeat(64));
    let error = node.try_import("x", &guests::spins(), &wrong).await.unwrap_err();
    assert!(error.message().contains("instead of"), "{error}");
    let request = cri::ImageStatusRequest {
        image: Some(cri::ImageSpec { image: "x".to_owned(), ..cri::ImageSpec::default() }),
        verbose: false,
    };
    assert!(node.images.clone().image_status(request).await.unwrap().into_inner().image.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_listed_pulled_and_removed() {
    let node = Node::start().await;
    let digest = node.import("hello:v1", &guests::says("x", 0)).await;
    let mut images = node.images.clone();
    let all = images.list_images(cri::ListImagesRequest::default()).await.unwrap().into_inner().images;
    assert_eq!(
        (all[0].id.as_str(), all[0].repo_tags.as_slice()),
        (digest.as_str(), ["hello:v1".to_owned()].as_slice())
    );
    let spec = |image: &str| Some(cri::ImageSpec { image: image.to_owned(), ..cri::ImageSpec::default() });
    let usage =
        images.image_fs_info(cri::ImageFsInfoRequest {}).await.unwrap().into_inner().image_filesystems;
    assert_eq!(usage[0].used_bytes.unwrap().value, all[0].size);
    for _ in 0..2 {
        images.remove_image(cri::RemoveImageRequest { image: spec(&digest) }).await.unwrap();
    }
    assert!(
        images.list_images(cri::ListImagesRequest::default()).await.unwrap().into_inner().images.is_empty()
    );
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let request =
        cri::PullImageRequest { image: spec(&format!("{free}/x:v1")), ..cri::PullImageRequest::default() };
    let error = images.pull_image(request).await.unwrap_err();
    assert!(error.message().contains("failed to pull") && error.message().contains("refused"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_has_its_address_until_it_is_removed() {
    let node = Node::start().await;
    let mut sandboxes = Vec::new();
    for number in 0..10 {
        sandboxes.push(node.run_sandbox(&format!("pod-{number}")).await);
    }
    let mut addresses = HashSet::new();
    for sandbox in &sandboxes {
        assert!(addresses.insert(node.address(sandbox).await));
    }
    node.stop_sandbox(&sandboxes[0]).await;
    assert!(addresses.contains(&node.address(&sandboxes[0]).await));
    let another = node.run_sandbox("another").await;
    assert!(addresses.insert(node.address(&another).await));
    for sandbox in sandboxes.iter().chain([&another, &another]) {
        node.remove_sandbox(sandbox).await;
    }
    let list = node.pods.clone().list_pod_sandbox(cri::ListPodSandboxRequest::default()).await.unwrap();
    assert!(list.into_inner().items.is_empty());
    // The same pod may come again.
    node.run_sandbox("pod-0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_attempt_is_made_once_only() {
    let node = Node::start().await;
    node.import("hello", &guests::says("x", 0)).await;
    let sandbox = node.run_sandbox("one").await;
    let request = cri::RunPodSandboxRequest {
        config: Some(node.sandbox_config("one")),
        runtime_handler: String::new(),
    };
    let error = node.pods.clone().run_pod_sandbox(request).await.unwrap_err();
    assert_eq!(error.code(), Code::AlreadyExists);
    assert!(error.message().contains(&sandbox), "{error}");
    node.create(&sandbox, "main", "hello").await.unwrap();
    assert_eq!(node.create(&sandbox, "main", "hello").await.unwrap_err().code(), Code::AlreadyExists);
    let next = |config: &mut cri::ContainerConfig| config.metadata.as_mut().unwrap().attempt = 1;
    node.create_with(&sandbox, "main", "hello", next).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_hangs_up_leaves_the_name_free() {
    let node = Node::start().await;
    node.import("hello", &guests::says("x", 0)).await;
    let sandbox = node.run_sandbox("one").await;
    for _ in 0..20 {
        // Cut off at some moment; it may have been in time.
        let _ =
            tokio::time::timeout(Duration::from_micros(700), node.create(&sandbox, "main", "hello")).await;
    }
    let begin = std::time::Instant::now();
    while node.list(None).await.is_empty() && node.create(&sandbox, "main", "hello").await.is_err() {
        assert!(begin.elapsed() < Duration::from_secs(20), "the name is not free");
    }
    assert_eq!(node.list(None).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_range_there_is_no_network_and_no_pod() {
    let node = Node::start_without_network().await;
    let status = node.pods.clone().status(cri::StatusRequest::default()).await.unwrap().into_inner();
    let conditions = status.status.unwrap().conditions;
    assert!(conditions[0].status && conditions[0].r#type == "RuntimeReady");
    assert!(!conditions[1].status && conditions[1].reason == "NetworkPluginNotReady");
    let request = cri::RunPodSandboxRequest {
        config: Some(node.sandbox_config("one")),
        runtime_handler: String::new(),
    };
    let error = node.pods.clone().run_pod_sandbox(request).await.unwrap_err();
    assert!(error.message().contains("no pod CIDR"), "{error}");
    let unknown = cri::RunPodSandboxRequest {
        config: Some(node.sandbox_config("one")),
        runtime_handler: "kata".to_owned(),
    };
    let error = node.pods.clone().run_pod_sandbox(unknown).await.unwrap_err();
    assert_eq!(error.message(), "no runtime for \"kata\" is configured");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_tell_the_life_of_a_pod_with_its_statuses() {
    let node = Node::start().await;
    node.import("hello", &guests::says("x", 3)).await;
    let mut events =
        node.pods.clone().get_container_events(cri::GetEventsRequest {}).await.unwrap().into_inner();
    let (sandbox, container) = node.run("one", "hello").await;
    let stopped = ContainerEventType::ContainerStoppedEvent;
    let seen = Node::events_until(&mut events, &container, stopped).await;
    let kinds: Vec<_> =
        seen.iter().map(|event| (event.container_id == sandbox, event.container_event_type())).collect();
    let (created, started) =
        (ContainerEventType::ContainerCreatedEvent, ContainerEventType::ContainerStartedEvent);
    assert_eq!(
        kinds,
        [(true, created), (true, started), (false, created), (false, started), (false, stopped)]
    );
    let last = seen.last().unwrap();
    assert_eq!(last.pod_sandbox_status.as_ref().unwrap().id, sandbox);
    let status = &last.containers_statuses[0];
    assert_eq!((status.state(), status.exit_code), (ContainerState::ContainerExited, 3));
    node.remove_sandbox(&sandbox).await;
    let deleted = ContainerEventType::ContainerDeletedEvent;
    let seen = Node::events_until(&mut events, &sandbox, deleted).await;
    assert!(
        seen.iter().any(|event| event.container_id == container && event.container_event_type() == deleted)
    );
    // The stream ends with the runtime.
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_comes_back_finds_its_pods_running() {
    let node = Node::start().await;
    node.import("web", &guests::answers(200)).await;
    let (sandbox, container) = node.run("web", "web").await;
    let mut another = node.connect_again().await;
    let filter = cri::ContainerFilter {
        state: Some(cri::ContainerStateValue { state: ContainerState::ContainerRunning.into() }),
        pod_sandbox_id: sandbox,
        label_selector: [("io.kubernetes.container.name".to_owned(), "main".to_owned())].into(),
        ..cri::ContainerFilter::default()
    };
    let request = cri::ListContainersRequest { filter: Some(filter.clone()) };
    let found = another.list_containers(request).await.unwrap().into_inner().containers;
    assert_eq!(found.iter().map(|found| &found.id).collect::<Vec<_>>(), [&container]);
    let none = cri::ContainerFilter {
        label_selector: [("io.kubernetes.container.name".to_owned(), "side".to_owned())].into(),
        ..filter
    };
    assert!(node.list(Some(none)).await.is_empty());
    let by_prefix =
        cri::ContainerFilter { id: container[..12].to_owned(), ..cri::ContainerFilter::default() };
    assert_eq!(node.list(Some(by_prefix)).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_a_pod_ends_what_runs_in_it() {
    let node = Node::start().await;
    node.import("spinner", &guests::spins()).await;
    let (sandbox, container) = node.run("one", "spinner").await;
    node.remove_sandbox(&sandbox).await;
    assert!(node.list(None).await.is_empty());
    let request = cri::ContainerStatusRequest { container_id: container, verbose: false };
    assert_eq!(node.pods.clone().container_status(request).await.unwrap_err().code(), Code::NotFound);
    // In a stopped pod nothing starts.
    let sandbox = node.run_sandbox("two").await;
    let created = node.create(&sandbox, "main", "spinner").await.unwrap();
    node.stop_sandbox(&sandbox).await;
    assert_eq!(node.start_container(&created).await.unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(node.create(&sandbox, "late", "spinner").await.unwrap_err().code(), Code::FailedPrecondition);
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_counted() {
    let node = Node::start().await;
    node.import("spinner", &guests::spins()).await;
    let (sandbox, container) = node.run("one", "spinner").await;
    let mut pods = node.pods.clone();
    let begin = std::time::Instant::now();
    loop {
        let request = cri::ContainerStatsRequest { container_id: container.clone() };
        let stats = pods.container_stats(request).await.unwrap().into_inner().stats.unwrap();
        if stats.cpu.unwrap().usage_core_nano_seconds.unwrap().value > 0 {
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "no CPU is counted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let request = cri::PodSandboxStatsRequest { pod_sandbox_id: sandbox.clone() };
    let stats = pods.pod_sandbox_stats(request).await.unwrap().into_inner().stats.unwrap().linux.unwrap();
    assert!(stats.cpu.unwrap().usage_core_nano_seconds.unwrap().value > 0);
    assert_eq!(stats.containers.len(), 1);
    node.remove_sandbox(&sandbox).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_runs_the_module_again_and_a_service_has_nothing_to_run() {
    let node = Node::start().await;
    node.import("sleeper", &guests::sleeps_or_copies()).await;
    node.import("says", &guests::says("hi", 3)).await;
    node.import("web", &guests::answers(200)).await;
    let (_, container) = node.run("one", "sleeper").await;
    let exec = async |container_id: &str, cmd: &[&str], timeout| {
        let cmd = cmd.iter().map(ToString::to_string).collect();
        let request = cri::ExecSyncRequest { container_id: container_id.to_owned(), cmd, timeout };
        node.pods.clone().exec_sync(request).await.map(tonic::Response::into_inner)
    };
    // Without input there is nothing to copy.
    let answer = exec(&container, &["copy", "a", "b"], 0).await.unwrap();
    assert_eq!((answer.exit_code, answer.stdout.as_slice()), (3, &b""[..]));
    let late = exec(&container, &["sleep"], 1).await.unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded);
    let (_, web) = node.run("two", "web").await;
    let refused = exec(&web, &["sh"], 0).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("serves wasi:http and has no program to run"), "{refused}");
    let (_, ended) = node.run("three", "says").await;
    node.wait_exited(&ended).await;
    assert_eq!(exec(&ended, &["x"], 0).await.unwrap_err().code(), Code::FailedPrecondition);
}

/// What a stream of requests is answered, until its end.
async fn streamed(node: &Node, requests: Vec<Request>) -> Result<(String, Option<i32>), tonic::Status> {
    let (sender, receiver) = tokio::sync::mpsc::channel(8);
    for request in requests {
        sender.send(StreamRequest { request: Some(request) }).await.unwrap();
    }
    let requests = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut responses = node.data_plane.clone().stream(requests).await?.into_inner();
    let mut output = Vec::new();
    while let Some(response) = responses.message().await? {
        match response.response.unwrap() {
            Response::Stdout(bytes) | Response::Stderr(bytes) => output.extend(bytes),
            Response::Exited(exited) => {
                return Ok((String::from_utf8(output).unwrap(), Some(exited.code)));
            }
        }
    }
    drop(sender);
    Ok((String::from_utf8(output).unwrap(), None))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_gets_its_input_and_a_container_only_if_it_asked_for_one() {
    let node = Node::start().await;
    node.import("sleeper", &guests::sleeps_or_copies()).await;
    let (sandbox, container_id) = node.run("one", "sleeper").await;
    let command = vec!["copy".to_owned(), "it".to_owned()];
    let exec = ExecStart { container_id: container_id.clone(), command, stdin: true };
    let input = vec![b'x'; 200_000];
    let requests = vec![
        Request::Exec(exec),
        Request::Stdin(b"hello ".to_vec()),
        Request::Stdin(input.clone()),
        Request::StdinEnd(true),
    ];
    let (output, code) = streamed(&node, requests).await.unwrap();
    assert_eq!((output.len(), code), (6 + input.len(), Some(2)));
    let attach = |container_id, stdin| Request::Attach(AttachStart { container_id, stdin });
    let refused = streamed(&node, vec![attach(container_id, true)]).await.unwrap_err();
    assert!(refused.message().contains("`stdin: true`"), "{refused}");

    let edit = |config: &mut cri::ContainerConfig| {
        config.args = vec!["copy".to_owned()];
        (config.stdin, config.stdin_once) = (true, true);
    };
    let container_id = node.create_with(&sandbox, "asking", "sleeper", edit).await.unwrap();
    node.start_container(&container_id).await.unwrap();
    let requests =
        vec![attach(container_id, true), Request::Stdin(b"hi\n".to_vec()), Request::StdinEnd(true)];
    assert_eq!(streamed(&node, requests).await.unwrap(), ("hi\n".to_owned(), Some(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_runtime_on_the_same_files_is_refused() {
    let node = Node::start().await;
    let mut settings =
        super::RuntimeSettings::new(node.dir.path().join("naru.sock"), node.dir.path().join("other"));
    let error = super::serve(settings.clone(), std::future::pending()).await.unwrap_err();
    assert!(error.to_string().starts_with("another runtime serves"), "{error}");
    settings.socket = node.dir.path().join("other.sock");
    settings.data_dir = node.dir.path().join("data");
    let error = super::serve(settings, std::future::pending()).await.unwrap_err();
    assert!(error.to_string().starts_with("another runtime serves"), "{error}");
    node.run_sandbox("one").await;
}
