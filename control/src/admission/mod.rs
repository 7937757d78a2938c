//! What is added to, or refused of, a write beyond the rules of its kind.
//!
//! Built in: namespaces must exist and live (`lifecycle`), pods get their service account, default tolerations and
//! priority (`pods`). Not here yet: limit ranges, quotas, webhooks, policies.

mod lifecycle;
mod pods;

use k8s_openapi::api::core::v1::Pod;

use crate::{
    ApiError,
    registry::{AnyObject, Call},
    store::Store,
};

/// The chain that every write passes after defaulting and before validation.
#[derive(Debug, Default)]
pub struct Admission;

impl Admission {
    pub async fn admit_create(
        &self,
        store: &Store,
        call: &Call<'_>,
        object: &mut dyn AnyObject,
    ) -> Result<(), ApiError> {
        lifecycle::admit(store, call, object)?;
        if let Some(pod) = object.get_mut::<Pod>() {
            pods::admit_create(store, call, pod).await?;
        }
        Ok(())
    }

    pub fn admit_update(
        &self,
        _store: &Store,
        _call: &Call<'_>,
        new: &mut dyn AnyObject,
        _old: &dyn AnyObject,
    ) -> Result<(), ApiError> {
        if let Some(pod) = new.get_mut::<Pod>() {
            pods::add_default_tolerations(pod);
        }
        Ok(())
    }
}
