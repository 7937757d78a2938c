//! Container events for those who listen, such as the agent.

use std::sync::{Mutex, PoisonError};

use k8s_cri::v1::ContainerEventResponse;
use tokio::sync::mpsc;
use tonic::Status;

/// A listener that lags so far behind is cut off and has to list again.
const MAX_BEHIND: usize = 16_384;

type Listener = mpsc::Sender<Result<ContainerEventResponse, Status>>;

#[derive(Default)]
pub(super) struct Events {
    /// Guards a few lines without `.await`.
    listeners: Mutex<Vec<Listener>>,
}

impl Events {
    pub(super) fn subscribe(&self) -> mpsc::Receiver<Result<ContainerEventResponse, Status>> {
        // The last place is for the word that events were lost.
        let (sender, receiver) = mpsc::channel(MAX_BEHIND + 1);
        self.listeners().push(sender);
        receiver
    }

    /// `make` is called only if somebody listens.
    pub(super) fn send(&self, make: impl FnOnce() -> ContainerEventResponse) {
        let mut listeners = self.listeners();
        listeners.retain(|listener| !listener.is_closed());
        if listeners.is_empty() {
            return;
        }
        let event = make();
        listeners.retain(|listener| {
            if listener.capacity() > 1 {
                return listener.try_send(Ok(event.clone())).is_ok();
            }
            let _ = listener
                .try_send(Err(Status::resource_exhausted("events were lost: list the containers again")));
            false
        });
    }

    fn listeners(&self) -> std::sync::MutexGuard<'_, Vec<Listener>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_listener_that_sleeps_is_told_that_it_lost_events() {
        let events = Events::default();
        let mut receiver = events.subscribe();
        for _ in 0..MAX_BEHIND + 10 {
            events.send(ContainerEventResponse::default);
        }
        let mut received = 0;
        while let Some(Ok(_)) = receiver.recv().await {
            received += 1;
        }
        assert_eq!(received, MAX_BEHIND);
        assert!(events.listeners().is_empty());
        events.send(|| unreachable!("nobody listens"));
    }
}
