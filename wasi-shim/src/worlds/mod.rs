//! The WASI worlds, one file each: how a module is linked, and how one instance of it is called.
//!
//! All components are linked to all of WASI, as the standard libraries import what they never use; what a guest may
//! do is decided by the context of its instance (`guest`), not by what is linked.

mod command02;
mod command03;
mod environment;
pub mod http02;
pub mod http03;
mod preopens;
mod preview1;

use wasmtime::{Engine, UnknownImportError, component::Component};

pub use self::{
    command02::Command02, command03::Command03, http02::Http02, http03::Http03, preview1::Preview1,
};
use crate::{LoadError, ModuleKind, guest::Guest, machine::Sort, module::Compiled, sockets};

/// A module, linked to its world.
pub enum World {
    Preview1(Preview1),
    Command02(Command02),
    Command03(Command03),
    Http02(Http02),
    Http03(Http03),
}

/// What modules are linked to. Made once: it takes longer than an instance.
pub struct Linkers {
    engine: Engine,
    core: wasmtime::Linker<Guest>,
    components: wasmtime::component::Linker<Guest>,
}

impl Linkers {
    pub fn new(engine: &Engine, sort: Sort) -> wasmtime::Result<Self> {
        let mut core = wasmtime::Linker::new(engine);
        wasmtime_wasi::p1::add_to_linker_async(&mut core, Guest::preview1)?;
        let mut components = wasmtime::component::Linker::new(engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut components)?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut components)?;
        if sort == Sort::Concurrent {
            wasmtime_wasi::p3::add_to_linker(&mut components)?;
            wasmtime_wasi_http::p3::add_to_linker(&mut components)?;
        }
        // What is ours replaces what was linked under the same name.
        components.allow_shadowing(true);
        environment::add_to_linker(&mut components, sort)?;
        preopens::add_to_linker(&mut components, sort)?;
        sockets::add_to_linker(&mut components, sort)?;
        Ok(Self { engine: engine.clone(), core, components })
    }

    pub fn link(&self, compiled: Compiled) -> Result<(World, ModuleKind), LoadError> {
        match compiled {
            Compiled::Core(module) => self.link_core(&module),
            Compiled::Component(component) => self.link_component(&component),
        }
    }

    fn link_core(&self, module: &wasmtime::Module) -> Result<(World, ModuleKind), LoadError> {
        if !module.exports().any(|export| export.name() == "_start" && export.ty().func().is_some()) {
            return Err(LoadError::NothingToRun("module"));
        }
        let linked = self.core.instantiate_pre(module).map_err(|error| missing_in_core(&error))?;
        Ok((World::Preview1(Preview1::new(linked)), ModuleKind::Preview1Command))
    }

    fn link_component(&self, component: &Component) -> Result<(World, ModuleKind), LoadError> {
        let kind = self.kind(component).ok_or(LoadError::NothingToRun("component"))?;
        let linked =
            self.components.instantiate_pre(component).map_err(|error| missing_in_component(&error))?;
        let world = match kind {
            ModuleKind::Http02 => Http02::new(linked).map(World::Http02),
            ModuleKind::Http03 => Http03::new(linked).map(World::Http03),
            ModuleKind::Command02 => Command02::new(linked).map(World::Command02),
            ModuleKind::Command03 => Command03::new(linked).map(World::Command03),
            ModuleKind::Preview1Command => unreachable!("a component is no core module"),
        };
        let world = world.map_err(|error| LoadError::Invalid(format!("{error:#}")))?;
        Ok((world, kind))
    }

    /// By its exports; a service before a command, the newer version before the older.
    fn kind(&self, component: &Component) -> Option<ModuleKind> {
        const KINDS: [(&str, ModuleKind); 4] = [
            ("wasi:http/handler@0.3.", ModuleKind::Http03),
            ("wasi:http/incoming-handler@0.2.", ModuleKind::Http02),
            ("wasi:cli/run@0.3.", ModuleKind::Command03),
            ("wasi:cli/run@0.2.", ModuleKind::Command02),
        ];
        let ty = component.component_type();
        let exports: Vec<&str> = ty.exports(&self.engine).map(|(name, _)| name).collect();
        KINDS
            .into_iter()
            .find(|(prefix, _)| exports.iter().any(|name| name.starts_with(prefix)))
            .map(|(_, kind)| kind)
    }
}

fn missing_in_core(error: &wasmtime::Error) -> LoadError {
    match error.downcast_ref::<UnknownImportError>() {
        Some(import) => LoadError::MissingImport {
            what: "module",
            import: format!("{}::{}", import.module(), import.name()),
        },
        None => LoadError::Invalid(format!("{error:#}")),
    }
}

/// wasmtime tells in words only: the interface in the outermost error, in the next one the function that is missing,
/// both in backquotes. Of an interface that is not there at all each function is missing: then it alone is named.
fn missing_in_component(error: &wasmtime::Error) -> LoadError {
    let names: Vec<String> = error.chain().filter_map(|cause| quoted(&cause.to_string())).collect();
    let import = match names.as_slice() {
        [] => return LoadError::Invalid(format!("{error:#}")),
        [interface, function, ..] if is_provided(interface) => format!("{interface}#{function}"),
        [interface, ..] => interface.clone(),
    };
    LoadError::MissingImport { what: "component", import }
}

fn is_provided(interface: &str) -> bool {
    const PACKAGES: [&str; 7] = ["cli", "clocks", "filesystem", "http", "io", "random", "sockets"];
    let package = interface.strip_prefix("wasi:").and_then(|name| name.split('/').next());
    package.is_some_and(|package| PACKAGES.contains(&package))
}

fn quoted(text: &str) -> Option<String> {
    text.split('`').nth(1).map(str::to_owned)
}
