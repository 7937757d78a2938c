//! Patches: what becomes of an object.

use bytes::Bytes;
use naru_model::patch::{PatchError, apply_json, apply_merge, apply_strategic};
use serde_json::Value;

use super::{Call, Outcome, Part, Registry, Served, decode, path::damaged};
use crate::{ApiError, client::Patch, store::Entry};

/// All that the `copy` operations of one patch may copy.
const COPY_LIMIT_BYTES: usize = 30 << 20;

impl Registry {
    /// Applies `patch` to the part of the object; another writer's change in between is patched too, not lost.
    /// `problems` are what [`decode::patch_problems`] found in its text.
    pub async fn patch(
        &self,
        call: &Call<'_>,
        part: Part,
        patch: &Patch,
        problems: &[String],
    ) -> Result<Outcome, ApiError> {
        let is_about_managers = is_about_managers(patch);
        self.update(call, part, |entry| {
            let entry = entry.ok_or_else(|| call.not_found())?;
            // Managers are much to read, and few patches are about them.
            let mut value =
                if is_about_managers { call.served.value(entry)? } else { call.served.plain_value(entry)? };
            apply(patch, &call.served.type_name, &mut value)?;
            // Kubernetes shows the patch where it patches values, and the result where it patches text.
            let shown = || match patch {
                Patch::Strategic(patch) => Ok(patch.clone()),
                Patch::Json(_) | Patch::Merge(_) => {
                    let mut result = call.served.value(entry)?;
                    apply(patch, &call.served.type_name, &mut result)?;
                    Ok(result)
                }
            };
            let (object, warnings) =
                decode::patched(call.served, value, problems.to_vec(), shown, call.validation)?;
            call.warn(warnings);
            Ok(object)
        })
        .await
    }
}

/// Applies `patch` to a document of the OpenAPI type `type_name`.
pub(crate) fn apply(patch: &Patch, type_name: &str, document: &mut Value) -> Result<(), ApiError> {
    match patch {
        Patch::Json(patch) => {
            if !patch.is_array() {
                let found = decode::go_type(patch);
                return Err(ApiError::BadRequest(format!(
                    "error decoding patch: json: cannot unmarshal {found} into Go value of type jsonpatch.Patch"
                )));
            }
            check_copies(patch, document)?;
            apply_json(document, patch)
        }
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
        PatchError::Malformed(_) | PatchError::BadDirective(_) => ApiError::BadRequest(error.to_string()),
        PatchError::DoesNotApply(why) => ApiError::PatchFailed(why),
        PatchError::TooMany { limit, .. } | PatchError::TooLarge { limit, .. } => {
            ApiError::TooLarge { limit }
        }
    })
}

/// Whether a patch may read or change `metadata.managedFields`.
fn is_about_managers(patch: &Patch) -> bool {
    let touches = |path: &Value| {
        let path = path.as_str().unwrap_or_default();
        matches!(path, "" | "/metadata") || path.starts_with("/metadata/managedFields")
    };
    match patch {
        Patch::Json(patch) => patch
            .as_array()
            .into_iter()
            .flatten()
            .any(|operation| touches(&operation["path"]) || operation.get("from").is_some_and(touches)),
        Patch::Merge(patch) | Patch::Strategic(patch) => match &patch["metadata"] {
            Value::Object(metadata) => {
                metadata.contains_key("managedFields") || metadata.keys().any(|key| key.starts_with('$'))
            }
            Value::Null => false,
            _ => true,
        },
    }
}

/// A few dozen `copy` operations can double an object until no memory is left: what they copy is limited.
fn check_copies(patch: &Value, document: &Value) -> Result<(), ApiError> {
    let is_copy = |operation: &Value| operation["op"] == "copy";
    let Some(operations) = patch.as_array().filter(|operations| operations.iter().any(is_copy)) else {
        return Ok(());
    };
    let mut trial = document.clone();
    let mut copied = 0;
    for operation in operations {
        if is_copy(operation) {
            let source = operation["from"].as_str().and_then(|from| trial.pointer(from));
            copied += source.map_or(0, |source| source.to_string().len());
            if copied > COPY_LIMIT_BYTES {
                return Err(ApiError::TooLarge { limit: COPY_LIMIT_BYTES });
            }
        }
        if apply_json(&mut trial, &Value::Array(vec![operation.clone()])).is_err() {
            // The error is told by the application of the whole patch.
            return Ok(());
        }
    }
    Ok(())
}

fn check_object(patch: &Value) -> Result<(), ApiError> {
    if patch.is_object() {
        return Ok(());
    }
    Err(ApiError::BadRequest("error decoding patch: a merge patch must be a JSON object".into()))
}

impl Served {
    /// A stored object's JSON in the form of this version of its kind.
    pub fn json(&self, entry: &Entry) -> Result<Bytes, ApiError> {
        if self.kind.is_served_as_stored(entry) {
            return Ok(entry.json.clone());
        }
        self.kind.as_served(&entry.json).map_err(|error| damaged(entry, &error))
    }

    /// A stored object in the shape in which it is served.
    pub fn value(&self, entry: &Entry) -> Result<Value, ApiError> {
        let json = self.json(entry)?;
        self.read(entry, &json)
    }

    /// The same without `metadata.managedFields`.
    pub fn plain_value(&self, entry: &Entry) -> Result<Value, ApiError> {
        if self.kind.is_served_as_stored(entry) {
            return self.read(entry, &entry.plain_json());
        }
        let mut value = self.value(entry)?;
        if let Some(metadata) = value["metadata"].as_object_mut() {
            metadata.remove("managedFields");
        }
        Ok(value)
    }

    fn read(&self, entry: &Entry, json: &[u8]) -> Result<Value, ApiError> {
        let value: Value = serde_json::from_slice(json).map_err(|error| damaged(entry, &error))?;
        Ok(match self.conversion {
            None => value,
            Some(conversion) => (conversion.to_served)(value),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_patch_that_doubles_itself_is_refused() {
        let mut document = json!({ "data": { "a": "x".repeat(1000) } });
        let double =
            |index: usize| json!({ "op": "copy", "from": "/data", "path": format!("/data/{index}") });
        let bomb = Patch::Json((0..60).map(double).collect());
        let error = apply(&bomb, "", &mut document.clone()).expect_err("it would not fit");
        assert_eq!(error.code(), 413);
        apply(&Patch::Json(json!([double(0)])), "", &mut document).expect("one copy is fine");
        assert_eq!(document["data"]["0"]["a"], document["data"]["a"]);
    }
}
