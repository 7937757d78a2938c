//! TaintNodesByCondition: a new node takes no pods until it was seen to be ready.

use k8s_openapi::api::core::v1::{Node, Taint};

use super::chain::{Plugin, Write};
use crate::{ApiError, registry::AnyObject};

const NOT_READY: &str = "node.kubernetes.io/not-ready";

pub(super) struct TaintNodesByCondition;

impl Plugin for TaintNodesByCondition {
    fn mutate(&self, write: &Write<'_>, object: &mut dyn AnyObject) -> Result<(), ApiError> {
        let Some(node) = object.get_mut::<Node>().filter(|_| write.is_create()) else { return Ok(()) };
        let taints = node.spec.get_or_insert_default().taints.get_or_insert_default();
        if !taints.iter().any(|taint| taint.key == NOT_READY && taint.effect == "NoSchedule") {
            taints.push(Taint { key: NOT_READY.into(), effect: "NoSchedule".into(), ..Taint::default() });
        }
        Ok(())
    }
}
