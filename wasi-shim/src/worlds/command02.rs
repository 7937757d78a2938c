//! `wasi:cli/command` 0.2: `run` is called once. Its exit code is 0 or 1, as the interface has no other.

use wasmtime::{Store, component::InstancePre};
use wasmtime_wasi::p2::bindings::CommandPre;

use crate::guest::Guest;

pub struct Command02(CommandPre<Guest>);

impl Command02 {
    pub fn new(linked: InstancePre<Guest>) -> wasmtime::Result<Self> {
        CommandPre::new(linked).map(Self)
    }

    /// The exit code of a run that did not end by an error.
    pub async fn run(&self, store: &mut Store<Guest>) -> wasmtime::Result<i32> {
        let command = self.0.instantiate_async(&mut *store).await?;
        let result = command.wasi_cli_run().call_run(store).await?;
        Ok(i32::from(result.is_err()))
    }
}
