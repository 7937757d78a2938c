//! The kinds of storage.k8s.io.

mod csi_driver;
mod csi_node;
mod csi_storage_capacity;
mod storage_class;
mod volume_attachment;
mod volume_attributes_class;

#[cfg(test)]
mod tests;

use naru_model::validation::{FieldErrors, Path};
use std::collections::BTreeMap;

use super::{Kinds, podspec::check};

const MAX_PARAMETERS: usize = 512;
const MAX_PARAMETER_BYTES: usize = 256 * 1024;

/// Adds all of them.
pub(super) fn add(kinds: &mut Kinds) {
    kinds.add(csi_driver::CsiDrivers);
    kinds.add(csi_node::CsiNodes);
    kinds.add(csi_storage_capacity::CsiStorageCapacities);
    kinds.add(storage_class::StorageClasses);
    kinds.add(volume_attachment::VolumeAttachments);
    kinds.add(volume_attributes_class::VolumeAttributesClasses);
}

/// The name of what makes volumes.
fn validate_provisioner(name: &str, path: &Path, errors: &mut FieldErrors) {
    if name.is_empty() {
        errors.required(path, "");
    } else {
        check::qualified_name(&name.to_lowercase(), path, errors);
    }
}

/// What a provisioner is told; only their amount is limited.
fn validate_parameters(
    parameters: Option<&BTreeMap<String, String>>,
    may_be_empty: bool,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let pairs = || parameters.into_iter().flatten();
    if pairs().count() > MAX_PARAMETERS {
        return errors.too_long(path, MAX_PARAMETERS);
    }
    if pairs().any(|(key, _)| key.is_empty()) {
        errors.invalid(path, "", "field can not be empty.");
    }
    if pairs().map(|(key, value)| key.len() + value.len()).sum::<usize>() > MAX_PARAMETER_BYTES {
        errors.too_long(path, MAX_PARAMETER_BYTES);
    }
    if !may_be_empty && pairs().next().is_none() {
        errors.required(path, "must contain at least one key/value pair");
    }
}

/// Refuses a change in the words that classes use for it.
fn keep<T: PartialEq>(new: &T, old: &T, field: &str, errors: &mut FieldErrors) {
    if new != old {
        errors.forbidden(&Path::new(field), &format!("updates to {field} are forbidden."));
    }
}
