//! The paths and methods, under `/` and under `/apis/crus`, where the gateway of these systems puts them.
//!
//! As in the original a path with a slash at its end is another path, and not there: otherwise a request to
//! delete a session whose id was left out could mean something.

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod health;
mod views;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody as _};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};
use crus_core::{Spec, TenantName, UpgradeId};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::BodyExt as _;
use serde::Serialize;
use tracing::{debug, error, warn};

use crate::access::{self, About, Access, Audit, By, Gate, Gates, Role};
use crate::events::Places;
use crate::health::Health;
use crate::pages::{self, Pages};
use crate::plan::PlanView;
use crate::problem::{Errors, Problem};
use crate::request;
use crate::service::{ServiceError, Sessions};
use crate::site::Site;
use crate::status::SessionStatus;

/// What a request may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiLimits {
    /// The longest body, in bytes.
    pub max_body_bytes: usize,
    /// How many clients may follow the events of sessions at a time.
    pub max_streams: usize,
    /// How long nothing is said to one who follows a session in which nothing happens.
    pub heartbeat: Duration,
}

impl Default for ApiLimits {
    /// 64 KiB: a request for a session takes less than two. 15 s: what watches connections cuts them off after 30 at the
    /// soonest.
    fn default() -> Self {
        ApiLimits { max_body_bytes: 64 * 1024, max_streams: 64, heartbeat: Duration::from_secs(15) }
    }
}

/// A body that is too long is read on until it is so many times as long as it may be.
const READ_ON: usize = 64;

/// The contract as an OpenAPI document.
pub const OPENAPI: &str = include_str!("openapi.json");

/// The API, put together: what stands behind it, who may use it, and what a request may take.
pub struct Api {
    sessions: Arc<dyn Sessions>,
    site: Site,
    access: Arc<dyn Access>,
    audit: Option<Arc<dyn Audit>>,
    health: Arc<dyn Health>,
    pages: Option<Arc<dyn Pages>>,
    limits: ApiLimits,
}

impl Api {
    /// The API of these sessions at this site. `access` tells who a caller is; [`Open`](crate::access::Open) asks nobody.
    pub fn new(sessions: Arc<dyn Sessions>, site: Site, access: Arc<dyn Access>) -> Self {
        Api {
            sessions,
            site,
            access,
            audit: None,
            health: Arc::new(()),
            pages: None,
            limits: ApiLimits::default(),
        }
    }

    /// Who is told what changes something, and what was refused: nobody otherwise.
    #[must_use]
    pub fn audit(self, audit: Arc<dyn Audit>) -> Self {
        Api { audit: Some(audit), ..self }
    }

    /// How the service stands, for who watches it: nothing is known of it otherwise.
    #[must_use]
    pub fn health(self, health: Arc<dyn Health>) -> Self {
        Api { health, ..self }
    }

    /// Pages for people, at `/docs` and below: none otherwise.
    #[must_use]
    pub fn pages(self, pages: Arc<dyn Pages>) -> Self {
        Api { pages: Some(pages), ..self }
    }

    /// What a request may take: the defaults otherwise.
    #[must_use]
    pub fn limits(self, limits: ApiLimits) -> Self {
        Api { limits, ..self }
    }

    /// The API as a service. Its fallback answers every other path: a router merged with it must have none.
    pub fn router(self) -> Router {
        let Api { sessions, site, access, audit, health, pages, limits } = self;
        let gates = Gates { access: Arc::clone(&access), audit, sessions: Arc::clone(&sessions) };
        let paths = Paths { router: Router::new(), gates: Arc::new(gates) }
            .add(
                "/session",
                "GET, HEAD, OPTIONS, POST",
                [for_role(Role::Read, get(list)), for_role(Role::Operate, post(create))],
            )
            .add(
                "/session/{upgrade_id}",
                "DELETE, GET, HEAD, OPTIONS",
                [for_role(Role::Read, get(describe)), for_role(Role::Operate, delete(remove))],
            )
            .add("/session/{upgrade_id}/pause", POST, [for_role(Role::Operate, post(views::pause))])
            .add("/session/{upgrade_id}/resume", POST, [for_role(Role::Operate, post(views::resume))])
            .add("/session/{upgrade_id}/retry", POST, [for_role(Role::Operate, post(views::retry))])
            .add("/session/{upgrade_id}/strategy", GET, [for_role(Role::Read, get(views::strategy))])
            .add("/session/{upgrade_id}/progress", GET, [for_role(Role::Read, get(views::progress))])
            .add("/session/{upgrade_id}/nodes", GET, [for_role(Role::Read, get(views::nodes))])
            .add("/session/{upgrade_id}/events", GET, [for_role(Role::Read, get(views::events))])
            // A plan changes nothing.
            .add("/plan", POST, [for_role(Role::Read, post(plan))])
            .add("/openapi.json", GET, [for_anyone(get(openapi))])
            .add("/docs", GET, [for_anyone(get(first_page))])
            .add("/docs/{page}", GET, [for_anyone(get(page))])
            .add("/healthz", GET, [for_anyone(get(health::healthz))])
            .add("/readyz", GET, [for_anyone(get(health::readyz))])
            .add("/metrics", GET, [for_anyone(get(health::metrics))])
            .router;
        Router::new()
            .merge(paths.clone())
            .nest("/apis/crus", paths)
            .fallback(async || Problem::no_such_path())
            .with_state(Arc::new(Served {
                sessions,
                site,
                access,
                health,
                pages,
                streams: Places::new(limits.max_streams),
                limits,
            }))
    }
}

