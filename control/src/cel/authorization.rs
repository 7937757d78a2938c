//! Asking who may do what: `authorizer.group('apps').resource('deployments').check('create').allowed()`.

use std::sync::Arc;

use naru_model::validation::names;

use super::{Value, eval::Evaluated, failed, vocabulary::Special};

pub const AUTHORIZER: &str = "kubernetes.authorization.Authorizer";
pub const PATH_CHECK: &str = "kubernetes.authorization.PathCheck";
pub const GROUP_CHECK: &str = "kubernetes.authorization.GroupCheck";
pub const RESOURCE_CHECK: &str = "kubernetes.authorization.ResourceCheck";
pub const DECISION: &str = "kubernetes.authorization.Decision";
/// The check of what the request itself is about.
pub const REQUEST_RESOURCE: &str = "requestResource";

/// Who decides, for one user.
pub trait Authorize: std::fmt::Debug + Send + Sync {
    fn decide(&self, check: &AccessCheck) -> Decision;
    /// The same for a service account.
    fn for_account(&self, namespace: &str, name: &str) -> Arc<dyn Authorize>;
}

/// What is asked: about `path`, or about `resource` where that is "".
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccessCheck {
    pub verb: String,
    pub path: String,
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    pub field_selector: String,
    pub label_selector: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub is_allowed: bool,
    pub reason: String,
}

/// A step on the way to a decision.
#[derive(Debug, Clone)]
pub enum Access {
    /// With the check of what the request is about.
    Authorizer(Arc<dyn Authorize>, Arc<AccessCheck>),
    Path(Arc<dyn Authorize>, AccessCheck),
    Group(Arc<dyn Authorize>, AccessCheck),
    Resource(Arc<dyn Authorize>, AccessCheck),
    Decision(Decision),
}

impl Access {
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Authorizer(..) => AUTHORIZER,
            Self::Path(..) => PATH_CHECK,
            Self::Group(..) => GROUP_CHECK,
            Self::Resource(..) => RESOURCE_CHECK,
            Self::Decision(_) => DECISION,
        }
    }

    pub fn value(self) -> Value {
        Special::Access(self).value()
    }

    /// `authorizer.requestResource`
    pub fn field(&self, name: &str) -> Evaluated {
        match self {
            Self::Authorizer(by, request) if name == REQUEST_RESOURCE => {
                Ok(Self::Resource(by.clone(), AccessCheck::clone(request)).value())
            }
            _ => failed("no such overload"),
        }
    }

    pub fn call(&self, name: &str, args: &[Value]) -> Evaluated {
        let mut texts = Vec::with_capacity(args.len());
        for arg in args {
            let Value::String(text) = arg else { return failed("no such overload") };
            texts.push(&**text);
        }
        let made = match (self, name, texts.as_slice()) {
            (Self::Authorizer(by, _), "path", [path]) => {
                if path.trim().is_empty() {
                    return failed("path must not be empty");
                }
                Self::Path(by.clone(), AccessCheck { path: (*path).into(), ..AccessCheck::default() })
            }
            (Self::Authorizer(by, _), "group", [group]) => {
                Self::Group(by.clone(), AccessCheck { group: (*group).into(), ..AccessCheck::default() })
            }
            (Self::Authorizer(by, request), "serviceAccount", [namespace, name]) => {
                if !names::dns1123_subdomain(name).is_empty() {
                    return failed("Invalid service account name");
                }
                if !names::dns1123_label(namespace).is_empty() {
                    return failed("Invalid service account namespace");
                }
                Self::Authorizer(by.for_account(namespace, name), request.clone())
            }
            (Self::Group(by, check), "resource", [resource]) => {
                if resource.trim().is_empty() {
                    return failed("resource must not be empty");
                }
                Self::Resource(by.clone(), AccessCheck { resource: (*resource).into(), ..check.clone() })
            }
            (Self::Path(by, check) | Self::Resource(by, check), "check", [verb]) => {
                Self::Decision(by.decide(&AccessCheck { verb: (*verb).into(), ..check.clone() }))
            }
            (Self::Resource(by, check), part, [text]) => {
                let mut check = check.clone();
                let place = match part {
                    "subresource" => &mut check.subresource,
                    "namespace" => &mut check.namespace,
                    "name" => &mut check.name,
                    "fieldSelector" => &mut check.field_selector,
                    "labelSelector" => &mut check.label_selector,
                    _ => return failed("no such overload"),
                };
                *place = (*text).into();
                Self::Resource(by.clone(), check)
            }
            (Self::Decision(decision), of, []) => {
                return Ok(match of {
                    "allowed" => Value::Bool(decision.is_allowed),
                    "reason" => Value::text(decision.reason.as_str()),
                    // Deciding reads memory only: it cannot fail.
                    "errored" => Value::Bool(false),
                    "error" => Value::text(""),
                    _ => return failed("no such overload"),
                });
            }
            _ => return failed("no such overload"),
        };
        Ok(made.value())
    }
}
