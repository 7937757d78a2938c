//! A request as webhooks are asked about it.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;

use crate::{
    ApiError,
    admission::matching::{Criteria, Namespace, Operation, Resource, Subject},
    auth::Authorizer,
    registry::{AnyObject, Call, Kinds, Served, scale_value},
    store::{Entry, Key, Snapshot},
};

type Labels = BTreeMap<String, String>;

static NO_LABELS: Labels = Labels::new();

/// A request on its way through webhooks.
pub(in crate::admission) struct Asked<'a> {
    pub call: &'a Call<'a>,
    pub kinds: &'a Kinds,
    /// Whom conditions may ask.
    pub authorizer: &'a Arc<Authorizer>,
    pub operation: Operation,
    pub subresource: &'a str,
    /// As the client gave it: "" where the server generates one.
    pub name: String,
    pub shape: Shape<'a>,
    /// The state that the request replaces or removes.
    pub old: Option<&'a dyn AnyObject>,
    /// `CreateOptions`, `UpdateOptions`, …
    pub options: Value,
    /// The one that the object is in, or is.
    namespace: Option<Arc<Entry>>,
    equivalents: Vec<Resource<'a>>,
}

/// What webhooks are shown.
#[derive(Clone, Copy)]
pub(in crate::admission) enum Shape<'a> {
    /// The object itself.
    Whole,
    /// How many replicas it has, or is to have.
    Scale,
    /// Something of this type that is sent to it: an eviction, a binding, options of a connection.
    Message(Type<'a>),
}

/// The state after a request.
#[derive(Clone, Copy)]
pub(in crate::admission) enum Content<'o> {
    /// There is none: something is deleted.
    Nothing,
    Object(&'o dyn AnyObject),
    /// What is sent to an object, with its type.
    Message(&'o Value),
}

impl Content<'_> {
    /// The name of what is written; `None` for anything else.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Object(object) => Some(object.name()),
            Self::Nothing | Self::Message(_) => None,
        }
    }
}

/// Group, version and kind.
#[derive(Clone, Copy)]
pub(in crate::admission) struct Type<'a> {
    pub group: &'a str,
    pub version: &'a str,
    pub kind: &'a str,
}

impl<'a> Type<'a> {
    /// What `value` says that it is.
    pub fn of(value: &'a Value) -> Self {
        let text = |field: &str| value[field].as_str().unwrap_or_default();
        let (group, version) = text("apiVersion").split_once('/').unwrap_or(("", text("apiVersion")));
        Self { group, version, kind: text("kind") }
    }
}

/// What a request is about, for [`Asked::new`].
pub(in crate::admission) struct About<'a> {
    pub operation: Operation,
    pub subresource: &'a str,
    pub name: String,
    pub shape: Shape<'a>,
    pub old: Option<&'a dyn AnyObject>,
    pub options: Value,
}

impl<'a> Asked<'a> {
    pub fn new(
        call: &'a Call<'a>,
        kinds: &'a Kinds,
        view: &Snapshot,
        authorizer: &'a Arc<Authorizer>,
        about: About<'a>,
    ) -> Self {
        let About { operation, subresource, name, shape, old, options } = about;
        let home = if is_namespaces(call.served) { name.as_str() } else { call.namespace };
        let namespace = view.get(&Key::new("namespaces", "", home)).filter(|_| !home.is_empty());
        let is_equivalent = |other: &&Arc<Served>| {
            !other.is_virtual && (subresource.is_empty() || other.has_subresource(subresource))
        };
        let same = kinds.of_storage(&call.served.storage).iter().filter(is_equivalent);
        let equivalents = same.map(|served| resource(served)).collect();
        Self {
            call,
            kinds,
            authorizer,
            operation,
            subresource,
            name,
            shape,
            old,
            options,
            namespace,
            equivalents,
        }
    }

