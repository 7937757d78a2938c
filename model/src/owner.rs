//! Owner references: who controls an object, and so who may adopt, count and delete it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::Object;

/// A reference that makes `owner` the controller of what carries it, as workload controllers write it.
pub fn controller_reference<T: Object>(owner: &T) -> OwnerReference {
    OwnerReference { block_owner_deletion: Some(true), controller: Some(true), ..reference(owner) }
}

/// A reference that only ties lifetimes together.
pub fn reference<T: Object>(owner: &T) -> OwnerReference {
    OwnerReference {
        api_version: T::API_VERSION.into(),
        kind: T::KIND.into(),
        name: owner.name().into(),
        uid: owner.uid().into(),
        block_owner_deletion: None,
        controller: None,
    }
}

/// The one reference with `controller: true`.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    controller_among(meta.owner_references.as_deref().unwrap_or_default())
}

/// The same where only the references are at hand.
pub fn controller_among(references: &[OwnerReference]) -> Option<&OwnerReference> {
    references.iter().find(|reference| reference.controller == Some(true))
}

/// Whether `owner` controls the object; by uid, since names are used again.
pub fn is_controlled_by<T: Object>(meta: &ObjectMeta, owner: &T) -> bool {
    controller_of(meta).is_some_and(|reference| reference.uid == owner.uid())
}

/// Group and version of a reference: ("apps", "v1"), ("", "v1").
pub fn group_version(reference: &OwnerReference) -> (&str, &str) {
    reference.api_version.split_once('/').unwrap_or(("", &reference.api_version))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::Pod};

    fn replica_set(uid: &str) -> ReplicaSet {
        let metadata = ObjectMeta { name: Some("web".into()), uid: Some(uid.into()), ..Default::default() };
        ReplicaSet { metadata, ..Default::default() }
    }

    #[test]
    fn a_controller_is_known_by_its_uid() {
        let owner = replica_set("1");
        let mut pod = Pod::default();
        assert!(!is_controlled_by(&pod.metadata, &owner));
        pod.metadata.owner_references =
            Some(vec![reference(&replica_set("2")), controller_reference(&owner)]);
        assert!(is_controlled_by(&pod.metadata, &owner));
        assert!(!is_controlled_by(&pod.metadata, &replica_set("2")));
        let found = controller_of(&pod.metadata).expect("a controller");
        assert_eq!((group_version(found), found.kind.as_str()), (("apps", "v1"), "ReplicaSet"));
    }
}
