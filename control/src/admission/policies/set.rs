//! The policies of the cluster, compiled whenever they or their bindings changed.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding, ValidatingAdmissionPolicy,
    ValidatingAdmissionPolicyBinding,
};
use naru_model::Object;

use super::{
    hook::{Binding, Hook, Policy},
    mutating, validating,
};
use crate::{
    registry::admissionregistration::policy::Common,
    store::{Contents, Revision, Scope, Snapshot},
};

const VALIDATING: &str = "validatingadmissionpolicies.admissionregistration.k8s.io";
const VALIDATING_BINDINGS: &str = "validatingadmissionpolicybindings.admissionregistration.k8s.io";
const MUTATING: &str = "mutatingadmissionpolicies.admissionregistration.k8s.io";
const MUTATING_BINDINGS: &str = "mutatingadmissionpolicybindings.admissionregistration.k8s.io";

/// Both kinds of policy.
#[derive(Default)]
pub struct Policies {
    validating: Cached<validating::Rules>,
    mutating: Cached<mutating::Rules>,
}

/// The policies of one kind that have bindings, in the order of their names.
pub(in crate::admission) type Hooks<R> = Arc<Vec<Hook<R>>>;

/// Those that change what is written.
pub(in crate::admission) type Mutating = Hooks<mutating::Rules>;

struct Cached<R>(ArcSwapOption<Compiled<R>>);

struct Compiled<R> {
    /// What `hooks` were made of: policies and bindings.
    of: [Contents; 2],
    /// Every policy with the revision from which it was compiled: what did not change is not compiled again.
    policies: Vec<(Revision, Arc<Policy<R>>)>,
    hooks: Hooks<R>,
}

impl<R> Default for Cached<R> {
    fn default() -> Self {
        Self(ArcSwapOption::empty())
    }
}

impl Policies {
    /// `None` where none is bound.
    pub(in crate::admission) fn validating(&self, view: &Snapshot) -> Option<Hooks<validating::Rules>> {
        self.validating.load::<ValidatingAdmissionPolicy>(
            view,
            [VALIDATING, VALIDATING_BINDINGS],
            |policy| {
                let empty = Default::default();
                let spec = policy.spec.as_ref().unwrap_or(&empty);
                Policy::compile(policy.name(), &Common::from(spec), |environment| {
                    validating::Rules::compile(spec, &environment)
                })
            },
            || {
                let bindings =
                    view.list::<ValidatingAdmissionPolicyBinding>(&Scope::all(VALIDATING_BINDINGS));
                let bind = |of: &Arc<ValidatingAdmissionPolicyBinding>| {
                    let spec = &of.spec;
                    let actions = &spec.validation_actions;
                    let (resources, params) = (spec.match_resources.as_ref(), spec.param_ref.as_ref());
                    (spec.policy_name.clone(), Binding::new(of.name(), resources, params, actions))
                };
                bindings.iter().map(bind).collect()
            },
        )
    }

    pub(in crate::admission) fn mutating(&self, view: &Snapshot) -> Option<Mutating> {
        self.mutating.load::<MutatingAdmissionPolicy>(
            view,
            [MUTATING, MUTATING_BINDINGS],
            |policy| {
                let empty = Default::default();
                let spec = policy.spec.as_ref().unwrap_or(&empty);
                Policy::compile(policy.name(), &Common::from(spec), |environment| {
                    mutating::Rules::compile(spec, environment)
                })
            },
            || {
                let bindings = view.list::<MutatingAdmissionPolicyBinding>(&Scope::all(MUTATING_BINDINGS));
                let bind = |of: &Arc<MutatingAdmissionPolicyBinding>| {
                    let spec = of.spec.as_ref()?;
                    let (resources, params) = (spec.match_resources.as_ref(), spec.param_ref.as_ref());
                    let policy = spec.policy_name.clone()?;
                    Some((policy, Binding::new(of.name(), resources, params, &[])))
                };
                bindings.iter().filter_map(bind).collect()
            },
        )
    }
}

impl<R> Cached<R> {
    fn load<T: Object>(
        &self,
        view: &Snapshot,
        [policies, bindings]: [&str; 2],
        compile: impl Fn(&T) -> Policy<R>,
        bind: impl FnOnce() -> Vec<(String, Binding)>,
    ) -> Option<Hooks<R>> {
        let of = [view.contents(policies)?, view.contents(bindings)?];
        let last = self.0.load();
        if let Some(compiled) = &*last
            && compiled.of == of
        {
            return Some(compiled.hooks.clone());
        }
        let compiled_before = |revision: Revision, name: &str| {
            let known = last.iter().flat_map(|last| &last.policies);
            known
                .filter(|(of, policy)| *of == revision && policy.name == name)
                .map(|(_, policy)| policy.clone())
                .next()
        };
        let mut compiled = Vec::new();
        for entry in view.range(&Scope::all(policies), None) {
            let policy = match (compiled_before(entry.revision, &entry.meta.name), entry.typed::<T>()) {
                (Some(policy), _) => policy,
                (None, Ok(policy)) => Arc::new(compile(&policy)),
                (None, Err(error)) => {
                    tracing::error!(key = entry.key.as_str(), %error, "a policy does not decode");
                    continue;
                }
            };
            compiled.push((entry.revision, policy));
        }
        let mut bindings = bind();
        let mut hooks = Vec::new();
        for (_, policy) in &compiled {
            let (own, others) = bindings.into_iter().partition(|(of, _)| *of == policy.name);
            bindings = others;
            let own: Vec<Binding> = Vec::into_iter(own).map(|(_, binding)| binding).collect();
            if !own.is_empty() {
                hooks.push(Hook { policy: policy.clone(), bindings: own });
            }
        }
        let hooks = Arc::new(hooks);
        self.0.store(Some(Arc::new(Compiled { of, policies: compiled, hooks: hooks.clone() })));
        Some(hooks)
    }
}
