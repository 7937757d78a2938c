//! Whether the rules of `x-kubernetes-validations` can work, and what they may cost: looked at when a definition is
//! written.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::ValidationRule;
use naru_model::validation::{FieldErrors, Path};
use serde_json::json;

use super::{
    costs::{Bounds, Costs},
    jsonpath::JsonPath,
    rules::{REASONS, type_of, variables},
    schema::{Additional, ListKind, Schema},
};
use crate::{
    cel::{Program, Type},
    registry::podspec::OrEmpty as _,
};

/// A schema with rules, and where it is.
struct Node<'a> {
    schema: &'a Schema,
    type_of: Type,
    bounds: Bounds,
    /// The list in which older items cannot be found, if the schema is in one.
    uncorrelated: Option<&'a Path>,
}

/// What was found so far.
struct Survey<'a> {
    errors: &'a mut FieldErrors,
    costs: Costs,
}

/// Where a schema stands in another.
#[derive(Clone, Copy)]
struct Place<'a> {
    is_resource: bool,
    uncorrelated: Option<&'a Path>,
    /// How many such values one object may hold; `None` where nothing limits it.
    count: Option<u64>,
}

/// Reports the rules of a schema that cannot work, or cost too much.
pub fn check(schema: &Schema, path: &Path, errors: &mut FieldErrors) {
    let mut survey = Survey { errors, costs: Costs::default() };
    let place = Place { is_resource: true, uncorrelated: None, count: Some(1) };
    node(schema, place, path, &mut survey);
    let Survey { errors, costs } = survey;
    costs.check_total(path, errors);
}

fn node(schema: &Schema, place: Place<'_>, path: &Path, survey: &mut Survey<'_>) {
    if !schema.has_rules {
        return;
    }
    let below = |schema: &Schema| Place { is_resource: schema.is_embedded, ..place };
    let many = |most: Option<i64>| {
        let most = u64::try_from(most?).unwrap_or(0);
        place.count.map(|count| count.saturating_mul(most))
    };
    let of = Node {
        schema,
        type_of: type_of(schema, place.is_resource),
        bounds: Bounds::of(schema, place.is_resource, place.count),
        uncorrelated: place.uncorrelated,
    };
    for (index, rule) in schema.rules.iter().enumerate() {
        one(rule, &of, &path.child("x-kubernetes-validations").index(index), survey);
    }
    for (name, field) in &schema.properties {
        node(field, below(field), &path.child("properties").key(name), survey);
    }
    if let Additional::Schema(values) = &schema.additional {
        let place = Place { count: many(schema.max_properties), ..below(values) };
        node(values, place, &path.child("additionalProperties"), survey);
    }
    if let Some(items) = &schema.items {
        let uncorrelated = match schema.list_kind {
            ListKind::Map(_) => place.uncorrelated,
            _ => place.uncorrelated.or(Some(path)),
        };
        let place = Place { uncorrelated, count: many(schema.max_items), ..below(items) };
        node(items, place, &path.child("items"), survey);
    }
}

fn one(rule: &ValidationRule, of: &Node<'_>, path: &Path, survey: &mut Survey<'_>) {
    let Survey { errors, costs } = survey;
    let shown = || json!(rule);
    let variables = variables(&of.type_of, rule.optional_old_self == Some(true));
    if rule.rule.trim().is_empty() {
        errors.required(&path.child("rule"), "rule is not specified");
    } else {
        match Program::compile(&rule.rule, &variables) {
            Err(error) => {
                errors.invalid(&path.child("rule"), shown(), &format!("compilation failed: {error}"));
            }
            Ok(program) => {
                if !program.result().fits(&Type::Bool) {
                    errors.invalid(&path.child("rule"), shown(), "cel expression must evaluate to a bool");
                }
                if let Some(list) = of.uncorrelated.filter(|_| program.uses("oldSelf")) {
                    let detail = format!(
                        "oldSelf cannot be used on the uncorrelatable portion of the schema within {}",
                        list.as_str()
                    );
                    errors.invalid(&path.child("rule"), rule.rule.as_str(), &detail);
                }
                costs.add(&of.bounds, &program, &path.child("rule"), "estimated rule cost", errors);
            }
        }
    }
    if let Some(message) = rule.message.as_deref() {
        if message.trim().is_empty() && !message.is_empty() {
            errors.invalid(&path.child("message"), message, "message must be non-empty if specified");
        } else if message.trim().contains('\n') {
            errors.invalid(&path.child("message"), message, "message must not contain line breaks");
        } else if message.len() > 2048 {
            errors.invalid(
                &path.child("message"),
                format!("{}...", message.chars().take(10).collect::<String>()),
                "message must have a maximum length of 2048 characters",
            );
        }
    } else if rule.rule.trim().contains('\n') && rule.message_expression.or_empty().is_empty() {
        errors.required(&path.child("message"), "message must be specified if rule contains line breaks");
    }
    if let Some(expression) = rule.message_expression.as_deref().filter(|text| !text.is_empty()) {
        let path = path.child("messageExpression");
        match Program::compile(expression, &variables) {
            Err(error) => {
                errors.invalid(&path, shown(), &format!("messageExpression compilation failed: {error}"));
            }
            Ok(program) if !program.result().fits(&Type::String) => {
                errors.invalid(&path, shown(), "messageExpression must evaluate to a string");
            }
            Ok(program) => {
                costs.add(&of.bounds, &program, &path, "estimated messageExpression cost", errors);
            }
        }
    }
    if let Some(reason) = rule.reason.as_deref().filter(|reason| !REASONS.contains(reason)) {
        errors.not_supported(&path.child("reason"), reason, &REASONS);
    }
    if let Some(field) = rule.field_path.as_deref().filter(|field| !field.is_empty()) {
        let names = JsonPath::parse(field).ok();
        let names = names.as_ref().and_then(JsonPath::fields).filter(|_| field.starts_with('.'));
        let leads = names.is_some_and(|names| {
            names.iter().try_fold(of.schema, |schema, name| schema.child(name)).is_some()
        });
        if !leads {
            let detail = "fieldPath must be a valid path: does not refer to a valid field";
            errors.invalid(&path.child("fieldPath"), field, detail);
        }
    }
}
