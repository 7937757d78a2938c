//! JSON patch (RFC 6902) and merge patch (RFC 7386).

use json_patch::{Patch, PatchErrorKind, PatchOperation};
use serde_json::Value;

use super::PatchError;

/// The most operations that one JSON patch may have.
pub const JSON_PATCH_LIMIT: usize = 10_000;
/// The most bytes, as JSON, that the copies of one JSON patch may add: each may double the document.
const COPY_LIMIT: usize = 3 << 20;

/// Applies a JSON patch, all operations or an error.
pub fn apply_json(document: &mut Value, patch: &Value) -> Result<(), PatchError> {
    if let Some(operations) = patch.as_array().filter(|operations| operations.len() > JSON_PATCH_LIMIT) {
        return Err(PatchError::TooMany { count: operations.len(), limit: JSON_PATCH_LIMIT });
    }
    let patch: Patch =
        serde_json::from_value(patch.clone()).map_err(|error| PatchError::Malformed(error.to_string()))?;
    let explained = |operation: Option<&PatchOperation>, error: &json_patch::PatchError| {
        let text = operation.map_or_else(|| error.to_string(), |operation| explain(operation, &error.kind));
        PatchError::DoesNotApply(text)
    };
    let must_be_watched =
        |operation| tests_for_absence(operation) || matches!(operation, PatchOperation::Copy(_));
    if !patch.0.iter().any(must_be_watched) {
        return json_patch::patch(document, &patch)
            .map_err(|error| explained(patch.0.get(error.operation), &error));
    }
    let (mut result, mut copied) = (document.clone(), 0);
    for operation in patch.0 {
        if let PatchOperation::Copy(copy) = &operation
            && let Some(source) = result.pointer(copy.from.as_str())
        {
            copied += source.to_string().len();
            if copied > COPY_LIMIT {
                return Err(PatchError::TooLarge { size: copied, limit: COPY_LIMIT });
            }
        }
        if tests_for_absence(&operation) && is_absent(&result, operation.path().as_str()) {
            continue;
        }
        let one = Patch(vec![operation]);
        json_patch::patch(&mut result, &one).map_err(|error| explained(one.0.first(), &error))?;
    }
    *document = result;
    Ok(())
}

/// Clients that expect nothing at a path (finalizers, owners) test for null, which is more than the RFC allows.
fn tests_for_absence(operation: &PatchOperation) -> bool {
    matches!(operation, PatchOperation::Test(test) if test.value.is_null())
}

/// Whether an object has no such member.
fn is_absent(document: &Value, path: &str) -> bool {
    let parent = path.rsplit_once('/').and_then(|(parent, _)| document.pointer(parent));
    parent.is_some_and(Value::is_object) && document.pointer(path).is_none()
}

/// Applies a merge patch: objects are merged, `null` deletes, everything else replaces.
pub fn apply_merge(document: &mut Value, patch: &Value) {
    json_patch::merge(document, patch);
}

