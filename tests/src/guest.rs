//! The wasm programs that tests run.

use std::path::{Path, PathBuf};

/// A built sample: `hello`, `worker`, …
pub fn sample(name: &str) -> PathBuf {
    let folder =
        std::env::var_os("NARU_SAMPLES").map_or_else(|| crate::checkout("build/samples"), PathBuf::from);
    let file = folder.join(format!("{name}.wasm"));
    assert!(file.exists(), "{} is missing: run `make samples`", file.display());
    file
}

/// Writes bytes that shall pass for a wasm file into `dir`.
pub fn write_guest(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let file = dir.join(name);
    std::fs::write(&file, bytes).expect("the temp dir is writable");
    file
}
