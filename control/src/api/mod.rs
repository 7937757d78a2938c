//! HTTP: routing, watch streams, tables, discovery and OpenAPI.

pub mod openapi;
