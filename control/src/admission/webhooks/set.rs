//! The webhooks of the cluster, compiled whenever their configurations changed.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use naru_model::Object as _;

use super::hook::{Hook, Spec};
use crate::store::{Contents, Scope, Snapshot, Store};

const MUTATING: &str = "mutatingwebhookconfigurations.admissionregistration.k8s.io";
const VALIDATING: &str = "validatingwebhookconfigurations.admissionregistration.k8s.io";

/// Both kinds of webhook.
#[derive(Default)]
pub struct Webhooks {
    mutating: Cached,
    validating: Cached,
}

/// The webhooks of one kind, in the order in which they are asked: by configuration, then as listed.
pub(in crate::admission) type Hooks = Arc<Vec<Hook>>;

#[derive(Default)]
struct Cached(ArcSwapOption<Compiled>);

struct Compiled {
    /// What `hooks` were made of.
    of: Contents,
    hooks: Hooks,
}

impl Webhooks {
    /// `None` where there are none.
    pub(in crate::admission) fn mutating(&self, view: &Snapshot, store: &Store) -> Option<Hooks> {
        self.mutating.load(view, MUTATING, || {
            let configurations = view.list::<MutatingWebhookConfiguration>(&Scope::all(MUTATING));
            let each = configurations.iter().flat_map(|configuration| {
                configuration.webhooks.iter().flatten().map(|hook| (configuration.name(), Spec::from(hook)))
            });
            each.map(|(name, spec)| Hook::new(name, &spec, store)).collect()
        })
    }

    pub(in crate::admission) fn validating(&self, view: &Snapshot, store: &Store) -> Option<Hooks> {
        self.validating.load(view, VALIDATING, || {
            let configurations = view.list::<ValidatingWebhookConfiguration>(&Scope::all(VALIDATING));
            let each = configurations.iter().flat_map(|configuration| {
                configuration.webhooks.iter().flatten().map(|hook| (configuration.name(), Spec::from(hook)))
            });
            each.map(|(name, spec)| Hook::new(name, &spec, store)).collect()
        })
    }
}

impl Cached {
    fn load(&self, view: &Snapshot, resource: &str, compile: impl FnOnce() -> Vec<Hook>) -> Option<Hooks> {
        let of = view.contents(resource)?;
        if let Some(compiled) = &*self.0.load()
            && compiled.of == of
        {
            return Some(compiled.hooks.clone());
        }
        let hooks = Hooks::new(compile());
        self.0.store(Some(Arc::new(Compiled { of, hooks: hooks.clone() })));
        Some(hooks)
    }
}
