use serde_json::json;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use super::*;
use crate::agent::fakes::TempDir;

const LOG: &str = "2026-11-21T10:00:00.000000001Z stdout F one\n\
                   2026-11-21T10:00:01.000000001Z stderr P tw\n\
                   2026-11-21T10:00:01.000000002Z stderr F o\n\
                   2026-11-21T10:00:02.000000001Z stdout F \n\
                   2026-11-21T10:00:03.000000001Z stdout F three words here\n";

async fn collect(log: &str, options: LogOptions) -> String {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("0.log");
    std::fs::write(&path, log).unwrap();
    let (sender, mut receiver) = mpsc::channel(100);
    read(path, options, || false, sender).await.unwrap();
    let mut output = Vec::new();
    while let Some(bytes) = receiver.recv().await {
        output.extend_from_slice(&bytes);
    }
    String::from_utf8(output).unwrap()
}

#[tokio::test]
async fn pieces_of_a_line_are_put_together() {
    assert_eq!(collect(LOG, LogOptions::default()).await, "one\ntwo\n\nthree words here\n");
}

#[tokio::test]
async fn options_select_what_is_shown() {
    let tail = LogOptions { tail_lines: Some(2), ..Default::default() };
    assert_eq!(collect(LOG, tail).await, "\nthree words here\n");
    let none = LogOptions { tail_lines: Some(0), ..Default::default() };
    assert_eq!(collect(LOG, none).await, "");
    let all = LogOptions { tail_lines: Some(100), ..Default::default() };
    assert_eq!(collect(LOG, all).await, "one\ntwo\n\nthree words here\n");
    let limited = LogOptions { limit_bytes: Some(6), ..Default::default() };
    assert_eq!(collect(LOG, limited).await, "one\ntw");
    let since = LogOptions { since: Some("2026-11-21T10:00:02Z".parse().unwrap()), ..Default::default() };
    assert_eq!(collect(LOG, since).await, "\nthree words here\n");
    let stamped = LogOptions { timestamps: true, tail_lines: Some(4), ..Default::default() };
    let expected = "2026-11-21T10:00:01.000000001Z two\n2026-11-21T10:00:02.000000001Z \n\
                    2026-11-21T10:00:03.000000001Z three words here\n";
    assert_eq!(collect(LOG, stamped).await, expected);
}

#[tokio::test]
async fn a_tail_longer_than_a_block_is_found() {
    let line = format!("2026-11-21T10:00:00.000000001Z stdout F {}\n", "x".repeat(1000));
    let log = line.repeat(300);
    let options = LogOptions { tail_lines: Some(150), ..Default::default() };
    assert_eq!(collect(&log, options).await.lines().count(), 150);
}

#[tokio::test]
async fn what_is_no_log_line_is_left_out() {
    assert_eq!(collect("garbage\n2026-11-21T10:00:00Z stdout F ok\n", LogOptions::default()).await, "ok\n");
}

#[tokio::test]
async fn following_sees_what_is_appended_and_rotated_and_ends_with_the_container() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("0.log");
    let running = Arc::new(AtomicBool::new(true));
    let (sender, mut receiver) = mpsc::channel(100);
    let options = LogOptions { follow: true, ..Default::default() };
    let is_running = {
        let running = running.clone();
        move || running.load(Ordering::Relaxed)
    };
    let reading = tokio::spawn(read(path.clone(), options, is_running, sender));
    std::fs::write(&path, "2026-11-21T10:00:00Z stdout F one\n").unwrap();
    assert_eq!(receiver.recv().await.unwrap(), "one\n");
    std::fs::rename(&path, directory.path().join("0.log.old")).unwrap();
    std::fs::write(&path, "2026-11-21T10:00:01Z stdout F two\n").unwrap();
    assert_eq!(receiver.recv().await.unwrap(), "two\n");
    running.store(false, Ordering::Relaxed);
    reading.await.unwrap().unwrap();
    assert!(receiver.recv().await.is_none());
}

#[test]
fn the_query_is_read_as_the_kubelet_s() {
    let now: Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
    let parse = |pairs: &[(&str, &str)]| LogOptions::parse(pairs.iter().copied(), now);
    let options = parse(&[("follow", "true"), ("tailLines", "5"), ("sinceSeconds", "60")]).unwrap();
    assert!(options.follow && options.tail_lines == Some(5));
    assert_eq!(options.since, Some("2026-11-21T09:59:00Z".parse().unwrap()));
    assert!(parse(&[("tailLines", "-1")]).is_err());
    assert!(!parse(&[("follow", "false")]).unwrap().follow);
}

fn status(state: serde_json::Value, last: serde_json::Value) -> PodStatus {
    let container = json!({
        "name": "web", "image": "x", "imageID": "", "ready": false, "restartCount": 0, "containerID": "naru://now",
        "state": state, "lastState": last
    });
    serde_json::from_value(json!({ "containerStatuses": [container] })).unwrap()
}

#[test]
fn a_run_is_chosen_or_refused_in_the_kubelet_s_words() {
    let ended = |id: &str| json!({ "terminated": { "exitCode": 1, "containerID": format!("naru://{id}") } });
    let running = json!({ "running": {} });
    let waiting = |reason: &str| json!({ "waiting": { "reason": reason } });
    for (state, last, previous, expected) in [
        (running.clone(), json!({}), false, Ok("now")),
        (running.clone(), ended("old"), true, Ok("old")),
        (running, json!({}), true, Err("previous terminated container \"web\" in pod \"p\" not found")),
        (ended("end"), json!({}), false, Ok("end")),
        (waiting("CrashLoopBackOff"), ended("old"), false, Ok("old")),
        (
            waiting("ContainerCreating"),
            json!({}),
            false,
            Err("container \"web\" in pod \"p\" is waiting to start: ContainerCreating"),
        ),
        (
            waiting("ImagePullBackOff"),
            json!({}),
            false,
            Err("container \"web\" in pod \"p\" is waiting to start: trying and failing to pull image"),
        ),
    ] {
        let chosen = choose_run(&status(state, last), "p", "web", previous);
        assert_eq!(chosen.as_deref().map_err(String::as_str), expected);
    }
}
