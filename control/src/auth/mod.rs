//! Who asks, and whether they may.
//!
//! An [`Authenticator`] finds out who asks: `pki` makes certificates, `tokens` believes bearer tokens. `rbac` compiles
//! the cluster's roles and `node` knows what agents need; an [`Authorizer`]
//! asks them in Kubernetes' order: the group `system:masters`, then nodes, then roles; whoever knows a reason to
//! allow decides.

mod attributes;
mod authenticator;
mod node;
pub mod pki;
pub mod rbac;
mod tokens;
mod user;

use std::sync::Arc;

pub use attributes::{Attributes, refusal};
pub use authenticator::{AuthenticationSettings, Authenticator, Unauthenticated};
pub use tokens::{Binding, OidcSettings, Order, Reference, TokenIssuer, bound_to_pod};
pub use user::{ANONYMOUS, AUTHENTICATED, Extra, MASTERS, UNAUTHENTICATED, User, account_user};

use crate::ApiError;
use rbac::Rbac;

/// Decides who may do what.
#[derive(Debug, Default)]
pub struct Authorizer {
    pub rbac: Arc<Rbac>,
}

impl Authorizer {
    /// What a cluster begins with, over no store: for tests of the rooms above.
    pub fn of_defaults() -> Self {
        Self { rbac: Arc::new(Rbac::of_defaults()) }
    }

    pub fn is_allowed(&self, user: &User, attributes: &Attributes<'_>) -> bool {
        user.is_member(MASTERS)
            || node::is_allowed(user, attributes)
            || self.rbac.is_allowed(user, attributes)
    }

    /// # Errors
    /// The refusal, in Kubernetes' words.
    pub fn authorize(&self, user: &User, attributes: &Attributes<'_>) -> Result<(), ApiError> {
        if self.is_allowed(user, attributes) {
            return Ok(());
        }
        Err(refusal(user, attributes, &self.rbac.problems(user, attributes.namespace)))
    }

    /// The decision, and what there is to say about it.
    pub fn explain(&self, user: &User, attributes: &Attributes<'_>) -> (bool, String) {
        if user.is_member(MASTERS) || node::is_allowed(user, attributes) {
            return (true, String::new());
        }
        match self.rbac.why_allowed(user, attributes) {
            Some(why) => (true, why),
            None => (false, self.rbac.problems(user, attributes.namespace)),
        }
    }
}
