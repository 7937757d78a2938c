//! Status writes: per pod only the latest counts, and over all pods only so many are in flight.
//!
//! A start that goes quickly costs one write: a status that only says "on its way" is held back for a moment, and is
//! never written if a better one comes meanwhile.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use k8s_openapi::api::core::v1::PodStatus;
use tokio::{
    sync::{Notify, oneshot},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    cluster::{Cluster, ClusterError},
    identity::PodIdentity,
    json_patch::status_patch,
};

const IN_FLIGHT: usize = 16;
const HOLD_BACK: Duration = Duration::from_millis(1500);
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Takes statuses from the workers.
pub struct StatusWriter {
    cluster: Arc<dyn Cluster>,
    /// Held for a few lines, never over an await.
    queue: Mutex<Queue>,
    wake: Notify,
}

/// How soon a status must be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    Now,
    /// Progress that the next status will most likely include.
    Soon,
}

#[derive(Default)]
struct Queue {
    waiting: HashMap<String, Entry>,
    /// Uids that are due, in order.
    due: VecDeque<String>,
    held: VecDeque<(Instant, String)>,
    /// Uids being written: two writes of one pod could overtake each other.
    in_flight: HashSet<String>,
}

struct Entry {
    pod: PodIdentity,
    /// What the API is known to say, for the patch.
    old: Option<PodStatus>,
    status: PodStatus,
    is_due: bool,
    written: Vec<oneshot::Sender<bool>>,
}

impl StatusWriter {
    pub fn new(cluster: Arc<dyn Cluster>) -> Self {
        Self { cluster, queue: Mutex::default(), wake: Notify::new() }
    }

    /// Replaces what is still to be written for the pod.
    pub fn publish(&self, pod: &PodIdentity, old: Option<&PodStatus>, status: PodStatus, urgency: Urgency) {
        self.enqueue(pod, old, status, urgency, None);
    }

    /// Writes at once and says whether the API has it; false when it will never take it.
    pub async fn publish_and_wait(
        &self,
        pod: &PodIdentity,
        old: Option<&PodStatus>,
        status: PodStatus,
    ) -> bool {
        let (sender, receiver) = oneshot::channel();
        self.enqueue(pod, old, status, Urgency::Now, Some(sender));
        receiver.await.unwrap_or(false)
    }

    fn enqueue(
        &self,
        pod: &PodIdentity,
        old: Option<&PodStatus>,
        status: PodStatus,
        urgency: Urgency,
        written: Option<oneshot::Sender<bool>>,
    ) {
        let mut queue = self.queue.lock().expect("no one panics holding it");
        let is_new = !queue.waiting.contains_key(&pod.uid);
        let entry = queue.waiting.entry(pod.uid.clone()).or_insert_with(|| Entry {
            pod: pod.clone(),
            old: old.cloned(),
            status: PodStatus::default(),
            is_due: false,
            written: Vec::new(),
        });
        entry.status = status;
        entry.written.extend(written);
        if urgency == Urgency::Now && !entry.is_due {
            entry.is_due = true;
            queue.due.push_back(pod.uid.clone());
            self.wake.notify_one();
        } else if is_new {
            queue.held.push_back((Instant::now() + HOLD_BACK, pod.uid.clone()));
            self.wake.notify_one();
        }
    }

    /// Writes until `shutdown`.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let mut writes = JoinSet::new();
        loop {
            while writes.len() < IN_FLIGHT
                && let Some(entry) = self.next_due()
            {
                let writer = self.clone();
                writes.spawn(async move {
                    let uid = entry.pod.uid.clone();
                    writer.write(entry).await;
                    writer.finish(&uid);
                });
            }
            let next_held = self.next_held();
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.wake.notified() => (),
                Some(_) = writes.join_next() => (),
                () = tokio::time::sleep_until(next_held.unwrap_or_else(Instant::now)), if next_held.is_some() => (),
            }
        }
    }

    fn next_due(&self) -> Option<Entry> {
        let mut queue = self.queue.lock().expect("no one panics holding it");
        let now = Instant::now();
        while queue.held.front().is_some_and(|(at, _)| *at <= now) {
            let (_, uid) = queue.held.pop_front().expect("it was there a line ago");
            if let Some(entry) = queue.waiting.get_mut(&uid)
                && !entry.is_due
            {
                entry.is_due = true;
                queue.due.push_back(uid);
            }
        }
        while let Some(uid) = queue.due.pop_front() {
            // One that is being written comes round again when that write is done.
            if !queue.in_flight.contains(&uid)
                && let Some(entry) = queue.waiting.remove(&uid)
            {
                queue.in_flight.insert(uid);
                return Some(entry);
            }
        }
        None
    }

    fn finish(&self, uid: &str) {
        let mut queue = self.queue.lock().expect("no one panics holding it");
        queue.in_flight.remove(uid);
        if queue.waiting.get(uid).is_some_and(|entry| entry.is_due) {
            queue.due.push_back(uid.to_owned());
        }
    }

    fn next_held(&self) -> Option<Instant> {
        self.queue.lock().expect("no one panics holding it").held.front().map(|(at, _)| *at)
    }

    async fn write(&self, entry: Entry) {
        let patch = status_patch(&entry.pod.uid, entry.old.as_ref(), &entry.status);
        let result = self.cluster.patch_pod_status(&entry.pod, &patch).await;
        let is_written = match result {
            Ok(()) => true,
            // The pod is gone, or another one has its name: nobody to tell.
            Err(ClusterError::NotFound(_) | ClusterError::Conflict(_)) => false,
            Err(ClusterError::Refused(message)) => {
                tracing::error!(pod = entry.pod.long_name(), message, "the API refused a pod's status");
                false
            }
            Err(ClusterError::Unavailable(message)) => {
                tracing::warn!(
                    pod = entry.pod.long_name(),
                    message,
                    "a pod's status could not be written yet"
                );
                tokio::time::sleep(RETRY_AFTER).await;
                self.retry(entry);
                return;
            }
        };
        for written in entry.written {
            let _ = written.send(is_written); // Whoever stopped waiting need not know.
        }
    }

    /// Back into the queue, unless something newer is there already.
    fn retry(&self, mut entry: Entry) {
        let mut queue = self.queue.lock().expect("no one panics holding it");
        let uid = entry.pod.uid.clone();
        if let Some(newer) = queue.waiting.get_mut(&uid) {
            newer.written.append(&mut entry.written);
        } else {
            entry.is_due = true;
            queue.waiting.insert(uid, entry); // `finish` makes it due.
        }
    }
}
