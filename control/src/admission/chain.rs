//! The small plugins, in Kubernetes' order: each adds to a write, or refuses it.
//!
//! A plugin begins by asking for the kind that it is about, so a write that it does not concern costs it one
//! comparison. Those that need more than a view of the store (accounts, roles, quotas) stand beside the chain.

use super::{
    ingress, limit_ranger, node_taint, pod_security, runtime_class,
    storage::{DefaultStorageClass, ProtectInUse, Resize},
    topology,
};
use crate::{
    ApiError,
    registry::{AnyObject, Call, Part},
    store::Snapshot,
};

/// A write on its way. `old` is the state that an update replaces, of which it is about `part`.
#[derive(Clone, Copy)]
pub(super) struct Write<'a> {
    pub call: &'a Call<'a>,
    pub part: Part,
    pub view: &'a Snapshot,
    pub old: Option<&'a dyn AnyObject>,
}

impl Write<'_> {
    pub fn is_create(&self) -> bool {
        self.old.is_none()
    }

    /// Whether it sets what the containers of a pod get: their creation does, and `resize`.
    pub fn sets_resources(&self) -> bool {
        self.is_create() || self.part == Part::Spec("resize")
    }

    /// `pods "web" is forbidden: MESSAGE`
    pub fn refuse(&self, object: &dyn AnyObject, message: impl Into<String>) -> ApiError {
        let resource = self.call.served.qualified.clone();
        ApiError::Refused {
            resource,
            name: object.name().into(),
            message: message.into(),
            causes: Vec::new(),
        }
    }
}

/// One rule, or one set of defaults.
pub(super) trait Plugin: Send + Sync {
    /// Before validation: fills in what the cluster says about such objects.
    fn mutate(&self, _write: &Write<'_>, _object: &mut dyn AnyObject) -> Result<(), ApiError> {
        Ok(())
    }

    /// After validation: refuses, or warns.
    fn validate(&self, _write: &Write<'_>, _object: &dyn AnyObject) -> Result<(), ApiError> {
        Ok(())
    }
}

static PLUGINS: [&dyn Plugin; 9] = [
    &limit_ranger::LimitRanger,
    &node_taint::TaintNodesByCondition,
    &DefaultStorageClass,
    &ProtectInUse,
    &Resize,
    &runtime_class::RuntimeClasses,
    &pod_security::PodSecurity,
    &ingress::DefaultIngressClass,
    &topology::PodTopologyLabels,
];

/// Whether plugins are asked about such a part: the rest is a status, or no more than a number.
fn is_asked_about(part: Part) -> bool {
    matches!(part, Part::Whole | Part::Spec(_))
}

pub(super) fn mutate(write: &Write<'_>, object: &mut dyn AnyObject) -> Result<(), ApiError> {
    if !is_asked_about(write.part) {
        return Ok(());
    }
    PLUGINS.iter().try_for_each(|plugin| plugin.mutate(write, object))
}

pub(super) fn validate(write: &Write<'_>, object: &dyn AnyObject) -> Result<(), ApiError> {
    if !is_asked_about(write.part) {
        return Ok(());
    }
    PLUGINS.iter().try_for_each(|plugin| plugin.validate(write, object))
}
