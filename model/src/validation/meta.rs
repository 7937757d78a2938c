//! The rules of `ObjectMeta`, for every kind alike.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::{Value, json};

use super::{FieldErrors, Path, names, selector};

/// All keys and values of the annotations of one object together.
pub const ANNOTATIONS_LIMIT_BYTES: usize = 256 * 1024;
pub const IMMUTABLE: &str = "field is immutable";

/// What must hold when an object is created; a generated name was already filled in.
pub fn object_meta(
    meta: &ObjectMeta,
    is_namespaced: bool,
    rule: impl Fn(&str, bool) -> names::Problems,
    errors: &mut FieldErrors,
) {
    let path = Path::new("metadata");
    let generate_name = meta.generate_name.as_deref().unwrap_or_default();
    if !generate_name.is_empty() {
        errors.problems(&path.child("generateName"), generate_name, rule(generate_name, true));
    }
    match meta.name.as_deref().unwrap_or_default() {
        "" => errors.required(&path.child("name"), "name or generateName is required"),
        name => errors.problems(&path.child("name"), name, rule(name, false)),
    }
    object_meta_beyond_name(meta, is_namespaced, errors);
}

/// The same for kinds whose name has been checked elsewhere.
pub fn object_meta_beyond_name(meta: &ObjectMeta, is_namespaced: bool, errors: &mut FieldErrors) {
    let path = Path::new("metadata");
    match (is_namespaced, meta.namespace.as_deref().unwrap_or_default()) {
        (true, "") => errors.required(&path.child("namespace"), ""),
        (true, namespace) => {
            errors.problems(&path.child("namespace"), namespace, names::label_name(namespace, false));
        }
        (false, "") => (),
        (false, _) => errors.forbidden(&path.child("namespace"), "not allowed on this type"),
    }
    generation(&path, meta, errors);
    maps_and_owners(&path, meta, errors);
    finalizers(&path.child("finalizers"), meta.finalizers.as_deref().unwrap_or_default(), errors);
}

/// What must hold when `old` is replaced by `new`. The resource version is the caller's to check.
pub fn object_meta_update(new: &ObjectMeta, old: &ObjectMeta, errors: &mut FieldErrors) {
    let path = Path::new("metadata");
    if old.deletion_timestamp.is_some() {
        no_new_finalizers(&path.child("finalizers"), new, old, errors);
    }
    generation(&path, new, errors);
    if new.generation.unwrap_or(0) < old.generation.unwrap_or(0) {
        errors.invalid(&path.child("generation"), new.generation.unwrap_or(0), "must not be decremented");
    }
    let immutable = |field: &str, new: Value, old: Value, errors: &mut FieldErrors| {
        if new != old {
            errors.invalid(&path.child(field), new, IMMUTABLE);
        }
    };
    immutable("name", text(new.name.as_ref()), text(old.name.as_ref()), errors);
    immutable("namespace", text(new.namespace.as_ref()), text(old.namespace.as_ref()), errors);
    immutable("uid", text(new.uid.as_ref()), text(old.uid.as_ref()), errors);
    immutable("creationTimestamp", json!(new.creation_timestamp), json!(old.creation_timestamp), errors);
    immutable("deletionTimestamp", json!(new.deletion_timestamp), json!(old.deletion_timestamp), errors);
    immutable(
        "deletionGracePeriodSeconds",
        json!(new.deletion_grace_period_seconds),
        json!(old.deletion_grace_period_seconds),
        errors,
    );
    maps_and_owners(&path, new, errors);
    // Only new finalizers are checked, so that an old object with a strange one can still be changed.
    if new.finalizers != old.finalizers {
        finalizers(&path.child("finalizers"), new.finalizers.as_deref().unwrap_or_default(), errors);
    }
}

/// A field that may not change; compare typed values and pass the new one.
pub fn immutable_field<T: serde::Serialize + PartialEq>(
    path: &Path,
    new: &T,
    old: &T,
    errors: &mut FieldErrors,
) {
    if new != old {
        errors.invalid(path, json!(new), IMMUTABLE);
    }
}

fn text(field: Option<&String>) -> Value {
    field.map(String::as_str).unwrap_or_default().into()
}

fn generation(path: &Path, meta: &ObjectMeta, errors: &mut FieldErrors) {
    if let Some(generation) = meta.generation.filter(|generation| *generation < 0) {
        errors.invalid(&path.child("generation"), generation, "must be greater than or equal to 0");
    }
}

