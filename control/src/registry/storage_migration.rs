//! StorageVersionMigrations: what of a resource is stored in an old version is to be written anew.
//!
//! Custom resources alone are stored in the version that they were written in; what migrates them writes each of them
//! once, and says here how far it is.

use k8s_openapi::{
    api::storagemigration::v1::{StorageVersionMigration, StorageVersionMigrationStatus},
    apimachinery::pkg::apis::meta::v1::Condition,
};
use naru_model::{
    ResourceInfo,
    validation::{FieldErrors, Path, names},
};
use serde_json::json;

use super::{Kind, conditions, kind::Context, text};

pub struct StorageVersionMigrations;

static RESOURCE: ResourceInfo = ResourceInfo {
    group: "storagemigration.k8s.io",
    namespaced: false,
    subresources: &["status"],
    ..text::core_resource(
        "StorageVersionMigration",
        "storageversionmigrations",
        "storageversionmigration",
        &[],
    )
};

impl Kind for StorageVersionMigrations {
    type Object = StorageVersionMigration;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn prepare_create(&self, migration: &mut StorageVersionMigration, _context: &Context<'_>) {
        migration.status = None;
    }

    fn prepare_update(
        &self,
        new: &mut StorageVersionMigration,
        old: &StorageVersionMigration,
        _context: &Context<'_>,
    ) {
        new.status.clone_from(&old.status);
    }

    fn prepare_status_update(
        &self,
        new: &mut StorageVersionMigration,
        old: &StorageVersionMigration,
        _context: &Context<'_>,
    ) {
        new.spec.clone_from(&old.spec);
    }

    fn validate(&self, migration: &StorageVersionMigration, errors: &mut FieldErrors) {
        let path = Path::new("spec").child("resource");
        let named = migration.spec.as_ref().map(|spec| &spec.resource);
        let (group, resource) =
            named.map_or(("", ""), |named| (named.group.as_str(), named.resource.as_str()));
        if resource.is_empty() {
            errors.required(&path.child("resource"), "resource is required to be set");
        } else {
            errors.problems(&path.child("resource"), resource, names::dns1035_label(resource));
        }
        if !group.is_empty() {
            errors.problems(&path.child("group"), group, names::dns1123_subdomain(group));
        }
    }

    fn validate_update(
        &self,
        new: &StorageVersionMigration,
        old: &StorageVersionMigration,
        errors: &mut FieldErrors,
    ) {
        if new.spec != old.spec {
            errors.invalid(&Path::new("spec"), json!(new.spec), "field is immutable");
        }
    }

    fn validate_status_update(
        &self,
        new: &StorageVersionMigration,
        old: &StorageVersionMigration,
        errors: &mut FieldErrors,
    ) {
        let path = Path::new("status");
        let version = |of: &StorageVersionMigration| {
            of.status.as_ref().and_then(|status| status.resource_version.clone()).unwrap_or_default()
        };
        let (before, after) = (version(old), version(new));
        if !after.is_empty() && after.parse::<u64>().is_err() {
            let detail = "resource version is not well formed: it must be a non-negative integer";
            errors.invalid(&path.child("resourceVersion"), after.as_str(), detail);
        }
        if !before.is_empty() && before != after {
            errors.invalid(&path.child("resourceVersion"), after, "field is immutable");
        }
        let (before, after) = (states(old.status.as_ref()), states(new.status.as_ref()));
        let path = path.child("conditions");
        conditions::validate(after, &path, errors);
        for why in contradictions(before, after) {
            errors.invalid(&path, json!(after), why);
        }
    }
}

fn states(status: Option<&StorageVersionMigrationStatus>) -> &[Condition] {
    status.and_then(|status| status.conditions.as_deref()).unwrap_or_default()
}

/// A migration runs, or succeeded, or failed; the last two for ever.
fn contradictions(before: &[Condition], after: &[Condition]) -> Vec<&'static str> {
    let is = |kind| conditions::is_true(after, kind);
    let was = |kind| conditions::is_true(before, kind);
    let (succeeded, failed, running) = (is("Succeeded"), is("Failed"), is("Running"));
    [
        (succeeded && failed, "Both success and failed conditions cannot be true at the same time"),
        (succeeded && running, "Running condition cannot be true when success condition is true"),
        (failed && running, "Running condition cannot be true when failed condition is true"),
        (was("Succeeded") && !succeeded, "Success condition cannot be set to false once it is true"),
        (was("Failed") && !failed, "Failed condition cannot be set to false once it is true"),
    ]
    .into_iter()
    .filter_map(|(is_so, why)| is_so.then_some(why))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{assert_errors, check, check_update, create, decode, update_status},
        *,
    };

    const OURS: &str = "{metadata: {name: a}, spec: {resource: {group: example.com, resource: cups}}}";

    #[test]
    fn a_migration_is_of_one_resource_for_ever() {
        let kind = StorageVersionMigrations;
        check(&kind, OURS, &[]);
        check(&kind, "{metadata: {name: a}}", &["spec.resource.resource: Required value: …"]);
        check(
            &kind,
            "{metadata: {name: a}, spec: {resource: {group: A, resource: a.b}}}",
            &[
                "spec.resource.resource: Invalid value: \"a.b\"…",
                "spec.resource.group: Invalid value: \"A\"…",
            ],
        );
        check_update(
            &kind,
            OURS,
            &OURS.replace("cups", "bowls"),
            &[
                "spec: Invalid value: {\"resource\":{\"group\":\"example.com\",\"resource\":\"bowls\"}}: field is immutable",
            ],
        );
    }

    #[test]
    fn what_succeeded_stays_so() {
        let kind = StorageVersionMigrations;
        let with = |status: &str| {
            decode::<StorageVersionMigrations>(&OURS.replace("spec:", &format!("status: {status}, spec:")))
        };
        let condition = |kind: &str| {
            format!(
                "{{type: {kind}, status: 'True', reason: R, message: '', lastTransitionTime: '2026-01-01T00:00:00Z'}}"
            )
        };
        let old = create(&kind, OURS).0;
        let done = format!("{{resourceVersion: '7', conditions: [{}]}}", condition("Succeeded"));
        let (done, errors) = update_status(&kind, &old, with(&done));
        assert_errors(&errors, &[], "done");
        let both = format!("{{resourceVersion: x, conditions: [{}]}}", condition("Running"));
        let expected = [
            "status.resourceVersion: Invalid value: \"x\": resource version is not well formed…",
            "status.resourceVersion: Invalid value: \"x\": field is immutable",
            "status.conditions: Invalid value: …",
        ];
        assert_errors(&update_status(&kind, &done, with(&both)).1, &expected, &both);
    }
}
