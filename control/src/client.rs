//! The road to the API for code inside the control plane: the same path as an HTTP request, without HTTP.

use std::sync::Arc;

use naru_model::Object;

use crate::{ApiError, store::{Entry, Store}};

/// A patch and its kind.
#[derive(Debug, Clone)]
pub enum Patch {
    Json(serde_json::Value),
    Merge(serde_json::Value),
    Strategic(serde_json::Value),
}

/// Preconditions and policy of a delete, as in `metav1.DeleteOptions`.
#[derive(Debug, Clone, Default)]
pub struct Delete {
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub grace_period_seconds: Option<i64>,
    /// `Background`, `Foreground` or `Orphan`.
    pub propagation_policy: Option<String>,
}

/// Acts as one user of the cluster (`system:serviceaccount:kube-system:deployment-controller`, …).
#[derive(Clone)]
pub struct ApiClient {}

impl ApiClient {
    /// The cache that reads come from.
    pub fn store(&self) -> &Store {
        todo!()
    }
    /// The same road under another name, for audit and RBAC.
    #[must_use]
    pub fn acting_as(&self, user: &str) -> Self {
        todo!("{user}")
    }
    pub async fn create<T: Object>(&self, object: &T) -> Result<Arc<Entry>, ApiError> {
        todo!("{}", object.name())
    }
    /// Replaces the object; a `resourceVersion` in it is a precondition.
    pub async fn update<T: Object>(&self, object: &T) -> Result<Arc<Entry>, ApiError> {
        todo!("{}", object.name())
    }
    pub async fn update_status<T: Object>(&self, object: &T) -> Result<Arc<Entry>, ApiError> {
        todo!("{}", object.name())
    }
    /// `subresource` is "" or, say, `status`.
    pub async fn patch<T: Object>(&self, namespace: &str, name: &str, subresource: &str, patch: Patch) -> Result<Arc<Entry>, ApiError> {
        todo!("{namespace} {name} {subresource} {patch:?}")
    }
    pub async fn delete<T: Object>(&self, namespace: &str, name: &str, options: Delete) -> Result<(), ApiError> {
        todo!("{namespace} {name} {options:?}")
    }
    /// A delete of a resource known only by name: the garbage collector and the namespace controller use it.
    /// `resource` is the qualified plural (`deployments.apps`).
    pub async fn delete_resource(&self, resource: &str, namespace: &str, name: &str, options: Delete) -> Result<(), ApiError> {
        todo!("{resource} {namespace} {name} {options:?}")
    }
    /// Likewise a patch (removing a finalizer or an owner reference).
    pub async fn patch_resource(&self, resource: &str, namespace: &str, name: &str, subresource: &str, patch: Patch) -> Result<Arc<Entry>, ApiError> {
        todo!("{resource} {namespace} {name} {subresource} {patch:?}")
    }
    /// Writes the pod's `binding`: sets `spec.nodeName` and the `PodScheduled` condition.
    pub async fn bind(&self, namespace: &str, pod: &str, pod_uid: &str, node: &str) -> Result<(), ApiError> {
        todo!("{namespace} {pod} {pod_uid} {node}")
    }
    /// Every resource that is served, as (info, namespaced): for the namespace controller and the garbage collector.
    pub fn resources(&self) -> Vec<naru_model::ResourceInfo> {
        todo!()
    }
}
