//! ResourceQuotas: how much of what a namespace may hold.

use k8s_openapi::{
    api::core::v1::{ResourceQuota, ResourceQuotaSpec, ResourceQuotaStatus},
    jiff::Timestamp,
};
use naru_model::{
    ResourceInfo,
    quantity::Quantity,
    validation::{FieldErrors, Path, meta},
};
use serde_json::{Value, json};
use std::collections::BTreeSet;

use super::{
    Column, Kind,
    kind::Context,
    podspec::{OrEmpty, canonical_quantities, check, resource_amount, resources::ResourceList},
    text,
};

pub struct ResourceQuotas;

static RESOURCE: ResourceInfo = ResourceInfo {
    subresources: &["status"],
    ..text::core_resource("ResourceQuota", "resourcequotas", "resourcequota", &["quota"])
};

/// Counts of objects, which are whole.
const OBJECTS: &[&str] = &[
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];
const COMPUTE: &[&str] = &["cpu", "limits.cpu", "limits.memory", "memory", "requests.cpu", "requests.memory"];
const STORAGE: &[&str] =
    &["ephemeral-storage", "limits.ephemeral-storage", "requests.ephemeral-storage", "requests.storage"];
const CLAIMS: &[&str] = &["persistentvolumeclaims", "requests.storage"];
/// Scopes and whether they stand for what they exclude as well.
const SCOPES: &[&str] = &[
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];

const COLUMNS: &[Column] = &[
    text::NAME,
    text::column(
        "Request",
        "string",
        0,
        "Request represents a minimum amount of cpu/memory that a container may consume.",
    ),
    text::column(
        "Limit",
        "string",
        0,
        "Limits control the maximum amount of cpu/memory that a container may use independent of contention on the node.",
    ),
    text::AGE,
];

impl Kind for ResourceQuotas {
    type Object = ResourceQuota;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn answers_deleted(&self) -> bool {
        true
    }

    fn has_generation(&self) -> bool {
        false
    }

    fn default(&self, quota: &mut ResourceQuota) {
        canonical_quantities(quota.spec.as_mut().and_then(|spec| spec.hard.as_mut()));
        if let Some(status) = &mut quota.status {
            canonical_quantities(status.hard.as_mut());
            canonical_quantities(status.used.as_mut());
        }
    }

    fn prepare_create(&self, quota: &mut ResourceQuota, _context: &Context<'_>) {
        quota.status = Some(ResourceQuotaStatus::default());
    }

    fn prepare_update(&self, new: &mut ResourceQuota, old: &ResourceQuota, _context: &Context<'_>) {
        new.status.clone_from(&old.status);
    }

    fn prepare_status_update(&self, new: &mut ResourceQuota, old: &ResourceQuota, _context: &Context<'_>) {
        new.spec.clone_from(&old.spec);
    }

    fn validate(&self, quota: &ResourceQuota, errors: &mut FieldErrors) {
        let Some(spec) = &quota.spec else { return };
        let path = Path::new("spec");
        amounts(spec.hard.as_ref(), &path.child("hard"), errors);
        scopes(spec, &path.child("scopes"), errors);
        if spec.scope_selector.is_some() {
            selector(spec, &path.child("scopeSelector").child("matchExpressions"), errors);
        }
    }

    fn validate_update(&self, new: &ResourceQuota, old: &ResourceQuota, errors: &mut FieldErrors) {
        let set = |quota: &ResourceQuota| -> BTreeSet<String> {
            quota
                .spec
                .as_ref()
                .map(|spec| spec.scopes.or_empty().iter().cloned().collect())
                .unwrap_or_default()
        };
        let (scopes, before) = (set(new), set(old));
        meta::immutable_field(&Path::new("spec").child("scopes"), &scopes, &before, errors);
    }

