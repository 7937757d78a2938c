//! Which Kubernetes this is, in the words of `/version`.

/// The minor version of Kubernetes whose API is served.
pub const MINOR: &str = "37";

/// `v1.37.0+naru0.1.0`.
pub fn git_version() -> String {
    format!("v1.{MINOR}.0+naru{}", env!("CARGO_PKG_VERSION"))
}
