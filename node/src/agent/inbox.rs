//! News for one pod's worker: only the latest of each kind counts, so nothing queues up.

use std::sync::{Arc, Mutex, RwLock};

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::PodStatus;
use tokio::sync::Notify;

use super::{
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
    pub status: PodStatus,
    pub observed: Observed,
}

#[derive(Default)]
pub struct Inbox {
    /// Held for a few lines.
    news: Mutex<State>,
    wake: Notify,
    interrupt: Notify,
    report: RwLock<Option<Arc<Report>>>,
}

#[derive(Default)]
struct State {
    news: News,
    is_woken: bool,
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
        drop(state);
        self.wake.notify_one();
        if interrupts {
            self.interrupt.notify_one();
        }
    }

    pub fn take(&self) -> News {
        let mut state = self.news.lock().expect("no one panics holding it");
        state.is_woken = false;
        std::mem::take(&mut state.news)
    }

    pub fn set_grace(&self, grace_seconds: Option<i64>) {
        self.news.lock().expect("no one panics holding it").grace_seconds = grace_seconds;
    }

    /// Returns when there is news, or after the delay.
    pub async fn wait(&self, delay: Option<SignedDuration>) {
        let limit = delay.map(|delay| std::time::Duration::try_from(delay).unwrap_or_default());
        let news = async {
            while !self.news.lock().expect("no one panics holding it").is_woken {
                self.wake.notified().await;
            }
        };
        match limit {
            None => news.await,
            Some(limit) => drop(tokio::time::timeout(limit, news).await),
        }
    }

    /// Returns when what the worker is doing should be dropped: the pod is to end, or to end sooner.
    pub async fn interrupted(&self) {
        self.interrupt.notified().await;
    }

    pub fn set_report(&self, report: Report) {
        *self.report.write().expect("no one panics holding it") = Some(Arc::new(report));
    }

    pub fn report(&self) -> Option<Arc<Report>> {
        self.report.read().expect("no one panics holding it").clone()
    }
}
