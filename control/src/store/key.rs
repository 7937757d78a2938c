//! Keys: `resource/namespace/name`, ordered as text.

use std::sync::Arc;

/// Where an object lives: `pods/default/web-0`, `deployments.apps/shop/front`, `nodes//n1`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// `namespace` is "" for cluster-scoped resources.
    pub fn new(resource: &str, namespace: &str, name: &str) -> Self {
        Self(format!("{resource}/{namespace}/{name}").into())
    }
    pub(super) fn from_text(text: &str) -> Self {
        Self(text.into())
    }
    pub(super) fn from_arc(text: Arc<str>) -> Self {
        Self(text)
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
    pub fn resource(&self) -> &str {
        self.0.split('/').next().unwrap_or_default()
    }
    pub fn namespace(&self) -> &str {
        self.0.split('/').nth(1).unwrap_or_default()
    }
    pub fn name(&self) -> &str {
        self.0.splitn(3, '/').nth(2).unwrap_or_default()
    }
}

/// A set of keys: a whole resource, one namespace of it, or one object.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Scope {
    /// As [`naru_model::ResourceInfo::qualified`].
    pub resource: Arc<str>,
    pub namespace: Option<Arc<str>>,
    pub name: Option<Arc<str>>,
}

impl Scope {
    pub fn all(resource: &str) -> Self {
        Self { resource: resource.into(), namespace: None, name: None }
    }
    pub fn namespace(resource: &str, namespace: &str) -> Self {
        Self { resource: resource.into(), namespace: Some(namespace.into()), name: None }
    }
    pub fn contains(&self, key: &Key) -> bool {
        key.resource() == &*self.resource
            && self.namespace.as_deref().is_none_or(|namespace| key.namespace() == namespace)
            && self.name.as_deref().is_none_or(|name| key.name() == name)
    }
}
