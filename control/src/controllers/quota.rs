//! Counts what each quota is used, from what there is.
//!
//! Writes add to `status.used` themselves, with what they write; here what was given back is found.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, ResourceQuota};
use naru_model::Object;
use serde_json::{Map, Value, json};

use super::framework::{Cache, Change, ClusterView, Plan, Reconciler, Write, brief, key_of};
use crate::{admission::quota, store::Key};

/// A count takes a look at every pod of the namespace, and a thousand of them may end at once.
const PACE: Duration = Duration::from_millis(100);
/// Time gives back, too: pods that should have ended by now.
const RECOUNT: Duration = Duration::from_mins(5);

pub struct ResourceQuotas;

impl Reconciler for ResourceQuotas {
    type Object = ResourceQuota;

    fn name(&self) -> &'static str {
        "resourcequota-controller"
    }

    fn concerns(&self, change: &Change<'_>, cache: &Cache, look: &mut dyn FnMut(Key)) {
        let namespace = change.entry.key.namespace();
        if namespace.is_empty() || !gives_back(change) {
            return;
        }
        for quota in cache.list::<ResourceQuota>(Some(namespace)) {
            look(key_of::<ResourceQuota>(namespace, quota.name()));
        }
    }

    fn reconcile(&self, quota: &ResourceQuota, view: &ClusterView<'_>) -> Plan {
        let mut plan = Plan::nothing();
        plan.look_again(RECOUNT);
        let namespace = quota.namespace();
        let used = quota::recount(quota, view.now, |resource| {
            view.cache.entries(resource, Some(namespace)).cloned().collect()
        });
        let status = quota::status(quota, &used);
        let is_known = quota.status.as_ref().is_some_and(|old| old.hard == status.hard);
        if is_known && quota::used(quota) == used {
            return plan;
        }
        // Names that are limited no longer must go, and a merge keeps what it does not mention.
        let mut patch = json!({ "status": status });
        for part in ["hard", "used"] {
            let old = quota.status.as_ref().and_then(|status| match part {
                "hard" => status.hard.as_ref(),
                _ => status.used.as_ref(),
            });
            let amounts =
                patch["status"].as_object_mut().map(|status| status.entry(part).or_insert(json!({})));
            if let Some(amounts) = amounts.and_then(Value::as_object_mut) {
                forget(amounts, old.into_iter().flat_map(|old| old.keys()));
            }
        }
        // Only what was counted is replaced: a write that was faster is counted on the next look.
        patch["metadata"] = json!({ "resourceVersion": quota.metadata.resource_version });
        plan.then([Write::merge_patch(key_of::<ResourceQuota>(namespace, quota.name()), "status", patch)]);
        plan
    }

    fn pace(&self) -> Duration {
        PACE
    }
}

fn forget<'a>(amounts: &mut Map<String, Value>, old: impl Iterator<Item = &'a String>) {
    for name in old {
        amounts.entry(name.clone()).or_insert(Value::Null);
    }
}

fn gives_back(change: &Change<'_>) -> bool {
    if change.is_deleted {
        return true;
    }
    let Some(previous) = change.previous else { return false };
    if change.is::<Pod>() {
        let has_ended = |entry| brief(entry).is_some_and(|pod| pod.is_terminal);
        return has_ended(change.entry) && !has_ended(previous);
    }
    matches!(change.entry.key.resource(), quota::usage::SERVICES | quota::usage::CLAIMS)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::controllers::{
        framework::Typed,
        testing::{World, named, pod},
    };

    fn quota(hard: Value) -> ResourceQuota {
        let spec = serde_json::from_value(json!({ "hard": hard })).expect("a spec");
        ResourceQuota { metadata: named("all"), spec: Some(spec), status: None }
    }

    fn used(world: &World) -> BTreeMap<String, String> {
        let quota = world.get::<ResourceQuota>("default", "all");
        let used = quota.status.as_ref().and_then(|status| status.used.clone()).unwrap_or_default();
        used.into_iter().map(|(name, amount)| (name, amount.0)).collect()
    }

    fn expected(amounts: &[(&str, &str)]) -> BTreeMap<String, String> {
        amounts.iter().map(|(name, amount)| ((*name).to_owned(), (*amount).to_owned())).collect()
    }

    #[test]
    fn what_is_there_is_counted_and_what_is_gone_is_not() {
        let mut world = World::default();
        let controller = Typed(ResourceQuotas);
        let key = key_of::<ResourceQuota>("default", "all");
        world.add(quota(json!({ "pods": "3", "count/pods": "3", "count/leases.coordination.k8s.io": "1" })));
        for name in ["a", "b"] {
            world.add(pod(name, "web"));
        }
        world.look(&controller, &key);
        let leases = "count/leases.coordination.k8s.io";
        assert_eq!(used(&world), expected(&[("pods", "2"), ("count/pods", "2"), (leases, "0")]));
        world.report::<Pod>("default", "a", |pod| {
            pod.status.get_or_insert_default().phase = Some("Succeeded".into());
        });
        world.look(&controller, &key);
        assert_eq!(used(&world), expected(&[("pods", "1"), ("count/pods", "2"), (leases, "0")]));
        world.edit::<ResourceQuota>("default", "all", |all| {
            *all = ResourceQuota {
                status: all.status.clone(),
                metadata: all.metadata.clone(),
                ..quota(json!({ "pods": "3" }))
            }
        });
        world.delete(&key_of::<Pod>("default", "b"), &Default::default());
        world.look(&controller, &key);
        assert_eq!(used(&world), expected(&[("pods", "0")]));
        assert!(world.plan(&controller, &key).writes().next().is_none(), "nothing changes without a reason");
    }
}
