//! What the audit log is told of webhooks, under the keys that Kubernetes uses.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

use super::{Asked, Hook};
use crate::audit::Level;

/// Where in the course of a request a webhook is asked: `round_0_index_2`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// 0, or 1 for the webhooks that see what others changed.
    pub round: usize,
    pub index: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "round_{}_index_{}", self.round, self.index)
    }
}

// The fields stand in Kubernetes' order, as people search logs for text.
#[derive(Serialize)]
struct Mutation<'a> {
    configuration: &'a str,
    webhook: &'a str,
    mutated: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Patch<'a> {
    configuration: &'a str,
    webhook: &'a str,
    patch: &'a Value,
    patch_type: &'static str,
}

/// That a mutating webhook was asked, and whether it changed anything.
pub(super) fn mutation(asked: &Asked<'_>, hook: &Hook, place: Place, mutated: bool) {
    asked.call.annotate(Level::Metadata, || {
        let value = Mutation { configuration: &hook.configuration, webhook: &hook.name, mutated };
        (format!("mutation.webhook.admission.k8s.io/{place}"), text(&value))
    });
}

/// What it changed, for events that show what the client sent.
pub(super) fn patch(asked: &Asked<'_>, hook: &Hook, place: Place, patch: &Value) {
    asked.call.annotate(Level::Request, || {
        let (configuration, webhook) = (&*hook.configuration, &*hook.name);
        let value = Patch { configuration, webhook, patch, patch_type: "JSONPatch" };
        (format!("patch.webhook.admission.k8s.io/{place}"), text(&value))
    });
}

/// That a request went on although the webhook could not be asked. `kind` is `mutation` or `validating`.
pub(super) fn failed_open(asked: &Asked<'_>, hook: &Hook, kind: &str, place: Place) {
    asked.call.annotate(Level::Metadata, || {
        (format!("failed-open.{kind}.webhook.admission.k8s.io/{place}"), hook.name.clone())
    });
}

fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
