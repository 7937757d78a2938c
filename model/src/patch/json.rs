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
    if let Ok(patch) = serde_json::from_value(patch.clone()) {
        return apply_operations(document, patch);
    }
    if let Some((index, why)) = odd_operation(patch)? {
        return Err(refuse(document, patch, index, why));
    }
    let patch = serde_json::from_value(with_values(patch))
        .map_err(|error| PatchError::Malformed(error.to_string()))?;
    apply_operations(document, patch)
}

/// An operation without a value has null for one.
fn with_values(patch: &Value) -> Value {
    let mut patch = patch.clone();
    for operation in patch.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        operation.entry("value").or_insert(Value::Null);
    }
    patch
}

/// What is wrong with a patch that is a list of operations, but not of such as this house knows: the first one's index
/// and why Kubernetes doesn't apply it.
///
/// # Errors
/// Where it is no such list.
fn odd_operation(patch: &Value) -> Result<Option<(usize, String)>, PatchError> {
    let malformed = |found: &Value, wanted: &str| {
        let found = go_type(found);
        PatchError::Malformed(format!("json: cannot unmarshal {found} into Go {wanted}"))
    };
    let operations = patch.as_array().ok_or_else(|| malformed(patch, "value of type jsonpatch.Patch"))?;
    for operation in operations {
        let fields =
            operation.as_object().ok_or_else(|| malformed(operation, "value of type jsonpatch.Operation"))?;
        for name in ["op", "path", "from"] {
            if let Some(value) = fields.get(name).filter(|value| !value.is_string() && !value.is_null()) {
                return Err(malformed(value, &format!("struct field jsonPatchOp.{name} of type string")));
            }
        }
    }
    let mut reasons = operations.iter().map(why_not_applied).enumerate();
    Ok(reasons.find_map(|(index, why)| Some((index, why?))))
}

/// Why an operation never applies, whatever the document is.
fn why_not_applied(operation: &Value) -> Option<String> {
    let text = |name: &str| operation[name].as_str();
    let is_pointer = |path: &str| path.is_empty() || path.starts_with('/');
    let name = text("op").unwrap_or("unknown");
    if !["add", "remove", "replace", "move", "test", "copy"].contains(&name) {
        return Some(format!("Unexpected kind: {name}"));
    }
    if matches!(name, "move" | "copy") {
        match text("from") {
            None => {
                return Some(format!(
                    "{name} operation failed to decode from: operation, missing from field: missing value"
                ));
            }
            Some(from) if !is_pointer(from) => {
                return Some(format!(
                    "{name} operation does not apply: doc is missing from path: {from}: missing value"
                ));
            }
            Some(_) => (),
        }
    }
    match text("path") {
        None if matches!(name, "add" | "remove" | "copy") => {
            Some(format!("{name} operation failed to decode path: missing value"))
        }
        None => Some(format!(
            "{name} operation failed to decode path: operation missing path field: missing value"
        )),
        Some(path) if is_pointer(path) => None,
        Some(path) => Some(match name {
            "add" | "remove" => {
                format!("{name} operation does not apply: doc is missing path: \"{path}\": missing value")
            }
            "replace" => {
                format!("{name} operation does not apply: doc is missing path: {path}: missing value")
            }
            "test" => format!("{name} operation does not apply: is missing path: {path}: missing value"),
            _ => format!(
                "{name} operation does not apply: doc is missing destination path: {path}: missing value"
            ),
        }),
    }
}

/// The refusal of the operation at `index`, or of one before it.
fn refuse(document: &Value, patch: &Value, index: usize, why: String) -> PatchError {
    let before = patch.as_array().map(|operations| operations[..index].to_vec()).unwrap_or_default();
    match apply_json(&mut document.clone(), &Value::Array(before)) {
        Err(error) => error,
        Ok(()) => PatchError::DoesNotApply(why),
    }
}

/// The name of a value's type in messages of Go's decoder.
pub fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn apply_operations(document: &mut Value, patch: Patch) -> Result<(), PatchError> {
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

/// Applies a merge patch: objects are merged, `null` deletes, everything else replaces. A list replaces without the
/// fields that are null in its objects: there Kubernetes does more than the RFC.
pub fn apply_merge(document: &mut Value, patch: &Value) {
    if has_nulls_in_lists(patch, false) {
        let mut patch = patch.clone();
        drop_nulls_in_lists(&mut patch, false);
        json_patch::merge(document, &patch);
    } else {
        json_patch::merge(document, patch);
    }
}

fn has_nulls_in_lists(value: &Value, is_in_list: bool) -> bool {
    match value {
        Value::Object(fields) => fields
            .values()
            .any(|field| (is_in_list && field.is_null()) || has_nulls_in_lists(field, is_in_list)),
        Value::Array(items) => items.iter().any(|item| has_nulls_in_lists(item, true)),
        _ => false,
    }
}

fn drop_nulls_in_lists(value: &mut Value, is_in_list: bool) {
    match value {
        Value::Object(fields) => {
            if is_in_list {
                fields.retain(|_, field| !field.is_null());
            }
            fields.values_mut().for_each(|field| drop_nulls_in_lists(field, is_in_list));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| drop_nulls_in_lists(item, true)),
        _ => (),
    }
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
    fn what_never_applies_is_not_malformed() {
        let lacks_path = "operation missing path field: missing value";
        let lacks_from = "operation, missing from field: missing value";
        for (operation, expected) in [
            (json!({"op": "jump", "path": "/a"}), "Unexpected kind: jump".to_owned()),
            (json!({"path": "/a"}), "Unexpected kind: unknown".into()),
            (json!({"op": "add"}), "add operation failed to decode path: missing value".into()),
            (json!({"op": "test"}), format!("test operation failed to decode path: {lacks_path}")),
            (
                json!({"op": "move", "path": "/a"}),
                format!("move operation failed to decode from: {lacks_from}"),
            ),
            (
                json!({"op": "add", "path": "a", "value": 1}),
                "add operation does not apply: doc is missing path: \"a\": missing value".into(),
            ),
            (
                json!({"op": "copy", "from": "/list", "path": "a"}),
                "copy operation does not apply: doc is missing destination path: a: missing value".into(),
            ),
        ] {
            check(json!([operation]), Err(&expected));
            let before = json!({"op": "remove", "path": "/none"});
            let first = "remove operation does not apply: doc is missing path: \"/none\": missing value";
            check(json!([before, operation]), Err(first));
        }
        let mut document = json!({"a": 1});
        apply_json(&mut document, &json!([{"op": "replace", "path": "/a"}])).expect("the value is null");
        assert_eq!(document, json!({"a": null}));
    }

    #[test]
    fn malformed_patches_are_told_apart() {
        let mut document = json!({});
        for patch in [
            json!({}),
            json!("x"),
            json!(["x"]),
            json!([{"op": 1, "path": "/a"}]),
            json!([{"op": "add", "path": ["a"], "value": 1}]),
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
            (json!({}), json!({"a": [{"b": null, "c": [null]}, null]}), json!({"a": [{"c": [null]}, null]})),
        ] {
            let mut merged = document.clone();
            apply_merge(&mut merged, &patch);
            assert_eq!(merged, expected, "{document} with {patch}");
        }
    }
}
