//! The clock that interrupts guests: one thread that advances the engines' epochs while guests run.
//!
//! While no guest has run for a while the thread sleeps without a timeout, so that a node full of idle containers
//! costs no wake-ups. Whoever polls a guest calls [`Ticker::enter`] and [`Ticker::leave`] around it.

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread::{self, Thread},
    time::Duration,
};

/// One epoch. A guest that computes is looked at this often at most.
pub const TICK: Duration = Duration::from_millis(1);

/// So many ticks without a guest let the thread go to sleep.
const IDLE_TICKS: u32 = 50;

#[derive(Default)]
pub struct Ticker {
    engines: Mutex<Vec<wasmtime::Engine>>,
    running: AtomicUsize,
    asleep: AtomicBool,
    ended: AtomicBool,
    thread: OnceLock<Thread>,
}

impl Ticker {
    pub fn start() -> std::io::Result<Arc<Self>> {
        let ticker = Arc::new(Self::default());
        let own = ticker.clone();
        let thread = thread::Builder::new()
            .name("naru-epoch".into())
            .stack_size(128 << 10)
            .spawn(move || own.run())?;
        let _ = ticker.thread.set(thread.thread().clone());
        Ok(ticker)
    }

    pub fn drive(&self, engine: wasmtime::Engine) {
        self.engines.lock().unwrap_or_else(PoisonError::into_inner).push(engine);
    }

    /// A guest starts to run on this thread.
    pub fn enter(&self) {
        self.running.fetch_add(1, SeqCst);
        if self.asleep.load(SeqCst) {
            self.wake();
        }
    }

    pub fn leave(&self) {
        self.running.fetch_sub(1, SeqCst);
    }

    /// Ends the thread.
    pub fn stop(&self) {
        self.ended.store(true, SeqCst);
        self.wake();
    }

    fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    fn run(&self) {
        let mut idle = 0;
        while !self.ended.load(SeqCst) {
            thread::sleep(TICK);
            for engine in &*self.engines.lock().unwrap_or_else(PoisonError::into_inner) {
                engine.increment_epoch();
            }
            idle = if self.running.load(SeqCst) == 0 { idle + 1 } else { 0 };
            if idle >= IDLE_TICKS {
                idle = 0;
                self.sleep_until_needed();
            }
        }
    }

    /// Whoever enters after `asleep` is set unparks; whoever entered before is seen in `running`: no wake-up is lost.
    fn sleep_until_needed(&self) {
        self.asleep.store(true, SeqCst);
        while self.running.load(SeqCst) == 0 && !self.ended.load(SeqCst) {
            thread::park();
        }
        self.asleep.store(false, SeqCst);
    }
}
