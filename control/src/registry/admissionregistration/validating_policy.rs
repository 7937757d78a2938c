//! ValidatingAdmissionPolicies: expressions that refuse what is written.

use k8s_openapi::{
    api::admissionregistration::v1::{
        AuditAnnotation, ValidatingAdmissionPolicy, ValidatingAdmissionPolicySpec,
        ValidatingAdmissionPolicyStatus, Validation,
    },
    jiff::Timestamp,
};
use naru_model::{
    ResourceInfo,
    validation::{FieldErrors, Path, conditions},
};
use serde_json::{Value, json};
use std::collections::BTreeSet;

use super::{
    policy::{self, Common},
    suffix_warning, validate_expression,
};
use crate::{
    admission::expressions::Environment,
    cel::Type,
    registry::{
        Column, Kind,
        kind::Context,
        podspec::{OrEmpty, check},
        text,
    },
};

pub struct ValidatingPolicies;

const MAX_ANNOTATIONS: usize = 20;
const MAX_VALUE_EXPRESSION: usize = 5 * 1024;
const REASONS: &[&str] = &["Forbidden", "Invalid", "RequestEntityTooLarge"];

static RESOURCE: ResourceInfo = ResourceInfo {
    group: "admissionregistration.k8s.io",
    namespaced: false,
    categories: &["api-extensions"],
    subresources: &["status"],
    ..text::core_resource(
        "ValidatingAdmissionPolicy",
        "validatingadmissionpolicies",
        "validatingadmissionpolicy",
        &[],
    )
};

const COLUMNS: &[Column] = &policy::columns(text::column(
    "Validations",
    "integer",
    0,
    "Validations indicates the number of validation rules defined in this configuration",
));

impl Kind for ValidatingPolicies {
    type Object = ValidatingAdmissionPolicy;

    fn resource(&self) -> &'static ResourceInfo {
        &RESOURCE
    }

    fn default(&self, policy: &mut ValidatingAdmissionPolicy) {
        let spec = policy.spec.get_or_insert_default();
        policy::default(&mut spec.failure_policy, spec.match_constraints.as_mut());
    }

    fn prepare_create(&self, policy: &mut ValidatingAdmissionPolicy, _context: &Context<'_>) {
        policy.status = Some(ValidatingAdmissionPolicyStatus::default());
    }

    fn prepare_update(
        &self,
        new: &mut ValidatingAdmissionPolicy,
        old: &ValidatingAdmissionPolicy,
        _context: &Context<'_>,
    ) {
        new.status.clone_from(&old.status);
    }

    fn prepare_status_update(
        &self,
        new: &mut ValidatingAdmissionPolicy,
        old: &ValidatingAdmissionPolicy,
        _context: &Context<'_>,
    ) {
        new.spec.clone_from(&old.spec);
    }

    fn requires_resource_version(&self) -> bool {
        true
    }

    fn validate(&self, policy: &ValidatingAdmissionPolicy, errors: &mut FieldErrors) {
        let empty = ValidatingAdmissionPolicySpec::default();
        let spec = policy.spec.as_ref().unwrap_or(&empty);
        validate_spec(spec, policy.metadata.name.or_empty(), &Path::new("spec"), errors);
    }

    fn validate_status_update(
        &self,
        new: &ValidatingAdmissionPolicy,
        _old: &ValidatingAdmissionPolicy,
        errors: &mut FieldErrors,
    ) {
        let Some(status) = &new.status else { return };
        let path = Path::new("status");
        let warnings =
            status.type_checking.as_ref().map(|of| of.expression_warnings.or_empty()).unwrap_or_default();
        for (index, warning) in warnings.iter().enumerate() {
            let path = path.child("typeChecking").child("expressionWarnings").index(index);
            check::required_text(&warning.warning, &path.child("warning"), errors);
            check::required_text(warning.field_ref.trim(), &path.child("fieldRef"), errors);
        }
        conditions::conditions(&path.child("conditions"), status.conditions.or_empty(), errors);
    }

    fn warnings(&self, policy: &ValidatingAdmissionPolicy) -> Vec<String> {
        suffix_warning(policy.metadata.name.or_empty()).into_iter().collect()
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, policy: &ValidatingAdmissionPolicy, now: Timestamp) -> Vec<Value> {
        let spec = policy.spec.as_ref();
        let count = spec.map_or(0, |spec| spec.validations.or_empty().len());
        policy::row(&policy.metadata, count, spec.and_then(|spec| spec.param_kind.as_ref()), now)
    }
}

fn validate_spec(spec: &ValidatingAdmissionPolicySpec, name: &str, path: &Path, errors: &mut FieldErrors) {
    let environment = Common::from(spec).validate(path, errors);
    let (validations, annotations) = (spec.validations.or_empty(), spec.audit_annotations.or_empty());
    if validations.is_empty() && annotations.is_empty() {
        let detail = "validations or auditAnnotations must contain at least one item";
        errors.required(&path.child("validations"), detail);
        errors.required(&path.child("auditAnnotations"), detail);
    }
    for (index, validation) in validations.iter().enumerate() {
        validate_validation(validation, &environment, &path.child("validations").index(index), errors);
    }
    validate_annotations(annotations, (name, &environment), &path.child("auditAnnotations"), errors);
}

fn validate_validation(
    validation: &Validation,
    environment: &Environment,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let at = path.child("expression");
    let (text, wanted) = (&validation.expression, [Type::Bool]);
    validate_expression(text, (environment, &wanted), &at, "expression is not specified", errors);
    let is_blank = |text: &str| !text.is_empty() && text.trim().is_empty();
    let (text, at) = (validation.message_expression.or_empty(), path.child("messageExpression"));
    if is_blank(text) {
        errors.invalid(&at, text, "must be non-empty if specified");
    } else if !text.is_empty() {
        validate_expression(text, (&environment.without_authorizer(), &[Type::String]), &at, "", errors);
    }
    let (message, at) = (validation.message.or_empty(), path.child("message"));
    if is_blank(message) {
        errors.invalid(&at, message, "message must be non-empty if specified");
    } else if message.trim().contains(['\n', '\r']) {
        errors.invalid(&at, message, "message must not contain line breaks");
    }
    if let Some(reason) = &validation.reason {
        check::one_of(reason, REASONS, &path.child("reason"), errors);
    }
}

fn validate_annotations(
    annotations: &[AuditAnnotation],
    (name, environment): (&str, &Environment),
    path: &Path,
    errors: &mut FieldErrors,
) {
    if annotations.len() > MAX_ANNOTATIONS {
        let detail = format!("must not have more than {MAX_ANNOTATIONS} auditAnnotations");
        errors.invalid(path, json!(annotations), &detail);
    }
    let mut seen = BTreeSet::new();
    for (index, annotation) in annotations.iter().enumerate() {
        let path = path.index(index);
        let (key, at) = (annotation.key.as_str(), path.child("key"));
        if name.is_empty() {
            errors.invalid(&at, key, "requires metadata.name be non-empty");
        } else {
            check::qualified_name(&format!("{name}/{key}"), &at, errors);
        }
        let (text, at) = (annotation.value_expression.trim(), path.child("valueExpression"));
        let wanted = [Type::String, Type::Null];
        validate_expression(text, (environment, &wanted), &at, "valueExpression is not specified", errors);
        if text.len() > MAX_VALUE_EXPRESSION {
            errors.required(&at, &format!("must not exceed {MAX_VALUE_EXPRESSION} bytes in length"));
        }
        if !seen.insert(key) {
            errors.duplicate(&path.child("key"), key);
        }
    }
}
