//! MutatingAdmissionWebhook and ValidatingAdmissionWebhook: servers outside that change what is written, or refuse it.
//!
//! Configurations are compiled when they changed, so a request that finds none pays for two look-ups. Mutating webhooks
//! are asked one after the other, as each sees what the last one made; what one changed may be shown again to those
//! that were asked before. Validating ones are asked at once. Not here: what webhooks apply to (`matching`), and the
//! connection (`crate::webhook`).

mod asked;
mod hook;
mod review;
mod set;

pub(super) use asked::{About, Asked, Shape};
pub(super) use hook::Hook;
pub(super) use review::facts;
pub use set::Webhooks;

use std::collections::BTreeSet;

use futures::future::join_all;
use serde_json::Value;

use crate::{
    ApiError,
    client::Patch,
    registry::{AnyObject, Preparation, Served, apply_patch},
};

/// What webhooks may change, and how it comes into form again.
pub(super) struct Mutable<'m> {
    pub object: &'m mut Box<dyn AnyObject>,
    pub preparation: &'m Preparation<'m>,
}

impl Mutable<'_> {
    /// Takes `value`, in the form of `served`, in the place of the object.
    pub fn put(&mut self, asked: &Asked<'_>, served: &Served, value: Value) -> Result<(), ApiError> {
        let mut new = asked.read(served, value, &**self.object)?;
        self.preparation.again(&mut *new, &**self.object)?;
        *self.object = new;
        Ok(())
    }
}

/// Which webhooks or policies of a request are asked a second time; `K` tells them apart.
#[derive(Default)]
pub(super) struct Rounds<K = usize> {
    is_second: bool,
    /// Those that were asked, and want to see what others change later.
    asked: Vec<K>,
    /// Those of them after which something changed.
    due: BTreeSet<K>,
    /// What the last one left.
    left: Option<bytes::Bytes>,
}

impl<K: Ord> Rounds<K> {
    /// Notes that one of those asked changed the object.
    pub fn note_change(&mut self) {
        self.due.extend(self.asked.drain(..));
    }

    /// Notes one that wants to see what others change later.
    pub fn note_asked(&mut self, hook: K) {
        self.asked.push(hook);
    }

    /// Notes what the last one left.
    pub fn note_result(&mut self, object: Option<&dyn AnyObject>) {
        self.left = json(object);
    }

    pub fn skips(&self, hook: &K) -> bool {
        self.is_second && !self.due.contains(hook)
    }

    /// Begins the second round with `object`, which others may have changed since the first.
    pub fn begin_again(&mut self, object: Option<&dyn AnyObject>) {
        self.is_second = true;
        if json(object) != self.left {
            self.note_change();
        }
    }
}

/// Asks mutating webhooks, the first time or again; answers whether one changed the object. Without an object only
/// refusals count: there is nothing to change in what is deleted, or sent to a pod.
pub(super) async fn mutate(
    hooks: &[Hook],
    asked: &Asked<'_>,
    mut mutable: Option<Mutable<'_>>,
    rounds: &mut Rounds,
    warnings: &mut Vec<String>,
) -> Result<bool, ApiError> {
    let mut is_changed = false;
    for (index, hook) in hooks.iter().enumerate() {
        if rounds.skips(&index) {
            continue;
        }
        let object = mutable.as_ref().map(|mutable| &**mutable.object);
        let Some(served) = hook.applies(asked, object)? else { continue };
        let answer = hook.ask(asked, served, object).await;
        match answer {
            Err(why) => hook.excuse(why)?,
            Ok(mut verdict) => {
                warnings.append(&mut verdict.warnings);
                if !verdict.is_allowed {
                    return Err(verdict.refusal(&hook.name));
                }
                if let Some(patch) = verdict.patch
                    && apply(&hook.name, asked, served, patch, mutable.as_mut())?
                {
                    is_changed = true;
                    rounds.note_change();
                }
            }
        }
        if hook.is_reinvocable {
            rounds.note_asked(index);
        }
    }
    rounds.note_result(mutable.as_ref().map(|mutable| &**mutable.object));
    Ok(is_changed)
}

/// The second round, after everything built in has seen the object again.
pub(super) async fn mutate_again(
    hooks: &[Hook],
    asked: &Asked<'_>,
    mutable: Mutable<'_>,
    mut rounds: Rounds,
    warnings: &mut Vec<String>,
) -> Result<(), ApiError> {
    rounds.begin_again(Some(&**mutable.object));
    mutate(hooks, asked, Some(mutable), &mut rounds, warnings).await.map(drop)
}

/// Applies a webhook's patch; answers whether that changed anything.
fn apply(
    hook: &str,
    asked: &Asked<'_>,
    served: &Served,
    patch: Value,
    mutable: Option<&mut Mutable<'_>>,
) -> Result<bool, ApiError> {
    let Some(mutable) = mutable else {
        return Err(ApiError::Internal(format!(
            "admission webhook {hook:?} attempted to modify the object, which is not supported for this operation"
        )));
    };
    let before = review::shown(asked, served, &**mutable.object, true)?;
    let mut after = before.clone();
    apply_patch(&Patch::Json(patch), "", &mut after)
        .map_err(|error| ApiError::Internal(format!("the patch of admission webhook {hook:?}: {error}")))?;
    if after == before {
        return Ok(false);
    }
    mutable.put(asked, served, after).map_err(|error| {
        ApiError::Internal(format!(
            "what admission webhook {hook:?} makes of the object cannot be read: {error}"
        ))
    })?;
    Ok(true)
}

/// Asks validating webhooks, all at once.
pub(super) async fn validate(
    hooks: &[Hook],
    asked: &Asked<'_>,
    object: Option<&dyn AnyObject>,
    warnings: &mut Vec<String>,
) -> Result<(), ApiError> {
    let mut due = Vec::new();
    for hook in hooks {
        if let Some(served) = hook.applies(asked, object)? {
            due.push(async move { (hook, hook.ask(asked, served, object).await) });
        }
    }
    let mut refusal = None;
    for (hook, answer) in join_all(due).await {
        let outcome = match answer {
            Err(why) => hook.excuse(why),
            Ok(mut verdict) => {
                warnings.append(&mut verdict.warnings);
                if verdict.is_allowed { Ok(()) } else { Err(verdict.refusal(&hook.name)) }
            }
        };
        refusal = refusal.or(outcome.err());
    }
    refusal.map_or(Ok(()), Err)
}

fn json(object: Option<&dyn AnyObject>) -> Option<bytes::Bytes> {
    object.and_then(|object| object.draft().ok()).map(|draft| draft.json)
}
