//! What expressions see of one request.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use serde_json::Value as Json;

use super::{Expression, Failure, POLICY_STEPS};
use crate::{
    auth::{Attributes, Authorizer, User},
    cel::{
        Access, AccessCheck, Authorize, Budget, Decision, EvalError, Evaluated, ObjectType, Record, Special,
        Type, Value,
    },
};

fn object(name: &str, fields: &[(&str, Type)]) -> Type {
    let fields: BTreeMap<String, Type> =
        fields.iter().map(|(name, of)| ((*name).to_owned(), of.clone())).collect();
    Type::Object(Arc::new(ObjectType { name: format!("kubernetes.{name}"), fields }))
}

/// The type of `request`.
pub(super) static REQUEST: LazyLock<Type> = LazyLock::new(|| {
    let text = || Type::String;
    let kind = object("GroupVersionKind", &[("group", text()), ("version", text()), ("kind", text())]);
    let resource =
        object("GroupVersionResource", &[("group", text()), ("version", text()), ("resource", text())]);
    let texts = Type::list(text());
    let user = object(
        "UserInfo",
        &[
            ("username", text()),
            ("uid", text()),
            ("groups", texts.clone()),
            ("extra", Type::map(text(), texts)),
        ],
    );
    object(
        "AdmissionRequest",
        &[
            ("kind", kind.clone()),
            ("resource", resource.clone()),
            ("subResource", text()),
            ("requestKind", kind),
            ("requestResource", resource),
            ("requestSubResource", text()),
            ("name", text()),
            ("namespace", text()),
            ("operation", text()),
            ("userInfo", user),
            ("dryRun", Type::Bool),
            ("options", Type::Dyn),
        ],
    )
});

/// The type of `namespaceObject`.
pub(super) static NAMESPACE: LazyLock<Type> = LazyLock::new(|| {
    let text = || Type::String;
    let texts = Type::map(text(), text());
    let metadata = object(
        "NamespaceMetadata",
        &[
            ("name", text()),
            ("generateName", text()),
            ("namespace", text()),
            ("labels", texts.clone()),
            ("annotations", texts),
            ("UID", text()),
            ("creationTimestamp", Type::Timestamp),
            ("deletionGracePeriodSeconds", Type::Int),
            ("deletionTimestamp", Type::Timestamp),
            ("generation", Type::Int),
            ("resourceVersion", text()),
            ("finalizers", Type::list(text())),
        ],
    );
    let spec = object("NamespaceSpec", &[("finalizers", Type::list(text()))]);
    let condition = object(
        "NamespaceCondition",
        &[
            ("status", text()),
            ("type", text()),
            ("lastTransitionTime", Type::Timestamp),
            ("message", text()),
            ("reason", text()),
        ],
    );
    let status = object("NamespaceStatus", &[("conditions", Type::list(condition)), ("phase", text())]);
    object("Namespace", &[("metadata", metadata), ("spec", spec), ("status", status)])
});

/// A request, as JSON.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The state after the request, and before it.
    pub object: Option<Json>,
    pub old: Option<Json>,
    /// An `AdmissionRequest`; what it says of the objects is not looked at.
    pub request: Json,
    /// The namespace that the object is in.
    pub namespace: Option<Json>,
}

/// The values of the names that expressions know.
#[derive(Clone)]
pub struct Input {
    pub(super) object: Value,
    pub(super) old: Value,
    pub(super) request: Value,
    pub(super) namespace: Value,
    pub(super) params: Value,
    pub(super) authorizer: Value,
    pub(super) variables: Value,
}

impl Input {
    /// For a request of `user`.
    pub fn new(facts: &Facts, user: &User, authorizer: &Arc<Authorizer>) -> Self {
        let value = |json: Option<&Json>| json.map_or(Value::Null, Value::from_json);
        let mut request = facts.request.clone();
        if let Json::Object(fields) = &mut request {
            for field in ["object", "oldObject", "uid"] {
                fields.remove(field);
            }
        }
        let text = |path: &str| request.pointer(path).and_then(Json::as_str).unwrap_or_default().to_owned();
        let check = AccessCheck {
            group: text("/requestResource/group"),
            resource: text("/requestResource/resource"),
            subresource: text("/requestSubResource"),
            namespace: text("/namespace"),
            name: text("/name"),
            ..AccessCheck::default()
        };
        let asker = Arc::new(Asker { authorizer: authorizer.clone(), user: user.clone() });
        Self {
            object: value(facts.object.as_ref()),
            old: value(facts.old.as_ref()),
            request: Value::from_json(&request),
            namespace: facts.namespace.as_ref().map_or(Value::Null, namespace),
            params: Value::Null,
            authorizer: Access::Authorizer(asker, Arc::new(check)).value(),
            variables: Value::Null,
        }
    }

