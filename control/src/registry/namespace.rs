//! Namespaces.
//!
//! A deleted namespace stays, `Terminating`, while `spec.finalizers` holds it; the namespace controller empties it
//! and takes its finalizer away.

use k8s_openapi::{
    api::core::v1::{Namespace, NamespaceStatus},
    jiff::Timestamp,
};
use naru_model::{
    ResourceInfo,
    validation::{FieldErrors, Path},
};
use serde_json::Value;

use super::{
    Column, Kind,
    kind::{Context, age},
    podspec::{OrEmpty, check},
    text,
};

pub struct Namespaces;

const FINALIZER: &str = "kubernetes";
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

static RESOURCE: ResourceInfo = ResourceInfo {
    namespaced: false,
    subresources: &["finalize", "status"],
    verbs: &["create", "delete", "get", "list", "patch", "update", "watch"],
    ..text::core_resource("Namespace", "namespaces", "namespace", &["ns"])
};

const COLUMNS: &[Column] =
    &[text::NAME, text::column("Status", "string", 0, "The status of the namespace"), text::AGE];

impl Kind for Namespaces {
    type Object = Namespace;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn has_generation(&self) -> bool {
        false
    }

    fn default(&self, namespace: &mut Namespace) {
        if let Some(name) = namespace.metadata.name.clone().filter(|name| !name.is_empty()) {
            namespace.metadata.labels.get_or_insert_default().insert(NAME_LABEL.into(), name);
        }
    }

    fn prepare_create(&self, namespace: &mut Namespace, _context: &Context<'_>) {
        let finalizers = namespace.spec.get_or_insert_default().finalizers.get_or_insert_default();
        if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
            finalizers.push(FINALIZER.into());
        }
        namespace.status =
            Some(NamespaceStatus { phase: Some("Active".into()), ..NamespaceStatus::default() });
    }

    fn prepare_update(&self, new: &mut Namespace, old: &Namespace, _context: &Context<'_>) {
        new.spec.clone_from(&old.spec);
        new.status.clone_from(&old.status);
    }

    fn prepare_status_update(&self, new: &mut Namespace, old: &Namespace, _context: &Context<'_>) {
        new.spec.clone_from(&old.spec);
    }

    /// A namespace's name is one label of the DNS names of what it holds.
    fn validate_name(&self, name: &str, errors: &mut FieldErrors) {
        check::dns_label(name, &Path::new("metadata").child("name"), errors);
    }

    fn validate(&self, namespace: &Namespace, errors: &mut FieldErrors) {
        let path = Path::new("spec").child("finalizers");
        for finalizer in namespace.spec.iter().flat_map(|spec| spec.finalizers.or_empty()) {
            check::qualified_name(finalizer, &path, errors);
            if !finalizer.contains('/')
                && !matches!(finalizer.as_str(), FINALIZER | "orphan" | "foregroundDeletion")
            {
                let detail = "name is neither a standard finalizer name nor is it fully qualified";
                errors.invalid(&path, finalizer.as_str(), detail);
            }
        }
    }

    fn validate_status_update(&self, new: &Namespace, _old: &Namespace, errors: &mut FieldErrors) {
        let phase = phase(new);
        let path = Path::new("status").child("Phase");
        if new.metadata.deletion_timestamp.is_none() && phase != "Active" {
            errors.invalid(&path, phase, "may only be 'Active' if `deletionTimestamp` is empty");
        } else if new.metadata.deletion_timestamp.is_some() && phase != "Terminating" {
            errors.invalid(&path, phase, "may only be 'Terminating' if `deletionTimestamp` is not empty");
        }
    }

    fn mark_deleting(&self, namespace: &mut Namespace) {
        namespace.status.get_or_insert_default().phase = Some("Terminating".into());
        namespace.metadata.deletion_grace_period_seconds = None;
    }

    fn is_held(&self, namespace: &Namespace) -> bool {
        namespace.spec.as_ref().is_some_and(|spec| !spec.finalizers.or_empty().is_empty())
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, namespace: &Namespace, now: Timestamp) -> Vec<Value> {
        vec![
            namespace.metadata.name.or_empty().into(),
            phase(namespace).into(),
            age(namespace.metadata.creation_timestamp.as_ref(), now).into(),
        ]
    }

    fn field_names(&self) -> &'static [&'static str] {
        &["status.phase"]
    }

    fn field(&self, namespace: &Namespace, name: &str) -> String {
        if name == "status.phase" { phase(namespace).into() } else { String::new() }
    }
}

fn phase(namespace: &Namespace) -> &str {
    namespace.status.as_ref().map(|status| status.phase.or_empty()).unwrap_or_default()
}
