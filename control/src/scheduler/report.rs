//! Tells users what became of their pods: events, and the `PodScheduled` condition.
//!
//! One task writes all reports, a bounded number at a time. Events are a courtesy: when too many wait, those of
//! successes are dropped. A refusal that repeats counts up its event, at most every ten seconds.

use std::{collections::HashMap, sync::Arc, time::Duration};

use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};
use naru_model::condition;
use serde_json::json;
use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet},
};

use super::{Cluster, PodInfo, SCHEDULER_NAME};

const QUEUE: usize = 8_192;
const AT_ONCE: usize = 32;
const COUNT_EVERY: Duration = Duration::from_secs(10);

/// What there is to tell.
#[derive(Debug)]
pub enum Report {
    Scheduled { pod: Arc<PodInfo>, node: Arc<str> },
    Unschedulable { pod: Arc<PodInfo>, message: String },
    BindFailed { pod: Arc<PodInfo>, message: String },
}

/// Where reports are handed in.
#[derive(Clone)]
pub struct Reporter {
    sender: mpsc::Sender<Report>,
}

impl Reporter {
    /// Starts the task; it ends when the last handle is gone and everything is written.
    pub fn spawn<C: Cluster>(cluster: Arc<C>) -> (Self, JoinHandle<()>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Self { sender }, tokio::spawn(write_all(cluster, receiver)))
    }

    /// Never waits.
    pub fn send(&self, report: Report) {
        let keeps_room = matches!(report, Report::Scheduled { .. }) && self.sender.capacity() < QUEUE / 4;
        if keeps_room || self.sender.try_send(report).is_err() {
            tracing::debug!("too many reports wait; one was dropped");
        }
    }
}

/// An event that was written and may be counted up.
#[derive(Clone)]
struct Told {
    event: String,
    message: String,
    count: i32,
    written: Timestamp,
}

async fn write_all<C: Cluster>(cluster: Arc<C>, mut reports: mpsc::Receiver<Report>) {
    let mut writes = JoinSet::new();
    // By uid of pods that were refused; emptied when it has grown large, which costs a few more events.
    let mut told: HashMap<String, Told> = HashMap::new();
    while let Some(report) = reports.recv().await {
        while writes.len() >= AT_ONCE {
            writes.join_next().await;
        }
        let now = Timestamp::now();
        if told.len() > QUEUE {
            told.clear();
        }
        writes.spawn(write(cluster.clone(), plan(report, &mut told, now)));
    }
    while writes.join_next().await.is_some() {}
}

/// The writes that one report takes.
#[derive(Debug, Default)]
struct Writes {
    event: Option<Box<Event>>,
    /// Namespace, event and new count.
    counted: Option<(String, String, i32)>,
    condition: Option<(Arc<PodInfo>, String)>,
    now: Option<Timestamp>,
}

fn plan(report: Report, told: &mut HashMap<String, Told>, now: Timestamp) -> Writes {
    let mut writes = Writes { now: Some(now), ..Writes::default() };
    match report {
        Report::Scheduled { pod, node } => {
            told.remove(pod.uid());
            let message = format!("Successfully assigned {}/{} to {node}", pod.namespace(), pod.name());
            writes.event = Some(Box::new(event(&pod, "Normal", "Scheduled", message, now)));
        }
        Report::BindFailed { pod, message } => refused(&pod, message, told, now, &mut writes),
        Report::Unschedulable { pod, message } => {
            if !says_already(&pod, &message) {
                writes.condition = Some((pod.clone(), message.clone()));
            }
            refused(&pod, message, told, now, &mut writes);
        }
    }
    writes
}

fn refused(
    pod: &PodInfo,
    message: String,
    told: &mut HashMap<String, Told>,
    now: Timestamp,
    writes: &mut Writes,
) {
    match told.get_mut(pod.uid()).filter(|told| told.message == message) {
        Some(told) => {
            told.count += 1;
            if now.duration_since(told.written).unsigned_abs() >= COUNT_EVERY {
                told.written = now;
                writes.counted = Some((pod.namespace().into(), told.event.clone(), told.count));
            }
        }
        None => {
            let event = event(pod, "Warning", "FailedScheduling", message.clone(), now);
            let name = event.metadata.name.clone().unwrap_or_default();
            told.insert(pod.uid().into(), Told { event: name, message, count: 1, written: now });
            writes.event = Some(Box::new(event));
        }
    }
}

