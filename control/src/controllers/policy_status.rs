//! Tells the authors of validating policies which expressions do not fit the types that they are about.
//!
//! A policy acts all the same: what it is shown may differ from what is served now, and expressions may ask first what
//! there is. So this is a hint in `status.typeChecking`, given once per generation.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::api::admissionregistration::v1::{
    ExpressionWarning, NamedRuleWithOperations, TypeChecking, ValidatingAdmissionPolicy,
    ValidatingAdmissionPolicySpec, ValidatingAdmissionPolicyStatus,
};
use naru_model::apply::Outline;

use super::framework::{ClusterView, Plan, Reconciler, Write};
use crate::{
    admission::expressions::Environment,
    cel::{ObjectType, Type},
    registry::{Kinds, Registry, Served},
};

/// How many types an expression is checked against.
const MAX_TYPES: usize = 10;

pub struct PolicyStatus {
    /// Knows the types.
    pub registry: Registry,
}

impl Reconciler for PolicyStatus {
    type Object = ValidatingAdmissionPolicy;

    fn name(&self) -> &'static str {
        "validatingadmissionpolicy-status-controller"
    }

    fn reconcile(&self, policy: &ValidatingAdmissionPolicy, _view: &ClusterView<'_>) -> Plan {
        let mut plan = Plan::nothing();
        let generation = policy.metadata.generation;
        let observed = policy.status.as_ref().and_then(|status| status.observed_generation);
        let (Some(spec), true) = (&policy.spec, observed < generation) else { return plan };
        let warnings = warnings(spec, &self.registry.kinds());
        let status = ValidatingAdmissionPolicyStatus {
            observed_generation: generation,
            type_checking: Some(TypeChecking {
                expression_warnings: (!warnings.is_empty()).then_some(warnings),
            }),
            ..policy.status.clone().unwrap_or_default()
        };
        plan.then([Write::update_status(ValidatingAdmissionPolicy {
            status: Some(status),
            ..policy.clone()
        })]);
        plan
    }
}

/// What does not fit, expression by expression, type by type.
fn warnings(spec: &ValidatingAdmissionPolicySpec, kinds: &Kinds) -> Vec<ExpressionWarning> {
    let params = spec.param_kind.as_ref().map(|kind| {
        let version = kind.api_version.as_deref().unwrap_or_default();
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let found = kinds.all().iter().find(|served| {
            let info = served.info;
            (info.group, info.version, Some(info.kind)) == (group, version, kind.kind.as_deref())
        });
        found.map_or(Type::Dyn, |served| type_of(served))
    });
    let environments: Vec<(String, Environment)> = types(spec, kinds)
        .into_iter()
        .map(|served| {
            let mut environment = Environment {
                object: type_of(&served),
                params: params.clone(),
                ..Environment::of_policy(params.is_some())
            };
            for variable in spec.variables.iter().flatten() {
                environment.add_variable(variable);
            }
            let info = served.info;
            (format!("{}/{}, Kind={}", info.group, info.version, info.kind), environment)
        })
        .collect();
    let mut warnings = Vec::new();
    for (index, validation) in spec.validations.iter().flatten().enumerate() {
        for (field, source) in [
            ("expression", Some(&validation.expression)),
            ("messageExpression", validation.message_expression.as_ref()),
        ] {
            let Some(source) = source.filter(|source| !source.is_empty()) else { continue };
            let problem = |(name, environment): &(String, Environment)| {
                let problem = environment.check(source, &[]).err()?;
                let problem = problem.strip_prefix("compilation failed: ").unwrap_or(&problem);
                Some(format!("{name}: {problem}\n"))
            };
            let problems: Vec<String> = environments.iter().filter_map(problem).collect();
            if !problems.is_empty() {
                let field_ref = format!("spec.validations[{index}].{field}");
                warnings.push(ExpressionWarning { field_ref, warning: problems.join("\n") });
            }
        }
    }
    warnings
}

