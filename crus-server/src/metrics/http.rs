//! Watches requests to the API and the connections that they come by.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{MatchedPath, Request as HttpRequest, State};
use axum::middleware::Next;
use axum::response::Response;
use hyper::body::{Frame, SizeHint};
use hyper::{HeaderMap, Method, StatusCode, header};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::labels::{Request, RouteLabel, WhyLabel};
use super::{Metrics, lasted};

/// Where gateways put the API; a route is one, whether it is asked for with this or without.
const PREFIX: &str = "/apis/crus";

/// What no route of ours matches.
const NO_ROUTE: &str = "none";

/// Counts and measures the requests to a router: a layer of its routes, so that it sees which was matched.
pub async fn watch_requests(
    State(metrics): State<Arc<Metrics>>,
    route: Option<MatchedPath>,
    request: HttpRequest,
    next: Next,
) -> Response {
    let route = route.as_ref().map_or(NO_ROUTE, |path| path.as_str());
    let route = route.strip_prefix(PREFIX).filter(|rest| rest.starts_with('/')).unwrap_or(route).to_owned();
    let mut watched = Watched {
        place: Some(Held::new(&metrics.requests_in_flight)),
        metrics,
        route,
        method: method(request.method()),
        begun: Instant::now(),
        status: "none",
    };
    let response = next.run(request).await;
    watched.status = class(response.status());
    let is_stream = is_stream(response.headers());
    let places = [watched.place.take(), is_stream.then(|| Held::new(&watched.metrics.streams))];
    // The request is over with the last byte of the answer.
    response.map(|body| Body::new(HoldingBody { body, _places: places }))
}

/// A request that is being answered. When nobody waits for the answer any more, its status is `none`.
struct Watched {
    metrics: Arc<Metrics>,
    route: String,
    method: &'static str,
    begun: Instant,
    status: &'static str,
    place: Option<Held>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        let (method, status) = (self.method, self.status);
        let route = std::mem::take(&mut self.route);
        let label = RouteLabel { route, method };
        self.metrics.request_duration.get_or_create(&label).observe(lasted(self.begun));
        self.metrics.requests.get_or_create(&Request { route: label.route, method, status }).inc();
    }
}

fn method(method: &Method) -> &'static str {
    const KNOWN: [(&Method, &str); 5] = [
        (&Method::GET, "GET"),
        (&Method::POST, "POST"),
        (&Method::DELETE, "DELETE"),
        (&Method::HEAD, "HEAD"),
        (&Method::OPTIONS, "OPTIONS"),
    ];
    KNOWN.into_iter().find(|(known, _)| *known == method).map_or("other", |(_, word)| word)
}

fn class(status: StatusCode) -> &'static str {
    match status.as_u16() / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    }
}

fn is_stream(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
}

/// Counts in a gauge for as long as it lives.
#[derive(Debug)]
struct Held(Gauge);

impl Held {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Held(gauge.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A body that counts until it is sent, or nobody wants it any more.
struct HoldingBody {
    body: Body,
    _places: [Option<Held>; 2],
}

impl HttpBody for HoldingBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The connections of the listener.
#[derive(Debug, Clone, Default)]
pub struct Connections {
    pub(super) open: Gauge,
    pub(super) accepted: Counter,
    pub(super) turned_away: Family<WhyLabel, Counter>,
}

/// A connection that is open.
#[derive(Debug)]
pub struct OpenConnection {
    _held: Held,
}

impl Connections {
    /// One was accepted. It counts as open until this is dropped.
    pub fn accepted(&self) -> OpenConnection {
        self.accepted.inc();
        OpenConnection { _held: Held::new(&self.open) }
    }

    /// So many were closed to make room.
    pub fn evicted(&self, count: usize) {
        self.turned_away.get_or_create(&WhyLabel { why: "evicted" }).inc_by(count as u64);
    }

    /// One was refused, since its client has as many as it may.
    pub fn refused(&self) {
        self.turned_away.get_or_create(&WhyLabel { why: "refused" }).inc();
    }
}
