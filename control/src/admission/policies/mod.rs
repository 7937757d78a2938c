//! ValidatingAdmissionPolicy and MutatingAdmissionPolicy: expressions that refuse what is written, or change it.
//!
//! A policy acts through its bindings: for each one that matches a request, and for each object that the binding names
//! as a parameter, its expressions are evaluated once. Policies are compiled when they changed, so a request that finds
//! none pays for two look-ups, and a policy acts on whatever is written after it. Not here: what policies apply to
//! (`matching`), and what their expressions see (`expressions`).

mod hook;
mod mutating;
mod params;
mod set;
#[cfg(test)]
mod tests;
mod validating;

pub(super) use mutating::mutate;
pub(super) use set::Mutating;
pub use set::Policies;
pub(super) use validating::validate;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Status, StatusCause};

use super::webhooks::Asked;
use crate::{ApiError, store::Snapshot};

/// A request and what policies may look at beside it.
pub(super) struct Scene<'a> {
    pub asked: &'a Asked<'a>,
    pub view: &'a Snapshot,
}

/// The refusal of a request, with `messages` as its causes; the first says it all, after `pods "web" is forbidden: ` if
/// it `is_prefixed`.
fn refusal(asked: &Asked<'_>, name: &str, messages: &[String], is_prefixed: bool) -> Status {
    let first = messages.first().cloned().unwrap_or_default();
    let error = ApiError::Refused {
        resource: asked.call.served.qualified.clone(),
        name: name.into(),
        message: first.clone(),
        causes: messages
            .iter()
            .map(|message| StatusCause { message: Some(message.clone()), ..StatusCause::default() })
            .collect(),
    };
    let mut status = error.to_status();
    if !is_prefixed {
        status.message = Some(first);
    }
    status
}
