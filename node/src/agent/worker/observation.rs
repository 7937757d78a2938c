//! What the runtime says of the pod, and what of it an agent that was started again takes over.

use std::sync::Arc;

use k8s_cri::v1 as cri;

use super::Worker;
use crate::agent::{
    observed::{ContainerRecord, Observed, RunState, Sandbox},
    pod_status,
    runtime::RuntimeError,
    termination_message,
};

impl Worker {
    /// Takes over the probes' verdicts on containers that were running before this agent was.
    pub(super) fn adopt(&mut self) {
        let Some(status) = self.pod.status() else { return };
        for (name, reported) in pod_status::by_name(status) {
            let Some(record) = self.observed.latest(name).filter(|record| record.is_running()) else {
                continue;
            };
            if reported.container_id.as_deref().is_some_and(|id| id.ends_with(&record.id)) {
                let results = self.memory.probes.entry(record.id.clone()).or_default();
                results.readiness = Some(reported.ready);
                results.startup = reported.started.filter(|started| *started);
            }
        }
    }

    /// Asks the runtime about the pod's sandboxes and containers.
    pub(super) async fn look(&mut self) -> Result<(), RuntimeError> {
        let mut sandboxes = Vec::new();
        let mut records = Vec::new();
        let mut timestamp = i64::MAX;
        let mut known = std::mem::take(&mut self.sandbox_ids);
        for id in &known {
            let response = match self.shared.runtime.sandbox_status(id).await {
                Ok(response) => response,
                Err(error) if error.is_not_found() => continue,
                Err(error) => {
                    self.sandbox_ids = known;
                    return Err(error);
                }
            };
            let Some(status) = &response.status else { continue };
            sandboxes.push(Sandbox::from_status(status));
            timestamp = timestamp.min(response.timestamp);
            for status in &response.containers_statuses {
                records.push(self.record(status, id).await);
            }
        }
        // A runtime need not tell of containers there; then they are asked for one by one.
        if records.is_empty() && !sandboxes.is_empty() && self.has_containers {
            match self.list_containers().await {
                Ok(listed) => records = listed,
                Err(error) => {
                    self.sandbox_ids = known;
                    return Err(error);
                }
            }
        }
        known.retain(|id| sandboxes.iter().any(|sandbox| sandbox.id == *id));
        self.sandbox_ids = known;
        let timestamp = if timestamp == i64::MAX { 0 } else { timestamp };
        self.observed = Arc::new(Observed::new(sandboxes, records, timestamp));
        self.is_stale = false;
        self.memory.probes.retain(|id, _| self.observed.container(id).is_some());
        self.memory.resized.retain(|id, _| self.observed.container(id).is_some());
        Ok(())
    }

    /// With its last words, if it ended; they are read once.
    async fn record(&self, status: &cri::ContainerStatus, sandbox_id: &str) -> ContainerRecord {
        let mut record = ContainerRecord::from_status(status, sandbox_id);
        if record.state == RunState::Exited {
            let known = self.observed.container(&record.id).filter(|known| known.state == RunState::Exited);
            record.message = match known {
                Some(known) => known.message.clone(),
                None => termination_message::of(status).await,
            };
        }
        record
    }

    async fn list_containers(&self) -> Result<Vec<ContainerRecord>, RuntimeError> {
        let mut records = Vec::new();
        for container in self.shared.runtime.list_containers(Some(&self.pod.identity.uid)).await? {
            match self.shared.runtime.container_status(&container.id).await {
                Ok(status) => records.push(self.record(&status, &container.pod_sandbox_id).await),
                Err(error) if error.is_not_found() => (),
                Err(error) => return Err(error),
            }
        }
        Ok(records)
    }
}
