//! `wasi:filesystem/preopens`, 0.2 and 0.3: a container's mounts are opened when a guest asks for them. Every pod has
//! the mount of its account's token, and most guests never look; opening it for each instance would cost each request.

use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::{
    filesystem::{Descriptor, WasiFilesystemCtxView},
    p2::bindings::filesystem::preopens as v02,
    p3::bindings::filesystem::preopens as v03,
};

use crate::{
    guest::{Environment, Guest},
    machine::Sort,
};

pub fn add_to_linker(linker: &mut Linker<Guest>, sort: Sort) -> wasmtime::Result<()> {
    v02::add_to_linker::<Guest, Preopens>(linker, mounts)?;
    if sort == Sort::Concurrent {
        v03::add_to_linker::<Guest, Preopens>(linker, mounts)?;
    }
    Ok(())
}

struct Mounts<'a> {
    environment: &'a Environment,
    table: &'a mut ResourceTable,
}

struct Preopens;

impl HasData for Preopens {
    type Data<'a> = Mounts<'a>;
}

fn mounts(guest: &mut Guest) -> Mounts<'_> {
    let (environment, table) = guest.environment_and_table();
    Mounts { environment, table }
}

impl Mounts<'_> {
    fn opened(&mut self) -> wasmtime::Result<Vec<(Resource<Descriptor>, String)>> {
        let mut opened = self.environment.open_mounts().map_err(wasmtime::Error::msg)?;
        let mut view = WasiFilesystemCtxView { ctx: opened.filesystem(), table: self.table };
        v02::Host::get_directories(&mut view)
    }
}

impl v02::Host for Mounts<'_> {
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Resource<Descriptor>, String)>> {
        self.opened()
    }
}

impl v03::Host for Mounts<'_> {
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Resource<Descriptor>, String)>> {
        self.opened()
    }
}
