//! The expressions of admission: what they may speak of, and what that is in one request.
//!
//! Compiled once per revision of the webhook or policy that they stand in, evaluated per request within a budget, so
//! that nobody's expression stops the server. Not here: the language (`cel`), and what follows from a result.

mod facts; // What there is to know of a request.

pub use facts::{Facts, Input};

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::admissionregistration::v1::{MatchCondition, Variable};

use crate::cel::{self, Budget, EvalError, JSON_PATCH, OBJECT, ObjectType, Program, Type, Value};

/// What one expression may cost, in steps.
const CALL_STEPS: u64 = 1_000_000;
/// What the conditions of one webhook or policy may cost together.
const CONDITION_STEPS: u64 = 2_500_000;
/// What everything else in a policy may cost together.
pub const POLICY_STEPS: u64 = 10_000_000;

const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// What an expression may speak of, beside `object`, `oldObject`, `request` and `namespaceObject`.
#[derive(Debug, Clone)]
pub struct Environment {
    /// What `object` and `oldObject` are; `Dyn` except where types are only looked at.
    pub object: Type,
    /// What `params` are, if there are any.
    pub params: Option<Type>,
    pub has_authorizer: bool,
    /// What `variables` holds, if it is there.
    pub variables: Option<BTreeMap<String, Type>>,
    /// Whether `Object{…}`, `JSONPatch{…}` and `jsonpatch.escapeKey` exist.
    pub makes_patches: bool,
}

impl Environment {
    /// That of a condition of a webhook, or of a policy that has parameters.
    pub fn of_conditions(has_params: bool) -> Self {
        Self {
            object: Type::Dyn,
            params: has_params.then_some(Type::Dyn),
            has_authorizer: true,
            variables: None,
            makes_patches: false,
        }
    }

    /// That of a policy, before its variables are known.
    pub fn of_policy(has_params: bool) -> Self {
        Self { variables: Some(BTreeMap::new()), ..Self::of_conditions(has_params) }
    }

    /// That of messages, which ask nobody.
    pub fn without_authorizer(&self) -> Self {
        Self { has_authorizer: false, ..self.clone() }
    }

    fn names(&self) -> Vec<(&'static str, Type)> {
        let mut names = vec![
            ("object", self.object.clone()),
            ("oldObject", self.object.clone()),
            ("request", facts::REQUEST.clone()),
            ("namespaceObject", facts::NAMESPACE.clone()),
        ];
        names.extend(self.params.clone().map(|of| ("params", of)));
        names.extend(self.has_authorizer.then_some(("authorizer", cel::AUTHORIZER_TYPE)));
        names.extend(self.variables.clone().map(|fields| {
            let of = ObjectType { name: "kubernetes.variables".into(), fields };
            ("variables", Type::Object(Arc::new(of)))
        }));
        names
    }

    /// Compiles `source`, which is to evaluate to one of `wanted`; without any, to whatever it does.
    ///
    /// # Errors
    /// What is wrong with it, in Kubernetes' words.
    pub fn check(&self, source: &str, wanted: &[Type]) -> Result<Program, String> {
        let names = self.names();
        let compiled = if self.makes_patches {
            Program::compile_patch(source, &names)
        } else {
            Program::compile(source, &names)
        };
        let program = compiled.map_err(|error| format!("compilation failed: {error}"))?;
        let found = program.result();
        if wanted.is_empty() || wanted.contains(found) {
            return Ok(program);
        }
        let shown: Vec<String> = wanted.iter().map(type_name).collect();
        let expected = match shown.as_slice() {
            [one] => one.clone(),
            many => format!("one of [{}]", many.join(" ")),
        };
        Err(format!("must evaluate to {expected} but got {}", type_name(found)))
    }

    pub fn compile(&self, source: &str, wanted: &[Type]) -> Expression {
        Expression {
            source: source.into(),
            program: self.check(source, wanted),
            has_params: self.params.is_some(),
            has_authorizer: self.has_authorizer,
            has_variables: self.variables.is_some(),
        }
    }

    /// Makes a variable known to the expressions that come after it. One that does not compile may be anything.
    pub fn add_variable(&mut self, variable: &Variable) -> Expression {
        let expression = self.compile(&variable.expression, &[]);
        let of = expression.program.as_ref().map_or(Type::Dyn, |program| program.result().clone());
        self.variables.get_or_insert_default().insert(variable.name.clone(), of);
        expression
    }
}

/// What an expression of an `ApplyConfiguration` evaluates to.
pub fn object_type() -> Type {
    Type::Message(OBJECT.into())
}

/// What an expression of a `JSONPatch` evaluates to.
pub fn json_patch_type() -> Type {
    Type::list(Type::Message(JSON_PATCH.into()))
}

