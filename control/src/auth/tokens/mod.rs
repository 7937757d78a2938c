//! Bearer tokens of every kind.

pub mod accounts;
mod bootstrap;
mod file;
pub mod jwt;
mod oidc;

pub use accounts::{Believed, Binding, Order, Reference, TokenIssuer, bound_to_pod};
pub use oidc::OidcSettings;

pub(super) use bootstrap::user as bootstrap_user;
pub(super) use file::TokenFile;
pub(super) use oidc::Oidc;
