//! One policy with its bindings, and for which of them a request is to be looked at.

use std::sync::Arc;

use k8s_openapi::api::admissionregistration::v1::{MatchResources, ParamKind, ParamRef};

use super::{
    Scene,
    params::{Finder, Param},
};
use crate::{
    ApiError,
    admission::{
        expressions::{Conditions, Environment, Expression, Input},
        matching::Criteria,
        webhooks::Content,
    },
    registry::{Served, admissionregistration::policy::Common},
};

/// A compiled policy; `R` is what its expressions are for.
#[derive(Debug)]
pub(in crate::admission) struct Policy<R> {
    pub name: String,
    criteria: Result<Criteria, String>,
    param_kind: Option<ParamKind>,
    /// Whether a request goes on when the policy cannot be evaluated.
    pub is_optional: bool,
    pub conditions: Conditions,
    variables: Arc<[(String, Expression)]>,
    pub rules: R,
}

/// A binding of a policy.
#[derive(Debug)]
pub(in crate::admission) struct Binding {
    pub name: String,
    /// Without, it matches whatever the policy does.
    criteria: Option<Result<Criteria, String>>,
    params: Option<ParamRef>,
    /// `Deny`, `Warn`, `Audit`; none for a policy that mutates.
    pub actions: Vec<String>,
}

/// A policy and its bindings.
#[derive(Debug)]
pub(in crate::admission) struct Hook<R> {
    pub policy: Arc<Policy<R>>,
    pub bindings: Vec<Binding>,
}

/// A policy that is to be evaluated, through one binding, with one parameter or none.
pub(super) struct Invocation<'a, R> {
    pub policy: &'a Policy<R>,
    pub binding: &'a Binding,
    pub param: Option<Param>,
    /// The form in which the policy is shown the request.
    pub served: &'a Served,
}

/// A policy that cannot be evaluated.
#[derive(Debug)]
pub(super) struct Misconfigured<'a> {
    pub policy: &'a str,
    /// `None` where it is not the binding's fault.
    pub binding: Option<&'a str>,
    pub problem: String,
}

impl<R> Policy<R> {
    /// `rules` compiles the rest, in which the variables are known.
    pub fn compile(name: &str, spec: &Common<'_>, rules: impl FnOnce(Environment) -> R) -> Self {
        let has_params = spec.param_kind.is_some();
        let mut environment = Environment::of_policy(has_params);
        let variables: Vec<_> = spec
            .variables
            .iter()
            .map(|variable| (variable.name.clone(), environment.add_variable(variable)))
            .collect();
        let everything = MatchResources::default();
        Self {
            name: name.into(),
            criteria: criteria(spec.constraints.unwrap_or(&everything)),
            param_kind: spec.param_kind.cloned(),
            is_optional: spec.failure_policy == Some("Ignore"),
            conditions: Conditions::compile(spec.conditions, has_params),
            variables: variables.into(),
            rules: rules(environment),
        }
    }

    /// What the expressions see, with parameters and variables.
    pub(super) fn input(&self, input: Input, param: Option<&Param>) -> Input {
        input.with_params(param.map(|param| &param.value)).with_variables(self.variables.clone())
    }
}

impl Binding {
    pub fn new(
        name: &str,
        resources: Option<&MatchResources>,
        params: Option<&ParamRef>,
        actions: &[String],
    ) -> Self {
        Self {
            name: name.into(),
            criteria: resources.map(criteria),
            params: params.cloned(),
            actions: actions.to_vec(),
        }
    }

    pub fn has_action(&self, action: &str) -> bool {
        self.actions.iter().any(|of| of == action)
    }
}

fn criteria(resources: &MatchResources) -> Result<Criteria, String> {
    Criteria::of_resources(resources).map_err(|error| error.to_string())
}

/// Which of `hooks` are to be evaluated about a request that leads to `content`, and which should be and cannot.
pub(super) fn invocations<'a, R>(
    hooks: &'a [Hook<R>],
    Scene { asked, view, .. }: &Scene<'a>,
    content: Content<'_>,
) -> Result<(Vec<Invocation<'a, R>>, Vec<Misconfigured<'a>>), ApiError> {
    let finder = Finder { kinds: asked.kinds, view, namespace: asked.home_name() };
    let mut invocations = Vec::new();
    let mut broken = Vec::new();
    for Hook { policy, bindings } in hooks {
        let mut misconfigured = |binding: Option<&'a Binding>, problem: String| {
            if !policy.is_optional {
                let of = if binding.is_some() { "binding" } else { "policy" };
                broken.push(Misconfigured {
                    policy: &policy.name,
                    binding: binding.map(|binding| &*binding.name),
                    problem: format!("failed to configure {of}: {problem}"),
                });
            }
        };
        let criteria = match &policy.criteria {
            Ok(criteria) => criteria,
            Err(problem) => {
                misconfigured(None, problem.clone());
                continue;
            }
        };
        let Some(served) = asked.matches(criteria, content)? else { continue };
        let resource = match policy.param_kind.as_ref().map(|kind| finder.resource(kind)).transpose() {
            Ok(resource) => resource,
            Err(problem) => {
                misconfigured(None, problem);
                continue;
            }
        };
        for binding in bindings {
            match &binding.criteria {
                None => (),
                Some(Ok(criteria)) if asked.matches(criteria, content)?.is_some() => (),
                Some(Ok(_)) => continue,
                Some(Err(problem)) => {
                    misconfigured(Some(binding), problem.clone());
                    continue;
                }
            }
            let params = match resource {
                None => Ok(vec![None]),
                Some(resource) => finder.find(resource, binding.params.as_ref()),
            };
            match params {
                Ok(params) => invocations.extend(params.into_iter().map(|param| Invocation {
                    policy: &**policy,
                    binding,
                    param,
                    served,
                })),
                Err(problem) => misconfigured(Some(binding), problem),
            }
        }
    }
    Ok((invocations, broken))
}
