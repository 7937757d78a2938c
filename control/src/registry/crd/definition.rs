//! The kind CustomResourceDefinition.

use k8s_openapi::{
    apiextensions_apiserver::pkg::apis::apiextensions::v1::{
        CustomResourceConversion, CustomResourceDefinition, CustomResourceDefinitionStatus,
    },
    jiff::Timestamp,
};
use naru_model::{ResourceInfo, validation::FieldErrors};
use serde_json::Value;

use super::{CLEANUP, check};
use crate::registry::{Column, Context, Kind, podspec::OrEmpty as _, text};

pub struct Definitions;

static RESOURCE: ResourceInfo = ResourceInfo {
    group: "apiextensions.k8s.io",
    namespaced: false,
    subresources: &["status"],
    categories: &["api-extensions"],
    ..text::core_resource(
        "CustomResourceDefinition",
        "customresourcedefinitions",
        "customresourcedefinition",
        &["crd", "crds"],
    )
};

const COLUMNS: &[Column] = &[
    text::NAME,
    text::column(
        "Created At",
        "date",
        0,
        "CreationTimestamp is a timestamp representing the server time when this object was created.",
    ),
];

impl Kind for Definitions {
    type Object = CustomResourceDefinition;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn default(&self, definition: &mut CustomResourceDefinition) {
        let names = &mut definition.spec.names;
        if names.singular.or_empty().is_empty() {
            names.singular = Some(names.kind.to_lowercase());
        }
        if names.list_kind.or_empty().is_empty() && !names.kind.is_empty() {
            names.list_kind = Some(format!("{}List", names.kind));
        }
        let conversion = definition
            .spec
            .conversion
            .get_or_insert_with(|| CustomResourceConversion { strategy: "None".into(), webhook: None });
        let client = conversion.webhook.as_mut().and_then(|webhook| webhook.client_config.as_mut());
        if let Some(service) = client.and_then(|client| client.service.as_mut()) {
            service.port.get_or_insert(443);
        }
    }

    fn prepare_create(&self, definition: &mut CustomResourceDefinition, _context: &Context<'_>) {
        definition.status = None;
        store_storage_version(definition);
    }

    fn prepare_update(
        &self,
        new: &mut CustomResourceDefinition,
        old: &CustomResourceDefinition,
        _context: &Context<'_>,
    ) {
        new.status.clone_from(&old.status);
        store_storage_version(new);
    }

    fn prepare_status_update(
        &self,
        new: &mut CustomResourceDefinition,
        old: &CustomResourceDefinition,
        _context: &Context<'_>,
    ) {
        new.spec = old.spec.clone();
        new.metadata.labels.clone_from(&old.metadata.labels);
        new.metadata.annotations.clone_from(&old.metadata.annotations);
        new.metadata.owner_references.clone_from(&old.metadata.owner_references);
    }

    fn validate(&self, definition: &CustomResourceDefinition, errors: &mut FieldErrors) {
        check::definition(definition, errors);
    }

    fn validate_create(&self, definition: &CustomResourceDefinition, errors: &mut FieldErrors) {
        check::stored_versions(definition, errors);
    }

    fn validate_update(
        &self,
        new: &CustomResourceDefinition,
        old: &CustomResourceDefinition,
        errors: &mut FieldErrors,
    ) {
        check::update(new, old, errors);
    }

    fn validate_status_update(
        &self,
        new: &CustomResourceDefinition,
        _old: &CustomResourceDefinition,
        errors: &mut FieldErrors,
    ) {
        check::status(new, errors);
    }

    fn mark_deleting(&self, definition: &mut CustomResourceDefinition) {
        // Its controller lets go of it when the last of its objects is gone.
        let finalizers = definition.metadata.finalizers.get_or_insert_default();
        if !finalizers.iter().any(|finalizer| finalizer == CLEANUP) {
            finalizers.push(CLEANUP.into());
        }
        definition.metadata.deletion_grace_period_seconds = None;
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, definition: &CustomResourceDefinition, _now: Timestamp) -> Vec<Value> {
        let created = definition.metadata.creation_timestamp.as_ref();
        let created = created
            .map_or_else(|| "<unknown>".into(), |time| time.0.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        vec![definition.metadata.name.or_empty().into(), created.into()]
    }
}

/// Notes the storage version among those in which objects may be stored.
fn store_storage_version(definition: &mut CustomResourceDefinition) {
    let Some(storage) = definition.spec.versions.iter().find(|version| version.storage) else { return };
    let status = definition.status.get_or_insert_with(CustomResourceDefinitionStatus::default);
    let stored = status.stored_versions.get_or_insert_default();
    if !stored.contains(&storage.name) {
        stored.push(storage.name.clone());
    }
}
