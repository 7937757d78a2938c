//! The road that every write takes: default, admit, validate, allocate, store.
//!
//! **Invariant:** an object is only written by a transaction that is conditional on the state it was made from;
//! where another writer was faster, the whole road is taken again with the newer state. Uids, times and random
//! names are chosen here, before a command is proposed.

use std::sync::{Arc, OnceLock};

use arc_swap::{ArcSwap, Guard};
use bytes::Bytes;
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};
use naru_model::{
    apply::ManagedFields,
    validation::{self, FieldErrors},
};
use rand::Rng as _;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::sync::watch;

use super::{
    AnyObject, Call, Context, Kinds, Part,
    allocation::{Claim, Pools},
    checks::{check_identity, check_update, finalizer_warnings, validate_finalizers, validate_name},
    managed::{self, Owners},
    prepare::{self, Preparation, Stage, generated_name, new_uid},
};
use crate::{
    ApiError,
    admission::{
        Admission,
        matching::Operation,
        quota::{self, Charges, InLine},
    },
    audit::Audit,
    auth::{Attributes, Authorizer, User},
    settings::ClusterSettings,
    store::{Change, Draft, Entry, Key, Op, Precondition, Revision, Snapshot, Store, StoreError},
};

/// How often a write is tried against ever newer states before the client is asked to.
pub(super) const MAX_ATTEMPTS: usize = 64;
/// How often a write lets others go ahead rather than be refused for what they only may use of a quota.
const MAX_STEPS_BACK: usize = 16;
/// How many generated names are tried.
const MAX_NAMES: usize = 8;

/// Everything that can be done with objects, for HTTP handlers and the control plane's own code alike.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

struct Inner {
    store: Store,
    kinds: ArcSwap<Kinds>,
    /// Counts the changes of `kinds`.
    changes: watch::Sender<u64>,
    settings: ClusterSettings,
    admission: Admission,
    authorizer: Arc<Authorizer>,
    /// Set before anything is served, if at all.
    audit: OnceLock<Arc<Audit>>,
}

/// What a write answers.
pub struct Outcome {
    /// The object as stored (or as it would be, in a dry run).
    pub json: Bytes,
    /// The same, decoded as far as entries are; in a dry run, one that is in no store.
    pub entry: Option<Arc<Entry>>,
    pub is_created: bool,
}

impl Registry {
    pub fn new(store: Store, kinds: Kinds, settings: ClusterSettings, authorizer: Arc<Authorizer>) -> Self {
        let admission = Admission::new(authorizer.clone());
        let kinds = ArcSwap::from_pointee(kinds);
        let changes = watch::Sender::new(0);
        let audit = OnceLock::new();
        Self(Arc::new(Inner { store, kinds, changes, settings, admission, authorizer, audit }))
    }