fn maps_and_owners(path: &Path, meta: &ObjectMeta, errors: &mut FieldErrors) {
    if let Some(labels) = &meta.labels {
        selector::labels(&path.child("labels"), labels, errors);
    }
    if let Some(map) = &meta.annotations {
        annotations(&path.child("annotations"), map, errors);
    }
    owner_references(
        &path.child("ownerReferences"),
        meta.owner_references.as_deref().unwrap_or_default(),
        errors,
    );
}

/// Keys are qualified names whose case does not matter; values are anything, within a common limit.
pub fn annotations(path: &Path, annotations: &BTreeMap<String, String>, errors: &mut FieldErrors) {
    for key in annotations.keys() {
        errors.problems(path, key, names::qualified_name(&key.to_lowercase()));
    }
    if annotations.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() > ANNOTATIONS_LIMIT_BYTES
    {
        errors.too_long(path, ANNOTATIONS_LIMIT_BYTES);
    }
}

fn owner_references(path: &Path, owners: &[OwnerReference], errors: &mut FieldErrors) {
    let mut controller: Option<String> = None;
    for (index, owner) in owners.iter().enumerate() {
        owner_reference(&path.index(index), owner, errors);
        if owner.controller != Some(true) {
            continue;
        }
        let this = format!("{}/{}", owner.kind, owner.name);
        match &controller {
            Some(first) => errors.invalid(
                path,
                json!(owners),
                &format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                ),
            ),
            None => controller = Some(this),
        }
    }
}

fn owner_reference(path: &Path, owner: &OwnerReference, errors: &mut FieldErrors) {
    let slashes = owner.api_version.matches('/').count();
    if owner.api_version.is_empty() {
        errors.required(&path.child("apiVersion"), "must not be empty");
    } else if slashes > 1 || owner.api_version.ends_with('/') {
        errors.invalid(
            &path.child("apiVersion"),
            owner.api_version.as_str(),
            "must be <group>/<version> or <version>",
        );
    }
    for (field, value) in [("kind", &owner.kind), ("name", &owner.name), ("uid", &owner.uid)] {
        if value.is_empty() {
            errors.required(&path.child(field), "must not be empty");
        }
    }
    if owner.api_version == "v1" && owner.kind == "Event" {
        errors.invalid(path, json!(owner), "/v1, Kind=Event is disallowed from being an owner");
    }
}

fn finalizers(path: &Path, finalizers: &[String], errors: &mut FieldErrors) {
    for finalizer in finalizers {
        errors.problems(path, finalizer, names::qualified_name(finalizer));
    }
    let has = |name: &str| finalizers.iter().any(|finalizer| finalizer == name);
    if has("orphan") && has("foregroundDeletion") {
        errors.invalid(path, json!(finalizers), "finalizer orphan and foregroundDeletion cannot be both set");
    }
}

