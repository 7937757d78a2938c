//! MutatingAdmissionPolicies: expressions that change what is written.

use k8s_openapi::{
    api::admissionregistration::v1::{MutatingAdmissionPolicy, MutatingAdmissionPolicySpec, Mutation},
    jiff::Timestamp,
};
use naru_model::{
    ResourceInfo,
    validation::{FieldErrors, Path},
};
use serde_json::Value;

use super::{
    REINVOCATION_POLICIES, matching,
    policy::{self, Common},
    required_choice, suffix_warning, validate_expression,
};
use crate::{
    admission::expressions::{Environment, json_patch_type, object_type},
    registry::{Column, Kind, podspec::OrEmpty, text},
};

pub struct MutatingPolicies;

const APPLY: &str = "ApplyConfiguration";
const JSON: &str = "JSONPatch";

static RESOURCE: ResourceInfo = ResourceInfo {
    group: "admissionregistration.k8s.io",
    namespaced: false,
    categories: &["api-extensions"],
    ..text::core_resource(
        "MutatingAdmissionPolicy",
        "mutatingadmissionpolicies",
        "mutatingadmissionpolicy",
        &[],
    )
};

const COLUMNS: &[Column] = &policy::columns(text::column(
    "Mutations",
    "integer",
    0,
    "Mutation indicates the number of mutations rules defined in this configuration",
));

impl Kind for MutatingPolicies {
    type Object = MutatingAdmissionPolicy;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn default(&self, policy: &mut MutatingAdmissionPolicy) {
        let spec = policy.spec.get_or_insert_default();
        policy::default(&mut spec.failure_policy, spec.match_constraints.as_mut());
    }

    fn requires_resource_version(&self) -> bool {
        true
    }

    fn validate(&self, policy: &MutatingAdmissionPolicy, errors: &mut FieldErrors) {
        let empty = MutatingAdmissionPolicySpec::default();
        validate_spec(policy.spec.as_ref().unwrap_or(&empty), &Path::new("spec"), errors);
    }

    fn warnings(&self, policy: &MutatingAdmissionPolicy) -> Vec<String> {
        suffix_warning(policy.metadata.name.or_empty()).into_iter().collect()
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, policy: &MutatingAdmissionPolicy, now: Timestamp) -> Vec<Value> {
        let spec = policy.spec.as_ref();
        let count = spec.map_or(0, |spec| spec.mutations.or_empty().len());
        policy::row(&policy.metadata, count, spec.and_then(|spec| spec.param_kind.as_ref()), now)
    }
}

fn validate_spec(spec: &MutatingAdmissionPolicySpec, path: &Path, errors: &mut FieldErrors) {
    let environment = Environment { makes_patches: true, ..Common::from(spec).validate(path, errors) };
    if let Some(constraints) = &spec.match_constraints {
        matching::validate_mutable(constraints, &path.child("matchConstraints"), errors);
    }
    let mutations = spec.mutations.or_empty();
    if mutations.is_empty() {
        errors.required(&path.child("mutations"), "mutations must contain at least one item");
    }
    for (index, mutation) in mutations.iter().enumerate() {
        validate_mutation(mutation, &environment, &path.child("mutations").index(index), errors);
    }
    let policy = spec.reinvocation_policy.as_deref().filter(|policy| !policy.is_empty());
    required_choice(policy, REINVOCATION_POLICIES, &path.child("reinvocationPolicy"), errors);
}

/// The expression of the patch type that is named, and of no other.
fn validate_mutation(mutation: &Mutation, environment: &Environment, path: &Path, errors: &mut FieldErrors) {
    let kind = mutation.patch_type.as_str();
    let apply = mutation.apply_configuration.as_ref().map(|of| of.expression.or_empty());
    let json = mutation.json_patch.as_ref().map(|of| of.expression.or_empty());
    let fields = [(APPLY, "applyConfiguration", apply), (JSON, "jsonPatch", json)];
    match kind {
        "" => return errors.required(&path.child("patchType"), ""),
        APPLY | JSON => (),
        other => return errors.not_supported(&path.child("patchType"), other, &[APPLY, JSON]),
    }
    for (of, field, expression) in fields {
        let at = path.child(field);
        match expression {
            Some(text) if of == kind => {
                let wanted = if of == APPLY { object_type() } else { json_patch_type() };
                validate_expression(text, (environment, &[wanted]), &at.child("expression"), "", errors);
            }
            None if of == kind => {
                errors.required(&at, &format!("must be specified when patchType is {kind}"));
            }
            Some(_) => {
                let detail = format!("must not be specified when patchType is {kind}");
                errors.invalid(&at, format!("{{{field}}}"), &detail);
            }
            None => (),
        }
    }
}
