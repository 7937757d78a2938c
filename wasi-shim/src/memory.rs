//! The memory limit of a container, over all of its live instances.
//!
//! Every instance has a [`MemoryMeter`] that wasmtime asks before a memory or a table grows; all meters of a container
//! draw on one [`MemoryAccount`]. What a meter took it gives back when its instance is dropped.

use std::sync::{
    Arc,
    atomic::{
        AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
};

use wasmtime::ResourceLimiter;

/// What one table element takes in the host.
const TABLE_ELEMENT_BYTES: u64 = 8;

/// The guest wanted more memory than its container may have. As an error it ends the guest.
#[derive(Debug, thiserror::Error)]
#[error(
    "out of memory: the container may use {limit} bytes, {used} are in use and {wanted} more were asked for"
)]
pub struct OutOfMemory {
    pub limit: u64,
    pub used: u64,
    pub wanted: u64,
}

#[derive(Debug)]
pub struct MemoryAccount {
    limit: AtomicU64,
    used: AtomicU64,
}

impl MemoryAccount {
    pub fn new(limit: u64) -> Self {
        Self { limit: AtomicU64::new(limit), used: AtomicU64::new(0) }
    }

    pub fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    /// From now on.
    ///
    /// # Errors
    /// What is in use, where that is more than `limit`: a guest cannot be made to give memory back.
    pub fn set_limit(&self, limit: u64) -> Result<(), u64> {
        let old = self.limit.swap(limit, SeqCst);
        // After the swap, so that nothing slips between the look and the limit.
        let used = self.used.load(SeqCst);
        if used <= limit {
            return Ok(());
        }
        self.limit.store(old, SeqCst);
        Err(used)
    }

    fn take(&self, wanted: u64) -> Result<(), OutOfMemory> {
        let limit = self.limit.load(SeqCst);
        let fits = |used: u64| used.checked_add(wanted).filter(|total| *total <= limit);
        match self.used.fetch_update(Relaxed, Relaxed, fits) {
            Ok(_) => Ok(()),
            Err(used) => Err(OutOfMemory { limit, used, wanted }),
        }
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Relaxed);
    }
}

/// One instance's share of its container's memory.
pub struct MemoryMeter {
    account: Arc<MemoryAccount>,
    taken: u64,
    /// The growth that was allowed last: given back if it failed after all.
    pending: u64,
}

impl MemoryMeter {
    pub fn new(account: Arc<MemoryAccount>) -> Self {
        Self { account, taken: 0, pending: 0 }
    }

    fn grow(
        &mut self,
        current: usize,
        desired: usize,
        unit: u64,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.pending = 0;
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let wanted = (desired.saturating_sub(current) as u64).saturating_mul(unit);
        self.account.take(wanted).map_err(wasmtime::Error::from)?;
        self.taken += wanted;
        self.pending = wanted;
        Ok(true)
    }

    fn undo(&mut self) {
        let bytes = std::mem::take(&mut self.pending);
        self.taken -= bytes;
        self.account.give_back(bytes);
    }
}

impl Drop for MemoryMeter {
    fn drop(&mut self) {
        self.account.give_back(self.taken);
    }
}

impl ResourceLimiter for MemoryMeter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.grow(current, desired, 1, maximum)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        tracing::debug!(%error, "a guest's memory could not grow");
        self.undo();
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.grow(current, desired, TABLE_ELEMENT_BYTES, maximum)
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        tracing::debug!(%error, "a guest's table could not grow");
        self.undo();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_instances_of_a_container_share_one_limit() {
        let account = Arc::new(MemoryAccount::new(100));
        let (mut one, mut two) = (MemoryMeter::new(account.clone()), MemoryMeter::new(account.clone()));
        assert!(one.memory_growing(0, 60, None).unwrap());
        let refused = two.memory_growing(0, 60, None).unwrap_err();
        assert_eq!(refused.downcast_ref::<OutOfMemory>().unwrap().used, 60);
        drop(one);
        assert!(two.memory_growing(0, 60, None).unwrap());
        assert_eq!(account.used(), 60);
    }

    #[test]
    fn a_limit_moves_but_not_below_what_is_in_use() {
        let account = Arc::new(MemoryAccount::new(100));
        let mut meter = MemoryMeter::new(account.clone());
        assert!(meter.memory_growing(0, 60, None).unwrap());
        assert_eq!(account.set_limit(50), Err(60));
        assert!(meter.memory_growing(60, 100, None).unwrap(), "a refused limit changes nothing");
        account.set_limit(200).unwrap();
        assert!(meter.memory_growing(100, 200, None).unwrap());
    }

    #[test]
    fn growth_that_fails_later_is_given_back_and_growth_beyond_the_maximum_is_not_out_of_memory() {
        let account = Arc::new(MemoryAccount::new(100));
        let mut meter = MemoryMeter::new(account.clone());
        assert!(meter.memory_growing(0, 60, None).unwrap());
        meter.memory_grow_failed(wasmtime::format_err!("no more pages")).unwrap();
        assert_eq!(account.used(), 0);
        assert!(!meter.memory_growing(0, 200, Some(50)).unwrap());
    }
}
