//! A wasm file, compiled: what it is, what it wants to be run as.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use wasmtime::{Engine, Precompiled, component::Component};

use crate::{LoadError, machine::Machine, worlds::World};

/// What a module wants to be run as. From its exports and imports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModuleKind {
    /// A core module for WASI 0.1 with `_start`.
    Preview1Command,
    /// A component that exports `wasi:cli/run` 0.2.
    Command02,
    /// The same of 0.3.
    Command03,
    /// A component that exports `wasi:http/incoming-handler` 0.2.
    Http02,
    /// A component that exports `wasi:http/handler` 0.3.
    Http03,
}

/// A compiled module, linked as far as it can be before there is an instance.
pub struct Module {
    pub(crate) machine: Arc<Machine>,
    pub(crate) world: World,
    kind: ModuleKind,
    path: PathBuf,
    digest: String,
}

impl Module {
    pub(crate) fn new(
        machine: Arc<Machine>,
        world: World,
        kind: ModuleKind,
        (path, digest): (&Path, &str),
    ) -> Self {
        Self { machine, world, kind, path: path.to_owned(), digest: digest.to_owned() }
    }

    pub fn kind(&self) -> ModuleKind {
        self.kind
    }

    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The wasm file that it was made of.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Machine code, not linked to anything yet.
pub enum Compiled {
    Core(wasmtime::Module),
    Component(Component),
}

/// Machine code as it is kept in the cache.
pub struct Code {
    pub bytes: Vec<u8>,
}

impl Compiled {
    pub fn compile(engine: &Engine, wasm: &[u8]) -> Result<Code, LoadError> {
        let compiled = match Format::of(wasm)? {
            Format::Core => engine.precompile_module(wasm),
            Format::Component => engine.precompile_component(wasm),
        };
        let bytes = compiled.map_err(|error| LoadError::Invalid(one_line(&error)))?;
        Ok(Code { bytes })
    }

    /// Maps a file that [`Compiled::compile`] made and the cache kept.
    #[allow(unsafe_code, reason = "wasmtime runs what is in the file; the cache checked its seal")]
    pub fn map(engine: &Engine, file: &Path) -> wasmtime::Result<Self> {
        Ok(match Engine::detect_precompiled_file(file)? {
            // SAFETY: the cache hands out only what this engine wrote, unchanged, from a directory private to the user.
            Some(Precompiled::Module) => {
                Self::Core(unsafe { wasmtime::Module::deserialize_file(engine, file) }?)
            }
            // SAFETY: as above.
            Some(Precompiled::Component) => {
                Self::Component(unsafe { Component::deserialize_file(engine, file) }?)
            }
            None => wasmtime::bail!("no compiled module"),
        })
    }
}

impl Code {
    #[allow(unsafe_code, reason = "the bytes come from the compiler, a moment ago")]
    pub fn into_memory(self, engine: &Engine) -> wasmtime::Result<Compiled> {
        Ok(match Engine::detect_precompiled(&self.bytes) {
            // SAFETY: `Compiled::compile` made the bytes and nobody could change them.
            Some(Precompiled::Module) => {
                Compiled::Core(unsafe { wasmtime::Module::deserialize(engine, &self.bytes) }?)
            }
            // SAFETY: as above.
            Some(Precompiled::Component) => {
                Compiled::Component(unsafe { Component::deserialize(engine, &self.bytes) }?)
            }
            None => wasmtime::bail!("no compiled module"),
        })
    }
}

/// The two kinds of binary that the eight first bytes tell apart.
#[derive(Debug, PartialEq, Eq)]
enum Format {
    Core,
    Component,
}

impl Format {
    fn of(wasm: &[u8]) -> Result<Self, LoadError> {
        let Some(after_magic) = wasm.strip_prefix(b"\0asm") else {
            return Err(LoadError::NotWasm(what_it_is(wasm)));
        };
        match after_magic.get(..4) {
            Some([1, 0, 0, 0]) => Ok(Self::Core),
            Some([_, 0, 1, 0]) => Ok(Self::Component),
            Some(version) => {
                Err(LoadError::Invalid(format!("unknown binary version {}", hex::encode(version))))
            }
            None => Err(LoadError::Invalid("it ends within the header".into())),
        }
    }
}

/// Names what people most often hand over by mistake.
fn what_it_is(bytes: &[u8]) -> String {
    let guess = match bytes {
        [] => "the file is empty",
        [0x7f, b'E', b'L', b'F', ..] => "it is an ELF binary (a Linux program)",
        [0x1f, 0x8b, ..] => "it is a gzip archive",
        [b'P', b'K', ..] => "it is a zip archive",
        [b'#', b'!', ..] => "it is a script",
        [b'(', ..] => "it is WebAssembly text; compile it to binary first",
        [b'{', ..] => "it is JSON",
        _ => "it does not start with \\0asm",
    };
    guess.into()
}

/// A parser's errors have the position in a second line.
fn one_line(error: &wasmtime::Error) -> String {
    let mut parts: Vec<String> = error.chain().map(|cause| cause.to_string()).collect();
    parts.dedup();
    parts.join(": ").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_not_wasm_are_named_for_what_they_are() {
        let check = |bytes: &[u8], expected: &str| {
            let error = Format::of(bytes).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(b"", "not a WebAssembly file: the file is empty");
        check(b"\x7fELF\x02", "ELF binary");
        check(b"#!/bin/sh", "a script");
        check(b"(module)", "WebAssembly text");
        check(b"hello", "does not start with");
        check(b"\0asm\x01", "it ends within the header");
        check(b"\0asm\x07\0\0\0", "unknown binary version 07000000");
    }

    #[test]
    fn core_modules_and_components_are_told_apart() {
        assert_eq!(Format::of(b"\0asm\x01\0\0\0").unwrap(), Format::Core);
        assert_eq!(Format::of(b"\0asm\x0d\0\x01\0").unwrap(), Format::Component);
    }
}
