//! How long a request may take, where its URL says so (`?timeout=`).

use std::time::Duration;

use http::request::Parts;
use naru_model::duration::parse_go;

use super::query::Query;
use crate::{ApiError, audit::Target};

/// Nobody waits longer for an answer, however long they would.
const MAX: Duration = Duration::from_mins(1);

/// The time that the client gives the server for an answer; `None` where it says nothing, or asks for something that
/// goes on for as long as the client likes.
///
/// # Errors
/// 400 where what it says is no duration.
pub fn of(query: &Query<'_>, parts: &Parts) -> Result<Option<Duration>, ApiError> {
    let text = query.text("timeout");
    if text.is_empty() || is_long_running(query, parts) {
        return Ok(None);
    }
    let asked = parse_go(text).map_err(|error| {
        ApiError::BadRequest(format!("invalid timeout specified in the request URL - {error}"))
    })?;
    // Zero and less mean that the client would wait for ever.
    let asked = Duration::try_from(asked).ok().filter(|asked| !asked.is_zero());
    Ok(Some(asked.map_or(MAX, |asked| asked.min(MAX))))
}

fn is_long_running(query: &Query<'_>, parts: &Parts) -> bool {
    let target = Target::of(parts, query.flag("watch"));
    // Images are as large as they are.
    target.verb == "watch"
        || matches!(&*target.subresource, "attach" | "exec" | "log" | "portforward" | "proxy")
        || target.path.starts_with("/naru/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(uri: &str) -> Result<Option<Duration>, ApiError> {
        let (parts, ()) = http::Request::get(uri).body(()).expect("a request").into_parts();
        of(&Query::parse(parts.uri.query()), &parts)
    }

    #[test]
    fn the_server_waits_as_long_as_it_is_asked_to_and_a_minute_at_most() {
        let pods = "/api/v1/namespaces/a/pods";
        for (timeout, expected) in [("1500ms", 1500), ("2m", 60_000), ("0", 60_000), ("-1s", 60_000)] {
            let found = at(&format!("{pods}?timeout={timeout}")).expect("a timeout");
            assert_eq!(found, Some(Duration::from_millis(expected)), "{timeout}");
        }
        let error = at(&format!("{pods}?timeout=abc")).expect_err("no duration");
        assert_eq!(
            (error.code(), &*error.to_string()),
            (400, "invalid timeout specified in the request URL - time: invalid duration \"abc\"")
        );
        for path in [
            pods.to_owned(),
            format!("{pods}?watch=true&timeout=1s"),
            format!("{pods}/p/log?timeout=abc"),
            "/api/v1/watch/pods?timeout=1s".into(),
            "/naru/v1/blobs/sha256:00?timeout=1s".into(),
        ] {
            assert_eq!(at(&path).expect("nothing is asked"), None, "{path}");
        }
    }
}
