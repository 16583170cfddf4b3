//! Answers that several faces give.

use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::Response;
use serde::Serialize;

/// A JSON body.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    typed(status, "application/json", body)
}

/// An RFC 7807 problem as a body of its own kind.
pub(super) fn problem(status: StatusCode, body: &impl Serialize) -> Response {
    typed(status, "application/problem+json", body)
}

/// No body at all.
pub(super) fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

fn typed(status: StatusCode, content_type: &'static str, body: &impl Serialize) -> Response {
    // Nothing here has keys that are not text, so this cannot fail; if it did, an empty body would show it.
    let mut text = serde_json::to_string(body).unwrap_or_default();
    text.push('\n');
    raw(status, content_type, text)
}

/// A body of any type.
pub(super) fn raw(status: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}
