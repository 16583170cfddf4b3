//! Pages for people at `/docs` and below it, where the server has some.
//!
//! They are served as they are: what they say is the server's matter. No token is needed: they hold nothing of a site.

use std::fmt;

use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::problem::Problem;

/// Where pages come from.
pub trait Pages: fmt::Debug + Send + Sync + 'static {
    /// The page of this name: that at `/docs/{name}`, and the one without a name at `/docs`.
    fn page(&self, name: &str) -> Option<Page>;
}

/// A page of HTML. Clones are cheap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    html: Bytes,
    etag: HeaderValue,
    policy: HeaderValue,
}

impl Page {
    /// A page, with what tells it from others and from itself as it was (`tag`), and what it may load, in the words of
    /// Content-Security-Policy. None when one of these cannot stand in a header.
    pub fn new(html: String, tag: &str, policy: &str) -> Option<Self> {
        let etag = HeaderValue::from_str(&format!("\"{tag}\"")).ok()?;
        Some(Page { html: html.into(), etag, policy: HeaderValue::from_str(policy).ok()? })
    }

    /// What is served.
    pub fn html(&self) -> &str {
        // It was made of a text.
        std::str::from_utf8(&self.html).unwrap_or_default()
    }
}

/// The answer to who asks for a page.
pub(crate) fn answer(page: Option<Page>, headers: &HeaderMap) -> Response {
    let Some(Page { html, etag, policy }) = page else { return Problem::no_such_path().into_response() };
    let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let same = |tag: &str| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag).as_bytes() == etag.as_bytes();
    let is_known = known.flat_map(|tags| tags.split(',')).any(|tag| same(tag.trim()));
    let head = [
        (header::ETAG, etag),
        // It may be kept, and is asked for again with what it was: another version of the service has other pages.
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ];
    if is_known {
        return (StatusCode::NOT_MODIFIED, head).into_response();
    }
    let kind = [(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"))];
    (head, kind, Body::from(html)).into_response()
}
