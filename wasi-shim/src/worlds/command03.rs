//! `wasi:cli/command` 0.3: an async `run` is called once; what it spawned ends with it.

use wasmtime::{Store, component::InstancePre};
use wasmtime_wasi::p3::bindings::CommandPre;

use crate::guest::Guest;

pub struct Command03(CommandPre<Guest>);

impl Command03 {
    pub fn new(linked: InstancePre<Guest>) -> wasmtime::Result<Self> {
        CommandPre::new(linked).map(Self)
    }

    /// The exit code of a run that did not end by an error.
    pub async fn run(&self, store: &mut Store<Guest>) -> wasmtime::Result<i32> {
        let command = self.0.instantiate_async(&mut *store).await?;
        let result =
            store.run_concurrent(async |store| command.wasi_cli_run().call_run(store).await).await??;
        Ok(i32::from(result.is_err()))
    }
}
