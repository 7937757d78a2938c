//! Requests as the audit log sees them: from handler to record.

use http::Response;

use super::{body::Body, handler::Exchange, metrics::RequestKind};
use crate::{
    ApiError,
    audit::{Answer, ID, Record},
    auth::{Attributes, User},
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