    pub fn store(&self) -> &Store {
        &self.0.store
    }
    /// What is served at this moment.
    pub fn kinds(&self) -> Guard<Arc<Kinds>> {
        self.0.kinds.load()
    }
    /// Serves `kinds` from now on; requests under way end as they began.
    pub fn serve(&self, kinds: Kinds) {
        self.0.kinds.store(Arc::new(kinds));
        self.0.changes.send_modify(|changes| *changes += 1);
    }
    /// Changes whenever what is served does.
    pub fn served_changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }
    pub fn settings(&self) -> &ClusterSettings {
        &self.0.settings
    }

    /// Has what is done from now on recorded; said once.
    pub fn record_to(&self, audit: Arc<Audit>) {
        if self.0.audit.set(audit).is_err() {
            tracing::warn!("requests are recorded already");
        }
    }
    /// Where requests are recorded, if they are.
    pub fn audit(&self) -> Option<&Arc<Audit>> {
        self.0.audit.get()
    }

    /// Refuses what the user may not do.
    pub fn authorize(&self, user: &User, attributes: &Attributes<'_>) -> Result<(), ApiError> {
        self.0.authorizer.authorize(user, attributes)
    }

    pub(super) fn admission(&self) -> &Admission {
        &self.0.admission
    }

    /// Asks whoever admits requests about `message`, which is sent to a subresource and is no object that is stored:
    /// an eviction, a binding, a request for a token, the options of a connection. Answers what they make of it. As with
    /// objects, those who change it come first, then `check` judges it, and those who only refuse come last.
    pub async fn admit_message<T: Serialize + DeserializeOwned>(
        &self,
        call: &Call<'_>,
        to: (Operation, &str),
        message: T,
        check: impl FnOnce(&T) -> Result<(), ApiError>,
    ) -> Result<T, ApiError> {
        self.0.admission.admit_message(self, call, to, message, check).await
    }

    pub fn authorizer(&self) -> &Arc<Authorizer> {
        &self.0.authorizer
    }

    /// The object named by `call`, as of now.
    pub fn entry(&self, call: &Call<'_>) -> Result<Arc<Entry>, ApiError> {
        self.store().snapshot().get(&call.key()).ok_or_else(|| call.not_found())
    }

    /// Creates `object` in the namespace that `call` names.
    pub async fn create(&self, call: &Call<'_>, object: Box<dyn AnyObject>) -> Result<Outcome, ApiError> {
        self.create_owned(call, object, None).await
    }

    /// The same with managers that were worked out before; without, the caller's manager owns all that it says.
    pub(super) async fn create_owned(
        &self,
        call: &Call<'_>,
        mut object: Box<dyn AnyObject>,
        managers: Option<ManagedFields>,
    ) -> Result<Outcome, ApiError> {
        let kind = &call.served.kind;
        let meta = object.meta();
        if meta.resource_version.as_deref().is_some_and(|version| !version.is_empty() && version != "0") {
            return Err(ApiError::BadRequest(
                "resourceVersion should not be set on objects to be created".into(),
            ));
        }
        let now = Timestamp::now();
        let is_named_here = prepare::begin(call, &mut *object, now)?;
        let managers = match managers {
            Some(managers) => managers.to_json(),
            None => managed::of_created(call, &*object, now)?,
        };
        let view = self.store().snapshot();
        let context = Context { now, view: &view };
        kind.prepare_create(&mut *object, &context);
        let preparation = Preparation { call, context, stage: Stage::Create { is_named_here } };
        self.0.admission.mutate(self, &preparation, &mut object).await?;
        // What follows from the spec, such as a pod's class of service, follows from what admission made of it.
        kind.prepare_create(&mut *object, &preparation.context);
        let mut errors = FieldErrors::default();
        validate_name(call, object.meta(), &mut errors);
        validation::meta::object_meta_beyond_name(object.meta(), call.served.info.namespaced, &mut errors);
        validate_finalizers(call, object.meta(), &mut errors);
        kind.validate(&*object, &mut errors);
        kind.validate_create(&*object, &mut errors);
        call.served.validate_version(&*object, None, &mut errors);
        call.check(object.name(), errors)?;
        call.warn(kind.warnings(&*object));
        call.warn(finalizer_warnings(call, object.meta(), None));
        self.0.admission.validate(self, &preparation, &*object).await?;

        let allocates = kind.allocates();
        let mut names_tried = 1;
        for attempt in 0..MAX_ATTEMPTS {
            let turn = self.0.admission.turn(&self.store().snapshot(), call, attempt < MAX_STEPS_BACK).await;
            let view = self.store().snapshot();
            // A failed attempt must not pass its choices on as requests to the next one.
            let chosen = if allocates { Some(self.with_allocations(call, &view, &*object)?) } else { None };
            let chosen = chosen.as_deref().unwrap_or(&*object);
            match self.insert(call, &view, turn, chosen, managers.as_deref(), now).await {
                Ok((json, entry)) => return Ok(Outcome { json, entry, is_created: true }),
                Err(Refusal::Taken) if is_named_here && names_tried < MAX_NAMES => {
                    names_tried += 1;
                    let meta = object.meta_mut();
                    meta.name = Some(generated_name(meta.generate_name.as_deref().unwrap_or_default()));
                }
                Err(Refusal::Taken) => return Err(call.already_exists(object.name())),
                Err(Refusal::Outdated) => (),
                Err(Refusal::Error(error)) => return Err(error),
            }
        }
        Err(ApiError::Unavailable("too many writers want the same at the same time; try again".into()))
    }

    async fn insert(
        &self,
        call: &Call<'_>,
        view: &Snapshot,
        mut turn: Option<InLine<'_>>,
        object: &dyn AnyObject,
        managers: Option<&str>,
        now: Timestamp,
    ) -> Result<(Bytes, Option<Arc<Entry>>), Refusal> {
        let key = Key::new(&call.served.storage, object.namespace(), object.name());
        if view.get(&key).is_some() {
            return Err(Refusal::Taken);
        }
        if let Some(turn) = turn.take_if(|turn| turn.is_being_written(&key)) {
            turn.step_back().await;
            return Err(Refusal::Outdated);
        }
        let mut draft = draft(object)?;
        if let Some(managers) = managers {
            draft = draft.with_managed_fields(managers.as_bytes());
        }
        let charges = match (quota::charge(view, turn.as_ref(), call, object, None, now), turn) {
            (Ok(charges), turn) => charges.in_turn(turn),
            // Perhaps there is room for it after all: not all that this rests on need come true.
            (Err(_), Some(turn)) if turn.would_step_back() => {
                turn.step_back().await;
                return Err(Refusal::Outdated);
            }
            (Err(error), _) => return Err(Refusal::Error(error)),
        };
        if call.dry_run {
            // What is not stored has no revision.
            draft.revision_at = 0;
            let entry = Entry::new(key, Revision(0), &draft);
            return Ok((entry.json.clone(), Some(Arc::new(entry))));
        }
        let mut ops = vec![Op { key, precondition: Precondition::Absent, change: Change::Put(draft) }];
        for claim in call.served.kind.claims(object) {
            ops.push(take(claim, now)?);
        }
        let entry = self.commit_with(charges, ops, Refusal::Taken).await?;
        Ok((entry.as_ref().map(|entry| entry.json.clone()).unwrap_or_default(), entry))
    }

    /// Commits `ops`, of which the first writes the object itself.
    async fn commit(&self, ops: Vec<Op>, on_first: Refusal) -> Result<Option<Arc<Entry>>, Refusal> {
        first(self.store().transact(ops).await, on_first)
    }

    /// The same with what is charged for it, which goes last: who has seen a quota's new use has seen what uses it.
    async fn commit_with(
        &self,
        charges: Charges<'_>,
        mut ops: Vec<Op>,
        on_first: Refusal,
    ) -> Result<Option<Arc<Entry>>, Refusal> {
        let object = ops.first().map(|op| op.key.clone());
        ops.extend(charges.ops);
        let proposed = self.store().propose(ops).await.map_err(|error| Refusal::Error(error.into()))?;
        let underway = charges.turn.zip(object).map(|(turn, object)| turn.proposed(object, charges.leaves));
        let entry = first(proposed.outcome().await, on_first)?;
        if let Some(underway) = underway {
            underway.written();
        }
        Ok(entry)
    }

    fn with_allocations(
        &self,
        call: &Call<'_>,
        view: &Snapshot,
        object: &dyn AnyObject,
    ) -> Result<Box<dyn AnyObject>, ApiError> {
        let mut object = object.boxed();
        self.allocate(call, view, &mut *object, None)?;
        Ok(object)
    }

    fn allocate(
        &self,
        call: &Call<'_>,
        view: &Snapshot,
        new: &mut dyn AnyObject,
        old: Option<&dyn AnyObject>,
    ) -> Result<(), ApiError> {
        if !call.served.kind.allocates() {
            return Ok(());
        }
        let mut errors = FieldErrors::default();
        let pools = Pools { settings: self.settings(), view, seed: rand::rng().random() };
        call.served.kind.allocate(new, old, &pools, &mut errors);
        call.check(new.name(), errors)
    }

    /// Replaces a part of the object by what `make` makes of its present state, again with a newer state whenever
    /// another writer was faster.
    ///
    /// What `make` answers carries the `resourceVersion` that it may replace, or none for any.
    pub async fn update(
        &self,
        call: &Call<'_>,
        part: Part,
        mut make: impl FnMut(Option<&Arc<Entry>>) -> Result<Box<dyn AnyObject>, ApiError> + Send,
    ) -> Result<Outcome, ApiError> {
        let key = call.key();
        for _ in 0..MAX_ATTEMPTS {
            let view = self.store().snapshot();
            let Some(entry) = view.get(&key) else {
                return self.create_on_update(call, part, make).await;
            };
            let mut object = make(Some(&entry))?;
            let owners = Owners::Updated { part, sent: object.meta_mut().managed_fields.take() };
            match self.replace(call, part, &view, &entry, object, owners).await {
                Ok((json, entry)) => return Ok(Outcome { json, entry, is_created: false }),
                Err(Refusal::Error(error)) => return Err(error),
                Err(Refusal::Taken | Refusal::Outdated) => (),
            }
        }
        Err(call.modified())
    }

    async fn create_on_update(
        &self,
        call: &Call<'_>,
        part: Part,
        mut make: impl FnMut(Option<&Arc<Entry>>) -> Result<Box<dyn AnyObject>, ApiError> + Send,
    ) -> Result<Outcome, ApiError> {
        if part != Part::Whole || !call.served.kind.allows_create_on_update() {
            return Err(call.not_found());
        }
        let mut object = make(None)?;
        let meta = object.meta_mut();
        // Who asks to replace a certain state does not want an object that has none.
        if meta.resource_version.as_deref().is_some_and(|version| !version.is_empty()) || meta.uid.is_some() {
            return Err(call.not_found());
        }
        self.authorize(call.user, &call.attributes("create", ""))?;
        self.create(call, object).await
    }

    pub(super) async fn replace(
        &self,
        call: &Call<'_>,
        part: Part,
        view: &Snapshot,
        entry: &Arc<Entry>,
        mut object: Box<dyn AnyObject>,
        owners: Owners,
    ) -> Result<(Bytes, Option<Arc<Entry>>), Refusal> {
        let kind = &call.served.kind;
        let old = kind.load(entry).map_err(|error| damaged(entry, &error))?;
        check_identity(call, entry, object.meta())?;
        let now = Timestamp::now();
        let context = Context { now, view };
        prepare::update(call, part, &mut *object, &*old, &context);
        let preparation = Preparation { call, context, stage: Stage::Update { part, old: &*old } };
        let before = self.0.admission.mutate(self, &preparation, &mut object).await?;
        prepare::count_generation(call, part, &mut *object, &*old);
        let owners = match before {
            // What webhooks add is nobody's.
            Some(before) => owners.of_request(call, entry, &draft(&*before)?.json, now)?,
            None => owners,
        };
        check_update(&preparation, &*object, &*old)?;
        if matches!(part, Part::Whole | Part::Scale | Part::Spec(_)) {
            call.warn(kind.warnings(&*object));
            call.warn(finalizer_warnings(call, object.meta(), Some(old.meta())));
        }
        self.0.admission.validate(self, &preparation, &*object).await?;
        if matches!(part, Part::Whole | Part::Scale) {
            self.allocate(call, view, &mut *object, Some(&*old))?;
        }
        self.put(call, entry, &*old, &*object, owners, now).await
    }

    /// Writes the new state, or removes the object where this update took the last thing that kept it.
    pub(super) async fn put(
        &self,
        call: &Call<'_>,
        entry: &Arc<Entry>,
        old: &dyn AnyObject,
        new: &dyn AnyObject,
        owners: Owners,
        now: Timestamp,
    ) -> Result<(Bytes, Option<Arc<Entry>>), Refusal> {
        let kind = &call.served.kind;
        let mut draft = draft(new)?;
        if is_same(entry, &draft) && owners.are_same(entry) {
            return Ok((entry.json.clone(), Some(entry.clone())));
        }
        if let Some(managers) = owners.settle(call, entry, &draft.json, now)? {
            draft = draft.with_managed_fields(managers.as_bytes());
        }
        let turn = if quota::may_grow(new) {
            self.0.admission.turn(&self.store().snapshot(), call, false).await
        } else {
            None
        };
        let charges =
            quota::charge(&self.store().snapshot(), turn.as_ref(), call, new, Some(old), now)?.in_turn(turn);
        if call.dry_run {
            let entry = Entry::new(entry.key.clone(), entry.revision, &draft);
            return Ok((entry.json.clone(), Some(Arc::new(entry))));
        }
        let key = entry.key.clone();
        let precondition = Precondition::At(entry.revision);
        if is_finished(kind.is_held(new), new.meta()) {
            let mut ops = vec![Op { key, precondition, change: Change::Delete }];
            ops.extend(kind.claims(old).into_iter().map(release));
            let json = at_revision(&draft, entry);
            drop(charges); // What goes uses nothing more.
            let last = self.commit(ops, Refusal::Outdated).await?;
            return Ok((json, last));
        }
        let mut ops = vec![Op { key, precondition, change: Change::Put(draft) }];
        let (before, after) = (kind.claims(old), kind.claims(new));
        for claim in after.iter().filter(|claim| !before.contains(claim)) {
            ops.push(take(claim.clone(), now)?);
        }
        ops.extend(before.into_iter().filter(|claim| !after.contains(claim)).map(release));
        let entry = self.commit_with(charges, ops, Refusal::Outdated).await?;
        Ok((entry.as_ref().map(|entry| entry.json.clone()).unwrap_or_default(), entry))
    }
}

