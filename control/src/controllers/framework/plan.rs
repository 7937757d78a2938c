//! What a reconciler answers: the writes, in order, and when to look again.

use std::{fmt, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use k8s_openapi::api::{
    admissionregistration::v1::ValidatingAdmissionPolicy,
    apps::v1::{Deployment, ReplicaSet},
    certificates::v1::CertificateSigningRequest,
    core::v1::{ConfigMap, Endpoints, Namespace, Node, ObjectReference, Pod, Secret, ServiceAccount},
    discovery::v1::EndpointSlice,
    policy::v1::PodDisruptionBudget,
    rbac::v1::ClusterRole,
};
use naru_model::Object;

use crate::{
    ApiClient, ApiError,
    client::{Delete, Patch},
    store::{Entry, Key},
};

macro_rules! bodies {
    ($($kind:ident),*) => {
        /// An object of one of the kinds that controllers write. Shared, as a thousand creates may have one body.
        #[derive(Debug, Clone)]
        pub enum Body { $($kind(Arc<$kind>)),* }

        $(impl From<$kind> for Body {
            fn from(object: $kind) -> Self {
                Self::$kind(Arc::new(object))
            }
        })*

        impl Body {
            pub fn name(&self) -> &str {
                match self { $(Self::$kind(object) => object.name()),* }
            }
            /// The resource and the object as JSON, for tests that play the API.
            #[cfg(test)]
            pub fn to_json(&self) -> (String, serde_json::Value) {
                match self {
                    $(Self::$kind(object) => {
                        let json = serde_json::to_value(object).expect("every kind serializes");
                        (super::resource_of::<$kind>(), json)
                    })*
                }
            }
            pub(super) async fn create(&self, client: &ApiClient) -> Result<Arc<Entry>, ApiError> {
                match self { $(Self::$kind(object) => client.create(&**object).await),* }
            }
            pub(super) async fn update(&self, client: &ApiClient) -> Result<Arc<Entry>, ApiError> {
                match self { $(Self::$kind(object) => client.update(&**object).await),* }
            }
            pub(super) async fn update_status(&self, client: &ApiClient) -> Result<Arc<Entry>, ApiError> {
                match self { $(Self::$kind(object) => client.update_status(&**object).await),* }
            }
        }
    };
}

bodies!(
    CertificateSigningRequest,
    ClusterRole,
    ConfigMap,
    Deployment,
    EndpointSlice,
    Endpoints,
    Namespace,
    Node,
    Pod,
    PodDisruptionBudget,
    ReplicaSet,
    Secret,
    ServiceAccount,
    ValidatingAdmissionPolicy
);

/// One request to the API.
#[derive(Debug, Clone)]
pub enum Action {
    Create(Body),
    /// Refused with a conflict where the object has changed since it was decided on.
    Update(Body),
    /// Likewise.
    UpdateStatus(Body),
    Patch {
        key: Key,
        subresource: &'static str,
        patch: Patch,
    },
    Delete {
        key: Key,
        options: Delete,
    },
    /// Writes nothing but the event in its report.
    Tell,
    /// Writes nothing here.
    Errand(Arc<dyn Errand>),
}

/// What has to be done beyond the API: a conversation with somebody else. What comes of it, failures included, the
/// controller keeps for its next look; it must ask for one.
pub trait Errand: fmt::Debug + Send + Sync {
    fn run(&self) -> BoxFuture<'_, ()>;
}

/// One event's type, reason and message. `{name}` in the message becomes the written object's name, `{error}`
/// the API's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    pub type_: &'static str,
    pub reason: &'static str,
    pub message: String,
}

impl Note {
    pub fn normal(reason: &'static str, message: impl Into<String>) -> Self {
        Self { type_: "Normal", reason, message: message.into() }
    }
    pub fn warning(reason: &'static str, message: impl Into<String>) -> Self {
        Self { type_: "Warning", reason, message: message.into() }
    }
}

/// The events that tell users how a write went.
#[derive(Debug, Clone)]
pub struct Report {
    pub about: ObjectReference,
    pub success: Option<Note>,
    /// Where this is given, a failure is also shown to the next look at the key, as the view's `last_failure`.
    pub failure: Option<Note>,
}

/// A request, and what to tell about it.
#[derive(Debug, Clone)]
pub struct Write {
    pub action: Action,
    pub report: Option<Report>,
}

impl Write {
    pub fn create(body: impl Into<Body>) -> Self {
        Action::Create(body.into()).into()
    }
    pub fn update(body: impl Into<Body>) -> Self {
        Action::Update(body.into()).into()
    }
    pub fn update_status(body: impl Into<Body>) -> Self {
        Action::UpdateStatus(body.into()).into()
    }
    pub fn strategic_patch(key: Key, patch: serde_json::Value) -> Self {
        Action::Patch { key, subresource: "", patch: Patch::Strategic(patch) }.into()
    }
    pub fn strategic_status_patch(key: Key, patch: serde_json::Value) -> Self {
        Action::Patch { key, subresource: "status", patch: Patch::Strategic(patch) }.into()
    }
    pub fn merge_patch(key: Key, subresource: &'static str, patch: serde_json::Value) -> Self {
        Action::Patch { key, subresource, patch: Patch::Merge(patch) }.into()
    }
    pub fn errand(errand: impl Errand + 'static) -> Self {
        Action::Errand(Arc::new(errand)).into()
    }
    /// Deletes the object only if it is still the one that was decided on.
    pub fn delete<T: Object>(object: &T) -> Self {
        let key = super::key_of::<T>(object.namespace(), object.name());
        let options = Delete { uid: Some(object.uid().into()), ..Delete::default() };
        Action::Delete { key, options }.into()
    }
    #[must_use]
    pub fn reported(mut self, report: Report) -> Self {
        self.report = Some(report);
        self
    }
}

impl From<Action> for Write {
    fn from(action: Action) -> Self {
        Self { action, report: None }
    }
}

/// Writes that may run concurrently.
#[derive(Debug, Clone, Default)]
pub struct Stage {
    pub writes: Vec<Write>,
    /// Starts with one write and doubles while all succeed: when every write fails for the same reason (a quota,
    /// a webhook that is down), few are wasted.
    pub slow_start: bool,
}

impl Stage {
    pub fn of(write: Write) -> Self {
        Self { writes: vec![write], slow_start: false }
    }
}

/// The writes, stage after stage, and when to look again. A failed write ends the plan after its stage.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    pub stages: Vec<Stage>,
    pub again: Option<Duration>,
}

impl Plan {
    pub fn nothing() -> Self {
        Self::default()
    }

    /// Adds writes that run concurrently, after those added before.
    pub fn then(&mut self, writes: impl IntoIterator<Item = Write>) {
        let writes = Vec::from_iter(writes);
        if !writes.is_empty() {
            self.stages.push(Stage { writes, slow_start: false });
        }
    }

    pub fn then_slowly(&mut self, writes: impl IntoIterator<Item = Write>) {
        self.then(writes);
        if let Some(stage) = self.stages.last_mut() {
            stage.slow_start = true;
        }
    }

    /// Looks again after `delay`, or sooner where that was asked for already.
    pub fn look_again(&mut self, delay: Duration) {
        self.again = Some(self.again.map_or(delay, |again| again.min(delay)));
    }

    /// Every write, in order.
    #[cfg(test)]
    pub fn writes(&self) -> impl Iterator<Item = &Write> {
        self.stages.iter().flat_map(|stage| &stage.writes)
    }

    pub fn is_nothing(&self) -> bool {
        self.stages.is_empty()
    }
}
