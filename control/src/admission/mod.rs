//! What is added to, or refused of, a write beyond the rules of its kind.
//!
//! Built in: namespaces must exist and live (`lifecycle`), roles give no more than their writer holds (`rbac`), agents
//! write what is their node's (`nodes`), certificates are asked for, approved and signed by who may (`certificates`),
//! pods get their account and its token (`service_account`), a priority (`priority`) and default tolerations (`pods`).
//! Then come the plugins of `chain`, policies in CEL (`policies`), and servers outside (`webhooks`); where those change
//! something, all of it is done once more. What a write uses of its namespace's quotas is charged with it (`quota`).

mod certificates;
mod chain;
pub mod expressions;
mod ingress;
mod lifecycle;
mod limit_ranger;
pub mod matching;
mod node_taint;
mod nodes;
mod pod_security;
mod pods;
mod policies;
mod priority;
pub mod quota;
mod rbac;
mod runtime_class;
mod service_account;
pub mod storage;
#[cfg(test)]
mod tests;
pub mod topology;
mod webhooks;

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use naru_model::Object;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    ApiError,
    auth::Authorizer,
    client::Delete,
    registry::{AnyObject, Call, Part, Preparation, Registry, Stage},
    store::{Scope, Snapshot, Store},
};
use chain::Write;
use matching::Operation;
use policies::{Policies, Scene};
use webhooks::{About, Asked, Content, Mutable, Rounds, Shape, Type, Webhooks};

/// The chain that every write passes after defaulting and before validation.
pub struct Admission {
    authorizer: Arc<Authorizer>,
    turns: quota::Turns,
    policies: Policies,
    webhooks: Webhooks,
}

impl Admission {
    pub fn new(authorizer: Arc<Authorizer>) -> Self {
        Self {
            authorizer,
            turns: quota::Turns::default(),
            policies: Policies::default(),
            webhooks: Webhooks::default(),
        }
    }