/// What became of a transaction of which the first operation writes the object itself.
fn first(
    outcome: Result<Vec<Option<Arc<Entry>>>, StoreError>,
    on_first: Refusal,
) -> Result<Option<Arc<Entry>>, Refusal> {
    match outcome {
        Ok(entries) => Ok(entries.into_iter().next().flatten()),
        Err(StoreError::Precondition { index: 0, .. }) => Err(on_first),
        Err(StoreError::Precondition { .. }) => Err(Refusal::Outdated),
        Err(error) => Err(Refusal::Error(error.into())),
    }
}

/// Why an attempt wrote nothing.
pub(super) enum Refusal {
    /// The name exists.
    Taken,
    /// Another writer was faster; a new attempt may succeed.
    Outdated,
    Error(ApiError),
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self::Error(error)
    }
}

pub(super) fn damaged(entry: &Entry, error: &serde_json::Error) -> ApiError {
    tracing::error!(key = entry.key.as_str(), %error, "a stored object does not decode");
    ApiError::Internal(format!("the stored object {} does not decode: {error}", entry.key.as_str()))
}

pub(super) fn draft(object: &dyn AnyObject) -> Result<Draft, ApiError> {
    object.draft().map_err(|error| ApiError::Internal(format!("cannot serialize the object: {error}")))
}

