//! What is added to, or refused of, a write beyond the rules of its kind.
//!
//! Built in: namespaces must exist and live (`lifecycle`), pods get their service account, default tolerations and
//! priority (`pods`, `priority`), roles give no more than their writer holds (`rbac`). Not here yet: limit ranges, quotas, webhooks,
//! policies.

mod lifecycle;
mod pods;
mod priority;
mod rbac;

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use crate::{
    ApiError,
    auth::Authorizer,
    registry::{AnyObject, Call},
    store::Store,
};

/// The chain that every write passes after defaulting and before validation.
pub struct Admission {
    authorizer: Arc<Authorizer>,
}

impl Admission {
    pub fn new(authorizer: Arc<Authorizer>) -> Self {
        Self { authorizer }
    }

    pub async fn admit_create(
        &self,
        store: &Store,
        call: &Call<'_>,
        object: &mut dyn AnyObject,
    ) -> Result<(), ApiError> {
        lifecycle::admit(store, call, object)?;
        rbac::admit(store, &self.authorizer, call, object, None)?;
        priority::of_class(store, call, object)?;
        if let Some(pod) = object.get_mut::<Pod>() {
            pods::admit_create(store, call, pod).await?;
        }
        Ok(())
    }

    pub fn admit_update(
        &self,
        store: &Store,
        call: &Call<'_>,
        new: &mut dyn AnyObject,
        old: &dyn AnyObject,
    ) -> Result<(), ApiError> {
        rbac::admit(store, &self.authorizer, call, new, Some(old))?;
        priority::of_class(store, call, new)?;
        if let Some(pod) = new.get_mut::<Pod>() {
            pods::add_default_tolerations(pod);
        }
        Ok(())
    }
}
