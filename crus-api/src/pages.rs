//! Pages for people at `/docs` and below it, where the server has some.
//!
//! They are served as they are: what they say is the server's matter. No token is needed: they hold nothing of a site.

use std::fmt;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::problem::Problem;
use crate::routes::path;

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

/// The paths of pages, to be merged with those of the API.
pub fn router(pages: Arc<dyn Pages>) -> Router {
    const ALLOW: &str = "GET, HEAD, OPTIONS";
    let paths =
        Router::new().route("/docs", path(ALLOW, get(first))).route("/docs/{page}", path(ALLOW, get(named)));
    Router::new().merge(paths.clone()).nest("/apis/crus", paths).with_state(pages)
}

async fn first(State(pages): State<Arc<dyn Pages>>, headers: HeaderMap) -> Response {
    answer(pages.page(""), &headers)
}

async fn named(
    State(pages): State<Arc<dyn Pages>>,
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Response {
    let named = name.ok().filter(|Path(name)| !name.is_empty());
    answer(named.and_then(|Path(name)| pages.page(&name)), &headers)
}

fn answer(page: Option<Page>, headers: &HeaderMap) -> Response {
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
