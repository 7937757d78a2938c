//! ResourceQuota: what a namespace may hold in all.
//!
//! **Invariant:** a write that uses some of a quota changes the quota's `status.used` in the same transaction, under
//! the condition that the quota is still the one that was looked at, or becomes the one that another write leaves. So
//! no number of concurrent writers exceeds it, and a write that fails uses nothing. What is given back is found by the
//! quota controller, from [`recount`]. `turns` lets writers of one namespace go to the disk together all the same.

mod turns; // Writers that share a flush.
pub mod usage;

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, ResourceQuotaStatus, Service},
    apimachinery::pkg::api::resource::Quantity as ApiQuantity,
    jiff::Timestamp,
};
use naru_model::{pod::Resources, quantity::Quantity};

use turns::Coming;
pub use turns::{InLine, Turns};

use crate::{
    ApiError,
    registry::{AnyObject, Call},
    store::{Change, Draft, Entry, Key, Op, Precondition, Scope, Snapshot},
};

pub const QUOTAS: &str = "resourcequotas";

fn is_rationed(view: &Snapshot, call: &Call<'_>) -> bool {
    call.served.info.namespaced
        && view.holds(QUOTAS)
        && view.range(&Scope::namespace(QUOTAS, call.namespace), None).next().is_some()
}

/// What is written with an object for its namespace's quotas to know of it.
#[derive(Default)]
pub struct Charges<'a> {
    pub ops: Vec<Op>,
    /// The quotas as the operations leave them, for who comes next.
    pub leaves: Vec<(Key, Coming)>,
    /// Held until the operations are proposed.
    pub turn: Option<InLine<'a>>,
}

impl<'a> Charges<'a> {
    /// Keeps the turn in which these were worked out, if anybody has to wait for them.
    pub fn in_turn(self, turn: Option<InLine<'a>>) -> Self {
        Self { turn: turn.filter(|_| !self.leaves.is_empty()), ..self }
    }
}

/// What must be written with `new` (which replaces `old` in an update) for the namespace's quotas to know of it. A
/// writer
/// `in_line` builds on what those before it are writing.
pub fn charge(
    view: &Snapshot,
    in_line: Option<&InLine<'_>>,
    call: &Call<'_>,
    new: &dyn AnyObject,
    old: Option<&dyn AnyObject>,
    now: Timestamp,
) -> Result<Charges<'static>, ApiError> {
    let mut charges = Charges::default();
    if (old.is_some() && !may_grow(new)) || !is_rationed(view, call) {
        return Ok(charges);
    }
    let resource = &*call.served.storage;
    let mut asked = usage::measure(resource, new, now);
    if let Some(old) = old {
        let before = usage::measure(resource, old, now);
        for (name, quantity) in &mut asked {
            *quantity -= before.get(name).copied().unwrap_or_default();
        }
    }
    asked.retain(|_, quantity| !quantity.is_zero() && !quantity.is_negative());
    if asked.is_empty() {
        return Ok(charges);
    }
    for entry in view.range(&Scope::namespace(QUOTAS, call.namespace), None) {
        let coming = in_line.and_then(|in_line| in_line.coming(&entry.key));
        let stored;
        let (quota, precondition) = match coming {
            Some(coming) => (&coming.quota, Precondition::Like(coming.draft)),
            None => {
                let Ok(typed) = entry.typed::<ResourceQuota>() else { continue };
                stored = typed;
                (&*stored, Precondition::At(entry.revision))
            }
        };
        let charged = charged(view, resource, quota, new, &asked, old.is_none(), now);
        let charged = charged.map_err(|message| ApiError::Refused {
            resource: call.served.qualified.clone(),
            name: new.name().into(),
            message,
            causes: Vec::new(),
        })?;
        if let Some(charged) = charged {
            let mut draft = Draft::new(&charged).map_err(|error| ApiError::Internal(error.to_string()))?;
            // The server's own bookkeeping: its fields belong to whom they belonged.
            if let Some(managers) = entry.managed_fields() {
                draft = draft.with_managed_fields(managers);
            }
            charges.leaves.push((entry.key.clone(), Coming::new(charged, &draft)));
            charges.ops.push(Op { key: entry.key.clone(), precondition, change: Change::Put(draft) });
        }
    }
    Ok(charges)
}

/// Whether an update of such an object may use more than before.
pub fn may_grow(object: &dyn AnyObject) -> bool {
    object.get::<Pod>().is_some()
        || object.get::<Service>().is_some()
        || object.get::<PersistentVolumeClaim>().is_some()
}

