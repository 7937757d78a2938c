//! Core modules for WASI 0.1: `_start` runs once, `proc_exit` keeps its number.

use wasmtime::{InstancePre, Store};

use crate::guest::Guest;

pub struct Preview1(InstancePre<Guest>);

impl Preview1 {
    pub fn new(linked: InstancePre<Guest>) -> Self {
        Self(linked)
    }

    /// The exit code of a run that did not end by an error.
    pub async fn run(&self, store: &mut Store<Guest>) -> wasmtime::Result<i32> {
        let instance = self.0.instantiate_async(&mut *store).await?;
        let start = instance.get_typed_func::<(), ()>(&mut *store, "_start")?;
        start.call_async(store, ()).await?;
        Ok(0)
    }
}
