//! The machine on which a container's instances are made.
//!
//! A container that gets an instance per request begins on the brief machine, where an instance costs least and code
//! that computes runs slower. It moves to the sequential one for good when its requests turn out to compute for long, or
//! to be more at once than the brief machine holds. The requests under way end where they are.

use std::sync::{
    Arc, OnceLock,
    atomic::{
        AtomicBool, AtomicU64,
        Ordering::{AcqRel, Relaxed},
    },
};

use crate::{Module, container::Core, machine::Sort};

/// So many requests are judged together.
const SAMPLE: u64 = 64;
/// Requests that compute for longer than this, in nanoseconds of CPU time and on average, gain nothing from the brief
/// machine: it saves each some fifty microseconds, and takes up to half as long again for what the guest computes. What
/// a short request is charged on a busy machine, where its thread is interrupted, stays well below.
const LONG: u64 = 500_000;
/// So many samples in a row must be long: one that is may be the machine's doing, and there are hundreds a second.
const SAMPLES: u64 = 3;

pub struct Home {
    module: Arc<Module>,
    settled: OnceLock<Arc<Module>>,
    is_moving: AtomicBool,
    /// CPU time of the container, in nanoseconds, when its requests were judged last.
    judged: AtomicU64,
    /// How many of the last samples were long, without one between that was not.
    long_samples: AtomicU64,
}

impl Home {
    pub fn new(module: Arc<Module>) -> Self {
        Self {
            module,
            settled: OnceLock::new(),
            is_moving: AtomicBool::new(false),
            judged: AtomicU64::new(0),
            long_samples: AtomicU64::new(0),
        }
    }

    /// What the next instance is made of.
    pub fn module(&self) -> &Arc<Module> {
        self.settled.get().unwrap_or(&self.module)
    }

    fn may_move(&self) -> bool {
        self.module.machine.sort() == Sort::Brief && !self.is_moving.load(Relaxed)
    }
}

impl Core {
    /// The container's request number `count` begins.
    pub fn judge(self: &Arc<Self>, count: u64) {
        if count % SAMPLE == SAMPLE - 1 && self.home.may_move() {
            let used = u64::try_from(self.environment.cpu.used().as_nanos()).unwrap_or(u64::MAX);
            let before = self.home.judged.swap(used, Relaxed);
            if used.saturating_sub(before) / SAMPLE <= LONG {
                self.home.long_samples.store(0, Relaxed);
            } else if self.home.long_samples.fetch_add(1, Relaxed) + 1 >= SAMPLES {
                self.settle();
            }
        }
    }

    /// Moves to the sequential machine, where it is not there yet. Does not wait for it.
    pub fn settle(self: &Arc<Self>) {
        if !self.home.may_move() || self.home.is_moving.swap(true, AcqRel) {
            return;
        }
        let core = self.clone();
        tokio::spawn(async move {
            match core.engine.settled(&core.home.module).await {
                Ok(module) => {
                    let _ = core.home.settled.set(module);
                    tracing::debug!(
                        container = core.name,
                        "its requests are long: moved to the sequential engine"
                    );
                }
                // It goes on where it is.
                Err(error) => {
                    tracing::warn!(container = core.name, %error, "cannot compile for long requests");
                }
            }
        });
    }
}
