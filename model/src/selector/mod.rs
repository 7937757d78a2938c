//! Selectors: which objects a list, a watch, a Service or a ReplicaSet means.
//!
//! Label selectors have a text form (`app=web,tier in (a,b),!canary`) and an API form (`metav1.LabelSelector`);
//! both become a [`Selector`]. Field selectors (`status.phase=Running,spec.nodeName!=`) are a
//! [`FieldSelector`]. Matching allocates nothing.

mod field;
mod label;
mod parse;

pub use field::{FieldSelector, FieldTerm};
pub use label::{Operator, Requirement, Selector, format_api, matches_api};

/// Why a text or an API object is no selector, in Kubernetes' words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(String);