    fn validate_status_update(&self, new: &ResourceQuota, _old: &ResourceQuota, errors: &mut FieldErrors) {
        let Some(status) = &new.status else { return };
        amounts(status.hard.as_ref(), &Path::new("status").child("hard"), errors);
        amounts(status.used.as_ref(), &Path::new("status").child("used"), errors);
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, quota: &ResourceQuota, now: Timestamp) -> Vec<Value> {
        let empty = ResourceQuotaStatus::default();
        let status = quota.status.as_ref().unwrap_or(&empty);
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        for (name, hard) in status.hard.iter().flatten() {
            let used = status.used.as_ref().and_then(|used| used.get(name)).map_or("0", |used| &used.0);
            let cells = if name.starts_with("limits.") { &mut limits } else { &mut requests };
            cells.push(format!("{name}: {used}/{}", hard.0));
        }
        vec![
            text::name(&quota.metadata),
            requests.join(", ").into(),
            limits.join(", ").into(),
            text::age(&quota.metadata, now),
        ]
    }
}

fn is_known(name: &str) -> bool {
    [OBJECTS, COMPUTE, STORAGE].iter().any(|names| names.contains(&name))
        || name.starts_with("hugepages-")
        || name.starts_with("requests.hugepages-")
}

fn amounts(list: Option<&ResourceList>, path: &Path, errors: &mut FieldErrors) {
    for (name, quantity) in list.into_iter().flatten() {
        let path = path.key(name);
        let before = errors.0.len();
        check::qualified_name(name, &path, errors);
        let is_qualified = errors.0.len() == before;
        if !name.contains('/') && !is_known(name) {
            if is_qualified && name != "storage" {
                errors.invalid(&path, name.as_str(), "must be a standard resource type or fully qualified");
            }
            errors.invalid(&path, name.as_str(), "must be a standard resource for quota");
        }
        resource_amount(name, quantity, &path, errors);
        if OBJECTS.contains(&name.as_str())
            && Quantity::try_from(quantity).is_ok_and(|parsed| !parsed.is_whole())
        {
            errors.invalid(&path, quantity.0.as_str(), "must be an integer");
        }
    }
}

/// Whether what a quota of this resource counts can be told apart by the scope.
fn fits(scope: &str, resource: &str) -> bool {
    match scope {
        "VolumeAttributesClass" => CLAIMS.contains(&resource),
        "BestEffort" => resource == "pods",
        "Terminating"
        | "NotTerminating"
        | "NotBestEffort"
        | "PriorityClass"
        | "CrossNamespacePodAffinity" => resource == "pods" || COMPUTE.contains(&resource),
        _ => true,
    }
}

fn misfits(spec: &ResourceQuotaSpec, scope: &str) -> usize {
    let names = spec.hard.iter().flatten().map(|(name, _)| name);
    names.filter(|name| is_known(name) && !fits(scope, name)).count()
}

fn conflict<'a>(scopes: impl Iterator<Item = &'a str> + Clone) -> bool {
    let has = |scope: &str| scopes.clone().any(|other| other == scope);
    (has("BestEffort") && has("NotBestEffort")) || (has("Terminating") && has("NotTerminating"))
}

fn scopes(spec: &ResourceQuotaSpec, path: &Path, errors: &mut FieldErrors) {
    let scopes = spec.scopes.or_empty();
    for scope in scopes {
        if !SCOPES.contains(&scope.as_str()) {
            errors.invalid(path, scopes, "unsupported scope");
        }
        for _ in 0..misfits(spec, scope) {
            errors.invalid(path, scopes, "unsupported scope applied to resource");
        }
    }
    if conflict(scopes.iter().map(String::as_str)) {
        errors.invalid(path, scopes, "conflicting scopes");
    }
}

