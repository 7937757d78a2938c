//! Runs containers that are WASI modules, in wasmtime. Knows containers, not Kubernetes.
//!
//! Front door: an [`Engine`] loads [`Module`]s (compiled once per digest), a [`Container`] is one module with its
//! arguments, limits and network, and a [`PodNetwork`] is all of the network that its guests can reach.

mod container;
mod engine;
mod network;

pub use container::{Container, ContainerSpec, ExitReason, ExitStatus, Limits, LogStream, LogWriter, Mount, Reuse, Stats};
pub use engine::{Engine, EngineSettings, LoadError, Module, ModuleKind};
pub use network::{HttpBody, NetworkError, PodNetwork};