fn explain(operation: &PatchOperation, kind: &PatchErrorKind) -> String {
    let path = operation.path();
    let name = match operation {
        PatchOperation::Test(_) if matches!(kind, PatchErrorKind::TestFailed) => {
            return format!("testing value {path} failed: test failed");
        }
        PatchOperation::Test(_) => return format!("testing path {path} failed: missing value"),
        PatchOperation::Add(_) => "add",
        PatchOperation::Remove(_) => "remove",
        PatchOperation::Replace(_) => "replace",
        PatchOperation::Move(_) => "move",
        PatchOperation::Copy(_) => "copy",
    };
    match (operation, kind) {
        (PatchOperation::Move(operation), PatchErrorKind::InvalidFromPointer) => {
            format!(
                "{name} operation does not apply: doc is missing from path: {}: missing value",
                operation.from
            )
        }
        (PatchOperation::Copy(operation), PatchErrorKind::InvalidFromPointer) => {
            format!(
                "{name} operation does not apply: doc is missing from path: {}: missing value",
                operation.from
            )
        }
        (_, PatchErrorKind::CannotMoveInsideItself) => format!("{name} operation does not apply: {kind}"),
        (PatchOperation::Replace(_), _) => {
            format!("{name} operation does not apply: doc is missing key: {path}: missing value")
        }
        _ => format!("{name} operation does not apply: doc is missing path: \"{path}\": missing value"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(patch: Value, expected: Result<Value, &str>) {
        let mut document = json!({"metadata": {"name": "a", "labels": {"x/y": "1"}}, "list": [1, 2]});
        let result = apply_json(&mut document, &patch).map(|()| document).map_err(|error| error.to_string());
        assert_eq!(result, expected.map_err(String::from), "{patch}");
    }

    #[test]
    fn nothing_can_be_tested_for() {
        let add = json!({"op": "add", "path": "/metadata/finalizers", "value": ["a/b"]});
        let test = json!({"op": "test", "path": "/metadata/finalizers", "value": null});
        let expected =
            json!({"metadata": {"name": "a", "labels": {"x/y": "1"}, "finalizers": ["a/b"]}, "list": [1, 2]});
        check(json!([test, add]), Ok(expected));
        check(json!([add, test]), Err("testing value /metadata/finalizers failed: test failed"));
        let deep = json!([{"op": "test", "path": "/spec/deep", "value": null}]);
        check(deep, Err("testing path /spec/deep failed: missing value"));
    }

    #[test]
    fn operations_apply_in_order() {
        check(
            json!([
                {"op": "test", "path": "/metadata/name", "value": "a"},
                {"op": "add", "path": "/list/-", "value": 3},
                {"op": "add", "path": "/list/0", "value": 0},
                {"op": "remove", "path": "/metadata/labels/x~1y"},
                {"op": "replace", "path": "/metadata/name", "value": "b"},
                {"op": "copy", "from": "/metadata/name", "path": "/copied"},
                {"op": "move", "from": "/copied", "path": "/moved"},
            ]),
            Ok(json!({"metadata": {"name": "b", "labels": {}}, "list": [0, 1, 2, 3], "moved": "b"})),
        );
    }

    #[test]
    fn what_does_not_apply_is_explained() {
        for (patch, expected) in [
            (
                json!([{"op": "test", "path": "/metadata/name", "value": "z"}]),
                "testing value /metadata/name failed: test failed",
            ),
            (
                json!([{"op": "remove", "path": "/none"}]),
                "remove operation does not apply: doc is missing path: \"/none\": missing value",
            ),
            (
                json!([{"op": "replace", "path": "/none", "value": 1}]),
                "replace operation does not apply: doc is missing key: /none: missing value",
            ),
            (
                json!([{"op": "add", "path": "/none/a", "value": 1}]),
                "add operation does not apply: doc is missing path: \"/none/a\": missing value",
            ),
            (
                json!([{"op": "copy", "from": "/none", "path": "/a"}]),
                "copy operation does not apply: doc is missing from path: /none: missing value",
            ),
        ] {
            check(patch, Err(expected));
        }
    }

    #[test]
    fn malformed_patches_are_told_apart() {
        let mut document = json!({});
        for patch in [
            json!({}),
            json!([{"op": "jump", "path": "/a"}]),
            json!([{"op": "add", "path": "a", "value": 1}]),
            json!("x"),
        ] {
            let error = apply_json(&mut document, &patch).expect_err("malformed");
            assert!(matches!(error, PatchError::Malformed(_)), "{patch}: {error}");
        }
        let long = json!(vec![json!({"op": "add", "path": "/a", "value": 1}); JSON_PATCH_LIMIT + 1]);
        let error = apply_json(&mut document, &long).expect_err("too long");
        assert_eq!(error.to_string(), "The allowed maximum operations in a JSON patch is 10000, got 10001");
    }

    #[test]
    fn merge_patches_follow_the_rfc() {
        for (document, patch, expected) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": ["b"]}), json!({"a": ["c"]}), json!({"a": ["c"]})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!({"a": "foo"}), json!("bar"), json!("bar")),
        ] {
            let mut merged = document.clone();
            apply_merge(&mut merged, &patch);
            assert_eq!(merged, expected, "{document} with {patch}");
        }
    }
}
