//! The harness of the end-to-end tests: a real cluster of the real binary, driven by real clients.
//!
//! Each [`Cluster`] lives in a folder of its own, on free ports and on loopback addresses of its own, and ends, with
//! every process it started, when the value goes. Tests wait for states, with a deadline, never for a time.

pub mod api;
pub mod bench;
mod cluster;
pub mod etcd;
mod guest;
pub mod https;
mod kubectl;
pub mod raw_client;
pub mod reviews;
mod wait;

pub use cluster::{Cluster, Options, signal};
pub use guest::{sample, write_guest};
pub use kubectl::{Answer, Kubectl};
pub use wait::{DEADLINE, eventually, eventually_within};

use std::path::PathBuf;

/// The `naru` binary under test: `NARU_BIN`, else the one beside this test's own executable.
pub fn naru_binary() -> PathBuf {
    if let Some(path) = std::env::var_os("NARU_BIN") {
        return path.into();
    }
    let exe = std::env::current_exe().expect("a test has an executable");
    let debug = exe.parent().and_then(|deps| deps.parent()).expect("tests live in target/debug/deps");
    let binary = debug.join("naru");
    assert!(binary.exists(), "{} is missing: run `make build`, or set NARU_BIN", binary.display());
    binary
}

/// A folder at the top of the checkout.
pub fn checkout(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}
