//! Runs containers that are WASI modules, in wasmtime. Knows containers, not Kubernetes.
//!
//! Front door: an [`Engine`] loads [`Module`]s (compiled once per digest), a [`Container`] is one module with its
//! arguments, limits and network, and a [`PodNetwork`] is all of the network that its guests can reach.
//!
//! Invariant: a guest reaches nothing that its [`ContainerSpec`] does not name, uses no more memory and CPU than its
//! [`Limits`] say, and can be ended at any time; whatever it does, other containers go on.
//! Not here: images and where they come from, pods, restarts, probes, service addresses.

mod cache;
mod clock;
mod command;
mod container;
mod cpu;
mod engine;
mod exec;
mod failure;
mod guest;
mod home;
mod listen;
mod machine;
mod memory;
mod module;
mod network;
mod outgoing;
mod output;
mod pipe;
mod pool;
mod serve;
mod sockets;
mod ticker;
mod worlds;

pub use container::{
    Container, ContainerSpec, ExitReason, ExitStatus, Limits, LogStream, LogWriter, Mount, Reuse, Stats,
};
pub use engine::{Engine, EngineSettings, LoadError};
pub use exec::{Exec, ExecError};
pub use module::{Module, ModuleKind};
pub use network::{HttpBody, NetworkError, PodNetwork};
pub use pipe::PipeReader;