    /// The form in which something with these criteria is to be shown the request, of which `content` is the outcome;
    /// `None` where it is not concerned.
    pub fn matches(&self, criteria: &Criteria, content: Content<'_>) -> Result<Option<&'a Served>, ApiError> {
        let own = self.call.served;
        let message_labels = match content {
            Content::Message(message) => labels_of(message),
            _ => None,
        };
        let labels = match content {
            Content::Nothing => None,
            Content::Object(object) => Some(self.labels(object)),
            Content::Message(_) => message_labels.as_ref(),
        };
        let subject = Subject {
            operation: self.operation,
            resource: resource(own),
            subresource: self.subresource,
            name: &self.name,
            equivalents: &self.equivalents,
            labels,
            old_labels: self.old.map(|old| self.labels(old)),
            namespace: self.home(content),
        };
        let matched = criteria.matches(&subject).map_err(|_| ApiError::NotFound {
            resource: "namespaces".into(),
            name: self.call.namespace.into(),
        })?;
        Ok(matched.map(|matched| {
            let other = self.kinds.find(matched.group, matched.version, matched.plural);
            other.filter(|_| matched != subject.resource).map_or(own, |other| &**other)
        }))
    }

    /// The name of the namespace that the object is in, or is; "" for others.
    pub fn home_name(&self) -> &str {
        if is_namespaces(self.call.served) { &self.name } else { self.call.namespace }
    }

    /// The namespace that the object is in.
    pub fn surroundings(&self) -> Option<&Arc<Entry>> {
        self.namespace.as_ref().filter(|_| !is_namespaces(self.call.served))
    }

    fn labels<'o>(&self, object: &'o dyn AnyObject) -> &'o Labels {
        match self.shape {
            Shape::Whole => object.meta().labels.as_ref().unwrap_or(&NO_LABELS),
            Shape::Scale | Shape::Message(_) => &NO_LABELS,
        }
    }

    fn home<'o>(&'o self, content: Content<'o>) -> Namespace<'o> {
        let stored = self.namespace.as_ref().map(|entry| &*entry.meta.labels);
        if is_namespaces(self.call.served) {
            // What is being written is not stored yet.
            let written = match content {
                Content::Object(object) if self.subresource.is_empty() => Some(self.labels(object)),
                _ => None,
            };
            return written.or(stored).map_or(Namespace::Missing, Namespace::Itself);
        }
        if self.call.served.info.namespaced {
            return stored.map_or(Namespace::Missing, Namespace::In);
        }
        Namespace::None
    }

    /// What the request is about, as clients of `served` see it.
    pub fn shown(&self, served: &Served, content: Content<'_>) -> Result<Value, ApiError> {
        let value = match (content, self.shape) {
            (Content::Nothing, _) => Ok(Value::Null),
            (Content::Message(message), _) => Ok(message.clone()),
            (Content::Object(object), Shape::Scale) => scale_value(&*self.call.served.kind, object),
            (Content::Object(object), _) => self.call.served.shown_as(served, object),
        };
        value.map_err(|error| ApiError::Internal(format!("cannot show the object to a webhook: {error}")))
    }

    /// The object of which `value` is what [`Self::shown`] would answer; `before` is what it was made from.
    pub fn read(
        &self,
        served: &Served,
        value: Value,
        before: &dyn AnyObject,
    ) -> Result<Box<dyn AnyObject>, ApiError> {
        match self.shape {
            Shape::Whole | Shape::Message(_) => self.call.served.read_from(served, &value),
            Shape::Scale => {
                let replicas = value["spec"]["replicas"].as_i64().and_then(|of| i32::try_from(of).ok());
                let mut object = before.boxed();
                self.call.served.kind.set_scale(&mut *object, replicas.unwrap_or(0));
                Ok(object)
            }
        }
    }

    /// The type of what is shown as clients of `served` know it.
    pub fn type_of<'t>(&'t self, served: &'t Served) -> Type<'t> {
        match self.shape {
            Shape::Whole => {
                Type { group: served.info.group, version: served.info.version, kind: served.info.kind }
            }
            Shape::Scale => Type { group: "autoscaling", version: "v1", kind: "Scale" },
            Shape::Message(of) => of,
        }
    }
}

/// The labels of what is sent to an object, where it has metadata at all.
fn labels_of(message: &Value) -> Option<Labels> {
    let labels = message.get("metadata")?.get("labels").and_then(Value::as_object);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Some(labels.into_iter().flatten().map(|(key, value)| (key.clone(), text(value))).collect())
}

fn resource(served: &Served) -> Resource<'static> {
    Resource { group: served.info.group, version: served.info.version, plural: served.info.plural }
}

fn is_namespaces(served: &Served) -> bool {
    served.info.plural == "namespaces" && served.info.group.is_empty()
}
