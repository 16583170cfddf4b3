//! HSM v2: groups, members, components, locks.
//!
//! # Oddities of the real one, kept
//!
//! - A body that is not JSON is answered with 500.
//! - A wrong method is 404, not 405: `PUT …/members` looks like a service without that path.
//! - Members come in no order that may be relied upon: here the last is first.
//! - `Locked` is shown only when it is true.
//! - A PATCH of a group without fields answers two objects in one body.

mod components;
mod groups;
mod locks;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::{get, patch, post};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::answer;
use super::live::LiveCluster;
use crate::cluster::hsm::HsmError;

/// Where HSM says that things are.
const BASE: &str = "/hsm/v2";

pub(super) fn router(live: LiveCluster) -> Router {
    Router::new()
        .route("/service/ready", get(ready))
        .route("/service/liveness", get(async || answer::empty(StatusCode::NO_CONTENT)))
        .route("/groups", get(groups::list).post(groups::create))
        .route("/groups/labels", get(groups::labels))
        .route("/groups/{label}", get(groups::one).patch(groups::update).delete(groups::remove))
        .route("/groups/{label}/members", get(groups::members).post(groups::add_member))
        .route("/groups/{label}/members/{xname}", axum::routing::delete(groups::remove_member))
        .route("/State/Components", get(components::list))
        .route("/State/Components/Query", post(components::query))
        .route("/State/Components/BulkEnabled", patch(components::enable_many))
        .route("/State/Components/{xname}", get(components::one).delete(components::remove))
        .route("/State/Components/{xname}/Enabled", patch(components::enable))
        .route("/locks/lock", post(locks::lock))
        .route("/locks/unlock", post(locks::unlock))
        .route("/locks/status", get(locks::all).post(locks::some))
        .fallback(no_such_page)
        .method_not_allowed_fallback(no_such_page)
        .with_state(live)
}

async fn no_such_page() -> Response {
    answer::raw(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", "404 page not found\n")
}

/// An answer that is not what was hoped for: a code and a problem's `detail`.
struct Refusal {
    status: StatusCode,
    detail: String,
}

impl Refusal {
    fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Refusal { status, detail: detail.into() }
    }

    fn bad_request(detail: impl Into<String>) -> Self {
        Refusal::new(StatusCode::BAD_REQUEST, detail)
    }
}

impl From<HsmError> for Refusal {
    fn from(error: HsmError) -> Self {
        let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Refusal { status, detail: error.to_string() }
    }
}

/// RFC 7807, in the order of HSM's own keys.
#[derive(Serialize)]
struct Problem<'a> {
    r#type: &'a str,
    title: &'a str,
    detail: &'a str,
    status: u16,
}

impl axum::response::IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = Problem {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or_default(),
            detail: &self.detail,
            status: self.status.as_u16(),
        };
        answer::problem(self.status, &body)
    }
}

type Answer = Result<Response, Refusal>;

/// `{"code":0,"message":…}`
fn done(message: &str) -> Response {
    #[derive(Serialize)]
    struct Done<'a> {
        code: u32,
        message: &'a str,
    }
    answer::json(StatusCode::OK, &Done { code: 0, message })
}

fn no_content() -> Response {
    answer::empty(StatusCode::NO_CONTENT)
}

/// 201 with where the new thing is.
fn created(uri: &str) -> Response {
    #[derive(Serialize)]
    struct Created<'a> {
        #[serde(rename = "URI")]
        uri: &'a str,
    }
    let mut response = answer::json(StatusCode::CREATED, &[Created { uri }]);
    if let Ok(value) = HeaderValue::from_str(uri) {
        response.headers_mut().insert(header::LOCATION, value);
    }
    response
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body)
        .map_err(|e| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("error decoding JSON {e}")))
}

async fn ready(State(live): State<LiveCluster>) -> Answer {
    if live.with(|cluster| cluster.hsm_ready()) {
        Ok(done("HSM is healthy"))
    } else {
        let detail = "HSM's database is unhealthy: dial tcp: connect: connection refused";
        Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, detail))
    }
}

/// The filters of a query string: a key given more than once means any of its values.
type Filters = Query<Vec<(String, String)>>;

fn passes(filters: &[(String, String)], key: &str, test: impl Fn(&str) -> bool) -> bool {
    let mut wanted = filters.iter().filter(|(name, _)| name == key).peekable();
    wanted.peek().is_none() || wanted.any(|(_, value)| test(value))
}
