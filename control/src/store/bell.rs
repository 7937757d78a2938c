//! What wakes the watchers of one resource.
//!
//! Whoever listens alone is woken by every ring. A crowd is woken together, and not again within a pause: to wake a
//! connection and to send it a frame costs the same for one event as for ten, and with a hundred watchers that is most
//! of what a write costs.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, futures::Notified},
    time::Instant,
};

/// So many listeners are a crowd.
const CROWD: usize = 16;
/// How long a crowd is left alone after it was woken, for each of its listeners: to wake one and to send it a frame
/// takes about 15 µs, so that a crowd never takes more than about a sixth of a core.
const PAUSE_EACH: Duration = Duration::from_micros(90);
/// Nobody waits longer than this, however large the crowd is.
const LONGEST_PAUSE: Duration = Duration::from_millis(10);

pub(super) struct Bell {
    pause_each: Duration,
    longest_pause: Duration,
    alone: Notify,
    crowd: Notify,
    /// Listeners in the crowd.
    listeners: AtomicUsize,
    pause: Mutex<Pause>,
}

#[derive(Default)]
struct Pause {
    ends: Option<Instant>,
    /// A task wakes the crowd when it ends.
    is_awaited: bool,
}

impl Default for Bell {
    fn default() -> Self {
        Self {
            pause_each: PAUSE_EACH,
            longest_pause: LONGEST_PAUSE,
            alone: Notify::new(),
            crowd: Notify::new(),
            listeners: AtomicUsize::new(0),
            pause: Mutex::default(),
        }
    }
}

impl Bell {
    /// Wakes all that listen: a crowd at once after a pause, else at the pause's end.
    pub fn ring(self: &Arc<Self>) {
        self.alone.notify_waiters();
        match self.listeners.load(Ordering::Relaxed) {
            0 => {}
            1..CROWD => self.crowd.notify_waiters(),
            _ => self.ring_for_crowd(),
        }
    }

    /// Wakes all that listen at once: what they listened to is over.
    pub fn ring_out(&self) {
        self.alone.notify_waiters();
        self.crowd.notify_waiters();
    }

    fn ring_for_crowd(self: &Arc<Self>) {
        let now = Instant::now();
        let mut pause = self.pause.lock().unwrap_or_else(PoisonError::into_inner);
        if pause.is_awaited {
            return;
        }
        if let Some(ends) = pause.ends.filter(|ends| *ends > now)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            pause.is_awaited = true;
            let bell = Arc::clone(self);
            runtime.spawn(async move {
                tokio::time::sleep_until(ends).await;
                bell.end_pause();
            });
            return;
        }
        pause.ends = Some(now + self.pause_length());
        drop(pause);
        self.crowd.notify_waiters();
    }

    fn end_pause(&self) {
        let mut pause = self.pause.lock().unwrap_or_else(PoisonError::into_inner);
        *pause = Pause { ends: Some(Instant::now() + self.pause_length()), is_awaited: false };
        drop(pause);
        self.crowd.notify_waiters();
    }

    fn pause_length(&self) -> Duration {
        let listeners = u32::try_from(self.listeners.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
        self.pause_each.saturating_mul(listeners).min(self.longest_pause)
    }

    /// Registers for the next ring.
    pub fn rung<'a>(&'a self, listener: &Listener) -> Notified<'a> {
        if listener.is_in_crowd { self.crowd.notified() } else { self.alone.notified() }
    }

    pub fn listen(bell: Arc<Self>) -> Listener {
        Listener { bell, is_in_crowd: false }
    }
}

/// One that listens to a bell.
pub(super) struct Listener {
    bell: Arc<Bell>,
    is_in_crowd: bool,
}

impl Listener {
    pub fn in_a_crowd(self) -> Self {
        self.bell.listeners.fetch_add(1, Ordering::Relaxed);
        let bell = Arc::clone(&self.bell);
        Self { bell, is_in_crowd: true }
    }

    pub fn bell(&self) -> &Arc<Bell> {
        &self.bell
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if self.is_in_crowd {
            self.bell.listeners.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_crowd_is_woken_at_once_and_then_at_the_end_of_the_pause() {
        let hour = Duration::from_hours(1);
        let bell = Arc::new(Bell { pause_each: hour, longest_pause: hour, ..Bell::default() });
        let alone = Bell::listen(bell.clone());
        let crowd: Vec<_> = (0..CROWD).map(|_| Bell::listen(bell.clone()).in_a_crowd()).collect();
        let register = || crowd.iter().map(|one| Box::pin(bell.rung(one))).collect::<Vec<_>>();
        let are_woken = |rung: &mut Vec<_>| {
            rung.iter_mut().all(|rung: &mut Pin<Box<Notified<'_>>>| rung.now_or_never().is_some())
        };
        let mut first = register();
        bell.ring();
        assert!(are_woken(&mut first), "the first ring");

        let mut second = register();
        let by_itself = bell.rung(&alone);
        bell.ring();
        bell.ring();
        assert!(by_itself.now_or_never().is_some(), "one by itself is woken at once");
        assert!(second.iter_mut().all(|rung| rung.now_or_never().is_none()), "the crowd has its pause");
        assert!(bell.pause.lock().unwrap().is_awaited);
        bell.end_pause();
        assert!(are_woken(&mut second), "the end of the pause");

        // After a pause without a ring the next one is heard at once.
        *bell.pause.lock().unwrap() = Pause { ends: Some(Instant::now()), is_awaited: false };
        let mut third = register();
        bell.ring();
        assert!(are_woken(&mut third));
    }

    #[tokio::test]
    async fn a_pause_ends_by_itself() {
        let bell = Arc::<Bell>::default();
        let crowd: Vec<_> = (0..CROWD).map(|_| Bell::listen(bell.clone()).in_a_crowd()).collect();
        for _ in 0..5 {
            let rung = bell.rung(&crowd[0]);
            bell.ring();
            tokio::time::timeout(Duration::from_secs(10), rung).await.expect("it is woken");
        }
    }

    #[test]
    fn few_are_never_made_to_wait() {
        let bell = Arc::<Bell>::default();
        let few: Vec<_> = (1..CROWD).map(|_| Bell::listen(bell.clone()).in_a_crowd()).collect();
        for _ in 0..3 {
            let rung = bell.rung(&few[0]);
            bell.ring();
            assert!(rung.now_or_never().is_some());
        }
        drop(few);
        assert_eq!(bell.listeners.load(Ordering::Relaxed), 0);
    }
}
