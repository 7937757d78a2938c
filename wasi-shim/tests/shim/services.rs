//! wasi:http containers: requests, failures, reuse of instances, listeners, drains.

use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http::Request;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use naru_wasi_shim::{Container, ExitReason, LogStream, ModuleKind, NetworkError, Reuse};
use tokio::net::TcpStream;

use crate::{
    commands::LOOPS,
    common::{Log, Node, body, eventually, get, spec, within},
};

#[tokio::test]
async fn services_of_both_versions_answer_in_a_fresh_instance_per_request() {
    let node = Node::new();
    for (name, kind) in [("service02", ModuleKind::Http02), ("service03", ModuleKind::Http03)] {
        let module = node.guest(name).await;
        assert_eq!(module.kind(), kind);
        let (container, _) = node.start(module, |_| {}).await;
        assert_eq!(get(&container, "/").await, (200, "hello".into()), "{name}");
        assert_eq!(get(&container, "/").await, (200, "hello".into()), "{name}");
        eventually("no instance is left", || container.stats().instances == 0).await;
        assert_eq!(container.stats().requests, 2);
        assert_eq!(container.stats().memory_bytes, 0);
    }
    let (container, _) = node.start(node.guest("service02").await, |_| {}).await;
    assert_eq!(get(&container, "/count").await.1, "1");
    assert_eq!(get(&container, "/count").await.1, "1");
}

#[tokio::test]
async fn a_trap_is_a_500_and_a_line_in_the_log_and_the_next_request_is_served() {
    let node = Node::new();
    for name in ["service02", "service03"] {
        let (container, log) = node.start(node.guest(name).await, |_| {}).await;
        assert_eq!(get(&container, "/trap").await.0, 500, "{name}");
        let errors = log.stream(LogStream::Stderr);
        assert!(errors.contains("as asked"), "{name}: {errors}");
        assert!(errors.contains("naru: GET /trap: wasm trap: wasm `unreachable`"), "{name}: {errors}");
        assert_eq!(get(&container, "/").await.0, 200, "{name}");
        assert!(container.exit_status().is_none());
    }
}

#[tokio::test]
async fn a_guest_that_never_answers_or_answers_an_error_is_a_500() {
    let node = Node::new();
    let (container, _) = node.start(node.guest("service02").await, |_| {}).await;
    assert_eq!(get(&container, "/silent").await.0, 500);
    let (container, _) = node.start(node.guest("service03").await, |_| {}).await;
    let (status, text) = get(&container, "/error").await;
    assert_eq!(status, 500);
    assert!(text.contains("InternalError"), "{text}");
}

#[tokio::test]
async fn bodies_stream_both_ways() {
    const CHUNKS: usize = 64;
    let node = Node::new();
    for name in ["service02", "service03"] {
        let (container, _) = node.start(node.guest(name).await, |_| {}).await;
        let chunks = (0..CHUNKS).map(|_| Ok::<_, NetworkError>(Frame::data(Bytes::from(vec![b'x'; 10_000]))));
        let request =
            Request::post("http://shop/echo").body(StreamBody::new(stream::iter(chunks)).boxed_unsync());
        let response = within(container.handle(request.unwrap())).await.unwrap();
        let echoed = within(response.into_body().collect()).await.unwrap().to_bytes();
        assert_eq!(echoed.len(), CHUNKS * 10_000, "{name}");
    }
}

#[tokio::test]
async fn kept_instances_serve_as_many_requests_as_allowed() {
    let node = Node::new();
    let module = node.guest("service02").await;
    let reuse = Reuse::Instances { max_requests: 2 };
    let (container, _) = node.start(module.clone(), |spec| spec.reuse = reuse).await;
    let mut counts = Vec::new();
    for _ in 0..20 {
        // Whether an instance is back in time for the next request is up to the scheduler.
        counts.push(get(&container, "/count").await.1);
    }
    assert!(counts.iter().all(|count| ["1", "2"].contains(&count.as_str())), "{counts:?}");
    assert!(counts.contains(&"2".to_owned()), "{counts:?}");
    within(container.stop(Duration::from_secs(5))).await;
    eventually("no instance outlives its container", || container.stats().instances == 0).await;

    let reuse = Reuse::Instances { max_requests: 1000 };
    let (container, _) = node.start(module, |spec| spec.reuse = reuse).await;
    assert_eq!(get(&container, "/trap").await.0, 500);
    assert_eq!(get(&container, "/count").await.1, "1", "what trapped is not kept");
}

