//! `wasi:cli/environment`, 0.2 and 0.3, from what all instances of a container share: copied when a guest asks, not
//! for each instance.

use wasmtime::component::{HasData, Linker};
use wasmtime_wasi::{p2::bindings::cli::environment as v02, p3::bindings::cli::environment as v03};

use crate::{
    guest::{Environment, Guest},
    machine::Sort,
};

pub fn add_to_linker(linker: &mut Linker<Guest>, sort: Sort) -> wasmtime::Result<()> {
    v02::add_to_linker::<Guest, Shared>(linker, shared)?;
    if sort == Sort::Concurrent {
        v03::add_to_linker::<Guest, Shared>(linker, shared)?;
    }
    Ok(())
}

struct Shared;

impl HasData for Shared {
    type Data<'a> = &'a Environment;
}

fn shared(guest: &mut Guest) -> &Environment {
    guest.environment()
}

impl v02::Host for &Environment {
    fn get_environment(&mut self) -> wasmtime::Result<Vec<(String, String)>> {
        Ok(self.env.clone())
    }

    fn get_arguments(&mut self) -> wasmtime::Result<Vec<String>> {
        Ok(self.args.clone())
    }

    fn initial_cwd(&mut self) -> wasmtime::Result<Option<String>> {
        Ok(self.working_dir.clone())
    }
}

impl v03::Host for &Environment {
    fn get_environment(&mut self) -> wasmtime::Result<Vec<(String, String)>> {
        Ok(self.env.clone())
    }

    fn get_arguments(&mut self) -> wasmtime::Result<Vec<String>> {
        Ok(self.args.clone())
    }

    fn get_initial_cwd(&mut self) -> wasmtime::Result<Option<String>> {
        Ok(self.working_dir.clone())
    }
}
