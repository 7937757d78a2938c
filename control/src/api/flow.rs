//! Priority and fairness as requests meet it: a seat before the work, a refusal in time, and headers that tell which
//! schema and level they fell to.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, Response};

use super::{body::Body, handler::State};
use crate::{
    ApiError,
    auth::{Attributes, User},
    fairness::{Permit, Schema},
};

const SCHEMA: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");
/// When those who were refused should come again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// One request's place.
#[derive(Default)]
pub struct Flow {
    schema: Option<Arc<Schema>>,
    permit: Option<Permit>,
}

impl Flow {
    /// Finds out where the request belongs, which its answer tells even where it is refused before it takes a seat.
    pub fn classify(&mut self, state: &State, user: &User, attributes: &Attributes<'_>) {
        self.schema = Some(state.fairness.classify(user, attributes));
    }

    /// Gives the seat back before the end.
    pub fn stand_up(&mut self) {
        self.permit = None;
    }

    /// Waits for `width` seats, as the cluster's FlowSchemas say; `path` is that of the request's URL.
    pub async fn take_seat(
        &mut self,
        state: &State,
        user: &User,
        attributes: &Attributes<'_>,
        (width, path): (u32, &str),
    ) -> Result<(), ApiError> {
        let schema = self.schema.get_or_insert_with(|| state.fairness.classify(user, attributes));
        let permit = state.fairness.seat(schema, width, user, attributes, path).await;
        self.permit = Some(permit.map_err(|_| ApiError::TooManyRequests {
            message: "too many requests, please try again later".into(),
            retry_after: RETRY_AFTER,
        })?);
        if width > 1 {
            // It will keep a core busy for a while: whoever came before it goes first.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Marks the answer, and gives the seats back: of a list, only when it has been sent.
    pub fn end(self, mut response: Response<Body>, is_list: bool) -> Response<Body> {
        if let Some(schema) = &self.schema {
            let headers = response.headers_mut();
            headers.insert(SCHEMA, schema.uid.clone());
            headers.insert(LEVEL, schema.level.uid.clone());
        }
        match self.permit {
            Some(permit) if is_list => response.map(|body| body.holding(permit)),
            _ => response,
        }
    }
}
