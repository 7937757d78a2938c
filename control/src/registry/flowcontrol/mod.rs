//! The kinds of flowcontrol.apiserver.k8s.io.

mod bootstrap;
mod flow_schema;
mod priority_level;

#[cfg(test)]
mod tests;

pub use bootstrap::{AUTO_UPDATE, flow_schemas, is_mandatory, priority_levels};

use naru_model::validation::{FieldErrors, Path};
use std::collections::BTreeSet;

use super::Kinds;

/// Of the level that is never limited, and of the schema that leads to it.
const EXEMPT: &str = "exempt";
/// Of the level and the schema for what no other schema takes.
pub const CATCH_ALL: &str = "catch-all";

/// Adds all of them.
pub(super) fn add(kinds: &mut Kinds) {
    kinds.add(flow_schema::FlowSchemas);
    kinds.add(priority_level::PriorityLevels);
}

/// Conditions have a type each, and each type once.
fn validate_conditions<'a>(types: impl Iterator<Item = &'a str>, errors: &mut FieldErrors) {
    let path = Path::new("status").child("conditions");
    let mut seen = BTreeSet::new();
    for (index, kind) in types.enumerate() {
        let path = path.index(index).child("type");
        if !seen.insert(kind) {
            errors.duplicate(&path, kind);
        }
        if kind.is_empty() {
            errors.required(&path, "must not be empty");
        }
    }
}
