//! Why a guest ended, read from wasmtime's error, in words for the container's status and log.

use wasmtime::{Error, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use crate::memory::OutOfMemory;

/// Raised inside a guest to end it from outside.
#[derive(Debug, thiserror::Error)]
#[error("the container was stopped")]
pub struct Killed;

/// How a guest's call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// It returned, or exited with this code.
    Exit(i32),
    /// It trapped, or the host refused to go on. With the backtrace.
    Trap(String),
    OutOfMemory(String),
    /// It waited when it was asked to end.
    Stopped,
    Killed,
}

impl Ending {
    pub fn of(result: Result<i32, Error>) -> Self {
        match result {
            Ok(code) => Self::Exit(code),
            Err(error) => Self::of_error(&error),
        }
    }

    pub fn of_error(error: &Error) -> Self {
        if let Some(exit) = error.downcast_ref::<I32Exit>() {
            Self::Exit(exit.0)
        } else if error.is::<Killed>() {
            Self::Killed
        } else if let Some(oom) = error.downcast_ref::<OutOfMemory>() {
            Self::OutOfMemory(oom.to_string())
        } else {
            Self::Trap(describe(error))
        }
    }
}

/// The cause first, as a status shows few lines, then where in the guest it was.
fn describe(error: &Error) -> String {
    let cause = error.root_cause().to_string();
    match error.downcast_ref::<WasmBacktrace>() {
        Some(backtrace) if !backtrace.frames().is_empty() => {
            format!("{cause}\n{}", backtrace.to_string().trim_matches('\n'))
        }
        _ => cause,
    }
}
