//! What webhooks and policies apply to: rules, selectors, conditions and parameters.

use k8s_openapi::{
    api::admissionregistration::v1::{
        MatchCondition, MatchResources, NamedRuleWithOperations, ParamKind, ParamRef, RuleWithOperations,
        Variable,
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use naru_model::validation::{FieldErrors, Path, names};
use serde_json::json;
use std::collections::BTreeSet;

use super::{required_choice, validate_expression};
use crate::{
    admission::expressions::Environment,
    cel::Type,
    registry::podspec::{OrEmpty, check},
};

pub const MATCH_POLICIES: &[&str] = &["Equivalent", "Exact"];
const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const MUTABLE_OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "UPDATE"];
const MAX_CONDITIONS: usize = 64;

/// A rule, whichever type holds it.
struct Rule<'a> {
    operations: &'a [String],
    groups: &'a [String],
    versions: &'a [String],
    resources: &'a [String],
    scope: Option<&'a str>,
}

pub fn default_scope(scope: &mut Option<String>) {
    scope.get_or_insert_with(|| "*".into());
}

pub fn default_policy(policy: &mut Option<String>, default: &str) {
    policy.get_or_insert_with(|| default.into());
}

pub fn default_resources(resources: &mut MatchResources) {
    default_policy(&mut resources.match_policy, "Equivalent");
    resources.namespace_selector.get_or_insert_default();
    resources.object_selector.get_or_insert_default();
    let rules = resources.resource_rules.iter_mut().chain(&mut resources.exclude_resource_rules);
    rules.flatten().for_each(|rule| default_scope(&mut rule.scope));
}

pub fn validate_rules(rules: &[RuleWithOperations], path: &Path, errors: &mut FieldErrors) {
    for (index, rule) in rules.iter().enumerate() {
        let rule = Rule {
            operations: rule.operations.or_empty(),
            groups: rule.api_groups.or_empty(),
            versions: rule.api_versions.or_empty(),
            resources: rule.resources.or_empty(),
            scope: rule.scope.as_deref(),
        };
        validate_rule(&rule, &path.index(index), errors);
    }
}

pub fn validate_resources(resources: &MatchResources, path: &Path, errors: &mut FieldErrors) {
    required_choice(resources.match_policy.as_deref(), MATCH_POLICIES, &path.child("matchPolicy"), errors);
    required_selector(resources.namespace_selector.as_ref(), &path.child("namespaceSelector"), errors);
    required_selector(resources.object_selector.as_ref(), &path.child("objectSelector"), errors);
    validate_named_rules(resources.resource_rules.or_empty(), &path.child("resourceRules"), errors);
    let excluded = resources.exclude_resource_rules.or_empty();
    validate_named_rules(excluded, &path.child("excludeResourceRules"), errors);
}

/// Deletions change nothing that could be mutated.
pub fn validate_mutable(resources: &MatchResources, path: &Path, errors: &mut FieldErrors) {
    let path = path.child("resourceRules").child("operations");
    for operation in resources.resource_rules.or_empty().iter().flat_map(|rule| rule.operations.or_empty()) {
        check::one_of(operation, MUTABLE_OPERATIONS, &path, errors);
    }
}

fn required_selector(selector: Option<&LabelSelector>, path: &Path, errors: &mut FieldErrors) {
    if selector.is_none() {
        errors.required(path, "");
    }
    check::label_selector(selector, path, errors);
}

fn validate_named_rules(rules: &[NamedRuleWithOperations], path: &Path, errors: &mut FieldErrors) {
    for (index, named) in rules.iter().enumerate() {
        let path = path.index(index);
        let mut seen = BTreeSet::new();
        for (index, name) in named.resource_names.or_empty().iter().enumerate() {
            let path = path.child("resourceNames").index(index);
            errors.problems(&path, name, names::path_segment_name(name, false));
            if !seen.insert(name.as_str()) {
                errors.duplicate(&path, name.as_str());
            }
        }
        let rule = Rule {
            operations: named.operations.or_empty(),
            groups: named.api_groups.or_empty(),
            versions: named.api_versions.or_empty(),
            resources: named.resources.or_empty(),
            scope: named.scope.as_deref(),
        };
        validate_rule(&rule, &path, errors);
    }
}

fn validate_rule(rule: &Rule<'_>, path: &Path, errors: &mut FieldErrors) {
    for (field, items, texts) in [
        ("operations", "operations", rule.operations),
        ("apiGroups", "API groups", rule.groups),
        ("apiVersions", "API versions", rule.versions),
    ] {
        let path = path.child(field);
        if texts.is_empty() {
            errors.required(&path, "");
        }
        if texts.len() > 1 && texts.iter().any(|text| text == "*") {
            errors.invalid(
                &path,
                json!(texts),
                &format!("if '*' is present, must not specify other {items}"),
            );
        }
    }
    for (index, operation) in rule.operations.iter().enumerate() {
        check::one_of(operation, OPERATIONS, &path.child("operations").index(index), errors);
    }
    for (index, version) in rule.versions.iter().enumerate() {
        check::required_text(version, &path.child("apiVersions").index(index), errors);
    }
    validate_resource_names(rule.resources, &path.child("resources"), errors);
    if let Some(scope) = rule.scope {
        check::one_of(scope, &["*", "Cluster", "Namespaced"], &path.child("scope"), errors);
    }
}