/// What the operations work with.
struct Served {
    sessions: Arc<dyn Sessions>,
    site: Site,
    access: Arc<dyn Access>,
    health: Arc<dyn Health>,
    pages: Option<Arc<dyn Pages>>,
    streams: Places,
    limits: ApiLimits,
}

/// What most paths that can be read have.
const GET: &str = "GET, HEAD, OPTIONS";
/// What most paths that do something have.
const POST: &str = "OPTIONS, POST";

/// Methods of a path, and who may use them: a path is made of nothing else, so that of none it can be forgotten.
struct Operations {
    needed: Option<Role>,
    methods: MethodRouter<Arc<Served>>,
}

/// Methods that need this role.
fn for_role(role: Role, methods: MethodRouter<Arc<Served>>) -> Operations {
    Operations { needed: Some(role), methods }
}

/// Methods that tell nothing of sessions: whoever asks is answered.
fn for_anyone(methods: MethodRouter<Arc<Served>>) -> Operations {
    Operations { needed: None, methods }
}

/// The paths so far.
struct Paths {
    router: Router<Arc<Served>>,
    gates: Arc<Gates>,
}

impl Paths {
    /// Adds a path with its operations, and what every path says to other methods.
    fn add<const N: usize>(
        mut self,
        path: &'static str,
        allow: &'static str,
        operations: [Operations; N],
    ) -> Self {
        let mut all = MethodRouter::new();
        for Operations { needed, methods } in operations {
            let methods = match needed {
                None => methods,
                Some(needed) => {
                    let gate = Gate { all: Arc::clone(&self.gates), path, needed };
                    methods.route_layer(middleware::from_fn_with_state(gate, access::check))
                }
            };
            all = all.merge(methods);
        }
        let all = all
            .options(async move || (StatusCode::NO_CONTENT, [(header::ALLOW, allow)]))
            .fallback(async move || ([(header::ALLOW, allow)], Problem::method_not_allowed(allow)));
        self.router = self.router.route(path, all);
        self
    }
}

// ---- the operations ---------------------------------------------------------------------------------------

async fn create(State(api): State<Arc<Served>>, By(by): By, request: Request) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    let body = read(body, api.limits.max_body_bytes).await?;
    check_is_json(&head.headers)?;
    let spec = Spec { tenant: tenant(&head.headers, &api.site)?, ..request::spec(&body, &api.site)? };
    let status = api.sessions.create(spec, by).await.map_err(|error| match error {
        ServiceError::MayBeCreated { id, .. } => api.failed(id, "create a session", error),
        _ => failed("create a session", error),
    })?;
    let mut answer = answer(StatusCode::CREATED, JSON, &*status);
    answer.extensions_mut().insert(About(status.upgrade_id));
    Ok(answer)
}

/// What a request for a session would come to. Of plans a few are made at a time: the others are told to come again.
async fn plan(State(api): State<Arc<Served>>, request: Request) -> Result<Response, Response> {
    let (head, body) = request.into_parts();
    let read = async {
        let body = read(body, api.limits.max_body_bytes).await?;
        check_is_json(&head.headers)?;
        Ok::<_, Problem>(Spec {
            tenant: tenant(&head.headers, &api.site)?,
            ..request::spec(&body, &api.site)?
        })
    };
    let spec = read.await.map_err(IntoResponse::into_response)?;
    match api.sessions.plan(spec).await {
        Ok(plan) => Ok(answer(StatusCode::OK, JSON, &PlanView::of(&plan))),
        Err(error) => Err(failed("plan an upgrade", error).into_response()),
    }
}

async fn list(State(api): State<Arc<Served>>) -> Result<Response, Problem> {
    let sessions = api.sessions.list().await.map_err(|error| failed("list the sessions", error))?;
    Ok(written(StatusCode::OK, JSON, sessions.json()))
}

async fn describe(
    State(api): State<Arc<Served>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let id = upgrade_id(id)?;
    one(api.sessions.get(id).await.map_err(|error| api.failed(id, "read a session", error))?)
}

async fn remove(
    State(api): State<Arc<Served>>,
    By(by): By,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let id = upgrade_id(id)?;
    one(api.sessions.delete(id, by).await.map_err(|error| api.failed(id, "delete a session", error))?)
}

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, JSON)], OPENAPI).into_response()
}

async fn first_page(State(api): State<Arc<Served>>, headers: HeaderMap) -> Response {
    pages::answer(api.pages.as_ref().and_then(|pages| pages.page("")), &headers)
}

