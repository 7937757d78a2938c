//! Policies that refuse, warn, or leave a note.

use std::collections::BTreeMap;

use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicySpec, Validation};
use serde::Serialize;

use super::{
    Scene,
    hook::{Binding, Hook, Invocation, invocations},
    refusal,
};
use crate::{
    ApiError,
    admission::{
        expressions::{Environment, Expression, Failure, Input, POLICY_STEPS},
        webhooks::{Content, facts},
    },
    audit::Level,
    cel::{Budget, Type, Value},
    registry::Call,
};

/// What an evaluated message may be long.
const MAX_MESSAGE_BYTES: usize = 5 << 10;
const MAX_ANNOTATION_BYTES: usize = 10 << 10;
/// The annotation of a request that a binding with the action `Audit` would not have let pass.
const FAILURE_ANNOTATION: &str = "validation.policy.admission.k8s.io/validation_failure";

/// What a validating policy evaluates.
#[derive(Debug)]
pub(in crate::admission) struct Rules {
    validations: Vec<Rule>,
    annotations: Vec<(String, Expression)>,
}

#[derive(Debug)]
struct Rule {
    expression: Expression,
    message_expression: Option<Expression>,
    message: String,
    reason: Option<String>,
}

/// Why a request is not let pass.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Objection {
    message: String,
    /// `Invalid` where the policy names none.
    reason: Option<String>,
    /// The expression that is broken, by its place in the policy.
    index: usize,
}

impl Rules {
    pub fn compile(spec: &ValidatingAdmissionPolicySpec, environment: &Environment) -> Self {
        let silent = environment.without_authorizer();
        let rule = |validation: &Validation| {
            let message = validation.message_expression.as_deref().filter(|text| !text.trim().is_empty());
            Rule {
                expression: environment.compile(&validation.expression, &[Type::Bool]),
                message_expression: message.map(|text| silent.compile(text, &[Type::String])),
                message: validation.message.as_deref().unwrap_or_default().trim().into(),
                reason: validation.reason.clone(),
            }
        };
        let annotations = spec.audit_annotations.iter().flatten().map(|annotation| {
            let expression = environment.compile(&annotation.value_expression, &[Type::String, Type::Null]);
            (annotation.key.clone(), expression)
        });
        Self {
            validations: spec.validations.iter().flatten().map(rule).collect(),
            annotations: annotations.collect(),
        }
    }

    /// What the expressions object to; a failure objects, too.
    fn objections(&self, input: &Input, is_optional: bool) -> Vec<Objection> {
        let mut budget = Budget::new(POLICY_STEPS);
        let mut objections = Vec::new();
        for (index, rule) in self.validations.iter().enumerate() {
            let failed = |failure: &Failure| Objection { message: failure.to_string(), reason: None, index };
            match rule.expression.evaluate(input, &mut budget) {
                Ok(Value::Bool(true)) => (),
                Ok(_) => match rule.message(input, &mut budget) {
                    Ok(message) => objections.push(Objection { message, reason: rule.reason.clone(), index }),
                    Err(_) if is_optional => (),
                    Err(failure) => {
                        let message = format!("failed messageExpression: {failure}");
                        objections.push(Objection { message, reason: None, index });
                    }
                },
                Err(failure @ Failure::OutOfBudget) => {
                    return if is_optional { Vec::new() } else { vec![failed(&failure)] };
                }
                Err(_) if is_optional => (),
                Err(failure) => objections.push(failed(&failure)),
            }
        }
        objections
    }

    /// Notes about the request, and what could not be noted.
    fn annotations(&self, input: &Input) -> Vec<(&str, Result<String, String>)> {
        let mut budget = Budget::new(POLICY_STEPS);
        let mut found = Vec::new();
        for (key, expression) in &self.annotations {
            match expression.evaluate(input, &mut budget) {
                Ok(Value::String(text)) if !text.trim().is_empty() => {
                    let mut text = text.trim().to_owned();
                    text.truncate(text.floor_char_boundary(MAX_ANNOTATION_BYTES));
                    found.push((&**key, Ok(text)));
                }
                Ok(_) => (),
                Err(failure) => found.push((&**key, Err(failure.to_string()))),
            }
        }
        found
    }
}

impl Rule {
    /// What to tell the client whose request breaks the rule.
    fn message(&self, input: &Input, budget: &mut Budget) -> Result<String, Failure> {
        let evaluated = match &self.message_expression {
            None => None,
            Some(expression) => match expression.evaluate(input, budget) {
                Ok(Value::String(text)) => Some(text.trim().to_owned()),
                Err(failure @ Failure::OutOfBudget) => return Err(failure),
                Ok(_) | Err(Failure::Failed(_)) => None,
            },
        };
        let fits =
            |text: &String| !text.is_empty() && text.len() <= MAX_MESSAGE_BYTES && !text.contains('\n');
        Ok(evaluated.filter(fits).unwrap_or_else(|| {
            if self.message.is_empty() {
                format!("failed expression: {}", self.expression.source().trim())
            } else {
                self.message.clone()
            }
        }))
    }
}