/// The quota with what is `asked` added to its use; `None` where it is not about the object.
fn charged(
    view: &Snapshot,
    resource: &str,
    quota: &ResourceQuota,
    object: &dyn AnyObject,
    asked: &Resources,
    is_new: bool,
    now: Timestamp,
) -> Result<Option<ResourceQuota>, String> {
    let hard = hard(quota);
    let is_about = hard.keys().any(|name| usage::uses(resource, name)) && usage::is_in_scope(quota, object);
    if !is_about {
        return Ok(None);
    }
    let name = quota.metadata.name.as_deref().unwrap_or_default();
    let unsaid = object.get::<Pod>().filter(|_| is_new).and_then(|pod| usage::unsaid(hard.keys(), pod));
    if let Some(unsaid) = unsaid {
        return Err(format!("failed quota: {name}: must specify {unsaid}"));
    }
    let mut used = self::used(quota);
    if hard.keys().any(|name| !used.contains_key(name)) {
        // The quota is new, or asks for more than before, and its controller was not here yet.
        used = recount(quota, now, |resource| entries(view, quota, resource));
    }
    let mut exceeded = Vec::new();
    let before = used.clone();
    for (name, amount) in asked.iter().filter(|(name, _)| hard.contains_key(*name)) {
        let total = used.entry(name.clone()).or_default();
        *total += *amount;
        if *total > hard[name] {
            exceeded.push(name);
        }
    }
    if !exceeded.is_empty() {
        let of = |amounts: &Resources| {
            let amount = |name: &str| amounts.get(name).copied().unwrap_or_default();
            let texts = exceeded.iter().map(|name| format!("{name}={}", amount(name)));
            texts.collect::<Vec<_>>().join(",")
        };
        return Err(format!(
            "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
            of(asked),
            of(&before),
            of(&hard)
        ));
    }
    if used == self::used(quota) {
        return Ok(None);
    }
    Ok(Some(ResourceQuota { status: Some(status(quota, &used)), ..quota.clone() }))
}

/// The status of a quota that is used so far.
pub fn status(quota: &ResourceQuota, used: &Resources) -> ResourceQuotaStatus {
    let hard = quota.spec.as_ref().and_then(|spec| spec.hard.clone());
    let known = |name: &String| hard.as_ref().is_some_and(|hard| hard.contains_key(name));
    let used = used.iter().filter(|(name, _)| known(name));
    let used = used.map(|(name, amount)| (name.clone(), ApiQuantity::from(*amount))).collect();
    ResourceQuotaStatus { hard, used: Some(used) }
}

pub fn hard(quota: &ResourceQuota) -> Resources {
    parsed(quota.spec.as_ref().and_then(|spec| spec.hard.as_ref()))
}

pub fn used(quota: &ResourceQuota) -> Resources {
    parsed(quota.status.as_ref().and_then(|status| status.used.as_ref()))
}

fn parsed(amounts: Option<&BTreeMap<String, ApiQuantity>>) -> Resources {
    let amounts = amounts.into_iter().flatten();
    amounts.filter_map(|(name, amount)| Some((name.clone(), Quantity::try_from(amount).ok()?))).collect()
}

fn entries(view: &Snapshot, quota: &ResourceQuota, resource: &str) -> Vec<Arc<Entry>> {
    let namespace = quota.metadata.namespace.as_deref().unwrap_or_default();
    view.range(&Scope::namespace(resource, namespace), None).collect()
}

/// What is used of everything that the quota limits, counted anew. `entries` answers the objects of a resource in the
/// quota's namespace.
pub fn recount(
    quota: &ResourceQuota,
    now: Timestamp,
    mut entries: impl FnMut(&str) -> Vec<Arc<Entry>>,
) -> Resources {
    let mut used: Resources = hard(quota).into_keys().map(|name| (name, Quantity::ZERO)).collect();
    let mut by_resource: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for name in used.keys() {
        if let Some(resource) = usage::resource_using(name) {
            by_resource.entry(resource.to_owned()).or_default().push(name.clone());
        }
    }
    let is_scoped =
        quota.spec.as_ref().is_some_and(|spec| spec.scopes.is_some() || spec.scope_selector.is_some());
    for (resource, names) in by_resource {
        let entries = entries(&resource);
        if !matches!(resource.as_str(), usage::PODS | usage::SERVICES | usage::CLAIMS) {
            let count = if is_scoped { 0 } else { entries.len() as i64 };
            for name in names {
                used.insert(name, Quantity::from_units(count, naru_model::quantity::Format::DecimalSi));
            }
            continue;
        }
        for entry in entries {
            let Some(object) = decoded(&resource, &entry) else { continue };
            if !usage::is_in_scope(quota, &*object) {
                continue;
            }
            let mut amounts = usage::measure(&resource, &*object, now);
            for name in &names {
                *used.entry(name.clone()).or_default() += amounts.remove(name).unwrap_or_default();
            }
        }
    }
    used
}

fn decoded(resource: &str, entry: &Entry) -> Option<Arc<dyn AnyObject>> {
    match resource {
        usage::PODS => entry.typed::<Pod>().ok().map(|object| object as Arc<dyn AnyObject>),
        usage::SERVICES => entry.typed::<Service>().ok().map(|object| object as Arc<dyn AnyObject>),
        _ => entry.typed::<PersistentVolumeClaim>().ok().map(|object| object as Arc<dyn AnyObject>),
    }
}
