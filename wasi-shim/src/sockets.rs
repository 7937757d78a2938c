//! stub
use crate::guest::Guest;
use wasmtime::component::Linker;
pub fn add_to_linker(_linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    Ok(())
}
