//! Who asks, and whether they may.
//!
//! An [`Authenticator`] finds out who asks: `pki` makes certificates, `tokens` believes bearer tokens. `rbac` compiles
//! the cluster's roles and `node` knows what agents need; an [`Authorizer`]
//! asks them in Kubernetes' order: the group `system:masters`, then nodes, then roles; whoever knows a reason to
//! allow decides.

mod attributes;
mod authenticator;
mod der; // What certificates need beyond their library.
mod node;
pub mod pki;
pub mod rbac;
pub mod signing;
mod tokens;
mod user;

use std::sync::Arc;

pub use attributes::{Attributes, refusal};
pub use authenticator::{AuthenticationSettings, Authenticator, Unauthenticated};
pub use tokens::{Binding, OidcSettings, Order, Reference, TokenIssuer, bound_to_pod};
pub use user::{ANONYMOUS, AUTHENTICATED, Extra, MASTERS, UNAUTHENTICATED, User, account_user};

use crate::{ApiError, store::Store};
use rbac::Rbac;

/// Decides who may do what.
#[derive(Default)]
pub struct Authorizer {
    pub rbac: Arc<Rbac>,
    /// Where what nodes ask for is looked up.
    store: Option<Store>,
}

impl Authorizer {
    /// Knows no roles before `rbac` is given some.
    pub fn new(store: Store) -> Self {
        Self { store: Some(store), ..Self::default() }
    }

    /// With the roles that a cluster begins with, over no store: for tests of the rooms above.
    pub fn of_defaults() -> Self {
        Self { rbac: Arc::new(Rbac::of_defaults()), store: None }
    }

    pub fn is_allowed(&self, user: &User, attributes: &Attributes<'_>) -> bool {
        user.is_member(MASTERS)
            || self.decide_for_node(user, attributes).is_some_and(|decision| decision.is_ok())
            || self.rbac.is_allowed(user, attributes)
    }

    fn decide_for_node(&self, user: &User, attributes: &Attributes<'_>) -> Option<Result<(), String>> {
        node::decide(self.store.as_ref(), user, attributes)
    }

    /// # Errors
    /// The refusal, in Kubernetes' words.
    pub fn authorize(&self, user: &User, attributes: &Attributes<'_>) -> Result<(), ApiError> {
        if self.is_allowed(user, attributes) {
            return Ok(());
        }
        Err(refusal(user, attributes, &self.problems(user, attributes)))
    }

    /// The decision, and what there is to say about it.
    pub fn explain(&self, user: &User, attributes: &Attributes<'_>) -> (bool, String) {
        let node = self.decide_for_node(user, attributes);
        if user.is_member(MASTERS) || node.is_some_and(|decision| decision.is_ok()) {
            return (true, String::new());
        }
        match self.rbac.why_allowed(user, attributes) {
            Some(why) => (true, why),
            None => (false, self.problems(user, attributes)),
        }
    }

    fn problems(&self, user: &User, attributes: &Attributes<'_>) -> String {
        let node = self.decide_for_node(user, attributes).and_then(Result::err).unwrap_or_default();
        let rbac = self.rbac.problems(user, attributes.namespace);
        [node, rbac].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(", ")
    }
}