    /// A turn to write something in a namespace with quotas, to be held until it is proposed; see [`quota::Turns`].
    pub async fn turn(
        &self,
        view: &Snapshot,
        call: &Call<'_>,
        is_patient: bool,
    ) -> Option<quota::InLine<'_>> {
        self.turns.take(view, call, is_patient).await
    }

    /// Changes what was prepared of a write before it is validated. Answers the object as it was before servers
    /// outside changed it, where they did.
    pub async fn mutate(
        &self,
        registry: &Registry,
        preparation: &Preparation<'_>,
        object: &mut Box<dyn AnyObject>,
    ) -> Result<Option<Box<dyn AnyObject>>, ApiError> {
        let store = registry.store();
        self.apply_built_in(store, preparation, &mut **object).await?;
        let view = store.snapshot();
        let Some(mut chain) = self.mutating(registry, preparation.call, &view) else { return Ok(None) };
        let kinds = registry.kinds().clone();
        let asked =
            Asked::new(preparation.call, &kinds, &view, &self.authorizer, about(preparation, &**object));
        let scene = Scene { asked: &asked, view: &view };
        let before = object.boxed();
        if !chain.run(&scene, &mut Mutable::Object { object, preparation }).await? {
            return Ok(None);
        }
        // What was added gets what the cluster says about such things, and others may want to see it.
        self.apply_built_in(store, preparation, &mut **object).await?;
        chain.run_again(&scene, &mut Mutable::Object { object, preparation }).await?;
        Ok(Some(before))
    }

    /// All that changes requests from outside; `None` where there is nothing, or nothing may.
    fn mutating(&self, registry: &Registry, call: &Call<'_>, view: &Snapshot) -> Option<Mutations> {
        let (policies, hooks) =
            (self.policies.mutating(view), self.webhooks.mutating(view, registry.store()));
        if (policies.is_none() && hooks.is_none()) || is_exempt(call) {
            return None;
        }
        Some(Mutations {
            policies: policies.unwrap_or_default(),
            hooks: hooks.unwrap_or_default(),
            policy_rounds: Rounds::default(),
            hook_rounds: Rounds::default(),
        })
    }

    async fn apply_built_in(
        &self,
        store: &Store,
        preparation: &Preparation<'_>,
        object: &mut dyn AnyObject,
    ) -> Result<(), ApiError> {
        let call = preparation.call;
        match preparation.stage {
            Stage::Create { .. } => self.admit_create(store, call, object).await,
            Stage::Update { part: Part::Finalize, .. } => Ok(()),
            Stage::Update { part, old } => self.admit_update(store, call, part, object, old),
        }
    }

    async fn admit_create(
        &self,
        store: &Store,
        call: &Call<'_>,
        object: &mut dyn AnyObject,
    ) -> Result<(), ApiError> {
        lifecycle::admit(store, call, object)?;
        rbac::admit(store, &self.authorizer, call, object, None)?;
        nodes::admit_create(call, object)?;
        certificates::admit_create(call, object)?;
        certificates::admit_bundle(&self.authorizer, call, object)?;
        priority::of_class(store, call, object)?;
        if let Some(pod) = object.get_mut::<Pod>() {
            service_account::admit(store, call, pod).await?;
            pods::admit_create(store, call, pod)?;
        }
        chain::mutate(&Write { call, part: Part::Whole, view: &store.snapshot(), old: None }, object)
    }

    fn admit_update(
        &self,
        store: &Store,
        call: &Call<'_>,
        part: Part,
        new: &mut dyn AnyObject,
        old: &dyn AnyObject,
    ) -> Result<(), ApiError> {
        nodes::admit_update(call, part, new, old)?;
        certificates::admit_update(&self.authorizer, call, part, new, old)?;
        if matches!(part, Part::Whole | Part::Scale) {
            certificates::admit_bundle(&self.authorizer, call, new)?;
            rbac::admit(store, &self.authorizer, call, new, Some(old))?;
            priority::of_class(store, call, new)?;
            if let Some(pod) = new.get_mut::<Pod>() {
                pods::add_default_tolerations(pod);
            }
        }
        chain::mutate(&Write { call, part, view: &store.snapshot(), old: Some(old) }, new)
    }

    /// What is looked at when everything is known of the object: after validation.
    pub async fn validate(
        &self,
        registry: &Registry,
        preparation: &Preparation<'_>,
        object: &dyn AnyObject,
    ) -> Result<(), ApiError> {
        let (call, view) = (preparation.call, registry.store().snapshot());
        let write = Write { call, part: preparation.part(), view: &view, old: preparation.old() };
        chain::validate(&write, object)?;
        self.judge(registry, call, &view, || about(preparation, object), Content::Object(object)).await
    }

    /// Asks the policies and webhooks that change nothing about a request that leads to `content`.
    async fn judge<'a>(
        &self,
        registry: &Registry,
        call: &'a Call<'a>,
        view: &Snapshot,
        about: impl FnOnce() -> About<'a>,
        content: Content<'_>,
    ) -> Result<(), ApiError> {
        let (policies, hooks) =
            (self.policies.validating(view), self.webhooks.validating(view, registry.store()));
        if (policies.is_none() && hooks.is_none()) || is_exempt(call) {
            return Ok(());
        }
        let kinds = registry.kinds().clone();
        let asked = Asked::new(call, &kinds, view, &self.authorizer, about());
        if let Some(policies) = policies {
            policies::validate(&policies, &Scene { asked: &asked, view }, content)?;
        }
        match hooks {
            Some(hooks) => webhooks::validate(&hooks, &asked, content).await,
            None => Ok(()),
        }
    }

    pub async fn admit_delete(
        &self,
        registry: &Registry,
        call: &Call<'_>,
        object: &dyn AnyObject,
        options: &Delete,
    ) -> Result<(), ApiError> {
        nodes::admit_delete(call, object)?;
        let view = registry.store().snapshot();
        let about = || About {
            operation: Operation::Delete,
            subresource: "",
            name: call.name.into(),
            shape: Shape::Whole,
            old: Some(object),
            options: with_dry_run(call, options.to_value()),
        };
        if let Some(mut chain) = self.mutating(registry, call, &view) {
            let kinds = registry.kinds().clone();
            let asked = Asked::new(call, &kinds, &view, &self.authorizer, about());
            chain.run(&Scene { asked: &asked, view: &view }, &mut Mutable::Nothing).await?;
        }
        self.judge(registry, call, &view, about, Content::Nothing).await
    }

    /// Asks about something that is sent to an object and is not stored: `CREATE` of an eviction, a binding or a token,
    /// `CONNECT` to a pod. Answers `message`, which serializes with its type, as those who were asked want it to be.
    pub async fn admit_message<T: Serialize + DeserializeOwned>(
        &self,
        registry: &Registry,
        call: &Call<'_>,
        (operation, subresource): (Operation, &str),
        mut message: T,
        check: impl FnOnce(&T) -> Result<(), ApiError>,
    ) -> Result<T, ApiError> {
        let store = registry.store();
        let view = store.snapshot();
        // Nothing is made of it where nobody asks.
        let chain = self.mutating(registry, call, &view);
        let is_judged =
            || self.policies.validating(&view).is_some() || self.webhooks.validating(&view, store).is_some();
        if chain.is_none() && !is_judged() {
            check(&message)?;
            return Ok(message);
        }
        let failed = |error: serde_json::Error| ApiError::Internal(error.to_string());
        let mut value = serde_json::to_value(&message).map_err(failed)?;
        let of = value.clone();
        let options = match operation {
            Operation::Connect => Value::Null,
            _ => options(call, "CreateOptions"),
        };
        let about = || About {
            operation,
            subresource,
            name: call.name.into(),
            shape: Shape::Message(Type::of(&of)),
            old: None,
            options: options.clone(),
        };
        if let Some(mut chain) = chain {
            let kinds = registry.kinds().clone();
            let asked = Asked::new(call, &kinds, &view, &self.authorizer, about());
            let scene = Scene { asked: &asked, view: &view };
            let mut mutable = Mutable::Message { message: &mut value, check: readable::<T> };
            if chain.run(&scene, &mut mutable).await? {
                chain.run_again(&scene, &mut mutable).await?;
                message = T::deserialize(&value).map_err(failed)?;
            }
        }
        check(&message)?;
        self.judge(registry, call, &view, about, Content::Message(&value)).await?;
        Ok(message)
    }
}