#[tokio::test]
async fn http_1_and_http_2_are_served_on_the_pods_address() {
    let node = Node::new();
    let module = node.guest("service02").await;
    let pod = crate::common::Pod::default();
    let address = pod.address;
    let (container, _) = node
        .start(module.clone(), |spec| {
            spec.http_ports = vec![8080];
            spec.network = std::sync::Arc::new(pod);
        })
        .await;
    let request = || Request::get("http://shop/env/NOTHING").header("host", "shop").body(body("")).unwrap();

    let stream = TcpStream::connect((address, 8080)).await.unwrap();
    let (mut http1, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let http1_connection = tokio::spawn(connection);
    assert_eq!(within(http1.send_request(request())).await.unwrap().status(), 200);

    let stream = TcpStream::connect((address, 8080)).await.unwrap();
    let executor = TokioExecutor::new();
    let (mut http2, connection) =
        hyper::client::conn::http2::handshake(executor, TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    assert_eq!(within(http2.send_request(request())).await.unwrap().status(), 200);

    // The port is taken now.
    let mut second = spec(module, Log::default().into());
    second.http_ports = vec![8080];
    second.network = std::sync::Arc::new(crate::common::Pod { address, ..Default::default() });
    let error = Container::start(&node.engine, second).await.err().unwrap();
    assert_eq!(error, format!("cannot listen on {address}:8080: the port is already in use"));

    // Idle connections do not hold up a drain.
    let status = within(container.stop(Duration::from_secs(50))).await;
    assert_eq!((status.code, status.reason), (0, ExitReason::Completed));
    within(http1_connection).await.unwrap().unwrap();
    assert!(TcpStream::connect((address, 8080)).await.is_err());
    let refused = container.handle(request()).await.err().unwrap();
    assert!(matches!(refused, NetworkError::Refused(_)), "{refused}");
}

#[tokio::test]
async fn a_drain_waits_for_requests_and_a_kill_does_not() {
    let node = Node::new();
    let (container, _) = node.start(node.guest("service02").await, |_| {}).await;
    let (stuck, at) = (container.clone(), tokio::time::Instant::now());
    let request = tokio::spawn(async move { get(&stuck, "/spin").await.0 });
    eventually("the guest spins", || container.stats().instances == 1).await;
    let status = within(container.stop(Duration::from_millis(300))).await;
    assert_eq!((status.code, status.reason), (137, ExitReason::Error));
    assert!(at.elapsed() >= Duration::from_millis(300));
    assert_eq!(within(request).await.unwrap(), 500);
    eventually("its instance is gone", || container.stats().instances == 0).await;
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_guest() {
    let node = Node::new();
    for name in ["service02", "service03"] {
        let (container, _) = node.start(node.guest(name).await, |_| {}).await;
        let request = Request::get("http://shop/spin").body(body("")).unwrap();
        let given_up = tokio::time::timeout(Duration::from_millis(50), container.handle(request)).await;
        assert!(given_up.is_err());
        eventually("its instance is gone", || container.stats().instances == 0).await;
    }
}

#[tokio::test]
async fn a_command_serves_no_requests() {
    let node = Node::new();
    let (container, _) = node.start(node.wat(LOOPS).await, |_| {}).await;
    let request = Request::get("http://shop/").body(body("")).unwrap();
    let error = container.handle(request).await.err().unwrap();
    assert_eq!(error.to_string(), "shop/front/web does not serve HTTP");
}

#[tokio::test]
async fn a_request_without_host_is_a_400() {
    let node = Node::new();
    let (container, _) = node.start(node.guest("service02").await, |_| {}).await;
    let response = within(container.handle(Request::get("/").body(body("")).unwrap())).await.unwrap();
    assert_eq!(response.status(), 400);
}

#[tokio::test]
async fn requests_beyond_the_pool_wait_for_an_instance() {
    let node = Node::with_instances(2);
    let (container, _) = node.start(node.guest("service02").await, |_| {}).await;
    let answers = futures::future::join_all((0..20).map(|_| get(&container, "/"))).await;
    assert!(answers.iter().all(|answer| *answer == (200, "hello".into())), "{answers:?}");
}
