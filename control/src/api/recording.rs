//! Requests as the audit log sees them: from handler to record.

use http::Response;

use super::{body::Body, form, handler::Exchange, metrics::RequestKind};
use crate::{
    ApiError,
    audit::{Answer, ID, Record},
    auth::{Attributes, User},
    registry::{AnyObject, Served},
};

impl Exchange<'_> {
    /// Asks whether `user` may, and has the answer recorded.
    pub fn authorize(&self, user: &User, attributes: &Attributes<'_>) -> Result<(), ApiError> {
        let registry = &self.state.registry;
        if let Some(record) = self.record {
            record.authorized(registry.authorizer(), user, attributes);
        }
        registry.authorize(user, attributes)
    }
}

/// Has the object of a create or an update recorded as Kubernetes records it: as it was understood, with its defaults, in
/// the version of the request, and before admission changes it.
pub fn object(record: Option<&Record>, served: &Served, object: &dyn AnyObject) {
    let Some(record) = record else { return };
    record.request_object(object.meta(), || {
        let mut object = object.boxed();
        served.kind.default(&mut *object);
        served.shown_as(served, &*object).ok().map(|value| form::to_bytes(&value))
    });
}

/// Records that the request was answered, or that a long answer begins, and tells the client the record's id.
pub async fn answered(
    record: Record,
    mut response: Response<Body>,
    label: &RequestKind,
    has_failed: bool,
) -> Response<Body> {
    response.headers_mut().insert(ID, record.id());
    let code = response.status().as_u16();
    let is_long = matches!(label.verb, "WATCH" | "CONNECT");
    match response.body() {
        Body::Stream(_) if is_long => {
            let ending = record.begun(code).await;
            response.map(|body| body.holding(ending))
        }
        Body::Full(body) => {
            record.answered(Answer { code, body: body.as_ref() }, has_failed).await;
            response
        }
        // What is sent in pieces is too large to be recorded.
        _ => {
            record.answered(Answer { code, body: None }, has_failed).await;
            response
        }
    }
}
