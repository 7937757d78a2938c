//! Structured merge: who owns which field of an object, and what an applied configuration makes of it.
//!
//! This is the algorithm behind server-side apply and `metadata.managedFields`, as Kubernetes defines it in
//! structured-merge-diff. [`ObjectType`] says of each field whether it is merged or replaced, [`Fields`] is a set of
//! fields in the spelling of `FieldsV1`, and [`ManagedFields`] keeps a set per manager: [`ManagedFields::update`] is
//! for every plain write, [`ManagedFields::apply`] for an apply.
//!
//! Pure: times are handed in. Not here: who may apply, and what a kind ignores (its strategy); the caller says that.

mod compare; // What differs between two objects.
mod crd; // Schemas of custom resources.
mod fields;
mod managers;
mod merge;
mod outline; // What an object may look like.
mod overlay; // A merge that nobody owns.
mod prune; // What an applier no longer wants.
mod schema;
mod tree; // Objects as they are read.
mod validate;

#[cfg(test)]
mod tests;

pub use fields::{Element, Fields};
pub use managers::{ApplyError, Conflict, Entry, ManagedFields, Operation, Writer};
pub use outline::Outline;
pub use overlay::OverlayError;
pub use schema::{Extension, ObjectType, extensions};
pub use tree::Tree;
