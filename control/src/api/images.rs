//! The cluster's image store over HTTP: `/naru/v1/images` and `/naru/v1/blobs/DIGEST`.

use http::{HeaderValue, Method, Response, StatusCode, header};
use k8s_openapi::jiff::Timestamp;
use serde_json::json;
use tokio_util::io::ReaderStream;

use futures::StreamExt;

use super::{
    body::{self, Body},
    form,
    handler::{Exchange, json_response, success},
};
use crate::{ApiError, images::LibraryError};

const PIECE_BYTES: usize = 256 << 10;

/// Answers a request below `/naru/v1/`.
pub async fn answer(exchange: Exchange<'_>) -> Result<Response<Body>, ApiError> {
    let library = &exchange.state.images;
    let path = exchange.parts.uri.path().trim_start_matches("/naru/v1/");
    let name = exchange.query.text("name");
    match (&exchange.parts.method, path) {
        (&Method::GET, "images") => {
            Ok(json_response(StatusCode::OK, form::to_bytes(&json!({ "items": library.list() }))))
        }
        (&Method::GET, "images/resolve") => {
            let image = library.resolve(name).map_err(explain)?;
            Ok(json_response(StatusCode::OK, form::to_bytes(&image)))
        }
        (&Method::PUT, "images") => {
            let body = body::pieces(exchange.body);
            let image = library.import(name, body, Timestamp::now()).await.map_err(explain)?;
            Ok(json_response(StatusCode::OK, form::to_bytes(&image)))
        }
        (&Method::DELETE, "images") => {
            library.remove(name).map_err(explain)?;
            Ok(json_response(StatusCode::OK, success(json!({ "name": name, "kind": "images" }))))
        }
        (&Method::GET, blob) if blob.starts_with("blobs/") => {
            let digest = blob.trim_start_matches("blobs/");
            let not_found = || ApiError::NotFound { resource: "blobs".into(), name: digest.into() };
            let path = library.blob(digest).ok_or_else(not_found)?;
            let failed = |error: std::io::Error| ApiError::Internal(format!("cannot read {digest}: {error}"));
            let file = tokio::fs::File::open(path).await.map_err(failed)?;
            let length = file.metadata().await.map_err(failed)?.len();
            // A read that fails ends the body short of its length, which the client notices.
            let pieces = ReaderStream::with_capacity(file, PIECE_BYTES)
                .take_while(|piece| std::future::ready(piece.is_ok()))
                .filter_map(|piece| std::future::ready(piece.ok()));
            let mut response = json_response(StatusCode::OK, Body::stream(pieces));
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/wasm"));
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
            Ok(response)
        }
        (_, "images" | "images/resolve") => Err(ApiError::MethodNotAllowed),
        _ => Err(ApiError::NoSuchPath),
    }
}

fn explain(error: LibraryError) -> ApiError {
    match error {
        LibraryError::NotFound(name) => ApiError::NotFound { resource: "images".into(), name },
        LibraryError::InvalidName { .. } | LibraryError::NotWasm | LibraryError::Interrupted(_) => {
            ApiError::BadRequest(error.to_string())
        }
        LibraryError::TooLarge => ApiError::TooLarge { limit: crate::images::MAX_IMAGE_BYTES as usize },
        LibraryError::Io { .. } => ApiError::Internal(error.to_string()),
    }
}
