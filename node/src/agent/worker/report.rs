//! What is told of the pod, and the end: the last status, and nothing left behind.

use std::{path::Path, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodStatus;

use super::Worker;
use crate::agent::{
    cluster::ClusterError,
    decide::Cause,
    inbox::Report,
    json_patch,
    pod_status::{self, is_on_its_way},
    resize,
    status_writer::Urgency,
};

impl Worker {
    pub(super) fn status(&self, is_terminated: bool, now: Timestamp) -> PodStatus {
        let nothing = PodStatus::default();
        let old = self.reported.as_deref().unwrap_or(&nothing);
        let facts = &self.shared.facts;
        pod_status::generate(&self.pod, &self.observed, &self.memory, old, facts, is_terminated, now)
    }

    /// Tells the API if there is anything new, and leaves the report for whoever asks this node.
    pub(super) fn report(&mut self, status: PodStatus) {
        let is_news = !self.reported.as_ref().is_some_and(|old| json_patch::says_the_same(old, &status));
        // What says the same is the same: kept once for all who ask.
        let known = self.reported.as_ref().filter(|_| !is_news).cloned();
        let status = known.unwrap_or_else(|| Arc::new(status));
        self.inbox.set_report(Report {
            pod: self.pod.clone(),
            status: status.clone(),
            observed: self.observed.clone(),
        });
        if is_news && !self.is_gone {
            let urgency = if is_on_its_way(&status) { Urgency::Soon } else { Urgency::Now };
            // What was told of a resize is taken back, even if the API has not answered yet.
            let told = self.reported.as_deref().filter(|told| resize::is_told(told));
            let old = told.or(self.pod.status());
            self.shared.statuses.publish(&self.pod.identity, old, (*status).clone(), urgency);
            self.reported = Some(status);
        }
    }

    /// Nothing runs any more: reports that, cleans up, and ends the deletion. True when the worker is done.
    pub(super) async fn finish(&mut self, status: PodStatus) -> bool {
        let cause = self.memory.termination.as_ref().map_or(Cause::Finished, |termination| termination.cause);
        if cause == Cause::Gone {
            self.probers.clear();
            return self.clean_up().await;
        }
        if cause != Cause::Deleted {
            self.report(status);
            self.remove_volumes().await;
            return false;
        }
        if self.is_finished {
            return false; // All that is left is to hear that it is gone.
        }
        let status = Arc::new(status);
        self.inbox.set_report(Report {
            pod: self.pod.clone(),
            status: status.clone(),
            observed: self.observed.clone(),
        });
        let writer = self.shared.statuses.clone();
        let told = writer.publish_and_wait(&self.pod.identity, self.pod.status(), (*status).clone()).await;
        self.reported = Some(status);
        self.remove_volumes().await;
        if !told {
            tracing::debug!(pod = self.pod.identity.long_name(), "the last status found nobody to take it");
        }
        match self.shared.cluster.finish_pod_deletion(&self.pod.identity).await {
            Ok(()) | Err(ClusterError::NotFound(_) | ClusterError::Conflict(_)) => self.is_finished = true,
            Err(error) => {
                tracing::warn!(pod = self.pod.identity.long_name(), %error, "deletion could not be finished yet");
                // Nothing tells when the other side will do it: it is asked again.
                tokio::time::sleep(Duration::from_secs(1)).await;
                self.inbox.nudge();
            }
        }
        false
    }

    /// Removes what is left on this node; false if the runtime has to be asked again.
    async fn clean_up(&mut self) -> bool {
        for sandbox in &self.observed.sandboxes {
            if let Err(error) = self.shared.runtime.remove_sandbox(&sandbox.id).await {
                tracing::warn!(pod = self.pod.identity.long_name(), %error, "sandbox could not be removed yet");
                // Nothing tells when the other side will do it: it is asked again.
                tokio::time::sleep(Duration::from_secs(1)).await;
                self.is_stale = true;
                self.inbox.nudge();
                return false;
            }
        }
        for home in self.shared.directories.homes() {
            remove(&home.join(&self.pod.identity.uid)).await;
        }
        let logs = self.shared.directories.pod_logs(&self.pod.identity);
        let _ = tokio::fs::remove_dir_all(&logs).await; // Absent when nothing ever ran.
        true
    }
}

/// Removes a directory that may have gone already.
pub(super) async fn remove(directory: &Path) {
    if let Err(error) = tokio::fs::remove_dir_all(directory).await
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(directory = %directory.display(), %error, "a pod's files could not be removed");
    }
}
