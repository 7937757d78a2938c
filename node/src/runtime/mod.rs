//! The CRI server that puts wasm and Linux containers together in one sandbox.