/// Asks every policy about a request that leads to `content`.
///
/// # Errors
/// The refusal of the first policy that objects and whose binding denies.
pub(in crate::admission) fn validate(
    hooks: &[Hook<Rules>],
    scene: &Scene<'_>,
    content: Content<'_>,
) -> Result<(), ApiError> {
    let asked = scene.asked;
    let (invocations, broken) = invocations(hooks, scene, content)?;
    let mut denials: Vec<(String, Option<String>)> = Vec::new();
    let mut noted = Noted::default();
    for invocation in &invocations {
        let Invocation { policy, binding, param, served } = invocation;
        let input = Input::new(&facts(asked, served, content, false)?, asked.call.user, asked.authorizer);
        let input = policy.input(input, param.as_ref());
        let denial = |message: &str| {
            let (policy, binding) = (&policy.name, &binding.name);
            format!("ValidatingAdmissionPolicy '{policy}' with binding '{binding}' denied request: {message}")
        };
        let rules = &policy.rules;
        let (objections, annotations) = match policy.conditions.hold(&input) {
            Ok(true) => (rules.objections(&input, policy.is_optional), rules.annotations(&input)),
            Ok(false) => continue,
            Err(_) if policy.is_optional => continue,
            Err(message) => (vec![Objection { message, reason: None, index: 0 }], Vec::new()),
        };
        for objection in objections {
            if binding.has_action("Deny") {
                denials.push((denial(&objection.message), objection.reason.clone()));
            }
            if binding.has_action("Warn") {
                asked.call.warn([format!(
                    "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {}",
                    policy.name, binding.name, objection.message
                )]);
            }
            if binding.has_action("Audit") {
                asked.call.annotate(Level::Metadata, || {
                    (FAILURE_ANNOTATION.to_owned(), failure(&objection, &policy.name, binding))
                });
            }
        }
        for (key, value) in annotations {
            match value {
                Ok(value) => noted.add(&policy.name, key, value),
                Err(_) if policy.is_optional => (),
                Err(problem) => denials.push((denial(&problem), None)),
            }
        }
    }
    noted.publish(asked.call);
    let broken = broken.into_iter().map(|of| {
        let with = of.binding.map(|binding| format!(" with binding '{binding}'")).unwrap_or_default();
        (format!("ValidatingAdmissionPolicy '{}'{with} denied request: {}", of.policy, of.problem), None)
    });
    denials.extend(broken);
    let Some((message, reason)) = denials.into_iter().next() else { return Ok(()) };
    let name = content.name().unwrap_or(&asked.name);
    let mut status = refusal(asked, name, &[message], true);
    let reason = reason.filter(|reason| !reason.is_empty()).unwrap_or_else(|| "Invalid".into());
    status.code = Some(match reason.as_str() {
        "Unauthorized" => 401,
        "Forbidden" => 403,
        "RequestEntityTooLarge" => 413,
        _ => 422,
    });
    status.reason = Some(reason);
    Err(ApiError::Denied(Box::new(status)))
}

/// The annotations of policies, by policy and key: what several bindings and parameters say goes together.
#[derive(Default)]
struct Noted<'a>(BTreeMap<(&'a str, &'a str), Vec<String>>);

impl<'a> Noted<'a> {
    fn add(&mut self, policy: &'a str, key: &'a str, value: String) {
        let values = self.0.entry((policy, key)).or_default();
        if !values.contains(&value) {
            values.push(value);
        }
    }

    fn publish(self, call: &Call<'_>) {
        for ((policy, key), values) in self.0 {
            call.annotate(Level::Metadata, || (format!("{policy}/{key}"), values.join(", ")));
        }
    }
}

/// What the audit log is told of an objection, as Kubernetes has it: a list of one.
fn failure(objection: &Objection, policy: &str, binding: &Binding) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Failed<'a> {
        message: &'a str,
        policy: &'a str,
        binding: &'a str,
        expression_index: usize,
        validation_actions: &'a [String],
    }
    let (message, expression_index) = (&*objection.message, objection.index);
    let (binding, validation_actions) = (&*binding.name, &*binding.actions);
    let failed = Failed { message, policy, binding, expression_index, validation_actions };
    serde_json::to_string(&[failed]).unwrap_or_default()
}
