//! The shim through its front door: real guests, real sockets on loopback.
//!
//! Small guests are WAT in place; what needs wasi:http or wasi:sockets is a crate under `tests/guests`, built by
//! `samples/build-wasm.sh` when a test first asks for it.

mod brief;
mod commands;
mod common;
mod fairness;
mod guest;
mod hostile;
mod loading;
mod network;
mod services;
