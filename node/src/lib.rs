//! A node: the agent (kubelet's job), the runtime (a CRI server) and the data plane.

pub mod agent;
pub mod network;
pub mod runtime;

/// The generated gRPC code of `proto/dataplane.proto`.
#[allow(clippy::pedantic, reason = "generated code")]
pub mod dataplane {
    tonic::include_proto!("naru.dataplane.v1");
}
