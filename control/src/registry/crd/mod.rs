//! CustomResourceDefinitions, and the resources that they define.
//!
//! A definition is a kind like any other (`definition`). What it defines is served by [`CustomKind`], which works on
//! JSON by the definition's schema; `serving` keeps the list of served resources in step with the definitions.

mod check; // Validation of definitions.
mod check_rules; // Validation of the rules in those.
mod check_schema; // Validation of the schemas in them.
mod conversion; // Between versions.
mod costs; // What rules may cost.
mod custom;
pub mod definition;
mod info;
mod jsonpath;
mod openapi; // How the documents show it.
mod rules; // Validation rules in CEL.
pub mod schema;
mod serving;

pub use custom::{CustomKind, CustomObject};
pub use definition::Definitions;
pub use serving::Serving;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

/// The name under which definitions are stored.
pub const RESOURCE: &str = "customresourcedefinitions.apiextensions.k8s.io";
/// The finalizer that keeps a definition until its objects are gone.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Whether the definition has the condition, and it is true.
pub fn is_true(definition: &CustomResourceDefinition, condition: &str) -> bool {
    let conditions = definition.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|of| of.type_ == condition && of.status == "True")
}
