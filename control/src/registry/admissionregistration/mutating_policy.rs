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
    FAILURE_POLICIES, REINVOCATION_POLICIES, bindings::param_kind, matching, required_choice,
    required_expression, suffix_warning,
};
use crate::registry::{Column, Kind, kind::age, podspec::OrEmpty, text};

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

const COLUMNS: &[Column] = &[
    text::NAME,
    text::column(
        "Mutations",
        "integer",
        0,
        "Mutation indicates the number of mutations rules defined in this configuration",
    ),
    text::column(
        "ParamKind",
        "string",
        0,
        "ParamKind specifies the kind of resources used to parameterize this policy",
    ),
    text::AGE,
];

impl Kind for MutatingPolicies {
    type Object = MutatingAdmissionPolicy;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn default(&self, policy: &mut MutatingAdmissionPolicy) {
        let spec = policy.spec.get_or_insert_default();
        matching::default_policy(&mut spec.failure_policy, "Fail");
        spec.match_constraints.iter_mut().for_each(matching::default_resources);
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
        vec![
            policy.metadata.name.or_empty().into(),
            spec.map_or(0, |spec| spec.mutations.or_empty().len()).into(),
            param_kind(spec.and_then(|spec| spec.param_kind.as_ref())).into(),
            age(policy.metadata.creation_timestamp.as_ref(), now).into(),
        ]
    }
}

fn validate_spec(spec: &MutatingAdmissionPolicySpec, path: &Path, errors: &mut FieldErrors) {
    let failure_policy = spec.failure_policy.as_deref();
    required_choice(failure_policy, FAILURE_POLICIES, &path.child("failurePolicy"), errors);
    if let Some(kind) = &spec.param_kind {
        matching::validate_param_kind(kind, &path.child("paramKind"), errors);
    }
    let at = path.child("matchConstraints");
    match &spec.match_constraints {
        None => errors.required(&at, ""),
        Some(constraints) => {
            matching::validate_resources(constraints, &at, errors);
            if constraints.resource_rules.or_empty().is_empty() {
                errors.required(&at.child("resourceRules"), "");
            }
            matching::validate_mutable(constraints, &at, errors);
        }
    }
    matching::validate_conditions(spec.match_conditions.or_empty(), &path.child("matchConditions"), errors);
    matching::validate_variables(spec.variables.or_empty(), &path.child("variables"), errors);
    let mutations = spec.mutations.or_empty();
    if mutations.is_empty() {
        errors.required(&path.child("mutations"), "mutations must contain at least one item");
    }
    for (index, mutation) in mutations.iter().enumerate() {
        validate_mutation(mutation, &path.child("mutations").index(index), errors);
    }
    let policy = spec.reinvocation_policy.as_deref().filter(|policy| !policy.is_empty());
    required_choice(policy, REINVOCATION_POLICIES, &path.child("reinvocationPolicy"), errors);
}

/// The expression of the patch type that is named, and of no other.
fn validate_mutation(mutation: &Mutation, path: &Path, errors: &mut FieldErrors) {
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
            Some(text) if of == kind => required_expression(text, &at.child("expression"), "", errors),
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
