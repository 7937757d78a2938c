//! The encoding in which a client wants its answer: JSON, YAML or protobuf, and whether it may be compressed.
//!
//! Everything is made as JSON. Whole answers are turned into something else here, on their way out; lists and
//! watches in protobuf are made object by object where they are made.

use std::io::Write as _;

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use futures::{StreamExt as _, stream};
use http::{HeaderValue, Response, header};
use serde_json::Value;

use super::body::Body;
use crate::protobuf;

/// Answers of this size and more are compressed, as in Kubernetes.
const GZIP_FROM_BYTES: usize = 128 << 10;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Encoding {
    #[default]
    Json,
    Yaml,
    Protobuf,
}

impl Encoding {
    pub fn of_media_type(text: &str) -> Option<Self> {
        match text {
            "application/json" | "application/*" | "*/*" => Some(Self::Json),
            "application/yaml" => Some(Self::Yaml),
            "application/vnd.kubernetes.protobuf" => Some(Self::Protobuf),
            _ => None,
        }
    }

    pub fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
            Self::Protobuf => "application/vnd.kubernetes.protobuf",
        })
    }

    pub fn stream_content_type(self) -> HeaderValue {
        match self {
            Self::Protobuf => HeaderValue::from_static("application/vnd.kubernetes.protobuf;stream=watch"),
            other => other.content_type(),
        }
    }

    /// A whole answer in JSON, in this encoding. What has no protobuf message stays as it is, as do streams.
    pub fn write(self, response: Response<Body>) -> Response<Body> {
        let is_json = response.headers().get(header::CONTENT_TYPE) == Some(&Self::Json.content_type());
        if self == Self::Json || !is_json {
            return response;
        }
        let (mut parts, body) = response.into_parts();
        let encoded = match &body {
            Body::Full(Some(json)) if self == Self::Protobuf => protobuf::object(json).map(Bytes::from),
            Body::Full(Some(json)) => {
                let value: Option<Value> = serde_json::from_slice(json).ok();
                value.and_then(|value| serde_yaml::to_string(&value).ok()).map(Bytes::from)
            }
            _ => None,
        };
        let body = match encoded {
            Some(encoded) => {
                parts.headers.insert(header::CONTENT_TYPE, self.content_type());
                encoded.into()
            }
            None => body,
        };
        Response::from_parts(parts, body)
    }
}

/// Compresses a large answer that is no watch, if the client takes gzip.
pub fn compress(accept_encoding: &str, response: Response<Body>) -> Response<Body> {
    let takes_gzip = accept_encoding.split(',').any(|clause| {
        let (name, quality) = clause.split_once(';').unwrap_or((clause, ""));
        name.trim() == "gzip" && quality.trim() != "q=0"
    });
    if !takes_gzip {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let body = match body {
        Body::Full(Some(bytes)) if bytes.len() < GZIP_FROM_BYTES => Body::Full(Some(bytes)),
        // Of another server's answer, that is the other server's choice.
        as_it_is @ (Body::Full(None) | Body::Passed(_)) => as_it_is,
        large => {
            parts.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            parts.headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
            parts.headers.remove(header::CONTENT_LENGTH);
            gzip(large)
        }
    };
    Response::from_parts(parts, body)
}

/// Piece by piece, so that a large list is never in memory whole for this.
fn gzip(body: Body) -> Body {
    let pieces = match body {
        Body::Full(bytes) => stream::iter(bytes).boxed(),
        Body::Stream(pieces) => pieces,
        passed @ Body::Passed(_) => return passed,
    };
    let encoder = GzEncoder::new(Vec::new(), Compression::fast());
    Body::stream(stream::unfold((pieces, Some(encoder)), |(mut pieces, encoder)| async move {
        let mut encoder = encoder?;
        // Small pieces may leave nothing to send yet.
        while let Some(piece) = pieces.next().await {
            encoder.write_all(&piece).expect("writing to memory does not fail");
            if !encoder.get_ref().is_empty() {
                let ready = std::mem::take(encoder.get_mut());
                return Some((ready.into(), (pieces, Some(encoder))));
            }
        }
        let rest = encoder.finish().expect("writing to memory does not fail");
        Some((rest.into(), (pieces, None)))
    }))
}
