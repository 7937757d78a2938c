//! OCI images for both kinds of container, and the OCI runtime protocol. Knows containers, not Kubernetes.
//!
//! Front door: an [`ImageStore`] is a folder of verified content, found by name or digest; it takes wasm files
//! ([`ImageStore::import`], [`ImageStore::receive`]) and pulls artifacts from registries ([`ImageStore::pull`]).
//! Linux images are recognised and refused: bundles and the OCI runtime protocol are not here yet.

mod images; // The store: names, digests, atomic import.
mod incoming; // A file on its way into the store.
mod manifest; // What an OCI manifest says an image is.
mod record; // One image's entry of the index on disk.
mod reference; // Names as users write them.
mod registry; // Pulling.

pub use images::{Image, ImageKind, ImageStore, PullAuth, PullError};
pub use incoming::Incoming;