    /// With other parameters.
    pub fn with_params(self, params: Option<&Json>) -> Self {
        Self { params: params.map_or(Value::Null, Value::from_json), ..self }
    }

    /// With these variables, which are evaluated when they are first asked for.
    pub fn with_variables(mut self, variables: Arc<[(String, Expression)]>) -> Self {
        self.variables = Value::Null;
        let known = Arc::new(Known { variables, input: self.clone(), found: Mutex::default() });
        self.variables = Variables(known).value();
        self
    }

    /// The same request with another state of the object, and with variables that see it.
    pub fn with_object(self, object: &Json) -> Self {
        Self { object: Value::from_json(object), ..self }
    }
}

/// What policies see of a namespace.
fn namespace(json: &Json) -> Value {
    let mut json = json.clone();
    if let Some(Json::Object(metadata)) = json.get_mut("metadata") {
        for field in ["managedFields", "ownerReferences"] {
            metadata.remove(field);
        }
    }
    Value::from_json(&json)
}

/// The variables of a policy in one request.
struct Variables(Arc<Known>);

struct Known {
    variables: Arc<[(String, Expression)]>,
    input: Input,
    /// What was evaluated already. Held while it is looked into, never while something is evaluated.
    found: Mutex<BTreeMap<String, Evaluated>>,
}

impl Variables {
    fn value(self) -> Value {
        Special::Record(Arc::new(self)).value()
    }
}

impl fmt::Debug for Variables {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("variables")
    }
}

impl Record for Variables {
    fn get(&self, field: &str, budget: &mut Budget) -> Option<Evaluated> {
        let known = &self.0;
        let found = || known.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = found().get(field) {
            return Some(found.clone());
        }
        let (name, expression) = known.variables.iter().find(|(name, _)| name == field)?;
        let input = Input { variables: Self(known.clone()).value(), ..known.input.clone() };
        // A variable has a limit of its own; what it costs counts for the policy.
        let mut own = Budget::new(POLICY_STEPS);
        let outcome = expression.evaluate(&input, &mut own);
        budget.spend_outside(POLICY_STEPS - own.left());
        let result = match (&expression.program, outcome) {
            (_, Ok(value)) => Ok(value),
            (_, Err(Failure::OutOfBudget)) => Err(EvalError::TooExpensive),
            (Err(problem), _) => {
                Err(EvalError::Failed(format!("composited variable {name:?} fails to compile: {problem}")))
            }
            (Ok(_), Err(Failure::Failed(text))) => {
                let told = format!("expression '{}' resulted in error: ", expression.source());
                let text = text.strip_prefix(&told).unwrap_or(&text);
                Err(EvalError::Failed(format!("composited variable {name:?} fails to evaluate: {text}")))
            }
        };
        if result != Err(EvalError::TooExpensive) {
            found().insert(field.to_owned(), result.clone());
        }
        Some(result)
    }
}

/// Asks the cluster's authorizer for one user.
struct Asker {
    authorizer: Arc<Authorizer>,
    user: User,
}

impl fmt::Debug for Asker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "authorizer of {}", self.user.name)
    }
}

impl Authorize for Asker {
    fn decide(&self, check: &AccessCheck) -> Decision {
        let attributes = Attributes {
            verb: &check.verb,
            group: &check.group,
            resource: &check.resource,
            subresource: &check.subresource,
            namespace: &check.namespace,
            name: &check.name,
            path: &check.path,
            field_selector: &check.field_selector,
        };
        let (is_allowed, reason) = self.authorizer.explain(&self.user, &attributes);
        Decision { is_allowed, reason }
    }

    fn for_account(&self, namespace: &str, name: &str) -> Arc<dyn Authorize> {
        let user = User::service_account(namespace, name, "", Default::default());
        Arc::new(Self { authorizer: self.authorizer.clone(), user })
    }
}
