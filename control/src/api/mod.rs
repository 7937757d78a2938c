//! The control plane's HTTP: what is answered to which request.
//!
//! Handlers turn requests into calls of the registry and entries into bytes; what an object may be is decided there.
//! **Invariant:** whatever a client sends is answered, errors as `Status` wherever there might be resources. Not here: connections
//! and TLS (`plane`), who may do what (`auth`), what a kind is (`registry`).

pub mod aggregation; // What other servers serve.
mod body;
mod computed;
mod connections;
mod deadline; // That a client gives.
pub mod discovery;
mod documents; // Discovery and OpenAPI over HTTP.
mod encoding; // JSON, YAML, protobuf; gzip.
mod evictions;
mod flow; // Seats, by priority and fairness.
mod form; // As they are, as a table, metadata only.
mod handler;
pub mod health;
mod images;
mod impersonation;
mod list;
mod logs;
mod managers; // Who a write says it is.
pub mod metrics;
mod nodes; // Their agents.
mod nowhere; // Paths that lead nowhere.
pub mod openapi;
mod options; // Of writes.
mod place; // What a path names.
mod probes; // Health over HTTP.
mod proxy; // HTTP to what runs in the cluster.
mod query;
mod recording; // For the audit log.
mod resource_metrics; // metrics.k8s.io.
mod resources;
mod reviews;
mod select;
mod streams; // exec, attach, portforward.
#[cfg(test)]
mod tests;
mod tokens; // Of service accounts, on request.
mod upstream; // Requests that somebody else answers.
mod watch;

pub use body::Body;
pub use handler::{Caller, State, handle};
pub use nodes::NodeClient;
