//! The ways in which clients change part of an object: JSON patch, merge patch, strategic merge patch.
//!
//! All of them work on JSON, since a patch is applied before the object is decoded and validated again.

mod json;
pub mod merge_keys; // Which lists merge, and by what.
mod strategic;

pub use json::{JSON_PATCH_LIMIT, apply_json, apply_merge, go_type};
pub use strategic::apply_strategic;

/// Why a patch was not applied; the document is then in an unspecified state and must be dropped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch itself is malformed (HTTP 400).
    #[error("error decoding patch: {0}")]
    Malformed(String),
    /// A directive of the patch has the wrong form (HTTP 400).
    #[error("{0}")]
    BadDirective(&'static str),
    /// The patch does not fit the document (HTTP 422).
    #[error("{0}")]
    DoesNotApply(String),
    /// Too many operations (HTTP 413).
    #[error("The allowed maximum operations in a JSON patch is {limit}, got {count}")]
    TooMany { count: usize, limit: usize },
    /// Its copies would make the document too large (HTTP 413).
    #[error(
        "Unable to complete the copy, the accumulated size increase of copy is {size}, exceeding the limit {limit}"
    )]
    TooLarge { size: usize, limit: usize },
}
