//! What is told of a resize: that it begins, has to wait, fails or is done, each once.

use super::{Worker, is_final};
use crate::agent::{
    decide::first_unfit,
    events::EventKind,
    pod_view::PodView,
    resize::{self, Pending},
};

impl Worker {
    /// Notes what becomes of the sizes that the API asks for: the pod goes on as `agreed`.
    pub(super) fn note_resize(&mut self, asked: &PodView, agreed: &PodView, pending: Option<&Pending>) {
        let is_over = self.memory.termination.is_some() || self.reported.as_deref().is_some_and(is_final);
        if is_over {
            return;
        }
        let generation = asked.generation().unwrap_or_default();
        if !resize::has_same_sizes(agreed, &self.pod) {
            // What went wrong with other sizes says nothing about these.
            self.memory.resize_errors.clear();
            self.resize_told.in_progress = Some(generation);
            self.tell_of_resize(
                EventKind::Normal,
                "ResizeStarted",
                resize::event_message("started", agreed, None),
            );
        }
        let told = pending.map(|pending| (pending.reason, generation));
        if let Some(pending) = pending.filter(|_| told != self.resize_told.pending) {
            let message = resize::event_message(pending.reason.as_str(), asked, Some(&pending.message));
            self.tell_of_resize(EventKind::Warning, pending.reason.event(), message);
        }
        self.resize_told.pending = told;
    }

    /// Tells of the end of a resize, when all containers that run have their size; others get it when they start.
    pub(super) fn note_resized(&mut self) {
        if self.resize_told.in_progress.is_some()
            && first_unfit(&self.pod, &self.observed, &self.memory).is_none()
        {
            self.resize_told.in_progress = None;
            let message = resize::event_message("completed", &self.pod, None);
            self.tell_of_resize(EventKind::Normal, "ResizeCompleted", message);
        }
    }

    /// The runtime says `why` a container cannot have its size.
    pub(super) fn note_resize_error(&mut self, container: &str, why: &str) {
        let known = self.memory.resize_errors.insert(container.into(), why.into());
        if known.as_deref() != Some(why) {
            let message = resize::event_message("error", &self.pod, Some(why));
            self.tell_of_resize(EventKind::Warning, "ResizeError", message);
        }
    }

    fn tell_of_resize(&self, kind: EventKind, reason: &'static str, message: String) {
        self.shared.events.pod(&self.pod.identity, kind, reason, message);
    }
}
