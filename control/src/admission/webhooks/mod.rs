//! MutatingAdmissionWebhook and ValidatingAdmissionWebhook: servers outside that change what is written, or refuse it.
//!
//! Configurations are compiled when they changed, so a request that finds none pays for two look-ups. Mutating webhooks
//! are asked one after the other, as each sees what the last one made; what one changed may be shown again to those
//! that were asked before. Validating ones are asked at once. Not here: what webhooks apply to (`matching`), and the
//! connection (`crate::webhook`).

mod annotations; // What the audit log is told.
mod asked;
mod hook;
mod review;
mod set;

pub(super) use asked::{About, Asked, Content, Shape, Type};
pub(super) use hook::Hook;
pub(super) use review::facts;
pub(super) use set::Hooks;
pub use set::Webhooks;

use std::collections::BTreeSet;

use futures::future::join_all;
use serde_json::Value;

use annotations::Place;
use review::Verdict;

use crate::{
    ApiError,
    client::Patch,
    registry::{AnyObject, Preparation, Served, apply_patch},
};

/// What webhooks and policies may change, and how it comes into form again.
pub(super) enum Mutable<'m> {
    /// Something is deleted: only refusals count.
    Nothing,
    Object {
        object: &'m mut Box<dyn AnyObject>,
        preparation: &'m Preparation<'m>,
    },
    /// What is sent to an object, and whether it can be read.
    Message {
        message: &'m mut Value,
        check: fn(&Value) -> Result<(), String>,
    },
}

impl Mutable<'_> {
    pub fn content(&self) -> Content<'_> {
        match self {
            Self::Nothing => Content::Nothing,
            Self::Object { object, .. } => Content::Object(&***object),
            Self::Message { message, .. } => Content::Message(message),
        }
    }

    /// Takes `value`, in the form of `served`, in the place of what there is.
    pub fn put(&mut self, asked: &Asked<'_>, served: &Served, value: Value) -> Result<(), ApiError> {
        match self {
            Self::Nothing => (),
            Self::Object { object, preparation } => {
                let mut new = asked.read(served, value, &***object)?;
                preparation.again(&mut *new, &***object)?;
                **object = new;
            }
            Self::Message { message, check } => {
                check(&value).map_err(ApiError::Internal)?;
                **message = value;
            }
        }
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
    pub fn note_result(&mut self, content: Content<'_>) {
        self.left = json(content);
    }

    pub fn skips(&self, hook: &K) -> bool {
        self.is_second && !self.due.contains(hook)
    }

    /// Begins the second round with `content`, which others may have changed since the first.
    pub fn begin_again(&mut self, content: Content<'_>) {
        self.is_second = true;
        if json(content) != self.left {
            self.note_change();
        }
    }
}

/// Asks mutating webhooks, the first time or again; answers whether one changed anything.
pub(super) async fn mutate(
    hooks: &[Hook],
    asked: &Asked<'_>,
    mutable: &mut Mutable<'_>,
    rounds: &mut Rounds,
) -> Result<bool, ApiError> {
    let mut is_changed = false;
    for (index, hook) in hooks.iter().enumerate() {
        if rounds.skips(&index) {
            continue;
        }
        let Some(served) = hook.applies(asked, mutable.content())? else { continue };
        let place = Place { round: usize::from(rounds.is_second), index };
        let done = match hook.ask(asked, served, mutable.content()).await {
            Err(why) => {
                hook.excuse(why, || annotations::failed_open(asked, hook, "mutation", place)).map(|()| false)
            }
            Ok(verdict) => follow(hook, asked, served, verdict, mutable, place),
        };
        let has_mutated = matches!(done, Ok(true));
        annotations::mutation(asked, hook, place, has_mutated);
        done?;
        if has_mutated {
            is_changed = true;
            rounds.note_change();
        }
        if hook.is_reinvocable {
            rounds.note_asked(index);
        }
    }
    rounds.note_result(mutable.content());
    Ok(is_changed)
}

/// Does as a mutating webhook says; answers whether that changed anything.
fn follow(
    hook: &Hook,
    asked: &Asked<'_>,
    served: &Served,
    verdict: Verdict,
    mutable: &mut Mutable<'_>,
    place: Place,
) -> Result<bool, ApiError> {
    if !verdict.is_allowed {
        return Err(verdict.refusal(&hook.name));
    }
    let Some(patch) = verdict.patch else { return Ok(false) };
    let is_changed = apply(&hook.name, asked, served, &patch, mutable)?;
    annotations::patch(asked, hook, place, &patch);
    Ok(is_changed)
}

/// Applies a webhook's patch; answers whether that changed anything.
fn apply(
    hook: &str,
    asked: &Asked<'_>,
    served: &Served,
    patch: &Value,
    mutable: &mut Mutable<'_>,
) -> Result<bool, ApiError> {
    if matches!(mutable, Mutable::Nothing) {
        return Err(ApiError::Internal(format!(
            "admission webhook {hook:?} attempted to modify the object, which is not supported for this operation"
        )));
    }
    let before = review::shown(asked, served, mutable.content(), true)?;
    let mut after = before.clone();
    apply_patch(&Patch::Json(patch.clone()), "", &mut after).map_err(|error| useless(hook, error))?;
    if after == before {
        return Ok(false);
    }
    mutable.put(asked, served, after).map_err(|error| useless(hook, error))?;
    Ok(true)
}

/// The refusal of a request that a webhook spoiled. As in Kubernetes the client is only told what was wrong, so the log
/// tells by whom.
fn useless(hook: &str, error: ApiError) -> ApiError {
    let why = match error {
        ApiError::Internal(why) | ApiError::PatchFailed(why) => why,
        other => other.to_string(),
    };
    tracing::warn!(webhook = hook, why, "what a webhook makes of an object cannot be used");
    ApiError::Internal(why)
}

/// Asks validating webhooks, all at once.
pub(super) async fn validate(
    hooks: &[Hook],
    asked: &Asked<'_>,
    content: Content<'_>,
) -> Result<(), ApiError> {
    let mut due = Vec::new();
    for hook in hooks {
        if let Some(served) = hook.applies(asked, content)? {
            due.push(async move { (hook, hook.ask(asked, served, content).await) });
        }
    }
    let mut refusal = None;
    for (index, (hook, answer)) in join_all(due).await.into_iter().enumerate() {
        let outcome = match answer {
            Err(why) => hook.excuse(why, || {
                annotations::failed_open(asked, hook, "validating", Place { round: 0, index });
            }),
            Ok(verdict) if verdict.is_allowed => Ok(()),
            Ok(verdict) => Err(verdict.refusal(&hook.name)),
        };
        refusal = refusal.or(outcome.err());
    }
    refusal.map_or(Ok(()), Err)
}

fn json(content: Content<'_>) -> Option<bytes::Bytes> {
    match content {
        Content::Nothing => None,
        Content::Object(object) => object.draft().ok().map(|draft| draft.json),
        Content::Message(message) => Some(message.to_string().into()),
    }
}