/// `pods`, `pods/log`, `*`, `pods/*`, `*/scale` or `*/*`; what another item covers must not be said again.
fn validate_resource_names(resources: &[String], path: &Path, errors: &mut FieldErrors) {
    if resources.is_empty() {
        errors.required(path, "");
    }
    let (mut all_of, mut of_all) = (BTreeSet::new(), BTreeSet::new());
    for (index, text) in resources.iter().enumerate() {
        let path = path.index(index);
        check::required_text(text, &path, errors);
        let Some((resource, part)) = text.split_once('/') else { continue };
        if all_of.contains(resource) {
            let detail = format!("if '{resource}/*' is present, must not specify {text}");
            errors.invalid(&path, text.as_str(), &detail);
        }
        if of_all.contains(part) {
            let detail = format!("if '*/{part}' is present, must not specify {text}");
            errors.invalid(&path, text.as_str(), &detail);
        }
        if part == "*" {
            all_of.insert(resource);
        }
        if resource == "*" {
            of_all.insert(part);
        }
    }
    let has = |wanted: &str| resources.iter().any(|text| text == wanted);
    if resources.len() > 1 && has("*/*") {
        errors.invalid(path, json!(resources), "if '*/*' is present, must not specify other resources");
    }
    let is_whole = |text: &String| !text.contains('/') && !text.is_empty() && text != "*";
    if has("*") && resources.iter().any(is_whole) {
        let detail = "if '*' is present, must not specify other resources without subresources";
        errors.invalid(path, json!(resources), detail);
    }
}

/// `has_params` says whether conditions may speak of `params`.
pub fn validate_conditions(
    conditions: &[MatchCondition],
    has_params: bool,
    path: &Path,
    errors: &mut FieldErrors,
) {
    if conditions.len() > MAX_CONDITIONS {
        errors.too_many(path, conditions.len(), MAX_CONDITIONS);
    }
    let environment = Environment::of_conditions(has_params);
    let mut seen = BTreeSet::new();
    for (index, condition) in conditions.iter().enumerate() {
        let path = path.index(index);
        let (text, at) = (condition.expression.trim(), path.child("expression"));
        validate_expression(text, (&environment, &[Type::Bool]), &at, "", errors);
        let (name, path) = (condition.name.as_str(), path.child("name"));
        if name.is_empty() {
            errors.required(&path, "");
            continue;
        }
        check::qualified_name(name, &path, errors);
        if !seen.insert(name) {
            errors.duplicate(&path, name);
        }
    }
}

/// Makes the variables known to `environment`, too.
pub fn validate_variables(
    variables: &[Variable],
    environment: &mut Environment,
    path: &Path,
    errors: &mut FieldErrors,
) {
    for (index, variable) in variables.iter().enumerate() {
        let path = path.index(index);
        let (name, at) = (variable.name.as_str(), path.child("name"));
        if name.trim().is_empty() {
            errors.required(&at, "name is not specified");
        } else if !is_identifier(name) {
            errors.invalid(&at, name, "name is not a valid CEL identifier");
        }
        let path = path.child("expression");
        let text = &variable.expression;
        validate_expression(text, (&*environment, &[]), &path, "expression is not specified", errors);
        environment.add_variable(variable);
    }
}

fn is_identifier(name: &str) -> bool {
    const RESERVED: &[&str] = &[
        "true",
        "false",
        "null",
        "in",
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
        "void",
        "while",
    ];
    let is_word = |byte: u8| byte == b'_' || byte.is_ascii_alphanumeric();
    !name.starts_with(|first: char| first.is_ascii_digit())
        && name.bytes().all(is_word)
        && !RESERVED.contains(&name)
}

pub fn validate_param_kind(kind: &ParamKind, path: &Path, errors: &mut FieldErrors) {
    let (version_path, version) = (path.child("apiVersion"), kind.api_version.or_empty());
    match version.split('/').collect::<Vec<_>>().as_slice() {
        _ if version.is_empty() => errors.required(&version_path, ""),
        ["", ""] => errors.invalid(&version_path, version, "version must be specified"),
        [only] => label_in_one(only, &version_path, errors),
        [group, name] => {
            let problems = names::dns1123_subdomain(group);
            if !group.is_empty() && !problems.is_empty() {
                errors.invalid(&version_path, *group, &problems.join(","));
            }
            if name.is_empty() {
                errors.invalid(&version_path, version, "version must be specified");
            } else {
                label_in_one(name, &version_path, errors);
            }
        }
        _ => errors.invalid(&version_path, version, &format!("unexpected GroupVersion string: {version}")),
    }
    let (name, path) = (kind.kind.or_empty(), path.child("kind"));
    let problems = names::dns1035_label(&name.to_lowercase());
    if name.is_empty() {
        errors.required(&path, "");
    } else if !problems.is_empty() {
        let detail = format!("may have mixed case, but should otherwise match: {}", problems.join(","));
        errors.invalid(&path, name, &detail);
    }
}

/// All that is wrong with a label, in one error.
fn label_in_one(text: &str, path: &Path, errors: &mut FieldErrors) {
    let problems = names::dns1035_label(text);
    if !problems.is_empty() {
        errors.invalid(path, text, &problems.join(","));
    }
}

pub fn validate_param_ref(param: &ParamRef, path: &Path, errors: &mut FieldErrors) {
    let name = param.name.or_empty();
    errors.problems(&path.child("name"), name, names::path_segment_name(name, false));
    check::label_selector(param.selector.as_ref(), &path.child("selector"), errors);
    match (name.is_empty(), &param.selector) {
        (false, Some(_)) => {
            errors.forbidden(&path.child("name"), "name and selector are mutually exclusive");
            errors.forbidden(&path.child("selector"), "name and selector are mutually exclusive");
        }
        (true, None) => errors.required(path, "one of name or selector must be specified"),
        _ => (),
    }
    let action = param.parameter_not_found_action.or_empty();
    let path = path.child("parameterNotFoundAction");
    check::required_one_of(action, &["Deny", "Allow"], &path, errors);
}
