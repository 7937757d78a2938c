//! Guests that are crates of their own. The end-to-end tests run the same ones and share this file.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Builds the guest crate of that name, once for all test processes.
pub fn guest(name: &str) -> PathBuf {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let crate_dir = top.join("wasi-shim/tests/guests").join(name);
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guests");
    fs::create_dir_all(&out).unwrap();
    let lock = fs::File::create(out.join("lock")).unwrap();
    lock.lock().unwrap();
    let file = out.join(format!("{name}.wasm"));
    let changed = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let sources = fs::read_dir(crate_dir.join("src")).unwrap().map(|source| source.unwrap().path());
    if changed(&file) < sources.filter_map(|source| changed(&source)).max() {
        let built = Command::new(top.join("samples/build-wasm.sh"))
            .arg(&crate_dir)
            .args(["--component", "-o"])
            .arg(&file)
            // The guest is built with settings of its own, not those of this test.
            .env_remove("CARGO_TARGET_DIR")
            .env_remove("RUSTFLAGS")
            .output()
            .unwrap();
        assert!(built.status.success(), "{name}: {}", String::from_utf8_lossy(&built.stderr));
    }
    file
}
