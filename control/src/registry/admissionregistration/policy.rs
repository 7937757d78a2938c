//! What both kinds of policy have in common.

use k8s_openapi::{
    api::admissionregistration::v1::{
        MatchCondition, MatchResources, MutatingAdmissionPolicySpec, ParamKind,
        ValidatingAdmissionPolicySpec, Variable,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
    jiff::Timestamp,
};
use naru_model::validation::{FieldErrors, Path};
use serde_json::Value;

use super::{FAILURE_POLICIES, bindings::param_kind, matching, required_choice};
use crate::{
    admission::expressions::Environment,
    registry::{
        Column,
        kind::age,
        podspec::OrEmpty,
        text::{self, column},
    },
};

/// The fields that both kinds have.
#[derive(Debug, Clone, Copy)]
pub struct Common<'a> {
    pub constraints: Option<&'a MatchResources>,
    pub param_kind: Option<&'a ParamKind>,
    pub failure_policy: Option<&'a str>,
    pub conditions: &'a [MatchCondition],
    pub variables: &'a [Variable],
}

/// Both types have the same fields and no trait in common.
macro_rules! common {
    ($spec:expr) => {
        Self {
            constraints: $spec.match_constraints.as_ref(),
            param_kind: $spec.param_kind.as_ref(),
            failure_policy: $spec.failure_policy.as_deref(),
            conditions: $spec.match_conditions.or_empty(),
            variables: $spec.variables.or_empty(),
        }
    };
}

impl<'a> From<&'a ValidatingAdmissionPolicySpec> for Common<'a> {
    fn from(spec: &'a ValidatingAdmissionPolicySpec) -> Self {
        common!(spec)
    }
}

impl<'a> From<&'a MutatingAdmissionPolicySpec> for Common<'a> {
    fn from(spec: &'a MutatingAdmissionPolicySpec) -> Self {
        common!(spec)
    }
}

impl Common<'_> {
    /// Reports what is wrong with them; answers what the policy's expressions may speak of.
    pub(super) fn validate(&self, path: &Path, errors: &mut FieldErrors) -> Environment {
        required_choice(self.failure_policy, FAILURE_POLICIES, &path.child("failurePolicy"), errors);
        if let Some(kind) = self.param_kind {
            matching::validate_param_kind(kind, &path.child("paramKind"), errors);
        }
        let at = path.child("matchConstraints");
        match self.constraints {
            None => errors.required(&at, ""),
            Some(constraints) => {
                matching::validate_resources(constraints, &at, errors);
                if constraints.resource_rules.or_empty().is_empty() {
                    errors.required(&at.child("resourceRules"), "");
                }
            }
        }
        let has_params = self.param_kind.is_some();
        let at = path.child("matchConditions");
        matching::validate_conditions(self.conditions, has_params, &at, errors);
        let mut environment = Environment::of_policy(has_params);
        matching::validate_variables(self.variables, &mut environment, &path.child("variables"), errors);
        environment
    }
}

/// Fills in what the client left out.
pub(super) fn default(failure_policy: &mut Option<String>, constraints: Option<&mut MatchResources>) {
    matching::default_policy(failure_policy, "Fail");
    constraints.into_iter().for_each(matching::default_resources);
}

/// The columns of a policy, of which the second counts its expressions.
pub(super) const fn columns(count: Column) -> [Column; 4] {
    const KIND: Column = column(
        "ParamKind",
        "string",
        0,
        "ParamKind specifies the kind of resources used to parameterize this policy",
    );
    [text::NAME, count, KIND, text::AGE]
}

pub(super) fn row(meta: &ObjectMeta, count: usize, kind: Option<&ParamKind>, now: Timestamp) -> Vec<Value> {
    vec![
        meta.name.or_empty().into(),
        count.into(),
        param_kind(kind).into(),
        age(meta.creation_timestamp.as_ref(), now).into(),
    ]
}
