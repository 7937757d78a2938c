//! The engine: what all containers of a node share, and the way from a wasm file to a [`Module`].

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use ahash::AHashMap;

use crate::{
    cpu::Cpu,
    machine::{Machine, Sort},
    module::Module,
};

/// Settings of the one engine of a runtime process.
#[derive(Debug, Clone)]
pub struct EngineSettings {
    /// Compiled modules are kept here, by digest and engine version.
    pub cache_dir: PathBuf,
    /// How many instances may exist at once. `None` is what fits below the kernel's `vm.max_map_count`, up to a
    /// default; more than fits is cut to that, with a warning.
    pub max_instances: Option<u32>,
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
    Io { path: PathBuf, source: io::Error },
}

/// What all containers of a node share: machines, modules, epoch ticker, scheduler of CPU time.
#[derive(Clone)]
pub struct Engine(Arc<Shared>);

struct Shared {
    settings: EngineSettings,
    sequential: Arc<Machine>,
    /// Made when the first module needs it.
    concurrent: Mutex<Option<Arc<Machine>>>,
    cpu: Arc<Cpu>,
    default_memory_limit: u64,
    /// By digest. The inner lock is held while a module is loaded, so that it is compiled once.
    modules: Mutex<AHashMap<String, Arc<Loading>>>,
}

type Loading = tokio::sync::Mutex<Weak<Module>>;

/// A container without a limit may take this much, or half of the machine's memory if that is less.
const DEFAULT_MEMORY_LIMIT: u64 = 4 << 30;

impl Engine {
    /// # Errors
    /// The cache directory cannot be made, or the kernel refuses the pool of instances.
    pub fn new(settings: EngineSettings) -> Result<Self, io::Error> {
        let sequential = Machine::new(Sort::Sequential, settings.max_instances, &settings.cache_dir)?;
        let cpu = Cpu::new()?;
        cpu.drive(sequential.wasmtime().clone());
        Ok(Self(Arc::new(Shared {
            settings,
            sequential: Arc::new(sequential),
            concurrent: Mutex::default(),
            cpu,
            default_memory_limit: default_memory_limit(),
            modules: Mutex::default(),
        })))
    }

    /// Loads the wasm file at `path`, whose content has `digest` (`sha256:…`): from memory, from the cache on
    /// disk, or by compiling it (off the async threads; concurrent loads of one digest compile once).
    ///
    /// # Errors
    /// The file cannot be read, or is nothing that this runtime can run.
    pub async fn load(&self, path: &Path, digest: &str) -> Result<Arc<Module>, LoadError> {
        let loading = self.lock_modules().entry(digest.to_owned()).or_default().clone();
        let mut loaded = loading.lock().await;
        if let Some(module) = loaded.upgrade() {
            return Ok(module);
        }
        let (shared, path, digest) = (self.0.clone(), path.to_owned(), digest.to_owned());
        let module = tokio::task::spawn_blocking(move || shared.load(&path, &digest)).await;
        let result =
            module.unwrap_or_else(|panic| Err(LoadError::Invalid(format!("the compiler failed: {panic}"))));
        match &result {
            Ok(module) => *loaded = Arc::downgrade(module),
            Err(_) => drop(loaded),
        }
        self.forget_unused();
        result
    }

    pub(crate) fn cpu(&self) -> &Arc<Cpu> {
        &self.0.cpu
    }

    pub(crate) fn default_memory_limit(&self) -> u64 {
        self.0.default_memory_limit
    }

    fn lock_modules(&self) -> std::sync::MutexGuard<'_, AHashMap<String, Arc<Loading>>> {
        self.0.modules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the map as small as the set of modules in use.
    fn forget_unused(&self) {
        self.lock_modules().retain(|_, loading| {
            Arc::strong_count(loading) > 1
                || loading.try_lock().map_or(true, |module| module.strong_count() > 0)
        });
    }
}

impl Shared {
    fn load(&self, path: &Path, digest: &str) -> Result<Arc<Module>, LoadError> {
        let io = |source| LoadError::Io { path: path.to_owned(), source };
        let wasm = fs::read(path).map_err(io)?;
        let machine = match Sort::of(&wasm) {
            Sort::Sequential => self.sequential.clone(),
            Sort::Concurrent => self.concurrent().map_err(io)?,
        };
        machine.load(&wasm, digest).map(Arc::new)
    }

    fn concurrent(&self) -> Result<Arc<Machine>, io::Error> {
        let mut concurrent = self.concurrent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(machine) = &*concurrent {
            return Ok(machine.clone());
        }
        let EngineSettings { cache_dir, max_instances } = &self.settings;
        let machine = Arc::new(Machine::new(Sort::Concurrent, *max_instances, cache_dir)?);
        self.cpu.drive(machine.wasmtime().clone());
        *concurrent = Some(machine.clone());
        Ok(machine)
    }
}

fn default_memory_limit() -> u64 {
    let system = rustix::system::sysinfo();
    let total = u64::from(system.mem_unit).saturating_mul(system.totalram);
    DEFAULT_MEMORY_LIMIT.min(total / 2)
}
