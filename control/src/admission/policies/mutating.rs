//! Policies that change what is written.

use k8s_openapi::api::admissionregistration::v1::MutatingAdmissionPolicySpec;
use naru_model::{
    apply::ObjectType,
    patch::{PatchError, apply_json, merge_keys},
};
use serde_json::{Map, Value as Json};

use super::{
    Scene,
    hook::{Hook, Invocation, Misconfigured, invocations},
    refusal,
};
use crate::{
    ApiError,
    admission::{
        expressions::{Environment, Expression, Input, POLICY_STEPS, json_patch_type, object_type},
        webhooks::{Asked, Mutable, Rounds, Shape, facts},
    },
    cel::{Budget, Message, OBJECT, Special, Value},
    registry::Served,
};

/// What a mutating policy evaluates.
#[derive(Debug)]
pub(in crate::admission) struct Rules {
    mutations: Vec<Mutation>,
    /// Whether it may be asked again, when others changed what it has seen.
    is_reinvocable: bool,
}

#[derive(Debug)]
enum Mutation {
    /// To an `Object` that is merged.
    Apply(Expression),
    /// To a list of `JSONPatch`.
    Patch(Expression),
}

impl Rules {
    pub fn compile(spec: &MutatingAdmissionPolicySpec, environment: Environment) -> Self {
        let environment = Environment { makes_patches: true, ..environment };
        let mutations = spec.mutations.iter().flatten().map(|mutation| {
            let apply = mutation.apply_configuration.as_ref().and_then(|of| of.expression.as_deref());
            let patch = mutation.json_patch.as_ref().and_then(|of| of.expression.as_deref());
            let source = apply.or(patch).unwrap_or_default();
            match mutation.patch_type.as_str() {
                "JSONPatch" => {
                    Mutation::Patch(environment.compile(patch.unwrap_or(source), &[json_patch_type()]))
                }
                _ => Mutation::Apply(environment.compile(source, &[object_type()])),
            }
        });
        Self {
            mutations: mutations.collect(),
            is_reinvocable: spec.reinvocation_policy.as_deref() == Some("IfNeeded"),
        }
    }
}

impl Mutation {
    /// What the mutation makes of `live`, which is of type `of`.
    ///
    /// # Errors
    /// Why it makes nothing of it, in Kubernetes' words.
    fn applied(&self, input: &Input, live: Json, of: &ObjectType) -> Result<Json, String> {
        let mut budget = Budget::new(POLICY_STEPS);
        match self {
            Self::Apply(expression) => {
                let value = expression.evaluate(input, &mut budget).map_err(|failure| failure.to_string())?;
                check_names(&value, OBJECT).map_err(|problem| format!("type mismatch: {problem}"))?;
                let mut config = value.to_json().map_err(|error| error.to_string())?;
                for field in ["apiVersion", "kind"] {
                    config[field] = live[field].clone();
                }
                of.overlay(live, &config).map_err(|error| format!("error applying patch: {error}"))
            }
            Self::Patch(expression) => {
                let value = expression.evaluate(input, &mut budget).map_err(|failure| failure.to_string())?;
                let patch = json_patch(&value)?;
                let mut patched = live.clone();
                match apply_json(&mut patched, &patch) {
                    Ok(()) => Ok(patched),
                    // An operation that tests decides whether the patch is for this object at all.
                    Err(PatchError::DoesNotApply(why)) if why.ends_with("test failed") => Ok(live),
                    Err(error) => Err(format!("JSONPatch: {error}")),
                }
            }
        }
    }
}

/// The operations that a list of `JSONPatch` stands for.
fn json_patch(value: &Value) -> Result<Json, String> {
    let Value::List(items) = value else {
        return Err("type mismatch: JSONPatchType.expression should evaluate to array".into());
    };
    let mut operations = Vec::with_capacity(items.len());
    for item in items.iter() {
        let Some(message) = message(item) else {
            return Err(
                "type mismatch: JSONPatchType.expression should evaluate to array of JSONPatch".into()
            );
        };
        let mut operation = Map::new();
        for (name, value) in &message.fields {
            if let Some(inner) = self::message(value) {
                check_names(value, &inner.type_name)
                    .map_err(|problem| format!("type mismatch: {problem}"))?;
            }
            let json = value.to_json().map_err(|error| {
                format!(
                    "JSONPath valueExpression evaluated to a type that could not marshal to JSON: {error}"
                )
            })?;
            operation.insert(name.clone(), json);
        }
        operations.push(Json::Object(operation));
    }
    Ok(Json::Array(operations))
}