/// The types that the policy names, without wildcards, in the order of group, version and kind.
fn types(spec: &ValidatingAdmissionPolicySpec, kinds: &Kinds) -> Vec<Arc<Served>> {
    let mut found: Vec<Arc<Served>> = Vec::new();
    let rules = spec.match_constraints.iter().flat_map(|of| of.resource_rules.iter().flatten());
    for (group, version, resource) in rules.flat_map(named) {
        if let Some(served) = kinds.find(&group, &version, &resource)
            && found.len() < MAX_TYPES
            && !found.iter().any(|other| Arc::ptr_eq(other, served))
        {
            found.push(served.clone());
        }
    }
    found.sort_by_key(|served| (served.info.group, served.info.version, served.info.kind));
    found
}

fn named(rule: &NamedRuleWithOperations) -> BTreeSet<(String, String, String)> {
    let texts = |texts: &Option<Vec<String>>| texts.clone().unwrap_or_default();
    let (groups, versions) = (texts(&rule.api_groups), texts(&rule.api_versions));
    let mut named = BTreeSet::new();
    if groups.iter().chain(&versions).any(|text| text.contains('*')) {
        return named;
    }
    let resources = texts(&rule.resources);
    for resource in resources.iter().filter(|resource| !resource.contains(['*', '/'])) {
        for group in &groups {
            for version in &versions {
                named.insert((group.clone(), version.clone(), resource.clone()));
            }
        }
    }
    named
}

fn type_of(served: &Served) -> Type {
    outlined(served.info.kind, &served.object_type().outline())
}

fn outlined(name: &str, outline: &Outline) -> Type {
    match outline {
        Outline::Any => Type::Dyn,
        Outline::Text => Type::String,
        Outline::Number => Type::Int,
        Outline::Flag => Type::Bool,
        Outline::List(item) => Type::list(outlined(name, item)),
        Outline::Map(value) => Type::map(Type::String, outlined(name, value)),
        Outline::Fields(fields) => {
            let typed = |(field, outline): (&String, &Outline)| {
                (field.clone(), outlined(&format!("{name}.{field}"), outline))
            };
            let fields = fields.iter().map(typed).collect();
            Type::Object(Arc::new(ObjectType { name: name.into(), fields }))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn warned(validations: Value) -> Vec<(String, String)> {
        let spec = serde_json::from_value(json!({
            "matchConstraints": { "resourceRules": [{
                "apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["*"],
                "resources": ["deployments", "statefulsets", "deployments/scale"],
            }] },
            "paramKind": { "apiVersion": "v1", "kind": "ConfigMap" },
            "variables": [{ "name": "replicas", "expression": "object.spec.replicas" }],
            "validations": validations,
        }));
        let warnings = warnings(&spec.expect("a spec"), &Kinds::builtin());
        warnings.into_iter().map(|warning| (warning.field_ref, warning.warning)).collect()
    }

    #[test]
    fn what_does_not_fit_a_type_is_told_of_each() {
        assert_eq!(
            warned(json!([
                { "expression": "variables.replicas > 1 && params.data['most'] != ''" },
                { "expression": "has(object.metadata.labels) && 'a' in object.metadata.labels" },
            ])),
            []
        );
        let found = warned(json!([
            { "expression": "true" },
            { "expression": "object.spec.replica > 1", "messageExpression": "params.dta['x']" },
            { "expression": "object.spec.strategy.type == 'Recreate'" },
            { "expression": "variables.replicas > 'x'" },
        ]));
        let fields: Vec<&str> = found.iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "spec.validations[1].expression",
                "spec.validations[1].messageExpression",
                "spec.validations[2].expression",
                "spec.validations[3].expression",
            ]
        );
        let mark = "\n | object.spec.replica > 1\n | ...........^\n";
        assert_eq!(
            found[0].1,
            format!(
                "apps/v1, Kind=Deployment: ERROR: <input>:1:12: undefined field 'replica'{mark}\n\
                 apps/v1, Kind=StatefulSet: ERROR: <input>:1:12: undefined field 'replica'{mark}"
            )
        );
        // Only one of the two types has no such field.
        assert!(
            found[2]
                .1
                .starts_with("apps/v1, Kind=StatefulSet: ERROR: <input>:1:12: undefined field 'strategy'")
        );
    }
}
