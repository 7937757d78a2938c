//! Patches: what becomes of an object.

use naru_model::patch::{PatchError, apply_json, apply_merge, apply_strategic};
use serde_json::Value;

use super::{Call, Outcome, Part, Registry, Served, decode, path::damaged};
use crate::{ApiError, client::Patch, store::Entry};

impl Registry {
    /// Applies `patch` to the part of the object; another writer's change in between is patched too, not lost.
    pub async fn patch(&self, call: &Call<'_>, part: Part, patch: &Patch) -> Result<Outcome, ApiError> {
        self.update(call, part, |entry| {
            let entry = entry.ok_or_else(|| call.not_found())?;
            let mut value = call.served.value(entry)?;
            apply(patch, &call.served.type_name, &mut value)?;
            decode::value(call.served, value, call.validation)
        })
        .await
    }
}

/// Applies `patch` to a document of the OpenAPI type `type_name`.
pub(super) fn apply(patch: &Patch, type_name: &str, document: &mut Value) -> Result<(), ApiError> {
    match patch {
        Patch::Json(patch) => apply_json(document, patch),
        Patch::Merge(patch) => {
            check_object(patch)?;
            apply_merge(document, patch);
            Ok(())
        }
        Patch::Strategic(patch) => {
            check_object(patch)?;
            apply_strategic(document, patch, type_name)
        }
    }
    .map_err(|error| match error {
        PatchError::Malformed(_) => ApiError::BadRequest(error.to_string()),
        PatchError::DoesNotApply(why) => ApiError::PatchFailed(format!(
            "the server rejected our request due to an error in our request: {why}"
        )),
        PatchError::TooMany { limit, .. } => ApiError::TooLarge { limit },
    })
}

fn check_object(patch: &Value) -> Result<(), ApiError> {
    if patch.is_object() {
        return Ok(());
    }
    Err(ApiError::BadRequest("error decoding patch: a merge patch must be a JSON object".into()))
}

impl Served {
    /// A stored object in the shape in which it is served.
    pub fn value(&self, entry: &Entry) -> Result<Value, ApiError> {
        let value: Value = serde_json::from_slice(&entry.json).map_err(|error| damaged(entry, &error))?;
        Ok(match self.conversion {
            None => value,
            Some(conversion) => (conversion.to_served)(value),
        })
    }
}
