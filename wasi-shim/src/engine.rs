//! The engine: what all containers of a node share, and the way from a wasm file to a [`Module`].

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use ahash::AHashMap;

use crate::{
    Reuse,
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
    /// All guests are compiled with the compiler's defences against speculative execution. Without this, those that get
    /// a fresh instance per request have none around calls through tables, and take half as long.
    pub harden: bool,
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
    brief: Mutex<Option<Arc<Machine>>>,
    /// Made when the first module needs it.
    concurrent: Mutex<Option<Arc<Machine>>>,
    cpu: Arc<Cpu>,
    default_memory_limit: u64,
    /// The inner lock is held while a module is loaded, so that it is compiled once.
    modules: Mutex<AHashMap<Purpose, Arc<Loading>>>,
}

/// What a module is loaded for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Purpose {
    digest: String,
    /// For containers that keep no instance from one request to the next.
    is_brief: bool,
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
            brief: Mutex::default(),
            concurrent: Mutex::default(),
            cpu,
            default_memory_limit: default_memory_limit(),
            modules: Mutex::default(),
        })))
    }

    /// Loads the wasm file at `path`, whose content has `digest` (`sha256:…`), for a container that uses its instances
    /// as `reuse` says: from memory, from the cache on disk, or by compiling it (off the async threads; concurrent
    /// loads of one digest compile once).
    ///
    /// # Errors
    /// The file cannot be read, or is nothing that this runtime can run.
    pub async fn load(&self, path: &Path, digest: &str, reuse: Reuse) -> Result<Arc<Module>, LoadError> {
        let is_brief = reuse == Reuse::Never && !self.0.settings.harden;
        self.load_for(path, Purpose { digest: digest.to_owned(), is_brief }).await
    }

    /// `module` on the machine for guests that compute for long.
    pub(crate) async fn settled(&self, module: &Module) -> Result<Arc<Module>, LoadError> {
        self.load_for(module.path(), Purpose { digest: module.digest().to_owned(), is_brief: false }).await
    }

    async fn load_for(&self, path: &Path, purpose: Purpose) -> Result<Arc<Module>, LoadError> {
        let loading = self.lock_modules().entry(purpose.clone()).or_default().clone();
        let mut loaded = loading.lock().await;
        if let Some(module) = loaded.upgrade() {
            return Ok(module);
        }
        let (shared, path) = (self.0.clone(), path.to_owned());
        let module = tokio::task::spawn_blocking(move || shared.load(&path, &purpose)).await;
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

    fn lock_modules(&self) -> std::sync::MutexGuard<'_, AHashMap<Purpose, Arc<Loading>>> {
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
    fn load(&self, path: &Path, purpose: &Purpose) -> Result<Arc<Module>, LoadError> {
        let io = |source| LoadError::Io { path: path.to_owned(), source };
        let wasm = fs::read(path).map_err(io)?;
        let sort = Sort::of(&wasm, purpose.is_brief);
        let loaded = self.machine(sort).map_err(io)?.load(&wasm, path, &purpose.digest);
        match loaded {
            // It may use what the brief machine lacks (see `pool`); if it is damaged, the other one says so, too.
            Err(LoadError::Invalid(_)) if sort == Sort::Brief => {
                self.sequential.load(&wasm, path, &purpose.digest).map(Arc::new)
            }
            loaded => loaded.map(Arc::new),
        }
    }

    fn machine(&self, sort: Sort) -> Result<Arc<Machine>, io::Error> {
        let made = match sort {
            Sort::Sequential => return Ok(self.sequential.clone()),
            Sort::Brief => &self.brief,
            Sort::Concurrent => &self.concurrent,
        };
        let mut made = made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(machine) = &*made {
            return Ok(machine.clone());
        }
        let machine = Arc::new(Machine::new(sort, self.settings.max_instances, &self.settings.cache_dir)?);
        self.cpu.drive(machine.wasmtime().clone());
        *made = Some(machine.clone());
        Ok(machine)
    }
}

fn default_memory_limit() -> u64 {
    let system = rustix::system::sysinfo();
    let total = u64::from(system.mem_unit).saturating_mul(system.totalram);
    DEFAULT_MEMORY_LIMIT.min(total / 2)
}