/// Whether the pod carries this very refusal as its condition.
fn says_already(pod: &PodInfo, message: &str) -> bool {
    let conditions = pod.pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    condition::find(conditions, "PodScheduled").is_some_and(|found| {
        found.status == "False"
            && found.reason.as_deref() == Some("Unschedulable")
            && found.message.as_deref() == Some(message)
    })
}

async fn write<C: Cluster>(cluster: Arc<C>, writes: Writes) {
    let now = writes.now.unwrap_or_default();
    let mut results = Vec::new();
    if let Some((pod, message)) = writes.condition {
        let patch = json!({"status": {"conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
            "lastProbeTime": null, "lastTransitionTime": transition(&pod, now), "observedGeneration": pod.pod.metadata.generation,
        }]}});
        results.push(cluster.patch_pod_status(&pod, patch).await);
    }
    if let Some(event) = writes.event {
        results.push(cluster.create_event(&event).await);
    }
    if let Some((namespace, event, count)) = writes.counted {
        let patch = json!({"count": count, "lastTimestamp": Time(now)});
        results.push(cluster.patch_event(&namespace, &event, patch).await);
    }
    for error in results.into_iter().filter_map(Result::err) {
        tracing::debug!(%error, "a report could not be written");
    }
}

/// The condition's transition time: that of the condition that stands, if it says False too.
fn transition(pod: &PodInfo, now: Timestamp) -> Time {
    let conditions = pod.pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let stands = condition::find(conditions, "PodScheduled").filter(|found| found.status == "False");
    stands.and_then(|found| found.last_transition_time.clone()).unwrap_or(Time(now))
}

fn event(pod: &PodInfo, kind: &str, reason: &str, message: String, now: Timestamp) -> Event {
    let name = format!("{}.{:x}", pod.name(), now.as_nanosecond());
    Event {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(pod.namespace().into()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: Some(pod.name().into()),
            namespace: Some(pod.namespace().into()),
            uid: Some(pod.uid().into()),
            resource_version: pod.pod.metadata.resource_version.clone(),
            field_path: None,
        },
        type_: Some(kind.into()),
        reason: Some(reason.into()),
        message: Some(message),
        source: Some(EventSource { component: Some(SCHEDULER_NAME.into()), host: None }),
        reporting_component: Some(SCHEDULER_NAME.into()),
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Arc<PodInfo> {
        let value = json!({"metadata": {"name": "web", "namespace": "d", "uid": "1"}, "spec": {"containers": []},
            "status": {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "known"}]}});
        Arc::new(PodInfo::new(Arc::new(serde_json::from_value(value).expect("a pod"))))
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    fn refuse(
        told: &mut HashMap<String, Told>,
        message: &str,
        second: i64,
    ) -> (Option<String>, Option<i32>, bool) {
        let writes = plan(Report::Unschedulable { pod: pod(), message: message.into() }, told, at(second));
        let message = writes.event.and_then(|event| event.message);
        (message, writes.counted.map(|(.., count)| count), writes.condition.is_some())
    }

    #[test]
    fn a_refusal_that_repeats_is_counted_and_not_told_again() {
        let mut told = HashMap::new();
        assert_eq!(refuse(&mut told, "full", 0), (Some("full".into()), None, true));
        assert_eq!(refuse(&mut told, "full", 5), (None, None, true));
        assert_eq!(refuse(&mut told, "full", 10), (None, Some(3), true));
        assert_eq!(refuse(&mut told, "full", 15), (None, None, true));
        assert_eq!(refuse(&mut told, "tainted", 16), (Some("tainted".into()), None, true));
    }

    #[test]
    fn a_condition_that_stands_is_not_written_again() {
        let mut told = HashMap::new();
        assert_eq!(refuse(&mut told, "known", 0), (Some("known".into()), None, false));
    }

    #[test]
    fn success_is_told_in_kubernetes_words() {
        let writes = plan(Report::Scheduled { pod: pod(), node: "n1".into() }, &mut HashMap::new(), at(1));
        let event = writes.event.expect("an event");
        assert_eq!(event.message.as_deref(), Some("Successfully assigned d/web to n1"));
        assert_eq!((event.type_.as_deref(), event.reason.as_deref()), (Some("Normal"), Some("Scheduled")));
        assert_eq!(event.metadata.name.as_deref(), Some("web.3b9aca00"));
    }
}
