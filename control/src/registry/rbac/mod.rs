//! The four kinds of role-based access control.
//!
//! What rules and subjects may be is the same for all; who may grant what is `admission`'s to say.

mod bindings;
mod roles;

pub use bindings::{ClusterRoleBindings, RoleBindings};
pub use roles::{ClusterRoles, Roles};

use naru_model::{
    ResourceInfo,
    validation::{FieldErrors, Path, names},
};

use super::text;
use crate::auth::rbac::GROUP;

const fn resource(
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    namespaced: bool,
) -> ResourceInfo {
    ResourceInfo { group: GROUP, namespaced, ..text::core_resource(kind, plural, singular, &[]) }
}

/// Names only need to fit into a URL.
fn validate_name(name: &str, errors: &mut FieldErrors) {
    let path = Path::new("metadata").child("name");
    errors.problems(&path, name, names::path_segment_name(name, false));
}
