//! One wasmtime engine with all that belongs to it: linkers, compiled code, and the instances that its pool can hold.
//!
//! A node has up to three; the second and the third are made when the first module needs them.
//! - Concurrent tasks of the component model, on which WASI 0.3 is built, cost every instance some bookkeeping whether
//!   it uses them or not: a fifth of a short request. Modules that know nothing of them run on engines without.
//! - Pages behind a memory that nobody may touch save compiled code the check of each access. But they have to be made
//!   when an instance's memory grows and made anew for the next instance, and both calls into the kernel interrupt the
//!   other threads of the process: half of all CPU time of requests that get an instance each. Such instances run on an
//!   engine whose code checks every access itself (see [`Sort::Brief`]).

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    LoadError,
    cache::Cache,
    module::{Compiled, Module},
    pool,
    worlds::Linkers,
};

/// The right to have one instance. Given back when dropped.
pub type InstancePermit = OwnedSemaphorePermit;

/// How long a request waits for a free instance.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which modules a machine is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// Core modules, and components for WASI 0.2.
    Sequential,
    /// Components for WASI 0.2 whose instances live for one request. What computes for long is slower here, and better
    /// moved to the sequential machine.
    Brief,
    /// Components for WASI 0.3.
    Concurrent,
}

/// Larger binaries bring an interpreter along, and what they do takes longer than what checks cost.
const BRIEF_WASM: usize = 4 << 20;

impl Sort {
    /// By the interfaces that the binary names, with their versions. One that names them for another reason runs, too.
    /// With `is_brief` it is to serve one request per instance, if it serves any.
    pub fn of(wasm: &[u8], is_brief: bool) -> Self {
        let names = |interface: &[u8]| memchr::memmem::find(wasm, interface).is_some();
        if names(b"@0.3.") {
            Self::Concurrent
        } else if is_brief && wasm.len() <= BRIEF_WASM && names(b"wasi:http/incoming-handler@0.2.") {
            Self::Brief
        } else {
            Self::Sequential
        }
    }
}

pub struct Machine {
    sort: Sort,
    wasmtime: wasmtime::Engine,
    linkers: Linkers,
    cache: Cache,
    /// One permit per instance that the pool can hold.
    free_instances: Arc<Semaphore>,
    /// One compilation at a time: it uses all CPUs, and the memory of one is enough.
    compiling: Mutex<()>,
}

impl Machine {
    /// # Errors
    /// The cache directory cannot be made, or the kernel refuses the pool of instances.
    pub fn new(sort: Sort, max_instances: Option<u32>, cache_dir: &Path) -> Result<Self, io::Error> {
        let (wasmtime, instances) = pool::engine(sort, max_instances)
            .map_err(|error| io::Error::other(format!("cannot set up the wasm engine: {error:#}")))?;
        let linkers = Linkers::new(&wasmtime, sort)
            .map_err(|error| io::Error::other(format!("cannot set up the wasm linkers: {error:#}")))?;
        Ok(Self {
            sort,
            linkers,
            cache: Cache::open(cache_dir.to_owned(), &wasmtime)?,
            free_instances: Arc::new(Semaphore::new(instances as usize)),
            compiling: Mutex::default(),
            wasmtime,
        })
    }

    pub fn sort(&self) -> Sort {
        self.sort
    }

    pub fn wasmtime(&self) -> &wasmtime::Engine {
        &self.wasmtime
    }

    /// A place for an instance now, or `None`.
    pub fn try_instance(&self) -> Option<InstancePermit> {
        self.free_instances.clone().try_acquire_owned().ok()
    }

    /// Whether there is no place for another instance.
    pub fn is_full(&self) -> bool {
        self.free_instances.available_permits() == 0
    }

    /// A place for an instance, in turn; `None` when none came free in time.
    pub async fn instance(&self) -> Option<InstancePermit> {
        if let Some(permit) = self.try_instance() {
            return Some(permit);
        }
        let permit = tokio::time::timeout(PATIENCE, self.free_instances.clone().acquire_owned()).await;
        permit.ok().and_then(Result::ok)
    }

    /// The module of the bytes `wasm`, which are in the file `path` and have `digest`: from the cache on disk, or
    /// compiled.
    pub fn load(self: &Arc<Self>, wasm: &[u8], path: &Path, digest: &str) -> Result<Module, LoadError> {
        let compiled = match self.load_cached(digest) {
            Some(compiled) => compiled,
            None => self.compile(wasm, digest)?,
        };
        let (world, kind) = self.linkers.link(compiled)?;
        Ok(Module::new(self.clone(), world, kind, (path, digest)))
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

    fn compile(&self, wasm: &[u8], digest: &str) -> Result<Compiled, LoadError> {
        let code = {
            let _turn = self.compiling.lock().unwrap_or_else(PoisonError::into_inner);
            Compiled::compile(&self.wasmtime, wasm)?
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binaries_get_the_machine_for_what_they_name() {
        let handler = b"\0asm\x0d\0\x01\0 wasi:http/incoming-handler@0.2.3";
        assert_eq!(Sort::of(handler, true), Sort::Brief);
        assert_eq!(Sort::of(handler, false), Sort::Sequential);
        assert_eq!(Sort::of(&[handler, &vec![0; BRIEF_WASM][..]].concat(), true), Sort::Sequential);
        let client = b"\0asm\x0d\0\x01\0 wasi:http/outgoing-handler@0.2.3";
        assert_eq!(Sort::of(client, true), Sort::Sequential);
        for is_brief in [false, true] {
            assert_eq!(Sort::of(b"\0asm\x0d\0\x01\0 wasi:http/handler@0.3.0", is_brief), Sort::Concurrent);
            assert_eq!(Sort::of(b"", is_brief), Sort::Sequential);
        }
    }
}