fn type_name(of: &Type) -> String {
    match of {
        Type::Null => "null_type".into(),
        other => other.to_string(),
    }
}

/// A compiled expression, or why it is none.
#[derive(Debug)]
pub struct Expression {
    source: String,
    program: Result<Program, String>,
    has_params: bool,
    has_authorizer: bool,
    has_variables: bool,
}

/// Why an expression has no result, in Kubernetes' words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("{0}")]
    Failed(String),
    /// Nothing more is to be evaluated.
    #[error("{OUT_OF_BUDGET}")]
    OutOfBudget,
}

impl Expression {
    pub fn source(&self) -> &str {
        &self.source
    }

    pub fn evaluate(&self, input: &Input, budget: &mut Budget) -> Result<Value, Failure> {
        let program = self
            .program
            .as_ref()
            .map_err(|problem| Failure::Failed(format!("compilation error: {problem}")))?;
        let mut values =
            vec![input.object.clone(), input.old.clone(), input.request.clone(), input.namespace.clone()];
        values.extend(self.has_params.then(|| input.params.clone()));
        values.extend(self.has_authorizer.then(|| input.authorizer.clone()));
        values.extend(self.has_variables.then(|| input.variables.clone()));
        program.evaluate_within(CALL_STEPS, values, budget).map_err(|error| {
            if error == EvalError::TooExpensive && budget.left() == 0 {
                return Failure::OutOfBudget;
            }
            Failure::Failed(format!("expression '{}' resulted in error: {error}", self.source))
        })
    }
}

/// The `matchConditions` of a webhook or policy.
#[derive(Debug)]
pub struct Conditions(Vec<Expression>);

