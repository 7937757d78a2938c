//! News for one pod's worker: only the latest of each kind counts, so nothing queues up.

use std::sync::{Arc, Mutex, RwLock};

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::PodStatus;
use tokio::sync::Notify;

use super::{
    identity::PodIdentity,
    observed::Observed,
    pod_view::{PodView, ProbeKind},
};

/// What has come since the worker last asked.
#[derive(Default)]
pub struct News {
    pub pod: Option<PodView>,
    /// The pod is no longer in the API.
    pub is_gone: bool,
    /// Something happened in the runtime at this time of its clock; 0 for a time unknown.
    pub dirty_at: Option<i64>,
    /// Container id, probe, success.
    pub probes: Vec<(String, ProbeKind, bool)>,
    pub refresh_volumes: bool,
}

/// What the worker last knew: for the node API.
#[derive(Clone)]
pub struct Report {
    pub pod: PodView,
    pub status: Arc<PodStatus>,
    pub observed: Arc<Observed>,
}

/// A pod and the status that was reported, as JSON: a fifth of what they take as objects.
#[derive(Clone)]
pub struct Packed {
    identity: PodIdentity,
    pod: Arc<[u8]>,
    status: Option<Arc<[u8]>>,
}

impl Packed {
    pub fn new(pod: &PodView, status: Option<&PodStatus>) -> Result<Self, serde_json::Error> {
        Ok(Self {
            identity: pod.identity.clone(),
            pod: serde_json::to_vec(&**pod.pod())?.into(),
            status: status.map(serde_json::to_vec).transpose()?.map(Into::into),
        })
    }

    pub fn open(&self) -> (PodView, Option<Arc<PodStatus>>) {
        let mut pod = serde_json::from_slice(&self.pod).expect("it was written here");
        naru_model::pod::compact(&mut pod);
        let status =
            self.status.as_ref().map(|json| serde_json::from_slice(json).expect("it was written here"));
        (PodView::new(Arc::new(pod)).expect("it had a spec"), status.map(Arc::new))
    }
}

/// The report of a pod that works, or rests.
enum Stored {
    Open(Arc<Report>),
    Packed { packed: Packed, observed: Arc<Observed> },
}

#[derive(Default)]
pub struct Inbox {
    /// Held for a few lines.
    news: Mutex<State>,
    wake: Notify,
    interrupt: Notify,
    report: RwLock<Option<Stored>>,
}

#[derive(Default)]
struct State {
    news: News,
    is_woken: bool,
    /// Among the news is some that ends what the worker is doing.
    is_interrupting: bool,
    /// The grace period of the termination that runs, if one does: a shorter one interrupts it.
    grace_seconds: Option<i64>,
}

impl Inbox {
    pub fn push_pod(&self, pod: PodView) {
        let interrupts = pod.is_being_deleted();
        let grace_seconds = pod.grace_seconds();
        self.tell(|state| {
            state.news.pod = Some(pod);
            interrupts && state.grace_seconds.is_none_or(|running| grace_seconds < running)
        });
    }

    pub fn push_gone(&self) {
        self.tell(|state| {
            state.news.is_gone = true;
            state.grace_seconds.is_none()
        });
    }

    pub fn push_dirty(&self, at: i64) {
        self.tell(|state| {
            let earlier = state.news.dirty_at;
            // Zero, a time unknown, is news at any time.
            state.news.dirty_at =
                Some(earlier.map_or(at, |earlier| if earlier == 0 || at == 0 { 0 } else { at.max(earlier) }));
            false
        });
    }

    pub fn push_probe(&self, container_id: &str, kind: ProbeKind, success: bool) {
        self.tell(|state| {
            state.news.probes.push((container_id.into(), kind, success));
            false
        });
    }

    pub fn push_refresh(&self) {
        self.tell(|state| {
            state.news.refresh_volumes = true;
            false
        });
    }

    /// Makes the worker go round once more.
    pub fn nudge(&self) {
        self.tell(|_| false);
    }

    fn tell(&self, change: impl FnOnce(&mut State) -> bool) {
        let mut state = self.news.lock().expect("no one panics holding it");
        let interrupts = change(&mut state);
        state.is_woken = true;
        state.is_interrupting |= interrupts;
        drop(state);
        self.wake.notify_one();
        if interrupts {
            self.interrupt.notify_one();
        }
    }