/// Whether `value` is a message like `T`.
fn readable<T: DeserializeOwned>(value: &Value) -> Result<(), String> {
    T::deserialize(value).map(drop).map_err(|error| error.to_string())
}

/// Policies and webhooks that change requests, and how far they got with one.
struct Mutations {
    policies: policies::Mutating,
    hooks: webhooks::Hooks,
    policy_rounds: Rounds<String>,
    hook_rounds: Rounds,
}

impl Mutations {
    /// The first round; answers whether anything was changed.
    async fn run(&mut self, scene: &Scene<'_>, mutable: &mut Mutable<'_>) -> Result<bool, ApiError> {
        let by_policies = policies::mutate(&self.policies, scene, mutable, &mut self.policy_rounds)?;
        let by_hooks = webhooks::mutate(&self.hooks, scene.asked, mutable, &mut self.hook_rounds).await?;
        Ok(by_policies || by_hooks)
    }

    /// The second round, of those who want to see what others changed.
    async fn run_again(&mut self, scene: &Scene<'_>, mutable: &mut Mutable<'_>) -> Result<(), ApiError> {
        self.policy_rounds.begin_again(mutable.content());
        policies::mutate(&self.policies, scene, mutable, &mut self.policy_rounds)?;
        self.hook_rounds.begin_again(mutable.content());
        webhooks::mutate(&self.hooks, scene.asked, mutable, &mut self.hook_rounds).await.map(drop)
    }
}

fn is_exempt(call: &Call<'_>) -> bool {
    matching::is_exempt(call.served.info.group, call.served.info.plural)
}

/// A write as webhooks are asked about it.
fn about<'a>(preparation: &Preparation<'a>, object: &dyn AnyObject) -> About<'a> {
    let call = preparation.call;
    let (operation, name, kind) = match preparation.stage {
        Stage::Create { is_named_here: true } => (Operation::Create, "", "CreateOptions"),
        Stage::Create { is_named_here: false } => (Operation::Create, object.name(), "CreateOptions"),
        Stage::Update { .. } => (Operation::Update, call.name, "UpdateOptions"),
    };
    let part = preparation.part();
    About {
        operation,
        subresource: part.subresource(),
        name: name.into(),
        shape: if part == Part::Scale { Shape::Scale } else { Shape::Whole },
        old: preparation.old(),
        options: options(call, kind),
    }
}

fn options(call: &Call<'_>, kind: &str) -> Value {
    let options = json!({ "apiVersion": "meta.k8s.io/v1", "kind": kind, "fieldManager": call.manager });
    with_dry_run(call, options)
}

fn with_dry_run(call: &Call<'_>, mut options: Value) -> Value {
    if call.dry_run {
        options["dryRun"] = json!(["All"]);
    }
    options
}

/// `pods "web" is forbidden: MESSAGE`
fn refused(call: &Call<'_>, name: &str, message: String) -> ApiError {
    let resource = call.served.qualified.clone();
    ApiError::Refused { resource, name: name.into(), message, causes: Vec::new() }
}

/// The class that one of `annotations` makes the default; of several, the newest.
fn default_class<T: Object>(view: &Snapshot, resource: &str, annotations: &[&str]) -> Option<Arc<T>> {
    if !view.holds(resource) {
        return None;
    }
    let is_default = |class: &Arc<T>| {
        let given = class.metadata().annotations.as_ref();
        annotations
            .iter()
            .any(|name| given.and_then(|given| given.get(*name)).is_some_and(|value| value == "true"))
    };
    let classes = view.list::<T>(&Scope::all(resource)).into_iter().rev().filter(is_default);
    let created = |class: &Arc<T>| class.metadata().creation_timestamp.as_ref().map(|time| time.0);
    // In the order of names, and of equally new ones the first.
    classes.max_by_key(created)
}
