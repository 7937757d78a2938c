//! EndpointSlices and Endpoints: which pod addresses stand behind each Service with a selector.
//!
//! Both are made from the same reading of the pods ([`backend`]). Slices hold at most a hundred endpoints and are
//! changed as little as possible, since every node watches them; Endpoints are kept for older clients.
//!
//! **Deliberately absent:** mirroring Endpoints that users write into slices, and topology hints.

mod backend;
mod legacy;
mod slices;
#[cfg(test)]
mod tests;

pub use legacy::LegacyEndpoints;
pub use slices::EndpointSlices;
