//! Asks another server for a document, as this server itself.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use tokio_util::sync::CancellationToken;

use super::{Remote, Unavailable, identify};
use crate::{auth::User, store::Store};

/// What is asked for, and how much is waited for and taken.
pub struct Question<'a> {
    pub path: &'a str,
    /// On whose behalf.
    pub user: User,
    /// The tag of what is known already, or nothing.
    pub etag: &'a str,
    pub patience: Duration,
    pub max_bytes: usize,
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
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        if let Ok(authority) = HeaderValue::try_from(authority) {
            headers.insert(header::HOST, authority);
        }
        if let Some(etag) = HeaderValue::from_str(question.etag).ok().filter(|etag| !etag.is_empty()) {
            headers.insert(header::IF_NONE_MATCH, etag);
        }
        let mut request = Request::builder().uri(question.path).body(Empty::<Bytes>::new());
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
