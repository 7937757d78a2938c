//! The control plane: API server, replicated store, controllers and scheduler in one process.

pub mod client;
pub mod controllers;
pub mod error;
pub mod registry;
pub mod store;

pub use client::ApiClient;
pub use error::ApiError;