impl Conditions {
    pub fn compile(conditions: &[MatchCondition], has_params: bool) -> Self {
        let environment = Environment::of_conditions(has_params);
        let compile = |condition: &MatchCondition| environment.compile(&condition.expression, &[Type::Bool]);
        Self(conditions.iter().map(compile).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all hold. One that does not decides, whatever became of others.
    ///
    /// # Errors
    /// Why nobody knows, in Kubernetes' words.
    pub fn hold(&self, input: &Input) -> Result<bool, String> {
        let mut budget = Budget::new(CONDITION_STEPS);
        let mut failures = Vec::new();
        for condition in &self.0 {
            match condition.evaluate(input, &mut budget) {
                Ok(Value::Bool(true)) => (),
                Ok(_) => return Ok(false),
                Err(failure @ Failure::OutOfBudget) => return Err(failure.to_string()),
                Err(Failure::Failed(text)) => failures.push(text),
            }
        }
        failures.dedup();
        match failures.as_slice() {
            [] => Ok(true),
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;
    use crate::auth::{Authorizer, User};

    fn input(object: Json) -> Input {
        let request = json!({
            "kind": { "group": "apps", "version": "v1", "kind": "Deployment" },
            "resource": { "group": "apps", "version": "v1", "resource": "deployments" },
            "requestResource": { "group": "apps", "version": "v1", "resource": "deployments" },
            "operation": "CREATE", "name": "web", "namespace": "shop",
            "userInfo": { "username": "jane", "groups": ["devs"] }, "dryRun": false,
        });
        let facts = Facts {
            object: Some(object),
            old: None,
            request,
            namespace: Some(json!({ "metadata": { "name": "shop", "labels": { "env": "prod" } } })),
        };
        let user = User::service_account("kube-system", "deployment-controller", "", Default::default());
        Input::new(&facts, &user, &Arc::new(Authorizer::of_defaults()))
    }

    fn deployment() -> Json {
        json!({ "metadata": { "name": "web" }, "spec": { "replicas": 3 } })
    }

    #[track_caller]
    fn gives(source: &str, expected: Value) {
        let expression = Environment::of_conditions(false).compile(source, &[]);
        let found = expression.evaluate(&input(deployment()), &mut Budget::new(POLICY_STEPS));
        assert_eq!(found, Ok(expected), "{source}");
    }

    #[test]
    fn expressions_see_the_request() {
        for source in [
            "object.spec.replicas == 3 && oldObject == null",
            "request.operation == 'CREATE' && request.resource.resource == 'deployments'",
            "request.userInfo.username == 'jane' && 'devs' in request.userInfo.groups",
            "namespaceObject.metadata.labels['env'] == 'prod' && namespaceObject.metadata.name == 'shop'",
            "!has(request.subResource) && request.dryRun == false",
        ] {
            gives(source, Value::Bool(true));
        }
    }

    #[test]
    fn expressions_ask_who_may_do_what() {
        for (source, expected) in [
            ("authorizer.group('').resource('pods').namespace('shop').check('create').allowed()", false),
            (
                "authorizer.group('apps').resource('replicasets').namespace('shop').check('create').allowed()",
                true,
            ),
            ("authorizer.path('/healthz').check('get').allowed()", true),
            ("authorizer.path('/secret').check('get').allowed()", false),
            ("authorizer.requestResource.check('update').allowed()", true),
            ("authorizer.requestResource.subresource('scale').check('get').errored()", false),
            (
                "authorizer.serviceAccount('kube-system', 'node-controller').group('').resource('nodes').check('delete').allowed()",
                true,
            ),
            (
                "authorizer.group('apps').resource('replicasets').check('create').reason().startsWith('RBAC: allowed by ClusterRoleBinding')",
                true,
            ),
        ] {
            gives(source, Value::Bool(expected));
        }
        let expression = Environment::of_conditions(false)
            .compile("authorizer.serviceAccount('Not/OK', 'x').path('/x').check('get').allowed()", &[]);
        let failure = expression.evaluate(&input(deployment()), &mut Budget::new(POLICY_STEPS));
        assert_eq!(
            failure.map_err(|failure| failure.to_string()),
            Err(format!(
                "expression '{}' resulted in error: Invalid service account namespace",
                expression.source
            ))
        );
    }

    #[test]
    fn what_does_not_compile_is_told_as_kubernetes_tells_it() {
        let environment = Environment::of_policy(false);
        let problem = |source: &str, wanted: &[Type]| environment.check(source, wanted).expect_err(source);
        assert!(problem("params.x == 1", &[]).starts_with(
            "compilation failed: ERROR: <input>:1:1: undeclared reference to 'params' (in container '')"
        ));
        assert_eq!(problem("object.spec.replicas", &[Type::Bool]), "must evaluate to bool but got dyn");
        assert_eq!(
            problem("1", &[Type::String, Type::Null]),
            "must evaluate to one of [string null_type] but got int"
        );
        assert!(problem("request.object.x == 1", &[]).contains("undefined field 'object'"));
        assert!(problem("variables.x", &[]).contains("undefined field 'x'"));
        assert!(problem("Object{}", &[]).contains("undeclared reference to 'Object'"));
    }

    #[test]
    fn one_condition_that_does_not_hold_decides() {
        let hold = |sources: &[&str]| {
            let conditions: Vec<MatchCondition> = sources
                .iter()
                .map(|source| MatchCondition { name: "c".into(), expression: (*source).into() })
                .collect();
            Conditions::compile(&conditions, false).hold(&input(deployment()))
        };
        assert_eq!(hold(&[]), Ok(true));
        assert_eq!(hold(&["true", "object.spec.replicas > 1"]), Ok(true));
        assert_eq!(hold(&["object.missing == 1", "false"]), Ok(false));
        assert_eq!(
            hold(&["object.missing == 1", "true"]),
            Err("expression 'object.missing == 1' resulted in error: no such key: missing".into())
        );
    }

    #[test]
    fn variables_are_evaluated_when_they_are_needed_and_once() {
        let mut environment = Environment::of_policy(false);
        let mut variables = Vec::new();
        for (name, expression) in [
            ("replicas", "object.spec.replicas"),
            ("broken", "object.nowhere.at.all"),
            ("twice", "variables.replicas * 2"),
        ] {
            let variable = Variable { name: name.into(), expression: expression.into() };
            variables.push((variable.name.clone(), environment.add_variable(&variable)));
        }
        let input = input(deployment()).with_variables(variables.into());
        let evaluate = |source: &str| {
            let mut budget = Budget::new(POLICY_STEPS);
            environment
                .compile(source, &[])
                .evaluate(&input, &mut budget)
                .map_err(|failure| failure.to_string())
        };
        assert_eq!(evaluate("variables.twice == 6 || variables.broken"), Ok(Value::Bool(true)));
        assert_eq!(
            evaluate("variables.broken == 1"),
            Err(
                "expression 'variables.broken == 1' resulted in error: composited variable \"broken\" fails to evaluate: no such key: nowhere"
                    .into()
            )
        );
    }

    #[test]
    fn an_expression_ends_at_its_limit() {
        let ten = "[1,2,3,4,5,6,7,8,9,10]";
        let source = format!(
            "{ten}.all(a, {ten}.all(b, {ten}.all(c, {ten}.all(d, {ten}.all(e, {ten}.all(f, {ten}.all(g, true)))))))"
        );
        let expression = Environment::of_conditions(false).compile(&source, &[]);
        let mut budget = Budget::new(CALL_STEPS + 1);
        let failure = expression.evaluate(&input(deployment()), &mut budget).expect_err("too expensive");
        assert!(
            failure.to_string().ends_with("operation cancelled: actual cost limit exceeded"),
            "{failure}"
        );
        assert_eq!(expression.evaluate(&input(deployment()), &mut budget), Err(Failure::OutOfBudget));
    }
}
