//! Asks another server for something, as this server itself.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use tokio_util::sync::CancellationToken;

use super::{Remote, Unavailable, identify};
use crate::{auth::User, store::Store};

/// A check of whether a server is there may take so long.
const CHECK_PATIENCE: Duration = Duration::from_secs(5);
const MAX_LIST_BYTES: usize = 4 << 20;

/// What is asked for, and how much is waited for and taken.
pub struct Question<'a> {
    pub method: Method,
    pub path: &'a str,
    /// JSON, or empty.
    pub body: Bytes,
    pub accept: &'static str,
    /// On whose behalf.
    pub user: User,
    /// The tag of what is known already, or nothing.
    pub etag: &'a str,
    pub patience: Duration,
    pub max_bytes: usize,
}

impl<'a> Question<'a> {
    /// A `GET` for JSON, with the patience and the bounds of a check of whether the server is there.
    pub fn get(path: &'a str, user: User) -> Self {
        Self {
            method: Method::GET,
            path,
            body: Bytes::new(),
            accept: "application/json",
            user,
            etag: "",
            patience: CHECK_PATIENCE,
            max_bytes: MAX_LIST_BYTES,
        }
    }
}

/// An answer of any status.
pub struct Answer {
    /// Where it came from.
    pub url: String,
    pub status: StatusCode,
    /// As it came, with its quotes; empty without.
    pub etag: String,
    pub body: Bytes,
}

impl Remote {
    /// Sends a question.
    ///
    /// # Errors
    /// Where no answer came whole, in time and within its bounds.
    pub(super) async fn fetch(
        &self,
        question: Question<'_>,
        store: &Store,
        shutdown: &CancellationToken,
    ) -> Result<Answer, Unavailable> {
        let (server, authority) = self.server(store)?;
        let url = format!("https://{}{}", server.address(), question.path);
        let failed = |why: String| {
            Unavailable::new("FailedDiscoveryCheck", format!("failing or missing response from {url}: {why}"))
        };
        let mut headers = HeaderMap::new();
        identify(&mut headers, &question.user).map_err(&failed)?;
        headers.insert(header::ACCEPT, HeaderValue::from_static(question.accept));
        if !question.body.is_empty() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if let Ok(authority) = HeaderValue::try_from(authority) {
            headers.insert(header::HOST, authority);
        }
        if let Some(etag) = HeaderValue::from_str(question.etag).ok().filter(|etag| !etag.is_empty()) {
            headers.insert(header::IF_NONE_MATCH, etag);
        }
        let request = Request::builder().method(question.method).uri(question.path);
        let mut request = request.body(Full::new(question.body));
        if let Ok(request) = &mut request {
            *request.headers_mut() = headers;
        }
        let request = request.map_err(|error| failed(error.to_string()))?;
        let asked = async {
            let answer = server.send(request, shutdown).await.map_err(|error| failed(error.to_string()))?;
            let status = answer.status();
            let etag = answer.headers().get(header::ETAG).and_then(|etag| etag.to_str().ok());
            let etag = etag.unwrap_or_default().to_owned();
            let body = Limited::new(answer.into_body(), question.max_bytes).collect().await;
            let body = body.map_err(|error| failed(error.to_string()))?.to_bytes();
            Ok(Answer { url: url.clone(), status, etag, body })
        };
        let timeout = |_| failed(format!("no answer within {:?}", question.patience));
        tokio::time::timeout(question.patience, asked).await.map_err(timeout)?
    }
}
