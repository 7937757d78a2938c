//! Which probes run: those of the containers that run, while their answers matter.

use std::collections::HashSet;

use jiff::Timestamp;
use tokio_util::task::AbortOnDropHandle;

use super::Worker;
use crate::agent::{
    pod_view::{ProbeKind, Role},
    prober::Prober,
};

impl Worker {
    /// Starts probes that are due, and ends those whose container is gone or which have had their say.
    pub(super) fn update_probes(&mut self) {
        let is_terminating = self.memory.termination.is_some();
        let mut wanted = Vec::new();
        for (container, role) in self.pod.all_containers().filter(|(_, role)| *role != Role::Init) {
            let Some(record) = self.observed.latest(&container.name).filter(|record| record.is_running())
            else {
                continue;
            };
            let results = self.memory.probes.get(&record.id).copied().unwrap_or_default();
            let is_starting = container.startup_probe.is_some() && results.startup != Some(true);
            for kind in ProbeKind::ALL {
                let is_its_turn = (kind == ProbeKind::Startup) == is_starting;
                let is_allowed = !is_terminating || kind == ProbeKind::Readiness;
                let has_failed = (kind == ProbeKind::Liveness && results.liveness == Some(false))
                    || (kind == ProbeKind::Startup && results.startup == Some(false));
                if kind.of(container).is_some() && is_its_turn && is_allowed && !has_failed {
                    wanted.push((container, role, record, kind));
                }
            }
        }
        let keys: HashSet<_> = wanted.iter().map(|(_, _, record, kind)| (record.id.clone(), *kind)).collect();
        self.probers.retain(|key, _| keys.contains(key));
        for (container, role, record, kind) in wanted {
            let key = (record.id.clone(), kind);
            if self.probers.contains_key(&key) {
                continue;
            }
            let known = match kind {
                ProbeKind::Readiness => {
                    self.memory.probes.get(&record.id).and_then(|results| results.readiness)
                }
                _ => None,
            };
            let prober = Prober {
                pod: self.pod.identity.clone(),
                pod_ip: self.pod_ip(),
                container: container.clone(),
                role,
                container_id: record.id.clone(),
                started_at: record.started().unwrap_or_else(Timestamp::now),
                kind,
                known,
                runtime: self.shared.runtime.clone(),
                events: self.shared.events.clone(),
            };
            let inbox = self.inbox.clone();
            let report = move |id: &str, kind, success| inbox.push_probe(id, kind, success);
            self.probers.insert(key, AbortOnDropHandle::new(tokio::spawn(prober.run(report))));
        }
    }
}
