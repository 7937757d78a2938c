//! The engine and the cache of compiled modules.

use std::{path::{Path, PathBuf}, sync::Arc};

/// Settings of the one engine of a runtime process.
#[derive(Debug, Clone)]
pub struct EngineSettings {
    /// Compiled modules are kept here, by digest and engine version.
    pub cache_dir: PathBuf,
    /// How many instances may exist at once; sized against `vm.max_map_count`.
    pub max_instances: u32,
}

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

/// Why a file cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("not a WebAssembly file: {0}")]
    NotWasm(String),
    #[error("the WebAssembly file is damaged or uses features that this runtime lacks: {0}")]
    Invalid(String),
    /// For example `wasi:keyvalue/store@0.2.0`.
    #[error("the {what} imports {import}, which this runtime does not provide")]
    MissingImport { what: &'static str, import: String },
    #[error("the {0} exports neither _start, wasi:cli/run nor a wasi:http handler: nothing to run")]
    NothingToRun(&'static str),
    #[error("cannot read {path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
}

/// wasmtime with everything that all containers of a node share: linkers, cache, epoch ticker, scheduler of CPU time.
#[derive(Clone)]
pub struct Engine {}

impl Engine {
    pub fn new(settings: EngineSettings) -> Result<Self, std::io::Error> {
        todo!("{settings:?}")
    }
    /// Loads the wasm file at `path`, whose content has `digest` (`sha256:…`): from memory, from the cache on
    /// disk, or by compiling it (off the async threads; concurrent loads of one digest compile once).
    pub async fn load(&self, path: &Path, digest: &str) -> Result<Arc<Module>, LoadError> {
        todo!("{path:?} {digest}")
    }
}

/// A compiled module, linked as far as it can be before there is an instance.
pub struct Module {}

impl Module {
    pub fn kind(&self) -> ModuleKind {
        todo!()
    }
    pub fn digest(&self) -> &str {
        todo!()
    }
}
