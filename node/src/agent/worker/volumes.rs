//! The pod's volumes: made before the sandbox, and brought up to date while the pod runs.

use std::time::{Duration, Instant};

use super::{Worker, actions::Failed, report::remove};
use crate::agent::{
    events::EventKind,
    objects::RECENT,
    volumes::{self, MountFailure, VolumeSources},
};

impl Worker {
    /// ConfigMaps and the like may have changed since they were mounted.
    pub(super) async fn refresh_volumes(&mut self) {
        let has_text = self.pod.spec().volumes.iter().flatten().any(volumes::is_text);
        let is_mounted = self.volumes.is_some() || self.observed.has_running();
        if std::mem::take(&mut self.refresh_wanted)
            && has_text
            && is_mounted
            && self.memory.termination.is_none()
        {
            // A failure has been told; what is mounted stays as it is.
            let _ = Box::pin(self.set_up_volumes(RECENT)).await;
        }
    }

    pub(super) async fn set_up_volumes(&mut self, max_age: Duration) -> Result<(), Failed> {
        let addresses = self.addresses();
        let sources = VolumeSources {
            pod: &self.pod,
            objects: &self.shared.objects,
            directories: &self.shared.directories,
            addresses: &addresses,
            allocatable: self.shared.allocatable,
            max_age,
        };
        match sources.set_up().await {
            Ok(paths) => {
                self.volumes = Some(paths);
                self.volumes_fresh_at = Some(Instant::now());
                Ok(())
            }
            Err(failures) => {
                for message in failures.iter().map(MountFailure::message) {
                    self.shared.events.pod(&self.pod.identity, EventKind::Warning, "FailedMount", message);
                }
                Err(Failed { retry_in: None })
            }
        }
    }

    pub(super) async fn remove_volumes(&mut self) {
        self.volumes = None;
        for volumes in self.shared.directories.volumes(&self.pod.identity.uid) {
            remove(&volumes).await;
        }
    }
}