/// Whether a deleted object has nothing left that keeps it.
pub(super) fn is_finished(is_held: bool, meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some()
        && meta.finalizers.as_ref().is_none_or(Vec::is_empty)
        && meta.deletion_grace_period_seconds.unwrap_or(0) == 0
        && !is_held
}

/// Whether `draft`, which says nothing of its managers, is what is stored already.
fn is_same(entry: &Entry, draft: &Draft) -> bool {
    let (stored, new) = (entry.plain_json(), &draft.json);
    let (head, tail) = new.split_at(draft.revision_at as usize);
    stored.len() > new.len() && stored.starts_with(head) && stored.ends_with(tail) && {
        let between = &stored[head.len()..stored.len() - tail.len()];
        let digits = entry.revision.0.to_string();
        let text = String::from_utf8_lossy(between);
        text.contains(&digits) && between.len() <= digits.len() + r#","resourceVersion":"","#.len()
    }
}

/// The draft as a client would see it had it been written without a new revision.
fn at_revision(draft: &Draft, entry: &Entry) -> Bytes {
    let Ok(mut value) = serde_json::from_slice::<Value>(&draft.json) else { return draft.json.clone() };
    value["metadata"]["resourceVersion"] = entry.revision.0.to_string().into();
    serde_json::to_vec(&value).map_or_else(|_| draft.json.clone(), Bytes::from)
}

fn take(claim: Claim, now: Timestamp) -> Result<Op, ApiError> {
    let key = claim.key();
    let mut value = claim.value;
    if let Some(metadata) = value.get_mut("metadata") {
        metadata["uid"] = new_uid().into();
        metadata["creationTimestamp"] = serde_json::to_value(Time(now)).unwrap_or_default();
    }
    let draft = Draft::from_value(&value).map_err(|error| ApiError::Internal(error.to_string()))?;
    Ok(Op { key, precondition: Precondition::Absent, change: Change::Put(draft) })
}

pub(super) fn release(claim: Claim) -> Op {
    Op { key: claim.key(), precondition: Precondition::Any, change: Change::Delete }
}
