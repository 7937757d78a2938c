//! The control plane: API server, replicated store, controllers and scheduler in one process.

pub mod admission;
pub mod api;
pub mod audit;
pub mod auth;
pub mod cel;
pub mod client;
pub mod controllers;
mod dialing; // Why connections to other servers fail.
pub mod error;
pub mod fairness;
#[cfg(test)]
mod fuzz; // Bad input for tests.
pub mod images;
pub mod notes;
pub mod plane;
mod protobuf; // Bodies of typed Go clients.
mod rarely; // Lines in the log that must not become a flood.
pub mod registry;
pub mod resource_metrics;
pub mod scheduler;
pub mod settings;
pub mod store;
mod trust; // Whose certificates other servers may show.
mod webhook; // Calls that the API server makes.

pub use client::ApiClient;
pub use error::ApiError;
pub use plane::{ControlPlane, PlaneSettings, StartError};
pub use settings::ClusterSettings;
