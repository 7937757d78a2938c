//! What the server sets of an object and keeps of its old state, before the object is admitted and judged, and again
//! when somebody outside changed it on the way.

use std::collections::HashSet;

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};
use rand::Rng;

use super::{AnyObject, Call, Context, Part, subresource};
use crate::ApiError;

/// A write whose object was prepared, and can be again.
pub struct Preparation<'a> {
    pub call: &'a Call<'a>,
    pub context: Context<'a>,
    pub stage: Stage<'a>,
}

#[derive(Clone, Copy)]
pub enum Stage<'a> {
    Create {
        /// Whether the server chose the name.
        is_named_here: bool,
    },
    /// `old` is the state that is replaced.
    Update { part: Part, old: &'a dyn AnyObject },
}

impl<'a> Preparation<'a> {
    pub fn part(&self) -> Part {
        match self.stage {
            Stage::Create { .. } => Part::Whole,
            Stage::Update { part, .. } => part,
        }
    }

    pub fn old(&self) -> Option<&'a dyn AnyObject> {
        match self.stage {
            Stage::Create { .. } => None,
            Stage::Update { old, .. } => Some(old),
        }
    }

    /// Prepares `new`, which somebody made of `before`, a state that was prepared.
    pub fn again(&self, new: &mut dyn AnyObject, before: &dyn AnyObject) -> Result<(), ApiError> {
        let kind = &self.call.served.kind;
        match self.stage {
            Stage::Create { .. } => {
                self.call.settle_namespace(new.meta_mut())?;
                keep_birth(new.meta_mut(), before.meta());
                kind.default(new);
                kind.prepare_create(new, &self.context);
            }
            Stage::Update { part, old } => update(self.call, part, new, old, &self.context),
        }
        drop_repeated_owners(self.call, new.meta_mut(), " after mutating admission happens");
        Ok(())
    }
}

/// Gives a new object its identity and its defaults; answers whether its name was generated here.
pub(super) fn begin(call: &Call<'_>, object: &mut dyn AnyObject, now: Timestamp) -> Result<bool, ApiError> {
    let kind = &call.served.kind;
    call.settle_namespace(object.meta_mut())?;
    let is_named_here = begin_life(object.meta_mut(), now, kind.has_generation());
    drop_repeated_owners(call, object.meta_mut(), "");
    kind.default(object);
    Ok(is_named_here)
}

/// Brings the new state of a part into form: all that the part has no say in is as it was.
pub(super) fn update(
    call: &Call<'_>,
    part: Part,
    object: &mut dyn AnyObject,
    old: &dyn AnyObject,
    context: &Context<'_>,
) {
    let kind = &call.served.kind;
    carry_over(object.meta_mut(), old.meta(), part);
    drop_repeated_owners(call, object.meta_mut(), "");
    match part {
        Part::Whole | Part::Scale => {
            kind.default(object);
            kind.prepare_update(object, old, context);
        }
        Part::Status => {
            kind.default(object);
            kind.prepare_status_update(object, old, context);
        }
        Part::Approval => {
            kind.default(object);
            kind.prepare_approval_update(object, old, context);
        }
        Part::Spec(name) => {
            kind.default(object);
            kind.prepare_part_update(name, object, old);
        }
        Part::Finalize => subresource::keep_all_but_finalizers(object, old),
    }
    count_generation(call, part, object, old);
}

/// The next generation where the spec changed. Admission may take a change back, so it is asked again then.
pub(super) fn count_generation(call: &Call<'_>, part: Part, object: &mut dyn AnyObject, old: &dyn AnyObject) {
    let kind = &call.served.kind;
    let may_grow = matches!(part, Part::Whole | Part::Scale | Part::Spec(_)) && kind.has_generation();
    let grows = may_grow && kind.is_spec_changed(object, old);
    object.meta_mut().generation = old.meta().generation.map(|of| of + i64::from(grows));
}