fn message(value: &Value) -> Option<&Message> {
    match value {
        Value::Special(special) => match &**special {
            Special::Message(message) => Some(message),
            _ => None,
        },
        _ => None,
    }
}

/// That every `Object.a.b{…}` stands in field `b` of field `a`.
fn check_names(value: &Value, expected: &str) -> Result<(), String> {
    match value {
        Value::List(items) => items.iter().try_for_each(|item| check_names(item, expected)),
        Value::Map(map) => map.values().try_for_each(|value| check_names(value, expected)),
        Value::Special(_) => {
            let Some(message) = message(value) else { return Ok(()) };
            if &*message.type_name != expected {
                return Err(format!(
                    "unexpected type name {:?}, expected {expected:?}, which matches field name path from root Object type",
                    message.type_name
                ));
            }
            let fields = &message.fields;
            fields.iter().try_for_each(|(name, value)| check_names(value, &format!("{expected}.{name}")))
        }
        _ => Ok(()),
    }
}

/// Lets every policy change what is written or sent, the first time or again; answers whether one did. No policy is
/// about a deletion.
///
/// # Errors
/// The refusal where a policy that must be obeyed cannot be.
pub(in crate::admission) fn mutate(
    hooks: &[Hook<Rules>],
    scene: &Scene<'_>,
    mutable: &mut Mutable<'_>,
    rounds: &mut Rounds<String>,
) -> Result<bool, ApiError> {
    let asked = scene.asked;
    if matches!(mutable, Mutable::Nothing) {
        return Ok(false);
    }
    let (invocations, mut broken) = invocations(hooks, scene, mutable.content())?;
    let mut is_changed = false;
    for invocation in &invocations {
        let Invocation { policy, binding, param, served } = invocation;
        let mut misbehaves = |problem: String| {
            if !policy.is_optional {
                broken.push(Misconfigured { policy: &policy.name, binding: Some(&binding.name), problem });
            }
        };
        let facts = facts(asked, served, mutable.content(), true)?;
        let input = Input::new(&facts, asked.call.user, asked.authorizer);
        let input = policy.input(input, param.as_ref());
        match policy.conditions.hold(&input) {
            Ok(true) => (),
            Ok(false) => continue,
            Err(problem) => {
                misbehaves(problem);
                continue;
            }
        }
        let key =
            format!("{}/{}/{}", policy.name, binding.name, param.as_ref().map_or("", |param| &param.name));
        if rounds.skips(&key) {
            continue;
        }
        let Some(before) = facts.object else { continue };
        let of = type_of(asked, served);
        let mut after = before.clone();
        for mutation in &policy.rules.mutations {
            let input = policy.input(input.clone().with_object(&after), param.as_ref());
            match mutation.applied(&input, after.clone(), &of) {
                Ok(made) => after = made,
                Err(problem) => misbehaves(problem),
            }
        }
        if after != before {
            match mutable.put(asked, served, after) {
                Ok(()) => {
                    is_changed = true;
                    rounds.note_change();
                }
                Err(problem) => misbehaves(problem.to_string()),
            }
        }
        if policy.rules.is_reinvocable {
            rounds.note_asked(key);
        }
    }
    rounds.note_result(mutable.content());
    if broken.is_empty() {
        return Ok(is_changed);
    }
    let name = mutable.content().name().unwrap_or(&asked.name).to_owned();
    Err(denied(asked, &name, &broken))
}

/// The type of what is shown, as apply knows it.
fn type_of(asked: &Asked<'_>, served: &Served) -> ObjectType {
    match asked.shape {
        Shape::Whole => served.object_type().clone(),
        Shape::Scale | Shape::Message(_) => {
            let of = asked.type_of(served);
            ObjectType::builtin(&merge_keys::type_name(of.group, of.version, of.kind))
        }
    }
}

fn denied(asked: &Asked<'_>, name: &str, broken: &[Misconfigured<'_>]) -> ApiError {
    let tell = |of: &Misconfigured<'_>| match of.binding {
        Some(binding) => {
            format!("policy '{}' with binding '{binding}' denied request: {}", of.policy, of.problem)
        }
        None => format!("policy {:?} denied request: {}", of.policy, of.problem),
    };
    let messages: Vec<String> = broken.iter().map(tell).collect();
    let mut status = refusal(asked, name, &messages, false);
    if broken.first().is_some_and(|of| !of.problem.starts_with("failed to configure ")) {
        status.reason = Some("Invalid".into());
    }
    ApiError::Denied(Box::new(status))
}
