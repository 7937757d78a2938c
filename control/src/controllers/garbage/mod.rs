//! The garbage collector: objects go with their owners.
//!
//! An object lives while one of its owners does. An owner that is deleted in the foreground waits for the
//! dependents that block it; one that orphans first gives its dependents up. Owners are told apart by uid, since
//! names are used again.
//!
//! The graph is the cache's index of owners: nothing is kept here. That is sound because the cache is the store
//! at one revision: an owner that is not in it does not exist, or did not when its dependent was last changed.

mod collector;
#[cfg(test)]
mod tests;

pub use collector::GarbageCollector;