/// Sets what only the server may; answers whether the name was generated here.
fn begin_life(meta: &mut ObjectMeta, now: Timestamp, has_generation: bool) -> bool {
    meta.uid = Some(new_uid());
    meta.creation_timestamp = Some(Time(now));
    meta.generation = has_generation.then_some(1);
    drop_what_only_the_server_says(meta);
    let prefix = meta.generate_name.as_deref().unwrap_or_default();
    let is_unnamed = meta.name.as_deref().unwrap_or_default().is_empty();
    if is_unnamed && !prefix.is_empty() {
        meta.name = Some(generated_name(prefix));
        return true;
    }
    false
}

/// The identity of a new object is the one that it got first.
fn keep_birth(meta: &mut ObjectMeta, before: &ObjectMeta) {
    meta.uid.clone_from(&before.uid);
    meta.creation_timestamp.clone_from(&before.creation_timestamp);
    meta.generation = before.generation;
    drop_what_only_the_server_says(meta);
    if meta.name.as_deref().unwrap_or_default().is_empty() {
        meta.name.clone_from(&before.name);
    }
}

/// An owner is kept once; whoever names it twice is told, `when` that came up.
fn drop_repeated_owners(call: &Call<'_>, meta: &mut ObjectMeta, when: &str) {
    let Some(owners) = meta.owner_references.as_mut().filter(|owners| owners.len() > 1) else { return };
    let (mut seen, mut repeated) = (HashSet::new(), Vec::new());
    owners.retain(|owner| {
        // Compared by their text: a body may name ten thousands of them.
        let is_new = seen.insert(format!("{owner:?}"));
        if !is_new {
            repeated.push(owner.uid.clone());
        }
        is_new
    });
    if !repeated.is_empty() {
        call.warn([format!(
            ".metadata.ownerReferences contains duplicate entries{when}; API server dedups owner references in 1.20+, and \
             may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
            repeated.join(", ")
        )]);
    }
}

fn drop_what_only_the_server_says(meta: &mut ObjectMeta) {
    meta.deletion_timestamp = None;
    meta.deletion_grace_period_seconds = None;
    meta.resource_version = None;
    meta.self_link = None;
    meta.managed_fields = None;
    drop_empty(meta);
}

pub(super) fn new_uid() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// `prefix` and five characters that never spell a word.
pub(super) fn generated_name(prefix: &str) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    const MAX_PREFIX: usize = 63 - 5;
    let mut end = prefix.len().min(MAX_PREFIX);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    let mut random = rand::rng();
    let suffix = (0..5).map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())]));
    prefix[..end].chars().chain(suffix).collect()
}

/// Kubernetes stores no empty lists and maps here, so a client never sees one.
fn drop_empty(meta: &mut ObjectMeta) {
    meta.labels.take_if(|labels| labels.is_empty());
    meta.annotations.take_if(|annotations| annotations.is_empty());
    meta.finalizers.take_if(|finalizers| finalizers.is_empty());
    meta.owner_references.take_if(|owners| owners.is_empty());
}

/// Keeps what an update may not touch, and what it need not repeat.
fn carry_over(new: &mut ObjectMeta, old: &ObjectMeta, part: Part) {
    new.uid.clone_from(&old.uid);
    new.namespace.clone_from(&old.namespace);
    // Files that were read from another cluster tell another time.
    new.creation_timestamp.clone_from(&old.creation_timestamp);
    new.generate_name.clone_from(&old.generate_name);
    new.generation = old.generation;
    // A deletion that began cannot be taken back. An update cannot begin one either: that is refused where it is judged.
    if old.deletion_timestamp.is_some() || part != Part::Whole {
        new.deletion_timestamp.clone_from(&old.deletion_timestamp);
    }
    if new.deletion_grace_period_seconds.is_none() || part != Part::Whole {
        new.deletion_grace_period_seconds = old.deletion_grace_period_seconds;
    }
    new.resource_version = None;
    new.self_link = None;
    new.managed_fields = None;
    drop_empty(new);
}