fn no_new_finalizers(path: &Path, new: &ObjectMeta, old: &ObjectMeta, errors: &mut FieldErrors) {
    let had = old.finalizers.as_deref().unwrap_or_default();
    let mut extra: Vec<_> =
        new.finalizers.iter().flatten().filter(|finalizer| !had.contains(finalizer)).collect();
    if extra.is_empty() {
        return;
    }
    extra.sort();
    let list = extra.iter().map(|finalizer| format!("{finalizer:?}")).collect::<Vec<_>>().join(", ");
    let rule = "no new finalizers can be added if the object is being deleted";
    errors.forbidden(path, &format!("{rule}, found new finalizers []string{{{list}}}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(value: Value) -> ObjectMeta {
        serde_json::from_value(value).expect("metadata")
    }

    fn check(found: &FieldErrors, expected: &[&str]) {
        let found: Vec<_> = found.0.iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found}\n{expected}");
        }
    }

    fn created(value: Value, is_namespaced: bool, expected: &[&str]) {
        let mut errors = FieldErrors::default();
        object_meta(&meta(value), is_namespaced, names::subdomain_name, &mut errors);
        check(&errors, expected);
    }

    fn updated(new: Value, old: Value, expected: &[&str]) {
        let mut errors = FieldErrors::default();
        object_meta_update(&meta(new), &meta(old), &mut errors);
        check(&errors, expected);
    }

    #[test]
    fn ordinary_metadata_passes() {
        created(
            json!({"name": "web-x", "generateName": "web-", "namespace": "default", "labels": {"a": "b"},
                   "annotations": {"Example.com/A": "anything at all"}, "finalizers": ["example.com/x"],
                   "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "1", "controller": true}]}),
            true,
            &[],
        );
    }

    #[test]
    fn names_and_namespaces_are_required_where_they_belong() {
        created(
            json!({}),
            true,
            &[
                "metadata.name: Required value: name or generateName is required",
                "metadata.namespace: Required value",
            ],
        );
        created(
            json!({"name": "N", "namespace": "x"}),
            false,
            &[
                "metadata.name: Invalid value: \"N\": a lowercase RFC 1123 subdomain",
                "metadata.namespace: Forbidden: not allowed on this type",
            ],
        );
        created(
            json!({"name": "n", "generateName": "N-", "namespace": "a.b"}),
            true,
            &[
                "metadata.generateName: Invalid value: \"N-\"",
                "metadata.namespace: Invalid value: \"a.b\": must not contain dots",
            ],
        );
    }

    #[test]
    fn annotations_share_one_limit() {
        let value = "x".repeat(ANNOTATIONS_LIMIT_BYTES);
        created(
            json!({"name": "n", "annotations": {"a": value}}),
            false,
            &["metadata.annotations: Too long: may not be more than 262144 bytes"],
        );
        created(json!({"name": "n", "annotations": {"a": value[1..]}}), false, &[]);
    }

    #[test]
    fn owners_are_complete_and_only_one_controls() {
        let owner = |name: &str| json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": "1", "controller": true});
        created(
            json!({"name": "n", "ownerReferences": [owner("a"), owner("b"),
                {"apiVersion": "a/b/c", "kind": "", "name": "", "uid": ""},
                {"apiVersion": "v1", "kind": "Event", "name": "e", "uid": "2"}]}),
            false,
            &[
                "metadata.ownerReferences: Invalid value: [{",
                "metadata.ownerReferences[2].apiVersion: Invalid value: \"a/b/c\": must be <group>/<version> or <version>",
                "metadata.ownerReferences[2].kind: Required value: must not be empty",
                "metadata.ownerReferences[2].name: Required value: must not be empty",
                "metadata.ownerReferences[2].uid: Required value: must not be empty",
                "metadata.ownerReferences[3]: Invalid value: {",
            ],
        );
    }

    #[test]
    fn finalizers_are_qualified_and_do_not_contradict() {
        created(
            json!({"name": "n", "finalizers": ["orphan", "foregroundDeletion", "a b"]}),
            false,
            &[
                "metadata.finalizers: Invalid value: \"a b\": name part",
                "metadata.finalizers: Invalid value: [\"orphan\",\"foregroundDeletion\",\"a b\"]: finalizer orphan and foregroundDeletion cannot be both set",
            ],
        );
    }

    #[test]
    fn identity_and_times_are_immutable() {
        let time = "2026-01-01T00:00:00Z";
        updated(
            json!({"name": "b", "namespace": "y", "uid": "2", "generation": 1}),
            json!({"name": "a", "namespace": "x", "uid": "1", "generation": 2, "creationTimestamp": time,
                   "deletionTimestamp": time, "deletionGracePeriodSeconds": 30}),
            &[
                "metadata.generation: Invalid value: 1: must not be decremented",
                "metadata.name: Invalid value: \"b\": field is immutable",
                "metadata.namespace: Invalid value: \"y\": field is immutable",
                "metadata.uid: Invalid value: \"2\": field is immutable",
                "metadata.creationTimestamp: Invalid value: null: field is immutable",
                "metadata.deletionTimestamp: Invalid value: null: field is immutable",
                "metadata.deletionGracePeriodSeconds: Invalid value: null: field is immutable",
            ],
        );
    }

    #[test]
    fn nothing_that_is_being_deleted_gets_new_finalizers() {
        let time = "2026-01-01T00:00:00Z";
        updated(
            json!({"name": "a", "deletionTimestamp": time, "finalizers": ["b", "a", "z"]}),
            json!({"name": "a", "deletionTimestamp": time, "finalizers": ["z"]}),
            &[
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new \
               finalizers []string{\"a\", \"b\"}",
            ],
        );
        updated(
            json!({"name": "a", "deletionTimestamp": time}),
            json!({"name": "a", "deletionTimestamp": time, "finalizers": ["z"]}),
            &[],
        );
    }
}
