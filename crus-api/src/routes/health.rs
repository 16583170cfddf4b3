//! What the service says of itself.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use serde_json::json;

use super::{JSON, Served, answer};
use crate::access::{self, Role};
use crate::health::Exposition;
use crate::problem::Problem;

/// The process is there and answers; whether its peers are is another matter.
pub(super) async fn healthz(State(api): State<Arc<Served>>) -> Result<Response, Problem> {
    match api.health.deaf() {
        None => Ok(answer(StatusCode::OK, JSON, &json!({ "status": "ok" }))),
        Some(why) => Err(Problem::deaf(&why)),
    }
}

/// Whether requests may be sent here. The words of other services, which may name what is not everybody's to know, are for who
/// may look at sessions.
pub(super) async fn readyz(State(api): State<Arc<Served>>, headers: HeaderMap) -> Response {
    let mut readiness = api.health.readiness();
    if !access::may(&*api.access, &headers, Role::Read).await {
        for check in &mut readiness.checks {
            check.detail = None;
        }
    }
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    answer(status, JSON, &readiness)
}

pub(super) async fn metrics(State(api): State<Arc<Served>>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let form = Exposition::wanted(accept);
    ([(header::CONTENT_TYPE, form.content_type())], api.health.metrics(form)).into_response()
}
