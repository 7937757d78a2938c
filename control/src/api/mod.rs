//! HTTP: routing, watch streams, tables, discovery and OpenAPI.

pub mod discovery;
pub mod health;
pub mod metrics;
pub mod openapi;