    pub fn take(&self) -> News {
        let mut state = self.news.lock().expect("no one panics holding it");
        (state.is_woken, state.is_interrupting) = (false, false);
        std::mem::take(&mut state.news)
    }

    pub fn set_grace(&self, grace_seconds: Option<i64>) {
        self.news.lock().expect("no one panics holding it").grace_seconds = grace_seconds;
    }

    /// Returns when there is news, or after the delay; whether there is news.
    pub async fn wait(&self, delay: Option<SignedDuration>) -> bool {
        let limit = delay.map(|delay| std::time::Duration::try_from(delay).unwrap_or_default());
        let news = async {
            while !self.news.lock().expect("no one panics holding it").is_woken {
                self.wake.notified().await;
            }
        };
        match limit {
            None => {
                news.await;
                true
            }
            Some(limit) => tokio::time::timeout(limit, news).await.is_ok(),
        }
    }

    /// Returns when what the worker is doing should be dropped: the pod is to end, or to end sooner.
    pub async fn interrupted(&self) {
        while !self.news.lock().expect("no one panics holding it").is_interrupting {
            self.interrupt.notified().await;
        }
    }

    pub fn set_report(&self, report: Report) {
        *self.report.write().expect("no one panics holding it") = Some(Stored::Open(Arc::new(report)));
    }

    /// What the pod was just given counts at once for those who ask what is left, not only with the next report.
    pub fn set_agreed(&self, pod: &PodView) {
        if let Some(report) = self.report() {
            self.set_report(Report { pod: pod.clone(), ..(*report).clone() });
        }
    }

    /// Keeps what was reported last in its packed form.
    pub fn pack_report(&self, packed: &Packed) {
        let mut report = self.report.write().expect("no one panics holding it");
        if let Some(Stored::Open(open)) = &*report
            && packed.status.is_some()
        {
            let observed = open.observed.clone();
            *report = Some(Stored::Packed { packed: packed.clone(), observed });
        }
    }

    pub fn report(&self) -> Option<Arc<Report>> {
        match self.report.read().expect("no one panics holding it").as_ref()? {
            Stored::Open(report) => Some(report.clone()),
            Stored::Packed { packed, observed } => {
                let (pod, status) = packed.open();
                Some(Arc::new(Report { pod, status: status.unwrap_or_default(), observed: observed.clone() }))
            }
        }
    }

    #[cfg(test)]
    pub fn is_packed(&self) -> bool {
        matches!(*self.report.read().expect("no one panics holding it"), Some(Stored::Packed { .. }))
    }

    /// Of the report, what the runtime said last. Costs nothing for a pod at rest.
    pub fn observed(&self) -> Option<(PodIdentity, Arc<Observed>)> {
        match self.report.read().expect("no one panics holding it").as_ref()? {
            Stored::Open(report) => Some((report.pod.identity.clone(), report.observed.clone())),
            Stored::Packed { packed, observed } => Some((packed.identity.clone(), observed.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;

    fn deleted(grace_seconds: i64) -> PodView {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "deletionTimestamp": "2026-11-21T10:00:00Z", "deletionGracePeriodSeconds": grace_seconds },
            "spec": { "containers": [] }
        }))
        .unwrap();
        PodView::new(Arc::new(pod)).unwrap()
    }

    async fn is_interrupted(inbox: &Inbox) -> bool {
        tokio::time::timeout(Duration::from_millis(20), inbox.interrupted()).await.is_ok()
    }

    #[tokio::test]
    async fn only_news_that_was_not_taken_yet_interrupts() {
        let inbox = Inbox::default();
        inbox.push_dirty(1);
        assert!(!is_interrupted(&inbox).await);
        inbox.push_pod(deleted(30));
        assert!(is_interrupted(&inbox).await);
        inbox.push_pod(deleted(30));
        drop(inbox.take());
        assert!(!is_interrupted(&inbox).await);
        inbox.set_grace(Some(30));
        inbox.push_pod(deleted(30));
        assert!(!is_interrupted(&inbox).await);
        inbox.push_pod(deleted(5));
        assert!(is_interrupted(&inbox).await);
    }

    #[tokio::test]
    async fn waiting_ends_with_news_or_in_time() {
        let inbox = Inbox::default();
        inbox.nudge();
        inbox.wait(None).await;
        drop(inbox.take());
        inbox.wait(Some(SignedDuration::from_millis(5))).await;
        assert!(tokio::time::timeout(Duration::from_millis(20), inbox.wait(None)).await.is_err());
    }
}
