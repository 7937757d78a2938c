//! Paths that lead nowhere: a `Status` where the API's own groups are, a line of text everywhere else, as whoever
//! answers last in Kubernetes says it.

use http::{HeaderValue, Response, StatusCode, header};

use super::{
    body::Body,
    handler::{State, failure, text_response},
};
use crate::ApiError;

/// The answer to a request for `path`, where nothing is.
pub fn answer(state: &State, path: &str) -> Response<Body> {
    if is_of_the_api(state, path) {
        return failure(&ApiError::NoSuchPath);
    }
    let text = "404 page not found\n".to_owned();
    let mut response = text_response(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", text);
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Whether the path is in a group that is built in, or where such groups are told of.
fn is_of_the_api(state: &State, path: &str) -> bool {
    let mut segments = path.trim_start_matches('/').split('/');
    match (segments.next(), segments.next()) {
        (Some("api" | "version"), _) => true,
        (Some("apis"), Some(group)) => {
            let kinds = state.registry.kinds();
            kinds.all().iter().any(|served| served.info.group == group && !served.kind.is_custom())
        }
        _ => false,
    }
}
