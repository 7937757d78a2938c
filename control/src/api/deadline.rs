//! How long a request may take: as long as its URL says (`?timeout=`), and never longer than the server's own limits,
//! which are kube-apiserver's.
//!
//! What passes its deadline is dropped where it stands, as when its client hangs up. That happens to no write of the
//! store which has been proposed: the store itself says sooner that its outcome is unknown.

use std::{future::Future, pin::pin, time::Duration};

use http::{Method, request::Parts};
use naru_model::duration::parse_go;
use tokio::time::Instant;

use super::query::Query;
use crate::{ApiError, audit::Target};

/// How long a request takes at most, unless the server is told otherwise (`--request-timeout`).
pub const DEFAULT: Duration = Duration::from_mins(1);
/// How long a write to an object that is served here takes at most.
const OF_WRITES: Duration = Duration::from_secs(34);

/// When a request is given up, and what its client is told then.
#[derive(Debug, PartialEq, Eq)]
pub struct Deadline {
    after: Duration,
    is_of_writes: bool,
}

impl Deadline {
    /// The deadline of a request; `None` for what goes on for as long as the client likes. `longest` is the server's
    /// own limit, `is_passed_on` tells whether another server answers.
    ///
    /// # Errors
    /// 400 where the time that the client gives is no duration.
    pub fn of(
        query: &Query<'_>,
        parts: &Parts,
        longest: Duration,
        is_passed_on: impl FnOnce() -> bool,
    ) -> Result<Option<Self>, ApiError> {
        if is_long_running(query, parts) {
            return Ok(None);
        }
        let after = match query.text("timeout") {
            "" => longest,
            text => {
                let asked = parse_go(text).map_err(|error| {
                    ApiError::BadRequest(format!("invalid timeout specified in the request URL - {error}"))
                })?;
                // Zero and less mean that the client would wait for ever.
                let asked = Duration::try_from(asked).ok().filter(|asked| !asked.is_zero());
                asked.map_or(longest, |asked| asked.min(longest))
            }
        };
        let is_of_writes = after > OF_WRITES && is_write(parts) && !is_passed_on();
        Ok(Some(Self { after: if is_of_writes { OF_WRITES } else { after }, is_of_writes }))
    }

    /// What `answer` comes to within the deadline of a request that began at `began`.
    ///
    /// An answer that is there at once, as those to reads mostly are, costs no timer.
    pub async fn keep<T>(
        self,
        began: std::time::Instant,
        answer: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, ApiError> {
        let due = Instant::from_std(began) + self.after;
        let late = if self.is_of_writes { ApiError::WriteOutOfTime } else { ApiError::OutOfTime };
        tokio::time::timeout_at(due, pin!(answer)).await.unwrap_or(Err(late))
    }
}

/// Whether the request changes an object.
fn is_write(parts: &Parts) -> bool {
    matches!(parts.method, Method::POST | Method::PUT | Method::PATCH | Method::DELETE)
        && (parts.uri.path().starts_with("/api/") || parts.uri.path().starts_with("/apis/"))
}

fn is_long_running(query: &Query<'_>, parts: &Parts) -> bool {
    let path = parts.uri.path();
    // Images are as large as they are.
    if path.starts_with("/naru/") {
        return true;
    }
    // Most paths have no such word at all, and need not be understood.
    let is_watch = query.flag("watch");
    let is_word = |segment: &str| segment == "watch" || is_stream(segment) || segment.contains('%');
    if !is_watch && !path.split('/').any(is_word) {
        return false;
    }
    let target = Target::of(parts, is_watch);
    target.verb == "watch" || is_stream(&target.subresource)
}

fn is_stream(subresource: &str) -> bool {
    matches!(subresource, "attach" | "exec" | "log" | "portforward" | "proxy")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PODS: &str = "/api/v1/namespaces/a/pods";

    fn of(method: &str, uri: &str, is_passed_on: bool) -> Result<Option<Deadline>, ApiError> {
        let request = http::Request::builder().method(method).uri(uri).body(()).expect("a request");
        let (parts, ()) = request.into_parts();
        Deadline::of(&Query::parse(parts.uri.query()), &parts, DEFAULT, || is_passed_on)
    }

    /// Its milliseconds, and whether it is that of writes.
    fn found(method: &str, uri: &str, is_passed_on: bool) -> Option<(u128, bool)> {
        let deadline = of(method, uri, is_passed_on).expect("a deadline");
        deadline.map(|deadline| (deadline.after.as_millis(), deadline.is_of_writes))
    }

    #[test]
    fn the_server_waits_as_long_as_it_is_asked_to_and_a_minute_at_most() {
        for (timeout, expected) in
            [("", 60_000), ("1500ms", 1500), ("2m", 60_000), ("0", 60_000), ("-1s", 60_000)]
        {
            assert_eq!(found("GET", &format!("{PODS}?timeout={timeout}"), false), Some((expected, false)));
        }
        let error = of("GET", &format!("{PODS}?timeout=abc"), false).expect_err("no duration");
        assert_eq!(
            (error.code(), &*error.to_string()),
            (400, "invalid timeout specified in the request URL - time: invalid duration \"abc\"")
        );
        for uri in [PODS, "/healthz", &format!("{PODS}/log"), "/api/v1/namespaces/a/configmaps/exec"] {
            assert_eq!(found("GET", uri, false), Some((60_000, false)), "{uri}");
        }
    }

    #[test]
    fn a_write_takes_34_seconds_at_most_unless_another_server_does_it() {
        for method in ["POST", "PUT", "PATCH", "DELETE"] {
            assert_eq!(found(method, PODS, false), Some((34_000, true)), "{method}");
            assert_eq!(found(method, &format!("{PODS}?timeout=1m"), false), Some((34_000, true)));
            assert_eq!(found(method, &format!("{PODS}?timeout=34s"), false), Some((34_000, false)));
            assert_eq!(found(method, "/apis/shop.example.com/v1/carts", true), Some((60_000, false)));
            assert_eq!(found(method, "/healthz", false), Some((60_000, false)));
        }
    }

    #[test]
    fn what_goes_on_for_long_has_no_deadline() {
        for uri in [
            format!("{PODS}?watch=true&timeout=1s"),
            format!("{PODS}/p/log?timeout=abc"),
            format!("{PODS}/p/%6Cog"),
            format!("{PODS}/p/proxy/a/b"),
            "/api/v1/watch/pods?timeout=1s".into(),
            "/naru/v1/blobs/sha256:00?timeout=1s".into(),
        ] {
            assert_eq!(of("GET", &uri, false).expect("nothing is asked"), None, "{uri}");
        }
        assert_eq!(found("POST", &format!("{PODS}/p/exec"), false), None);
    }
}
