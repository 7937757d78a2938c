//! What the control plane knows of each kind, and the one path that every request for an object takes.
//!
//! A kind is one file here that implements [`Kind`]; `Kinds::builtin` lists them. The generic path (decode,
//! default, admit, validate, allocate, store) lives in this file's siblings `path` and `erased`, is used by HTTP
//! handlers and by the control plane's own controllers alike, and never asks which kind it serves.

pub mod admissionregistration;
mod alike;
pub mod allocation;
mod apiservice;
mod apply;
pub mod autoscaler;
mod call; // Who does what to which object.
pub mod certificates;
pub mod checks; // What a new state must satisfy, whatever its kind.
mod conditions; // `metav1.Condition`.
pub mod configmap;
pub mod controllerrevision;
pub mod crd;
pub mod cronjob;
pub mod daemonset;
pub mod decode;
mod delete;
pub mod deployment;
mod devices;
pub mod disruptionbudget;
pub mod endpoints;
pub mod endpointslice;
pub mod erased;
pub mod event;
mod eviction;
pub mod flowcontrol;
mod forms; // One object in several versions.
pub mod job;
mod json_text; // Where something is in JSON.
pub mod kind;
mod kinds;
pub mod lease;
pub mod limitrange;
mod managed; // Who owns which field.
pub mod namespace;
pub mod networking;
pub mod node;
mod nulls; // Where a value is needed.
mod patch;
mod path;
pub mod persistentvolume;
pub mod persistentvolumeclaim;
pub mod pod;
mod pod_certificates;
pub mod podspec;
pub mod podtemplate;
mod prepare;
pub mod priorityclass;
mod quantities; // Malformed ones in typed objects.
pub mod rbac;
pub mod replicaset;
pub mod replicationcontroller;
pub mod resource_metrics;
pub mod resourcequota;
pub mod reviews;
#[cfg(test)]
mod roundtrip;
pub mod runtimeclass;
pub mod secret;
pub mod service;
pub mod serviceaccount;
#[cfg(test)]
mod stable_kinds;
pub mod statefulset;
mod storage;
mod storage_migration;
mod subresource;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod text; // Table cells that kinds share.
pub mod virtuals;
mod webhook_client; // Where webhooks are called.
mod workload; // Pod templates, and selectors that fit them.
pub mod yaml_text; // What YAML says, and says twice.

pub use apply::Configuration;
pub use call::{Call, Part};
pub use delete::Deleted;
pub use erased::{AnyObject, ErasedKind};
pub use kind::{Column, Context, Kind, Scale};
pub use kinds::{Kinds, Served};
pub(crate) use patch::apply as apply_patch;
pub use path::{Outcome, Registry};
pub use prepare::{Preparation, Stage};
pub(crate) use subresource::scale_value;
