//! The objects that bindings name as parameters.

use std::sync::Arc;

use k8s_openapi::api::admissionregistration::v1::{ParamKind, ParamRef};
use naru_model::selector::Selector;
use serde_json::Value;

use crate::{
    registry::{Kinds, Served},
    store::{Entry, Key, Scope, Snapshot},
};

/// A parameter with its name: `shop/limits`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Param {
    pub name: String,
    pub value: Value,
}

/// Where parameters are looked for.
pub(super) struct Finder<'a> {
    pub kinds: &'a Kinds,
    pub view: &'a Snapshot,
    /// Of the request; "" where it is about an object of the cluster.
    pub namespace: &'a str,
}

impl Finder<'_> {
    /// The resource of a policy's parameters.
    ///
    /// # Errors
    /// That there is none, in Kubernetes' words.
    pub fn resource(&self, kind: &ParamKind) -> Result<&Served, String> {
        let version = kind.api_version.as_deref().unwrap_or_default();
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let name = kind.kind.as_deref().unwrap_or_default();
        let is_it = |served: &&Arc<Served>| {
            let info = served.info;
            (info.group, info.version, info.kind) == (group, version, name) && !served.is_virtual
        };
        self.kinds.all().iter().find(is_it).map(|served| &**served).ok_or_else(|| {
            format!("failed to find resource referenced by paramKind: '{group}/{version}, Kind={name}'")
        })
    }

    /// The parameters that `wanted` names; `None` stands for no parameter at all.
    ///
    /// # Errors
    /// What is wrong with the binding, in Kubernetes' words.
    pub fn find(&self, resource: &Served, wanted: Option<&ParamRef>) -> Result<Vec<Option<Param>>, String> {
        let Some(wanted) = wanted else { return Ok(vec![None]) };
        let named = wanted.namespace.as_deref().unwrap_or_default();
        let namespace = match (resource.info.namespaced, named, self.namespace) {
            (false, "", _) => None,
            (false, ..) => {
                return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".into());
            }
            (true, "", "") => {
                return Err(
                    "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources"
                        .into(),
                );
            }
            (true, "", own) => Some(own),
            (true, named, _) => Some(named),
        };
        let entries: Vec<Arc<Entry>> = match wanted.name.as_deref().unwrap_or_default() {
            "" => {
                let selector =
                    Selector::from_api(wanted.selector.as_ref()).map_err(|error| error.to_string())?;
                let scope = namespace.map_or_else(
                    || Scope::all(&resource.storage),
                    |namespace| Scope::namespace(&resource.storage, namespace),
                );
                let entries = self.view.range(&scope, None);
                entries.filter(|entry| selector.matches(&*entry.meta.labels)).collect()
            }
            name => {
                let key = Key::new(&resource.storage, namespace.unwrap_or_default(), name);
                self.view.get(&key).into_iter().collect()
            }
        };
        if entries.is_empty() && wanted.parameter_not_found_action.as_deref() == Some("Deny") {
            return Err("no params found for policy binding with `Deny` parameterNotFoundAction".into());
        }
        entries.iter().map(|entry| param(resource, entry).map(Some)).collect()
    }
}

fn param(resource: &Served, entry: &Entry) -> Result<Param, String> {
    let value = resource.value(entry).map_err(|error| error.to_string())?;
    Ok(Param { name: format!("{}/{}", entry.meta.namespace, entry.meta.name), value })
}
