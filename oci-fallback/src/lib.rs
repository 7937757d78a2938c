//! OCI images for both kinds of container, and the OCI runtime protocol. Knows containers, not Kubernetes.

mod images;

pub use images::{Image, ImageKind, ImageStore, PullAuth, PullError};
