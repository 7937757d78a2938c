//! The engine: what all containers of a node share, and the way from a wasm file to a [`Module`].

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use ahash::AHashMap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    cache::Cache,
    cpu::Cpu,
    module::{Compiled, Module},
    pool,
    worlds::Linkers,
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

/// wasmtime with everything that all containers of a node share: linkers, cache, epoch ticker, scheduler of CPU time.
#[derive(Clone)]
pub struct Engine(Arc<Shared>);

struct Shared {
    wasmtime: wasmtime::Engine,
    linkers: Linkers,
    cache: Cache,
    cpu: Arc<Cpu>,
    /// One permit per instance that the pool can hold.
    free_instances: Arc<Semaphore>,
    default_memory_limit: u64,
    /// One compilation at a time: it uses all CPUs, and the memory of one is enough.
    compiling: Mutex<()>,
    /// By digest. The inner lock is held while a module is loaded, so that it is compiled once.
    modules: Mutex<AHashMap<String, Arc<Loading>>>,
}

type Loading = tokio::sync::Mutex<Weak<Module>>;

/// The right to have one instance. Given back when dropped.
pub type InstancePermit = OwnedSemaphorePermit;

/// How long a request waits for a free instance.
const PATIENCE: Duration = Duration::from_secs(10);

/// A container without a limit may take this much, or half of the machine's memory if that is less.
const DEFAULT_MEMORY_LIMIT: u64 = 4 << 30;

impl Engine {
    /// # Errors
    /// The cache directory cannot be made, or the kernel refuses the pool of instances.
    pub fn new(settings: EngineSettings) -> Result<Self, io::Error> {
        let (wasmtime, instances) = pool::engine(settings.max_instances)
            .map_err(|error| io::Error::other(format!("cannot set up the wasm engine: {error:#}")))?;
        let linkers = Linkers::new(&wasmtime)
            .map_err(|error| io::Error::other(format!("cannot set up the wasm linkers: {error:#}")))?;
        Ok(Self(Arc::new(Shared {
            linkers,
            cache: Cache::open(settings.cache_dir, &wasmtime)?,
            cpu: Cpu::new(wasmtime.clone())?,
            free_instances: Arc::new(Semaphore::new(instances as usize)),
            default_memory_limit: default_memory_limit(),
            compiling: Mutex::default(),
            modules: Mutex::default(),
            wasmtime,
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

    pub(crate) fn wasmtime(&self) -> &wasmtime::Engine {
        &self.0.wasmtime
    }

    pub(crate) fn cpu(&self) -> &Arc<Cpu> {
        &self.0.cpu
    }

    pub(crate) fn default_memory_limit(&self) -> u64 {
        self.0.default_memory_limit
    }

    /// A place for an instance now, or `None`.
    pub(crate) fn try_instance(&self) -> Option<InstancePermit> {
        self.0.free_instances.clone().try_acquire_owned().ok()
    }

    /// A place for an instance, in turn; `None` when none came free in time.
    pub(crate) async fn instance(&self) -> Option<InstancePermit> {
        if let Some(permit) = self.try_instance() {
            return Some(permit);
        }
        let permit = tokio::time::timeout(PATIENCE, self.0.free_instances.clone().acquire_owned()).await;
        permit.ok().and_then(Result::ok)
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
        let compiled = match self.load_cached(digest) {
            Some(compiled) => compiled,
            None => self.compile(path, digest)?,
        };
        Ok(Arc::new(self.linkers.link(compiled, digest)?))
    }

    fn load_cached(&self, digest: &str) -> Option<Compiled> {
        let file = self.cache.find(digest)?;
        match Compiled::map(&self.wasmtime, &file) {
            Ok(compiled) => Some(compiled),
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "a compiled module cannot be used: compiling again");
                self.cache.remove(digest);
                None
            }
        }
    }

    fn compile(&self, path: &Path, digest: &str) -> Result<Compiled, LoadError> {
        let wasm = fs::read(path).map_err(|source| LoadError::Io { path: path.to_owned(), source })?;
        let code = {
            let _turn = self.compiling.lock().unwrap_or_else(PoisonError::into_inner);
            Compiled::compile(&self.wasmtime, &wasm)?
        };
        // Mapped from the file all pods of the node share it, and the kernel can drop it; without one it works, too.
        match self.cache.put(digest, &code.bytes) {
            Ok(file) => {
                Compiled::map(&self.wasmtime, &file).map_err(|error| LoadError::Invalid(format!("{error:#}")))
            }
            Err(error) => {
                tracing::warn!(%error, "a compiled module could not be kept: it will be compiled again");
                code.into_memory(&self.wasmtime).map_err(|error| LoadError::Invalid(format!("{error:#}")))
            }
        }
    }
}

fn default_memory_limit() -> u64 {
    let system = rustix::system::sysinfo();
    let total = u64::from(system.mem_unit).saturating_mul(system.totalram);
    DEFAULT_MEMORY_LIMIT.min(total / 2)
}
