//! What is added to, or refused of, a write beyond the rules of its kind.
//!
//! Built in: namespaces must exist and live (`lifecycle`), roles give no more than their writer holds (`rbac`), agents
//! write what is their node's (`nodes`), certificates are asked for, approved and signed by who may (`certificates`),
//! pods get their account and its token (`service_account`), a priority (`priority`) and default tolerations (`pods`).
//! Then come the plugins of `chain`, and servers outside (`webhooks`); where those change something, all of it is done
//! once more. What a write uses of its namespace's quotas is charged with it (`quota`).

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
mod webhooks;

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use naru_model::Object;
use serde_json::{Value, json};
use tokio::sync::MutexGuard;

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
use webhooks::{About, Asked, Mutable, Shape, Webhooks};

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

    /// A turn to create something in a namespace with quotas, to be held until it is stored.
    pub async fn turn(&self, view: &Snapshot, call: &Call<'_>) -> Option<MutexGuard<'_, ()>> {
        self.turns.take(view, call).await
    }

    /// Changes what was prepared of a write before it is validated. Answers the object as it was before servers
    /// outside changed it, where they did.
    pub async fn mutate(
        &self,
        registry: &Registry,
        preparation: &Preparation<'_>,
        object: &mut Box<dyn AnyObject>,
        warnings: &mut Vec<String>,
    ) -> Result<Option<Box<dyn AnyObject>>, ApiError> {
        let store = registry.store();
        self.apply_built_in(store, preparation, &mut **object).await?;
        let view = store.snapshot();
        let (policies, hooks) = (self.policies.mutating(&view), self.webhooks.mutating(&view, store));
        if (policies.is_none() && hooks.is_none()) || is_exempt(preparation.call) {
            return Ok(None);
        }
        let (policies, hooks) = (policies.unwrap_or_default(), hooks.unwrap_or_default());
        let kinds = registry.kinds().clone();
        let asked =
            Asked::new(preparation.call, &kinds, &view, &self.authorizer, about(preparation, &**object));
        let scene = Scene { asked: &asked, view: &view };
        let before = object.boxed();
        let (mut policy_rounds, mut rounds) = (webhooks::Rounds::default(), webhooks::Rounds::default());
        let mut mutable = Mutable { object: &mut *object, preparation };
        let mut is_changed = policies::mutate(&policies, &scene, &mut mutable, &mut policy_rounds)?;
        is_changed |= webhooks::mutate(&hooks, &asked, Some(mutable), &mut rounds, warnings).await?;
        if !is_changed {
            return Ok(None);
        }
        // What was added gets what the cluster says about such things, and others may want to see it.
        self.apply_built_in(store, preparation, &mut **object).await?;
        let mut mutable = Mutable { object, preparation };
        policy_rounds.begin_again(Some(&**mutable.object));
        policies::mutate(&policies, &scene, &mut mutable, &mut policy_rounds)?;
        webhooks::mutate_again(&hooks, &asked, mutable, rounds, warnings).await?;
        Ok(Some(before))
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

    /// What is looked at when everything is known of the object: after validation. Texts for `Warning` headers are
    /// added to `warnings`.
    pub async fn validate(
        &self,
        registry: &Registry,
        preparation: &Preparation<'_>,
        object: &dyn AnyObject,
        warnings: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        let (call, store) = (preparation.call, registry.store());
        let view = store.snapshot();
        let write = Write { call, part: preparation.part(), view: &view, old: preparation.old() };
        chain::validate(&write, object, warnings)?;
        let (policies, hooks) = (self.policies.validating(&view), self.webhooks.validating(&view, store));
        if (policies.is_none() && hooks.is_none()) || is_exempt(call) {
            return Ok(());
        }
        let kinds = registry.kinds().clone();
        let asked = Asked::new(call, &kinds, &view, &self.authorizer, about(preparation, object));
        if let Some(policies) = policies {
            let scene = Scene { asked: &asked, view: &view };
            policies::validate(&policies, &scene, Some(object), warnings)?;
        }
        match hooks {
            Some(hooks) => webhooks::validate(&hooks, &asked, Some(object), warnings).await,
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
        let about = || About {
            operation: Operation::Delete,
            subresource: "",
            name: call.name.into(),
            shape: Shape::Whole,
            old: Some(object),
            options: with_dry_run(call, options.to_value()),
        };
        self.ask_only(registry, call, about).await
    }

    /// Asks about something that is sent to an object and changes none: `CREATE` of an eviction, a binding or a token,
    /// `CONNECT` to a pod. `message` is what is sent, with its type.
    pub async fn admit_message(
        &self,
        registry: &Registry,
        call: &Call<'_>,
        (operation, subresource): (Operation, &str),
        message: impl FnOnce() -> Value,
    ) -> Result<(), ApiError> {
        let store = registry.store();
        let view = store.snapshot();
        // Nothing is made of it where nobody asks.
        let has_webhooks = self.webhooks.mutating(&view, store).is_some()
            || self.webhooks.validating(&view, store).is_some();
        if !has_webhooks && self.policies.validating(&view).is_none() {
            return Ok(());
        }
        let message = message();
        let options = match operation {
            Operation::Connect => Value::Null,
            _ => options(call, "CreateOptions"),
        };
        let about = || About {
            operation,
            subresource,
            name: call.name.into(),
            shape: Shape::Message(&message),
            old: None,
            options: options.clone(),
        };
        self.ask_only(registry, call, about).await
    }

    /// Asks all policies and webhooks about a request in which there is nothing for them to change.
    async fn ask_only<'a>(
        &self,
        registry: &Registry,
        call: &'a Call<'a>,
        about: impl Fn() -> About<'a>,
    ) -> Result<(), ApiError> {
        let store = registry.store();
        let view = store.snapshot();
        if is_exempt(call) {
            return Ok(());
        }
        // A deletion's answer has no place for them.
        let mut warnings = Vec::new();
        if let Some(hooks) = self.webhooks.mutating(&view, store) {
            let kinds = registry.kinds().clone();
            let asked = Asked::new(call, &kinds, &view, &self.authorizer, about());
            webhooks::mutate(&hooks, &asked, None, &mut webhooks::Rounds::default(), &mut warnings).await?;
        }
        if let Some(policies) = self.policies.validating(&view) {
            let kinds = registry.kinds().clone();
            let asked = Asked::new(call, &kinds, &view, &self.authorizer, about());
            let scene = Scene { asked: &asked, view: &view };
            policies::validate(&policies, &scene, None, &mut warnings)?;
        }
        if let Some(hooks) = self.webhooks.validating(&view, store) {
            let kinds = registry.kinds().clone();
            let asked = Asked::new(call, &kinds, &view, &self.authorizer, about());
            webhooks::validate(&hooks, &asked, None, &mut warnings).await?;
        }
        Ok(())
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