fn selector(spec: &ResourceQuotaSpec, path: &Path, errors: &mut FieldErrors) {
    let requirements = spec
        .scope_selector
        .as_ref()
        .map(|selector| selector.match_expressions.or_empty())
        .unwrap_or_default();
    for requirement in requirements {
        let (scope, operator) = (requirement.scope_name.as_str(), requirement.operator.as_str());
        if !SCOPES.contains(&scope) {
            errors.invalid(&path.child("scopeName"), scope, "unsupported scope");
        }
        for _ in 0..misfits(spec, scope) {
            errors.invalid(path, json!(spec.scope_selector), "unsupported scope applied to resource");
        }
        if !matches!(scope, "PriorityClass" | "VolumeAttributesClass")
            && SCOPES.contains(&scope)
            && operator != "Exists"
        {
            errors.invalid(
                &path.child("operator"),
                operator,
                "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, \
                 ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or \
                 ResourceQuotaScopeCrossNamespacePodAffinity",
            );
        }
        let values = requirement.values.or_empty();
        match operator {
            "In" | "NotIn" if values.is_empty() => {
                let detail =
                    "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                errors.required(&path.child("values"), detail);
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail =
                    "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                errors.invalid(&path.child("values"), values, detail);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => (),
            _ => errors.invalid(&path.child("operator"), operator, "not a valid selector operator"),
        }
    }
    if conflict(requirements.iter().map(|requirement| requirement.scope_name.as_str())) {
        errors.invalid(path, spec.scopes.or_empty(), "conflicting scopes");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::testing::{at, check, check_update, create, decode, now};

    fn quota(spec: &str) -> String {
        format!("{{metadata: {{name: q, namespace: d}}, spec: {{{spec}}}}}")
    }

    #[test]
    fn resources_and_scopes_are_checked() {
        let (object, errors) =
            create(&ResourceQuotas, &quota("hard: {pods: '4', requests.cpu: 1000m, count/jobs.batch: '2'}"));
        assert_eq!(errors, [] as [&str; 0]);
        assert_eq!(at(&object, "/spec/hard/requests.cpu"), "1");
        check(
            &ResourceQuotas,
            &quota("hard: {pods: 1500m, cups: '1'}"),
            &[
                "spec.hard[cups]: Invalid value: \"cups\": must be a standard resource type or fully qualified",
                "spec.hard[cups]: Invalid value: \"cups\": must be a standard resource for quota",
                "spec.hard[pods]: Invalid value: \"1500m\": must be an integer",
            ],
        );
        check(
            &ResourceQuotas,
            &quota("hard: {secrets: '1'}, scopes: [BestEffort, NotBestEffort, Some]"),
            &[
                "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\",\"Some\"]: unsupported scope applied to resource",
                "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\",\"Some\"]: unsupported scope applied to resource",
                "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\",\"Some\"]: unsupported scope",
                "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\",\"Some\"]: conflicting scopes",
            ],
        );
        check(
            &ResourceQuotas,
            &quota(
                "scopeSelector: {matchExpressions: [{scopeName: PriorityClass, operator: In}, {scopeName: BestEffort, operator: In, values: [x]}]}",
            ),
            &[
                "spec.scopeSelector.matchExpressions.values: Required value: must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
                "spec.scopeSelector.matchExpressions.operator: Invalid value: \"In\": must be 'Exist' when…",
            ],
        );
        check_update(
            &ResourceQuotas,
            &quota("scopes: [BestEffort]"),
            &quota("scopes: [Terminating]"),
            &["spec.scopes: Invalid value: [\"Terminating\"]: field is immutable"],
        );
    }

    #[test]
    fn the_row_tells_what_is_used() {
        let object = decode::<ResourceQuotas>(
            "{metadata: {name: q}, status: {hard: {pods: '4', limits.cpu: '2', requests.cpu: '1'}, used: {pods: '3', limits.cpu: 500m}}}",
        );
        let row = ResourceQuotas.row(&object, now());
        assert_eq!(json!(row[1..3]), json!(["pods: 3/4, requests.cpu: 0/1", "limits.cpu: 500m/2"]));
    }
}