async fn page(
    State(api): State<Arc<Served>>,
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Response {
    let name = name.ok().map(|Path(name)| name).filter(|name| !name.is_empty());
    let page = api.pages.as_ref().zip(name).and_then(|(pages, name)| pages.page(&name));
    pages::answer(page, &headers)
}

// ---- their parts ------------------------------------------------------------------------------------------

const JSON: &str = "application/json";

fn one(found: Option<Arc<SessionStatus>>) -> Result<Response, Problem> {
    let status = found.ok_or_else(Problem::no_such_session)?;
    Ok(written(StatusCode::OK, JSON, status.json()))
}

fn upgrade_id(id: Result<Path<String>, PathRejection>) -> Result<UpgradeId, Problem> {
    id.ok().and_then(|Path(text)| id_of(&text)).ok_or_else(Problem::no_such_session)
}

/// An id as the service writes it, in either case; other ways to write a UUID are not there.
pub(crate) fn id_of(text: &str) -> Option<UpgradeId> {
    const LENGTH: usize = uuid::fmt::Hyphenated::LENGTH;
    text.parse().ok().filter(|_| text.len() == LENGTH)
}

/// In whose name BOS is to be asked.
const TENANT: &str = "Cray-Tenant-Name";

/// The tenant that the request is for.
///
/// # Errors
/// 400 when the header names none, 422 when it does, and BOS knows no tenants.
fn tenant(headers: &HeaderMap, site: &Site) -> Result<Option<TenantName>, Problem> {
    let mut given = headers.get_all(TENANT).iter();
    let Some(first) = given.next() else { return Ok(None) };
    let name = first.to_str().ok().filter(|_| given.next().is_none()).map(str::trim);
    let Some(name) = name.and_then(|name| TenantName::new(name).ok()) else {
        let detail = format!(
            "The header {TENANT} must be the name of one tenant: 1 to 127 letters, digits, '-', '.' or '_', beginning with \
             a letter or digit. Leave it out for none."
        );
        return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
    };
    if !site.tenants {
        let reason = "must be left out: the Boot Orchestration Service of this site is spoken to through version 1 of its \
                      API, which knows no tenants";
        let detail =
            format!("Input data was understood, but failed validation. The header {TENANT} {reason}.");
        let errors = Errors::from([(TENANT.to_owned(), vec![reason.to_owned()])]);
        let problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail);
        return Err(Problem { errors: Some(errors), ..problem });
    }
    Ok(Some(name))
}

/// # Errors
/// 415 unless the body is JSON as it stands.
fn check_is_json(headers: &HeaderMap) -> Result<(), Problem> {
    let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or("unreadable"));
    let sent = text(header::CONTENT_TYPE).unwrap_or_default();
    let media_type = sent.split(';').next().unwrap_or_default().trim();
    if !media_type.eq_ignore_ascii_case(JSON) {
        return Err(Problem::not_json(media_type));
    }
    match text(header::CONTENT_ENCODING) {
        None => Ok(()),
        Some(coding) if coding.trim().eq_ignore_ascii_case("identity") => Ok(()),
        Some(_) => Err(Problem::encoded()),
    }
}

/// Reads the whole body, and keeps no more than `limit` bytes of it.
///
/// One that is too long is read all the same, up to a point: a client whose connection is closed while it
/// still sends may never see the answer.
async fn read(mut body: Body, limit: usize) -> Result<Vec<u8>, Problem> {
    let patience = limit.saturating_mul(READ_ON);
    if body.size_hint().lower() > patience as u64 {
        return Err(Problem::too_large(limit));
    }
    let mut kept = Vec::new();
    let mut length = 0usize;
    while length <= patience
        && let Some(frame) = body.frame().await
    {
        let Ok(data) = frame.map_err(|_| Problem::cut_short())?.into_data() else { continue };
        length = length.saturating_add(data.len());
        if length <= limit {
            kept.extend_from_slice(&data);
        }
    }
    if length <= limit { Ok(kept) } else { Err(Problem::too_large(limit)) }
}

/// What the log is told; the caller is told less.
fn failed(what: &str, error: ServiceError) -> Problem {
    match &error {
        // Whoever may send requests can have these at will: they must not fill the log.
        ServiceError::Busy { .. } | ServiceError::NotNow { .. } | ServiceError::Full { .. } => {
            debug!(%error, "failed to {what}");
        }
        _ => warn!(%error, "failed to {what}"),
    }
    error.into()
}

impl Served {
    /// Likewise, of one session.
    fn failed(&self, id: UpgradeId, what: &str, error: ServiceError) -> Problem {
        self.sessions.span(id).in_scope(|| failed(what, error))
    }
}

/// An answer with a JSON body.
pub(crate) fn answer(status: StatusCode, content_type: &'static str, body: &impl Serialize) -> Response {
    written(status, content_type, serde_json::to_vec(body))
}

/// An answer with a body that was written already.
fn written(
    status: StatusCode,
    content_type: &'static str,
    body: Result<impl Into<Body>, serde_json::Error>,
) -> Response {
    match body {
        Ok(body) => {
            let mut response = Response::new(body.into());
            *response.status_mut() = status;
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
            response
        }
        Err(error) => {
            // Texts, numbers and lists of them: none of the types answered can fail.
            error!(%error, "failed to write an answer");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
